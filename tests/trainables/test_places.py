from __future__ import annotations

import io
import subprocess
import sys
import time
import uuid
from importlib.util import find_spec

import numpy as np
import pytest
from PIL import Image

from search_spaces.exceptions import DataError, UserError
from search_spaces.names import Column
from tests.conftest import ROOT, free_port
from tests.trainables.dicom_files import write_dicom
from trainables.importers import ImportOptions, import_csv, import_map, import_npz, shipped_map
from trainables.library import TaskLibrary
from trainables.manifest import Manifest
from trainables.places import each_read, is_remote, os_errors, place, stamp

pytest.importorskip("upath")

pytest_plugins = ("tests.s3_plugin", "tests.gcs_plugin")


class LostHostError(Exception):
    """Of a client library."""


BUCKETS = {"s3": ("s3fs", "bucket"), "gs": ("gcsfs", "gcs_bucket")}
"""Scheme -> package that reads it, fixture of a bucket."""


@pytest.fixture(params=["memory", *BUCKETS])
def far(request):
    """A folder in memory or in a bucket with four images and a table."""
    where = f"memory://bucket-{uuid.uuid4().hex}"
    if request.param in BUCKETS:
        package, bucket = BUCKETS[request.param]
        if find_spec(package) is None:
            pytest.skip(f"{request.param}:// needs {package}")
        where = request.getfixturevalue(bucket)
    root = place(f"{where}/set")
    root.mkdir(parents=True, exist_ok=True)
    for i in range(4):
        stream = io.BytesIO()
        Image.fromarray(np.full((6, 8), 40 * i, np.uint8)).save(stream, "PNG")
        (root / f"{i}.png").write_bytes(stream.getvalue())
    (root / "labels.csv").write_bytes(
        b"image,label,mask\n" + b"".join(f"{i}.png,{i % 2},{i}.png\n".encode() for i in range(4))
    )
    return root


def test_remote_images_are_imported_read_hashed_and_found_again(far, tmp_path):
    manifest = import_csv(far / "labels.csv", ImportOptions(name="far", split=(0.5, 0.25, 0.25)))
    assert manifest.root == far
    assert manifest.pixels(2)[0, 0].tolist() == [80, 80, 80]
    mask = manifest.mask(1)
    assert mask is not None
    assert mask.max() == 40
    library = TaskLibrary(tmp_path)
    library.save(manifest)
    again = library.load("far")
    assert str(again.root) == str(far)
    assert again.pixels(3).max() == 120
    digests = library.byte_digests(again)
    assert digests["sha256"].nunique() == 4
    local = tmp_path / "local"
    local.mkdir()
    for file in far.glob("*"):
        (local / file.name).write_bytes(file.read_bytes())
    near = import_csv(local / "labels.csv", ImportOptions(name="near", split=(0.5, 0.25, 0.25)))
    assert library.content_hash(near) == library.content_hash(again)


def test_a_local_table_of_remote_images(far, tmp_path):
    table = tmp_path / "t.csv"
    table.write_bytes((far / "labels.csv").read_bytes().replace(b",mask", b",m"))
    manifest = import_csv(table, ImportOptions(name="t", image_root=far))
    assert manifest.pixels(1).max() == 40
    table.write_text("image,label\n" + "".join(f"{far}/{i}.png,{i % 2}\n" for i in range(4)))
    manifest = import_csv(table, ImportOptions(name="t"))
    assert manifest.table[Column.PATH].tolist() == [f"{i}.png" for i in range(4)]
    assert manifest.pixels(1).max() == 40
    (far / "2.png").unlink()
    with pytest.raises(DataError, match=rf"line 4: image {far}/2.png is missing"):
        import_csv(table, ImportOptions(name="t"))


