"""Rows of a task: what is trained on, selected on and scored, and what may never mix."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from search_spaces.amounts import Amount
from search_spaces.exceptions import UserError
from search_spaces.names import Kind
from tests.trainables.made_masks import save_masks
from tests.trainables.made_tasks import (
    filled_library,
    make_task,
    multiclass_table,
    multilabel_table,
    save_manifest,
)
from trainables.evaluation_sets import EvaluationRows, task_rows
from trainables.mask_labels import mask_presence
from trainables.subsets import draw_subset


@pytest.fixture
def library(tmp_path):
    return filled_library(tmp_path)


def values(rows: EvaluationRows, column: str) -> set[str]:
    return set(rows.manifest.table[column].iloc[rows.positions])


def test_splits_are_the_manifests(library):
    rows = task_rows(library, make_task(library, "findings"))
    split = rows.manifest.table["split"]
    assert (split.iloc[rows.train] == "train").all()
    assert len(rows.train) == 16
    assert (split.iloc[rows.val] == "val").all()
    assert rows.val_patients == 3
    assert values(rows.sets["test"], "split") == {"test"}
    assert rows.left_out == {}


def test_where_keeps_rows_in_every_split(library):
    evaluate = {"test": {}, "portable": {"where": {"device": "portable"}}}
    rows = task_rows(library, make_task(library, "findings", evaluate, where={"sex": ["M"]}))
    sex = rows.manifest.table["sex"]
    for positions in (rows.train, rows.val, rows.sets["test"].positions):
        assert set(sex.iloc[positions]) == {"M"}
    assert values(rows.sets["portable"], "g_device") == {"portable"}
    assert values(rows.sets["portable"], "split") == {"test"}
    assert rows.left_out == {"not matching where": 16}


def test_held_out_patients_leave_with_all_their_rows(library):
    table = multilabel_table()
    table.loc[[0, 21, 25], "g_device"] = "mobile"  # one image each of a train, a val and a test patient
    save_manifest(library, "findings", Kind.MULTILABEL, ("opacity", "nodule"), table)
    evaluate = {"test": {}, "mobile": {"where": {"device": "mobile"}, "held_out": True}}
    rows = task_rows(library, make_task(library, "findings", evaluate))
    patients = table["patient_id"].to_numpy()
    assert rows.sets["mobile"].positions.tolist() == [0, 21, 25]
    for positions in (rows.train, rows.val, rows.sets["test"].positions):
        assert not set(patients[positions]) & {"p00", "p10", "p12"}
    assert rows.left_out == {"patients of held-out sets": 6}


def test_another_set_of_the_same_manifest_uses_all_its_splits(library):
    evaluate = {"test": {}, "site_b": {"manifest": "findings", "where": {"site": ["B"]}}}
    rows = task_rows(library, make_task(library, "findings", evaluate, where={"site": ["A"]}))
    assert values(rows.sets["site_b"], "site") == {"B"}
    assert len(rows.sets["site_b"].positions) == 16
    external = {"external": {"split": ["external"]}}
    again = task_rows(library, make_task(library, "findings", external))
    assert again.sets["external"].positions.tolist() == rows.sets["site_b"].positions.tolist()


def test_unused_rows_are_used_only_when_named(library):
    table = multilabel_table()
    table.loc[40:, "split"] = "unused"
    save_manifest(library, "other", Kind.MULTILABEL, ("opacity", "nodule"), table)
    evaluate = {"all": {"manifest": "other"}, "rest": {"manifest": "other", "split": ["unused"]}}
    rows = task_rows(library, make_task(library, "findings", evaluate))
    assert len(rows.sets["all"].positions) == 40
    assert rows.sets["rest"].positions.tolist() == list(range(40, 48))


def test_label_map_and_masked_labels(library):
    table = multilabel_table().rename(columns={"y_opacity": "y_infiltrate", "y_nodule": "y_mass"})
    save_manifest(library, "other", Kind.MULTILABEL, ("infiltrate", "mass"), table)
    evaluate = {"elsewhere": {"manifest": "other", "label_map": {"opacity": "infiltrate"}}}
    of_set = task_rows(library, make_task(library, "findings", evaluate)).sets["elsewhere"]
    assert of_set.columns == {"opacity": "infiltrate", "nodule": None}
    assert np.isnan(of_set.targets[:, 1]).all()
    # An uncertain label is masked, but kept as it was; rows without any known label score nothing.
    assert set(np.unique(of_set.targets[:, 0])) == {0.0, 1.0}
    assert of_set.positions.tolist() == [k for k in range(48) if k not in (0, 17, 24)]


def test_another_import_of_the_same_images_is_scored_on_its_own_labels(library):
    original = library.load("findings")
    table = original.table.assign(y_nodule=1 - original.table["y_nodule"])
    library.save(replace(original, name="reread", table=table, hash_key=b""))
    evaluate = {"test": {}, "reread": {"manifest": "reread", "split": ["test"]}}
    sets = task_rows(library, make_task(library, "findings", evaluate)).sets
    assert sets["reread"].positions.tolist() == sets["test"].positions.tolist()
    np.testing.assert_array_equal(sets["reread"].raw[:, 1], 1 - sets["test"].raw[:, 1])
    np.testing.assert_array_equal(sets["reread"].targets[:, 1], 1 - sets["test"].targets[:, 1])
    assert sets["reread"].shared_patients == 0
    with pytest.raises(UserError, match="22 of its 48 rows are images of patients that the task trains or selects on"):
        task_rows(library, make_task(library, "findings", {"x": {"manifest": "reread"}}))


def test_another_import_with_a_second_observers_masks_is_scored_on_these(library):
    original = save_masks(library)
    masks = original.table["mask"]
    library.save(replace(original, name="second", table=original.table.assign(mask=masks[::-1].tolist()), hash_key=b""))
    evaluate = {"test": {}, "second": {"manifest": "second", "split": ["test"]}}
    sets = task_rows(library, make_task(library, "squares", evaluate, primary="dice")).sets
    shown = {name: mask_presence(library, library.load(name))[sets["test"].positions] for name in ("squares", "second")}
    assert (shown["squares"] != shown["second"]).any()
    np.testing.assert_array_equal(sets["test"].raw, shown["squares"])
    np.testing.assert_array_equal(sets["second"].raw, shown["second"])


@pytest.mark.parametrize(("policy", "expected"), [("ignore", np.nan), ("ones", 1.0), ("zeros", 0.0)])
def test_label_policy_is_for_training_alone(library, policy, expected):
    rows = task_rows(library, make_task(library, "findings", label_policy=policy))
    np.testing.assert_equal(rows.train_targets[0], [expected, 0.0])
    np.testing.assert_equal(rows.val_set.targets[1], [np.nan, 0.0])  # row 17
    assert rows.val_set.raw[1, 0] == -1


def test_classes_in_the_tasks_order_and_others_left_out(library):
    rows = task_rows(library, make_task(library, "lesions", labels=("bcc", "nv")))
    y = multiclass_table()["y"].to_numpy()
    assert rows.train.tolist() == [k for k in range(15) if y[k] in (0, 2)]
    assert rows.train_targets.tolist() == [{2: 0, 0: 1}[int(y[k])] for k in rows.train]
    assert rows.left_out == {"of another class": 10, "without a known label": 2}
    pool = rows.pool(("bcc", "nv"))
    subset = draw_subset(pool, ("bcc", "nv"), "multiclass", Amount.model_validate(1.0), 0)
    assert subset.positives == {"bcc": int((y[:15] == 2).sum()), "nv": int((y[:15] == 0).sum())}


def test_a_label_may_be_a_class_elsewhere(library):
    table = multilabel_table().drop(columns=["y_opacity", "y_nodule"])
    table["y"] = np.tile([0, 1, -1, 1], 12).astype(np.int16)
    save_manifest(library, "classes", Kind.MULTICLASS, ("normal", "pneumonia"), table)
    evaluate = {"elsewhere": {"manifest": "classes", "label_map": {"opacity": "pneumonia"}}}
    of_set = task_rows(library, make_task(library, "findings", evaluate)).sets["elsewhere"]
    assert len(of_set.positions) == 36
    assert of_set.targets[:3, 0].tolist() == [0.0, 1.0, 1.0]


def test_pool_holds_the_training_labels(library):
    rows = task_rows(library, make_task(library, "findings", label_policy="ones", labels=("nodule", "opacity")))
    pool = rows.pool(("nodule", "opacity"))
    assert list(pool) == ["image_id", "patient_id", "y_nodule", "y_opacity"]
    assert pool["image_id"].tolist() == rows.manifest.table["image_id"].iloc[rows.train].tolist()
    assert pool["y_opacity"].iloc[0] == 1


REFUSED = {
    "empty": ({"x": {"where": {"sex": "F", "device": "portable"}}}, "evaluate.x: the evaluation set is empty"),
    "unknown value": ({"x": {"where": {"site": "Z"}}}, "evaluate.x.where: unknown value 'Z'"),
    "no shared label": ({"x": {"manifest": "lesions"}}, "no shared labels. The task has opacity, nodule"),
    "label of the task": ({"x": {"label_map": {"opacty": "opacity"}}}, "Did you mean 'opacity'"),
    "label of the other": ({"x": {"label_map": {"opacity": "noduel"}}}, "Did you mean 'nodule'"),
    "label of half a written map": (
        {"x": {"label_map": {"opacity": "opacity", "Pneumonia": "nodule"}}},
        "unknown label of the task 'Pneumonia' in tasks.task_findings.evaluate.x.label_map",
    ),
    "shipped map": (
        {"x": {"label_map": "chexpert_to_chestxray14"}},
        "evaluate.x.label_map: label map 'chexpert_to_chestxray14' joins none of opacity, nodule with one of",
    ),
    "trained images": ({"x": {"manifest": "findings"}}, "22 of its 48 rows are images of patients that the task"),
    "trained split": (
        {"x": {"split": ["val"]}},
        "6 of its 6 rows are images of patients that the task trains or selects",
    ),
    "split name": ({"x": {"split": ["tset"]}}, "Did you mean 'test'"),
    "held out elsewhere": (
        {"x": {"manifest": "lesions", "held_out": True}},
        "held_out takes rows out of the task's own",
    ),
    "no such manifest": ({"x": {"manifest": "finding"}}, "unknown task 'finding'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_evaluation_sets_that_are_refused(library, case):
    evaluate, message = REFUSED[case]
    with pytest.raises(UserError) as caught:
        task_rows(library, make_task(library, "findings", evaluate))
    assert message in str(caught.value)


def test_a_task_of_classes_needs_classes_elsewhere(library):
    with pytest.raises(UserError, match="its images have no single class"):
        task_rows(
            library, make_task(library, "lesions", {"x": {"manifest": "findings", "label_map": {"nv": "nodule"}}})
        )


def test_the_same_files_under_another_name_are_refused(library):
    table = multilabel_table().assign(patient_id=[f"other{k}" for k in range(48)])
    original = library.load("findings")
    copy = save_manifest(library, "copy", Kind.MULTILABEL, ("opacity", "nodule"), table)
    object.__setattr__(copy, "root", original.root)
    library.save(copy, overwrite=True)
    with pytest.raises(UserError, match="22 of its 48 rows are image files that the task trains"):
        task_rows(library, make_task(library, "findings", {"x": {"manifest": "copy"}}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "test"}, "has no train rows: manifest 'findings' has no split 'train'"),
        ({"val": "test"}, "has no val rows: manifest 'findings' has no split 'val'. Import it again with one"),
        ({"where": {"site": "B"}}, "has no train rows: none of the 16 of manifest 'findings' matches where"),
        ({"held_out": ({"site": "A"},)}, "has no train rows: all 16 belong to patients of held-out sets"),
        ({"blank": True}, "has no train rows: none of 16 has a known label of opacity"),
    ],
)
def test_tasks_without_training_or_validation_rows(library, change, message):
    table = multilabel_table()
    fields = {k: v for k, v in change.items() if k in ("where", "held_out")}
    if "split" in change:
        table["split"] = change["split"]
    if "val" in change:
        table["split"] = table["split"].replace("val", change["val"])
    if "blank" in change:
        table.loc[table["split"] == "train", "y_opacity"] = np.nan
        fields["labels"] = ("opacity",)
    save_manifest(library, "findings", Kind.MULTILABEL, ("opacity", "nodule"), table)
    with pytest.raises(UserError) as caught:
        task_rows(library, make_task(library, "findings", **fields))
    assert message in str(caught.value)


def test_patients_shared_with_training_are_counted_by_their_ids(library):
    """In the task's own manifest there are none; ids of another manifest are compared as they are."""
    original = library.load("findings")
    other = multilabel_table().assign(split="test")
    save_manifest(library, "elsewhere", Kind.MULTILABEL, ("opacity", "nodule"), other)
    evaluate = {"test": {}, "there": {"manifest": "elsewhere"}}
    rows = task_rows(library, make_task(library, "findings", evaluate))
    trained = set(original.table["patient_id"].iloc[np.union1d(rows.train, rows.val)])
    there = rows.sets["there"]
    expected = len(trained & set(there.manifest.table["patient_id"].iloc[there.positions]))
    assert rows.sets["test"].shared_patients == 0
    assert there.shared_patients == expected > 0


