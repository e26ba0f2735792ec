"""Calibration errors, recalibration and reliability: golden values, oracles, and what cannot be estimated."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit, softmax
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression
from statsmodels.api import GLM, Logit, families
from torchmetrics.functional.classification import binary_calibration_error, multiclass_calibration_error

from dashboards.statistics import (
    adaptive_calibration_error,
    apply_temperature,
    assess_calibration,
    brier_skill,
    check_predictions,
    compute_metrics,
    expected_calibration_error,
    fit_temperature,
    logistic_calibration,
    maximum_calibration_error,
    null_errors,
    outcome_pairs,
    plug_in_l2_error,
    prior_corrected,
    reliability_bins,
    squared_l2_error,
)
from dashboards.statistics import recalibration as why

RNG = np.random.default_rng
P12 = np.array([0.05, 0.1, 0.15, 0.2, 0.35, 0.4, 0.55, 0.6, 0.7, 0.8, 0.9, 0.95, 1, 0])
Y12 = np.array([0, 0, 1, 0, 0, 1, 0, 1, 1, 1, 1, 1, 1, 0])
Z13 = np.array([2, -1, 3, -2, 1.5, -0.5, 4, -3])
Y13 = np.array([1, 0, 1, 0, 0, 1, 1, 0])
PAIRS = st.integers(1, 60).flatmap(
    lambda n: st.tuples(
        hnp.arrays(np.float64, n, elements=st.sampled_from([0.0, 1.0, np.nan])),
        hnp.arrays(np.float64, n, elements=st.floats(0, 1)),
    )
)


def calibrated(n, seed=0):
    """Outcomes drawn with their own probability, Beta(1, 8)."""
    rng = RNG(seed)
    p = rng.beta(1, 8, n)
    return (rng.random(n) < p).astype(float), p


def multiclass(seed=0, n=300, scale=1.0):
    rng = RNG(seed)
    y = rng.integers(0, 4, n)
    return y, scale * (rng.normal(size=(n, 4)) + 1.2 * np.eye(4)[y])


def test_golden_errors():
    pairs = [0, 0, 1, 1, 1], [0.25, 0.25, 0.55, 0.75, 0.75]
    assert expected_calibration_error(*pairs, 2) == pytest.approx(0.29)
    assert plug_in_l2_error(*pairs, 2) == pytest.approx(0.2918, abs=5e-5)
    assert maximum_calibration_error(*pairs, 2) == pytest.approx(0.3167, abs=5e-5)
    assert expected_calibration_error(Y12, P12, 5) == pytest.approx(0.1107143, abs=5e-8)
    assert plug_in_l2_error(Y12, P12, 5, equal_mass=True) == pytest.approx(0.1271248, abs=5e-8)
    assert adaptive_calibration_error(Y12, P12, 5) == pytest.approx(0.1107143, abs=5e-8)
    assert squared_l2_error(Y12, P12, 5) == pytest.approx(-0.0314583, abs=5e-8)
    assert assess_calibration(Y12, P12, RNG(0), 5).l2 == 0.0


def test_golden_top_label_error():
    """The example of torchmetrics' documentation of its multiclass calibration error."""
    p = np.array([[0.25, 0.20, 0.55], [0.55, 0.05, 0.40], [0.10, 0.30, 0.60], [0.90, 0.05, 0.05]])
    predictions = check_predictions("multiclass", list("abc"), [0, 1, 2, 0], np.log(p))
    pairs = outcome_pairs(predictions)
    for norm, error, value in (
        ("l1", expected_calibration_error, 0.2),
        ("l2", plug_in_l2_error, 0.2082),
        ("max", maximum_calibration_error, 0.2333),
    ):
        reference = multiclass_calibration_error(torch.tensor(p), torch.tensor([0, 1, 2, 0]), 3, 3, norm)
        assert error(*pairs, 3) == pytest.approx(float(reference)) == pytest.approx(value, abs=5e-5)


@pytest.mark.parametrize("error", [plug_in_l2_error, maximum_calibration_error])
def test_errors_without_a_labelled_image_are_undefined(error):
    assert np.isnan(error([np.nan, np.nan], [0.2, 0.3]))
    assert np.isnan(error([1, 0], [np.nan, 0.3]))