@pytest.mark.parametrize("far", ["memory"], indirect=True)
def test_a_file_system_is_asked_once_whatever_the_number_of_frames(far, tmp_path, monkeypatch):
    from fsspec.implementations.memory import MemoryFileSystem

    stream = io.BytesIO()
    np.savez(stream, images=np.arange(50 * 4, dtype=np.uint8).reshape(50, 2, 2), labels=np.arange(50) % 2)
    (far / "many.npz").write_bytes(stream.getvalue())
    manifest = import_npz(far / "many.npz", ImportOptions(name="many", split=(0.5, 0.25, 0.25)))
    asked = []

    def counted(name):
        original = getattr(MemoryFileSystem, name)

        def count(self, path, *args, **kwargs):
            asked.append((name, path))
            return original(self, path, *args, **kwargs)

        return count

    for name in ("exists", "info"):
        monkeypatch.setattr(MemoryFileSystem, name, counted(name))
    library = TaskLibrary(tmp_path)
    library.save(manifest)
    digests = library.byte_digests(manifest)
    assert digests["sha256"].nunique() == 50
    first = len(asked)
    asked.clear()
    library.byte_digests(manifest)
    assert 0 < len(asked) < 10, (first, asked)


def test_dicom_npz_and_maps_are_read_remotely(far, tmp_path):
    pytest.importorskip("pydicom")
    local = write_dicom(tmp_path / "a.dcm", np.arange(48, dtype=np.uint8).reshape(6, 8))
    (far / "a.dcm").write_bytes(local.read_bytes())
    from trainables.pixels import image_size, read_rgb

    assert image_size(far / "a.dcm") == (8, 6)
    assert read_rgb(far / "a.dcm")[..., 0].max() == 47
    stream = io.BytesIO()
    np.savez(stream, x=np.full((2, 3, 3), 7, np.uint8))
    (far / "a.npz").write_bytes(stream.getvalue())
    assert read_rgb(far / "a.npz#x", 1).max() == 7
    root = far / "release"
    (root / "train_images").mkdir(parents=True)
    (root / "train.csv").write_bytes(b"id_code,diagnosis\n" + b"".join(f"{i},{i}\n".encode() for i in range(4)))
    for i in range(4):
        (root / "train_images" / f"{i}.png").write_bytes((far / f"{i}.png").read_bytes())
    manifest = import_map(shipped_map("aptos2019"), root, ImportOptions(name="a"))
    assert isinstance(manifest, Manifest)
    assert manifest.pixels(3).max() == 120


def test_what_a_place_is(tmp_path):
    assert is_remote("s3://far/x")
    assert not is_remote(tmp_path)
    assert place(str(tmp_path)) == tmp_path
    assert stamp(tmp_path / "none") is None
    with pytest.raises(DataError, match="File name too long"):
        stamp(tmp_path / ("x" * 5000))
    with pytest.raises(UserError, match=r"nonsense://a cannot be opened|needs a package"):
        place("nonsense://a")


def test_the_stamp_of_a_remote_file_says_when_it_was_written(far):
    before = time.time()
    (far / "new.png").write_bytes(b"12345")
    size, written_ns = stamp(far / "new.png")
    assert size == 5
    assert int(before) - 1 <= written_ns / 1e9 <= time.time() + 1  # S3 counts whole seconds


@pytest.mark.parametrize("far", ["memory", "gs"], indirect=True)
def test_a_file_that_is_written_again_at_equal_size_is_hashed_again(far, tmp_path):
    manifest = import_csv(far / "labels.csv", ImportOptions(name="far", split=(0.5, 0.25, 0.25)))
    library = TaskLibrary(tmp_path)
    library.save(manifest)
    before = library.content_hash(manifest)
    image = far / "0.png"
    image.write_bytes(image.read_bytes()[:-1] + b"x")
    assert library.content_hash(manifest) != before


def test_gcsfs_does_not_ask_for_the_kind_of_a_bucket_at_each_file(monkeypatch, request):
    """It reads the variable when it is imported, so a process of its own looks."""
    if find_spec("gcsfs") is None:
        pytest.skip("gs:// needs gcsfs")
    bucket = request.getfixturevalue("gcs_bucket")
    monkeypatch.delenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", raising=False)
    code = f"from trainables.places import place; print(type(place('{bucket}/set').fs).__name__)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert ran.stdout.split() == ["GCSFileSystem"]


def test_answers_come_in_the_order_of_the_items():
    for count in (0, 1, 5, 70, 9000):
        assert each_read(lambda item: item * 2, range(count)) == list(range(0, 2 * count, 2))


