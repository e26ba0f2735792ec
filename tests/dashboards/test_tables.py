"""Tables against the planted truths of a synthetic study, and against formulas written out independently."""

import dataclasses
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from scipy.stats import rankdata
from scipy.stats import t as student_t
from sklearn.metrics import roc_auc_score
from statsmodels.stats.multitest import multipletests

from dashboards import reading
from dashboards.evidence import target_results
from dashboards.planned import Plan, current_trials, make_plan
from dashboards.reading import task_estimates
from dashboards.tables import build_tables
from search_spaces.names import AXES
from tests.dashboards.synthetic import (
    FRACTIONS,
    SCALES,
    SOURCES,
    evidence_of,
    failure,
    make_study,
    make_synthetic,
    whole_study,
    whole_tables,
)

CELLS = 2 * len(SCALES) * len(SOURCES) * len(FRACTIONS)


def row_of(table, **values):
    chosen = table
    for column, value in values.items():
        chosen = chosen[chosen[column] == value]
    assert len(chosen) == 1, f"{len(chosen)} rows match {values}"
    return chosen.iloc[0]


def trial_ids(results, **values):
    rows = results
    for column, value in values.items():
        rows = rows[rows[column] == value]
    return list(rows.sort_values("seed")["trial_id"])


def changed(results, where, **columns):
    """Results with ``columns`` set in the rows that match ``where``."""
    mask = np.logical_and.reduce([results[c] == v for c, v in where.items()])
    table = results.copy()
    for column, value in columns.items():
        table[column] = table[column].astype(object)
        table.loc[mask, column] = value
    return table


def reference_contrast(a, b):
    """The combined interval of a paired AUC difference, written out: Obuchowski components, Satterthwaite.

    Args:
        a: Predictions per seed.
        b: Predictions of the other source, same seeds.
    """
    y, patient = a[0].y[:, 0], a[0].patient
    positive = y == 1
    m, n = positive.sum(), (~positive).sum()

    def components(p):
        s, r = p.logits[:, 0], rankdata(p.logits[:, 0])
        return (r[positive] - rankdata(s[positive])) / n, 1 - (r[~positive] - rankdata(s[~positive])) / m

    v10 = np.mean([components(p)[0] - components(q)[0] for p, q in zip(a, b, strict=True)], axis=0)
    v01 = np.mean([components(p)[1] - components(q)[1] for p, q in zip(a, b, strict=True)], axis=0)
    _, code = np.unique(patient, return_inverse=True)
    patients = code.max() + 1
    theta = v10.mean()
    pos = np.bincount(code[positive], v10 - theta, patients)
    neg = np.bincount(code[~positive], v01 - theta, patients)
    i10, i01 = len(np.unique(code[positive])), len(np.unique(code[~positive]))
    v_case = (
        i10 / (i10 - 1) * (pos @ pos) / m**2
        + i01 / (i01 - 1) * (neg @ neg) / n**2
        + 2 * patients / (patients - 1) * (pos @ neg) / (m * n)
    )
    deltas = [
        roc_auc_score(p.y[:, 0], p.logits[:, 0]) - roc_auc_score(q.y[:, 0], q.logits[:, 0])
        for p, q in zip(a, b, strict=True)
    ]
    v_seed, seeds = np.var(deltas, ddof=1) / len(deltas), len(deltas)
    se = np.sqrt(v_case + v_seed)
    sides = [
        (i10 / (i10 - 1) * (pos @ pos) / m**2, own_df(pos, i10)),
        (i01 / (i01 - 1) * (neg @ neg) / n**2, own_df(neg, i01)),
    ]
    df = pooled_df([(v_case, min(patients - 1, pooled_df(sides))), (v_seed, seeds - 1)])
    return np.mean(deltas), student_t.ppf(0.975, df) * se


def own_df(values, n):
    return np.clip(3 * (values**2).sum() ** 2 / (values**4).sum() - 1, 1, n - 1)