def _with_studies(library, **changed):
    table = multilabel_table()
    table["study_id"] = [f"s{k // 2}" for k in range(len(table))]
    for column, rows in changed.items():
        for row, value in rows.items():
            table.loc[row, column] = value
    return save_manifest(library, "findings", Kind.MULTILABEL, ("opacity", "nodule"), table)


@pytest.mark.parametrize("unit", ["patient", "study"])
def test_sets_may_be_scored_by_examination_or_patient(library, unit):
    _with_studies(library)
    task = make_task(library, "findings", {"test": {"aggregate": unit, "aggregate_by": "max"}})
    assert task.evaluate["test"].aggregation == f"{unit}:max"
    by_image = task_rows(library, make_task(library, "findings"))
    assert task_rows(library, task).sets["test"].positions.tolist() == by_image.sets["test"].positions.tolist()


def test_units_that_are_not_known_are_refused(library):
    by_study = {"test": {"aggregate": "study"}}
    with pytest.raises(UserError, match="has no examinations; import it with --study-column"):
        task_rows(library, make_task(library, "findings", by_study))
    _with_studies(library, study_id={30: None})
    with pytest.raises(UserError, match=r"aggregate: study: 1 of its \d+ images have no examination"):
        task_rows(library, make_task(library, "findings", by_study))


