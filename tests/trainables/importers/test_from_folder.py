from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from search_spaces.exceptions import UserError
from search_spaces.names import Kind
from trainables.importers import ImportOptions, import_folder
from trainables.manifest import Manifest


def fill(root: Path, names: str) -> Path:
    for name in names.split():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((4, 5, 3), dtype=np.uint8)).save(root / name)
    return root


def options(**changes):
    return ImportOptions(**{"name": "t", **changes})


def test_one_folder_per_class(tmp_path):
    root = fill(tmp_path, "cat/1.png cat/2.png dog/1.jpg dog/deep/2.png emu/1.png .hidden/1.png")
    manifest = import_folder(root, options())
    assert manifest.kind is Kind.MULTICLASS
    assert manifest.labels == ("cat", "dog", "emu")
    assert manifest.table["image_id"].tolist() == ["cat/1.png", "cat/2.png", "dog/1.jpg", "dog/deep/2.png", "emu/1.png"]
    assert manifest.table["y"].tolist() == [0, 0, 1, 1, 2]
    assert not manifest.patients_known
    assert set(manifest.table["split"]) <= {"train", "val", "test"}


def test_splits_above_classes(tmp_path):
    root = fill(tmp_path, "train/NORMAL/1.png train/PNEUMONIA/1.png val/NORMAL/1.png Test/PNEUMONIA/1.png")
    manifest = import_folder(root, options())
    assert manifest.labels == ("PNEUMONIA",)
    by_id = manifest.table.set_index("image_id")
    assert by_id["split"].to_dict() == {
        "Test/PNEUMONIA/1.png": "test",
        "train/NORMAL/1.png": "train",
        "train/PNEUMONIA/1.png": "train",
        "val/NORMAL/1.png": "val",
    }
    assert by_id.loc["val/NORMAL/1.png", "y_PNEUMONIA"] == 0


def test_patients_from_file_names(tmp_path):
    root = fill(tmp_path, "a/person1_x_1.png a/person1_x_2.png b/person2_x_1.png")
    manifest = import_folder(root, options(patient_pattern=r"person(\d+)_"))
    assert manifest.table["patient_id"].tolist() == ["1", "1", "2"]
    assert manifest.patients_known


def test_what_is_left_out_is_said(tmp_path):
    root = fill(tmp_path, "a/1.png b/1.png loose.png")
    (root / "a" / "Thumbs.db").touch()
    told: list[str] = []
    assert len(import_folder(root, options(), told.append)) == 2
    assert "1 images outside class folders are left out" in told
    assert "1 files that are no images are left out (1 .db)" in told


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("", "no images in subfolders"),
        ("1.png", "no images in subfolders"),
        ("a/1.png", "only the value a"),
        ("train/a/1.png b/1.png", r"mixes splits \(train\) and other folders \(b\)"),
        ("train/1.png test/1.png", "splits but no classes"),
    ],
)
def test_layouts_that_are_refused(tmp_path, names, message):
    with pytest.raises(UserError, match=message):
        import_folder(fill(tmp_path, names), options())


def test_no_such_folder(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        import_folder(tmp_path / "none", options())


@pytest.mark.parametrize(("peak", "bits"), [(200, 8), (1023, 10), (1024, 12), (4095, 12), (16383, 14), (20000, 16)])
def test_bits_of_sixteen_bit_images_are_found_and_kept(tmp_path, peak, bits):
    root = fill(tmp_path / "images", "a/1.png b/1.png")
    Image.fromarray(np.full((4, 5), peak, dtype=np.uint16)).save(root / "a" / "1.png")
    told: list[str] = []
    manifest = import_folder(root, options(), told.append)
    assert manifest.bit_depth == bits
    assert any(f"taken as {bits} bits" in line for line in told) == (bits < 16)
    manifest.write(tmp_path / "t")
    again = Manifest.read(tmp_path / "t")
    assert again.bit_depth == bits
    assert again.table_hash == manifest.table_hash
    row = manifest.table["image_id"].tolist().index("a/1.png")
    assert again.pixels(row).max() == round(peak * 255 / (2**bits - 1))


def test_a_bit_depth_can_be_given_and_is_part_of_the_content(tmp_path):
    root = fill(tmp_path, "a/1.png b/1.png")
    Image.fromarray(np.full((4, 5), 1000, dtype=np.uint16)).save(root / "a" / "1.png")
    found, given = import_folder(root, options()), import_folder(root, options(bit_depth=12))
    assert (found.bit_depth, given.bit_depth) == (10, 12)
    assert found.table_hash != given.table_hash
    with pytest.raises(UserError, match="--bit-depth 9 does not hold the largest value, 1000"):
        import_folder(root, options(bit_depth=9))
    with pytest.raises(UserError, match="--bit-depth is 8 to 16, got 7"):
        options(bit_depth=7)
