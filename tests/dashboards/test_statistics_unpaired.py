"""The papers' tests, against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dashboards.statistics import contrast, unpaired_t_test
from tests.dashboards.runs import cell

VALUES = st.lists(st.floats(0.5, 0.99), min_size=2, max_size=10)


@settings(max_examples=30, deadline=None)
@given(VALUES, VALUES, st.booleans())
def test_equals_scipy(a, b, equal_variances):
    if np.std(a) < 1e-6 or np.std(b) < 1e-6:
        return
    found = unpaired_t_test(cell(a), cell(b), equal_variances=equal_variances)
    oracle = stats.ttest_ind(a, b, equal_var=equal_variances)
    assert (found.p, found.df, found.difference) == pytest.approx((oracle.pvalue, oracle.df, np.mean(a) - np.mean(b)))
    assert (found.low, found.high) == pytest.approx(tuple(oracle.confidence_interval(0.95)))


def test_patients_do_not_enter_it():
    """What is wrong with it: the same two models on few or on many patients give the same interval."""
    a, b = [0.86, 0.87, 0.88], [0.85, 0.84, 0.86]
    for patient_sd in (0.0, 1.0):
        found = unpaired_t_test(cell(a, patient_sd, rng_seed=1), cell(b, patient_sd, rng_seed=2))
        assert found.p == pytest.approx(stats.ttest_ind(a, b, equal_var=False).pvalue)
    assert contrast(cell(a, 1.0, rng_seed=1), cell(b, 1.0, rng_seed=2)).p > 0.5


def test_groups_of_one_and_equal_values_are_undefined():
    one = unpaired_t_test(cell([0.8]), cell([0.7, 0.9]))
    assert np.isnan([one.difference, one.p]).all()
    assert (one.n_a, one.n_b) == (1, 2)
    constant = unpaired_t_test(cell([0.8, 0.8]), cell([0.7, 0.7]))
    assert constant.difference == pytest.approx(0.1)
    assert np.isnan(constant.p)


def test_undefined_runs_are_left_out():
    found = unpaired_t_test(cell([0.8, 0.81, float("nan")]), cell([0.7, 0.72]))
    assert found.n_a == 2


@pytest.mark.parametrize("equal_variances", [True, False])
def test_a_side_that_agrees_to_rounding_has_no_spread_of_its_own(equal_variances):
    alike, spread = [0.5, 0.5, 0.5 + 1e-16], [0.6, 0.7, 0.8]
    found = unpaired_t_test(cell(alike), cell(spread), equal_variances=equal_variances)
    assert found.difference == pytest.approx(-0.2)
    assert 0 < found.p < 0.2
    assert np.isnan(unpaired_t_test(cell(alike), cell([0.5, 0.5 + 1e-15])).p)


@pytest.mark.parametrize("higher_is_better", [True, False])
def test_one_sided_p_is_scipys(higher_is_better):
    a, b = [0.86, 0.87, 0.88], [0.85, 0.84, 0.86]
    side = "greater" if higher_is_better else "less"
    expected = stats.ttest_ind(a, b, equal_var=False, alternative=side).pvalue
    assert unpaired_t_test(cell(a), cell(b)).one_sided_p(higher_is_better=higher_is_better) == pytest.approx(expected)
