"""Degrees of freedom: what they are exactly, and that they give three seeds their coverage."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t as student_t

from dashboards.statistics.degrees_of_freedom import sample_df, satterthwaite


def test_one_variance_keeps_its_own():
    assert satterthwaite([(0.3, 4.0)]) == pytest.approx(4.0)
    assert satterthwaite([(0.3, 4.0), (0.0, 100.0)]) == pytest.approx(4.0)
    assert np.isnan(satterthwaite([(0.0, 4.0)]))
    assert np.isnan(satterthwaite([]))


@given(st.floats(0.01, 10), st.floats(0.01, 10), st.integers(1, 50), st.integers(1, 50))
def test_two_variances_lie_between_the_smaller_and_the_sum(a, b, df_a, df_b):
    found = satterthwaite([(a, df_a), (b, df_b)])
    assert min(df_a, df_b) - 1e-9 <= found <= df_a + df_b + 1e-9


def test_equal_values_have_all_degrees_and_one_value_has_one():
    assert sample_df(np.array([1.0, -1.0] * 50), 100) == 99
    assert sample_df(np.r_[1.0, -1.0, np.zeros(98)], 100) == pytest.approx(5.0)
    assert sample_df(np.r_[1.0, np.full(99, -1 / 99)], 100) == pytest.approx(2.0, abs=0.1)
    assert sample_df(np.zeros(10), 10) == 9


def test_normal_values_have_nearly_all_degrees_and_ten_of_three_hundred_have_ten():
    rng = np.random.default_rng(0)
    assert np.mean([sample_df(rng.normal(size=200), 200) for _ in range(300)]) == pytest.approx(195, rel=0.03)
    few = [sample_df(np.r_[rng.normal(size=10), 0.01 * rng.normal(size=290)], 300) for _ in range(300)]
    assert np.median(few) == pytest.approx(11, abs=2.5)


@pytest.mark.parametrize("share", [0.05, 0.1, 0.2, 0.5])
def test_three_seeds_cover_in_the_worst_normal_case(share):
    """Patients make ``share`` of the variance. The plain formula without (df + 2) / df covers 0.922 at a tenth."""
    rng, n = np.random.default_rng(1), 20_000
    case = share * rng.chisquare(199, n) / 199
    seeds = (1 - share) * rng.chisquare(2, n) / 2
    df = np.array([satterthwaite([(c, 199.0), (s, 2.0)]) for c, s in zip(case, seeds, strict=True)])
    covered = np.abs(rng.normal(size=n)) <= student_t.ppf(0.975, df) * np.sqrt(case + seeds)
    assert covered.mean() >= 0.935