def pooled_df(terms):
    parts = np.array([v * min(2, (df + 2) / df) for v, df in terms])
    return parts.sum() ** 2 / sum(part**2 / df for part, (_, df) in zip(parts, terms, strict=True))


def test_every_cell_is_there_once_per_set_and_metric():
    cells = whole_tables().cells
    assert len(cells) == CELLS * 2 * 3
    assert set(cells["metric"]) == {"auc", "auc_macro", "nll", "accuracy"}
    keys = [*AXES, "set", "metric"]
    assert not cells.duplicated(keys).any()
    assert ((cells["low"] < cells["value"]) & (cells["value"] < cells["high"])).all()


def test_cell_is_the_mean_over_seeds_of_the_metric():
    study = whole_study()
    ids = trial_ids(study.results, task="brain", model_scale="large", pretraining_source="natural", data_fraction="0.2")
    expected = np.mean([roc_auc_score(p.y[:, 0], p.logits[:, 0]) for p in (study.predictions[i, "test"] for i in ids)])
    cell = row_of(
        whole_tables().cells,
        task="brain",
        model_scale="large",
        pretraining_source="natural",
        data_fraction="0.2",
        set="test",
        metric="auc",
    )
    assert cell["value"] == pytest.approx(expected, abs=1e-12)
    assert cell["n_seeds"] == 3
    assert cell["n_patients"] == 150
    assert cell["images"] == 180


@pytest.mark.parametrize("fraction", FRACTIONS)
def test_contrast_equals_the_formula_written_out(fraction):
    study = whole_study()
    where = {"task": "brain", "model_scale": "small", "data_fraction": fraction}
    sides = [
        [study.predictions[i, "test"] for i in trial_ids(study.results, pretraining_source=source, **where)]
        for source in ("natural", "random")
    ]
    delta, half = reference_contrast(*sides)
    row = row_of(whole_tables().contrasts, pretraining_source="natural", set="test", **where)
    assert row["estimate"] == pytest.approx(delta, abs=1e-12)
    assert row["high"] - row["estimate"] == pytest.approx(half, rel=1e-9)
    assert row["estimate"] - row["low"] == pytest.approx(half, rel=1e-9)


def test_planted_help_is_found_where_it_was_planted_only():
    primary = whole_tables().contrasts.query("primary")
    planted = (primary["pretraining_source"] == "natural") & (primary["data_fraction"] == "0.05")
    assert set(primary.loc[planted, "verdict"]) <= {"helps", "helps, meaningfully"}
    assert not primary.loc[~planted, "verdict"].isin(["helps", "helps, meaningfully", "hurts"]).any()


def test_nothing_is_found_where_nothing_was_planted():
    tables = build_tables(evidence_of(make_synthetic(null=True, seed=1)))
    primary = tables.contrasts.query("primary")
    assert len(primary) == 16
    assert not primary["verdict"].isin(["helps", "helps, meaningfully", "hurts"]).any()


def test_planted_shift_and_subgroup_deficit_are_found():
    tables = whole_tables()
    assert (tables.shift_summary["drop_low"] > 0).all()
    assert (tables.shift_summary["p_holm"] < 0.01).all()
    assert set(tables.deficits["group"]) == {"F"}
    assert (tables.deficits["deficit_low"] > 0).all()


def test_a_class_that_a_shifted_set_lacks_is_in_no_loss_even_where_few_classes_are_well_represented():
    study = whole_study()
    predictions = {
        (trial, name): dataclasses.replace(p, y=np.where(p.y == 0, -1, p.y)) if name == "clinic_b" else p
        for (trial, name), p in study.predictions.items()
    }
    for key, p in predictions.items():
        if key[1] == "clinic_b" and p.kind == "multiclass":
            few = np.cumsum(p.y == 1) > 6
            predictions[key] = dataclasses.replace(p, y=np.where((p.y == 1) & few, -1, p.y))
    table = build_tables(evidence_of(study, predictions=predictions)).in_domain_vs_shifted
    assert set(table.loc[table["task"] == "skin", "classes"]) == {"melanoma, keratosis"}
    assert not table["notes"].str.contains("different classes").any()


