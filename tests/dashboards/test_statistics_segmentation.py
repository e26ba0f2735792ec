"""Overlap of masks against MONAI, torchmetrics and the values by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.metrics import compute_dice, compute_iou
from torchmetrics.functional.segmentation import mean_iou

from dashboards.statistics import (
    bootstrap_draws,
    check_counts,
    contrast,
    index_patients,
    patient_influence,
    patient_variance,
    segmentation_influence,
)
from dashboards.statistics.masks import label_influence, label_metrics, mask_interval
from dashboards.statistics.segmentation import image_overlap

RNG = np.random.default_rng


def masks(seed=0, n=40, side=6):
    """(truth, prediction) of n images, some of either empty."""
    rng = RNG(seed)
    share = rng.choice([0.0, 0.2, 0.5], size=(2, n, 1, 1))
    drawn = rng.random((2, n, side, side)) < share
    return drawn[0], drawn[1]


def counts_of(truth, guess):
    axes = (1, 2)
    return check_counts(
        (truth & guess).sum(axes), (~truth & guess).sum(axes), (truth & ~guess).sum(axes), (~truth & ~guess).sum(axes)
    )


def metrics_of(counts, patient, hd95=np.nan, nsd=np.nan):
    distances = np.broadcast_to(np.stack(np.broadcast_arrays(hd95, nsd), axis=-1), (len(counts.tp), 2))
    return label_metrics(counts, distances, index_patients(patient))


def as_tensor(mask):
    return torch.tensor(mask[:, None].astype(np.float32))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_images_agree_with_monai(seed):
    truth, guess = masks(seed)
    counts = counts_of(truth, guess)
    for metric, reference in (("dice", compute_dice), ("iou", compute_iou)):
        expected = reference(as_tensor(guess), as_tensor(truth), ignore_empty=True).numpy()[:, 0]
        np.testing.assert_allclose(image_overlap(metric, counts), expected, atol=1e-6)
    lenient = compute_dice(as_tensor(guess), as_tensor(truth), ignore_empty=False).numpy()[:, 0]
    found = metrics_of(counts, np.arange(len(truth)))
    assert found["dice_both_empty_is_1"] == pytest.approx(lenient.mean(), abs=1e-6)


def test_torchmetrics_gives_minus_1_where_both_are_empty_and_we_give_nan():
    empty = torch.zeros((1, 1, 2, 2), dtype=torch.int64)
    reference = mean_iou(empty, empty, num_classes=1, per_class=True, input_format="one-hot")
    assert float(reference.squeeze()) == -1
    assert np.isnan(image_overlap("iou", check_counts([0], [0], [0], [4]))).all()


def test_every_reading_by_hand():
    """Patient a: Dice 1 and 0.5; b: 0; c: an empty truth with a false alarm; d: an empty one without; e: masked."""
    counts = check_counts(
        tp=[4, 1, 0, 0, 0, np.nan], fp=[0, 1, 2, 3, 0, 0], fn=[0, 1, 2, 0, 0, 0], tn=[5, 6, 5, 6, 9, 9]
    )
    unknown = [np.nan] * 3
    found = metrics_of(counts, list("aabcde"), hd95=[1, 2, np.nan, *unknown], nsd=[1, 0.5, 0, *unknown])
    assert found == pytest.approx(
        {
            "dice": (0.75 + 0) / 2,
            "iou": ((1 + 1 / 3) / 2 + 0) / 2,
            "dice_image_mean": 0.5,
            "dice_pooled": 10 / (10 + 6 + 3),
            "dice_both_empty_is_1": (1 + 0.5 + 0 + 0 + 1) / 5,
            "hd95": 1.5,
            "nsd": 0.375,
            "hd95_undefined": 1,
            "shown_images": 3,
            "empty_images": 2,
            "false_positive_images": 0.5,
            "false_positive_pixels": 1.5,
        }
    )


def test_iou_is_a_function_of_dice():
    counts = counts_of(*masks(3))
    dice, iou = image_overlap("dice", counts), image_overlap("iou", counts)
    np.testing.assert_allclose(iou, dice / (2 - dice))


def test_false_positives_on_healthy_images_move_no_dice_but_are_counted():
    rest = {"fn": [1, 0], "tn": [3, 4]}
    quiet = metrics_of(check_counts([2, 0], [0, 0], **rest), ["a", "b"])
    loud = metrics_of(check_counts([2, 0], [0, 4], **rest), ["a", "b"])
    assert quiet["dice"] == loud["dice"]
    assert (quiet["false_positive_images"], loud["false_positive_images"]) == (0.0, 1.0)


def test_nothing_to_find_is_undefined_not_0():
    found = metrics_of(check_counts([0, 0], [0, 1], [0, 0], [4, 3]), ["a", "b"])
    assert np.isnan([found["dice"], found["iou"], found["dice_image_mean"]]).all()
    influence = segmentation_influence("dice", check_counts([0], [0], [0], [4]), ["a"])
    assert np.isnan(influence.value)
    assert influence.min_patients == 0
    none = metrics_of(check_counts([np.nan], [1], [0], [3]), ["a"])
    assert np.isnan([none[n] for n in ("dice_pooled", "dice_both_empty_is_1", "false_positive_images")]).all()
    assert none["shown_images"] == none["empty_images"] == 0


def test_a_contrast_of_dice_is_the_paired_t_test_over_patients():
    rng = RNG(0)
    tp = rng.integers(1, 20, (2, 60))
    runs = [
        {0: segmentation_influence("dice", check_counts(t, [3] * 60, [4] * 60, [9] * 60), np.arange(60))} for t in tp
    ]
    values = [2 * t / (2 * t + 7) for t in tp]
    found = contrast(*runs)
    difference = values[0] - values[1]
    assert found.value == pytest.approx(difference.mean())
    assert found.se == pytest.approx(difference.std(ddof=1) / np.sqrt(60))


def test_a_share_of_images_has_the_interval_of_a_ratio_over_patients():
    """Against the delete-one-patient jackknife, which knows nothing of contributions."""
    rng = RNG(1)
    patient = np.repeat(np.arange(80), rng.integers(1, 6, 80))
    alarm = rng.random(len(patient)) < np.where(patient % 3, 0.2, 0.7)
    counts = check_counts(np.zeros(len(patient)), alarm, np.zeros(len(patient)), np.full(len(patient), 9))
    found = label_influence(
        "false_positive_images", counts, np.full((len(patient), 2), np.nan), index_patients(patient)
    )
    assert found.value == pytest.approx(alarm.mean())
    assert found.psi.sum() == pytest.approx(0, abs=1e-12)
    without = np.array([alarm[patient != p].mean() for p in range(80)])
    jackknife = 79 / 80 * ((without - without.mean()) ** 2).sum()
    assert patient_variance([(1, found)]).variance == pytest.approx(jackknife, rel=0.05)
    estimate = mask_interval("false_positive_images", {"": found})
    assert 0 < estimate.low < estimate.value < estimate.high < 1


def test_a_distance_has_an_interval_beyond_1():
    values = RNG(2).normal(12, 2, 50)
    index = index_patients(np.arange(50))
    counts = check_counts([1] * 50, [0] * 50, [0] * 50, [9] * 50)
    hd95 = label_influence("hd95", counts, np.stack([values, values], axis=1), index)
    estimate = mask_interval("hd95", {"": hd95})
    half = (estimate.high - estimate.low) / 2
    assert estimate.value == pytest.approx(values.mean())
    assert half == pytest.approx(2.01 * values.std(ddof=1) / np.sqrt(50), rel=0.01)  # the t quantile of 49


def test_images_of_one_patient_count_as_one():
    counts = counts_of(*masks(5, n=60))
    copied = check_counts(*(np.repeat(c, 3) for c in (counts.tp, counts.fp, counts.fn, counts.tn)))
    one = segmentation_influence("dice", counts, np.arange(60))
    three = segmentation_influence("dice", copied, np.repeat(np.arange(60), 3))
    assert three.value == pytest.approx(one.value)
    assert patient_variance([(1, three)]).variance == pytest.approx(patient_variance([(1, one)]).variance)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (([1], [1], [1], [1, 2]), r"shape \(N,\)"),
        (([-1], [1], [1], [1]), "tp must hold whole numbers"),
        (([1], [0.5], [1], [1]), "fp must hold whole numbers"),
        (([1], [1], [np.inf], [1]), "fn must hold whole numbers"),
    ],
)
def test_counts_that_are_none_are_refused(counts, message):
    with pytest.raises(ValueError, match=message):
        check_counts(*counts)


def test_other_metrics_are_refused():
    counts = check_counts([1], [1], [1], [1])
    with pytest.raises(ValueError, match="unknown overlap 'auc'"):
        image_overlap("auc", counts)
    with pytest.raises(ValueError, match="one row per image"):
        segmentation_influence("dice", counts, ["a", "b"])
    for call in (patient_influence, bootstrap_draws):
        extra = () if call is patient_influence else (np.ones((1, 2)),)
        with pytest.raises(ValueError, match="unknown metric 'dice'"):
            call("dice", "binary", ["d"], [0, 1], [0.0, 1.0], ["a", "b"], *extra)
