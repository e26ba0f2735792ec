"""Ranks over tasks: Demsar's example, scipy's Friedman test, and the bars of a CD diagram."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import friedmanchisquare

from dashboards.statistics import rank_summary
from dashboards.statistics.ranks import critical_difference, friedman_of_means

DEMSAR = np.array([3.143, 2.000, 2.893, 1.964])
"""Mean ranks of four classifiers on 14 data sets (Demsar 2006, section 3.2.2)."""


def test_demsars_example():
    chi2, f = friedman_of_means(np.array([44, 28, 40.5, 27.5]) / 14, 14)
    assert (chi2, f) == pytest.approx((9.28, 3.69), abs=0.005)
    assert (chi2, f) == pytest.approx(friedman_of_means(DEMSAR, 14), abs=0.01)
    assert (critical_difference(14, 4), critical_difference(14, 4, 0.10)) == pytest.approx((1.25, 1.12), abs=0.005)
    assert critical_difference(14, 4) / np.sqrt(4 * 5 / (6 * 14)) == pytest.approx(2.569, abs=5e-4)


def scores(seed, tasks=8, sources=4, ties=False):
    values = np.random.default_rng(seed).normal(size=(tasks, sources))
    return pd.DataFrame(np.round(values) if ties else values, columns=list("abcd")[:sources])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_equals_scipys_friedman_with_ties(seed, ties):
    table = scores(seed, ties=ties)
    oracle = friedmanchisquare(*table.to_numpy().T)
    found = rank_summary(table)
    assert (found.chi2, found.p) == pytest.approx((oracle.statistic, oracle.pvalue))


def test_best_is_first_whatever_the_direction():
    table = pd.DataFrame({"good": [0.9] * 5, "bad": [0.7] * 5, "middle": [0.8] * 5})
    assert rank_summary(table).mean_ranks == {"good": 1.0, "middle": 2.0, "bad": 3.0}
    assert list(rank_summary(table, higher_is_better=False).mean_ranks) == ["bad", "middle", "good"]
    assert rank_summary(table).f == np.inf


def test_tasks_with_a_missing_cell_are_left_out_and_named():
    table = scores(0).rename(index=lambda n: f"task{n}")
    table.loc["task3", "b"] = np.nan
    found = rank_summary(table)
    assert (found.n_tasks, found.left_out) == (7, ("task3",))
    complete = rank_summary(table.drop(index="task3"))
    assert found.chi2 == complete.chi2


def test_few_tasks_have_ranks_but_no_test():
    found = rank_summary(scores(0, tasks=4))
    assert np.isnan([found.chi2, found.p, found.f_p, found.critical_difference]).all()
    assert np.isfinite(list(found.mean_ranks.values())).all()
    assert found.groups() == ()


def test_sources_that_tie_everywhere_are_undefined_not_different():
    table = pd.DataFrame(np.ones((6, 3)), columns=list("abc"))
    assert np.isnan(rank_summary(table).chi2)


def test_groups_are_the_bars_of_the_diagram():
    n = 30
    table = pd.DataFrame(
        {"a": np.arange(n) % 2 + 3.0, "b": (np.arange(n) + 1) % 2 + 3.0, "c": [1.0] * n, "d": [0.0] * n}
    )
    found = rank_summary(table)
    assert found.mean_ranks == {"a": 1.5, "b": 1.5, "c": 3.0, "d": 4.0}
    assert found.critical_difference == pytest.approx(0.856, abs=0.001)
    assert found.groups() == (("a", "b"),)


def test_a_table_without_rival_or_with_a_task_twice_is_refused():
    with pytest.raises(ValueError, match="at least two"):
        rank_summary(scores(0, sources=1))
    with pytest.raises(ValueError, match="one row per task"):
        rank_summary(scores(0).rename(index={1: 0}))