def test_a_loss_on_a_shifted_set_is_over_the_classes_of_both_sets():
    study = whole_study()
    labels = study.study.tasks["skin"].labels or ("nevus", "melanoma", "keratosis")
    predictions = {
        (trial, name): dataclasses.replace(p, y=np.where(p.y == 2, -1, p.y)) if name == "clinic_b" else p
        for (trial, name), p in study.predictions.items()
    }
    tables = build_tables(evidence_of(study, predictions=predictions))
    where = {"task": "skin", "model_scale": "small", "pretraining_source": "natural", "data_fraction": "1"}
    row = row_of(tables.in_domain_vs_shifted, set="clinic_b", **where)
    assert row["classes"] == ", ".join(labels[:2])

    def macro_of_two(prediction):
        known = prediction.y >= 0
        return np.mean(
            [roc_auc_score(prediction.y[known] == k, _log_odds(prediction.logits[known], k)) for k in (0, 1)]
        )

    trials = trial_ids(study.results, **where)
    for column, name in (("in_domain", "test"), ("shifted", "clinic_b")):
        expected = np.mean([macro_of_two(predictions[trial, name]) for trial in trials])
        assert row[column] == pytest.approx(expected, abs=1e-6)
    whole = row_of(tables.cells, set="test", metric="auc_macro", **where)
    assert whole["value"] != pytest.approx(row["in_domain"], abs=1e-4)


def test_so_is_the_loss_of_a_balanced_accuracy():
    study = whole_study()
    predictions = {
        (trial, name): dataclasses.replace(p, y=np.where(p.y == 2, -1, p.y)) if name == "clinic_b" else p
        for (trial, name), p in study.predictions.items()
    }
    tasks = {
        name: {"manifest": name, "primary": "balanced_accuracy", "evaluate": {other: {"manifest": "x"}}}
        for name, other in (("skin", "clinic_b"), ("brain", "site_b"))
    }
    shifted = build_tables(evidence_of(study, predictions=predictions, study=make_study(tasks=tasks)))
    where = {"task": "skin", "model_scale": "small", "pretraining_source": "natural", "data_fraction": "1"}
    row = row_of(shifted.in_domain_vs_shifted, set="clinic_b", **where)
    assert row["classes"] == "nevus, melanoma"
    for column, name in (("in_domain", "test"), ("shifted", "clinic_b")):
        runs = [predictions[trial, name] for trial in trial_ids(study.results, **where)]
        recalls = [np.mean(p.logits[p.y == k].argmax(axis=1) == k) for p in runs for k in (0, 1)]
        assert row[column] == pytest.approx(np.mean(recalls), abs=1e-6)
    brain = shifted.in_domain_vs_shifted[shifted.in_domain_vs_shifted["task"] == "brain"]
    assert set(brain["classes"]) == {""}


class _Counted(dict):
    """Predictions that count how often each is read."""

    def __init__(self, predictions):
        super().__init__(predictions)
        self.reads = Counter()

    def __getitem__(self, key):
        self.reads[key] += 1
        return super().__getitem__(key)


def test_classes_of_both_sets_need_no_second_reading_of_predictions(monkeypatch):
    study = whole_study()
    rows = study.results[(study.results["task"] == "skin") & (study.results["model_scale"] == "small")]
    predictions = _Counted(
        {
            (trial, name): dataclasses.replace(p, y=np.where(p.y == 2, -1, p.y)) if name == "clinic_b" else p
            for (trial, name), p in study.predictions.items()
            if trial in set(rows["trial_id"])
        }
    )
    evidence = evidence_of(study, predictions=predictions, results=target_results(rows))
    (together,) = task_estimates(evidence)
    assert set(predictions.reads.values()) == {1}
    monkeypatch.setattr(reading, "estimate_shared_classes", lambda result, batches: None)
    (one_by_one,) = task_estimates(evidence)
    assert set(predictions.reads.values()) == {3}
    assert together.on_shared.keys() == one_by_one.on_shared.keys() == {(t, "clinic_b") for t in rows["trial_id"]}
    for key, sides in one_by_one.on_shared.items():
        for found, expected in zip(together.on_shared[key], sides, strict=True):
            assert found.value == pytest.approx(expected.value, abs=1e-13)
            np.testing.assert_allclose(found.psi, expected.psi, atol=1e-13)
            assert found.classes == expected.classes == ("nevus", "melanoma")