def test_a_unit_has_one_class(library):
    table = multiclass_table()
    table["patient_id"] = [f"q{k // 3:02d}" for k in range(30)]
    save_manifest(library, "lesions", Kind.MULTICLASS, ("nv", "mel", "bcc"), table)
    with pytest.raises(UserError, match=r"3 of 3 patients have images of several classes"):
        task_rows(library, make_task(library, "lesions", {"test": {"aggregate": "patient"}}))


def test_blank_labels_may_be_negative_in_training_alone(library):
    masked = task_rows(library, make_task(library, "findings"))
    zero = task_rows(library, make_task(library, "findings", blank="zero", where={"site": ["A"]}))
    table = multilabel_table()
    assert np.isnan(table["y_opacity"][24])
    for rows in (masked, zero):
        targets = rows.sets["test"].targets[rows.sets["test"].positions == 24]
        assert np.isnan(targets[:, 0]).all()
    blank = table.assign(y_opacity=np.float32(np.nan))
    save_manifest(library, "findings", Kind.MULTILABEL, ("opacity", "nodule"), blank)
    trained = task_rows(library, make_task(library, "findings", blank="zero")).train_targets
    assert (trained[:, 0] == 0).all()


def test_patients_in_training_and_validation_are_refused(library):
    table = multilabel_table()
    table.loc[[16, 18], "patient_id"] = "p00"
    save_manifest(library, "findings", Kind.MULTILABEL, ("opacity", "nodule"), table)
    with pytest.raises(UserError) as caught:
        task_rows(library, make_task(library, "findings"))
    message = str(caught.value)
    assert "1 patients of manifest 'findings' are in both training and validation, with 2 of its 6" in message
    assert "p00" not in message
    women = task_rows(library, make_task(library, "findings", where={"sex": "M"}))
    assert len(women.val), "of rows that are not used nothing is said"