def test_a_probability_of_1_shares_the_last_bin_where_torchmetrics_gives_it_one_of_its_own():
    y, p = [1, 0, 1], [1.0, 1.0, 0.95]
    assert expected_calibration_error(y, p, 10) == pytest.approx(abs(2 / 3 - 2.95 / 3))
    reference = binary_calibration_error(torch.tensor(p), torch.tensor(y), n_bins=10)
    assert float(reference) == pytest.approx(0.35)


def test_bins_are_closed_above():
    """torchmetrics closes them below: another number where probabilities lie on an edge."""
    reference = binary_calibration_error(torch.tensor(P12[:12]), torch.tensor(Y12[:12]), n_bins=5)
    ours = expected_calibration_error(Y12[:12], P12[:12], 5)
    assert abs(float(reference) - ours) > 0.01
    inside = P12[:12] + 0.001
    reference = binary_calibration_error(torch.tensor(inside), torch.tensor(Y12[:12]), n_bins=5)
    assert expected_calibration_error(Y12[:12], inside, 5) == pytest.approx(float(reference), abs=1e-6)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 20))
def test_agrees_with_torchmetrics_inside_bins(seed, n_bins):
    rng = RNG(seed)
    p, y = rng.random(100), rng.integers(0, 2, 100)
    reference = binary_calibration_error(torch.tensor(p), torch.tensor(y), n_bins=n_bins)
    assert expected_calibration_error(y, p, n_bins) == pytest.approx(float(reference), abs=1e-6)


@settings(deadline=None)
@given(PAIRS, st.integers(0, 2**32 - 1))
def test_row_order_and_masked_rows_change_no_error(drawn, seed):
    y, p = drawn
    order = RNG(seed).permutation(len(y))
    for error in (expected_calibration_error, adaptive_calibration_error, squared_l2_error):
        value = error(y, p, 5)
        np.testing.assert_allclose(error(y[order], p[order], 5), value, atol=1e-12)
        np.testing.assert_allclose(error(np.r_[y, np.nan], np.r_[p, 0.3], 5), value, atol=1e-12)
        assert np.isnan(value) or abs(value) <= 1


def test_errors_are_biased_upwards_and_the_debiased_one_is_not():
    """Perfectly calibrated Beta(1, 8): ECE about .061 and .0144 at 100 and 2000 images, its null says the same."""
    for n, expected in ((100, 0.061), (2000, 0.0144)):
        found = [assess_calibration(*calibrated(n, seed), RNG(seed), n_draws=50) for seed in range(60)]
        ece = np.mean([f.ece for f in found])
        assert ece == pytest.approx(expected, rel=0.12)
        assert np.mean([f.null_median for f in found]) == pytest.approx(ece, rel=0.1)
        squared = np.array([f.squared_l2 for f in found])
        assert abs(squared.mean()) < 3 * squared.std() / np.sqrt(60)
        assert 0.4 < np.mean([f.p_value for f in found]) < 0.6


def test_miscalibration_is_told_from_chance():
    y, p = calibrated(1000)
    found = assess_calibration(y, np.sqrt(p), RNG(0))
    assert found.ece > 5 * found.null_median
    assert found.p_value == 1 / 201
    assert found.squared_l2 > 0
    assert (found.n, found.n_positive) == (1000, y.sum())


def test_null_draws_do_not_depend_on_how_they_are_chunked(monkeypatch):
    _, p = calibrated(50)
    whole = null_errors(p, RNG(1), n_draws=20)
    monkeypatch.setattr("dashboards.statistics.calibration_error._CHUNK_VALUES", 300)
    np.testing.assert_array_equal(null_errors(p, RNG(1), n_draws=20), whole)


def test_nothing_known_is_nan_throughout():
    found = assess_calibration([np.nan, np.nan], [0.2, 0.3], RNG(0))
    assert np.isnan([found.ece, found.null_median, found.p_value, found.ace, found.squared_l2, found.l2]).all()
    infinite = assess_calibration([1, 0], [np.nan, 0.3], RNG(0))
    assert np.isnan([infinite.ece, infinite.null_median, infinite.p_value, infinite.ace]).all()
    assert np.isnan(squared_l2_error([1, 0], [0.3, 0.4], 5))


