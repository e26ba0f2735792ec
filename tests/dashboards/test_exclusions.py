"""Results that cannot be used: each is named and counted, and none breaks the report or changes the others."""

from __future__ import annotations

import dataclasses
import json
import pickle
import re
from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest

from dashboards import report
from dashboards.block_tables import BlockTables
from dashboards.evidence import target_results
from dashboards.exclusions import SHOWN_TRIALS, Exclusion, Why, exclusion_table, single_seeds
from dashboards.harm_answers import harm_answers
from dashboards.narrative import caveats
from dashboards.planned import Plan
from dashboards.reading import task_estimates
from dashboards.tables import build_tables
from dashboards.verdict.belief import belief_answers
from dashboards.verdict.document import not_assessable
from search_spaces.exceptions import DataError, TrackingError
from search_spaces.ingested import IngestedStudy
from tests.dashboards.synthetic import evidence_of, make_study, make_synthetic

HELPED = {"task": "skin", "model_scale": "small", "pretraining_source": "natural", "data_fraction": "0.05"}


@pytest.fixture(scope="module")
def study():
    return make_synthetic(seeds=3, patients=60)


def small(synthetic, **changes):
    """Evidence of one task, one scale and one amount of a study, which is quick to analyse."""
    rows = synthetic.results
    kept = rows[(rows["task"] == "skin") & (rows["model_scale"] == "small") & (rows["data_fraction"] == "0.05")]
    return evidence_of(synthetic, **({"results": target_results(kept)} | changes))


def trials(study, **values):
    rows = study.results
    for column, value in (HELPED | values).items():
        rows = rows[rows[column] == value]
    return list(rows.sort_values("seed")["trial_id"])


def helped(tables, set_name="test"):
    rows = tables.contrasts
    return rows[(rows["set"] == set_name) & (rows["pretraining_source"] == "natural")].iloc[0]


class Broken(Mapping):
    """Predictions of which one file was not uploaded whole."""

    def __init__(self, predictions, key, error):
        self._predictions, self._key, self._error = predictions, key, error

    def __getitem__(self, key):
        if key == self._key:
            raise self._error
        return self._predictions[key]

    def __iter__(self):
        return iter(self._predictions)

    def __len__(self):
        return len(self._predictions)


@pytest.mark.parametrize("error", [DataError("not Parquet"), TrackingError("test.parquet is gone")])
def test_an_interrupted_upload_costs_its_trial_only(study, error):
    lost = trials(study)[0]
    tables = build_tables(small(study, predictions=Broken(study.predictions, (lost, "test"), error)))
    (row,) = tables.exclusions.to_dict("records")
    assert (row["reason"], row["set"], row["trial_ids"], row["detail"]) == (Why.UNREADABLE, "test", lost, str(error))
    assert helped(tables)["n_seeds"] == 2
    assert helped(tables, "clinic_b")["n_seeds"] == 3


def test_predictions_of_another_test_set_are_left_out_whichever_was_read_first(study):
    first = trials(study, pretraining_source="random")[0]
    predictions = dict(study.predictions)
    known = predictions[first, "test"]
    half = len(known.patient) // 2
    for seed in (trials(study)[1], first):
        p = predictions[seed, "test"]
        predictions[seed, "test"] = dataclasses.replace(
            p,
            image=p.image[:half],
            patient=p.patient[:half],
            y=p.y[:half],
            logits=p.logits[:half],
            groups={name: values[:half] for name, values in p.groups.items()},
            set_hash="0123456789abcdef",
        )
    tables = build_tables(small(study, predictions=predictions))
    (row,) = tables.exclusions.to_dict("records")
    assert (row["reason"], row["trials"]) == (Why.OTHER_SET, 2)
    assert set(row["trial_ids"].split(", ")) == {first, trials(study)[1]}
    assert f"{half} images; the one that is used has {2 * half} (7 trials)" in row["detail"]
    assert helped(tables)["n_seeds"] == 1  # seeds 0 and 1 each lack a side
    assert helped(tables)["n_patients"] == 60


