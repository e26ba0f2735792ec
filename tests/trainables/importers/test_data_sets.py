from __future__ import annotations

import gzip
import itertools
import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from search_spaces.exceptions import DataError, UserError
from search_spaces.names import Kind
from tests.trainables.importers.releases import (
    RELEASES,
    chestxray14,
    chexpert_full_resolution,
    drive_of_grand_challenge,
    ham10000,
    isic2020,
    padchest,
    siim_acr_stage_2,
)
from tests.trainables.made_tasks import make_task
from trainables.evaluation_sets import task_rows
from trainables.importers import ImportOptions, import_cifar10, import_map, shipped_map, shipped_names
from trainables.importers.catalogue import variants
from trainables.importers.derived_masks import forget_unused
from trainables.library import TaskLibrary
from trainables.manifest import Manifest
from trainables.release_counts import release_note
from trainables.row_checks import read_rows

pytest.importorskip("pydicom")


def imported(name: str, root: Path, variant: str | None = None, **changes: Any) -> Manifest:
    column_map = shipped_map(name, variant)
    options = ImportOptions(**{"name": name, "derived": root.parent / "derived", **changes})
    if column_map.reader == "cifar10":
        return import_cifar10(column_map, root, options)
    return import_map(column_map, root, options)


@pytest.fixture(scope="session")
def release(tmp_path_factory):
    """Folder of a release, generated once; only read."""
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name) / "release"
            made[name].mkdir()
            RELEASES[name](made[name])
        return made[name]

    return get


def positives(manifest: Manifest) -> dict[str, int]:
    if manifest.kind in (Kind.MULTICLASS, Kind.ORDINAL):
        counts = manifest.table["y"].value_counts()
        return {label: int(counts.get(i, 0)) for i, label in enumerate(manifest.labels)}
    return {label: int((manifest.table[f"y_{label}"] == 1).sum()) for label in manifest.labels}


def test_every_shipped_map_has_a_release_here():
    assert set(RELEASES) | {"medmnist"} == set(shipped_names())


OTHER_LAYOUT = ("chexpert", "full_resolution")
"""Has a test of its own."""
CASES = [(name, variant) for name in RELEASES for variant in (None, *variants(name)) if (name, variant) != OTHER_LAYOUT]


@pytest.mark.parametrize(("name", "variant"), CASES, ids=[f"{n}-{v or 'whole'}" for n, v in CASES])
def test_releases_are_imported_and_readable(release, name, variant):
    manifest = imported(name, release(name), variant)
    about = shipped_map(name).about
    assert about.licence
    assert about.obtained
    assert about.sources
    assert read_rows(manifest).problems == ()
    assert set(shipped_map(name).about.notes) <= set(manifest.notes)
    assert manifest.expected == shipped_map(name, variant).expected.flat()
    assert manifest.table["patient_id"].notna().all()
    patients_of = manifest.table.groupby("patient_id")["split"].nunique()
    assert patients_of.max() == 1
    if manifest.expected:
        assert "a partial copy: " in str(release_note(manifest))


def test_chexpert(release):
    manifest = imported("chexpert", release("chexpert"), "five")
    table = manifest.table.set_index("image_id")
    assert manifest.labels == ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
    row = table.loc["train/patient00002/study1/view1_frontal.jpg"]
    assert (row["patient_id"], row["study_id"], row["sex"], row["age_years"]) == (
        "patient00002", "patient00002/study1", "M", 42,
    )  # fmt: skip
    labels = row[["y_Cardiomegaly", "y_Edema", "y_Consolidation", "y_Atelectasis", "y_Pleural Effusion"]]
    assert [None if pd.isna(value) else value for value in labels] == [
        1, -1, 0, 1, None,
    ]  # fmt: skip
    assert (row["g_view"], row["g_projection"]) == ("Frontal", "AP")
    assert table.index[table["split"] == "test"].tolist() == ["valid/patient64541/study1/view1_frontal.jpg"]
    assert pd.isna(table.loc["train/patient00008/study1/view1_frontal.jpg", "sex"])
    frontal = imported("chexpert", release("chexpert"), "frontal")
    assert len(frontal) == 9
    assert any(note.startswith("8 of 17 rows are left out: Frontal/Lateral") for note in frontal.notes)


