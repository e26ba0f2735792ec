"""Task data: each target with its own image, subsets as drawn, ids hashed, nothing read twice."""

from __future__ import annotations

import hashlib
import hmac
import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image

from search_spaces.amounts import Amount, Seed
from search_spaces.exceptions import UserError
from search_spaces.names import Kind
from search_spaces.protocol import Protocol
from search_spaces.trial import ResolvedScale
from tests.trainables.made_masks import save_masks
from tests.trainables.made_tasks import (
    colour,
    filled_library,
    make_task,
    multilabel_table,
    save_manifest,
)
from tests.trainables.toy import toy_trial
from trainables import task_data
from trainables.evaluation_sets import task_rows
from trainables.pixels import Colour
from trainables.storage import Storage
from trainables.store import open_store
from trainables.store_cache import CacheFullError, cached_stores
from trainables.subset_files import keep_subset
from trainables.subsets import EmptyCell, draw_subset
from trainables.task_data import forget_tasks, load_task_data, prediction_frame, worked_side, working_side


@pytest.fixture
def library(tmp_path):
    forget_tasks()
    return filled_library(tmp_path)


def make_trial(task, fraction=1.0, subset=0, storage_size=16, input_size=8):
    return toy_trial(
        task=task,
        amount=Amount.model_validate(fraction),
        seed=Seed(subset=subset, init=0),
        scale=ResolvedScale(name="n", factory="f", input_size=input_size),
        protocol=Protocol(storage_size=storage_size),
    )


def test_every_target_has_its_own_image(library):
    evaluate = {"test": {}, "site_b": {"split": ["external"]}}
    data = load_task_data(make_trial(make_task(library, "findings", evaluate), 0.5), library)
    table = multilabel_table().set_index("image_id")
    for labelled in (data.train, data.val, *data.sets.values()):
        assert labelled.images.shape[1:] == (10, 10, 3)
        everything = labelled.gather(np.arange(len(labelled)))
        np.testing.assert_array_equal(everything, labelled.images[labelled.positions])
        for image, target, image_id in zip(everything, labelled.targets, labelled.frame["image_id"], strict=True):
            assert (image == colour(image_id)).all()
            truth = table.loc[image_id, ["y_opacity", "y_nodule"]].to_numpy(dtype=np.float32)
            np.testing.assert_equal(target, np.where(truth == -1, np.nan, truth).astype(np.float32))
    assert data.val.targets.dtype == np.float32


def test_the_training_set_is_the_subset(library):
    task = make_task(library, "findings")
    trial = make_trial(task, 0.5, subset=3)
    data = load_task_data(trial, library)
    rows = task_rows(library, task)
    subset = draw_subset(rows.pool(task.labels), task.labels, task.kind, trial.amount, 3)
    assert data.train.frame["image_id"].tolist() == rows.pool(task.labels)["image_id"].iloc[subset.rows].tolist()
    facts = data.subset
    assert (facts.images, facts.subset_hash, facts.order_hash) == (
        len(data.train),
        subset.subset_hash,
        subset.order_hash,
    )
    assert (facts.pool_images, facts.val_images, facts.val_patients, facts.patients_known) == (16, 6, 3, True)


def test_classes(library):
    task = make_task(library, "lesions", labels=("bcc", "nv"))
    data = load_task_data(make_trial(task), library)
    table = task_rows(library, task).manifest.table.set_index("image_id")
    assert data.train.targets.dtype == np.int64
    for labelled in (data.train, data.val, data.sets["test"]):
        y = table["y"].loc[labelled.frame["image_id"]].to_numpy()
        np.testing.assert_array_equal(labelled.targets, np.where(y == 2, 0, 1))
    frame = prediction_frame(data.sets["test"], task)
    assert frame["y"].dtype == np.int16
    assert frame["y"].tolist() == data.sets["test"].targets.tolist()


