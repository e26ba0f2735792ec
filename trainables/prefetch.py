"""Image batches brought to the device one ahead: read by a thread into page-locked memory, then copied."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from trainables.shards import ImageStack


class ImageArray(Protocol):
    """(M, S, S, 3) uint8 RGB images that are indexed by rows: an array, or the shards of a store."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(M, S, S, 3)."""

    def __getitem__(self, rows: Any) -> NDArray[np.uint8]:
        """Copies of the images of these rows."""


def read_rows(images: ImageArray, rows: NDArray[np.int64], out: NDArray[np.uint8]) -> None:
    """Copy images to ``out``, (B, S, S, 3), without another copy on the way."""
    if isinstance(images, ImageStack):
        images.read(rows, out)
    elif isinstance(images, np.ndarray):
        np.take(images, rows, axis=0, out=out)
    else:
        out[:] = images[rows]


class _Slot:
    """One of the two buffers, and the copy that is still reading it."""

    def __init__(self) -> None:
        self.buffer = torch.empty(0, dtype=torch.uint8)
        self.copied: torch.cuda.Event | None = None


class Prefetch:
    """Batches of images on a device, the next one under way while one is used.

    Two buffers of page-locked memory take turns, so that reading one batch overlaps with copying the other. Copies run
    on a stream of their own; what is returned is ready for the current stream.

    Args:
        images: What batches are read from.
        device: Where they go. On the CPU nothing is gained; the results are the same.
    """

    def __init__(self, images: ImageArray, device: torch.device) -> None:
        self._images, self._device = images, device
        self._slots: Sequence[_Slot] = (_Slot(), _Slot())
        self._turn = 0
        self._ahead: tuple[NDArray[np.int64], Future[torch.Tensor]] | None = None
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="prefetch")

    def batch(self, rows: NDArray[np.int64], upcoming: NDArray[np.int64] | None = None) -> torch.Tensor:
        """Images (B, S, S, 3) uint8 of these rows, on the device.

        Args:
            rows: (B,) rows of the images.
            upcoming: What the next call will ask for, if that is known. Asking for other rows then is no mistake.

        Raises:
            IndexError: A row that is not there.
        """
        if self._ahead is not None and np.array_equal(self._ahead[0], rows):
            future = self._ahead[1]
        else:
            future = self._submit(rows)
        self._ahead = None if upcoming is None else (upcoming, self._submit(upcoming))
        images = future.result()
        if self._stream is not None:
            current = torch.cuda.current_stream(self._device)
            # Later copies on that stream may be waited for, too; they are short beside a step.
            current.wait_stream(self._stream)
            images.record_stream(current)
        return images

    def _submit(self, rows: NDArray[np.int64]) -> Future[torch.Tensor]:
        slot = self._slots[self._turn]
        self._turn = 1 - self._turn
        return self._pool.submit(self._load, rows, slot)

    def _load(self, rows: NDArray[np.int64], slot: _Slot) -> torch.Tensor:
        if slot.copied is not None:
            slot.copied.synchronize()
        shape = (len(rows), *self._images.shape[1:])
        size = int(np.prod(shape))
        if slot.buffer.numel() < size:
            slot.buffer = torch.empty(size, dtype=torch.uint8, pin_memory=self._stream is not None)
        host = slot.buffer[:size].view(shape)
        read_rows(self._images, rows, host.numpy())
        if self._stream is None:
            return host.clone()
        with torch.cuda.stream(self._stream):
            images = host.to(self._device, non_blocking=True)
            slot.copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            slot.copied.record(self._stream)
        return images
