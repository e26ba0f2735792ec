from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image

from search_spaces.exceptions import DataError, UserError
from search_spaces.names import Kind
from trainables.manifest import MANIFEST_FILE, Manifest


def make(root, **changes) -> Manifest:
    table = pd.DataFrame(
        {
            "image_id": ["a", "b", "c"],
            "path": ["a.png", "b.png", "set.npz#train_images"],
            "frame": pd.array([None, None, 1], dtype="Int64"),
            "patient_id": ["p", "p", "q"],
            "split": ["train", "train", "test"],
            "y_t": np.array([0, np.nan, -1], dtype=np.float32),
            "mask": ["m.png", None, None],
            "sex": ["F", None, "M"],
            "age_years": np.array([50, np.nan, 7.5], dtype=np.float32),
            "g_loc": ["x", "y", None],
        }
    )
    facts = {
        "name": "t", "kind": Kind.BINARY, "labels": ("t",), "table": table, "root": root, "importer": "test",
        "patients_known": True, "notes": ("a note",),
    }  # fmt: skip
    return Manifest(**{**facts, **changes})


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for i, name in enumerate("ab"):
        Image.fromarray(np.full((2, 3), i + 1, np.uint8)).save(folder / f"{name}.png")
    Image.fromarray(np.full((2, 3), 255, np.uint8)).save(folder / "m.png")
    np.savez(folder / "set.npz", train_images=np.arange(8, dtype=np.uint8).reshape(2, 2, 2))
    return folder


def test_sources_of_many_rows_are_those_of_each(root):
    manifest = make(root)
    for rows in ([0, 1, 2], [2, 0], []):
        assert manifest.sources(rows) == [(manifest.file(row), manifest.frame(row)) for row in rows]
    plain = make(root, table=manifest.table.drop(columns="frame"))
    assert plain.sources([1]) == [(root / "b.png", None)]
    assert np.array_equal(manifest.image(2, manifest.sources([2])[0]), manifest.image(2))


def test_written_is_read(tmp_path, root):
    manifest = make(root, grouping="lesion")
    manifest.write(tmp_path / "task")
    read = Manifest.read(tmp_path / "task")
    pd.testing.assert_frame_equal(read.table, manifest.table)
    for name in ("name", "kind", "labels", "root", "importer", "patients_known", "grouping", "hash_key", "notes"):
        assert getattr(read, name) == getattr(manifest, name), name
    assert read.table_hash == manifest.table_hash
    assert [f.name for f in (tmp_path / "task").iterdir()] == [MANIFEST_FILE]
    facts = json.loads(pq.read_schema(tmp_path / "task" / MANIFEST_FILE).metadata[b"scalecurves"])
    assert facts["table_hash"] == manifest.table_hash
    assert facts["schema"] == 1


def test_images_beside_the_manifest_move_with_it(tmp_path, root):
    make(root).write(root)
    moved = root.rename(tmp_path / "moved")
    assert Manifest.read(moved).pixels(0)[0, 0].tolist() == [1, 1, 1]


def test_pixels_frames_and_masks(root):
    manifest = make(root)
    assert manifest.pixels(1).shape == (2, 3, 3)
    assert manifest.pixels(2)[..., 0].tolist() == [[4, 5], [6, 7]]
    assert manifest.frame(0) is None
    assert manifest.frame(2) == 1
    mask = manifest.mask(0)
    assert mask is not None
    assert mask.tolist() == [[255] * 3] * 2
    assert manifest.mask(1) is None


def test_unreadable_pixels_name_file_and_row(root):
    manifest = make(root)
    (root / "b.png").unlink()
    with pytest.raises(DataError, match=r"b\.png is missing \(manifest 't', row 1\)"):
        manifest.pixels(1)
    (root / "m.png").write_text("no mask")
    with pytest.raises(DataError, match=r"m\.png cannot be read.*row 0"):
        manifest.mask(0)


def test_hash_does_not_see_order_root_or_path(root, tmp_path):
    manifest = make(root)
    shuffled = manifest.table.iloc[[2, 0, 1]].reset_index(drop=True)
    moved = shuffled.assign(path=["x", "y", "z"], frame=pd.array([7, None, None], dtype="Int64"))
    moved = moved.assign(mask=pd.Series([None, "elsewhere.png", None]), width=pd.array([1, 2, 3], dtype="Int32"))
    columns = list(reversed(moved.columns))
    other = make(tmp_path, table=moved[columns], importer="other", notes=(), name="u")
    assert other.table_hash == manifest.table_hash
    assert other.hash_key == manifest.hash_key


