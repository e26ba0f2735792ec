from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from search_spaces.exceptions import DataError, UserError
from search_spaces.home import scalecurves_home
from search_spaces.names import Kind
from trainables import library as library_module
from trainables import pixels
from trainables.importers import ImportOptions, import_npz
from trainables.library import TaskLibrary
from trainables.manifest import Manifest
from trainables.places import place


def make(root: Path, name: str = "skin", kind: Kind = Kind.BINARY) -> Manifest:
    root.mkdir(exist_ok=True)
    for i in range(4):
        if not (root / f"{i}.png").exists():
            Image.fromarray(np.full((2, 3), i, np.uint8)).save(root / f"{i}.png")
    if not (root / "set.npz").exists():
        np.savez(root / "set.npz", images=np.arange(8, dtype=np.uint8).reshape(2, 2, 2))
    table = pd.DataFrame(
        {
            "image_id": list("abcdef"),
            "path": [*(f"{i}.png" for i in range(4)), "set.npz#images", "set.npz#images"],
            "frame": pd.array([None] * 4 + [0, 1], dtype="Int64"),
            "patient_id": list("ppqqrr"),
            "split": ["train"] * 6,
            "y_t": np.arange(6, dtype=np.float32) % 2,
            "mask": ["0.png", None, None, None, None, None],
        }
    )
    return Manifest(name=name, kind=kind, labels=("t",), table=table, root=root, importer="test", patients_known=True)


@pytest.fixture
def library(tmp_path) -> TaskLibrary:
    return TaskLibrary(tmp_path / "home")


