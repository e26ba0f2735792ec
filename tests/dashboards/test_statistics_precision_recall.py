"""Average precision and ECE as recorded metrics: oracles, derivatives, and how they meet the bootstrap."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import average_precision_score
from torchmetrics.functional.classification import binary_average_precision

from dashboards.statistics import (
    average_precision,
    bootstrap_draws,
    check_predictions,
    combined_interval,
    compute_metrics,
    expected_calibration_error,
    outcome_pairs,
    patient_influence,
    patient_variance,
    patient_weights,
    percentile_interval,
)
from dashboards.statistics.precision_recall import average_precision_derivative, ranking, weighted_average_precision

BINARY = st.integers(2, 40).flatmap(
    lambda n: st.tuples(
        hnp.arrays(np.int64, n, elements=st.integers(0, 1)),
        hnp.arrays(np.float64, n, elements=st.integers(-4, 4)),
    )
)


def binary(seed=0, n_patients=200, bias=0.0):
    """Two images per patient with an effect of the patient; ``bias`` is added to the logits."""
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(n_patients), 2)
    y = (rng.random(n_patients) < 0.3)[patient].astype(float)
    z = rng.normal(size=n_patients)[patient] + rng.normal(size=len(y)) + 2 * y - 1.5 + bias
    return y, z, patient


def test_golden_value():
    assert average_precision([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]) == pytest.approx(0.8333333333)


@settings(deadline=None)
@given(BINARY)
def test_agrees_with_sklearn_where_both_classes_occur(drawn):
    y, scores = drawn
    found = average_precision(y, scores)
    if 0 < y.sum() < len(y):
        assert found == pytest.approx(average_precision_score(y, scores), abs=1e-12)
        reference = binary_average_precision(torch.tensor(scores / 10 + 0.5), torch.tensor(y))
        assert found == pytest.approx(float(reference), abs=1e-6)
    else:
        assert np.isnan(found)


def test_one_class_is_undefined_where_others_say_0_or_1():
    scores = [0.1, 0.2, 0.3]
    with pytest.warns(UserWarning, match="No positive class"):
        assert average_precision_score([0, 0, 0], scores) == 0
    assert average_precision_score([1, 1, 1], scores) == 1
    assert np.isnan([average_precision([0, 0, 0], scores), average_precision([1, 1, 1], scores)]).all()


def test_scores_that_all_tie_give_the_prevalence():
    assert average_precision([1, 0, 0, 0, 1], np.zeros(5)) == pytest.approx(0.4)


@settings(max_examples=50, deadline=None)
@given(BINARY, st.integers(0, 2**32 - 1))
def test_neither_row_order_nor_a_monotone_transform_matters(drawn, seed):
    y, scores = drawn
    order = np.random.default_rng(seed).permutation(len(y))
    before = average_precision(y, scores)
    np.testing.assert_allclose(average_precision(y[order], np.arctan(scores[order])), before, atol=1e-12)


def test_derivative_is_the_change_under_a_changed_weight():
    rng = np.random.default_rng(3)
    positive, scores = rng.random(30) < 0.4, np.round(rng.normal(size=30), 1)
    found, step = average_precision_derivative(positive, scores), 1e-6
    weights = np.ones((60, 30))
    weights[np.arange(30), np.arange(30)] += step
    weights[30 + np.arange(30), np.arange(30)] -= step
    moved = weighted_average_precision(ranking(positive, scores), weights)
    np.testing.assert_allclose(found, (moved[:30] - moved[30:]) / (2 * step), atol=1e-8)
    assert found.sum() == pytest.approx(0, abs=1e-12)


def test_weights_repeat_images():
    rng = np.random.default_rng(1)
    positive, scores = rng.random(25) < 0.4, np.round(rng.normal(size=25), 1)
    times = rng.integers(0, 4, 25)
    repeated = average_precision(np.repeat(positive, times), np.repeat(scores, times))
    found = weighted_average_precision(ranking(positive, scores), times[None].astype(float))
    assert found[0] == pytest.approx(repeated)


def test_recorded_names_of_each_kind():
    y, z, _ = binary()
    found = compute_metrics("binary", ["d"], y, z)
    assert found["ap"] == pytest.approx(average_precision_score(y, z))
    assert found["ece"] == pytest.approx(expected_calibration_error(y, 1 / (1 + np.exp(-z))))
    two = compute_metrics("multilabel", ["a", "b"], np.c_[y, 1 - y], np.c_[z, z])
    assert two["ap_macro"] == pytest.approx((two["ap.a"] + two["ap.b"]) / 2)
    each = [expected_calibration_error(*outcome_pairs(check_predictions("binary", ["d"], t, z))) for t in (y, 1 - y)]
    assert two["ece"] == pytest.approx(np.mean(each))
    classes = compute_metrics("multiclass", ["a", "b"], y.astype(int), np.c_[np.zeros(len(z)), z])
    assert classes["ap.b"] == pytest.approx(found["ap"])
    confident = np.maximum(1 / (1 + np.exp(-z)), 1 / (1 + np.exp(z)))
    assert classes["ece"] == pytest.approx(expected_calibration_error((z > 0) == (y == 1), confident))


def test_ece_spread_agrees_with_the_bootstrap_where_it_is_smooth_and_is_wider_where_it_is_not():
    """Away from calibration no bin's gap changes sign; near it the bootstrap sees the fold of the absolute value."""
    for bias, least, most in ((2.0, 0.93, 1.07), (0.0, 1.0, 2.0)):
        y, z, patient = binary(bias=bias)
        closed = np.sqrt(patient_variance([(1.0, patient_influence("ece", "binary", ["d"], y, z, patient))]).variance)
        weights = patient_weights(200, 3000, np.random.default_rng(0))
        drawn = percentile_interval(bootstrap_draws("ece", "binary", ["d"], y, z, patient, weights))
        assert least < closed / drawn.se < most


def test_intervals_of_the_new_metrics_stay_inside_their_range():
    y, z, patient = binary(n_patients=40)
    for metric in ("ap", "ece"):
        found = combined_interval({0: patient_influence(metric, "binary", ["d"], y, z, patient)})
        assert 0 < found.low < found.value < found.high < 1