def test_one_infinite_logit_makes_the_ece_undefined_and_a_masked_one_does_not():
    y, z = np.array([1, 0, 1, np.nan]), np.array([1.0, -1, 2, np.inf])
    assert np.isfinite(compute_metrics("binary", ["d"], y, z)["ece"])
    assert np.isnan(compute_metrics("binary", ["d"], np.nan_to_num(y), z)["ece"])
    c, logits = multiclass(n=20)
    logits[3, 1] = np.inf
    assert np.isnan(compute_metrics("multiclass", list("abcd"), c, logits)["ece"])
    c[3] = -1
    assert np.isfinite(compute_metrics("multiclass", list("abcd"), c, logits)["ece"])


@pytest.mark.parametrize(
    ("y", "p", "message"),
    [
        ([0, 2], [0.1, 0.2], "0, 1 and NaN"),
        ([0, 1], [0.1, 1.2], r"must lie in \[0, 1\]"),
        ([0, 1], [0.1], r"shape \(N,\)"),
    ],
)
def test_pairs_that_are_none_are_refused(y, p, message):
    with pytest.raises(ValueError, match=message):
        expected_calibration_error(y, p)


def test_flavours_are_not_mixed():
    y, z = multiclass()
    predictions = check_predictions("multiclass", list("abcd"), y, z)
    outcome, p = outcome_pairs(predictions, "b")
    np.testing.assert_array_equal(outcome, y == 1)
    np.testing.assert_allclose(p, softmax(z, axis=1)[:, 1])
    with pytest.raises(ValueError, match="per label"):
        outcome_pairs(check_predictions("multilabel", ["a", "b"], np.zeros((2, 2)), np.zeros((2, 2))))
    with pytest.raises(ValueError, match="n_bins must be at least 1"):
        expected_calibration_error([1], [0.5], 0)


def test_brier_skill():
    y, p = calibrated(500)
    found = brier_skill(check_predictions("binary", ["d"], y, logit(p)))
    assert found["d"] == pytest.approx(1 - np.mean((p - y) ** 2) / (y.mean() * (1 - y.mean())))
    prevalence = brier_skill(check_predictions("binary", ["d"], y, np.full(500, logit(y.mean()))))
    assert prevalence["d"] == pytest.approx(0, abs=1e-12)
    c, _ = multiclass()
    share = np.bincount(c) / len(c)
    flat = brier_skill(check_predictions("multiclass", list("abcd"), c, np.tile(np.log(share), (len(c), 1))))
    assert flat == {"all": pytest.approx(0, abs=1e-12)}
    assert np.isnan(brier_skill(check_predictions("binary", ["d"], [1, 1], [0.0, 1.0]))["d"])
    assert np.isnan(brier_skill(check_predictions("binary", ["d"], [np.nan], [0.0]))["d"])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_slope_and_intercepts_agree_with_statsmodels(seed):
    rng = RNG(seed)
    z = rng.normal(size=80) * 2
    y = (rng.random(80) < expit(0.6 * z - 0.5)).astype(float)
    found = logistic_calibration(np.r_[y, np.nan], np.r_[z, np.inf])
    reference = Logit(y, np.c_[np.ones(80), z]).fit(disp=0)
    assert (found.intercept, found.slope) == pytest.approx(tuple(reference.params), abs=1e-5)
    offset = GLM(y, np.ones((80, 1)), family=families.Binomial(), offset=z).fit()
    assert found.intercept_at_slope_1 == pytest.approx(offset.params[0], abs=1e-6)
    assert found.in_the_large == pytest.approx(expit(z).mean() - y.mean())
    assert (found.n, found.n_positive, found.note) == (80, y.sum(), "")


def test_slope_undoes_what_was_done_to_calibrated_logits():
    y, p = calibrated(20000)
    found = logistic_calibration(y, 2.0 * logit(p) + 1.0)
    assert (found.slope, found.intercept) == pytest.approx((0.5, -0.5), abs=0.03)
    shifted = logistic_calibration(y, logit(p) + 1.0)
    assert shifted.intercept_at_slope_1 == pytest.approx(-1.0, abs=0.05)
    assert shifted.in_the_large > 0


