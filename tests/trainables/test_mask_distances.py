"""Distances between outlines: by hand, and against MONAI."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monai.metrics import compute_hausdorff_distance, compute_surface_dice

from trainables.mask_distances import distance_scores, outline


def box(top, left, bottom, right, side=12):
    mask = np.zeros((side, side), dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def test_a_box_moved_by_two_columns():
    here, there = box(2, 2, 6, 6), box(2, 4, 6, 8)
    assert outline(here).sum() == 12
    assert distance_scores(there, here, (1, 1), 2.0) == (2.0, 1.0)
    hd95, nsd = distance_scores(there, here, (1, 1.5), 1.0)
    assert hd95 == 3.0
    near = 6  # of each outline: two in the first and the last row lie on the other, two more a row below or above it
    assert nsd == pytest.approx(near * 2 / 24)


def test_what_has_no_distance_is_nan_and_a_missed_outline_scores_0():
    nothing, something = box(0, 0, 0, 0), box(2, 2, 6, 6)
    assert all(map(math.isnan, distance_scores(something, nothing, (1, 1), 1.0)))
    assert all(map(math.isnan, distance_scores(nothing, nothing, (1, 1), 1.0)))
    hd95, nsd = distance_scores(nothing, something, (1, 1), 1.0)
    assert math.isnan(hd95)
    assert nsd == 0
    assert all(map(math.isnan, distance_scores(something, something, (math.nan, math.nan), 1.0)))
    assert math.isnan(distance_scores(something, something, (1, 1), None)[1])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(8))
def test_agrees_with_monai(seed):
    rng = np.random.default_rng(seed)
    spacing = (1.0, 1.0) if seed % 2 else (0.7, 1.6)
    masks = []
    for _ in range(2):
        field = rng.normal(size=(24, 30))
        kernel = np.ones(5) / 5
        for axis in (0, 1):
            field = np.apply_along_axis(np.convolve, axis, field, kernel, "same")
        masks.append(field > 0.05)
    guess, truth = (torch.tensor(m[None, None].astype(np.float32)) for m in masks)
    hd95, nsd = distance_scores(masks[0], masks[1], spacing, 1.3)
    wanted = {"include_background": True, "spacing": spacing}
    expected = compute_hausdorff_distance(guess, truth, percentile=95, **wanted)
    assert hd95 == pytest.approx(float(expected), rel=1e-5)
    assert nsd == pytest.approx(float(compute_surface_dice(guess, truth, [1.3], **wanted)), rel=1e-6)