def _log_odds(logits, k):
    shifted = logits.astype(float) - logits.max(axis=1, keepdims=True)
    return shifted[:, k] - np.log(np.exp(shifted).sum(axis=1))


def test_holm_runs_over_the_primary_family_of_the_whole_study():
    contrasts = whole_tables().contrasts
    primary = contrasts[contrasts["primary"]]
    assert set(primary["task"]) == {"skin", "brain"}
    assert set(primary["set"]) == {"test"}
    assert set(primary["data_fraction"]) == {"0.05", "1"}
    expected = multipletests(primary["p"], method="holm")[1]
    assert primary["p_adjusted"].to_numpy() == pytest.approx(expected)
    assert set(primary["correction"]) == {"Holm, whole study"}
    rest = contrasts[~contrasts["primary"]]
    assert set(rest["correction"]) == {"Benjamini-Hochberg, exploratory"}


def test_declared_primary_fractions_replace_the_default():
    statistics = {"baseline": "random", "primary_fractions": [0.2], "delta": 0.01}
    evidence = evidence_of(whole_study(), study=make_study(statistics=statistics))
    contrasts = build_tables(evidence).contrasts
    assert set(contrasts.loc[contrasts["primary"], "data_fraction"]) == {"0.2"}


HELPED = {"task": "skin", "model_scale": "small", "pretraining_source": "natural", "data_fraction": "0.05"}
BEATEN = HELPED | {"pretraining_source": "random"}


def caps_of(results=None, failures=None, **changes):
    study = whole_study()
    results = study.results if results is None else results
    given = {"results": target_results(results)} | ({} if failures is None else {"failures": failures}) | changes
    contrasts = build_tables(evidence_of(study, **given)).contrasts
    return row_of(contrasts, set="test", **HELPED)


def test_verdict_against_a_source_that_was_still_improving_is_held_back():
    row = caps_of(changed(whole_study().results, BEATEN, still_rising=True))
    assert row["verdict"] == "helps, meaningfully"
    assert row["cap"] == "random was still improving when training stopped; fewer than 5 seeds"


def test_winner_that_was_still_improving_holds_nothing_back():
    assert caps_of(changed(whole_study().results, HELPED, still_rising=True))["cap"] == "fewer than 5 seeds"


def test_failed_trial_holds_a_verdict_back():
    results = whole_study().results
    lost = trial_ids(results, **HELPED)[0]
    row = caps_of(results[results["trial_id"] != lost], pd.DataFrame([failure()]))
    assert "1 planned trial without a result, not missing at random" in row["cap"]
    assert not row["holds_at_chance"]
    assert row["n_seeds"] == 2


def test_unknown_patients_hold_a_verdict_back():
    row = caps_of(changed(whole_study().results, {"task": "skin"}, patients_known=False))
    assert "patients unknown" in row["cap"]


def test_seeds_trained_on_different_subsets_are_not_paired():
    results = changed(whole_study().results, HELPED | {"seed": "2"}, subset_hash="other")
    row = caps_of(results)
    assert row["n_seeds"] == 2
    assert "different subsets: 2" in row["caveats"]


def test_one_seed_is_conditional_on_its_run():
    tables = build_tables(evidence_of(make_synthetic(seeds=1)))
    row = row_of(tables.contrasts, set="test", **HELPED)
    assert row["n_seeds"] == 1
    assert "one seed: conditional on this run" in row["caveats"]
    assert "fewer than 3 seeds" in row["cap"]
    assert np.isnan(row["v_seed"])