def test_chexpert_is_read_from_the_folders_of_its_full_resolution(release, tmp_path):
    """Ids are those of the usual layout, so that subsets and the patients of a split are, too."""
    chexpert_full_resolution(tmp_path)
    manifest, usual = imported("chexpert", tmp_path, "full_resolution"), imported("chexpert", release("chexpert"))
    pd.testing.assert_frame_equal(manifest.table.drop(columns="path"), usual.table.drop(columns="path"))
    assert manifest.table["path"].str.startswith("CheXpert-v1.0 batch ").all()
    assert read_rows(manifest).problems == ()
    assert (usual.table["path"] == usual.table["image_id"]).all()


@pytest.mark.parametrize("name", ["chexpert", "mimic_cxr_jpg"])
def test_what_a_report_does_not_mention_is_not_known(release, name):
    manifest = imported(name, release(name))
    flags = manifest.table[list(manifest.label_columns)]
    blank = flags.isna()
    assert blank.drop(columns="y_No Finding").any(axis=None)
    assert set(manifest.table["y_No Finding"].dropna()) >= {0, 1}
    assert not blank["y_No Finding"].any()
    negative = imported(name, release(name), "blank_negative").table[list(manifest.label_columns)]
    pd.testing.assert_frame_equal(negative, flags.fillna(0))


def test_a_study_without_labels_is_not_known_to_have_a_finding(release, tmp_path):
    root = tmp_path / "mimic"
    root.mkdir()
    for entry in release("mimic_cxr_jpg").iterdir():
        (root / entry.name).symlink_to(entry)
    table = root / "mimic-cxr-2.0.0-chexpert.csv.gz"
    lines = gzip.decompress(table.read_bytes()).splitlines()
    table.unlink()
    table.write_bytes(gzip.compress(b"\n".join(lines[:-1])))
    rows = imported("mimic_cxr_jpg", root).table.set_index("study_id")
    labels = rows[[c for c in rows if str(c).startswith("y_")]].notna()
    assert not labels[labels.index == "50414272"].any(axis=None)
    assert labels.loc[labels.index == "50414267", "y_No Finding"].all()


def test_chestxray14_uses_the_official_lists(release):
    manifest = imported("chestxray14", release("chestxray14"))
    table = manifest.table
    assert set(table.loc[table["split"] == "test", "patient_id"]) == {"10", "11", "12"}
    assert (table["split"] == "val").any()
    assert positives(manifest)["Cardiomegaly"] == positives(manifest)["Effusion"] == 6
    assert positives(manifest)["Pleural_Thickening"] == 4
    normal = table[table["patient_id"] == "5"]
    assert normal[[f"y_{label}" for label in manifest.labels]].to_numpy().sum() == 0
    assert table.loc[table["patient_id"] == "1", "age_years"].tolist() == [58, 58]
    assert table.loc[table["patient_id"] == "3", "age_years"].isna().all()  # 414 years
    assert any("8 ages outside 0 to 120 years" in note for note in manifest.notes)


def test_chestxray14_of_2020_names_the_sex(tmp_path):
    chestxray14(tmp_path / "new", v2020=True)
    manifest = imported("chestxray14", tmp_path / "new")
    assert manifest.table.groupby("patient_id")["sex"].first()[["1", "2"]].tolist() == ["F", "M"]
    assert manifest.table["age_years"].tolist() == [58] * 24
    assert (manifest.table["split"] == "test").sum() == 6


def test_an_image_without_its_archive_is_a_problem_of_its_row(release, tmp_path):
    root = tmp_path / "partial"
    root.mkdir()
    for file in release("chestxray14").rglob("images_002/images/*.png"):
        (root / file.name).symlink_to(file)
    for file in release("chestxray14").glob("*.*"):
        (root / file.name).symlink_to(file)
    message = (
        r"12 of 24 rows cannot be used(.|\n)*Data_Entry_2017.csv line 4: no image is found for Image Index 00000002"
    )
    with pytest.raises(DataError, match=message):
        imported("chestxray14", root)
    manifest = imported("chestxray14", root, quarantine=tmp_path / "aside.csv")
    assert len(manifest) == 12
    assert manifest.set_aside == {"image missing": 12}