def test_a_block_read_with_a_version_that_is_not_used_in_the_end_is_in_no_table(study):
    """Eight of the nine trials that are read first are of another version than the ten others."""
    rows = study.results
    rows = rows[(rows["task"] == "skin") & (rows["model_scale"] == "small")]
    first, later = (rows[rows["data_fraction"] == amount] for amount in ("0.05", "1"))
    odd = list(first["trial_id"])[1:]
    predictions = edited(study, odd, y=lambda p: np.roll(p.y, 1))
    results = target_results(pd.concat([first, later], ignore_index=True))
    tables = build_tables(evidence_of(study, results=results, predictions=predictions))
    found = {reason: (set_name, count) for reason, set_name, count, _ in named(tables)}
    assert found == {Why.OTHER_SET: ("test", 8), Why.NO_BATCH: ("test", 1)}
    for name in ("harm", "probabilities", "measures", "selective", "ood_detection"):
        made = tables.of(name)
        amounts = (
            set(made[made["set"] == "test"]["data_fraction"]) if name != "ood_detection" else set(made["data_fraction"])
        )
        assert amounts == {"1"}, name
    assert set(tables.of("harm").query("set == 'clinic_b'")["data_fraction"]) == {"0.05", "1"}


def test_equal_patients_with_other_images_are_another_set(study):
    odd = trials(study)[0]
    predictions = dict(study.predictions)
    p = predictions[odd, "test"]
    predictions[odd, "test"] = dataclasses.replace(p, image=np.char.add(p.image, "x"))
    tables = build_tables(small(study, predictions=predictions))
    assert list(tables.exclusions["reason"]) == [Why.OTHER_SET]


def test_the_same_predictions_under_another_seed_are_no_second_seed(study):
    first, second, _ = trials(study)
    predictions = dict(study.predictions)
    predictions[second, "test"] = dataclasses.replace(
        predictions[second, "test"], logits=predictions[first, "test"].logits.copy()
    )
    tables = build_tables(small(study, predictions=predictions))
    (row,) = tables.exclusions.to_dict("records")
    assert (row["reason"], row["trial_ids"]) == (Why.SAME_PREDICTIONS, second)
    assert row["detail"] == "seed 1 repeats seed 0"
    assert helped(tables)["n_seeds"] == 2


def test_seeds_that_share_their_initialisation_may_agree(study):
    """With all labels another subset seed changes nothing: crossed seeds may give one result twice, rightly."""
    results = study.results.assign(seed_init=0)
    first, second, _ = trials(study)
    predictions = dict(study.predictions)
    predictions[second, "test"] = dataclasses.replace(
        predictions[second, "test"], logits=predictions[first, "test"].logits.copy()
    )
    kept = results[results["trial_id"].isin(set(small(study).results["trial_id"]))]
    tables = build_tables(evidence_of(study, results=target_results(kept), predictions=predictions, plan=Plan()))
    assert tables.exclusions.empty


def test_of_two_results_of_one_seed_the_later_counts(study):
    rows = small(study).results.assign(started_at=1.0)
    again = rows[rows["trial_id"] == trials(study)[0]].assign(trial_id="again", started_at=2.0)
    predictions = dict(study.predictions)
    predictions["again", "test"] = study.predictions[trials(study)[0], "test"]
    both = pd.concat([again, rows], ignore_index=True)
    tables = build_tables(small(study, results=both, predictions=predictions, plan=Plan()))
    row = tables.exclusions[tables.exclusions["reason"] == Why.SAME_SEED].iloc[0]
    assert (row["trials"], row["trial_ids"], row["set"]) == (1, trials(study)[0], "all")
    assert helped(tables)["n_seeds"] == 3


def test_seeds_without_a_start_keep_the_last_row():
    rows = pd.DataFrame(
        [
            {"trial_id": name, "seed": "0", "seed_subset": 0, "seed_init": 0, "model_scale": "s"}
            | {"pretraining_source": "x", "data_fraction": "1"}
            for name in ("a", "b")
        ]
    )
    kept, found = single_seeds("skin", rows)
    assert list(kept["trial_id"]) == ["b"]
    assert [e.trial_id for e in found] == ["a"]