def test_prediction_frames_hold_hashes_groups_and_truth(library):
    task = make_task(library, "findings", groups=("sex", "g_device", "age_band", "nonexistent"))
    data = load_task_data(make_trial(task), library)
    test_set = data.sets["test"]
    frame = prediction_frame(test_set, task)
    manifest = library.load("findings")
    original = manifest.table[manifest.table["split"] == "test"].reset_index(drop=True)
    assert list(frame) == [
        *("image_id", "patient_id", "site", "g_sex", "g_device"),
        *("y_opacity", "raw_opacity", "y_nodule", "raw_nodule"),
    ]
    expected = hmac.new(manifest.hash_key, b"p11", hashlib.sha256).hexdigest()[:16]
    assert frame["patient_id"][0] == expected == manifest.hashed("p11")
    assert frame["image_id"].tolist() == [manifest.hashed(i) for i in original["image_id"]]
    assert frame["g_device"].tolist() == original["g_device"].tolist()
    assert frame["raw_opacity"].dtype == "Int8"
    blank = original["y_opacity"].isna().to_numpy()
    assert blank.sum() == 1
    np.testing.assert_array_equal(frame["raw_opacity"].isna(), blank)
    other = prediction_frame(test_set, task, b"another key")
    assert not set(other["patient_id"]) & set(frame["patient_id"])
    assert len(set(other["patient_id"])) == len(set(frame["patient_id"]))


def test_uncertain_labels_are_masked_but_kept_as_raw(library):
    table = multilabel_table()
    table.loc[table["split"] == "test", "y_opacity"] = -1
    save_manifest(library, "findings", Kind.MULTILABEL, ("opacity", "nodule"), table)
    task = make_task(library, "findings", label_policy="ones")
    frame = prediction_frame(load_task_data(make_trial(task), library).sets["test"], task)
    assert frame["y_opacity"].isna().all()
    assert (frame["raw_opacity"] == -1).all()


def test_sets_of_other_manifests_have_their_own_images_and_key(library):
    table = multilabel_table().assign(image_id=[f"z{k:02d}" for k in range(48)])
    other = save_manifest(library, "other", Kind.MULTILABEL, ("opacity", "nodule"), table)
    task = make_task(library, "findings", {"test": {}, "elsewhere": {"manifest": "other"}})
    data = load_task_data(make_trial(task), library)
    elsewhere = data.sets["elsewhere"]
    assert (elsewhere.gather(np.array([0]))[0] == colour("z00")).all()
    assert prediction_frame(elsewhere, task)["patient_id"][0] == other.hashed("p00")
    assert data.sets["test"].hash_key != elsewhere.hash_key


def test_another_import_of_the_same_images_is_scored_on_its_own_pixels(library):
    original = library.load("findings")
    library.save(replace(original, name="grey", colour=Colour.GREY, hash_key=b""))
    turned = original.table.iloc[::-1].reset_index(drop=True)
    library.save(replace(original, name="turned", table=turned, hash_key=b""))
    evaluate = {"test": {}, **{name: {"manifest": name, "split": ["test"]} for name in ("grey", "turned")}}
    sets = load_task_data(make_trial(make_task(library, "findings", evaluate)), library).sets
    for name, mode in (("test", "RGB"), ("grey", "L"), ("turned", "RGB")):
        images = sets[name].gather(np.arange(len(sets[name])))
        for image, image_id in zip(images, sets[name].frame["image_id"], strict=True):
            wanted = Image.new("RGB", (1, 1), colour(image_id)).convert(mode).convert("RGB")
            assert (image == np.asarray(wanted)).all()
    assert sets["turned"].store == sets["test"].store != sets["grey"].store, "equal content is stored once"


def test_another_import_with_a_second_observers_masks_is_scored_on_these(library):
    original = save_masks(library)
    table = original.table.assign(mask=original.table["mask"][::-1].tolist())
    second = library.save(replace(original, name="second", table=table, hash_key=b""))
    evaluate = {"test": {}, "second": {"manifest": "second", "split": ["test"]}}
    sets = load_task_data(make_trial(make_task(library, "squares", evaluate, primary="dice")), library).sets
    planes = {name: of_set.masks.planes[of_set.positions] for name, of_set in sets.items()}
    store = open_store(library, second, 16)
    rows = np.flatnonzero(second.table["split"] == "test")
    np.testing.assert_array_equal(planes["second"], store.masks[store.rows[rows]])
    assert (planes["second"] != planes["test"]).any()