def test_mimic(release):
    manifest = imported("mimic_cxr_jpg", release("mimic_cxr_jpg"))
    table = manifest.table.set_index("image_id")
    row = table.loc["4paaa-bb"]
    assert (row["path"], row["split"]) == ("files/p10/p10000036/s50414271/4paaa-bb.jpg", "val")
    assert (row["patient_id"], row["study_id"], row["g_projection"]) == ("10000036", "50414271", "PA")
    assert table.loc["4lateralaa-bb", "y_Atelectasis"] == row["y_Atelectasis"] == 1


def test_vindr_cxr_takes_the_majority_of_readers(release):
    table = imported("vindr_cxr", release("vindr_cxr")).table.set_index("image_id")
    flags = [table.loc[f"{i:032x}", "y_Cardiomegaly"] for i in range(6)]
    assert flags == [0, 0, 1, 1, 0, 0]  # 0, 1, 2, 3, 0 and 1 of three readers
    assert table.loc[f"{99:032x}", ["split", "y_No finding"]].tolist() == ["test", 1]


def test_vindr_mammo(release):
    manifest = imported("vindr_mammo", release("vindr_mammo"))
    assert manifest.grouping == "exam"
    assert positives(manifest) == {"suspicious": 4}
    grades = imported("vindr_mammo", release("vindr_mammo"), "birads")
    assert list(positives(grades).values()) == [3, 3, 2, 2, 2]
    assert grades.kind is Kind.ORDINAL


def test_cbis_ddsm_takes_whole_mammograms(release):
    manifest = imported("cbis_ddsm", release("cbis_ddsm"))
    assert len(manifest) == 16
    assert manifest.table["path"].str.contains("full mammogram").all()
    assert positives(manifest) == {"malignant": 8}
    assert set(manifest.table.loc[manifest.table["split"] == "test", "image_id"].str.contains("Test")) == {True}
    assert manifest.table["g_finding"].value_counts().to_dict() == {"mass": 8, "calcification": 8}


def test_skin_sets(release):
    pad = imported("pad_ufes_20", release("pad_ufes_20"))
    assert pad.labels == ("ACK", "BCC", "MEL", "NEV", "SCC", "SEK")
    assert pad.table["patient_id"].nunique() == 9
    assert pad.table["sex"].isna().sum() == 6
    assert positives(imported("pad_ufes_20", release("pad_ufes_20"), "cancer")) == {"cancer": 10}
    ham = imported("ham10000", release("ham10000"))
    assert (ham.grouping, ham.table["patient_id"].nunique()) == ("lesion", 14)
    masks = imported("ham10000", release("ham10000"), "masks")
    mask = masks.mask(0)
    assert mask is not None
    assert mask[:, 0].tolist() == [255, 255, 0, 0, 0, 0]
    isic = imported("isic2019", release("isic2019"))
    assert list(positives(isic).values()) == [2] * 8
    assert isic.table["patient_id"].nunique() == 9  # two images have no lesion
    assert positives(imported("isic2020", release("isic2020"))) == {"melanoma": 5}


@pytest.mark.parametrize("metadata", ["HAM10000_metadata", "HAM10000_metadata.tab"])
def test_ham10000_as_dataverse_names_it(release, tmp_path, metadata):
    ham10000(tmp_path / "ham", metadata)
    manifest, usual = imported("ham10000", tmp_path / "ham"), imported("ham10000", release("ham10000"))
    pd.testing.assert_frame_equal(manifest.table, usual.table)


@pytest.mark.parametrize("copies", [2, 28])
def test_images_that_are_there_twice_are_to_be_removed(tmp_path, copies):
    """As in a copy on Kaggle, whose folders are there under names in capitals and in small letters."""
    ham10000(tmp_path / "ham")
    for file in sorted((tmp_path / "ham").glob("HAM10000_images_part_*/*.jpg"))[:copies]:
        again = tmp_path / "ham" / f"again_{file.parent.name}" / file.name
        again.parent.mkdir(exist_ok=True)
        again.write_bytes(file.read_bytes())
    with pytest.raises(UserError, match="keep one copy of each in the folder, or name keys"):
        imported("ham10000", tmp_path / "ham")


