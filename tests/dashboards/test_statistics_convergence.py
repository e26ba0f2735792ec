"""Time to a threshold: bounds, censoring, and intervals that hold whatever the distribution."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import CensoredData, ecdf

from dashboards.statistics import (
    Reached,
    area_over_log_steps,
    median_time,
    threshold,
    time_ratio,
    time_to_threshold,
)

STEPS = [10, 20, 30, 40, 50]


def test_threshold_lies_between_chance_and_the_baseline():
    assert threshold(0.9, 0.5, 0.95) == pytest.approx(0.88)
    assert threshold(0.2, 0.7, 0.9) == pytest.approx(0.25)
    with pytest.raises(ValueError, match="share must lie in"):
        threshold(0.9, 0.5, 1.2)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.5, 0.7, 0.81, 0.82, 0.83], (20, 30)),
        ([0.9, 0.9, 0.9, 0.9, 0.9], (0, 10)),
        ([0.5, 0.85, 0.7, 0.8, 0.81], (30, 40)),
        ([0.5, 0.6, 0.7, 0.7, 0.81], (50, np.inf)),
        ([0.5, np.nan, np.nan, np.nan, np.nan], (50, np.inf)),
    ],
    ids=["reached", "at once", "one lucky evaluation", "last evaluation alone", "diverged"],
)
def test_when_a_run_reaches_it(values, expected):
    found = time_to_threshold(STEPS, values, 0.8)
    assert (found.after, found.by) == expected
    assert found.censored == np.isinf(expected[1])
    mirrored = time_to_threshold(STEPS, -np.array(values), -0.8, higher_is_better=False)
    assert mirrored == found


def test_smoothing_takes_a_dip_away():
    values = [0.5, 0.81, 0.82, 0.7, 0.83]
    assert time_to_threshold(STEPS, values, 0.8, stay=3).censored
    assert time_to_threshold(STEPS, values, 0.8, stay=3, smooth=3) == Reached(after=10, by=20)


def test_gpu_hours_are_another_axis():
    assert time_to_threshold([0.5, 1.0, 1.5], [0.5, 0.9, 0.9], 0.8) == Reached(after=0.5, by=1.0)


@pytest.mark.parametrize(
    ("steps", "values", "options"),
    [([1, 1], [0, 0], {}), ([1, 2], [0], {}), ([], [], {}), ([1, 2], [0, 0], {"smooth": 2}), ([1], [0], {"stay": 0})],
)
def test_bad_curves_are_refused(steps, values, options):
    with pytest.raises(ValueError, match=r"increasing budgets|stay is at least"):
        time_to_threshold(steps, values, 0.5, **options)


def at(*times):
    return [Reached(after=t, by=t) for t in times]


def test_median_is_kaplan_and_meiers():
    budget, times = 100.0, [20.0, 35.0, 50.0, 70.0, 80.0]
    runs = [*at(*times), Reached(after=budget, by=np.inf), Reached(after=budget, by=np.inf)]
    survival = ecdf(CensoredData(times, right=[budget, budget])).sf
    kaplan_meier = survival.quantiles[np.argmax(survival.probabilities <= 0.5)]
    found = median_time(runs)
    assert found.median_high == kaplan_meier == 70
    assert (found.n_seeds, found.n_censored) == (7, 2)


def test_half_censored_leaves_a_lower_bound():
    found = median_time([*at(20.0, 30.0), *[Reached(after=100.0, by=np.inf)] * 3])
    assert (found.median_low, found.median_high, found.high) == (100, np.inf, np.inf)


def test_five_seeds_cannot_have_a_95_percent_interval_and_say_so():
    assert median_time(at(1, 2, 3, 4, 5)).coverage == pytest.approx(0.9375)
    six = median_time(at(1, 2, 3, 4, 5, 6))
    assert (six.coverage, six.low, six.high) == (pytest.approx(0.96875), 1, 6)
    nine = median_time(at(*range(1, 10)))
    assert (nine.coverage, nine.low, nine.high) == (pytest.approx(0.9609375), 2, 8)
    assert median_time(at(3)).coverage == 0.0
    with pytest.raises(ValueError, match="at least one run"):
        median_time([])


@pytest.mark.parametrize("n_seeds", [6, 10])
def test_the_interval_covers_as_often_as_it_says(n_seeds):
    rng = np.random.default_rng(0)
    draws = rng.lognormal(3, 1, (4000, n_seeds))
    found = [median_time([Reached(after=t, by=t) for t in row]) for row in draws]
    covered = np.mean([m.low <= np.exp(3) <= m.high for m in found])
    assert covered == pytest.approx(found[0].coverage, abs=0.012)
    assert found[0].coverage >= 0.95


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 50), st.floats(0, 50)), min_size=1, max_size=12))
def test_bounds_are_in_order(spans):
    found = median_time([Reached(after=min(s), by=max(s)) for s in spans])
    assert found.low <= found.median_low <= found.median_high <= found.high


def test_ratios_are_bounds_and_censoring_opens_them():
    source = {0: Reached(after=10, by=20), 1: Reached(after=10, by=20), 2: Reached(after=10, by=20)}
    baseline = {0: Reached(after=40, by=50), 1: Reached(after=40, by=50), 2: Reached(after=100, by=np.inf)}
    found = time_ratio(source, baseline)
    assert (found.median_low, found.median_high) == pytest.approx((0.2, 0.5))
    assert (found.low, found.high, found.n_censored) == (0.0, 0.5, 1)
    never = time_ratio({0: Reached(after=100, by=np.inf)}, {0: Reached(after=100, by=np.inf)})
    assert (never.median_low, never.median_high) == (0.0, np.inf)
    at_once = time_ratio({0: Reached(after=0, by=10)}, {0: Reached(after=0, by=10)})
    assert (at_once.median_low, at_once.median_high) == (0.0, np.inf)
    with pytest.raises(ValueError, match="no common seed"):
        time_ratio({0: Reached(after=1, by=2)}, {1: Reached(after=1, by=2)})


def test_area_over_log_steps_is_the_mean_height():
    assert area_over_log_steps([10, 100, 1000], [0.5, 0.5, 0.5]) == pytest.approx(0.5)
    assert area_over_log_steps([10, 100, 1000], [0.0, 0.5, 1.0]) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="positive increasing steps"):
        area_over_log_steps([0, 10], [0.5, 0.5])