def test_logits_that_are_not_finite_are_told_from_a_set_of_one_class(study):
    broken = trials(study)[2]
    predictions = dict(study.predictions)
    p = predictions[broken, "test"]
    predictions[broken, "test"] = dataclasses.replace(p, logits=np.full_like(p.logits, np.inf))
    tables = build_tables(small(study, predictions=predictions))
    assert list(tables.exclusions["reason"]) == [Why.NOT_FINITE]
    one_class = {
        key: dataclasses.replace(p, y=np.zeros_like(p.y)) if key[1] == "test" else p
        for key, p in study.predictions.items()
    }
    tables = build_tables(small(study, predictions=one_class))
    (row,) = tables.exclusions.to_dict("records")
    assert (row["reason"], row["trials"], row["set"]) == (Why.ONE_CLASS, 9, "test")


def test_different_subsets_are_named_with_both_sides(study):
    results = small(study).results
    odd = trials(study)[1]
    results["subset_hash"] = results["subset_hash"].where(results["trial_id"] != odd, "other")
    tables = build_tables(small(study, results=results))
    (row,) = tables.exclusions.to_dict("records")
    assert row["reason"] == Why.OTHER_SUBSET
    assert {odd, trials(study, pretraining_source="random")[1]} <= set(row["trial_ids"].split(", "))
    assert helped(tables)["n_seeds"] == 2


def test_a_trial_without_predictions_on_a_set_is_named(study):
    silent = trials(study)[0]
    predictions = {key: p for key, p in study.predictions.items() if key != (silent, "clinic_b")}
    tables = build_tables(small(study, predictions=predictions))
    (row,) = tables.exclusions.to_dict("records")
    assert (row["reason"], row["set"], row["trial_ids"]) == (Why.NO_PREDICTIONS, "clinic_b", silent)


def test_a_metric_that_predictions_do_not_have_is_named_and_breaks_nothing(study, tmp_path, monkeypatch):
    """Others may name a primary metric that the kind of their task does not have."""
    monkeypatch.setattr(report, "render", lambda plot: (b"<svg/>", b"png"))
    asked = IngestedStudy.parse(
        {
            "name": "synthetic",
            "ingested": {"file": "a.csv", "sha256": "0", "rows": 9},
            "primary": {"skin": "auc"},
            "statistics": {"baseline": "random", "groups": ["sex"]},
        },
        "others",
    )
    evidence = small(study, study=None, ingested=asked)
    files = report.write_report(evidence, tmp_path / "report", problems=[], record="x")
    verdict = json.loads(files.verdict_json.read_text(encoding="utf-8"))
    named = {(e["reason"], e["set"], e["trials"]) for e in verdict["exclusions"]}
    assert named == {(Why.OTHER_METRIC, "test", 9), (Why.OTHER_METRIC, "clinic_b", 9)}
    assert verdict["exclusions"][0]["detail"].startswith(
        "auc is asked for; predictions of kind multiclass have auc_macro"
    )
    assert verdict["contrasts"] == []


def test_predictions_of_another_kind_cost_their_trial_only(study):
    odd = trials(study)[0]
    predictions = dict(study.predictions)
    p = predictions[odd, "test"]
    one = {"labels": p.labels[:1], "y": (p.y[:, None] == 0).astype(np.float32), "logits": p.logits[:, :1]}
    predictions[odd, "test"] = dataclasses.replace(p, kind="binary", **one)
    tables = build_tables(small(study, predictions=predictions))
    assert {(r["reason"], r["trial_ids"]) for r in tables.exclusions.to_dict("records")} == {
        (Why.OTHER_METRIC, odd),
        (Why.OTHER_SET, odd),
    }
    assert helped(tables)["n_seeds"] == 2


def test_the_table_lists_few_and_counts_all():
    found = [Exclusion(why=Why.NO_PREDICTIONS, task="t", set="test", trial_id=str(i)) for i in range(15)]
    (row,) = exclusion_table(found + found).to_dict("records")
    assert row["trials"] == 15
    assert row["trial_ids"].count(",") == SHOWN_TRIALS - 1
    assert row["trial_ids"].endswith("and 5 more")


