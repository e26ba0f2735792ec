"""Published and hand-checked reference values."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import logit
from scipy.stats import norm
from scipy.stats import t as student_t
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

from dashboards.statistics import (
    Influence,
    adjust_p_values,
    auc,
    check_predictions,
    classify,
    combined_interval,
    compute_metrics,
    contrast,
    equivalence_p,
    patient_influence,
    patient_variance,
)
from dashboards.statistics.contrasts import CONDITIONAL_ON_RUN
from dashboards.statistics.discrimination import auc_macro, class_auc

Y = np.array([1] * 5 + [0] * 7)
A = np.array([0.9, 0.8, 0.7, 0.6, 0.3, 0.7, 0.5, 0.4, 0.3, 0.2, 0.1, 0.1])
B = np.array([0.8, 0.9, 0.6, 0.4, 0.5, 0.5, 0.6, 0.3, 0.2, 0.4, 0.1, 0.2])
EACH_ALONE = np.arange(12)
CLUSTERED = np.array([0, 0, 1, 2, 3, 0, 1, 4, 4, 5, 5, 6])


def influence(y, scores, patient) -> Influence:
    return patient_influence("auc", "binary", ["disease"], y, scores, patient)


def seeds_only(values, metric="auc") -> dict[int, Influence]:
    """Runs without any variation between patients."""
    ids, nothing = np.arange(1000), np.zeros(1000)
    return {
        s: Influence(metric=metric, value=v, patients=ids, psi=nothing, min_patients=500) for s, v in enumerate(values)
    }


@pytest.mark.parametrize(
    ("y", "scores", "expected"),
    [
        ([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8], 0.75),
        ([0, 1, 0, 1], [0.5, 0.5, 0.2, 8.3], 0.875),
        (
            [0, 0, 1, 1, 0, 1, 0, 0, 1, 1, 0, 1],
            [0.1, 0.35, 0.24, 0.8, 0.2, 0.85, 0.13, 0.85, 0.74, 0.58, 0.71, 0.25],
            0.7083333333,
        ),
        ([0, 1, 1, 0, 1], [20, 25, 30, 18, 17.9], 2 / 3),
    ],
    ids=["sklearn", "monai_tie", "pauc", "large_logits_do_not_tie"],
)
def test_auc_of_published_examples(y, scores, expected):
    assert auc(y, scores) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("y", [[1, 1, 1], [0, 0, 0], [np.nan, np.nan, 1], []])
def test_auc_of_one_class_is_undefined_not_zero(y):
    assert np.isnan(auc(y, np.arange(len(y))))


def test_delong_variances_and_paired_test():
    a, b = influence(Y, A, EACH_ALONE), influence(Y, B, EACH_ALONE)
    assert (a.value, b.value) == pytest.approx((0.857142857, 0.871428571), abs=1e-9)
    assert patient_variance([(1, a)]).variance == pytest.approx(0.013367347, abs=1e-9)
    assert patient_variance([(1, b)]).variance == pytest.approx(0.010374150, abs=1e-9)
    paired = patient_variance([(1, a), (-1, b)]).variance
    assert (0.013367347 + 0.010374150 - paired) / 2 == pytest.approx(0.006462585, abs=1e-9)
    z = (a.value - b.value) / np.sqrt(paired)
    assert z == pytest.approx(-0.137360564, abs=1e-9)
    assert 2 * norm.sf(abs(z)) == pytest.approx(0.890745801, abs=1e-9)


def test_logit_interval_of_a_single_run():
    """The reference uses the normal quantile; ours the t of the few positives and negatives, so it is wider."""
    estimate = combined_interval({0: influence(Y, A, EACH_ALONE)})
    reach = norm.ppf(0.975) * np.sqrt(0.013367347) / (0.857142857 * 0.142857143)
    reference = 1 / (1 + np.exp(-(logit(0.857142857) + np.array([-reach, reach]))))
    assert reference == pytest.approx((0.48529, 0.97448), abs=1e-5)
    assert 4 <= estimate.df <= 11
    widened = (logit(estimate.high) - logit(estimate.low)) / (2 * reach)
    assert widened == pytest.approx(student_t.ppf(0.975, estimate.df) / norm.ppf(0.975), rel=1e-6)
    assert estimate.notes[0] == CONDITIONAL_ON_RUN


def test_copies_of_an_image_add_no_information():
    y, a, patient = np.repeat(Y, 4), np.repeat(A, 4), np.repeat(EACH_ALONE, 4)
    assert patient_variance([(1, influence(y, a, patient))]).variance == pytest.approx(0.013367347, abs=1e-9)
    assert patient_variance([(1, influence(y, a, np.arange(48)))]).variance == pytest.approx(0.002869077, abs=1e-9)


def test_obuchowski_variances():
    a, b = influence(Y, A, CLUSTERED), influence(Y, B, CLUSTERED)
    assert patient_variance([(1, a)]).variance == pytest.approx(0.010299181, abs=1e-9)
    assert patient_variance([(1, a), (-1, b)]).variance == pytest.approx(0.012421602, abs=1e-9)


def test_contribution_form_used_for_macro_averages():
    psi = influence(Y, A, EACH_ALONE).psi
    assert 12 / 11 * psi @ psi == pytest.approx(0.01196, abs=5e-6)


def test_iris_delong_variance():
    x, y = load_iris(return_X_y=True)
    x_train, x_test, y_train, y_test = train_test_split(x, y == 1, test_size=0.8, random_state=42)
    scores = LogisticRegression(solver="lbfgs").fit(x_train, y_train).predict_proba(x_test)[:, 1]
    found = influence(y_test.astype(float), scores, np.arange(len(y_test)))
    assert found.value == pytest.approx(0.817664, abs=1e-6)
    assert patient_variance([(1, found)]).variance == pytest.approx(0.0015359814789736538, rel=1e-6)


def test_masked_multilabel_auc():
    y = [[1, -1, 0], [0, 1, np.nan], [1, 0, 1], [0, -1, 0], [1, 1, 1], [0, 0, np.nan]]
    s = [[0.9, 0.8, 0.2], [0.3, 0.6, 0.4], [0.6, 0.7, 0.7], [0.7, 0.1, 0.3], [0.8, 0.9, 0.1], [0.2, 0.4, 0.5]]
    found = compute_metrics("multilabel", ["a", "b", "c"], y, s)
    assert [found[f"auc.{k}"] for k in "abc"] == pytest.approx([0.888889, 0.75, 0.5], abs=1e-6)
    assert found["auc_macro"] == pytest.approx(0.712963, abs=1e-6)
    uncertain_as_positive = np.where(np.array(y) == -1, 1.0, y)
    assert compute_metrics("multilabel", ["a", "b", "c"], uncertain_as_positive, s)["auc.b"] == pytest.approx(0.625)


def test_an_undefined_class_is_excluded_and_named():
    y = np.array([[1, 0], [0, 0], [1, 0], [0, 0]], dtype=float)
    predictions = check_predictions("multilabel", ["seen", "absent"], y, np.arange(8.0).reshape(4, 2))
    assert auc_macro(predictions) == (class_auc(predictions, "seen"), ("absent",))
    found = patient_influence("auc_macro", "multilabel", ["seen", "absent"], y, np.arange(8.0).reshape(4, 2), range(4))
    assert (found.classes, found.undefined) == (("seen",), ("absent",))


def test_brier_and_nll_of_probabilities():
    p = np.array([0.05, 0.1, 0.15, 0.2, 0.35, 0.4, 0.55, 0.6, 0.7, 0.8, 0.9, 0.95, 1, 0])
    y = np.array([0, 0, 1, 0, 0, 1, 0, 1, 1, 1, 1, 1, 1, 0])
    z = logit(np.clip(p, 1e-16, 1 - 1e-16))
    found = compute_metrics("binary", ["disease"], y, z)
    assert (found["brier"], found["nll"]) == pytest.approx((0.1330357, 0.4049855), abs=5e-8)


def test_nll_of_logits():
    found = compute_metrics("binary", ["disease"], [1, 0, 1, 0, 0, 1, 1, 0], [2, -1, 3, -2, 1.5, -0.5, 4, -3])
    assert found["nll"] == pytest.approx(0.4197416, abs=5e-8)


def test_multiclass_brier_is_the_full_sum():
    p = np.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.2, 0.2, 0.6]])
    assert compute_metrics("multiclass", list("abc"), [0, 1, 2], np.log(p))["brier"] == pytest.approx(0.14667, abs=5e-6)


def test_adjusted_p_values():
    raw = [0.01, 0.04, 0.03, 0.005]
    assert adjust_p_values(raw, "holm") == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert adjust_p_values(raw, "fdr_bh") == pytest.approx([0.02, 0.04, 0.04, 0.02])
    scipy_docs = [1e-4, 4e-4, 19e-4, 95e-4, 0.0201, 0.0278, 0.0298, 0.0344, 0.0459, 0.324, 0.4262, 0.5719, 0.6528]
    found = adjust_p_values([*scipy_docs, 0.759, 1.0], "fdr_bh")
    expected = [0.0015, 0.003, 0.0095, 0.035625, 0.0603, 0.0638571, 0.0638571, 0.0645]
    assert found[:8] == pytest.approx(expected, abs=5e-8)


def test_without_patient_variation_a_contrast_is_the_paired_t_test():
    a = seeds_only([0.861, 0.868, 0.859, 0.871, 0.866])
    b = seeds_only([0.851, 0.859, 0.856, 0.858, 0.860])
    found = contrast(a, b)
    assert found.value / found.se == pytest.approx(4.782337, abs=5e-7)
    assert found.p == pytest.approx(0.0087605, abs=5e-8)
    assert (found.low, found.high) == pytest.approx((0.003439, 0.012961), abs=5e-7)
    assert found.df == pytest.approx(4)


def test_padchest_contrast_helps_meaningfully_on_seeds_alone():
    """Only mean and SD of the five published paired differences matter to the formula."""
    shape = np.array([-2.0, -1, 0, 1, 2])
    deltas = 0.0133618 + 0.002458 * shape / shape.std(ddof=1)
    found = contrast(seeds_only(0.8 + deltas), seeds_only(np.full(5, 0.8)))
    assert found.value / found.se == pytest.approx(12.155, abs=2e-3)
    assert found.p == pytest.approx(2.63e-4, rel=5e-3)
    assert found.interval(0.9) == pytest.approx((0.01102, 0.01571), abs=6e-6)
    assert classify(found, found.p, delta=0.01) == "helps, meaningfully"
    assert equivalence_p(found, 0.01) > 0.5
