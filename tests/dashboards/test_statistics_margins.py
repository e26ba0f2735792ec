"""Equivalence and non-inferiority, against statsmodels' one-sample tests and the intervals that they invert."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from statsmodels.stats.weightstats import DescrStatsW

from dashboards.statistics import contrast, equivalence_p, noninferiority_p
from tests.dashboards.runs import cell


def difference(deltas):
    """A contrast with these differences per seed and no variation over patients."""
    return contrast(cell([0.5 + d for d in deltas]), cell([0.5] * len(deltas)))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-0.05, 0.05), min_size=3, max_size=10), st.floats(0.001, 0.05))
def test_equals_statsmodels_on_seeds_alone(deltas, delta):
    assume(np.std(deltas) > 1e-4)
    found, oracle = difference(deltas), DescrStatsW(deltas)
    assert equivalence_p(found, delta) == pytest.approx(oracle.ttost_mean(-delta, delta)[0], rel=1e-6)
    assert noninferiority_p(found, delta) == pytest.approx(oracle.ttest_mean(-delta, "larger")[1], rel=1e-6)
    worse = noninferiority_p(found, delta, higher_is_better=False)
    assert worse == pytest.approx(oracle.ttest_mean(delta, "smaller")[1], rel=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-0.05, 0.05), min_size=3, max_size=10), st.floats(0, 0.05))
def test_noninferior_exactly_when_the_interval_says_so(deltas, delta):
    assume(np.std(deltas) > 1e-4)
    found = difference(deltas)
    assume(abs(found.low + delta) > 1e-9)
    assert (noninferiority_p(found, delta) < 0.025) == (found.low > -delta)


def test_without_a_test_there_is_no_p():
    few = contrast(cell([0.5, 0.6], n_patients=19), cell([0.4, 0.45], n_patients=19))
    assert np.isnan([noninferiority_p(few, 0.01), equivalence_p(few, 0.01)]).all()


def test_a_negative_margin_is_refused():
    with pytest.raises(ValueError, match=r"a margin is at least 0, got -0\.01"):
        noninferiority_p(difference([0.01, 0.02]), -0.01)