def test_everything_at_once_is_a_report_that_names_all_of_it(study, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "render", lambda plot: (b"<svg/>", b"png"))
    first, second, third = trials(study)
    predictions = dict(study.predictions)
    p = predictions[first, "test"]
    predictions[second, "test"] = dataclasses.replace(predictions[second, "test"], logits=p.logits.copy())
    predictions[third, "test"] = dataclasses.replace(p, logits=np.full_like(p.logits, np.nan))
    gone = Broken(predictions, (trials(study, pretraining_source="random")[0], "test"), TrackingError("gone"))
    evidence = small(study, predictions=gone, study=make_study(statistics={"groups": ["sex", "nosuch"]}))
    files = report.write_report(evidence, tmp_path / "report", problems=[], record="x")
    verdict = json.loads(files.verdict_json.read_text(encoding="utf-8"))
    reasons = {e["reason"]: e["trials"] for e in verdict["exclusions"]}
    assert reasons == {Why.UNREADABLE: 1, Why.SAME_PREDICTIONS: 1, Why.NOT_FINITE: 1}
    page = files.index_html.read_text(encoding="utf-8")
    assert all(reason in page for reason in reasons)
    assert any("not used" in a["sentence"] for a in verdict["questions"][7]["answers"])
    assert "Subgroups by nosuch are asked for, but it is not recorded" in page


def edited(study, trial_ids, **fields):
    """Predictions in which some trials' fields on the in-domain test are another function of what they were."""
    predictions = dict(study.predictions)
    for trial_id in trial_ids:
        p = predictions[trial_id, "test"]
        predictions[trial_id, "test"] = dataclasses.replace(p, **{name: edit(p) for name, edit in fields.items()})
    return predictions


def no_rows(*names):
    """Edits that leave no row of these fields."""
    return {name: lambda p, name=name: getattr(p, name)[:0] for name in names}


def named(tables):
    return [
        (row["reason"], row["set"], row["trials"], row["trial_ids"]) for row in tables.exclusions.to_dict("records")
    ]


def test_a_file_without_images_costs_its_trial_only(study):
    lost = trials(study)[0]
    none = no_rows("y", "logits", "patient", "image") | {"groups": lambda p: {}}
    tables = build_tables(small(study, predictions=edited(study, [lost], **none)))
    assert named(tables) == [(Why.UNREADABLE, "test", 1, lost)]
    assert tables.exclusions["detail"][0] == "no image"
    assert helped(tables)["n_seeds"] == 2


def test_one_prediction_for_all_images_counts_and_is_named(study):
    """Of several classes, too: the same logits in each row, not the same in each column."""
    dead = trials(study)[1]
    predictions = edited(study, [dead], logits=lambda p: np.tile(np.float32([3.0, 1.0, 2.0]), (len(p.y), 1)))
    evidence = small(study, predictions=predictions)
    tables = build_tables(evidence)
    assert named(tables) == [(Why.CONSTANT, "test", 1, dead)]
    assert helped(tables)["n_seeds"] == 3
    (said,) = [a for a in belief_answers(evidence, tables) if a.word == "results doubtful"]
    assert said.sentence.startswith(f"1 result of skin doubtful, but counted: {Why.CONSTANT} ({dead}")
    assert any("1 result doubtful, but counted" in line for line in caveats(evidence, tables, []))


def test_predictions_of_another_source_count_and_are_named(study):
    predictions = dict(study.predictions)
    for copy, original in zip(trials(study), trials(study, pretraining_source="random"), strict=True):
        of_copy = predictions[copy, "test"]
        predictions[copy, "test"] = dataclasses.replace(of_copy, logits=predictions[original, "test"].logits)
    tables = build_tables(small(study, predictions=predictions))
    ((reason, set_name, count, _),) = named(tables)
    assert (reason, set_name, count) == (Why.SAME_AS_SOURCE, "test", 3)
    assert helped(tables)["estimate"] == 0
    undefined = {k: dataclasses.replace(p, y=np.zeros_like(p.y)) for k, p in predictions.items() if k[1] == "test"}
    found = named(build_tables(small(study, predictions=predictions | undefined)))
    assert {row[:3] for row in found} == {(Why.SAME_AS_SOURCE, "test", 3), (Why.ONE_CLASS, "test", 9)}


def test_a_logit_that_is_not_finite_costs_the_other_seeds_nothing(study):
    broken = trials(study)[2]
    predictions = edited(
        study, [broken], logits=lambda p: np.where(np.arange(len(p.y))[:, None] == 5, np.inf, p.logits)
    )
    tables = build_tables(small(study, predictions=predictions))
    assert named(tables) == [(Why.NOT_FINITE, "test", 1, broken)]
    harm = tables.of("harm")
    mine = harm[(harm["pretraining_source"] == "natural") & (harm["set"] == "test") & (harm["n_seeds"] > 0)]
    assert set(mine["n_seeds"]) == {2}
    assert np.isfinite(mine["source_value"]).all()


