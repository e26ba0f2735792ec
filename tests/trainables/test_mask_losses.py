"""Losses and scores of masks: by hand, against loops over pixels, and ignored pixels that change nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tests.trainables.toy import ToySet
from trainables.mask_labels import IGNORED
from trainables.mask_losses import MaskLoss, known_truth, make_mask_loss, pixel_counts
from trainables.mask_scores import (
    BINS,
    HALF,
    ValidationRows,
    as_rows,
    best_thresholds,
    counts_at,
    mask_loss_value,
    mask_value,
    probability_bins,
)
from trainables.mask_sets import MaskSet

LOGITS = torch.tensor([[[[0.0, math.log(3)], [-math.log(3), 0.0]]]], dtype=torch.float64)
"""Probabilities 1/2, 3/4, 1/4, 1/2."""
PLANE = torch.tensor([[[1, 1], [0, IGNORED]]], dtype=torch.uint8)


def with_masks(planes, values=(1,)):
    n = len(planes)
    shown = np.stack([(planes == v).any((1, 2)) for v in values], axis=1).astype(np.float32)
    data = ToySet(np.zeros((n, *planes.shape[1:], 3), np.uint8), np.arange(n), shown)
    object.__setattr__(data, "masks", MaskSet(planes=planes, values=values, pixel_sizes=np.ones((n, 2))))
    return data


def test_by_hand():
    bce = -(math.log(1 / 2) + math.log(3 / 4) + math.log(3 / 4)) / 3
    dice = 1 - (2 * (1 / 2 + 3 / 4) + 1) / ((1 / 2 + 3 / 4 + 1 / 4) + 2 + 1)
    for form, expected in (("bce", bce), ("dice", dice), ("bce_dice", bce + dice)):
        assert float(MaskLoss(form, (1,), None)(LOGITS, PLANE)) == pytest.approx(expected)


def test_weights_are_inverse_frequencies_of_known_pixels():
    planes = PLANE.numpy()
    assert pixel_counts(with_masks(planes)).tolist() == [[1, 2]]
    loss = make_mask_loss(with_masks(planes), "bce", True, torch.device("cpu"))
    assert loss.weights.tolist() == [[1.5, 0.75]]
    expected = -(0.75 * (math.log(1 / 2) + math.log(3 / 4)) + 1.5 * math.log(3 / 4)) / 3
    assert float(loss(LOGITS, PLANE)) == pytest.approx(expected)


@pytest.mark.parametrize("form", ["bce", "dice", "bce_dice"])
def test_ignored_pixels_have_neither_loss_nor_gradient(form):
    logits = torch.randn(2, 2, 4, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    planes = torch.randint(0, 3, (2, 4, 4), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    planes[:, 0] = IGNORED
    loss = MaskLoss(form, (1, 2), None)(logits, planes)
    loss.backward()
    loss = loss.detach()
    assert not logits.grad[:, :, 0].any()
    assert logits.grad[:, :, 1:].any()
    moved = logits.detach().clone()
    moved[:, :, 0] = 9.0
    assert float(MaskLoss(form, (1, 2), None)(moved, planes)) == pytest.approx(float(loss))


def test_labels_that_a_manifest_lacks_are_not_known():
    truth, known = known_truth(torch.tensor([[[0, 1, 2]]], dtype=torch.uint8), (2, 0))
    assert truth[0, :, 0].tolist() == [[False, False, True], [False, False, False]]
    assert known[0, :, 0].tolist() == [[True, True, True], [False, False, False]]


def made_rows(seed=0, n=5, labels=2, side=8):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n, labels, side, side, generator=generator)
    planes = torch.randint(0, labels + 1, (n, side, side), generator=generator).to(torch.uint8)
    planes[0] = 0
    planes[:, 0, 0] = IGNORED
    loss = MaskLoss("bce_dice", tuple(range(1, labels + 1)), None)
    rows = as_rows(ValidationRows(tuple(range(1, labels + 1)), loss)(logits, planes, np.arange(n)).numpy())
    return logits, planes, loss, rows


@pytest.mark.parametrize("k", [1, 7, HALF, 19])
def test_counts_at_a_threshold_are_those_of_the_pixels(k):
    logits, planes, _, rows = made_rows()
    found = counts_at(rows, np.array([k, k]))
    for image in range(len(logits)):
        for label in range(2):
            known = planes[image] != IGNORED
            predicted = (torch.sigmoid(logits[image, label].double()) >= k / BINS)[known]
            true = (planes[image] == label + 1)[known]
            pixels = [predicted & true, predicted & ~true, ~predicted & true, ~predicted & ~true]
            assert found[image, label].tolist() == [int(part.sum()) for part in pixels]


def test_validation_loss_is_that_of_all_pixels_together():
    logits, planes, loss, rows = made_rows()
    assert mask_loss_value(loss, rows) == pytest.approx(float(loss(logits, planes)), rel=1e-6)
    assert mask_loss_value(loss, rows[:0]) is None


def test_the_value_that_selects_leaves_out_images_without_the_label():
    _, _, _, rows = made_rows()
    counts = counts_at(rows, np.array([HALF, HALF])).astype(float)
    tp, fp, fn, _ = counts.transpose(2, 0, 1)
    for metric, overlap in (("dice", 2 * tp / (2 * tp + fp + fn)), ("iou", tp / (tp + fp + fn))):
        expected = np.mean([overlap[1:, k].mean() for k in range(2)])
        assert mask_value(metric, rows) == pytest.approx(expected)
    assert mask_value("dice", rows[:1]) is None
    with pytest.raises(KeyError, match="auc"):
        mask_value("auc", rows)


def test_a_threshold_is_the_best_of_the_pooled_dice_and_0_5_without_truth():
    planes = torch.zeros(2, 4, 4, dtype=torch.uint8)
    planes[0, :2] = 1
    logits = torch.full((2, 1, 4, 4), -3.0)
    logits[0, 0, :2] = -1.0  # 0.27
    logits[1, 0, 0] = -1.6  # 0.17: false alarms on an image without the label
    loss = MaskLoss("dice", (1,), None)
    rows = as_rows(ValidationRows((1,), loss)(logits, planes, np.arange(2)).numpy())
    assert best_thresholds(rows).tolist() == [5]
    assert counts_at(rows, np.array([5]))[:, 0].tolist() == [[8, 0, 0, 8], [0, 0, 0, 16]]
    assert best_thresholds(rows[1:]).tolist() == [HALF]


def test_bins_do_not_saturate():
    logits = torch.tensor([-90.0, 0.0, 90.0, math.log(0.95 / 0.05) + 1e-3])
    assert probability_bins(logits).tolist() == [0, HALF, BINS - 1, BINS - 1]


def test_logits_of_a_coarser_map_are_brought_to_the_truth():
    logits = torch.randn(1, 1, 4, 4, generator=torch.Generator().manual_seed(3))
    planes = torch.ones(1, 8, 8, dtype=torch.uint8)
    rows = as_rows(ValidationRows((1,), MaskLoss("dice", (1,), None))(logits, planes, np.arange(1)).numpy())
    finer = F.interpolate(logits, size=(8, 8), mode="bilinear")
    assert counts_at(rows, np.array([HALF]))[0, 0].tolist() == [int((finer >= 0).sum()), 0, int((finer < 0).sum()), 0]
