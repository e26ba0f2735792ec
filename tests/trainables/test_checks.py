from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from search_spaces.exceptions import DataError, UserError
from search_spaces.names import Kind
from tests.trainables.dicom_files import write_dicom
from trainables.check_memory import remembered_check
from trainables.check_outcomes import Check
from trainables.checks import check_task
from trainables.duplicates import identical_images, without_duplicates
from trainables.label_checks import import_warnings, label_counts
from trainables.library import TaskLibrary
from trainables.manifest import MANIFEST_FILE, Manifest
from trainables.set_aside import set_rows_aside

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


def as_masks(manifest, *labels):
    return replace(manifest, kind=Kind.SEGMENTATION, labels=labels, table=manifest.table.drop(columns="y_t"))


def test_masks_with_values_of_no_label_are_found_and_shades_of_one_are_named(library, good, tmp_path):
    shades = np.full((6, 8), 255, np.uint8)
    shades[2] = 3
    for row in (4, 7):
        Image.fromarray(shades).save(tmp_path / f"m{row}.png")
    (warning,) = check(library, as_masks(good, "foreground")).warnings
    assert warning.startswith("2 images have a mask with values between 0 and its largest, such as i4 (row 4)")
    for row in range(N):
        Image.fromarray(np.full((6, 8), row % 3, np.uint8)).save(tmp_path / f"m{row}.png")
    several = as_masks(good, "liver", "spleen")
    assert check(library, several).errors == ()
    Image.fromarray(np.full((6, 8), 3, np.uint8)).save(tmp_path / "m5.png")
    (error,) = check(library, several).errors
    assert "mask m5.png has values from 3 to 3; the labels liver, spleen are 1 to 2, and 0 is none (row 5)" in error


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


def test_all_kinds_of_bad_rows_are_reported_at_once(library, good, tmp_path, monkeypatch):
    pytest.importorskip("pydicom")
    noise = np.random.default_rng(1).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "cut.jpg")
    whole = (tmp_path / "cut.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    write_dicom(tmp_path / "no_pixels.dcm", None)
    Image.new("1", (5000, 4000)).save(tmp_path / "bomb.png")
    monkeypatch.setenv("SCALECURVES_MAX_PIXELS", "1000000")
    ages = pd.Series([50.0] * N)
    ages[10], ages[11], ages[12] = -4.0, np.nan, 300.0
    path = {0: "cut.jpg", 1: "no_pixels.dcm", 2: "bomb.png", 3: "x" * 5000 + ".png"}
    bad = changed(good, path=path, mask=dict.fromkeys(range(4)))
    report = check(library, replace(bad, table=bad.table.assign(age_years=ages)))
    text = "\n".join(report.errors)
    for message in (
        r"cut.jpg cannot be decoded: .*truncated.* \(manifest 't', row 0\)",
        r"no_pixels.dcm is a DICOM file without pixel data \(manifest 't', row 1\)",
        r"bomb.png is 5000 x 4000, 20000000 pixels, above the limit of 1000000 .*SCALECURVES_MAX_PIXELS.*row 2",
        r"File name too long \(manifest 't', row 3\)",
        r"age of image i10 is -4 years; 0 to 120, or blank, expected \(row 10\)",
        r"age of image i12 is 300 years",
    ):
        assert re.search(message, text), message
    assert len(report.errors) == 6


def test_images_that_are_hardly_to_be_seen_are_doubtful(library, good, tmp_path):
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8) // 8 + 100).save(tmp_path / "7.png")
    (warning,) = check(library, good).warnings
    assert warning.startswith("1 images use fewer than 32 of 256 values, such as i7 (row 7)")
    assert "--window" in warning


def test_the_release_and_what_was_set_aside_are_facts(library, good):
    report = check(library, replace(good, expected={"images": 90, "split.test": 30}, set_aside={"image missing": 3}))
    assert report.facts["release"] == "all counts as released (images 90, test 30)"
    assert report.facts["rows set aside"] == "3 image missing"
    partial = check(library, replace(good, expected={"images": 1000, "split.train": 400}))
    assert partial.facts["release"] == "a partial copy: images 90 of 1000, train 60 of 400"
    assert partial.errors == ()


def test_rows_of_a_folder_are_not_set_aside_in_a_task_of_the_same_name(library, good, tmp_path):
    (tmp_path / "3.png").write_text("no image")
    other = library.save(replace(good, table=good.table.head(60)))
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    good.write(folder)
    with pytest.raises(UserError, match="is the folder of a manifest"):
        set_rows_aside(library, str(folder), tmp_path / "aside.csv")
    assert library.load("t").table_hash == other.table_hash
    assert Manifest.read(folder).table_hash == good.table_hash
    assert not (tmp_path / "aside.csv").exists()