def test_large_logits_do_not_overflow():
    rng = RNG(0)
    z = rng.normal(size=200) * 5000 + 20000
    y = (rng.random(200) < expit((z - 20000) / 5000)).astype(float)
    assert logistic_calibration(y, z).slope == pytest.approx(1 / 5000, rel=0.5)


@pytest.mark.parametrize(
    ("y", "z", "note", "known"),
    [
        ([1, 1, 1], [0.1, 0.2, 0.3], why.ONE_CLASS, True),
        ([0, 0, 1, 1], [0.1, 0.2, 0.3, 0.4], why.SEPARATED, True),
        ([1, 1, 0, 0], [0.1, 0.2, 0.2, 0.4], why.SEPARATED, True),
        ([0, 1, 0], [0.5, 0.5, 0.5], why.CONSTANT, True),
        ([0, 1], [np.inf, 0.5], why.NOT_FINITE, False),
        ([np.nan], [0.5], why.NO_IMAGE, False),
    ],
)
def test_a_slope_that_does_not_exist_is_nan_with_its_reason(y, z, note, known):
    found = logistic_calibration(y, z)
    assert np.isnan(found.slope)
    assert np.isnan(found.intercept)
    assert found.note == note
    assert np.isfinite(found.in_the_large) == known


def test_golden_temperature():
    (found,) = fit_temperature(check_predictions("binary", ["d"], Y13, Z13))
    assert found.value == pytest.approx(1.173913, abs=5e-7)
    assert (found.nll_before, found.nll_after) == pytest.approx((0.4197416, 0.4155124), abs=5e-8)


@pytest.mark.parametrize("scale", [0.2, 5.0])
def test_temperature_minimises_the_nll_of_a_softmax(scale):
    y, z = multiclass(scale=scale)
    (found,) = fit_temperature(check_predictions("multiclass", list("abcd"), y, z))

    def nll(log_t):
        return compute_metrics("multiclass", list("abcd"), y, z / np.exp(log_t))["nll"]

    best = minimize_scalar(nll, bounds=(-4, 4), method="bounded", options={"xatol": 1e-10})
    assert found.value == pytest.approx(np.exp(best.x), rel=1e-5)
    assert (found.nll_before, found.nll_after) == pytest.approx((nll(0), best.fun))
    assert found.name == "all"


def test_temperature_agrees_with_sklearn_on_one_logit():
    """Without intercept and penalty, a logistic regression of one logit has 1/T as its coefficient."""
    rng = RNG(2)
    z = rng.normal(size=400) * 3
    y = (rng.random(400) < expit(z / 2.5)).astype(float)
    (found,) = fit_temperature(check_predictions("binary", ["d"], y, z))
    reference = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10).fit(z[:, None], y)
    assert 1 / found.value == pytest.approx(reference.coef_[0, 0], rel=1e-4)


def test_one_temperature_per_label_and_what_cannot_be_estimated_stays_undefined():
    rng = RNG(0)
    z = rng.normal(size=(200, 5)) * 3
    y = (rng.random((200, 5)) < expit(z / [1, 3, 1, 1, 1])).astype(float)
    y[:, 2] = 1.0
    y[:, 3] = z[:, 3] > 0
    y[:, 4] = z[:, 4] < 0
    validation = check_predictions("multilabel", list("abcde"), y, z)
    found = fit_temperature(validation)
    assert found[1].value == pytest.approx(3 * found[0].value, rel=0.4)
    assert [t.note for t in found] == ["", "", why.ONE_CLASS, why.SEPARATED, why.NOT_INFORMATIVE]
    assert np.isnan([t.value for t in found[2:]]).all()
    scaled = apply_temperature(z, found)
    np.testing.assert_allclose(scaled[:, 1], z[:, 1] / found[1].value)
    assert np.isnan(scaled[:, 2:]).all()
    with pytest.raises(ValueError, match="one per column"):
        apply_temperature(z, found[:2])


