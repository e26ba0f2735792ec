"""Selective prediction and OOD detection: golden values, ties, coverage by subgroup."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from dashboards.statistics import (
    check_predictions,
    compute_metrics,
    confidence_and_error,
    confidence_threshold,
    coverage_by_group,
    detect_ood,
    find_subgroups,
    risk_at_coverage_interval,
    risk_coverage,
    selective_scores,
)

RNG = np.random.default_rng
K14, E14 = [0.9, 0.8, 0.7, 0.6, 0.55, 0.5], [0, 0, 1, 0, 1, 1]
DRAWN = st.integers(2, 40).flatmap(
    lambda n: st.tuples(
        hnp.arrays(np.float64, n, elements=st.integers(-3, 3)),
        hnp.arrays(np.float64, n, elements=st.integers(0, 1)),
    )
)


def test_golden_areas():
    found = selective_scores(K14, E14)
    assert found.aurc == pytest.approx(0.2472222, abs=5e-8)
    assert found.e_aurc == pytest.approx(0.0555556, abs=5e-8)
    assert found.augrc == pytest.approx(0.1527778, abs=5e-8)
    curve = risk_coverage(K14, E14)
    as_published_elsewhere = np.trapezoid(curve.risk, curve.coverage) / (1 - 1 / 6)
    assert as_published_elsewhere == pytest.approx(0.2466667, abs=5e-8)


def test_golden_ties_whatever_the_order():
    for order in permutations([0, 1, 0]):
        assert selective_scores([0.9, 0.5, 0.5, 0.5], [0, *order]).aurc == pytest.approx(0.1597222, abs=5e-8)


def test_ties_are_the_mean_over_all_orders():
    confidence, error = [0.9, 0.5, 0.5, 0.5, 0.1], np.array([0, 1, 0, 0, 1])
    orders = [[0, *order, 4] for order in permutations([1, 2, 3])]
    each = [np.cumsum(error[order]) / np.arange(1, 6) for order in orders]
    np.testing.assert_allclose(risk_coverage(confidence, error).risk, np.mean(each, axis=0))


@settings(deadline=None)
@given(DRAWN, st.integers(0, 2**32 - 1))
def test_order_masked_rows_and_a_monotone_transform_change_nothing(drawn, seed):
    confidence, error = drawn
    order = RNG(seed).permutation(len(error))
    before = selective_scores(confidence, error)
    after = selective_scores(np.r_[np.arctan(confidence[order]), np.nan], np.r_[error[order], np.nan])
    assert after.n == before.n
    for name in ("aurc", "e_aurc", "augrc"):
        np.testing.assert_allclose(getattr(after, name), getattr(before, name), atol=1e-12)
    assert after.risk_at == pytest.approx(before.risk_at)


@settings(deadline=None)
@given(DRAWN)
def test_bounds(drawn):
    confidence, error = drawn
    found = selective_scores(confidence, error, coverages=[1.0])
    assert -1e-12 <= found.e_aurc <= found.aurc <= 1
    assert 0 <= found.augrc <= 0.5 + 1e-12
    assert found.risk_at[1.0] == pytest.approx(error.mean())
    perfect = selective_scores(-error, error)
    assert perfect.e_aurc == pytest.approx(0, abs=1e-12)


def test_risk_at_a_coverage_counts_images_upwards():
    found = selective_scores(np.arange(20.0), (np.arange(20) < 3).astype(float), [0.8, 0.9, 0.95])
    assert found.risk_at == pytest.approx({0.8: 0 / 16, 0.9: 1 / 18, 0.95: 2 / 19})
    with pytest.raises(ValueError, match=r"\(0, 1\]"):
        selective_scores([1.0, 2], [0, 1], [0.0])


@pytest.mark.parametrize(
    ("confidence", "error"), [([], []), ([0.5], [1]), ([np.inf, 0.5, 0.2], [0, 1, 0]), ([0.1, 0.2], [np.nan, np.nan])]
)
def test_undefined_is_nan(confidence, error):
    found = selective_scores(confidence, error)
    assert np.isnan([found.aurc, found.e_aurc, found.augrc]).all()


def test_errors_outside_0_and_1_are_refused():
    with pytest.raises(ValueError, match="must lie in"):
        selective_scores([1.0, 2.0], [0, 3])
    with pytest.raises(ValueError, match=r"shape \(N,\)"):
        selective_scores([1.0], [0, 1])


def test_confidence_of_each_kind():
    z = np.array([[2.0], [-3.0], [0.5], [np.inf]])
    binary = check_predictions("binary", ["d"], [1, 1, np.nan, 0], z)
    confidence, error = confidence_and_error(binary)
    np.testing.assert_array_equal(confidence, [2, 3, 0.5, np.nan])
    np.testing.assert_array_equal(error, [0, 1, np.nan, 1])
    confidence, error = confidence_and_error(binary, threshold=2.5)
    np.testing.assert_array_equal(confidence, [0.5, 5.5, 2, np.nan])
    np.testing.assert_array_equal(error, [1, 1, np.nan, 1])
    rng = RNG(0)
    y, logits = rng.integers(0, 3, 50), rng.normal(size=(50, 3))
    classes = check_predictions("multiclass", list("abc"), y, logits)
    _, error = confidence_and_error(classes)
    assert 1 - error.mean() == pytest.approx(compute_metrics("multiclass", list("abc"), y, logits)["accuracy"])


def test_saturated_probabilities_do_not_tie():
    z = np.array([[50.0, 0, 0], [60.0, 0, 0], [0, 70.0, 0]])
    confidence, _ = confidence_and_error(check_predictions("multiclass", list("abc"), [0, 0, 1], z))
    assert len(np.unique(confidence)) == 3


def test_a_labelled_image_without_logits_is_not_mistaken_for_a_masked_one():
    predictions = check_predictions("binary", ["d"], [1, 0, 1], [2.0, np.nan, 1.0])
    found = selective_scores(*confidence_and_error(predictions))
    assert found.undefined == 1
    assert np.isnan(found.aurc)


def test_labels_and_thresholds_that_do_not_belong_are_refused():
    several = check_predictions("multilabel", ["a", "b"], np.zeros((2, 2)), np.zeros((2, 2)))
    for label in (None, "c"):
        with pytest.raises(ValueError, match="label must be one of"):
            confidence_and_error(several, label)
    classes = check_predictions("multiclass", ["a", "b"], [0, 1], np.zeros((2, 2)))
    with pytest.raises(ValueError, match="no threshold"):
        confidence_and_error(classes, threshold=0.5)


def test_interval_of_a_risk_covers_it_and_copies_add_nothing():
    rng = RNG(0)
    confidence = rng.normal(size=150)
    error = (rng.random(150) < 1 / (1 + np.exp(confidence))).astype(float)
    alone = risk_at_coverage_interval(confidence, error, np.arange(150), 0.8, RNG(1))
    value = selective_scores(confidence, error, [0.8]).risk_at[0.8]
    assert alone.low < value < alone.high
    copied = risk_at_coverage_interval(
        np.repeat(confidence, 3), np.repeat(error, 3), np.repeat(np.arange(150), 3), 0.8, RNG(1)
    )
    assert (copied.low, copied.high) == pytest.approx((alone.low, alone.high), abs=0.01)
    undefined = risk_at_coverage_interval([np.inf, 1.0], [0, 1], ["a", "b"], 0.8, RNG(0), n_draws=10)
    assert np.isnan([undefined.low, undefined.high]).all()


def test_draws_at_unit_weights_are_the_risk(monkeypatch):
    rng = RNG(3)
    confidence, error = np.round(rng.normal(size=60), 1), rng.integers(0, 2, 60).astype(float)
    monkeypatch.setattr("dashboards.statistics.bootstrap.patient_weights", lambda n, size, rng: np.ones((size, n)))
    monkeypatch.setattr("dashboards.statistics.selective.percentile_interval", lambda draws, level: draws)
    for coverage in (0.5, 0.8, 1.0):
        drawn = risk_at_coverage_interval(confidence, error, np.arange(60), coverage, rng, n_draws=2)
        assert drawn == pytest.approx([selective_scores(confidence, error, [coverage]).risk_at[coverage]] * 2)


def test_patients_without_an_error_bound_no_risk():
    found = risk_at_coverage_interval(np.arange(20.0), np.zeros(20), np.arange(20), 0.8, RNG(0), n_draws=50)
    assert np.isnan([found.low, found.high]).all()
    assert found.se == 0


def test_who_is_abstained_on():
    confidence, error = np.array([0.9, 0.8, 0.7, 0.2, 0.1, 0.95]), np.array([0, 1, 0, 1, 1, np.nan])
    groups = find_subgroups({"sex": ["F", "F", "M", "M", "M", None]})
    threshold = confidence_threshold(confidence[:5], 0.6)
    assert threshold == 0.7
    female, male, unknown = coverage_by_group(confidence, error, groups, threshold)
    assert (female.group, female.coverage, female.risk) == ("sex=F", 1.0, 0.5)
    assert (male.group, male.coverage, male.risk, male.accepted) == ("sex=M", pytest.approx(1 / 3), 0.0, 1)
    assert (unknown.group, unknown.images) == ("sex=unknown", 0)
    assert np.isnan([unknown.coverage, unknown.risk]).all()
    nobody = coverage_by_group(confidence, error, groups, 2.0)
    assert nobody[0].coverage == 0.0
    assert np.isnan(nobody[0].risk)
    assert np.isnan(confidence_threshold([np.inf, 1.0], 0.5))
    assert all(np.isnan(g.coverage) for g in coverage_by_group(confidence, error, groups, np.nan))


def test_golden_ood_detection():
    found = detect_ood([0.99, 0.9, 0.95, 0.8, 0.7], [0.6, 0.75, 0.5, 0.85])
    assert found.auroc == pytest.approx(0.85)
    assert found.fpr_at_95_tpr == 0.5
    assert (found.n_in, found.n_out) == (5, 4)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_ood_detection_agrees_with_sklearn(seed):
    rng = RNG(seed)
    inside, outside = np.round(rng.normal(1, 1, 60), 1), np.round(rng.normal(0, 1, 30), 1)
    y, score = np.r_[np.ones(60), np.zeros(30)], np.r_[inside, outside]
    found = detect_ood(inside, outside)
    fpr, tpr, _ = roc_curve(y, score, drop_intermediate=False)
    assert found.auroc == pytest.approx(roc_auc_score(y, score))
    assert found.fpr_at_95_tpr == pytest.approx(fpr[tpr >= 0.95].min())
    assert found.aupr_in == pytest.approx(average_precision_score(y, score))
    assert found.aupr_out == pytest.approx(average_precision_score(1 - y, -score))


@pytest.mark.parametrize(("inside", "outside"), [([], [1.0]), ([1.0], []), ([1.0, np.nan], [0.0])])
def test_ood_detection_without_one_side_is_undefined(inside, outside):
    found = detect_ood(inside, outside)
    assert np.isnan([found.auroc, found.fpr_at_95_tpr, found.aupr_in, found.aupr_out]).all()