def test_a_second_trial_reads_nothing_again(library, monkeypatch):
    task = make_task(library, "findings")
    first = load_task_data(make_trial(task, 0.5), library)
    monkeypatch.setattr(task_data, "task_rows", lambda *_: pytest.fail("rows were made again"))
    monkeypatch.setattr(task_data, "open_store", lambda *_, **__: pytest.fail("the store was opened again"))
    monkeypatch.setattr(pd, "read_parquet", lambda *_: pytest.fail("a table was read again"))
    second = load_task_data(make_trial(task, 1.0, subset=1), library)
    assert len(second.train) == 16
    assert second.train.images is first.train.images
    again = load_task_data(make_trial(task, 0.5), library)
    assert again.subset == first.subset
    pd.testing.assert_frame_equal(again.train.frame, first.train.frame)


def test_a_trial_cannot_change_what_the_next_one_gets(library):
    task = make_task(library, "findings")
    first = load_task_data(make_trial(task), library)
    first.sets.clear()
    first.train.targets[:] = 7
    second = load_task_data(make_trial(task), library)
    assert set(second.sets) == {"test"}
    assert not (second.train.targets == 7).any()


def test_a_manifest_that_changed_after_the_plan_is_refused(library):
    task = make_task(library, "findings")
    load_task_data(make_trial(task), library)
    save_manifest(library, "findings", Kind.MULTILABEL, ("opacity", "nodule"), multilabel_table().assign(sex="M"))
    with pytest.raises(UserError, match="changed after the study was planned"):
        load_task_data(make_trial(task), library)


def test_stores_stand_in_for_images_that_are_gone(library):
    task = make_task(library, "findings")
    before = load_task_data(make_trial(task), library)
    forget_tasks()
    shutil.rmtree(library.load("findings").root)
    after = load_task_data(make_trial(task), library)
    np.testing.assert_array_equal(before.train.images, after.train.images)


def test_few_tasks_are_kept(library):
    task = make_task(library, "findings")
    for size in range(4, 16):
        load_task_data(make_trial(task, input_size=size), library)
    assert len(task_data._TASKS) == 8


def test_a_cache_without_room_beside_tasks_of_earlier_trials_forgets_them(library, monkeypatch):
    first, second = (make_task(library, name) for name in ("findings", "lesions"))
    load_task_data(make_trial(first, storage_size=10), library)
    alone = cached_stores(library.home)[0].size_bytes
    monkeypatch.setenv("SCALECURVES_CACHE_LIMIT", f"{alone + 1000}B")
    data = load_task_data(make_trial(second, storage_size=10), library)
    assert len(data.train)
    assert [key[1] for key in task_data._TASKS] == [second.model_dump_json()]
    del data
    kept = [store.path for store in cached_stores(library.home)]
    monkeypatch.setenv("SCALECURVES_CACHE_LIMIT", "100B")
    with pytest.raises(CacheFullError):
        load_task_data(make_trial(first, storage_size=10), library)
    assert [store.path for store in cached_stores(library.home)] == kept


@pytest.mark.parametrize(
    ("input_size", "storage_size", "side"), [(224, 256, 256), (224, 224, 224), (32, 128, 37), (28, 32, 32), (7, 8, 8)]
)
def test_working_side(input_size, storage_size, side):
    assert working_side(input_size, storage_size) == side


def test_ten_crops_need_room(library):
    ten = Protocol(base="taher_classification")
    assert worked_side(ten, 224) == 256
    with pytest.raises(UserError, match=r"all crops are the same; store at least 293 px"):
        worked_side(ten, 256)
    with pytest.raises(ValueError, match="evaluation_crop whole does not"):
        Protocol(base="taher_classification", evaluation_crop="whole")


def test_too_little_stored(library):
    message = "protocol.storage_size is 16 px, but the model takes 32 px; store at least 32, better 37"
    with pytest.raises(UserError, match=message):
        load_task_data(make_trial(make_task(library, "findings"), input_size=32), library)


def test_an_empty_cell(library):
    with pytest.raises(EmptyCell, match="fewer than one patient"):
        load_task_data(make_trial(make_task(library, "findings"), 0.01), library)


