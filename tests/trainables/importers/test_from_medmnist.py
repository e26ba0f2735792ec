from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from search_spaces.exceptions import UserError
from search_spaces.names import Kind
from tests.trainables.importers.releases import medmnist
from trainables.importers import ImportOptions, import_medmnist, shipped_map
from trainables.manifest import Manifest
from trainables.release_counts import release_note

SETS = shipped_map("medmnist").sets
KINDS = {
    "chestmnist": Kind.MULTILABEL,
    "retinamnist": Kind.ORDINAL,
    "breastmnist": Kind.BINARY,
    "pneumoniamnist": Kind.BINARY,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("medmnist")
    medmnist(made)
    return made


@pytest.fixture
def imported(folder):
    def run(name: str, told: list[str] | None = None, root: Path = folder, **changes: Any) -> Manifest:
        options = ImportOptions(**{"name": "t", **changes})
        tell = (told if told is not None else []).append
        return import_medmnist(shipped_map("medmnist"), root / name, options, tell)

    return run


def test_all_twelve_sets_are_known(folder):
    assert {file.stem for file in folder.iterdir()} == set(SETS)
    assert len(SETS) == 12


@pytest.mark.parametrize("name", SETS)
def test_a_set_has_its_kind_and_the_names_of_its_classes(imported, name):
    manifest = imported(f"{name}.npz")
    held = SETS[name]
    assert manifest.kind is KINDS.get(name, Kind.MULTICLASS)
    assert manifest.labels == ((held.positive or held.classes[-1],) if manifest.kind is Kind.BINARY else held.classes)
    assert set(held.notes) <= set(manifest.notes)
    assert "patients are not named; every image counts as its own" in manifest.notes
    assert manifest.importer == "map medmnist"
    assert str(release_note(manifest)).startswith("a partial copy: images ")


@pytest.mark.parametrize("name", SETS)
def test_counts_of_a_set_add_up(name):
    for version in SETS[name].expected:
        assert version.images == sum(version.splits.values())
        assert set(version.splits) == {"train", "val", "test"}


def test_labels_mean_what_the_release_says(imported):
    chest = imported("chestmnist.npz").table
    assert chest.loc[1, ["y_atelectasis", "y_cardiomegaly"]].tolist() == [0, 1]
    assert imported("dermamnist.npz").labels[imported("dermamnist.npz").table["y"].iat[4]] == "melanoma"
    assert imported("breastmnist.npz").table["y_malignant"].tolist()[:2] == [1, 0]  # 0 in the file is malignant
    assert imported("pneumoniamnist.npz").table["y_pneumonia"].tolist()[:2] == [0, 1]


def test_the_version_that_a_file_is_gives_the_counts(imported, tmp_path):
    for train, val, test in ((13000, 2392, 8268), (12975, 2392, 8216)):
        arrays: dict[str, Any] = {}
        for split, n in (("train", train), ("val", val), ("test", test)):
            arrays[f"{split}_images"] = np.zeros((n, 1, 1), np.uint8)
            arrays[f"{split}_labels"] = (np.arange(n) % 11).astype(np.uint8)[:, None]
        np.savez_compressed(tmp_path / "organcmnist.npz", **arrays)
        manifest = imported("organcmnist.npz", root=tmp_path)
        assert manifest.expected["images"] == train + val + test
        assert str(release_note(manifest)).startswith("all counts as released")


def test_other_sizes_and_cut_copies_are_the_same_set(imported, folder, tmp_path):
    for name in ("bloodmnist_224.npz", "bloodmnist_cut.npz"):
        (tmp_path / name).symlink_to(folder / "bloodmnist.npz")
        assert imported(name, root=tmp_path).labels == SETS["bloodmnist"].classes


def test_what_the_user_says_goes_before(imported):
    manifest = imported("breastmnist.npz", classes=("bad", "good"))
    assert manifest.labels == ("good",)
    assert imported("breastmnist.npz", positive="normal, benign").labels == ("normal, benign",)
    assert imported("retinamnist.npz", kind=Kind.MULTICLASS).kind is Kind.MULTICLASS


def test_a_file_of_another_name_has_numbers_for_classes(imported, folder, tmp_path):
    (tmp_path / "mine.npz").symlink_to(folder / "octmnist.npz")
    told: list[str] = []
    manifest = imported("mine.npz", told, root=tmp_path)
    assert manifest.labels == ("0", "1", "2", "3")
    assert manifest.expected == {}
    assert told[0].startswith("mine.npz is named after no set that is known (pathmnist, ")


def test_a_folder_is_refused_with_its_files(imported, folder):
    with pytest.raises(UserError, match=r"is a folder; give one of its .npz files: bloodmnist.npz, breastmnist.npz"):
        imported("", root=folder)
