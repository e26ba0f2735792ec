"""Builds that are cut short, meet a full disk, or run in processes; masks beside their images."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from search_spaces.exceptions import DataError, UserError
from search_spaces.names import Kind
from tests.trainables.made_tasks import colour, make_library, save_manifest
from trainables import shards, store, store_build, store_cache
from trainables.store import is_store, open_store
from trainables.store_build import building_folder

IMAGES = 200
"""Four shards."""


@pytest.fixture
def library(tmp_path):
    return make_library(tmp_path)


@pytest.fixture
def manifest(library):
    table = pd.DataFrame(
        {
            "image_id": [f"{k:03d}" for k in np.random.default_rng(0).permutation(IMAGES)],
            "patient_id": [f"p{k}" for k in range(IMAGES)],
            "split": "train",
            "y_a": np.float32(0),
        }
    )
    return save_manifest(library, "many", Kind.BINARY, ("a",), table)


def reference(manifest, side):
    """Each image by itself, in the order of image ids."""
    rows = np.argsort(manifest.table["image_id"].to_numpy(dtype=str))
    images = [Image.open(manifest.file(int(row))).convert("RGB") for row in rows]
    return np.stack([np.asarray(image.resize((side, side), Image.Resampling.BICUBIC)) for image in images])


def test_processes_and_threads_build_what_one_image_at_a_time_gives(library, manifest, monkeypatch):
    monkeypatch.setattr(store_build, "PROCESS_BYTES", 0)
    monkeypatch.setattr("joblib.cpu_count", lambda: 2)
    calls = []
    by_processes = open_store(library, manifest, 8, progress=lambda *done: calls.append(done))
    assert np.array_equal(by_processes.images, reference(manifest, 8))
    assert len(calls) == 4
    assert calls[-1] == (200, 200)
    monkeypatch.setattr(store_build, "PROCESS_BYTES", 2**40)
    by_threads = open_store(library, manifest, 9)
    assert np.array_equal(by_threads.images, reference(manifest, 9))
    assert [len(part) for part in by_threads.images.parts] == [64, 64, 64, 8]
    assert tuple(by_threads.images[by_threads.rows[7]][0, 0]) == colour(manifest.table["image_id"][7])


def test_processes_report_every_image_that_cannot_be_used(library, manifest, monkeypatch):
    monkeypatch.setattr(store_build, "PROCESS_BYTES", 0)
    monkeypatch.setattr("joblib.cpu_count", lambda: 2)
    order = np.argsort(manifest.table["image_id"].to_numpy(dtype=str))
    for k in (1, 150, 199):
        manifest.file(int(order[k])).write_bytes(b"no image")
    with pytest.raises(DataError, match=r"3 of 200 images cannot be used:\n.*001.png.*\n.*150.png.*\n.*199.png"):
        open_store(library, manifest, 8)
    assert not [p for p in (library.home / "stores").iterdir() if p.is_dir()]


CODE = """
import sys
from pathlib import Path
from trainables.library import TaskLibrary
from trainables.store import open_store
library = TaskLibrary(Path(sys.argv[1]))
open_store(library, library.load("many"), 8)
"""


def test_a_killed_build_goes_on_from_its_finished_shards(library, manifest, monkeypatch, tmp_path):
    once = tmp_path / "once"
    once.mkdir()
    failing = {"SCALECURVES_FAILPOINTS": "store.mid_build=kill", "SCALECURVES_FAILPOINTS_ONCE": str(once)}
    done = subprocess.run([sys.executable, "-c", CODE, str(library.home)], env=os.environ | failing, check=False)
    assert done.returncode == -signal.SIGKILL
    [folder] = [p for p in (library.home / "stores").iterdir() if p.is_dir()]
    assert folder.name.endswith(".building")
    finished = shards.shards_in(folder)
    assert finished
    kept = {number: path.stat().st_ino for number, path in finished.items()}
    whole = folder / next(iter(finished.values())).name
    if len(finished) > 1:  # one that the disk spoilt is written again
        whole.write_bytes(whole.read_bytes()[:-1])
        kept.pop(min(finished))
    (folder / "left.partial").write_bytes(b"half")
    attempted = []
    attempt = store_build._attempt
    monkeypatch.setattr(store_build, "_attempt", lambda f, r, n: attempted.append(n) or attempt(f, r, n))
    built = open_store(library, manifest, 8)
    assert sorted(attempted) == sorted(set(range(4)) - set(kept))
    assert {n: p.stat().st_ino for n, p in shards.shards_in(built.path).items() if n in kept} == kept
    assert np.array_equal(built.images, reference(manifest, 8))
    assert not building_folder(built.path).exists()
    assert not list(built.path.glob("*.partial"))


@pytest.mark.parametrize("place", ["shard", "fsync", "index"])
def test_a_disk_that_fills_leaves_nothing_that_is_read_as_whole(library, manifest, monkeypatch, place):
    full = OSError(errno.ENOSPC, "No space left on device")
    calls = []

    def fail(*arguments, **named):
        calls.append(arguments)
        if len(calls) > 1 or place == "index":
            raise full
        return original(*arguments, **named)

    target = {"shard": (shards, "_write_batch"), "fsync": (shards.os, "fsync"), "index": (store_build.json, "dump")}
    module, name = target[place]
    original = getattr(module, name)
    with monkeypatch.context() as patched:
        patched.setattr(module, name, fail)
        with pytest.raises(UserError, match=r"cannot be written: .*No space left.*kept for the next attempt"):
            open_store(library, manifest, 8)
    path = store.store_path(library.home, library.content_hash(manifest), 8, 8)
    assert not is_store(path)
    assert not store.is_store_of(path, manifest)
    assert not [s for s in store_cache.cached_stores(library.home) if s.is_finished]
    left = shards.shards_in(building_folder(path)).values()
    assert all(shards.is_whole(shard) for shard in left)
    if place == "fsync":
        assert len(left) == 1  # one that the disk refused can be read for now, and must not be taken for finished
    assert not list(building_folder(path).glob("*.partial"))
    assert np.array_equal(open_store(library, manifest, 8).images, reference(manifest, 8))


def test_a_disk_that_is_really_full(manifest, library, monkeypatch, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        small = type(library)(disk)
        other = small.save(manifest)
        with pytest.raises(UserError, match=r"takes 2\.\d\d GB|takes 0\.00 GB"):
            open_store(small, other, 64)  # known before the first image is decoded
        monkeypatch.setattr(store, "make_room", lambda *_: None)
        with pytest.raises(UserError, match="No space left on device"):
            open_store(small, other, 24)
        assert not [s for s in store_cache.cached_stores(disk) if s.is_finished]
        assert np.array_equal(open_store(small, other, 4).images, reference(manifest, 4))
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_masks_lie_beside_their_images(library):
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "image_id": [f"s{k}" for k in range(70)],
            "patient_id": [f"p{k}" for k in range(70)],
            "split": "train",
            "mask": [None if k == 3 else f"s{k}_mask.png" for k in range(70)],
        }
    )
    folder = library.home.parent / "images" / "organs"
    folder.mkdir(parents=True)
    masks = rng.integers(0, 4, (70, 10, 12), dtype=np.uint8)
    for k, mask in enumerate(masks):
        Image.fromarray(mask).save(folder / f"s{k}_mask.png")
    organs = save_manifest(
        library, "organs", Kind.SEGMENTATION, ("lung", "heart", "spine"), table.sample(frac=1, random_state=0)
    )
    large = open_store(library, organs, 8)
    small = open_store(library, organs, 8, 5)
    for made, side in ((large, 8), (small, 5)):
        assert made.masks.shape == (70, side, side)
        for row in range(70):
            k = int(organs.table["image_id"][row][1:])
            at = made.rows[row]
            assert made.has_mask[at] == (k != 3)
            assert tuple(made.images[at][0, 0]) == colour(f"s{k}")
            expected = Image.fromarray(masks[k]).resize((8, 8), Image.Resampling.NEAREST)
            expected = np.asarray(expected if side == 8 else expected.resize((5, 5), Image.Resampling.NEAREST))
            assert np.array_equal(made.masks[at], expected * (k != 3))


@pytest.mark.parametrize(
    ("labels", "mask", "message"),
    [
        (("lung",), np.zeros((9, 12), np.uint8), "is 12 x 9, its image s0.png is 12 x 10"),
        (
            ("left", "right"),
            np.full((10, 12), 300, np.uint16),
            "values from 300 to 300; the labels left, right are 1 to 2",
        ),
    ],
)
def test_masks_that_cannot_be_stored(library, labels, mask, message):
    table = pd.DataFrame({"image_id": ["s0"], "patient_id": ["p"], "split": ["train"], "mask": ["m.png"]})
    organs = save_manifest(library, "organs", Kind.SEGMENTATION, labels, table)
    Image.fromarray(mask).save(organs.root / "m.png")
    with pytest.raises(DataError, match=message):
        open_store(library, organs, 8)


def test_masks_of_other_tasks_are_not_stored(library):
    table = pd.DataFrame(
        {"image_id": ["s0"], "patient_id": ["p"], "split": ["train"], "mask": ["none.png"], "y_a": np.float32([1])}
    )
    assert open_store(library, save_manifest(library, "t", Kind.BINARY, ("a",), table), 8).masks is None


def test_opening_a_warm_store_reads_no_image(library, manifest, monkeypatch):
    open_store(library, manifest, 8)
    monkeypatch.setattr(store_cache, "is_whole", lambda path: pytest.fail("checked again"))
    monkeypatch.setattr(store, "_build", lambda wanted: pytest.fail("built again"))
    assert len(open_store(library, manifest, 8).images) == IMAGES