def test_patients_of_one_release_are_refused_under_other_images(library):
    """The same map read both manifests, so one id is one patient although no file is shared."""
    table = multilabel_table()
    own = save_manifest(library, "findings", Kind.MULTILABEL, ("opacity", "nodule"), table)
    other = save_manifest(library, "views", Kind.MULTILABEL, ("opacity", "nodule"), table.assign(split="test"))
    evaluate = {"x": {"manifest": "views", "split": ["test"]}}
    assert task_rows(library, make_task(library, "findings", evaluate)).sets["x"].shared_patients == 11
    for manifest in (own, other):
        library.save(replace(manifest, importer="map release"), overwrite=True)
    with pytest.raises(UserError, match="22 of its 48 rows are images of patients that the task trains or selects on"):
        task_rows(library, make_task(library, "findings", evaluate))
    apart = {"x": {"manifest": "views", "where": {"site": "B"}}}
    assert task_rows(library, make_task(library, "findings", apart)).sets["x"].shared_patients == 0


@given(
    devices=st.lists(st.sampled_from([*["fixed"] * 8, "portable", "mobile"]), min_size=48, max_size=48),
    held=st.lists(st.sampled_from(["portable", "mobile"]), min_size=1, max_size=2, unique=True),
    where=st.sampled_from([{}, {"sex": "F"}, {"site": ["A", "B"]}]),
)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_nobody_of_a_held_out_set_is_anywhere_else(library, devices, held, where):
    manifest = library.load("findings")
    manifest = replace(manifest, table=manifest.table.assign(g_device=devices))
    library.save(manifest, overwrite=True)
    evaluate = {"test": {}, "held": {"where": {"device": held}, "held_out": True}}
    try:
        rows = task_rows(library, make_task(library, "findings", evaluate, where=where))
    except UserError:
        event("refused: a side is empty")
        return
    event("held out")
    patients = manifest.table["patient_id"]
    sides = [set(patients.iloc[p]) for p in (rows.train, rows.val, *(s.positions for s in rows.sets.values()))]
    assert sum(map(len, sides)) == len(set().union(*sides))
    assert set(manifest.table["g_device"].iloc[rows.sets["held"].positions]) <= set(held)
    assert not set(manifest.table["g_device"].iloc[np.concatenate([rows.train, rows.val])]) & set(held)