def test_a_logit_that_is_not_finite_on_a_masked_image_costs_nothing(study):
    """It counts nowhere, so the trial stays in every table."""
    broken, all_trials = trials(study)[2], set(small(study).results["trial_id"])
    masked = edited(study, all_trials, y=lambda p: np.where(np.arange(len(p.y)) == 5, -1, p.y))
    p = masked[broken, "test"]
    logits = np.where(np.arange(len(p.y))[:, None] == 5, np.nan, p.logits)
    tables = build_tables(small(study, predictions=masked | {(broken, "test"): dataclasses.replace(p, logits=logits)}))
    assert named(tables) == []
    for name in ("harm", "probabilities", "selective", "measures"):
        rows = tables.of(name)
        mine = rows[(rows["pretraining_source"] == "natural") & (rows["set"] == "test") & (rows["n_seeds"] > 0)]
        assert set(mine["n_seeds"]) == {3}, name
    assert np.isfinite(helped(tables)["estimate"])


def test_a_logit_of_a_label_that_the_primary_metric_is_not_of_costs_the_tables_on_harm_alone(study):
    """The primary AUC is of one label; the logit of another one that is averaged elsewhere is not finite."""
    several = {
        key: dataclasses.replace(p, kind="multilabel", y=(p.y[:, None] == np.arange(3)).astype(np.float32))
        for key, p in study.predictions.items()
        if key[1] == "test" and len(p.labels) == 3
    }
    broken = trials(study)[2]
    logits = several[broken, "test"].logits.copy()
    logits[5, 0] = np.inf  # nevus
    several[broken, "test"] = dataclasses.replace(several[broken, "test"], logits=logits)
    asked = IngestedStudy.parse(
        {
            "name": "synthetic",
            "ingested": {"file": "a.csv", "sha256": "0", "rows": 9},
            "primary": {"skin": "auc.melanoma"},
            "statistics": {"baseline": "random", "groups": ["sex"]},
        },
        "others",
    )
    evidence = small(study, predictions=several, study=None, ingested=asked, plan=Plan())
    tables = build_tables(evidence)
    (row,) = tables.exclusions.to_dict("records")
    assert (row["reason"], row["set"], row["trial_ids"]) == (Why.NOT_FINITE_ELSEWHERE, "test", broken)
    assert row["detail"].startswith("auc.melanoma is 0.")
    assert helped(tables)["n_seeds"] == 3
    harm = tables.of("harm")
    assert set(harm[(harm["pretraining_source"] == "natural") & (harm["n_seeds"] > 0)]["n_seeds"]) == {2}
    (said,) = [a for a in belief_answers(evidence, tables) if a.word == "results used in part"]
    assert said.sentence.startswith(f"1 result of skin used in part: {Why.NOT_FINITE_ELSEWHERE} ({broken}")
    assert not any("not used" in line for line in caveats(evidence, tables, []))


def other_sex(p, patients):
    """Subgroups in which the first patients have the other sex."""
    chosen = np.isin(p.patient, np.unique(p.patient)[:patients])
    sex = p.groups["sex"]
    return {"sex": np.where(chosen, np.where(sex == "F", "M", "F"), sex).astype(object)}


def test_patients_in_other_subgroups_are_named_and_no_subgroup_depends_on_which_result_it_is_of(study):
    odd = trials(study)[1]
    predictions = edited(study, [odd], groups=lambda p: other_sex(p, 2))
    evidence = small(study, predictions=predictions)
    tables, plain = build_tables(evidence), build_tables(small(study))
    assert named(tables) == [(Why.OTHER_GROUPS, "test", 1, odd)]
    assert re.fullmatch("sex of 2 patients, such as [FM] instead of [FM]", tables.exclusions["detail"][0])
    assert helped(tables)["n_seeds"] == 3
    pd.testing.assert_frame_equal(tables.subgroups, plain.subgroups)
    pd.testing.assert_frame_equal(tables.of("harm"), plain.of("harm"))
    (said,) = [a for a in belief_answers(evidence, tables) if a.word == "results doubtful"]
    assert said.sentence.startswith(f"1 result of skin doubtful, but counted: {Why.OTHER_GROUPS} ({odd}")