def test_missing_cells_are_missing_and_counted():
    study = whole_study()
    results = study.results[study.results["pretraining_source"] != "natural_meanvar"]
    results = results[~((results["data_fraction"] == "1") & (results["seed"] == "2"))]
    tables = build_tables(evidence_of(study, results=target_results(results)))
    assert set(tables.contrasts["pretraining_source"]) == {"natural"}
    matrix = tables.completeness
    assert matrix["planned"].sum() == CELLS * 3
    assert matrix["done"].sum() == len(results)
    assert matrix["missing"].sum() == CELLS * 3 - len(results)
    missing = matrix[matrix["pretraining_source"] == "natural_meanvar"]
    assert set(missing["done"]) == {0}


def test_failures_count_unless_a_later_attempt_finished():
    study = whole_study()
    lost = trial_ids(study.results, **HELPED)[0]
    failures = pd.DataFrame([failure(), failure(pretraining_source="random")])
    results = study.results[study.results["trial_id"] != lost]
    matrix = build_tables(evidence_of(study, results=target_results(results), failures=failures)).completeness
    assert matrix["failed"].sum() == 1
    broken = row_of(matrix, **HELPED)
    assert (broken["done"], broken["failed"], broken["missing"]) == (2, 1, 0)


def test_excluded_cells_are_shown_with_their_reason():
    study = make_study(exclude=[{"task": "brain", "data_fraction": 0.05, "reason": "under 3 patients"}])
    evidence = evidence_of(whole_study(), study=study, plan=make_plan(study, None))
    matrix = build_tables(evidence).completeness
    excluded = matrix[matrix["reason"] != ""]
    assert len(excluded) == 6
    assert set(excluded["reason"]) == {"under 3 patients"}
    assert excluded["planned"].sum() == 0


def test_small_subgroups_are_named_with_their_patients_never_dropped():
    study = whole_study()
    predictions = {}
    for key, prediction in study.predictions.items():
        numbers = np.array([int(p.rsplit("-", 1)[1]) for p in prediction.patient])
        groups = np.where(numbers < 6, "rare", np.where(numbers % 5 == 0, "", "common"))
        predictions[key] = dataclasses.replace(prediction, groups={"scanner": groups.astype(object)})
    study_file = make_study(statistics={"groups": ["g_scanner"]})
    subgroups = build_tables(evidence_of(study, study=study_file, predictions=predictions)).subgroups
    assert set(subgroups["group"]) == {"common", "rare", "unknown"}
    rare = subgroups[subgroups["group"] == "rare"]
    assert not rare["sufficient"].any()
    assert rare["value"].isna().all()
    assert rare["note"].str.match(r"insufficient data \(\d\+, \d−\)").all()
    assert subgroups.loc[subgroups["group"] == "unknown", "sufficient"].any()


def test_a_subgroup_and_the_others_are_compared_over_the_same_classes():
    study = whole_study()
    predictions = {}
    for key, prediction in study.predictions.items():
        keratosis = prediction.y == 2 if prediction.y.ndim == 1 else prediction.y[:, 0] == 1
        numbers = np.array([int(p.rsplit("-", 1)[1]) for p in prediction.patient])
        groups = np.where(keratosis | (numbers % 2 == 0), "most", "others")
        predictions[key] = dataclasses.replace(prediction, groups={"scanner": groups.astype(object)})
    study_file = make_study(statistics={"groups": ["scanner"]})
    subgroups = build_tables(evidence_of(study, study=study_file, predictions=predictions)).subgroups
    skin = subgroups[subgroups["task"] == "skin"]
    assert set(skin["classes"]) == {"nevus, melanoma"}
    assert skin["deficit"].notna().all()
    brain = subgroups[(subgroups["task"] == "brain") & (subgroups["group"] == "others")]
    assert not brain["sufficient"].any()