@pytest.mark.parametrize(
    ("column", "row", "value"),
    [("y_t", 0, 1.0), ("y_t", 1, 0.0), ("patient_id", 0, "q"), ("split", 0, "val"), ("sex", 1, "F"), ("g_loc", 2, "x"),
     ("age_years", 1, 3.0), ("mask", 0, None), ("image_id", 0, "z")],
)  # fmt: skip
def test_hash_sees_content(root, column, row, value):
    manifest = make(root)
    table = manifest.table.copy()
    table.loc[row, column] = value
    assert make(root, table=table).table_hash != manifest.table_hash


def test_hash_sees_kind_and_order_of_classes(root):
    table = make(root).table.drop(columns="y_t").assign(y=np.array([0, 1, -1], dtype=np.int16))
    hashes = {
        make(root, table=table, kind=kind, labels=labels).table_hash
        for kind in (Kind.MULTICLASS, Kind.ORDINAL)
        for labels in (("u", "v"), ("v", "u"))
    }
    assert len(hashes) == 4


def test_hash_is_pinned(root):
    """A change here means that every trial id changes: raise SCHEMA_VERSION with it."""
    assert make(root).table_hash == "2d72b7f6b8347025a18d1911b4b09d837c64045f8dde8eac25b5e1d28feb0b24"


def test_ids_are_hashed_with_the_key(root):
    manifest = make(root)
    assert manifest.hashed("p") == make(root).hashed("p")
    assert len(manifest.hashed("p")) == 16
    assert manifest.hashed("p") != manifest.hashed("q")
    assert manifest.hashed("p") != replace(manifest, hash_key=b"other").hashed("p")
    assert manifest.hash_key.hex() != manifest.table_hash


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": ["a", "a", "c"]}, "image_id is not unique: 1 repeated, such as 'a'"),
        ({"split": ["train", "valid", "test"]}, r"split has \['valid'\]; allowed are train, val, test"),
        ({"patient_id": ["p", None, "q"]}, "'patient_id' is blank in 1 rows"),
        ({"y_t": [0.0, 2.0, 1.0]}, "y_t of row 1 is 2.0; allowed: 0, 1, blank"),
    ],
)
def test_tables_that_are_refused(root, change, message):
    table = make(root).table.assign(**change)
    with pytest.raises(DataError, match=message):
        make(root, table=table)


def test_more_that_is_refused(root):
    table = make(root).table
    with pytest.raises(DataError, match="column 'y_u' is missing"):
        make(root, labels=("t", "u"), kind=Kind.MULTILABEL)
    with pytest.raises(DataError, match="labels must be given and differ"):
        make(root, labels=("t", "t"))
    with pytest.raises(DataError, match=r"index must be 0\.\.n-1"):
        make(root, table=table.iloc[1:])
    classes = table.assign(y=np.array([0, 2, -2], dtype=np.int16))
    with pytest.raises(DataError, match=r"y of row 1 is 2; .*\n.*y of row 2 is -2; allowed: classes 0 to 1"):
        make(root, table=classes, kind=Kind.MULTICLASS, labels=("u", "v"))


def test_no_damaged_or_foreign_manifest_is_read(tmp_path, root):
    with pytest.raises(UserError, match="no manifest at"):
        Manifest.read(tmp_path)
    (tmp_path / MANIFEST_FILE).write_text("no parquet")
    with pytest.raises(DataError, match="cannot be read"):
        Manifest.read(tmp_path)
    make(root).table.to_parquet(tmp_path / MANIFEST_FILE)
    with pytest.raises(DataError, match="cannot be read"):
        Manifest.read(tmp_path)


def test_another_schema_is_refused(tmp_path, root, monkeypatch):
    monkeypatch.setattr("trainables.manifest.SCHEMA_VERSION", 2)
    make(root).write(tmp_path)
    monkeypatch.undo()
    with pytest.raises(UserError, match="has schema 2, this is 1; import it again"):
        Manifest.read(tmp_path)


def test_unwritable_folder(tmp_path, root, monkeypatch):
    def full(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr("trainables.manifest.pq.write_table", full)
    with pytest.raises(UserError, match="cannot be written: disk full"):
        make(root).write(tmp_path / "task")
    assert list((tmp_path / "task").iterdir()) == []
