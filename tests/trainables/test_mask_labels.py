"""What masks say: planes of labels, what each image shows, and masks that cannot be used."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from search_spaces.exceptions import DataError, UserError
from search_spaces.study import EvaluationSetSpec
from tests.trainables.made_masks import EMPTY_EVERY, HEIGHT, PATIENTS, WIDTH, save_masks
from tests.trainables.made_tasks import make_library, make_task, save_findings
from trainables.evaluation_sets import task_rows
from trainables.mask_labels import IGNORED, mask_plane, mask_presence
from trainables.store import open_store
from trainables.subsets import draw_subset

SIZE = (HEIGHT, WIDTH)


@pytest.fixture
def library(tmp_path):
    return make_library(tmp_path)


def file_of(library, manifest, name):
    return library.home.parent / "images" / manifest.name / name


def test_one_label_is_all_that_is_not_0_and_several_are_numbers(library):
    one, two = save_masks(library), save_masks(library, "two", ("red", "green"))
    assert set(np.unique(mask_plane(one, 3, SIZE))) == {0, 1}
    assert set(np.unique(mask_plane(two, 3, SIZE))) == {0, 2}
    assert set(np.unique(mask_plane(two, 4, SIZE))) == {0, 1}
    shown = mask_presence(library, two)
    assert shown.shape == (2 * PATIENTS, 2)
    assert shown[3].tolist() == [0, 1]
    assert shown[0].tolist() == [0, 0]


def test_outside_the_valid_area_nothing_is_known(library):
    manifest = save_masks(library, valid_area="valid.png")
    valid = np.zeros(SIZE, np.uint8)
    valid[:, :5] = 255
    Image.fromarray(valid).save(file_of(library, manifest, "valid.png"))
    plane = mask_plane(manifest, 1, SIZE)
    assert (plane[:, 5:] == IGNORED).all()
    assert (plane[:, :5] <= 1).all()
    store = open_store(library, manifest, 12)
    stored = store.masks[store.rows[np.array([1])]][0]
    assert set(np.unique(stored)) <= {0, 1, IGNORED}
    assert (stored[:, 4:] == IGNORED).all()


def test_the_store_keeps_planes_of_a_smaller_side_too(library):
    manifest = save_masks(library, "two", ("red", "green"))
    store = open_store(library, manifest, 16, 8)
    assert store.masks.shape == (2 * PATIENTS, 8, 8)
    assert set(np.unique(np.asarray(store.masks))) == {0, 1, 2}


def test_presence_is_remembered_until_a_mask_changes(library):
    manifest = save_masks(library)
    first = mask_presence(library, manifest)
    assert first[:, 0].tolist() == [float(k % EMPTY_EVERY > 0) for k in range(2 * PATIENTS)]
    kept = list((library.home / "cache").glob("masks-*.npy"))
    assert len(kept) == 1
    np.save(kept[0], 1 - first)
    assert (mask_presence(library, manifest) == 1 - first).all()
    Image.fromarray(np.full(SIZE, 255, np.uint8)).save(file_of(library, manifest, "m0.png"))
    assert mask_presence(library, manifest)[0, 0] == 1


def test_masks_that_cannot_be_used_are_all_named(library):
    manifest = save_masks(library)
    Image.new("L", (WIDTH, HEIGHT - 1)).save(file_of(library, manifest, "m2.png"))
    file_of(library, manifest, "m5.png").unlink()
    with pytest.raises(DataError, match="2 of 48 masks of 'squares' cannot be used") as error:
        mask_presence(library, manifest)
    assert "mask m2.png is 24 x 19, its image i2.png is 24 x 20" in str(error.value)
    assert "m5.png is missing" in str(error.value)
    two = save_masks(library, "two", ("red", "green"))
    Image.fromarray(np.full(SIZE, 7, np.uint8)).save(file_of(library, two, "m1.png"))
    with pytest.raises(DataError, match=r"values from 7 to 7; the labels red, green are 1 to 2, and 0 is none"):
        mask_presence(library, two)


def test_subsets_are_stratified_by_what_is_shown_and_an_organ_needs_no_image_without_it(library):
    manifest = save_masks(library)
    rows = task_rows(library, make_task(library, "squares", primary="dice"))
    pool = rows.pool(("square",))
    assert rows.train_targets[:, 0].tolist() == mask_presence(library, manifest)[rows.train, 0].tolist()
    subset = draw_subset(pool, ("square",), "segmentation", amount(0.25), 0)
    drawn = pool.iloc[subset.rows]["y_square"]
    assert {0.0, 1.0} == set(drawn)
    every = pool.assign(y_square=1.0)
    assert len(draw_subset(every, ("square",), "segmentation", amount(0.25), 0).rows)


def amount(value):
    from search_spaces.amounts import Amount

    return Amount(kind="fraction", value=value)


def test_masks_and_labels_do_not_compare(library):
    save_masks(library)
    save_findings(library)
    task = make_task(library, "squares", primary="dice")
    other = task.model_copy(update={"evaluate": {"other": EvaluationSetSpec(manifest="findings")}})
    with pytest.raises(UserError, match="masks and labels of images do not compare"):
        task_rows(library, other)
