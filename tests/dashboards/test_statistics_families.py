"""Families of tests, against statsmodels and hand values."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from dashboards.statistics import adjust_p_values, adjust_study
from dashboards.statistics.families import EXPLORATORY, HOLM

pytestmark = pytest.mark.usefixtures("little_to_collect")


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.sampled_from(["holm", "fdr_bh"]))
def test_equals_statsmodels(p, method):
    np.testing.assert_allclose(adjust_p_values(p, method), multipletests(p, method=method)[1], rtol=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.integers(0, 1000))
def test_order_does_not_matter_and_nothing_gets_smaller(p, seed):
    order = np.random.default_rng(seed).permutation(len(p))
    for method in ("holm", "fdr_bh"):
        found = adjust_p_values(p, method)
        np.testing.assert_allclose(adjust_p_values(np.array(p)[order], method), found[order])
        assert (found >= np.array(p) - 1e-15).all()
        assert (found <= 1).all()


@pytest.mark.parametrize("method", ["holm", "fdr_bh"])
def test_members_without_a_p_count_as_one(method):
    found = adjust_p_values([0.01, np.nan, 0.02], method, absent=2)
    expected = multipletests([0.01, 0.02, 1.0, 1.0], method=method)[1][:2]
    np.testing.assert_allclose(found, [expected[0], np.nan, expected[1]])


@pytest.mark.parametrize("p", [[0.1, 1.2], [-0.1]])
def test_what_is_no_p_value_is_refused(p):
    with pytest.raises(ValueError, match=r"lie in \[0, 1\] or are NaN"):
        adjust_p_values(p)


def table(**changes):
    rows = {
        "task": ["a", "a", "b", "a", "b"],
        "set": ["test", "test", "test", "site", "site"],
        "primary": [True, True, True, False, False],
        "p": [0.01, np.nan, 0.02, 0.03, 0.5],
        "pretraining_source": list("xyxxx"),
        "data_fraction": ["1"] * 5,
    }
    return pd.DataFrame(rows | changes)


def test_the_primary_family_is_the_study_and_the_rest_is_per_task_and_set():
    found = adjust_study(table())
    assert found["p_adjusted"].tolist() == pytest.approx([0.02, np.nan, 0.02, 0.03, 0.5], nan_ok=True)
    assert found["correction"].tolist() == [HOLM] * 3 + [EXPLORATORY] * 2


def test_rows_in_another_order_or_with_another_index_give_the_same():
    base = adjust_study(table())
    other = adjust_study(table().iloc[::-1].set_index(pd.Index([7, 3, 9, 1, 2])))
    assert other["p_adjusted"].tolist()[::-1] == pytest.approx(base["p_adjusted"].tolist(), nan_ok=True)


def test_blank_primary_is_exploratory():
    found = adjust_study(table(primary=pd.Series([True, None, True, False, False], dtype=object)))
    assert found["correction"].tolist() == [HOLM, EXPLORATORY, HOLM, EXPLORATORY, EXPLORATORY]


def test_a_contrast_given_twice_is_refused():
    with pytest.raises(ValueError, match=r"1 primary contrasts occur twice.*'task': 'a'"):
        adjust_study(table(pretraining_source=["x"] * 5))


def test_an_empty_study_has_no_family():
    assert adjust_study(table().iloc[:0]).empty


def test_planned_contrasts_without_a_row_count_in_the_family():
    base = adjust_study(table())
    primary = base["primary"].eq(True) & base["p"].notna()
    found = adjust_study(table(), absent=4)
    expected = multipletests([*base.loc[primary, "p"], 1, 1, 1, 1], method="holm")[1][: primary.sum()]
    assert found.loc[primary, "p_adjusted"].to_numpy() == pytest.approx(expected)
    rest = ~base["primary"].eq(True)
    assert found.loc[rest, "p_adjusted"].equals(base.loc[rest, "p_adjusted"])


def test_what_is_lost_counts_and_what_could_not_be_tested_does_not():
    rows = table(p=[0.01, np.nan, 0.02, np.nan, 0.5])
    as_planned = adjust_study(rows, lost=[False] * 5)
    assert as_planned["p_adjusted"].equals(adjust_study(rows)["p_adjusted"])
    lost = adjust_study(rows, lost=[False, True, False, True, False])
    expected = multipletests([0.01, 0.02, 1.0], method="holm")[1][:2]
    assert lost["p_adjusted"].tolist() == pytest.approx([expected[0], np.nan, expected[1], np.nan, 0.5], nan_ok=True)
    with_absent = adjust_study(rows, 2, [False, True, False, True, False])
    expected = multipletests([0.01, 0.02, 1.0, 1.0, 1.0], method="holm")[1][:2]
    assert with_absent["p_adjusted"].iloc[[0, 2]].tolist() == pytest.approx(list(expected))