def test_lower_is_better_metrics_help_downwards():
    tasks = {
        name: {"manifest": name, "primary": "nll", "evaluate": {other: {"manifest": "x"}}}
        for name, other in (("skin", "clinic_b"), ("brain", "site_b"))
    }
    tables = build_tables(evidence_of(whole_study(), study=make_study(tasks=tasks)))
    row = row_of(tables.contrasts, set="test", **HELPED)
    assert row["metric"] == "nll"
    assert row["estimate"] < 0
    assert row["verdict"] == "helps, meaningfully"
    assert (tables.shift_summary["drop"] > 0).all()


def test_amounts_in_patients_are_ordered_by_their_images():
    study = whole_study()
    names = {"0.05": "patients=3", "0.2": "patients=9", "1": "1"}
    renamed = study.results.assign(data_fraction=study.results["data_fraction"].map(names))
    axes = {"model_scale": list(SCALES), "pretraining_source": list(SOURCES), "task": ["skin", "brain"]}
    study_file = make_study(axes=axes | {"data_fraction": [{"patients": 3}, {"patients": 9}, 1.0]})
    evidence = evidence_of(study, results=target_results(renamed), study=study_file, plan=make_plan(study_file, None))
    tables = build_tables(evidence)
    assert list(dict.fromkeys(tables.cells["data_fraction"])) == ["patients=3", "patients=9", "1"]
    assert set(tables.contrasts.loc[tables.contrasts["primary"], "data_fraction"]) == {"patients=3", "1"}


def test_predictions_that_cannot_be_used_cost_their_trial_only():
    study = whole_study()
    broken = trial_ids(study.results, **HELPED)[0]
    predictions = dict(study.predictions)
    predictions[broken, "test"] = dataclasses.replace(predictions[broken, "test"], logits=np.zeros((3, 3), np.float32))
    tables = build_tables(evidence_of(study, predictions=predictions))
    excluded = row_of(tables.exclusions, reason="predictions missing or unreadable (interrupted upload)")
    assert (excluded["task"], excluded["set"], excluded["trials"], excluded["trial_ids"]) == ("skin", "test", 1, broken)
    assert row_of(tables.contrasts, set="test", **HELPED)["n_seeds"] == 2


def test_data_table_gives_images_patients_and_prevalence():
    study = whole_study()
    quarter = study.results["n_images"] / 4  # half of the images have no known label
    labels = {"n_positive.nevus": quarter, "n_negative.nevus": quarter, "n_positive.old": quarter}
    results = study.results.assign(**labels)
    data = build_tables(evidence_of(study, results=target_results(results))).data
    row = row_of(data, task="skin", data_fraction="0.05")
    assert (row["n_images"], row["n_patients"], row["n_forced_patients"]) == (45, 22, 1)
    assert row["prevalence"] == "nevus 50.0 %", "of the known labels, which an earlier version did not record"


class TestCurrentTrials:
    """A record may hold trials of an earlier version of the study."""

    rows = pd.DataFrame(
        [
            {**HELPED, "seed": "0", "trial_id": "old", "started_at": 1.0},
            {**HELPED, "seed": "0", "trial_id": "new", "started_at": 2.0},
            {**HELPED, "model_scale": "gone", "seed": "0", "trial_id": "dropped", "started_at": 3.0},
        ]
    )
    cell = tuple(HELPED[c] for c in ("task", "model_scale", "pretraining_source", "data_fraction"))

    def test_planned_id_wins_over_a_later_start(self):
        kept, stale = current_trials(self.rows, Plan(trials={self.cell: {"0": "old"}}))
        assert list(kept["trial_id"]) == ["old"]
        assert stale == 2

    def test_without_ids_the_latest_is_taken(self):
        kept, stale = current_trials(self.rows, Plan(trials={self.cell: {"0": None}}))
        assert list(kept["trial_id"]) == ["new"]
        assert stale == 2

    def test_trial_of_another_version_does_not_stand_in(self):
        kept, _ = current_trials(self.rows, Plan(trials={self.cell: {"0": "not run yet"}}))
        assert kept.empty

    def test_without_a_plan_everything_stays(self):
        kept, stale = current_trials(self.rows, Plan())
        assert len(kept) == 3
        assert stale == 0
