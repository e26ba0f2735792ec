"""One number over tasks: rliable's values, limits, pairs against all pairs, and what cannot be said."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dashboards.statistics import improvement, interquartile_mean, normalised_scores, paired_improvement

RNG = np.random.default_rng
X = np.array([[1, 2], [2, 2], [1, 1], [2, 1]], dtype=float)
Y = np.array([[1, 1], [2, 2], [3, 3]], dtype=float)
"""Runs by tasks, as in the tests of rliable."""


def by_task(runs):
    return list(np.asarray(runs, dtype=float).T)


def test_values_of_rliable():
    assert interquartile_mean(by_task(X), RNG(0)).value == 1.5
    assert interquartile_mean(by_task(Y), RNG(0)).value == 2.0
    assert improvement(by_task(X[:, :1]), by_task(Y[:, :1]), RNG(0)).value == pytest.approx(1 / 3)
    assert interquartile_mean([np.array([1.0, 2.0, 10.0])], RNG(0)).value == pytest.approx(13 / 3)  # nothing is cut off


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 4), st.integers(1, 8), st.integers(1, 8))
def test_improvement_is_mann_whitneys_share_of_pairs(seed, tasks, ours, theirs):
    rng = RNG(seed)
    a, b = rng.integers(0, 4, (tasks, ours)).astype(float), rng.integers(0, 4, (tasks, theirs)).astype(float)
    share = [stats.mannwhitneyu(x, y).statistic / (ours * theirs) for x, y in zip(a, b, strict=True)]
    found = improvement(list(a), list(b), RNG(0))
    assert found.value == pytest.approx(np.mean(share))
    assert improvement(list(b), list(a), RNG(0)).value == pytest.approx(1 - found.value)


def test_pairs_see_what_the_spread_between_seeds_hides():
    base = [np.arange(6.0), np.arange(6.0) * 2]
    better = [of_task + 0.1 for of_task in base]
    paired = paired_improvement(better, base, RNG(0))
    assert (paired.value, paired.low, paired.high) == (1, 1, 1)
    assert improvement(better, base, RNG(0)).value < 0.65
    assert paired_improvement(base, base, RNG(0)).value == 0.5


def test_intervals_cover_the_truth_as_often_as_they_say():
    """Two equally good sides, 10 seeds on 5 tasks."""
    covered = 0
    for seed in range(200):
        sides = RNG(seed).normal(size=(2, 5, 10))
        found = improvement(list(sides[0]), list(sides[1]), RNG(seed))
        covered += found.low <= 0.5 <= found.high
    assert 0.88 <= covered / 200 <= 0.99


def test_two_seeds_give_a_value_and_no_interval():
    found = interquartile_mean([np.array([0.1, 0.2]), np.array([0.3, 0.4, 0.5])], RNG(0))
    assert found.value == pytest.approx(0.3)
    assert np.isnan([found.low, found.high]).all()


def test_equal_draws_from_equal_generators():
    assert interquartile_mean(by_task(X), RNG(3)) == interquartile_mean(by_task(X), RNG(3))


@pytest.mark.parametrize(
    ("ours", "theirs", "message"),
    [
        ([], [], "at least one score"),
        ([np.array([1.0, np.nan])], [np.array([1.0, 2.0])], "none may be NaN"),
        ([np.array([1.0])], [np.array([1.0]), np.array([1.0])], "the same tasks, got 1 and 2"),
    ],
)
def test_what_cannot_be_compared_is_refused(ours, theirs, message):
    with pytest.raises(ValueError, match=message):
        improvement(ours, theirs, RNG(0))
    with pytest.raises(ValueError, match=message):
        paired_improvement(ours, theirs, RNG(0))


def test_pairs_of_different_length_are_refused():
    with pytest.raises(ValueError, match="as many seeds"):
        paired_improvement([np.array([1.0, 2.0])], [np.array([1.0])], RNG(0))


def test_normalised_scores_have_chance_at_0_and_the_best_at_1():
    assert normalised_scores(np.array([0.5, 0.75, 1.0]), 0.5, 1.0).tolist() == [0, 0.5, 1]
    assert normalised_scores(np.array([0.7, 0.35, 0.0]), 0.7, 0.0).tolist() == [0, 0.5, 1]
    with pytest.raises(ValueError, match="both 1"):
        normalised_scores(np.array([1.0]), 1, 1)
