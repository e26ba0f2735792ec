"""Logits of an image set, every image exactly once whatever the number of ranks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from search_spaces.protocol import Protocol
from trainables.augmentation import EvaluationCrop, EvaluationTransform
from trainables.batches import ImageFeed
from trainables.groups import Group, gather_rows
from trainables.pieces import Pieces

LEAST_BATCH_SIZE = 64
"""Images per forward pass of an evaluation, unless training's ghost batches are larger or memory runs out."""

Reduce = Callable[[Tensor, Tensor, NDArray[np.int64]], Tensor]
"""What is kept of a batch: see ``predict``."""


def evaluation_batch_size(feed: ImageFeed, ghost_batch_size: int) -> int:
    """Images per forward pass; where every pixel is predicted those of a ghost batch, which is known to fit."""
    return ghost_batch_size if feed.masks is not None else max(LEAST_BATCH_SIZE, ghost_batch_size)


def evaluation_crop(protocol: Protocol, of_pixels: bool) -> EvaluationCrop:
    """What evaluation sees: as the protocol says, but of masks the whole image, as every true pixel counts."""
    return "whole" if of_pixels else protocol.evaluation_crop


def shard_bounds(images: int, size: int) -> list[int]:
    """Borders of contiguous shards: rank r evaluates images bounds[r] to bounds[r + 1]; sizes differ by one at most."""
    return [images * rank // size for rank in range(size + 1)]


@torch.no_grad()
def predict(
    module: nn.Module,
    feed: ImageFeed,
    transform: EvaluationTransform,
    group: Group,
    batch_size: int,
    reduce: Reduce | None = None,
) -> NDArray[Any] | None:
    """Logits of every image of a set, or what is kept of them, in its order. Called by all ranks.

    Runs in evaluation mode and in the weights' own precision, without autocast: half precision would tie scores that
    differ, and ranks of scores are what is measured.

    Args:
        module: The net; its training mode is restored.
        feed: The set.
        transform: Makes inputs, one or more views of each image.
        group: The trial's ranks.
        batch_size: Images per forward pass; fewer where the device's memory runs out.
        reduce: Makes (B, D) rows of logits, targets and rows of the set; needed where there is a logit per pixel, as
            maps are not kept.

    Returns:
        (N, C), or (N, D), on rank 0, None on the others.

    Raises:
        torch.OutOfMemoryError: A single image does not fit the device.
    """
    bounds = shard_bounds(len(feed), group.size)
    start, stop = bounds[group.rank], bounds[group.rank + 1]
    spans = [(first, min(first + batch_size, stop)) for first in range(start, stop, batch_size)]
    pieces = Pieces()
    was_training = module.training
    module.eval()
    try:
        # A rank without images still needs the number of outputs: it evaluates one and drops it.
        batches = [np.arange(*span) for span in spans or [(0, 1)]]
        parts = [
            part
            for index, upcoming in itertools.zip_longest(batches, batches[1:])
            for part in _rows(module, transform, feed, index, upcoming, reduce, pieces)
        ]
    finally:
        module.train(was_training)
    rows = torch.cat(parts)[: stop - start]
    return gather_rows(group, rows, [last - first for first, last in itertools.pairwise(bounds)])


def _rows(
    module: nn.Module,
    transform: EvaluationTransform,
    feed: ImageFeed,
    index: NDArray[np.int64],
    upcoming: NDArray[np.int64] | None,
    reduce: Reduce | None,
    pieces: Pieces,
) -> list[Tensor]:
    images, targets = feed.batch(index, upcoming)

    def rows(piece: slice) -> Tensor:
        logits = viewed_logits(module, transform, images[piece], feed.are_classes, feed.masks is not None)
        return logits if reduce is None else reduce(logits, targets[piece], index[piece])

    return pieces.run(len(index), rows)


def viewed_logits(
    module: nn.Module, transform: EvaluationTransform, images: Tensor, are_classes: bool, of_pixels: bool
) -> Tensor:
    """Logits of the mean probability over the views of a batch.

    Args:
        module: The net, in evaluation mode.
        transform: Makes its inputs, one or more views of each image.
        images: (B, S, S, 3) uint8.
        are_classes: As for ``pooled_logits``.
        of_pixels: Whether the net gives maps.

    Returns:
        (B, C), of maps (B, C, s, s).
    """
    views = [module(view) for view in transform.views(images)]
    if of_pixels:  # every second view is a mirror image, and so is its map
        views = [view.flip(3) if k % 2 else view for k, view in enumerate(views)]
    return pooled_logits(views, are_classes)


def pooled_logits(views: list[Tensor], are_classes: bool) -> Tensor:
    """Logits of the mean probability over views; those of a single view as they are.

    Computed from logarithms throughout, so that confident outputs keep their order.

    Args:
        views: (B, C) logits each.
        are_classes: Whether the C outputs are classes (softmax; then the result is the logarithm of the mean) or labels
            (sigmoid each).

    Returns:
        (B, C).
    """
    if len(views) == 1:
        return views[0]
    stacked = torch.stack(views)
    if are_classes:
        return F.log_softmax(stacked, 2).logsumexp(0) - math.log(len(views))
    return F.logsigmoid(stacked).logsumexp(0) - F.logsigmoid(-stacked).logsumexp(0)