def test_validation_shrinks_with_the_amount_where_that_is_declared(library):
    fixed = load_task_data(make_trial(make_task(library, "findings"), 0.3), library)
    assert (len(fixed.val), fixed.subset.val_images, fixed.subset.val_hash) == (6, 6, "")
    task = make_task(library, "findings", validation="scaled")
    small, whole = (load_task_data(make_trial(task, fraction), library) for fraction in (0.3, 1.0))
    assert small.train.frame["image_id"].tolist() == fixed.train.frame["image_id"].tolist()
    assert 0 < len(small.val) < len(whole.val) == 6
    assert set(small.val.frame["image_id"]) < set(whole.val.frame["image_id"])
    facts = small.subset
    assert (facts.val_images, facts.val_patients) == (len(small.val), small.val.frame["patient_id"].nunique())
    assert facts.val_hash not in ("", whole.subset.val_hash)
    for name, images in small.sets.items():  # never subsampled
        assert len(images) == len(fixed.sets[name])


def test_a_subset_is_kept_once_for_all_scales_sources_and_initialisations(library, tmp_path):
    storage = Storage(tmp_path / "storage")
    task = make_task(library, "findings")
    for init, source in ((0, "random"), (1, "random"), (0, "natural")):
        trial = make_trial(task, 0.5).model_copy(update={"seed": Seed(subset=2, init=init)})
        trial = trial.model_copy(update={"source": trial.source.model_copy(update={"name": source})})
        data = load_task_data(trial, library)
        for drawn in data.drawn:
            keep_subset(storage, drawn)
    (order,) = (tmp_path / "storage" / "subsets").glob("*.parquet")
    (kept,) = (tmp_path / "storage" / "subsets").glob("*.json")
    facts = json.loads(kept.read_text())
    assert kept.stem.endswith(f"{data.subset.order_hash}-{data.subset.subset_hash}")
    assert order.stem.endswith(data.subset.order_hash)
    patients = pq.read_table(order)["patient_id"].to_pylist()
    places = [*range(facts["prefix"]), *facts["further"]]
    manifest = library.load("findings")
    wanted = {manifest.hashed(patient) for patient in data.train.frame["patient_id"]}
    assert {patients[place] for place in places} == wanted
    assert (facts["patients"], facts["images"]) == (data.subset.patients, data.subset.images)


def test_equal_subsets_of_two_orders_are_told_apart(library, tmp_path):
    """All images are one subset under every seed, but other places of another order."""
    storage, task = Storage(tmp_path / "storage"), make_task(library, "findings")
    for subset in (0, 1):
        (drawn,) = load_task_data(make_trial(task, 1.0, subset=subset), library).drawn
        keep_subset(storage, drawn)
        name = f"{task.manifest_hash[:16]}-{drawn.order.order_hash}-{drawn.subset.subset_hash}.json"
        facts = json.loads((tmp_path / "storage" / "subsets" / name).read_text())
        assert facts["order_hash"] == drawn.order.order_hash
    assert len(list((tmp_path / "storage" / "subsets").glob(f"*{drawn.subset.subset_hash}.json"))) == 2


def test_a_kept_subset_says_what_follows_from_its_name_alone(library, tmp_path):
    """Two amounts may force the same patients in, and policies count other positives on the same images."""
    storage, task = Storage(tmp_path / "storage"), make_task(library, "findings")
    (drawn,) = load_task_data(make_trial(task, 0.5), library).drawn
    keep_subset(storage, drawn)
    (file,) = (tmp_path / "storage" / "subsets").glob("*.json")
    before = file.read_bytes()
    file.unlink()
    other = replace(drawn.subset, forced_patients=9, positives={"opacity": 1})
    keep_subset(storage, replace(drawn, subset=other))
    assert file.read_bytes() == before


def test_what_is_drawn_of_validation_is_kept_too(library, tmp_path):
    storage = Storage(tmp_path / "storage")
    data = load_task_data(make_trial(make_task(library, "findings", validation="scaled"), 0.3), library)
    for drawn in data.drawn:
        keep_subset(storage, drawn)
    (kept,) = (tmp_path / "storage" / "subsets").glob(f"*-{data.subset.val_hash}.json")
    facts = json.loads(kept.read_text())
    (order,) = (tmp_path / "storage" / "subsets").glob(f"*-{facts['order_hash']}.parquet")
    patients = pq.read_table(order)["patient_id"].to_pylist()
    manifest = library.load("findings")
    wanted = {manifest.hashed(patient) for patient in data.val.frame["patient_id"]}
    assert {patients[place] for place in [*range(facts["prefix"]), *facts["further"]]} == wanted