def test_a_bucket_that_cannot_be_reached_is_an_error_of_ours(monkeypatch):
    s3fs = pytest.importorskip("s3fs")
    s3fs.S3FileSystem.clear_instance_cache()  # one that a test before has opened would go on with its address
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "any")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "any")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    message = r"s3://nowhere-\w+/set cannot be reached: .*; are its credentials and address set"
    with pytest.raises(UserError, match=message):
        place(f"s3://nowhere-{uuid.uuid4().hex}/set")
    s3fs.S3FileSystem.clear_instance_cache()


def test_only_a_remote_file_system_has_errors_of_its_own(tmp_path):
    with pytest.raises(OSError, match="LostHostError: away"), os_errors(place("memory://any/file")):
        raise LostHostError("away")
    with pytest.raises(LostHostError), os_errors(tmp_path):
        raise LostHostError("a bug here")


@pytest.fixture
def losing(far, monkeypatch):
    """Makes the file system of ``far`` lose its host: wholly, or once files are open."""
    from fsspec.implementations.memory import MemoryFile, MemoryFileSystem

    def lost(*_args, **_kwargs):
        raise LostHostError("away")

    def lose(*names):
        for name in names:
            monkeypatch.setattr(MemoryFile if name == "read" else MemoryFileSystem, name, lost)

    return lose


EVERY_CALL = ("info", "_open", "open", "glob", "find", "ls")


@pytest.mark.parametrize("far", ["memory"], indirect=True)
@pytest.mark.parametrize("calls", [EVERY_CALL, ("read",)], ids=["wholly", "while it is read"])
@pytest.mark.parametrize("name", ["0.png", "a.dcm", "a.dcm without a suffix", "a.npz#x"])
def test_a_host_that_is_lost_is_told_from_a_damaged_image(far, losing, tmp_path, name, calls):
    pytest.importorskip("pydicom")
    from trainables.pixels import image_size, read_rgb

    dicom = write_dicom(tmp_path / "a.dcm", np.arange(48, dtype=np.uint8).reshape(6, 8)).read_bytes()
    for written in ("a.dcm", "a.dcm without a suffix"):
        (far / written).write_bytes(dicom)
    stream = io.BytesIO()
    np.savez(stream, x=np.full((2, 3, 3), 7, np.uint8))
    (far / "a.npz").write_bytes(stream.getvalue())
    losing(*calls)
    for look in (image_size, read_rgb):
        with pytest.raises(DataError, match=r"cannot be read: LostHostError: away"):
            look(far / name, 0 if "#" in name else None)


@pytest.mark.parametrize("far", ["memory"], indirect=True)
def test_a_host_that_is_lost_while_pixels_are_decoded(far, monkeypatch):
    """Pillow reads the header first and the pixels later."""
    from fsspec.implementations.memory import MemoryFile

    from trainables.pixels import image_size, read_rgb

    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 300), dtype=np.uint8)).save(stream, "PNG")
    (far / "large.png").write_bytes(stream.getvalue())
    original, left = MemoryFile.read, [1000]

    def read(self, size=-1):
        left[0] -= 1
        if left[0] < 0:
            raise LostHostError("away")
        return original(self, size)

    monkeypatch.setattr(MemoryFile, "read", read)
    assert image_size(far / "large.png") == (300, 300)
    left[0] = 1000 - left[0]  # enough for the header
    with pytest.raises(DataError, match=r"large.png cannot be read: LostHostError: away"):
        read_rgb(far / "large.png")


@pytest.mark.parametrize("far", ["memory"], indirect=True)
def test_an_import_from_a_host_that_is_lost_says_so(far, losing):
    options = ImportOptions(name="lost", split=(0.5, 0.25, 0.25))
    losing(*EVERY_CALL)
    for read, file in ((import_csv, "labels.csv"), (import_npz, "a.npz")):
        with pytest.raises(UserError, match=rf"{file} cannot be reached: LostHostError: away; are its credentials"):
            read(far / file, options)
    with pytest.raises(UserError, match="cannot be reached: LostHostError: away"):
        import_map(shipped_map("aptos2019"), far, options)


@pytest.mark.parametrize("far", ["memory"], indirect=True)
def test_a_table_whose_host_is_lost_while_it_is_read(far, losing):
    losing("_open", "open")
    with pytest.raises(UserError, match=r"labels.csv cannot be read: LostHostError: away"):
        import_csv(far / "labels.csv", ImportOptions(name="lost"))
