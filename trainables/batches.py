"""Which images a step sees, and how they reach the device.

Everything random in a trial is a pure function of (init seed, step, ghost batch): ``stream_seed`` turns these into the
seed of a generator. So a resumed trial needs no state of a loader, and the number of ranks changes nothing.
"""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

RESIDENT_BYTES = 4 * 2**30
"""Image sets up to this size are kept on the GPU, if they take at most a quarter of its free memory."""


class Stream(StrEnum):
    """What a generator is for; streams of one trial are independent."""

    ORDER = "order"
    AUGMENT = "augment"
    FORWARD = "forward"
    LABELS = "labels"


def stream_seed(seed: int, stream: Stream, *at: int) -> int:
    """Seed of one generator, in [0, 2**63): the BLAKE2b hash of its arguments.

    Args:
        seed: The trial's init seed.
        stream: Purpose.
        at: Position, such as (step, ghost batch).
    """
    text = f"{seed}/{stream}/{at}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


class ImageSet(Protocol):
    """Labelled images of one split: rows ``positions`` of a stack of images."""

    @property
    def images(self) -> NDArray[np.uint8]:
        """(M, S, S, 3) uint8, RGB; memory-mapped as a rule."""

    @property
    def positions(self) -> NDArray[Any]:
        """(N,) rows of ``images`` that belong to this set."""

    @property
    def targets(self) -> NDArray[Any]:
        """(N, L) float32 in {0, 1}, NaN where masked; or (N,) int64 classes, -1 where masked."""


class SampleOrder:
    """The images of every step.

    Without weights: one endless stream of permutations, a new one for every epoch; a batch may span epochs, so none is
    short. With weights: independent draws with replacement, images in proportion to their weights.

    Args:
        images: Number of training images, at least 1.
        batch_size: Images per step (the global batch).
        seed: The trial's init seed.
        weights: (images,) non-negative; None for permutations.
    """

    def __init__(self, images: int, batch_size: int, seed: int, weights: NDArray[np.float64] | None = None) -> None:
        self._images, self._batch_size, self._seed = images, batch_size, seed
        self._cumulative = None if weights is None else np.cumsum(weights) / np.sum(weights)
        self._epoch, self._permutation = -1, np.empty(0, np.int64)

    def batch(self, step: int) -> NDArray[np.int64]:
        """(batch_size,) indices into the training set; depends on nothing but the seed and ``step`` (from 0)."""
        if self._cumulative is not None:
            draws = self._generator(step).random(self._batch_size)
            drawn = np.searchsorted(self._cumulative, draws, side="right")
            return np.minimum(drawn, self._images - 1).astype(np.int64)
        parts, start, missing = [], step * self._batch_size, self._batch_size
        while missing:
            epoch, offset = divmod(start, self._images)
            part = self._permuted(epoch)[offset : offset + missing]
            parts.append(part)
            start, missing = start + len(part), missing - len(part)
        return np.concatenate(parts) if len(parts) > 1 else parts[0]

    def _permuted(self, epoch: int) -> NDArray[np.int64]:
        if epoch != self._epoch:
            self._epoch, self._permutation = epoch, self._generator(epoch).permutation(self._images)
        return self._permutation

    def _generator(self, at: int) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64(stream_seed(self._seed, Stream.ORDER, at)))


class ImageFeed:
    """Batches of an image set on the device.

    A set that is small beside the GPU's free memory is copied there once; else each batch is gathered from the memory
    map and copied while the GPU computes.

    Args:
        data: The set.
        device: Where batches go.
        target_dtype: Of floating-point targets (the model's).
    """

    def __init__(self, data: ImageSet, device: torch.device, target_dtype: torch.dtype = torch.float32) -> None:
        self._data, self._device = data, device
        self._positions = np.asarray(data.positions, dtype=np.int64)
        targets = torch.from_numpy(np.array(data.targets))
        self._targets = (targets.to(target_dtype) if targets.is_floating_point() else targets).to(device)
        self._resident = self._copied_to_device() if self._fits_device() else None

    def __len__(self) -> int:
        return len(self._positions)

    def batch(self, index: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
        """Images (B, S, S, 3) uint8 and targets (B, L) or (B,) of the set's rows ``index``, on the device."""
        rows = self._to_device(torch.from_numpy(index))
        if self._resident is not None:
            return self._resident[rows], self._targets[rows]
        return self._to_device(torch.from_numpy(self._data.images[self._positions[index]])), self._targets[rows]

    def _to_device(self, tensor: torch.Tensor) -> torch.Tensor:
        if self._device.type != "cuda":
            return tensor
        return tensor.pin_memory().to(self._device, non_blocking=True)

    def _fits_device(self) -> bool:
        if self._device.type != "cuda" or not len(self):
            return False
        size = len(self) * self._data.images[:1].nbytes
        free, _ = torch.cuda.mem_get_info(self._device)
        return size <= min(RESIDENT_BYTES, free // 4)

    def _copied_to_device(self) -> torch.Tensor:
        shape = (len(self), *self._data.images.shape[1:])
        resident = torch.empty(shape, dtype=torch.uint8, device=self._device)
        for start in range(0, len(self), 1024):
            rows = self._positions[start : start + 1024]
            resident[start : start + len(rows)] = torch.from_numpy(self._data.images[rows])
        return resident
