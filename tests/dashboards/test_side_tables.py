"""Tables that decide nothing: the papers' tests, ensembles, ranks, fits; and the split of variance."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from dashboards.evidence import target_results
from dashboards.over_tasks_tables import over_tasks_table
from dashboards.side_tables import fit_table, rank_table
from dashboards.statistics import auc, seed_ensemble
from dashboards.statistics.ensembles import Member
from dashboards.tables import build_tables
from search_spaces.amounts import Seed
from tests.dashboards.synthetic import evidence_of, make_study, make_synthetic, whole_study, whole_tables


def test_paper_tests_are_scipys_one_and_two_sided():
    table = whole_tables().paper_tests
    values = whole_tables().trial_values
    where = {"task": "brain", "model_scale": "small", "data_fraction": "0.05", "set": "test"}
    sides = []
    for source in ("natural", "random"):
        rows = values
        for column, value in (where | {"pretraining_source": source}).items():
            rows = rows[rows[column] == value]
        sides.append(rows["value"].to_numpy())
    mine = table
    for column, value in (where | {"pretraining_source": "natural"}).items():
        mine = mine[mine[column] == value]
    assert len(mine) == 2
    for row in mine.to_dict("records"):
        equal = row["test"].startswith("Student")
        two = stats.ttest_ind(*sides, equal_var=equal)
        one = stats.ttest_ind(*sides, equal_var=equal, alternative="greater")
        assert row["p_two_sided"] == pytest.approx(two.pvalue)
        assert row["p_one_sided"] == pytest.approx(one.pvalue)


def test_an_ensemble_is_the_mean_probability_of_a_cells_seeds():
    study = whole_study()
    rows = study.results
    cell = rows[(rows["task"] == "brain") & (rows["model_scale"] == "small") & (rows["data_fraction"] == "0.2")]
    cell = cell[cell["pretraining_source"] == "natural"]
    runs = {t: study.predictions[t, "test"] for t in cell["trial_id"]}
    mean = seed_ensemble("binary", {t: Member(images=p.image, logits=p.logits) for t, p in runs.items()})
    expected = auc(next(iter(runs.values())).y[:, 0], mean.logits[:, 0])
    table = whole_tables().ensembles
    row = table[(table["task"] == "brain") & (table["model_scale"] == "small") & (table["data_fraction"] == "0.2")]
    row = row[(row["pretraining_source"] == "natural") & (row["set"] == "test")].iloc[0]
    assert row["value"] == pytest.approx(expected)
    assert row["members"] == 3
    assert row["value"] > row["mean_of_single_seeds"]


def test_one_seed_is_no_ensemble():
    rows = whole_study().results
    one = target_results(rows[(rows["task"] == "brain") & (rows["seed"] == "0")])
    assert build_tables(evidence_of(whole_study(), results=one)).ensembles.empty


def cells(tasks: int, metric: str = "auc") -> pd.DataFrame:
    rng = np.random.default_rng(0)
    rows = []
    for task in range(tasks):
        for place, source in enumerate(("good", "fair", "random")):
            value = 0.8 - 0.05 * place + rng.normal(0, 0.001)
            row = {"task": f"t{task}", "set": "test", "model_scale": "small", "pretraining_source": source}
            row |= {"data_fraction": "1", "metric": metric, "primary": True}
            rows.append(row | {"value": value if metric == "auc" else 1 - value})
    return pd.DataFrame(rows)


@pytest.mark.parametrize("metric", ["auc", "nll"])
def test_ranks_over_five_tasks_put_the_best_first_whichever_way_the_metric_runs(metric):
    table = rank_table(evidence_of(whole_study()), cells(5, metric), {"1"})
    assert list(table["pretraining_source"]) == ["good", "fair", "random"]
    assert list(table["mean_rank"]) == [1, 2, 3]
    assert (table["tasks"] == 5).all()
    assert table["friedman_p"].iloc[0] == pytest.approx(stats.chi2.sf(10, 2))


def test_four_tasks_are_too_few_for_ranks():
    assert rank_table(evidence_of(whole_study()), cells(4), {"1"}).empty
    assert rank_table(evidence_of(whole_study()), pd.DataFrame(), {"1"}).empty


def pairs(tasks: int, metric: str = "auc", seeds: int = 4, **edit) -> pd.DataFrame:
    """``good`` is a little better than ``random`` with every seed, which differ much more."""
    rows = []
    for task in range(tasks):
        for source, gain in (("good", 0.02), ("random", 0.0)):
            for seed in range(seeds):
                base = 0.7 + 0.05 * seed
                row = {"task": f"t{task}", "model_scale": "small", "pretraining_source": source, "data_fraction": "1"}
                row |= {"seed": str(seed), "metric": metric, "chance": 0.5}
                values = {"value": base + gain, "baseline_value": base}
                rows.append(row | (values if metric == "auc" else {k: 1 - v for k, v in values.items()}) | edit)
    return pd.DataFrame(rows)


@pytest.mark.parametrize("metric", ["auc", "nll"])
def test_all_tasks_in_one_number_whichever_way_the_metric_runs(metric):
    good, random = over_tasks_table(evidence_of(whole_study()), pairs(3, metric)).to_dict("records")
    assert (good["tasks"], good["seeds"]) == (3, 12)
    assert (good["improvement"], good["improvement_low"], good["improvement_high"]) == (1, 1, 1)
    assert np.isnan(random["improvement"])
    assert random["interquartile_mean"] == pytest.approx((0.75 + 0.8 - 2 * 0.5) / 2 / 0.5)
    assert good["interquartile_mean"] == pytest.approx(random["interquartile_mean"] + 0.02 / 0.5)
    assert random["interquartile_mean_low"] < random["interquartile_mean"] < random["interquartile_mean_high"]


@pytest.mark.parametrize("none", [pairs(1), pairs(3, chance=np.nan), pairs(3, chance=1.0), pd.DataFrame()])
def test_without_two_tasks_that_can_be_compared_there_is_no_such_number(none):
    assert over_tasks_table(evidence_of(whole_study()), none).empty


def test_the_pairs_of_a_study_are_its_trials_beside_the_baselines():
    tables = whole_tables()
    values = tables.trial_values.query("set == 'test'").set_index(
        ["task", "model_scale", "pretraining_source", "data_fraction", "seed"]
    )["value"]
    assert len(tables.paired_values)
    for row in tables.paired_values.to_dict("records"):
        place = [row[k] for k in values.index.names]
        assert row["value"] == values.loc[tuple(place)]
        place[2] = "random"
        assert row["baseline_value"] == values.loc[tuple(place)]
    assert set(tables.over_tasks["tasks"]) == {2}


def curve(n):
    n = np.asarray(n, dtype=float)
    row = {"task": "t", "set": "test", "model_scale": "s", "pretraining_source": "x", "metric": "auc", "primary": True}
    return pd.DataFrame([row | {"images": i, "value": 1 - (0.08 + 1.9 * i**-0.45), "se": 0.01} for i in n])


def test_a_power_law_is_fitted_and_judged_by_the_point_it_has_not_seen():
    (row,) = fit_table(curve([100, 200, 500, 1000, 5000])).to_dict("records")
    assert row["exponent"] == pytest.approx(0.45, abs=0.01)
    assert row["floor"] == pytest.approx(0.08, abs=0.01)
    assert row["better_than_last_seen"]
    assert row["last_error"] == pytest.approx(0.08 + 1.9 * 5000**-0.45)


@pytest.mark.parametrize("amounts", [[100, 200, 500, 1000], [100, 150, 200, 250, 300]])
def test_few_or_narrow_amounts_are_not_fitted(amounts):
    assert fit_table(curve(amounts)).empty


def test_crossed_seeds_split_the_variance_and_plain_ones_do_not():
    study = make_synthetic(seeds=4, patients=60)
    rows = study.results[study.results["task"] == "brain"].copy()
    number = rows["seed"].astype(int)
    rows["seed_subset"], rows["seed_init"] = number // 2, number % 2
    rows["seed"] = [Seed(subset=s, init=i).label for s, i in zip(rows["seed_subset"], rows["seed_init"], strict=True)]
    rows["subset_hash"] = [f"{f}{s}" for f, s in zip(rows["data_fraction"], rows["seed_subset"], strict=True)]
    rows["order_hash"] = rows["seed_subset"].astype(str)
    crossed = make_study(seeds={"subset": 2, "init": 2})
    from dashboards.planned import make_plan

    evidence = evidence_of(study, results=target_results(rows), study=crossed, plan=make_plan(crossed, None))
    contrasts = build_tables(evidence).contrasts
    parts = contrasts[["share_subset", "share_initialisation", "share_interaction"]]
    assert parts.notna().all().all()
    assert (contrasts["share_patients"] + parts.sum(axis=1)).to_numpy() == pytest.approx(1.0)
    assert set(contrasts["seed_design"]) == {"subset and optimisation vary separately"}
    plain = whole_tables().contrasts
    assert plain["share_subset"].isna().all()
    assert set(plain["seed_design"]) == {"subset and optimisation vary together"}
