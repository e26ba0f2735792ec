"""Claims of harm: a family that is as large as it was planned, whatever was lost of it."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from dashboards.harm_tables import decide_harm
from dashboards.primary_family import absent_groups
from dashboards.statistics.families import adjust_p_values
from dashboards.tables import build_tables
from tests.dashboards.planted import make_planted


def test_groups_that_lost_their_results_and_planned_ones_without_a_row_count_in_the_family():
    p = {"p_harmed_alone": 0.01, "p_beyond_alone": 0.02, "p_excluded": 0.9}
    row = {"primary": True, "word": "harmed", "lost": False} | p | {"p_harmed": 0.01, "p_beyond": 0.02}
    gone = row | dict.fromkeys([*p, "p_harmed", "p_beyond"], np.nan) | {"word": "insufficient data"}
    small = decide_harm(pd.DataFrame([row, gone]), alpha=0.05)  # known before any result: not of the family
    assert small["p_harmed"].iloc[0] == 0.01
    lost = decide_harm(pd.DataFrame([row, gone | {"lost": True}]), 0.05)
    assert lost["p_harmed"].iloc[0] == pytest.approx(0.02)
    assert lost["word"].tolist() == ["harmed", "insufficient data"]
    exploratory = {"primary": False, "lost": True}
    absent = decide_harm(pd.DataFrame([row, gone | exploratory]), 0.05, absent=2)
    assert absent[["p_harmed", "p_beyond"]].iloc[0].tolist() == pytest.approx([0.03, 0.06])


def test_a_comparison_whose_baseline_is_lost_keeps_its_groups_in_the_family():
    evidence = make_planted(seeds=2, patients=120)
    results = evidence.results
    gone = set(results[(results["pretraining_source"] == "random") & (results["data_fraction"] == "0.1")]["trial_id"])
    less = dataclasses.replace(
        evidence,
        results=results[~results["trial_id"].isin(gone)],
        predictions={k: p for k, p in evidence.predictions.items() if k[0] not in gone},
    )
    whole, harm = (build_tables(e).of("harm") for e in (evidence, less))
    assert set(harm["data_fraction"]) == {"1"}
    assert not harm["lost"].any()
    tested = harm["p_harmed_alone"].notna()
    assert absent_groups(less, harm) == tested.sum()  # both amounts have the same groups
    assert absent_groups(evidence, whole) == absent_groups(less, harm.iloc[:0]) == 0
    expected = adjust_p_values([*harm["p_harmed_alone"][tested], *np.ones(tested.sum())])[: tested.sum()]
    np.testing.assert_allclose(harm["p_harmed"][tested], expected)