@pytest.mark.parametrize("table", ["ISIC_2020_Training_GroundTruth.csv", "ISIC_2020_Training_GroundTruth_v2.csv"])
def test_isic2020_as_the_challenge_names_it(release, tmp_path, table):
    isic2020(tmp_path / "isic", table, images="ISIC_2020_Training_JPEG/train")
    manifest, usual = imported("isic2020", tmp_path / "isic"), imported("isic2020", release("isic2020"))
    pd.testing.assert_frame_equal(manifest.table.drop(columns="path"), usual.table.drop(columns="path"))


def test_retinopathy(release, tmp_path):
    manifest = imported("eyepacs", release("eyepacs"))
    table = manifest.table.set_index("image_id")
    assert table.loc["train/12_left", ["patient_id", "g_eye", "y_moderate_or_worse"]].tolist() == ["12", "left", 1]
    assert (table["split"] == "test").sum() == 8
    grades = imported("eyepacs", release("eyepacs"), "grades")
    assert grades.labels == ("no", "mild", "moderate", "severe", "proliferative")
    for name in ("train", "trainLabels.csv"):
        (tmp_path / name).symlink_to(release("eyepacs") / name)
    alone = imported("eyepacs", tmp_path)
    assert "the official test set is not here: patients are split at random" in alone.notes
    assert set(alone.table["split"]) == {"train", "val", "test"}


def test_shenzhen_reads_sex_and_age_from_text(release):
    manifest = imported("shenzhen", release("shenzhen"))
    table = manifest.table
    assert table["sex"].fillna("?").tolist() == ["M", "F", "M", "?", "F"] * 2
    assert table["age_years"].fillna(-1).tolist() == pytest.approx([45, 33, 11 / 12, -1, 24] * 2)
    assert positives(manifest) == {"tuberculosis": 5}


def test_montgomery_puts_two_lungs_together(release):
    manifest = imported("montgomery", release("montgomery"))
    mask = manifest.mask(0)
    assert mask is not None
    assert mask[:, 0].tolist() == [255, 255, 0, 0, 255, 0]
    assert manifest.labels == ("lung",)
    assert manifest.table["age_years"].tolist() == [27] * 8
    assert positives(imported("montgomery", release("montgomery"), "tuberculosis")) == {"tuberculosis": 4}


def test_made_masks_travel_with_the_task(release, tmp_path):
    manifest = imported("montgomery", release("montgomery"), derived=tmp_path / "task" / "files")
    manifest.write(tmp_path / "task")
    moved = tmp_path / "moved"
    (tmp_path / "task").rename(moved)
    mask = Manifest.read(moved).mask(3)
    assert mask is not None
    assert mask.max() == 255


def test_siim_masks_are_drawn_from_relative_runs_down_columns(release):
    manifest = imported("siim_acr", release("siim_acr"))
    assert len(manifest) == 6
    empty, drawn = manifest.mask(0), manifest.mask(1)
    assert empty is not None
    assert drawn is not None
    assert empty.shape == drawn.shape == (1024, 1024)
    assert empty.max() == 0
    # 1024 pixels on (the second column) 3 in a row; 1021 pixels on again 2; and the very first pixel.
    expected = {(0, 1), (1, 1), (2, 1), (0, 2), (1, 2), (0, 0)}
    assert set(zip(*(index.tolist() for index in np.nonzero(drawn)), strict=True)) == expected
    presence = imported("siim_acr", release("siim_acr"), "presence")
    assert presence.table["y_pneumothorax"].tolist() == [0, 1] * 3


def test_siim_of_the_second_stage(tmp_path):
    siim_acr_stage_2(tmp_path / "siim")
    manifest = imported("siim_acr", tmp_path / "siim")
    assert len(manifest) == 8
    assert manifest.table["path"].str.startswith("dicom-images-test/").sum() == 4
    assert "8 of 12047" in str(release_note(manifest))
    peaks = [0 if (mask := manifest.mask(row)) is None else int((mask > 0).sum()) for row in range(8)]
    assert peaks == [0, 6] * 4  # both lines of an image are one mask
    assert positives(imported("siim_acr", tmp_path / "siim", "presence")) == {"pneumothorax": 4}


