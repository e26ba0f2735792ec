"""Questions over ladders are one linear contrast."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dashboards.statistics import area_coefficients, contrast, difference_terms, linear_contrast, slope_coefficients
from tests.dashboards.runs import cell


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(1, 1e6), min_size=2, max_size=8, unique=True), st.integers(0, 1000))
def test_area_is_the_trapezoid_in_log_amounts(amounts, seed):
    n = np.sort(amounts)
    if np.min(np.diff(np.log(n))) < 1e-3:
        return
    heights = np.random.default_rng(seed).normal(size=len(n))
    expected = np.trapezoid(heights, np.log(n)) / np.log(n[-1] / n[0])
    assert area_coefficients(n) @ heights == pytest.approx(expected, abs=1e-9)
    assert area_coefficients(n).sum() == pytest.approx(1.0)


def test_area_between_curves_is_zero_between_equal_curves_and_constant_between_parallel_ones():
    curve = [cell([0.7, 0.72, 0.71]), cell([0.8, 0.81, 0.83])]
    better = [cell([0.75, 0.77, 0.76]), cell([0.85, 0.86, 0.88])]
    weights = area_coefficients([100, 1000])
    assert linear_contrast(difference_terms(curve, curve, weights)).value == 0.0
    assert linear_contrast(difference_terms(better, curve, weights)).value == pytest.approx(0.05)


def test_difference_of_differences_by_name():
    cells = [cell([v, v + 0.01], patient_sd=0.1, rng_seed=n) for n, v in enumerate((0.9, 0.8, 0.7, 0.65))]
    found = linear_contrast(difference_terms([cells[0], cells[2]], [cells[1], cells[3]], [1, -1]))
    large, small = contrast(cells[0], cells[1]), contrast(cells[2], cells[3])
    assert found.value == pytest.approx(large.value - small.value)


def test_growth_of_the_benefit_with_scale_is_the_slope_of_the_benefits():
    x = np.log10([1e6, 1e7, 1e8])
    source, baseline = [cell([v, v]) for v in (0.7, 0.8, 0.95)], [cell([v, v]) for v in (0.68, 0.75, 0.85)]
    found = linear_contrast(difference_terms(source, baseline, slope_coefficients(x)))
    assert found.value == pytest.approx(np.polyfit(x, [0.02, 0.05, 0.10], 1)[0])


@pytest.mark.parametrize("amounts", [[100], [100, 100], [0, 10], [10, 5], [1, np.nan]])
def test_amounts_that_make_no_area_are_refused(amounts):
    with pytest.raises(ValueError, match=r"increase|finite"):
        area_coefficients(amounts)


def test_ladders_of_unequal_length_are_refused():
    with pytest.raises(ValueError, match="1 cells, 2 baselines, 1 coefficients"):
        difference_terms([cell([1.0])], [cell([1.0])] * 2, [1.0])
