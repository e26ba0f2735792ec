"""The card counts what trials are trained and scored on, names no patient and no file, and can be read."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest

from dashboards.data_cards import card_tables, load_data_cards
from dashboards.report import gather, write_report
from orchestrator.card_text import card_markdown
from orchestrator.data_cards import data_cards
from orchestrator.plan import make_plan
from orchestrator.plan_data import Drawn
from orchestrator.plan_labels import label_rows
from orchestrator.plan_text import plan_json
from orchestrator.record import Record
from search_spaces.amounts import Amount
from search_spaces.files import load_study
from search_spaces.home import scalecurves_home
from tests.orchestrator.small_study import raw_study, rewrite_study, write_study
from trainables.check_outcomes import Check
from trainables.checks import check_task
from trainables.library import TaskLibrary
from trainables.storage import Storage


@pytest.fixture
def folder(tmp_path):
    write_study(tmp_path)
    return tmp_path


def planned(folder, **of_spots):
    tasks = raw_study()["tasks"]
    tasks["spots"] |= of_spots
    library = TaskLibrary(scalecurves_home())
    return make_plan(load_study(str(rewrite_study(folder, tasks=tasks))), library, load_weights=False), library


def test_counts_are_those_of_the_manifest(folder):
    plan, library = planned(folder)
    check_task(library, "spots")
    card = data_cards(plan, library)["spots"]
    table = library.load("spots").table
    mine = table[table["site"] == "A"]
    sets = {s["set"]: s for s in card["sets"]}
    for name, rows in (
        ("training", mine[mine["split"] == "train"]),
        ("validation", mine[mine["split"] == "val"]),
        ("test", mine[mine["split"] == "test"]),
        ("site_b", table[table["site"] == "B"]),
    ):
        assert (sets[name]["images"], sets[name]["patients"]) == (len(rows), rows["patient_id"].nunique())
        (label,) = sets[name]["labels"]
        assert (label["positive"], label["negative"]) == ((rows["y_spot"] == 1).sum(), (rows["y_spot"] == 0).sum())
        assert label["uncertain"] == label["blank"] == 0
        sexes = {g["group"]: g["images"] for g in card["groups"] if g["set"] == name and g["column"] == "sex"}
        assert sexes == rows["sex"].value_counts().to_dict()
        for group in (g for g in card["groups"] if g["set"] == name):
            own = rows[rows[group["column"]] == group["group"]]
            positive, negative = ((own["y_spot"] == value).sum() for value in (1, 0))
            assert group["labels"] == [{"label": "spot", "positive": positive, "negative": negative}]
    assert card["left_out"] == plan.rows["spots"].left_out
    assert card["check"]["errors"] == 0
    assert card["shared_patients"] == []
    assert {m["column"] for m in card["missing"]} == {"sex", "site"}
    assert [f["data_fraction"] for f in card["fractions"]] == ["0.3", "1"]
    assert card["fractions"][1]["images"] == [sets["training"]["images"]] * 2


def test_a_card_holds_no_patient_and_no_path_and_can_be_read(folder):
    plan, library = planned(folder)
    for card in data_cards(plan, library).values():
        text, shown = json.dumps(card), card_markdown(card)
        for secret in ("p12", "spots_12_0.png", str(folder)):
            assert secret not in text
            assert secret not in shown
        assert shown.startswith(f"# Data of task {card['task']}\n")
        assert "has not been run on this content" in shown
    tables = card_tables(data_cards(plan, library))
    assert set(tables["Sets"]["set"]) == {"training", "validation", "test", "site_b"}
    assert set(tables["Checks"]["task"]) == {"spots", "other_spots"}
    assert "Images and patients on both sides" not in tables


def changed(library, **facts):
    return library.save(replace(library.load("spots"), **facts), overwrite=True)


def test_the_outcome_of_every_check_is_kept_by_name_and_shown(folder):
    library = TaskLibrary(scalecurves_home())
    changed(library, set_aside={"no mask": 3}, left_blank={"impossible age left blank": 2}, expected={"images": 121})
    table = library.load("spots").table
    inside = table.index[table["split"] == "train"][:2]
    shutil.copy(*(folder / "spots" / table["path"][row] for row in inside))
    check_task(library, "spots")
    plan, _ = planned(folder)
    card = data_cards(plan, library)["spots"]
    outcomes = {c["check"]: (c["outcome"], c["found"]) for c in card["check"]["checks"]}
    assert outcomes[Check.IMAGES] == outcomes[Check.PATIENTS] == ("passed", 0)
    assert outcomes[Check.OTHER_COPIES] == ("found", 1)
    assert outcomes[Check.AGES] == outcomes[Check.STORES] == ("not run", None)
    assert Check.MASKS not in outcomes, "there are none"
    assert card["set_aside"] == {"no mask": 3}
    assert card["release"] == [{"count": "images", "released": 121, "here": 120}]
    shown = card_markdown(card)
    for line in (
        "| no other image is repeated, byte for byte | found | 1 |",
        "| every age is possible | not run |  |",
        "| no patient is in two splits | passed |  |",
        "| images | 121 | 120 | -1 |",
        "- set aside, no mask: 3 rows of the data set",
        "- impossible age left blank: 2 rows",
    ):
        assert line in shown
    tables = card_tables({"spots": card})
    told = tables["Outcome of each check"].set_index("check")
    assert told["outcome"][Check.OTHER_COPIES] == "found"
    assert set(tables["Rows that are not used"]["why"]) >= {"no mask", "impossible age left blank"}
    assert tables["Counts of the release"]["here"].tolist() == [120]
    women = tables["Labels in subgroups"].query("set == 'training' and group == 'F'")
    mine = table[(table["split"] == "train") & (table["site"] == "A") & (table["sex"] == "F")]
    assert women["positive"].tolist() == [(mine["y_spot"] == 1).sum()]


def test_cards_of_earlier_versions_can_be_shown(folder):
    plan, library = planned(folder)
    check_task(library, "spots")
    card = data_cards(plan, library)["spots"]
    for later in ("set_aside", "left_blank", "release"):
        del card[later]
    del card["check"]["checks"]
    for group in card["groups"]:
        del group["labels"]
    tables = card_tables({"spots": card})
    assert tables["Checks"]["check"].tolist() == ["checked"]
    assert not set(tables) & {"Outcome of each check", "Counts of the release", "Labels in subgroups"}


def test_no_value_that_a_single_patient_has_is_named(folder):
    """A column that the study asks for may hold a name, an accession number or a hospital of one patient."""
    library = TaskLibrary(scalecurves_home())
    table = library.load("spots").table
    names = "Name of " + table["patient_id"]
    names[table["patient_id"].isin([f"p{k}" for k in range(20, 60)])] = "ward 3"
    changed(library, table=table.assign(g_ward=names, site=table["site"].mask(table["patient_id"] == "p1", "Dr. Who")))
    study = rewrite_study(folder, statistics={"groups": ["sex", "ward"]})
    tasks = raw_study()["tasks"]
    tasks["spots"]["where"] = {}
    tasks["spots"]["evaluate"] = {}
    study = rewrite_study(folder, statistics={"groups": ["sex", "ward"]}, tasks=tasks)
    library.save(replace(library.load("spots"), notes=("such as 'p1' (test, train)",)), overwrite=True)
    check_task(library, "spots")
    card = data_cards(make_plan(load_study(str(study)), library, load_weights=False), library)["spots"]
    text = json.dumps(card) + card_markdown(card)
    for secret in ("Name of", "Dr. Who", "'p1'", "p12", "spots_", str(folder), str(library.home)):
        assert secret not in text
    wards = {g["group"] for g in card["groups"] if g["column"] == "ward" and g["set"] == "training"}
    assert "ward 3" in wards
    assert len(wards) == 2
    images = sum(g["images"] for g in card["groups"] if g["column"] == "ward" and g["set"] == "training")
    assert images == next(s["images"] for s in card["sets"] if s["set"] == "training")


def test_patients_in_two_evaluation_sets_are_counted(folder):
    plan, library = planned(folder, where={}, evaluate={"women": {"where": {"sex": "F"}}})
    card = data_cards(plan, library)["spots"]
    table = library.load("spots").table
    women = table[(table["split"] == "test") & (table["sex"] == "F")]["patient_id"].nunique()
    assert card["shared_patients"] == [{"sets": ["test", "women"], "patients": women}]
    shown = card_tables({"spots": card})["Images and patients on both sides"]
    assert shown["what"].tolist() == ["patients in test and women"]


def test_labels_that_select_are_counted_and_scaled_validation_costs_fewer(folder):
    fixed, _ = planned(folder)
    scaled, _ = planned(folder, validation="scaled")
    val = fixed.images["spots"]["val"]
    rows = {(r["task"], r["data_fraction"]): r for r in label_rows(fixed.subsets)}
    less = {(r["task"], r["data_fraction"]): r for r in plan_json(scaled)["labels"]}
    assert rows["spots", "0.3"]["val_images"] == [val, val]
    assert less["spots", "1"] == rows["spots", "1"]
    least, largest = less["spots", "0.3"]["val_images"]
    assert 0 < least <= largest < 0.5 * val
    assert less["spots", "0.3"]["images"] == rows["spots", "0.3"]["images"]
    total = less["spots", "0.3"]["labelled_images"]
    assert total[0] <= less["spots", "0.3"]["images"][0] + largest
    ids = {t.trial_id for t in fixed.targets}
    assert len(ids) == len(fixed.targets)
    other = {t.trial_id for t in scaled.targets}
    assert not ids & other, "validation that is scaled is another science"


def test_prevalence_of_an_amount_is_of_the_known_labels():
    counts = {"positives": {"a": 2, "b": 5}, "negatives": {"a": 2, "b": 5}}
    drawn = Drawn(images=10, patients=5, forced_patients=0, val_images=3, **counts)
    (row,) = label_rows({("task", Amount.model_validate(0.5)): {0: drawn}})
    assert row["prevalence"] == {"a": [0.5, 0.5], "b": [0.5, 0.5]}


def test_cards_are_kept_on_the_parent_run_and_shown_in_the_report(folder, tmp_path):
    plan, library = planned(folder)
    cards = data_cards(plan, library)
    record = Record(plan.study, Storage(tmp_path / "storage"), f"sqlite:///{tmp_path}/record.db")
    record.open()
    record.set_data_cards({task: (json.dumps(card), card_markdown(card)) for task, card in cards.items()})
    record.close()
    assert load_data_cards(plan.study.name, record.uri) == json.loads(json.dumps(cards))
    evidence, _ = gather(plan.study.name, record.uri)
    page = write_report(evidence, tmp_path / "report", problems=[], record="r").index_html.read_text()
    assert "Missing metadata" not in page, "nothing is missing in this task"
    assert "tasks check has not been run on this content" in page