def test_all_tables_are_of_the_subgroups_of_the_result_that_was_read_first(study):
    """Also where that result is left out of tables that its logits cannot be part of."""
    rows = small(study).results
    first = str(rows["trial_id"].iloc[0])
    broken = {"logits": lambda p: np.full_like(p.logits, np.nan), "groups": lambda p: other_sex(p, 10)}
    tables = build_tables(small(study, predictions=edited(study, [first], **broken)))
    reasons = {reason: count for reason, _, count, _ in named(tables)}
    assert reasons == {Why.NOT_FINITE: 1, Why.OTHER_GROUPS: len(rows) - 1}
    sizes = tables.subgroups.query("set == 'test' and group == 'F'")["group_patients"].unique()
    expected = len(
        np.unique(
            study.predictions[first, "test"].patient[broken["groups"](study.predictions[first, "test"])["sex"] == "F"]
        )
    )
    assert sizes.tolist() == [expected]


def test_a_result_without_the_subgroups_of_the_others_is_named(study):
    odd = trials(study)[1]
    tables = build_tables(small(study, predictions=edited(study, [odd], groups=lambda p: {})))
    assert named(tables) == [(Why.OTHER_GROUPS, "test", 1, odd)]
    assert tables.exclusions["detail"][0].startswith("sex of 60 patients, such as unknown instead of ")


def test_blocks_of_two_tasks_with_the_same_images_keep_their_own_subgroups(study):
    """One process may be handed blocks of several tasks."""
    rows = small(study).results
    again = rows.assign(task="mole", trial_id="m" + rows["trial_id"].astype(str))
    predictions = dict(study.predictions)
    for (trial_id, name), p in study.predictions.items():
        predictions[f"m{trial_id}", name] = dataclasses.replace(p, groups=other_sex(p, 10))
    evidence = small(study, results=pd.concat([rows, again], ignore_index=True), predictions=predictions)
    blocks = []
    list(task_estimates(evidence, blocks.append))
    shared = BlockTables(evidence)
    made = [shared.rows(pickle.loads(pickle.dumps(block)), frozenset({"0.05"})) for block in blocks]
    alone = [BlockTables(evidence).rows(block, frozenset({"0.05"})) for block in blocks]
    assert [block.task for block in blocks] == ["skin", "mole"]
    for name in ("harm", "group_gaps", "group_values"):
        for found, expected in zip(made, alone, strict=True):
            assert found.rows[name]
            pd.testing.assert_frame_equal(
                pd.DataFrame(found.rows[name]), pd.DataFrame(expected.rows[name]), check_exact=True
            )


def test_subgroups_of_another_length_cost_their_trial_only(study):
    odd = trials(study)[1]
    tables = build_tables(small(study, predictions=edited(study, [odd], groups=lambda p: {"sex": p.groups["sex"][1:]})))
    assert named(tables) == [(Why.UNREADABLE, "test", 1, odd)]
    assert tables.exclusions["detail"][0] == "sex of another length than the 120 patient ids"


def test_a_version_that_is_not_used_says_nothing_of_shared_patients(study):
    odd = trials(study)[1]
    predictions = edited(study, [odd], y=lambda p: np.roll(p.y, 1), shared_patients=lambda p: 7)
    (estimates,) = task_estimates(small(study, predictions=predictions))
    assert estimates.shared_patients["test"] == 0
    same = edited(study, [odd], shared_patients=lambda p: 7)
    (estimates,) = task_estimates(small(study, predictions=same))
    assert estimates.shared_patients["test"] == 7


@pytest.mark.parametrize("groups", [lambda p: {}, lambda p: {"sex": np.full(len(p.y), None, dtype=object)}])
def test_a_subgroup_column_that_nobody_filled_in_is_named_and_no_group(study, groups):
    predictions = edited(study, set(small(study).results["trial_id"]), groups=groups)
    evidence = small(study, predictions=predictions)
    tables = build_tables(evidence)
    assert tables.unrecorded == {("skin", "test"): ("sex",)}
    missing = {"task": "skin", "set": "test", "column": "sex", "group": "any", "note": "not recorded"}
    assert missing in not_assessable(tables)
    said = [a.sentence for a in harm_answers(evidence, tables) if a.set == "test"]
    assert said == ["Harm on skin, test cannot be assessed by sex, which is not recorded there."]
    assert any("it is not recorded for any patient of skin, test" in line for line in caveats(evidence, tables, []))


