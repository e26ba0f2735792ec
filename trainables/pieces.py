"""Batches of an evaluation in pieces that fit the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

Made = TypeVar("Made")


class Pieces:
    """Runs batches whole, and from where the device's memory runs out on in pieces of half as many images.

    In evaluation mode no image sees another, so that pieces change results by no more than rounding.
    """

    def __init__(self) -> None:
        self._largest: int | None = None

    def run(self, images: int, forward: Callable[[slice], Made]) -> list[Made]:
        """What ``forward`` makes of each piece of a batch, in order.

        Args:
            images: Number of images of the batch.
            forward: Takes the rows of a piece.

        Raises:
            torch.OutOfMemoryError: A single image does not fit.
        """
        made: list[Made] = []
        first = 0
        while first < images:
            size = min(self._largest or images, images - first)
            try:
                made.append(forward(slice(first, first + size)))
            except torch.OutOfMemoryError:
                if size == 1:
                    raise
                self._largest = size // 2
            else:
                first += size
        return made
