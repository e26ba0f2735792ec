"""What validation keeps of predicted masks: counts of pixels per image, from which all that selects follows.

Whole maps of logits are never kept. Of each image and label there are the known pixels by truth and by predicted
probability in 20 bins, from which the counts at 19 thresholds follow, and the sums of the loss.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from search_spaces.exceptions import unknown
from search_spaces.segmentation import OVERLAP_METRICS
from trainables.mask_losses import SUMS, MaskLoss, known_truth, pixel_sums

BINS = 20
"""Of probability; a threshold is k / 20 with k from 1 to 19."""

HALF = BINS // 2
"""The threshold 0.5, at which training selects: one that moved would reward what it was fitted on."""

WIDTH = 2 * BINS + SUMS
"""Numbers per label and image."""

_EDGES = torch.logit(torch.arange(1, BINS, dtype=torch.float64) / BINS)

Rows = NDArray[Any]
"""(N, L, WIDTH) float64: pixels without the label by bin, pixels with it by bin, sums of the loss."""


def probability_bins(logits: Tensor) -> Tensor:
    """Bin of each pixel's probability, from 0 to 19, of the shape of the logits.

    A pixel counts as predicted at threshold k / 20 if its bin is k or more. The borders are those of logits, which do
    not saturate.
    """
    return torch.bucketize(logits.contiguous(), _EDGES.to(logits), right=True)


def at_side(logits: Tensor, side: int) -> Tensor:
    """Logits (B, L, h, w) brought to the side of the truth, bilinearly; the truth itself is never resized."""
    if logits.shape[2:] == (side, side):
        return logits
    return F.interpolate(logits, size=(side, side), mode="bilinear", align_corners=False)


def predicted_pixels(logits: Tensor, thresholds: NDArray[np.int64]) -> Tensor:
    """Which pixels count as predicted, (B, L, H, W) booleans.

    Args:
        logits: (B, L, H, W).
        thresholds: (L,) k of the threshold k / 20 of each label.
    """
    steps = torch.from_numpy(thresholds).to(logits.device).view(1, -1, 1, 1)
    return probability_bins(logits) >= steps


class ValidationRows:
    """Makes the rows of a batch; the ``reduce`` of ``trainables.evaluation.predict``.

    Args:
        values: Value of each label in the planes of the validation masks.
        loss: Whose sums are kept.
    """

    def __init__(self, values: tuple[int, ...], loss: MaskLoss) -> None:
        self._values, self._loss = values, loss

    def __call__(self, logits: Tensor, planes: Tensor, index: NDArray[np.int64]) -> Tensor:
        """(B, L * WIDTH) float64 on the device.

        Args:
            logits: (B, L, h, w).
            planes: (B, H, W) uint8.
            index: (B,) rows of the set.
        """
        logits = at_side(logits, planes.shape[-1])
        truth, known = known_truth(planes, self._values)
        batch, labels = logits.shape[:2]
        # One number per image, label, side and bin; what is not known goes to a last one, which is dropped.
        cells = batch * labels * 2 * BINS
        place = torch.arange(batch * labels, device=logits.device).view(batch, labels, 1, 1)
        where = (2 * place + truth) * BINS + probability_bins(logits)
        counts = torch.bincount(where.masked_fill(~known, cells).flatten(), minlength=cells + 1)[:cells]
        sums = pixel_sums(logits, truth, known, self._loss.weights, torch.float64)
        return torch.cat([counts.view(batch, labels, 2 * BINS).double(), sums], dim=2).flatten(1)


def as_rows(gathered: NDArray[Any]) -> Rows:
    """(N, L, WIDTH) from the (N, L * WIDTH) that ranks gathered."""
    return gathered.reshape(len(gathered), -1, WIDTH)


def counts_at(rows: Rows, thresholds: NDArray[np.int64]) -> NDArray[np.int64]:
    """tp, fp, fn and tn of each image and label, (N, L, 4), each label at its threshold k / 20.

    Args:
        rows: Of validation.
        thresholds: (L,) k of each label.
    """
    found = [_counts(rows[:, label], int(k)) for label, k in enumerate(thresholds)]
    return np.stack(found, axis=1)


def _counts(rows: Rows, k: int) -> NDArray[np.int64]:
    off, on = rows[:, :BINS], rows[:, BINS : 2 * BINS]
    tp, fn, fp, tn = (part.sum(1) for part in (on[:, k:], on[:, :k], off[:, k:], off[:, :k]))
    return np.stack([tp, fp, fn, tn], axis=1).astype(np.int64)


def mask_value(metric: str, rows: Rows) -> float | None:
    """Dice or IoU at 0.5, the number that selects: mean over labels of the mean over the images that show the label.

    None where no image shows any. Dice is 2 TP / (2 TP + FP + FN), IoU TP / (TP + FP + FN).

    Raises:
        KeyError: Another metric.
    """
    if metric not in OVERLAP_METRICS:
        raise KeyError(unknown("validation metric of masks", metric, OVERLAP_METRICS))
    tp, fp, fn, _ = np.moveaxis(counts_at(rows, np.full(rows.shape[1], HALF)), 2, 0)
    hits = 2 * tp if metric == "dice" else tp
    means = [
        float(np.mean(hits[shown, k] / (hits + fp + fn)[shown, k]))
        for k in range(rows.shape[1])
        if (shown := (tp + fn)[:, k] > 0).any()
    ]
    return float(np.mean(means)) if means else None


def mask_loss_value(loss: MaskLoss, rows: Rows) -> float | None:
    """The loss over all pixels of validation together; None if none is known."""
    sums = rows[:, :, 2 * BINS :].sum(0)
    return float(loss.of_sums(torch.from_numpy(sums))) if sums[:, -1].any() else None


def best_thresholds(rows: Rows) -> NDArray[np.int64]:
    """(L,) k of the threshold k / 20 with the highest pooled Dice of each label; of equals the one nearest to 0.5.

    Pooled over all validation pixels, so that false alarms on images without the label count. A label that no image
    shows keeps 0.5.
    """
    candidates = sorted(range(1, BINS), key=lambda k: abs(k - HALF))
    return np.array([_best(rows[:, label], candidates) for label in range(rows.shape[1])], dtype=np.int64)


def _best(rows: Rows, candidates: list[int]) -> int:
    if not rows[:, BINS : 2 * BINS].any():
        return HALF
    return max(candidates, key=lambda k: _pooled_dice(_counts(rows, k).sum(0)))


def _pooled_dice(counts: NDArray[np.int64]) -> float:
    tp, fp, fn, _ = counts.tolist()
    return float(2 * tp / (2 * tp + fp + fn))
