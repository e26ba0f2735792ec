from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from search_spaces.exceptions import DataError
from search_spaces.names import Kind
from trainables.checks import check_task, label_counts
from trainables.duplicates import identical_images, without_duplicates
from trainables.library import TaskLibrary
from trainables.manifest import MANIFEST_FILE, Manifest

N = 90


@pytest.fixture
def library(tmp_path) -> TaskLibrary:
    return TaskLibrary(tmp_path / "home")


@pytest.fixture
def good(tmp_path) -> Manifest:
    """90 images of 90 patients, both labels 15 times in each split, no two images alike, nothing to complain about."""
    generator = np.random.default_rng(0)
    for i in range(N):
        Image.fromarray(generator.integers(0, 256, (6, 8), dtype=np.uint8)).save(tmp_path / f"{i}.png")
        Image.fromarray(np.full((6, 8), 255, dtype=np.uint8)).save(tmp_path / f"m{i}.png")
    table = pd.DataFrame(
        {
            "image_id": [f"i{i}" for i in range(N)],
            "path": [f"{i}.png" for i in range(N)],
            "patient_id": [f"p{i}" for i in range(N)],
            "split": np.repeat(["train", "val", "test"], N // 3),
            "y_t": np.arange(N, dtype=np.float32) % 2,
            "mask": [f"m{i}.png" for i in range(N)],
            "sex": ["F", "M", "M"] * (N // 3),
        }
    )
    return Manifest(
        name="t", kind=Kind.BINARY, labels=("t",), table=table, root=tmp_path, importer="test", patients_known=True
    )


def changed(manifest: Manifest, **cells) -> Manifest:
    """The manifest with ``column={row: value}`` changed."""
    table = manifest.table.copy()
    for column, by_row in cells.items():
        for row, value in by_row.items():
            table.loc[row, column] = value
    return replace(manifest, table=table)


def check(library, manifest):
    library.save(manifest, overwrite=True)
    return check_task(library, manifest.name)


def test_a_good_task_has_no_problems(library, good):
    report = check(library, good)
    assert report.errors == ()
    assert report.warnings == ()
    assert report.facts["images"] == "90"
    assert report.facts["patients"] == "90"
    assert report.facts["masks"] == "90"
    assert report.facts["sex missing"] == "0.0%"


def test_every_problem_is_reported_at_once_with_file_and_row(library, good, tmp_path):
    (tmp_path / "3.png").write_text("no image")
    (tmp_path / "4.png").unlink()
    Image.fromarray(np.zeros((5, 8), np.uint8)).save(tmp_path / "m5.png")
    (tmp_path / "m6.png").unlink()
    report = check(library, changed(good, patient_id={40: "p0"}))
    text = "\n".join(report.errors)
    assert len(report.errors) == 5
    assert "3.png cannot be read" in text
    assert "row 3" in text
    assert "4.png is missing (manifest 't', row 4)" in text
    assert "mask m5.png is 8 x 5, its image 5.png is 8 x 6 (row 5)" in text
    assert "m6.png is missing" in text
    assert "1 patients have images in two splits: p0 (train, val)" in text


def test_identical_images_across_and_inside_splits(library, good, tmp_path):
    for source, copies in ((0, (1, 70)), (2, (40,)), (5, (6,))):
        for copy in copies:
            (tmp_path / f"{copy}.png").write_bytes((tmp_path / f"{source}.png").read_bytes())
    report = check(library, good)
    assert len(report.errors) == 1
    assert "i0 (train), i1 (train), i70 (test)" in report.errors[0]
    assert "--drop-duplicates" in report.errors[0]
    assert len(report.warnings) == 2
    assert "1 sets of identical images in train and val, such as i2 (train), i40 (val)" in report.warnings[0]
    assert "1 sets of identical images inside a split, such as i5 (train), i6 (train)" in report.warnings[1]

    cleaned = without_duplicates(good, library.byte_digests(good))
    unused = cleaned.table["image_id"][cleaned.table["split"] == "unused"].tolist()
    assert unused == ["i0", "i1", "i2", "i6"]
    assert identical_images(cleaned.table, library.byte_digests(cleaned)) == ()
    assert any("4 copies" in note for note in cleaned.notes)
    assert check(library, cleaned).errors == ()


def test_nothing_is_dropped_where_nothing_repeats(library, good):
    assert without_duplicates(good, library.byte_digests(good)) is good


def test_labels_that_are_rare_or_absent(library, good):
    rows = [i for i in range(60, N) if i % 2]
    few = changed(good, y_t=dict.fromkeys(rows[4:], 0.0))
    report = check(library, few)
    assert report.errors == ()
    assert report.warnings == ("label 't' has only 4 positive patients in test",)
    none = changed(good, y_t=dict.fromkeys(rows, 0.0))
    assert check(library, none).errors == ("label 't' has no positive image in test",)


def test_few_patients_count_not_few_images(library, good):
    rows = range(60, N)
    one_patient = changed(good, patient_id={i: "big" for i in rows if i % 2})
    report = check(library, one_patient)
    assert report.warnings == ("label 't' has only 1 positive patient in test",)


def test_unlabelled_uncertain_and_missing_metadata(library, good):
    manifest = changed(good, y_t={0: np.nan, 1: -1.0}, sex=dict.fromkeys(range(30), None))
    report = check(library, manifest)
    assert report.errors == ()
    assert any("1 of 90 images have no label at all" in w for w in report.warnings)
    assert any("sex is missing for 33% of the images" in w for w in report.warnings)
    train = label_counts(manifest)[0]
    assert (train.positive_images, train.negative_images, train.uncertain_images, train.unknown_images) == (
        14,
        14,
        1,
        1,
    )
    assert train.prevalence == 0.5


def test_missing_splits(library, good):
    no_val = replace(good, table=good.table.assign(split=good.table["split"].replace("val", "unused")))
    assert check(library, no_val).errors == ("no images in split val",)
    external = replace(good, table=good.table.assign(split="external"))
    assert check(library, external).errors == ()


def test_constant_images_and_unknown_patients(library, good, tmp_path):
    Image.fromarray(np.full((6, 8), 3, np.uint8)).save(tmp_path / "7.png")
    manifest = replace(good, patients_known=False, grouping="image", notes=("patients are not known: ...",))
    report = check(library, manifest)
    assert "1 images have one single value in all pixels, such as i7 (row 7)" in report.warnings
    assert "patients are not known: ..." in report.warnings
    assert report.facts["patients"] == "not known"


def test_classes_are_counted_against_all_others(library, good):
    table = good.table.drop(columns="y_t").assign(y=(np.arange(N) % 3 - 1).astype(np.int16))
    manifest = replace(good, kind=Kind.MULTICLASS, labels=("u", "v"), table=table)
    counts = {(c.label, c.split.value): c for c in label_counts(manifest)}
    assert counts["u", "train"].positive_images == 10
    assert counts["u", "train"].negative_images == 10
    assert counts["u", "train"].unknown_images == 10


def test_segmentation_needs_a_mask_for_every_image(library, good):
    table = good.table.drop(columns="y_t")
    table.loc[8, "mask"] = None
    manifest = replace(good, kind=Kind.SEGMENTATION, labels=("foreground",), table=table)
    assert check(library, manifest).errors == ("image 8.png has no mask (row 8)",)


def test_label_outside_classes_is_found(library, good, tmp_path):
    library.save(good)
    file = library.folder("t") / MANIFEST_FILE
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(file)
    values = table["y_t"].to_pylist()
    values[9] = 3.0
    spoiled = table.set_column(table.schema.get_field_index("y_t"), "y_t", pa.array(values, pa.float32()))
    pq.write_table(spoiled, file)
    with pytest.raises(DataError, match=r"y_t of row 9 is 3\.0; allowed: 0, 1, blank"):
        check_task(library, "t")