def test_home_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("SCALECURVES_HOME", str(tmp_path / "here"))
    assert scalecurves_home() == tmp_path / "here"
    assert not (tmp_path / "here").exists()
    monkeypatch.setenv("SCALECURVES_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert scalecurves_home() == tmp_path / ".scalecurves"


def test_saved_is_loaded_by_name_and_by_folder(library, tmp_path):
    assert library.names() == ()
    library.save(make(tmp_path / "images", "skin"))
    library.save(make(tmp_path / "images", "blood"))
    assert library.names() == ("blood", "skin")
    assert library.load("skin").table_hash == make(tmp_path / "images").table_hash
    assert library.load(str(library.folder("skin"))).name == "skin"


def test_unknown_names(library, tmp_path):
    with pytest.raises(UserError, match="Known: none"):
        library.load("skin")
    library.save(make(tmp_path / "images"))
    with pytest.raises(UserError, match="Did you mean 'skin'"):
        library.load("skim")
    with pytest.raises(UserError, match="no manifest at"):
        library.load(str(tmp_path / "elsewhere"))
    with pytest.raises(UserError, match="letters, digits"):
        library.save(make(tmp_path / "images", "../skin"))


def test_a_name_is_taken_once(library, tmp_path):
    first = make(tmp_path / "images")
    library.save(first)
    library.save(first)
    changed = replace(first, table=first.table.assign(split="test"), hash_key=b"")
    assert changed.hash_key != first.hash_key
    with pytest.raises(UserError, match="'skin' exists with other content; --overwrite"):
        library.save(changed)
    saved = library.save(changed, overwrite=True)
    assert saved.hash_key == first.hash_key
    assert library.load("skin").hash_key == first.hash_key
    assert set(library.load("skin").table["split"]) == {"test"}


def test_a_damaged_manifest_can_be_replaced(library, tmp_path):
    manifest = library.save(make(tmp_path / "images"))
    (library.folder("skin") / "manifest.parquet").write_text("damaged")
    with pytest.raises(DataError, match="import it again"):
        library.save(manifest)
    library.save(manifest, overwrite=True)
    assert library.load("skin").table_hash == manifest.table_hash


def test_digests_are_of_the_bytes_and_remembered(library, tmp_path, monkeypatch):
    manifest = make(tmp_path / "images")
    digests = library.byte_digests(manifest)
    file = tmp_path / "images" / "2.png"
    assert digests["image_id"].tolist() == list("abcdef")
    assert digests["sha256"].iat[2] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert digests["size"].iat[2] == file.stat().st_size
    assert digests["sha256"].nunique() == 6

    hashed: list[int] = []
    sha256s = library.byte_digests.__globals__["_sha256s"]

    def counted(manifest, rows):
        hashed.extend(rows)
        return sha256s(manifest, rows)

    monkeypatch.setattr("trainables.library._sha256s", counted)
    pd.testing.assert_frame_equal(TaskLibrary(library.home).byte_digests(manifest), digests)
    assert hashed == []
    Image.fromarray(np.full((2, 3), 77, np.uint8)).save(file)
    os.utime(file, ns=(1, 1))
    again = library.byte_digests(manifest)
    assert hashed == [2]
    assert again["sha256"].iat[2] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert again.drop(index=2).equals(digests.drop(index=2))


def test_a_lost_or_damaged_cache_is_made_again(library, tmp_path):
    manifest = make(tmp_path / "images")
    digests = library.byte_digests(manifest)
    cache = library.folder("skin") / "bytes.parquet"
    cache.write_text("damaged")
    pd.testing.assert_frame_equal(library.byte_digests(manifest), digests)
    cache.unlink()
    pd.testing.assert_frame_equal(library.byte_digests(manifest), digests)
    assert cache.is_file()


def test_missing_images_are_named_and_counted(library, tmp_path):
    manifest = make(tmp_path / "images")
    (tmp_path / "images" / "1.png").unlink()
    (tmp_path / "images" / "3.png").unlink()
    with pytest.raises(DataError, match=r"2 of 6 images of task 'skin' are missing, the first: .*1\.png \(row 1\)"):
        library.byte_digests(manifest)


def test_content_hash_sees_bytes_and_table_only(library, tmp_path):
    manifest = make(tmp_path / "images")
    first = library.content_hash(manifest)
    assert len(first) == 32
    shuffled = manifest.table.sample(frac=1, random_state=0).reset_index(drop=True)
    assert library.content_hash(replace(manifest, table=shuffled)) == first
    copied = make(tmp_path / "copy", "other")
    assert library.content_hash(copied) == first
    relabelled = manifest.table.assign(y_t=np.float32(1))
    assert library.content_hash(replace(manifest, table=relabelled)) != first
    Image.fromarray(np.full((2, 3), 77, np.uint8)).save(tmp_path / "copy" / "2.png")
    assert library.content_hash(copied) != first
    np.savez(tmp_path / "images" / "set.npz", images=np.ones((2, 2, 2), dtype=np.uint8))
    assert library.content_hash(manifest) != first


def test_masks_count_where_they_are_the_label(library, tmp_path):
    manifest = make(tmp_path / "images", kind=Kind.SEGMENTATION)
    other = manifest.table.assign(mask=pd.Series(["1.png", *[None] * 5]))
    assert library.content_hash(manifest) != library.content_hash(replace(manifest, table=other))
    binary = replace(manifest, kind=Kind.BINARY)
    assert library.content_hash(binary) == library.content_hash(replace(binary, table=other))


def test_card(library, tmp_path):
    manifest = library.save(make(tmp_path / "images"))
    card = library.card("skin")
    assert card.manifest_hash == library.content_hash(manifest)
    assert (card.kind, card.labels, card.archives) == ("binary", ("t",), ("set",))


def test_frames_of_several_arrays_of_one_file_are_told_apart_when_remembered(library, tmp_path):
    arrays = {
        f"{split}_images": np.full((4, 3, 3), n, dtype=np.uint8) for n, split in enumerate(("train", "val", "test"))
    }
    labels = {f"{split}_labels": np.array([[0], [1], [0], [1]]) for split in ("train", "val", "test")}
    np.savez(tmp_path / "many.npz", **arrays, **labels)
    manifest = library.save(import_npz(tmp_path / "many.npz", ImportOptions(name="many")))
    first, hashed = library.byte_digests(manifest), library.content_hash(manifest)
    assert first["sha256"].nunique() == 3
    pd.testing.assert_frame_equal(library.byte_digests(manifest), first)
    assert library.content_hash(manifest) == hashed


def test_a_remote_npz_file_is_looked_at_once_for_all_its_frames(library, monkeypatch):
    fsspec = pytest.importorskip("fsspec")
    images = np.arange(40 * 12, dtype=np.uint8).reshape(40, 2, 2, 3)
    with fsspec.open("memory://frames/set.npz", "wb") as file:
        np.savez(file, train_images=images, train_labels=np.arange(40) % 2)
    manifest = import_npz(place("memory://frames/set.npz"), ImportOptions(name="far"))
    looked, stamp = [], pixels.stamp
    for module in (pixels, library_module):
        monkeypatch.setattr(module, "stamp", lambda file: looked.append(file) or stamp(file))
    digests = library.byte_digests(manifest)
    assert len(looked) == 2  # is it as it was when last hashed; is it what lies in memory
    head = f"{images[7].shape} {images.dtype.str}".encode()
    assert digests["sha256"].iat[7] == hashlib.sha256(head + images[7].tobytes()).hexdigest()


def test_a_name_with_the_separator_is_no_npz_file(library, tmp_path):
    """Scanners put # into names; a frame of such a file is one of a DICOM file or page, hashed with its number."""
    root = tmp_path / "images"
    root.mkdir()
    pages = [Image.fromarray(np.full((2, 3), k, np.uint8)) for k in range(2)]
    pages[0].save(root / "scan#1.tif", save_all=True, append_images=pages[1:])
    table = make(root).table.head(2).assign(path="scan#1.tif", frame=pd.array([0, 1], dtype="Int64"), mask=None)
    manifest = replace(make(root), table=table, hash_key=b"")
    whole = hashlib.sha256((root / "scan#1.tif").read_bytes()).hexdigest()
    digests = library.byte_digests(manifest)["sha256"].tolist()
    assert digests == [hashlib.sha256(f"{whole} frame {k}".encode()).hexdigest() for k in range(2)]
    library.save(manifest)
    assert library.card("skin").archives == ()
