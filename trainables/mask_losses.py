"""Losses of masks: binary cross-entropy, soft Dice and their sum, over the pixels that are known.

With p the predicted probability of a label at a pixel, t in {0, 1} the truth, and sums over all known pixels of a ghost
batch:

- ``bce``: the mean of -t log p - (1 - t) log(1 - p) over known pixels and labels; with ``imbalance: weights`` each term
  is multiplied by the inverse frequency of its side, n / (2 n_side), counted over the training masks;
- ``dice``: the mean over labels of 1 - (2 sum(p t) + 1) / (sum(p) + sum(t) + 1) (Milletari et al. 2016, without their
  squares; the smoothing of 1 and the sums over the whole batch as in the code of Hosseinzadeh Taher et al. 2021);
- ``bce_dice``: their sum, as in nnU-Net (Isensee et al. 2021), whose cross-entropy is one over classes.

All three follow from five sums per label, so that the loss of a whole validation set is exact whatever its batches.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from trainables.batches import ImageSet, masks_of
from trainables.mask_labels import IGNORED
from trainables.mixing import Mixture
from trainables.optimisation import inverse_frequencies

Form = Literal["bce", "dice", "bce_dice"]

DEFAULT_FORM: Form = "bce_dice"
SMOOTHING = 1.0

SUMS = 5
"""Of a label: sum(p t), sum(p), sum(t), sum of cross-entropies, number of known pixels."""

_CHUNK = 256


def known_truth(planes: Tensor, values: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Which pixels show each label, and of which that is known; both (B, L, H, W) booleans.

    Args:
        planes: (B, H, W) uint8, see ``trainables.mask_labels``.
        values: Value of each label in them; 0 for one that they say nothing of.
    """
    wanted = torch.tensor(values, device=planes.device).view(1, -1, 1, 1)
    known = (planes != IGNORED)[:, None] & (wanted > 0)
    return (planes[:, None] == wanted) & known, known


def pixel_sums(
    logits: Tensor, truth: Tensor, known: Tensor, weights: Tensor | None, dtype: torch.dtype | None = None
) -> Tensor:
    """The sums of each image and label that losses follow from, (B, L, 5).

    Args:
        logits: (B, L, H, W).
        truth: (B, L, H, W) booleans.
        known: Likewise.
        weights: (L, 2) weight of pixels without and with each label; None for 1.
        dtype: Of the sums; that of the logits if not given.
    """
    true, counted = truth.to(logits.dtype), known.to(logits.dtype)
    p = torch.sigmoid(logits) * counted
    entropy = F.binary_cross_entropy_with_logits(logits, true, reduction="none") * counted
    if weights is not None:
        off, on = weights.to(logits.dtype)[None, :, :, None, None].unbind(2)
        entropy = entropy * torch.where(truth, on, off)
    parts = (p * true, p, true, entropy, counted)
    return torch.stack([part.sum((2, 3), dtype=dtype) for part in parts], dim=2)


class MaskLoss:
    """The loss of a protocol.

    Args:
        form: Which one.
        values: Value of each label in the planes of the training masks.
        weights: (L, 2), see ``pixel_sums``; on the device of the logits.
    """

    def __init__(self, form: Form, values: tuple[int, ...], weights: Tensor | None) -> None:
        self._form, self._values, self.weights = form, values, weights

    def __call__(self, logits: Tensor, targets: Tensor, mixture: Mixture | None = None) -> Tensor:
        """Of a ghost batch: (B, L, H, W) logits and (B, H, W) uint8 planes of labels; a scalar.

        Raises:
            ValueError: Images are mixed; a plan refuses such protocols.
        """
        if mixture is not None:
            raise ValueError("masks of mixed images are not defined")
        truth, known = known_truth(targets, self._values)
        return self.of_sums(pixel_sums(logits, truth, known, self.weights).sum(0))

    def of_sums(self, sums: Tensor) -> Tensor:
        """From the sums over all images, (L, 5)."""
        both, predicted, true, entropy, known = sums.unbind(1)
        bce = entropy.sum() / known.sum().clamp(min=1)
        dice = (1 - (2 * both + SMOOTHING) / (predicted + true + SMOOTHING)).mean()
        return {"bce": bce, "dice": dice, "bce_dice": bce + dice}[self._form]


def make_mask_loss(train_set: ImageSet, form: Form | None, weighted: bool, device: torch.device) -> MaskLoss:
    """The loss of a training set.

    Args:
        train_set: With masks.
        form: As a protocol says; None is the default.
        weighted: Whether the cross-entropy is weighted by inverse frequency.
        device: Of the logits.
    """
    masks = masks_of(train_set)
    assert masks is not None
    weights = None
    if weighted:
        counts = pixel_counts(train_set)
        weights = torch.from_numpy(inverse_frequencies(counts)).float().to(device)
    return MaskLoss(form or DEFAULT_FORM, masks.values, weights)


def pixel_counts(data: ImageSet) -> NDArray[np.int64]:
    """Known pixels of a set without and with each label, (L, 2)."""
    masks = masks_of(data)
    assert masks is not None
    positions = np.asarray(data.positions, dtype=np.int64)
    counts = np.zeros(IGNORED + 1, dtype=np.int64)
    for start in range(0, len(positions), _CHUNK):
        planes: NDArray[Any] = masks.planes[positions[start : start + _CHUNK]]
        counts += np.bincount(planes.ravel(), minlength=IGNORED + 1)
    known = counts.sum() - counts[IGNORED]
    with_label = counts[np.array(masks.values)]
    return np.stack([known - with_label, with_label], axis=1)