def test_bad_run_lengths_are_problems_of_their_rows(release, tmp_path):
    root = tmp_path / "siim"
    root.mkdir()
    (root / "dicom-images-train").symlink_to(release("siim_acr") / "dicom-images-train")
    lines = (release("siim_acr") / "train-rle.csv").read_text().splitlines()
    for i, cell in ((1, "1048570 10"), (2, "5"), (4, "x 1")):
        lines[i] = f"{lines[i].split(',')[0]}, {cell}"
    (root / "train-rle.csv").write_text("\n".join(lines))
    with pytest.raises(DataError) as error:
        imported("siim_acr", root)
    for message in ("leave the mask of 1024 x 1024", "no pairs of start and length", "not all whole numbers"):
        assert message in str(error.value)


def test_vessels_have_two_observers_and_a_field_of_view(release):
    manifest = imported("drive", release("drive"))
    table = manifest.table
    assert table["split"].value_counts()["test"] == 4
    row = int(np.flatnonzero(table["split"] == "test")[0])
    columns = ("mask", "mask_second", "valid_area")
    rows = [int((mask > 0).any(axis=1).sum()) for c in columns if (mask := manifest.mask(row, c)) is not None]
    assert rows == [1, 2, 5]
    assert manifest.mask(int(np.flatnonzero(table["split"] == "train")[0]), "mask_second") is None
    chase = imported("chase_db1", release("chase_db1"))
    assert chase.table["patient_id"].nunique() == 6
    assert chase.table["mask_second"].notna().all()


def test_the_second_observer_may_be_the_truth_of_an_evaluation_set(release, tmp_path):
    library = TaskLibrary(tmp_path / "home")
    for name, variant in itertools.product(("drive", "chase_db1"), (None, "second_observer")):
        manifest = imported(name, release(name), variant)
        library.save(replace(manifest, name=f"{name}_{variant or 'first'}", hash_key=b""))
    for name in ("drive", "chase_db1"):
        evaluate = {"test": {}, "second": {"manifest": f"{name}_second_observer", "split": ["test"]}}
        sets = task_rows(library, make_task(library, f"{name}_first", evaluate, primary="dice")).sets
        first, second = (s.manifest.table.iloc[s.positions]["image_id"].tolist() for s in sets.values())
        assert sorted(first) == sorted(second)
        heights = [int((s.manifest.mask(int(s.positions[0])) > 0).any(axis=1).sum()) for s in sets.values()]
        assert heights == [1, 2]


def test_drive_without_vessels_of_the_test_images(tmp_path):
    drive_of_grand_challenge(tmp_path / "drive")
    manifest = imported("drive", tmp_path / "drive")
    assert sorted(manifest.table["image_id"]) == [str(number) for number in range(21, 41)]
    assert manifest.table["split"].value_counts().to_dict() == {"train": 14, "val": 2, "test": 4}
    assert "4 of 24 rows are left out: first_observer is not present" in manifest.notes
    assert "the official test set is not here: patients are split at random" in manifest.notes
    (tmp_path / "drive/training/1st_manual/30_manual1.gif").unlink()
    with pytest.raises(DataError, match=r"30_training.tif: mask .*30_manual1.gif is missing"):  # a gap in the copy
        imported("drive", tmp_path / "drive")


def test_pulmonary_embolism_is_shown_in_its_window(release):
    manifest = imported("rsna_pe", release("rsna_pe"))
    assert manifest.window == (100, 700)
    assert manifest.table.groupby("study_id").size().tolist() == [3] * 12
    assert positives(manifest) == {"pe": 6}
    exam = imported("rsna_pe", release("rsna_pe"), "exam")
    assert len(exam) == 33  # one exam is indeterminate
    assert exam.table.groupby("study_id")["y_pe"].nunique().max() == 1
    assert manifest.table_hash != imported("rsna_pe", release("rsna_pe"), window=(40.0, 400.0)).table_hash
    file = manifest.file(0)
    import pydicom

    hounsfield = pydicom.dcmread(str(file)).pixel_array.astype(float) - 1024
    expected = np.clip(((hounsfield - 99.5) / 699 + 0.5) * 255, 0, 255)
    assert np.abs(manifest.pixels(0)[..., 0] - expected).max() <= 0.5


