from __future__ import annotations

import zipfile

import numpy as np
import pytest

from search_spaces.exceptions import DataError, UserError
from search_spaces.names import Kind
from trainables.importers import ImportOptions, import_npz


def options(**changes):
    return ImportOptions(**{"name": "t", **changes})


@pytest.fixture
def arrays():
    generator = np.random.default_rng(0)
    made = {}
    for split, n in (("train", 6), ("val", 4), ("test", 4)):
        made[f"{split}_images"] = generator.integers(0, 256, (n, 5, 7), dtype=np.uint8)
        made[f"{split}_labels"] = (np.arange(n) % 2).astype(np.uint8)[:, None]
    return made


def write(tmp_path, arrays):
    np.savez_compressed(tmp_path / "set.npz", **arrays)
    return tmp_path / "set.npz"


def test_official_splits_names_and_pixels(tmp_path, arrays):
    manifest = import_npz(write(tmp_path, arrays), options(classes=("normal", "sick")))
    assert (manifest.kind, manifest.labels) == (Kind.BINARY, ("sick",))
    assert manifest.table["split"].value_counts().to_dict() == {"train": 6, "val": 4, "test": 4}
    assert manifest.table["y_sick"].tolist()[:4] == [0, 1, 0, 1]
    assert manifest.table["image_id"].iat[7] == "val_000001"
    expected = np.repeat(arrays["val_images"][1][..., None], 3, axis=2)
    np.testing.assert_array_equal(manifest.pixels(7), expected)
    assert manifest.table[["width", "height"]].iloc[0].tolist() == [7, 5]


def test_several_labels_per_image(tmp_path, arrays):
    for split in ("train", "val", "test"):
        n = len(arrays[f"{split}_images"])
        arrays[f"{split}_labels"] = np.eye(3, dtype=np.uint8)[np.arange(n) % 3]
    file = write(tmp_path, arrays)
    manifest = import_npz(file, options(classes=("a", "b", "c")))
    assert (manifest.kind, manifest.labels) == (Kind.MULTILABEL, ("a", "b", "c"))
    assert manifest.table[["y_a", "y_b", "y_c"]].iloc[1].tolist() == [0, 1, 0]
    assert import_npz(file, options()).labels == ("label0", "label1", "label2")
    with pytest.raises(UserError, match="3 labels per image, --classes names 2"):
        import_npz(file, options(classes=("a", "b")))


def test_arrays_without_a_split_are_split_here(tmp_path):
    file = write(tmp_path, {"images": np.zeros((40, 4, 4, 3), np.uint8), "labels": np.arange(40) % 4})
    manifest = import_npz(file, options(kind=Kind.ORDINAL))
    assert (manifest.kind, manifest.labels) == (Kind.ORDINAL, ("0", "1", "2", "3"))
    assert manifest.table["split"].value_counts().to_dict() == {"train": 28, "test": 8, "val": 4}


def test_sixteen_bit_frames_are_scaled(tmp_path, arrays):
    arrays = {k: v.astype(np.uint16) * 257 if k.endswith("images") else v for k, v in arrays.items()}
    manifest = import_npz(write(tmp_path, arrays), options())
    np.testing.assert_array_equal(manifest.pixels(0)[..., 0], arrays["train_images"][0] // 257)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_labels": None}, r"no array 'train_labels'; it has train_images"),
        ({"fold1_images": np.zeros((1, 2, 2), np.uint8)}, "unknown splits fold1"),
        ({"train_images": np.zeros((6, 4, 4, 4), np.uint8)}, r"shape \(6, 4, 4, 4\) of uint8.*volumes"),
        ({"train_images": np.zeros((6, 4, 4), np.float32)}, "of float32; "),
        ({"train_labels": np.zeros((5, 1), np.uint8)}, r"shape \(5, 1\) for 6 images"),
        ({"train_labels": np.zeros((6, 2), np.uint8)}, "different numbers of labels"),
    ],
)
def test_arrays_that_are_refused(tmp_path, arrays, change, message):
    arrays = {k: v for k, v in {**arrays, **change}.items() if v is not None}
    with pytest.raises(UserError, match=message):
        import_npz(write(tmp_path, arrays), options())


def test_files_that_are_no_npz(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        import_npz(tmp_path / "none.npz", options())
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(UserError, match="cannot be read as npz"):
        import_npz(tmp_path / "text.npz", options())
    np.save(tmp_path / "array.npy", np.zeros(3))
    with pytest.raises(UserError, match="no npz file"):
        import_npz(tmp_path / "array.npy", options())


def write_header(file, name, shape):
    """An npz file whose array ends after its header: who decompresses it finds nothing."""
    with zipfile.ZipFile(file, "a") as archive, archive.open(f"{name}.npy", "w") as member:
        np.lib.format.write_array_header_1_0(member, {"descr": "|u1", "fortran_order": False, "shape": shape})


@pytest.mark.parametrize("shape", [(1, 15_000, 15_000), (2, 15_000, 15_000, 3), (1, 1, 15_000, 15_000)])
def test_images_above_the_limit_are_refused_before_they_are_decompressed(tmp_path, arrays, monkeypatch, shape):
    arrays.pop("train_images")
    write_header(write(tmp_path, arrays), "train_images", shape)
    message = r"set.npz#train_images is (15000 x 15000|225000000 x 1), 225000000 pixels, above the limit of 200000000 "
    with pytest.raises(DataError, match=message):
        import_npz(tmp_path / "set.npz", options())
    monkeypatch.setenv("SCALECURVES_MAX_PIXELS", "300000000")
    with pytest.raises(UserError, match="cannot be read as npz"):
        import_npz(tmp_path / "set.npz", options())
