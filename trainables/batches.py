"""Which images a step sees, and how they reach the device.

Everything random in a trial is a pure function of (init seed, step, ghost batch): ``stream_seed`` turns these into the
seed of a generator. So a resumed trial needs no state of a loader, and the number of ranks changes nothing.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from trainables.mask_sets import MaskSet
from trainables.prefetch import ImageArray, Prefetch

RESIDENT_BYTES = 4 * 2**30
"""What ``execution.device_cache_gib`` is unless a study says otherwise."""


class Stream(StrEnum):
    """What a generator is for; streams of one trial are independent."""

    ORDER = "order"
    AUGMENT = "augment"
    MIX = "mix"
    FORWARD = "forward"
    LABELS = "labels"
    HEAD = "head"


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
    def images(self) -> ImageArray:
        """(M, S, S, 3) uint8, RGB; memory-mapped as a rule."""

    @property
    def positions(self) -> NDArray[Any]:
        """(N,) rows of ``images`` that belong to this set."""

    @property
    def targets(self) -> NDArray[Any]:
        """(N, L) float32 in {0, 1}, NaN where masked; or (N,) int64 classes, -1 where masked."""


def masks_of(data: ImageSet) -> MaskSet | None:
    """The masks of a set; None of one whose targets are labels of images."""
    masks: MaskSet | None = getattr(data, "masks", None)
    return masks


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

    A set that is small beside the GPU's free memory is copied there once; else batches are read and copied one ahead
    (``trainables.prefetch``). On the CPU a batch is one copy out of the memory map.

    Args:
        data: The set.
        device: Where batches go.
        target_dtype: Of floating-point targets (the model's).
        resident_bytes: Sets up to this size are kept on the GPU, if they take at most a quarter of its free memory.
    """

    def __init__(
        self,
        data: ImageSet,
        device: torch.device,
        target_dtype: torch.dtype = torch.float32,
        resident_bytes: int = RESIDENT_BYTES,
    ) -> None:
        self._device, self._resident_bytes = device, resident_bytes
        self._positions = np.asarray(data.positions, dtype=np.int64)
        self.masks = masks_of(data)
        targets = torch.from_numpy(np.array(data.targets))
        self.are_classes = not targets.is_floating_point()
        self._targets = (targets if self.are_classes else targets.to(target_dtype)).to(device)
        arrays = [data.images] if self.masks is None else [data.images, self.masks.planes]
        self._resident = [self._copied_to_device(a) for a in arrays] if self._fits_device(arrays) else None
        self.looks_ahead = device.type == "cuda" and self._resident is None
        self._arrays = arrays
        self._prefetch = [Prefetch(array, device) for array in arrays] if self.looks_ahead else None

    def __len__(self) -> int:
        return len(self._positions)

    def batch(
        self, index: NDArray[np.int64], upcoming: NDArray[np.int64] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Images (B, S, S, 3) uint8 and targets (B, L) or (B,) of the set's rows ``index``, on the device.

        Of a set with masks the targets are their planes, (B, S', S') uint8.

        Args:
            index: (B,) rows of the set.
            upcoming: What the next call will ask for, if that is known; of use only if ``looks_ahead``.
        """
        rows = self._to_device(torch.from_numpy(index))
        images, *masks = self._read(rows, index, upcoming)
        return images, masks[0] if masks else self._targets[rows]

    def _read(
        self, rows: torch.Tensor, index: NDArray[np.int64], upcoming: NDArray[np.int64] | None
    ) -> list[torch.Tensor]:
        if self._resident is not None:
            return [array[rows] for array in self._resident]
        positions = self._positions[index]
        if self._prefetch is None:
            return [torch.from_numpy(array[positions]) for array in self._arrays]
        ahead = None if upcoming is None else self._positions[upcoming]
        return [prefetch.batch(positions, ahead) for prefetch in self._prefetch]

    def _to_device(self, tensor: torch.Tensor) -> torch.Tensor:
        if self._device.type != "cuda":
            return tensor
        return tensor.pin_memory().to(self._device, non_blocking=True)

    def _fits_device(self, arrays: Sequence[ImageArray]) -> bool:
        if self._device.type != "cuda" or not len(self):
            return False
        free, _ = torch.cuda.mem_get_info(self._device)
        bytes_ = len(self) * sum(math.prod(array.shape[1:]) for array in arrays)
        return bytes_ <= min(self._resident_bytes, free // 4)

    def _copied_to_device(self, array: ImageArray) -> torch.Tensor:
        shape = (len(self), *array.shape[1:])
        resident = torch.empty(shape, dtype=torch.uint8, device=self._device)
        for start in range(0, len(self), 1024):
            rows = self._positions[start : start + 1024]
            resident[start : start + len(rows)] = torch.from_numpy(array[rows])
        return resident