def test_padchest_reads_lists_of_findings(release):
    manifest = imported("padchest", release("padchest"))
    table = manifest.table
    assert table["y_Cardiomegaly"].fillna(-9).tolist() == [1, 0, -9] * 3
    assert table["sex"].tolist()[:2] == ["M", "F"]
    assert manifest.bit_depth == 16


PADCHEST_FINDINGS = {
    "round atelectasis": {"Atelectasis"},
    "atelectasis basal": {"Atelectasis"},
    "air bronchogram": {"Consolidation"},
    "loculated pleural effusion": {"Pleural Effusion"},
    "loculated fissural effusion": {"Pleural Effusion"},
    "empyema": {"Pleural Effusion"},
    "hemothorax": {"Pleural Effusion"},
    "hydropneumothorax": {"Pleural Effusion", "Pneumothorax"},
    "calcified pleural thickening": {"Pleural Thickening"},
    "apical pleural thickening": {"Pleural Thickening"},
    "sternotomy": set(),
}


def test_padchest_takes_a_narrower_finding_for_the_wider_one(tmp_path):
    padchest(tmp_path / "pad", [f"['{finding}', 'scoliosis']" for finding in PADCHEST_FINDINGS])
    manifest = imported("padchest", tmp_path / "pad")
    for (_, row), (finding, labels) in zip(manifest.table.iterrows(), PADCHEST_FINDINGS.items(), strict=True):
        assert {name for name in manifest.labels if row[f"y_{name}"] == 1} == labels, finding


def test_padchest_does_not_know_what_an_unreadable_or_unchanged_study_shows(tmp_path):
    silent = ["['exclude']", "['cardiomegaly', 'suboptimal study']", "['unchanged', 'normal']"]
    padchest(tmp_path / "pad", [*silent, "['cardiomegaly']", "['normal']"])
    manifest = imported("padchest", tmp_path / "pad")
    flags = manifest.table[list(manifest.label_columns)]
    assert flags.isna().all(axis=1).tolist() == [True] * 3 + [False] * 2
    assert flags["y_Cardiomegaly"].tolist()[3:] == [1, 0]


def test_cifar10(release):
    manifest = imported("cifar10", release("cifar10"))
    assert len(manifest) == 120
    assert (manifest.table["split"] == "test").sum() == 20
    assert manifest.labels[:3] == ("airplane", "automobile", "bird")
    row = int(np.flatnonzero(manifest.table["image_id"] == "test_000003")[0])
    assert manifest.labels[manifest.table["y"].iat[row]] == "cat"
    data = pickle.loads((release("cifar10") / "cifar-10-batches-py/test_batch").read_bytes(), encoding="bytes")[b"data"]
    planes = data[3].reshape(3, 32, 32)
    np.testing.assert_array_equal(manifest.pixels(row), planes.transpose(1, 2, 0))


class Trap:
    def __reduce__(self):
        return os.system, ("touch /tmp/scalecurves-pickle-was-run",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps({b"data": Trap()}), "does not hold images"),
        (pickle.dumps({b"data": np.zeros((1, 4), np.uint8), b"labels": [0]}, protocol=4), "does not hold images"),
        (pickle.dumps([1]), "holds a list"),
        (b"\x80\x02}", "damaged, cut off"),
    ],
)
def test_a_batch_can_hold_nothing_but_arrays(release, tmp_path, content, message):
    import shutil

    shutil.copytree(release("cifar10") / "cifar-10-batches-py", tmp_path / "batches")
    (tmp_path / "batches" / "data_batch_2").write_bytes(content)
    with pytest.raises(UserError, match=message):
        imported("cifar10", tmp_path / "batches")
    assert not Path("/tmp/scalecurves-pickle-was-run").exists()


@pytest.mark.parametrize("name", [name for name in RELEASES if name != "cifar10"])
def test_another_folder_is_refused_with_what_is_needed(name, tmp_path):
    with pytest.raises(UserError, match=r"it lacks:\n") as error:
        imported(name, tmp_path)
    assert shipped_map(name).about.needs in str(error.value)