@pytest.mark.parametrize(
    ("y", "z", "note"),
    [
        ([0, 1, 2], np.eye(3), why.SEPARATED),
        ([1, 1, 1], np.eye(3), why.ONE_CLASS),
        ([0, 1, 2], np.eye(3)[[1, 2, 0]], why.NOT_INFORMATIVE),
        ([-1, -1, -1], np.eye(3), why.NO_IMAGE),
        ([0, 1, 2], np.diag([np.inf, 1, 1]), why.NOT_FINITE),
    ],
)
def test_a_softmax_temperature_that_does_not_exist(y, z, note):
    (found,) = fit_temperature(check_predictions("multiclass", list("abc"), y, z))
    assert np.isnan(found.value)
    assert found.note == note


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.1, 10))
def test_scaling_by_a_temperature_changes_no_rank(seed, factor):
    y, z = multiclass(seed, n=60)
    (found,) = fit_temperature(check_predictions("multiclass", list("abcd"), y, z * factor))
    before = compute_metrics("multiclass", list("abcd"), y, z * factor)
    after = compute_metrics("multiclass", list("abcd"), y, apply_temperature(z * factor, [found]))
    assert after["accuracy"] == before["accuracy"]
    assert after["nll"] <= before["nll"] + 1e-12


def test_prior_correction():
    """0.8 at prevalence .5 becomes .3077 at .1; twice there and back is where it was."""
    predictions = check_predictions("binary", ["d"], [1.0], [logit(0.8)])
    moved = prior_corrected(predictions, [0.5], [0.1])
    assert expit(moved)[0, 0] == pytest.approx(0.3077, abs=5e-5)
    back = prior_corrected(check_predictions("binary", ["d"], [1.0], moved), [0.1], [0.5])
    np.testing.assert_allclose(back, predictions.logits)
    y, z = multiclass()
    source, target = np.full(4, 0.25), np.array([0.1, 0.2, 0.3, 0.4])
    found = softmax(prior_corrected(check_predictions("multiclass", list("abcd"), y, z), source, target), axis=1)
    expected = softmax(z, axis=1) * target / source
    np.testing.assert_allclose(found, expected / expected.sum(axis=1, keepdims=True))


def test_prior_correction_that_is_not_defined():
    predictions = check_predictions("multilabel", ["a", "b", "c"], np.zeros((2, 3)), np.zeros((2, 3)))
    found = prior_corrected(predictions, [0.5, 0.5, 0.5], [0.1, 0.0, np.nan])
    assert np.isnan(found).any(axis=0).tolist() == [False, True, True]
    with pytest.raises(ValueError, match="target must hold shares"):
        prior_corrected(predictions, [0.5, 0.5, 0.5], [0.1, 1.5, 0.2])
    with pytest.raises(ValueError, match="one share for each"):
        prior_corrected(predictions, [0.5], [0.1, 0.2, 0.3])


@pytest.mark.parametrize("equal_mass", [False, True])
def test_reliability_agrees_with_sklearn(equal_mass):
    y, p = calibrated(400)
    found = reliability_bins(y, p, np.arange(400), RNG(0), n_bins=8, equal_mass=equal_mass)
    strategy = "quantile" if equal_mass else "uniform"
    observed, mean_p = calibration_curve(y, p, n_bins=8, strategy=strategy)
    np.testing.assert_allclose([b.mean_probability for b in found], mean_p, atol=2e-3)
    np.testing.assert_allclose([b.observed.value for b in found], observed, atol=0.02)
    assert sum(b.observed.images for b in found) == 400
    assert all(b.low <= b.mean_probability <= b.high for b in found)
    assert all(b.observed.low <= b.observed.value <= b.observed.high for b in found)


def test_reliability_of_ties_and_of_nothing():
    (one,) = reliability_bins([1, 0, 1], [0.4, 0.4, 0.4], list("abc"), RNG(0), equal_mass=True)
    assert (one.mean_probability, one.observed.value) == pytest.approx((0.4, 2 / 3))
    assert reliability_bins([np.nan], [0.4], ["a"], RNG(0)) == ()
    assert reliability_bins([1, 0], [np.nan, 0.4], ["a", "b"], RNG(0)) == ()
