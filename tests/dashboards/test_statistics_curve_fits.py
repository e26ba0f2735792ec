"""Power-law fits recover what was planted, say when they cannot, and are not extrapolated."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dashboards.statistics import (
    draw_means,
    fit_power_law,
    held_out_last_point,
    joint_estimate,
    power_law_band,
    why_not_fit,
)
from tests.dashboards.runs import cell

N = np.array([100, 200, 500, 1000, 2000, 5000, 10000])


def test_reference_curve_is_recovered():
    found = fit_power_law(N, 0.08 + 1.9 * N**-0.45)
    assert (found.floor, found.scale, found.exponent) == pytest.approx((0.08, 1.9, 0.45), abs=1e-7)
    assert found.identified
    assert found.floor + found.scale * 1e5**-found.exponent == pytest.approx(0.0906845, abs=5e-8)


@settings(max_examples=8, deadline=None)
@given(st.floats(0.02, 0.3), st.floats(0.5, 5), st.floats(0.2, 1.0))
def test_noiseless_curves_are_recovered(floor, scale, exponent):
    found = fit_power_law(N, floor + scale * N**-exponent)
    np.testing.assert_allclose(found.predict(N), floor + scale * N**-exponent, rtol=1e-5)
    assert found.exponent == pytest.approx(exponent, rel=0.02)


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 10_000))
def test_units_of_the_amounts_do_not_matter(seed):
    error = 0.08 + 1.9 * N**-0.45 + np.random.default_rng(seed).normal(0, 0.003, len(N))
    one, other = fit_power_law(N, error), fit_power_law(N / 1000, error)
    np.testing.assert_allclose(one.predict(N), other.predict(N / 1000), rtol=1e-4)


def test_a_straight_power_law_has_no_floor_and_a_flat_line_no_exponent():
    assert not fit_power_law(N, 1.9 * N**-0.45).identified
    assert not fit_power_law(N, np.full(len(N), 0.2)).identified


def test_an_outlier_moves_the_fit_less_than_with_squares():
    clean = 0.08 + 1.9 * N**-0.45
    dirty = clean.copy()
    dirty[3] *= 1.5
    found = fit_power_law(N, dirty, se=0.005 * clean)
    assert found.exponent == pytest.approx(0.45, abs=0.05)


def test_too_few_points_or_too_short_a_range_are_not_fitted():
    assert why_not_fit(N) == ""
    assert why_not_fit([1, 2, 3, 3]) == "3 amounts, a fit needs 5"
    assert why_not_fit([10, 12, 15, 18, 20]) == "amounts span 0.3 decades, a fit needs 1.5"
    with pytest.raises(ValueError, match="no fit: 3 amounts"):
        fit_power_law(N[:3], [0.3, 0.2, 0.1])


def test_far_extrapolation_and_scores_of_zero_are_refused():
    found = fit_power_law(N, 0.08 + 1.9 * N**-0.45)
    assert found.predict(20000) < found.predict(10000)
    with pytest.raises(ValueError, match=r"\(0, 20000\]"):
        found.predict([100, 20001])
    with pytest.raises(ValueError, match=r"errors must be positive.*fit 1 - AUC"):
        fit_power_law(N, np.r_[0.0, np.ones(6)])
    with pytest.raises(ValueError, match=r"give \(K,\) amounts"):
        fit_power_law(N, [0.1, 0.2])


def test_the_held_out_point_is_predicted_without_having_been_seen():
    error = 0.08 + 1.9 * N**-0.45
    found = held_out_last_point(N[::-1], error[::-1])
    assert found.predicted == pytest.approx(error[-1], rel=1e-4)
    assert (found.observed, found.last_seen) == pytest.approx((error[-1], error[-2]))
    assert found.better_than_last_seen
    moved = error.copy()
    moved[-1] = 0.5
    assert held_out_last_point(N, moved).predicted == pytest.approx(found.predicted)
    with pytest.raises(ValueError, match="4 amounts, 5 are needed"):
        held_out_last_point(N[:4], error[:4])


def test_the_band_of_whole_curves_covers_the_truth_and_widens_beyond_the_data():
    truth = 0.08 + 1.9 * N**-0.45
    rng = np.random.default_rng(0)
    cells = [cell(e + rng.normal(0, 0.004, 5), patient_sd=0.05, rng_seed=3) for e in truth]
    joint = joint_estimate(cells)
    se = np.sqrt(np.diag(joint.covariance))
    at = np.array([300.0, 10000.0, 20000.0])
    low, high = power_law_band(N, draw_means(joint, 100, rng), at, se)
    assert ((low < 0.08 + 1.9 * at**-0.45) & (0.08 + 1.9 * at**-0.45 < high)).all()
    assert (high - low)[2] / (high + low)[2] > (high - low)[0] / (high + low)[0]


def test_draws_that_cannot_be_fitted_leave_no_band():
    draws = np.tile(0.08 + 1.9 * N**-0.45, (20, 1))
    draws[:2, 0] = -0.1
    low, high = power_law_band(N, draws, [300.0, 400.0])
    assert np.isnan([low, high]).all()
    assert np.shape(low) == (2,)
