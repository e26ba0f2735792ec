"""Thresholds frozen on validation, rates with intervals, net benefit, top-k accuracy and grades."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.special import softmax
from sklearn.metrics import confusion_matrix, roc_auc_score, roc_curve, top_k_accuracy_score
from statsmodels.stats.proportion import proportion_confint
from torchmetrics.functional.classification import binary_sensitivity_at_specificity

from dashboards.statistics import (
    check_predictions,
    choose_threshold,
    compute_metrics,
    grade_auc,
    net_benefit,
    operating_point,
    proportion,
    top_k_accuracy,
)

RNG = np.random.default_rng
BINARY = st.integers(2, 40).flatmap(
    lambda n: st.tuples(
        hnp.arrays(np.int64, n, elements=st.integers(0, 1)),
        hnp.arrays(np.float64, n, elements=st.integers(-5, 5)),
    ).filter(lambda drawn: 0 < drawn[0].sum() < len(drawn[0]))
)


@settings(deadline=None)
@given(BINARY, st.sampled_from([0.3, 0.5, 0.8, 0.9, 1.0]))
def test_thresholds_are_the_best_points_of_sklearns_roc_curve(drawn, target):
    y, scores = drawn
    fpr, tpr, _ = roc_curve(y, scores, drop_intermediate=False)
    found = choose_threshold(y, scores, "specificity", target)
    assert found.specificity >= target
    assert found.sensitivity == pytest.approx(tpr[1 - fpr >= target - 1e-12].max())
    found = choose_threshold(y, scores, "sensitivity", target)
    assert found.sensitivity >= target
    assert found.specificity == pytest.approx(1 - fpr[tpr >= target - 1e-12].min())
    found = choose_threshold(y, scores, "youden")
    assert found.sensitivity + found.specificity - 1 == pytest.approx((tpr - fpr).max())


def test_sensitivity_at_specificity_agrees_with_torchmetrics():
    rng = RNG(0)
    y = rng.integers(0, 2, 300)
    scores = rng.random(300) * 0.5 + 0.3 * y
    reference, _ = binary_sensitivity_at_specificity(torch.tensor(scores), torch.tensor(y), min_specificity=0.9)
    assert choose_threshold(y, scores, "specificity", 0.9).sensitivity == pytest.approx(float(reference), abs=1e-6)


@settings(max_examples=50, deadline=None)
@given(BINARY, BINARY)
def test_the_chosen_threshold_gives_what_it_promised_where_it_was_chosen(drawn, other):
    y, scores = drawn
    chosen = choose_threshold(y, scores, "youden")
    here = operating_point(y, scores, chosen.value, np.arange(len(y)), RNG(0))
    assert here.sensitivity.value == chosen.sensitivity
    assert here.specificity.value == chosen.specificity
    elsewhere = operating_point(*other, chosen.value, np.arange(len(other[0])), RNG(0))
    (tn, fp), (fn, tp) = confusion_matrix(other[0], other[1] >= chosen.value, labels=[0, 1])
    assert elsewhere.sensitivity.value == tp / (tp + fn)
    assert elsewhere.specificity.value == tn / (tn + fp)
    assert elsewhere.ppv.value == tp / (tp + fp) if tp + fp else np.isnan(elsewhere.ppv.value)
    assert elsewhere.npv.value == tn / (tn + fn) if tn + fn else np.isnan(elsewhere.npv.value)


def test_where_all_scores_tie_nothing_is_specific_enough_and_nothing_is_called_positive():
    found = choose_threshold([0, 1, 1], [0.5, 0.5, 0.5], "specificity", 0.9)
    assert (found.sensitivity, found.specificity) == (0.0, 1.0)
    assert 0.5 < found.value < 0.5001


@pytest.mark.parametrize(
    ("y", "scores"), [([1, 1], [0, 1]), ([0, 0], [0, 1]), ([], []), ([0, 1], [0, np.inf]), ([np.nan, 1], [0, 1])]
)
def test_a_threshold_that_cannot_be_chosen_is_nan_and_so_is_all_that_follows(y, scores):
    chosen = choose_threshold(y, scores, "youden")
    assert np.isnan([chosen.value, chosen.sensitivity, chosen.specificity]).all()
    after = operating_point([0, 1, 1], [0.1, 0.2, 0.3], chosen.value, [0, 1, 2], RNG(0))
    assert np.isnan([after.sensitivity.value, after.specificity.value, after.ppv.value, after.npv.value]).all()
    assert after.undefined == 3


@pytest.mark.parametrize(
    ("rule", "target", "message"),
    [("youden", 0.9, "takes no target"), ("specificity", None, "needs a target"), ("sensitivity", 1.2, r"\(0, 1\]")],
)
def test_a_target_that_does_not_belong_is_refused(rule, target, message):
    with pytest.raises(ValueError, match=message):
        choose_threshold([0, 1], [0, 1], rule, target)


def test_masked_images_do_not_count_and_one_infinite_score_makes_all_undefined():
    y, scores = [1, 0, np.nan, 1], [2.0, -1.0, np.inf, 3.0]
    found = operating_point(y, scores, 0.0, list("abcd"), RNG(0))
    assert (found.sensitivity.images, found.prevalence, found.undefined) == (2, pytest.approx(2 / 3), 0)
    found = operating_point([1, 0, 1], [np.inf, -1.0, 3.0], 0.0, list("abc"), RNG(0))
    assert found.undefined == 1
    assert np.isnan(found.sensitivity.value)


def test_predictive_values_follow_the_prevalence():
    """At 90 % sensitivity and specificity: .90, .50, .083 at prevalence .5, .1, .01."""
    for positives, negatives, expected in ((500, 500, 0.90), (1000, 9000, 0.50), (100, 9900, 0.0833)):
        y = np.r_[np.ones(positives), np.zeros(negatives)]
        score = np.r_[np.arange(positives) < 0.9 * positives, np.arange(negatives) >= 0.9 * negatives]
        found = operating_point(y, score.astype(float), 0.5, np.arange(len(y)), RNG(0))
        assert found.ppv.value == pytest.approx(expected, abs=5e-4)


def test_one_image_per_patient_gives_wilson():
    found = proportion([1] * 8 + [0] * 2 + [np.nan], np.arange(11), RNG(0))
    assert (found.low, found.high) == pytest.approx((0.4902, 0.9433), abs=5e-5)
    assert (found.images, found.patients, found.method) == (10, 10, "wilson")


def test_copies_of_images_add_no_certainty():
    rng = RNG(0)
    success = (rng.random(150) < 0.7).astype(float)
    alone = proportion(success, np.arange(150), rng)
    copied = proportion(np.repeat(success, 4), np.repeat(np.arange(150), 4), rng)
    naive = proportion(np.repeat(success, 4), np.arange(600), rng)
    assert copied.method == "cluster bootstrap"
    assert copied.high - copied.low == pytest.approx(alone.high - alone.low, rel=0.08)
    assert naive.high - naive.low < 0.6 * (copied.high - copied.low)


def test_unanimous_clusters_do_not_get_an_interval_of_width_0():
    found = proportion(np.ones(12), np.repeat(np.arange(4), 3), RNG(0))
    assert (found.low, found.high) == pytest.approx(proportion_confint(4, 4, method="wilson"))
    assert found.method == "wilson over patients"
    nothing = proportion([np.nan], ["a"], RNG(0))
    assert np.isnan([nothing.value, nothing.low, nothing.high]).all()
    assert "no image" in nothing.method


@pytest.mark.parametrize("patient", [[0, 0, 0, 0], [0, 0, 1, 1]])
def test_patients_that_do_not_differ_say_nothing_of_others(patient):
    """One patient, or two with half of their images each: the bootstrap would give an interval of width 0."""
    found = proportion([1, 0, 1, 0], patient, RNG(0))
    assert found.value == 0.5
    assert np.isnan([found.low, found.high]).all()
    assert found.method == "not estimable: no variation between patients"


def test_the_same_seed_gives_the_same_interval_whatever_the_global_state():
    success, patient = RNG(0).integers(0, 2, 60), np.repeat(np.arange(20), 3)
    np.random.seed(1)  # noqa: NPY002
    one = proportion(success, patient, RNG(7))
    np.random.seed(2)  # noqa: NPY002
    assert proportion(success, patient, RNG(7)) == one


def test_net_benefit_by_hand():
    """p and y of five images: at t = 0.5 two true and one false positive, 2/5 - 1/5 * 1."""
    curve = net_benefit([1, 1, 0, 0, 1, np.nan], [0.9, 0.6, 0.5, 0.2, 0.3, 0.9], [0.0, 0.25, 0.5])
    np.testing.assert_allclose(curve.model, [3 / 5, 3 / 5 - 1 / 5 / 3, 2 / 5 - 1 / 5])
    np.testing.assert_allclose(curve.treat_all, [3 / 5, 3 / 5 - 2 / 5 / 3, 3 / 5 - 2 / 5])
    assert curve.n == 5
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        net_benefit([1], [0.5], [1.0])
    assert np.isnan(net_benefit([1, 0], [np.nan, 0.2], [0.5]).model).all()


def test_top_k_agrees_with_sklearn_and_top_1_is_the_accuracy():
    rng = RNG(0)
    y, z = rng.integers(0, 5, 200), rng.normal(size=(200, 5))
    predictions = check_predictions("multiclass", list("abcde"), y, z)
    for k in range(1, 5):
        assert top_k_accuracy(predictions, k) == pytest.approx(top_k_accuracy_score(y, z, k=k, labels=range(5)))
    assert top_k_accuracy(predictions, 5) == 1.0
    tied = check_predictions("multiclass", list("abcde"), y, np.round(z))
    accuracy = compute_metrics("multiclass", list("abcde"), y, np.round(z))["accuracy"]
    assert top_k_accuracy(tied, 1) == pytest.approx(accuracy)
    with pytest.raises(ValueError, match=r"k must lie in 1\.\.5"):
        top_k_accuracy(predictions, 6)
    with pytest.raises(ValueError, match="exclude each other"):
        top_k_accuracy(check_predictions("binary", ["d"], [0, 1], [0.0, 1.0]), 1)


def test_top_k_of_masked_and_infinite_logits():
    z = np.array([[1.0, 0, 0], [0, 1.0, 0], [0, 0, np.inf]])
    assert top_k_accuracy(check_predictions("ordinal", list("abc"), [0, 0, -1], z), 1) == 0.5
    assert np.isnan(top_k_accuracy(check_predictions("ordinal", list("abc"), [0, 0, 2], z), 1))
    assert np.isnan(top_k_accuracy(check_predictions("ordinal", list("abc"), [-1, -1, -1], z), 1))


def test_moderate_or_worse_is_the_auc_of_the_summed_probability():
    rng = RNG(1)
    y, z = rng.integers(0, 5, 300), rng.normal(size=(300, 5)) + np.arange(5) * 0.2
    grades = ["none", "mild", "moderate", "severe", "proliferative"]
    predictions = check_predictions("ordinal", grades, np.where(np.arange(300) < 5, -1, y), z)
    expected = roc_auc_score(y[5:] >= 2, softmax(z, axis=1)[5:, 2:].sum(axis=1))
    assert grade_auc(predictions, "moderate") == pytest.approx(expected)
    with pytest.raises(ValueError, match="grade must be one of"):
        grade_auc(predictions, "none")