def test_setting_aside_leaves_nothing_out_silently(library, good, tmp_path):
    (tmp_path / "3.png").write_text("no image")
    (tmp_path / "m5.png").unlink()
    library.save(good)
    smaller = set_rows_aside(library, "t", tmp_path / "aside.csv")
    assert len(smaller) == N - 2
    assert smaller.hash_key == good.hash_key
    listed = pd.read_csv(tmp_path / "aside.csv")
    assert listed[["where", "image_id", "reason"]].to_numpy().tolist() == [
        ["row 3", "i3", "image unreadable"], ["row 5", "i5", "mask missing"],
    ]  # fmt: skip
    assert library.load("t").set_aside == {"image unreadable": 1, "mask missing": 1}
    assert "2 of 90 rows are set aside" in library.load("t").notes[-1]
    assert check_task(library, "t").errors == ()
    again = set_rows_aside(library, "t", tmp_path / "aside.csv")
    assert len(again) == N - 2
    assert len(pd.read_csv(tmp_path / "aside.csv")) == 2, "what the first one listed stays"


def test_every_check_has_an_outcome(library, good, tmp_path):
    outcomes = {o.check: o.found for o in check(library, good).outcomes}
    assert set(outcomes) == set(Check)
    assert {c for c, found in outcomes.items() if found is None} == {Check.AGES, Check.STORES}, "nothing to look at"
    assert not any(outcomes.values())
    (tmp_path / "3.png").unlink()
    (tmp_path / "m6.png").unlink()
    manifest = changed(good, patient_id={40: "p0"}, y_t={0: np.nan, 1: -1.0})
    manifest = replace(manifest, table=manifest.table.assign(age_years=[150.0, -3.0, *[50.0] * (N - 2)]))
    manifest = replace(manifest, left_blank={"impossible age left blank": 4})
    report = check(library, manifest)
    found = {o.check: o.found for o in report.outcomes if o.found != 0}
    assert found == {
        Check.IMAGES: 1, Check.MASKS: 1, Check.PATIENTS: 1, Check.EVALUATION_COPIES: None, Check.OTHER_COPIES: None,
        Check.NEAR_COPIES: None, Check.STORES: None, Check.UNLABELLED: 1, Check.AGES: 6,
    }  # fmt: skip
    assert any(w.startswith("4 ages outside 0 to 120 years were left blank") for w in report.warnings)
    assert report.facts["cells left blank"] == "4 impossible age left blank"
    assert remembered_check(library, library.load("t")) is None, "nothing is kept of content that is not there"
    (tmp_path / "3.png").write_text("no image")
    check(library, manifest)
    kept = remembered_check(library, library.load("t"))
    assert kept is not None
    assert (kept.checks[Check.IMAGES], kept.checks[Check.NEAR_COPIES]) == (1, None)


def test_outcomes_are_remembered_until_the_content_changes(library, good):
    report = check(library, good)
    kept = remembered_check(library, library.load("t"))
    assert kept is not None
    assert kept.checks == {o.check.value: o.found for o in report.outcomes}
    library.save(changed(good, sex={0: "M"}), overwrite=True)
    assert remembered_check(library, library.load("t")) is None


def test_what_import_warns_of_are_the_words_of_the_check(library, good):
    rows = [i for i in range(60, N) if i % 2]
    one = changed(good, y_t=dict.fromkeys(rows[1:], 0.0), split=dict.fromkeys(range(30, 60), "unused"))
    report = check(library, one)
    warnings = import_warnings(one)
    assert warnings == ("no images in split val", "label 't' has only 1 positive patient in test")
    assert set(warnings) <= {*report.errors, *report.warnings}
    none = changed(good, y_t=dict.fromkeys(rows, 0.0))
    assert import_warnings(none) == ("label 't' has no positive image in test",) == check(library, none).errors
    assert import_warnings(good) == ()


def test_rows_with_an_impossible_age_stay_without_it_and_are_listed(library, good, tmp_path):
    ages = pd.Series([50.0] * N)
    ages[3], ages[10], ages[11] = -9.0, -4.0, 300.0
    (tmp_path / "3.png").unlink()
    library.save(replace(good, table=good.table.assign(age_years=ages)))
    cleaned = set_rows_aside(library, "t", tmp_path / "aside.csv")
    assert len(cleaned) == N - 1
    assert cleaned.table.set_index("image_id")["age_years"].isna().pipe(lambda blank: list(blank.index[blank])) == [
        "i10",
        "i11",
    ]
    assert (cleaned.set_aside, cleaned.left_blank) == ({"image missing": 1}, {"impossible age left blank": 2})
    listed = pd.read_csv(tmp_path / "aside.csv")
    assert listed[["where", "image_id", "reason"]].to_numpy().tolist() == [
        ["row 3", "i3", "image missing"],
        ["row 10", "i10", "impossible age left blank"],
        ["row 11", "i11", "impossible age left blank"],
    ]
    assert "'-4.0'" in listed["detail"][1]
    assert check_task(library, "t").errors == ()
    again = set_rows_aside(library, "t", tmp_path / "again.csv")
    assert again.left_blank == {"impossible age left blank": 2}