@pytest.mark.parametrize(("name", "variant"), CASES, ids=[f"{n}-{v or 'whole'}" for n, v in CASES])
def test_counts_to_expect_agree_with_one_another(release, name, variant):
    expected = shipped_map(name, variant).expected
    parts = (*expected.splits.values(), *expected.labels.values(), *([expected.patients] if expected.patients else []))
    assert max(parts, default=0) <= (expected.images or max(parts, default=0))
    if {"train", "test"} <= set(expected.splits):  # validation is counted too, or drawn from train
        assert sum(expected.splits.values()) == expected.images
    manifest = imported(name, release(name), variant)
    assert set(expected.labels) <= set(manifest.labels)
    if manifest.kind in (Kind.MULTICLASS, Kind.ORDINAL) and expected.labels:
        assert sum(expected.labels.values()) == expected.images


def test_counts_of_a_whole_release(release, tmp_path):
    from dataclasses import replace

    manifest = imported("shenzhen", release("shenzhen"))
    whole = {"images": 10, "patients": 10, "label.tuberculosis": 5}
    assert release_note(replace(manifest, expected=whole)) == (
        "all counts as released (images 10, patients 10, label tuberculosis 5)"
    )
    split = manifest.table["split"].replace({"val": "train"})
    train = int((split == "train").sum())
    positive = int(((split == "train") & (manifest.table["y_tuberculosis"] == 1)).sum())
    parts = {"split.train": train, "label.tuberculosis.train": positive}
    assert "all counts as released" in str(release_note(replace(manifest, expected=parts)))
    assert release_note(replace(manifest, expected={"images": 9})) == "other than the release: images 10 of 9"


def test_a_mask_of_another_size_is_found_on_import(release, tmp_path):
    import shutil

    shutil.copytree(release("drive"), tmp_path / "drive")
    Image.new("L", (3, 3)).save(tmp_path / "drive/test/mask/01_test_mask.gif")
    with pytest.raises(DataError, match=r"mask test/mask/01_test_mask.gif is 3 x 3, its image .* is 8 x 6"):
        imported("drive", tmp_path / "drive")


def test_label_maps_name_labels_of_the_shipped_maps():
    from search_spaces.label_maps import label_maps

    labels = {}
    for name in {part for pair in label_maps() for part in pair.split("_to_")}:
        spec = shipped_map(name).labels
        labels[name] = {*spec.flags, *spec.items, *spec.classes, *spec.positive}
    for pair, known in label_maps().items():
        first, _, second = pair.partition("_to_")
        assert set(known) <= labels[first], pair
        assert set(known.values()) <= labels[second], pair


def test_bytes_of_every_mask_count(release, tmp_path):
    import shutil

    from trainables.library import TaskLibrary

    shutil.copytree(release("drive"), tmp_path / "drive")
    library = TaskLibrary(tmp_path / "home")
    hashes = [library.content_hash(imported("drive", tmp_path / "drive"))]
    for file in ("1st_manual/01_manual1.gif", "2nd_manual/01_manual2.gif", "mask/01_test_mask.gif"):
        Image.new("L", (8, 6), 255).save(tmp_path / "drive/test" / file)
        hashes.append(library.content_hash(imported("drive", tmp_path / "drive")))
    assert len(set(hashes)) == 4


def test_what_earlier_imports_made_is_forgotten(release, tmp_path):
    folder = tmp_path / "files"
    old = imported("montgomery", release("montgomery"), derived=folder)
    new = imported("siim_acr", release("siim_acr"), derived=folder)
    cifar = imported("cifar10", release("cifar10"), derived=folder)
    assert len(list(folder.iterdir())) == 3
    forget_unused(folder, new)
    assert list(folder.iterdir()) == [new.mask_root]
    assert new.mask(1) is not None
    with pytest.raises(DataError, match="is missing"):
        old.mask(1)
    cifar = imported("cifar10", release("cifar10"), derived=folder)
    forget_unused(folder, cifar)
    assert [entry.suffix for entry in folder.iterdir()] == [".npz"]
    assert cifar.pixels(0).shape == (32, 32, 3)
