"""Image stores: right pixels, built once, whole or not at all, independent of where and in which order images lie."""

from __future__ import annotations

import multiprocessing
import os
import shutil

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from search_spaces.exceptions import DataError, UserError
from search_spaces.names import Kind
from tests.trainables.made_tasks import colour, make_library, multilabel_table, save_findings, save_manifest
from trainables import store as store_module
from trainables.library import TaskLibrary
from trainables.manifest import Manifest
from trainables.store import is_store_of, open_store, store_path
from trainables.store_cache import read_index


@pytest.fixture
def library(tmp_path):
    return make_library(tmp_path)


def noise(manifest: Manifest, side: int = 40) -> None:
    """Replace the images by noise of two aspect ratios, so that resizing matters."""
    rng = np.random.default_rng(0)
    for row in range(len(manifest)):
        shape = (side, side + 10 * (row % 2), 3)
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(manifest.file(row))


def test_every_row_gets_its_own_image(library):
    manifest = save_findings(library)
    store = open_store(library, manifest, 8)
    assert store.images.shape == (48, 8, 8, 3)
    positions = np.array([47, 0, 20, 20])
    got = store.gather(positions)
    for image, position in zip(got, positions, strict=True):
        assert (image == colour(manifest.table["image_id"][position])).all()


def test_pixels_are_those_of_pil(library):
    manifest = save_findings(library)
    noise(manifest)
    large, small = open_store(library, manifest, 32), open_store(library, manifest, 32, 19)
    for row in (0, 1, 47):
        original = Image.open(manifest.file(row))
        stored = original.resize((32, 32), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(large.gather(np.array([row]))[0], np.asarray(stored))
        smaller = stored.resize((19, 19), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(small.gather(np.array([row]))[0], np.asarray(smaller))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_files_of_every_kind_are_stored_as_their_rgb_pixels_resized(library, mode):
    """A grey image is resized as one channel, which must give what three equal ones give."""
    manifest = save_findings(library)
    values = np.random.default_rng(2).integers(0, 256, (37, 45, 3), dtype=np.uint8)
    if mode == "I;16":
        image = Image.fromarray(values[..., 0].astype(np.uint16) * 257)
    else:
        image = Image.fromarray(values).convert("RGBA" if mode == "LA" else mode).convert(mode)
    assert image.mode == mode
    image.save(manifest.file(3))
    whole = Image.fromarray(manifest.pixels(3))
    assert whole.size == (45, 37)
    stored = open_store(library, manifest, 16).gather(np.array([3]))[0]
    np.testing.assert_array_equal(stored, np.asarray(whole.resize((16, 16), Image.Resampling.BICUBIC)))


def test_images_of_the_stored_size_are_kept_bit_for_bit(library):
    manifest = save_findings(library)
    pixels = np.random.default_rng(1).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(manifest.file(3))
    np.testing.assert_array_equal(open_store(library, manifest, 16).gather(np.array([3]))[0], pixels)


def test_the_images_are_mapped_and_cannot_be_written(library):
    store = open_store(library, save_findings(library), 8)
    for part in store.images.parts:
        assert not part.flags.writeable
        assert not part.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        store.images[0][:] = 0
    allocated = pa.total_allocated_bytes()
    again = open_store(library, library.load("findings"), 8)
    assert pa.total_allocated_bytes() - allocated < again.images.nbytes // 2


def test_row_order_and_place_of_the_images_do_not_matter(library, tmp_path):
    manifest = save_findings(library)
    noise(manifest)
    first = open_store(library, manifest, 16)
    moved = tmp_path / "moved"
    shutil.copytree(manifest.root, moved)
    other = TaskLibrary(tmp_path / "home2")
    table = manifest.table.sample(frac=1, random_state=0).reset_index(drop=True)
    twin = other.save(
        Manifest(
            name="twin", kind=manifest.kind, labels=manifest.labels, table=table, root=moved, importer="x",
            patients_known=True,
        )
    )  # fmt: skip
    second = open_store(other, twin, 16)
    assert first.path.name == second.path.name
    np.testing.assert_array_equal(first.images, second.images)
    row = int(np.flatnonzero(table["image_id"] == "i07")[0])
    np.testing.assert_array_equal(second.gather(np.array([row])), first.gather(np.array([7])))


def test_a_store_is_built_once(library, monkeypatch):
    manifest = save_findings(library)
    path = open_store(library, manifest, 16, 8).path
    assert sorted(p.name for p in path.parent.iterdir() if p.is_dir()) == sorted(
        [path.name, store_path(library.home, library.content_hash(manifest), 16, 16).name]
    )
    assert sorted(p.name for p in path.iterdir()) == [*read_index(path)["shards"], "store.json", "verified.json"]
    monkeypatch.setattr(store_module, "_build", lambda wanted: pytest.fail("built again"))
    open_store(library, manifest, 16, 8)
    open_store(library, manifest, 16)


def _open_elsewhere(home, barrier, queue):
    library = TaskLibrary(home)
    manifest = library.load("findings")
    barrier.wait()
    store = open_store(library, manifest, 16)
    queue.put((store.images.shape, store.path.stat().st_ino, int(store.images[:].astype(np.int64).sum())))


def test_processes_that_want_the_same_store_build_one(library):
    manifest = save_findings(library)
    context = multiprocessing.get_context("spawn")
    barrier, queue = context.Barrier(3), context.Queue()
    processes = [context.Process(target=_open_elsewhere, args=(library.home, barrier, queue)) for _ in range(3)]
    for process in processes:
        process.start()
    answers = {queue.get(timeout=120) for _ in processes}
    for process in processes:
        process.join(60)
    assert len(answers) == 1
    assert open_store(library, manifest, 16).path.stat().st_ino == answers.pop()[1]


def test_opening_marks_a_store_as_used(library):
    manifest = save_findings(library)
    path = open_store(library, manifest, 8).path
    os.utime(path / "store.json", (1, 1))
    open_store(library, manifest, 8)
    assert (path / "store.json").stat().st_mtime > 1e9


def test_progress_counts_every_image(library):
    calls: list[tuple[int, int]] = []
    open_store(library, save_findings(library), 16, 8, progress=lambda done, of: calls.append((done, of)))
    assert calls == [(48, 48), (48, 48)]  # decoded, then made smaller


def test_unreadable_images_are_listed_and_nothing_is_left_behind(library):
    manifest = save_findings(library)
    for row in range(5, 17):
        manifest.file(row).write_bytes(b"not an image")
    with pytest.raises(DataError) as caught:
        open_store(library, manifest, 16)
    message = str(caught.value)
    assert message.startswith("12 of 48 images cannot be used:")
    assert "i05.png" in message
    assert "row 5" in message
    assert "i14.png" in message
    assert "i15.png" not in message
    assert message.endswith("and 2 more")
    stores = library.home / "stores"
    assert [p.suffix for p in stores.iterdir()] in ([], [".lock"])


def test_a_damaged_store_says_so(library):
    manifest = save_findings(library)
    path = open_store(library, manifest, 8).path
    (path / "store.json").write_bytes((path / "store.json").read_bytes()[:100])
    with pytest.raises(DataError, match=r"is damaged .* delete it, and it is built again"):
        open_store(library, manifest, 8)
    assert not is_store_of(path, manifest)


def test_a_home_that_cannot_be_written_to(library):
    manifest = save_findings(library)
    (library.home / "stores").write_text("in the way")
    with pytest.raises(UserError, match=r"cannot be written.*SCALECURVES_HOME"):
        open_store(library, manifest, 8)


def test_a_store_knows_its_manifest(library):
    manifest = save_findings(library)
    path = open_store(library, manifest, 8).path
    assert is_store_of(path, library.load("findings"))
    other = multilabel_table().assign(sex="M")
    assert not is_store_of(path, save_manifest(library, "other", Kind.MULTILABEL, ("opacity", "nodule"), other))
    assert not is_store_of(path.with_name("none"), manifest)


def test_a_side_above_the_storage_size_is_a_mistake(library):
    with pytest.raises(ValueError, match="from 1 to the storage size 8, got 9"):
        open_store(library, save_findings(library), 8, 9)