def test_seeds_that_the_sides_do_not_share_are_told_as_that(study):
    """What is missing are pairs, not patients."""
    ours, base = trials(study), trials(study, pretraining_source="random")
    rows = small(study).results
    tables = build_tables(small(study, results=rows[~rows["trial_id"].isin([ours[0], base[1], base[2]])]))
    row = helped(tables)
    assert (row["n_seeds"], row["verdict"]) == (0, "undecided")
    assert "no seed has a result on both sides" in row["cap"]
    assert "patients of the rarest class" not in row["cap"]
    assert row["missing"].startswith("no seed has a defined result on both sides")


@pytest.mark.parametrize(
    ("change", "why", "detail"),
    [
        ({"logits": lambda p: np.full_like(p.logits, np.inf)}, Why.NOT_FINITE, ""),
        ({"labels": lambda p: ("a", "b", "c")}, Why.OTHER_LABELS, "a, b, c instead of nevus, melanoma, keratosis"),
        ({"kind": lambda p: "multilabel"}, Why.OTHER_LABELS, "multilabel instead of multiclass"),
        (no_rows("y", "logits", "image", "patient"), Why.UNREADABLE, "no image"),
    ],
)
def test_validation_that_cannot_be_used_is_named(study, change, why, detail):
    odd, mine = trials(study)[0], small(study).results["trial_id"]
    validation = {t: dataclasses.replace(study.predictions[t, "test"], name="val", groups={}) for t in mine}
    validation[odd] = dataclasses.replace(validation[odd], **{n: edit(validation[odd]) for n, edit in change.items()})
    tables = build_tables(small(study, validation=validation))
    assert named(tables) == [(why, "validation", 1, odd)]
    assert tables.exclusions["detail"][0] == detail
    assert helped(tables)["n_seeds"] == 3


ODD = {
    "image ids that repeat": (lambda p: {"image": np.full(len(p.image), "same")}, "image ids repeat"),
    "a truth that no class has": (lambda p: {"y": p.y + 9}, "y must lie in"),
    "a truth of another length": (lambda p: {"y": p.y[:-1]}, "truth of another length"),
    "groups of another length": (lambda p: {"groups": {"sex": p.groups["sex"][1:]}}, "sex of another length"),
}


@pytest.mark.parametrize("odd", ODD)
def test_predictions_that_do_not_fit_together_are_named_and_break_nothing(study, odd):
    change, message = ODD[odd]
    predictions = {
        k: dataclasses.replace(p, **change(p)) if k[1] == "test" else p for k, p in study.predictions.items()
    }
    tables = build_tables(small(study, predictions=predictions))
    rows = tables.exclusions[tables.exclusions["reason"] == Why.UNREADABLE]
    assert (rows["set"].tolist(), rows["trials"].tolist()) == (["test"], [9])
    assert message in rows["detail"].item()
    assert set(tables.contrasts["set"]) == {"clinic_b"}


def test_predictions_of_other_labels_are_another_set(study):
    odd = trials(study)[0]
    predictions = dict(study.predictions)
    p = predictions[odd, "test"]
    predictions[odd, "test"] = dataclasses.replace(p, labels=p.labels[::-1])
    tables = build_tables(small(study, predictions=predictions))
    (row,) = tables.exclusions.to_dict("records")
    assert (row["reason"], row["trial_ids"]) == (Why.OTHER_SET, odd)
    assert f"labels {', '.join(p.labels[::-1])} instead of {', '.join(p.labels)}" in row["detail"]


def test_a_set_without_an_image_is_named_and_breaks_nothing(study):
    empty = {
        key: dataclasses.replace(
            p,
            image=p.image[:0],
            patient=p.patient[:0],
            y=p.y[:0],
            logits=p.logits[:0],
            groups={name: values[:0] for name, values in p.groups.items()},
        )
        if key[1] == "test"
        else p
        for key, p in study.predictions.items()
    }
    tables = build_tables(small(study, predictions=empty))
    (row,) = tables.exclusions.to_dict("records")
    assert (row["reason"], row["trials"], row["set"]) == (Why.UNREADABLE, 9, "test")
    assert helped(tables, "clinic_b")["n_seeds"] == 3
