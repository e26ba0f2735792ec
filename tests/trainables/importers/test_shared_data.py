"""The real sets, against the counts that their README files give."""

from __future__ import annotations

import pytest

from search_spaces.names import Kind
from trainables.checks import check_task
from trainables.importers import ImportOptions, import_csv, import_npz
from trainables.label_checks import label_counts
from trainables.library import TaskLibrary
from trainables.splits import patients_in_two_splits

pytestmark = pytest.mark.shared_data


def positives(manifest) -> dict[str, int]:
    counts: dict[str, int] = {}
    for count in label_counts(manifest):
        counts[count.label] = counts.get(count.label, 0) + count.positive_images
    return counts


def test_ham10000(shared_data):
    options = ImportOptions(name="ham10000", grouping="lesion", group_columns=("localization",))
    manifest = import_csv(shared_data / "data/ham10000/labels.csv", options)
    assert manifest.kind is Kind.MULTICLASS
    assert positives(manifest) == {"nv": 2627, "bkl": 444, "mel": 437, "bcc": 204, "akiec": 130, "vasc": 65, "df": 44}
    assert manifest.table["patient_id"].nunique() == 2949
    assert manifest.table["sex"].value_counts(dropna=False).tolist() == [2160, 1761, 30]
    assert set(manifest.table["width"]) == {200}
    assert set(manifest.table["height"]) == {150}
    assert manifest.where({"localization": ["face", "neck", "scalp", "ear"]}).sum() == 428
    assert patients_in_two_splits(manifest.table) == {}
    lesions = manifest.table.groupby("split")["patient_id"].nunique()
    assert lesions.to_dict() == {"train": 2064, "val": 295, "test": 590}
    mask = manifest.mask(0)
    assert mask is not None
    assert mask.shape == (150, 200)
    assert set(mask.ravel().tolist()) == {0, 255}


def test_chula_rbc12(shared_data):
    file = shared_data / "data/chula_rbc12/labels.csv"
    joined = import_csv(file, ImportOptions(name="chula", label_separator=";"))
    counts = {
        "normal": 331, "macrocyte": 165, "microcyte": 180, "spherocyte": 210, "target_cell": 247, "stomatocyte": 90,
        "ovalocyte": 248, "teardrop": 127, "burr_cell": 82, "schistocyte": 218, "uncategorised": 34,
        "hypochromia": 176, "elliptocyte": 32,
    }  # fmt: skip
    assert joined.kind is Kind.MULTILABEL
    assert positives(joined) == counts
    assert not joined.patients_known
    columns = import_csv(file, ImportOptions(name="chula", label_columns=tuple(counts)))
    assert positives(columns) == counts
    assert columns.table["y_teardrop"].tolist() == joined.table["y_teardrop"].tolist()


def test_lgg_mri(shared_data):
    manifest = import_csv(shared_data / "data/lgg_mri/labels.csv", ImportOptions(name="lgg_mri", label_name="tumour"))
    table = manifest.table
    assert (manifest.kind, manifest.labels) == (Kind.BINARY, ("tumour",))
    assert positives(manifest) == {"tumour": 356}
    assert table["site"].value_counts().to_dict() == {"DU": 540, "HT": 408}
    patients = table.groupby("patient_id").first()
    assert patients["site"].value_counts().to_dict() == {"DU": 45, "HT": 34}
    assert patients["sex"].value_counts().to_dict() == {"F": 42, "M": 36}
    assert manifest.where({"site": ["HT"]}).sum() == 408
    assert table["age_years"].between(14, 90).sum() == table["age_years"].notna().sum() > 900


def test_pneumoniamnist_keeps_its_split(shared_data, tmp_path):
    file = shared_data / "data/pneumoniamnist/pneumoniamnist_cut.npz"
    manifest = import_npz(file, ImportOptions(name="pneumonia", classes=("normal", "pneumonia")))
    assert (manifest.kind, manifest.labels) == (Kind.BINARY, ("pneumonia",))
    counts = {c.split: (c.negative_images, c.positive_images) for c in label_counts(manifest)}
    assert counts == {"train": (388, 3494), "val": (135, 389), "test": (234, 390)}
    assert manifest.pixels(4999).shape == (28, 28, 3)
    library = TaskLibrary(tmp_path)
    library.save(manifest)
    report = check_task(library, "pneumonia")
    assert report.errors == ()  # its copies are between train and val, none in test
    assert any("8 sets of identical images in train and val" in warning for warning in report.warnings)


def test_covid_cxr_blank_labels_stay_unknown(shared_data):
    labels = ("covid19", "viral", "bacterial", "fungal", "ards", "no_finding")
    manifest = import_csv(shared_data / "data/covid_cxr/labels.csv", ImportOptions(name="covid", label_columns=labels))
    assert positives(manifest) == dict(zip(labels, (115, 120, 33, 13, 13, 4), strict=True))
    assert manifest.table[list(manifest.label_columns)].isna().all(axis=1).sum() == 61
    assert manifest.table["patient_id"].nunique() == 148
    assert manifest.table["age_years"].notna().sum() == 236


def test_dsb2018_is_segmentation(shared_data, tmp_path):
    file = shared_data / "data/dsb2018_nuclei/labels.csv"
    manifest = import_csv(file, ImportOptions(name="nuclei", group_columns=("source_size",)))
    assert manifest.kind is Kind.SEGMENTATION
    assert len(manifest) == 320
    assert manifest.where({"source_size": "256x256"}).sum() == 205
    library = TaskLibrary(tmp_path)
    library.save(manifest)
    report = check_task(library, "nuclei")
    assert report.errors == ()
    instances = import_csv(file, ImportOptions(name="n", mask_column="instances", kind=Kind.SEGMENTATION))
    mask = instances.mask(0)
    assert mask is not None
    assert mask.max() == 36  # nuclei of the first image, numbered one by one


def test_lgg_check_reads_every_image_and_mask(shared_data, tmp_path):
    library = TaskLibrary(tmp_path)
    library.save(import_csv(shared_data / "data/lgg_mri/labels.csv", ImportOptions(name="lgg_mri")))
    report = check_task(library, "lgg_mri")
    assert report.errors == ()
    assert report.facts["masks"] == "948"
