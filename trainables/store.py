"""Images decoded once: all images of a manifest as one memory-mapped array, shared by every process of a node.

A store is one Arrow IPC file, ``<home>/stores/<content hash>-<storage size>[-<side>].arrow``, with one uncompressed
record batch of the columns ``image_id``, ``sha256`` (of what was decoded) and ``pixels`` (fixed-size binary, RGB rows),
in the order of image ids. The name says content and transform, so a store never changes; it can be deleted at any time
and is built again. Its modification time is that of the last use.

Images are squashed to a square whatever their aspect ratio. Every image is first resized from the original to
``storage_size`` with PIL's bicubic filter; a smaller ``side`` is resized from those pixels, not from the original, with
PIL's bilinear filter. Both filters widen with the factor of reduction, so they do not alias.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image

from search_spaces.exceptions import DataError, UserError
from search_spaces.failpoints import failpoint
from search_spaces.names import Column
from trainables.library import TaskLibrary
from trainables.manifest import Manifest

FORMAT_VERSION = 1
"""Raised when pixels of a store would differ; older stores are then built anew."""

STORES = "stores"
Pixels = NDArray[np.uint8]
Progress = Callable[[int, int], None]
"""Called with the number of images done and the number of all."""

_TABLE_HASH = b"table_hash"
_SHOWN_ERRORS = 10
_CHUNK = 256
"""Images between two calls of a progress callback."""

_THREADS = max(2, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageStore:
    """The images of one manifest.

    Attributes:
        path: The Arrow file.
        array: (N, S, S, 3) uint8 RGB, read-only, memory-mapped; in the order of image ids.
        rows: (N,) row of ``array`` of each row of the manifest.
    """

    path: Path
    array: Pixels
    rows: NDArray[np.int64]

    @property
    def side(self) -> int:
        """S, in pixels."""
        return int(self.array.shape[1])

    def gather(self, positions: NDArray[np.int64]) -> Pixels:
        """Copies of the images of these rows of the manifest, (B, S, S, 3) uint8."""
        return self.array[self.rows[positions]]


def open_store(
    library: TaskLibrary,
    manifest: Manifest,
    storage_size: int,
    side: int | None = None,
    *,
    content_hash: str | None = None,
    progress: Progress | None = None,
) -> ImageStore:
    """The store of a manifest, built first if it is missing. One process builds, others wait for it.

    Args:
        library: Whose home holds the stores.
        manifest: The images.
        storage_size: Side in pixels that every image is first resized to.
        side: Side of the images of this store, at most ``storage_size``; equal to it if not given.
        content_hash: ``library.content_hash(manifest)`` if the caller knows it, which saves looking at every image.
        progress: Told about decoding.

    Raises:
        DataError: Images are missing or unreadable; lists the first ten.
        UserError: The home cannot be written to, or its disk is full.
    """
    side = side or storage_size
    if not 0 < side <= storage_size:
        raise ValueError(f"side must be from 1 to the storage size {storage_size}, got {side}")
    wanted = _Wanted(
        library=library,
        manifest=manifest,
        content_hash=content_hash or library.content_hash(manifest),
        storage_size=storage_size,
        side=side,
        progress=progress,
    )
    if not wanted.path.is_file():
        with _building(wanted.path):
            if not wanted.path.is_file():
                _build(wanted)
    return _opened(wanted.path, manifest, side)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """A store to open or to build; see ``open_store``."""

    library: TaskLibrary
    manifest: Manifest
    content_hash: str
    storage_size: int
    side: int
    progress: Progress | None

    @property
    def path(self) -> Path:
        return store_path(self.library.home, self.content_hash, self.storage_size, self.side)


def store_path(home: Path, content_hash: str, storage_size: int, side: int) -> Path:
    """Where the store of this content lies or would lie."""
    smaller = f"-{side}" if side != storage_size else ""
    return home / STORES / f"{content_hash}-{storage_size}{smaller}-v{FORMAT_VERSION}.arrow"


def is_store_of(path: Path, manifest: Manifest) -> bool:
    """Whether a store exists there and was built from this manifest's table."""
    if not path.is_file():
        return False
    try:
        metadata = pa.ipc.open_file(pa.memory_map(str(path))).schema.metadata or {}
    except (pa.ArrowException, OSError):
        return False
    return bool(metadata.get(_TABLE_HASH) == manifest.table_hash.encode())


def _opened(path: Path, manifest: Manifest, side: int) -> ImageStore:
    try:
        # The map stays open as long as the array that looks into it.
        batch = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
        ids = batch.column("image_id").to_numpy(zero_copy_only=False).astype(object)
        array = _view(batch.column("pixels"), side)
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise DataError(f"image store {path} is damaged ({error}); delete it, and it is built again") from error
    wanted = manifest.table[Column.IMAGE_ID].astype(str).to_numpy(dtype=object)
    rows = np.searchsorted(ids, wanted)
    if len(ids) != len(wanted) or not np.array_equal(ids[np.minimum(rows, len(ids) - 1)], wanted):
        raise DataError(f"image store {path} holds other images than manifest {manifest.name!r}; delete it")
    with suppress(PermissionError):  # a store that others own can be used, but not be marked as used
        os.utime(path)
    return ImageStore(path=path, array=array, rows=rows)


def _view(column: pa.FixedSizeBinaryArray, side: int) -> Pixels:
    array: Pixels = np.frombuffer(column.buffers()[1], dtype=np.uint8, count=len(column) * column.type.byte_width)
    return array.reshape(len(column), side, side, 3)


def _build(wanted: _Wanted) -> None:
    digests = wanted.library.byte_digests(wanted.manifest)
    ids = digests[Column.IMAGE_ID].astype(str).to_numpy(dtype=object)
    order = np.argsort(ids, kind="stable")
    hashes = digests["sha256"].to_numpy(dtype=object)[order]
    read = _reader(wanted, order)
    with _temporary(wanted.path) as raw, _temporary(wanted.path) as partial:
        _write_pixels(raw, read, len(ids), wanted.progress)
        described = pa.record_batch(
            [pa.array(ids[order], pa.string()), pa.array(hashes, pa.string())], names=["image_id", "sha256"]
        ).replace_schema_metadata({_TABLE_HASH: wanted.manifest.table_hash.encode()})
        _write_arrow(partial, raw, described, wanted.side)
        partial.replace(wanted.path)


def _reader(wanted: _Wanted, order: NDArray[np.int64]) -> Callable[[int], Pixels]:
    """What makes the image at a row of the new store."""
    if wanted.side == wanted.storage_size:
        pixels = wanted.manifest.pixels
        return lambda row: _resized(pixels(int(order[row])), wanted.side, Image.Resampling.BICUBIC)
    stored = open_store(
        wanted.library,
        wanted.manifest,
        wanted.storage_size,
        content_hash=wanted.content_hash,
        progress=wanted.progress,
    ).array
    return lambda row: _resized(stored[row], wanted.side, Image.Resampling.BILINEAR)


def _resized(pixels: Pixels, side: int, filter_: Image.Resampling) -> Pixels:
    if pixels.shape[:2] == (side, side):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((side, side), filter_))


def _write_pixels(raw: Path, read: Callable[[int], Pixels], images: int, progress: Progress | None) -> None:
    """Write the images one after the other, nothing else.

    Raises:
        DataError: Images cannot be read.
    """

    def attempt(row: int) -> Pixels | DataError:
        try:
            return read(row)
        except DataError as error:
            return error

    errors: list[DataError] = []
    with ThreadPoolExecutor(_THREADS) as pool, raw.open("wb") as file:
        for start in range(0, images, _CHUNK):
            stop = min(start + _CHUNK, images)
            for made in pool.map(attempt, range(start, stop)):
                if isinstance(made, DataError):
                    errors.append(made)
                else:
                    file.write(np.ascontiguousarray(made).data)
            failpoint("store.mid_build")
            if progress is not None:
                progress(stop, images)
    if errors:
        shown = [str(error) for error in errors[:_SHOWN_ERRORS]]
        if len(errors) > _SHOWN_ERRORS:
            shown.append(f"and {len(errors) - _SHOWN_ERRORS} more")
        raise DataError(f"{len(errors)} of {images} images cannot be used:\n  " + "\n  ".join(shown))


def _write_arrow(partial: Path, raw: Path, described: pa.RecordBatch, side: int) -> None:
    """One record batch, so that its pixels lie in one piece; they go from map to file without passing the heap."""
    images, width = len(described), side * side * 3
    with pa.memory_map(str(raw)) as source:
        pixels = pa.Array.from_buffers(pa.binary(width), images, [None, source.read_buffer(images * width)])
        batch = described.append_column("pixels", pixels)
        with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
            writer.write_batch(batch)


@contextmanager
def _building(path: Path) -> Iterator[None]:
    """The right to build a store, and its folder.

    Raises:
        UserError: The folder cannot be written to, or its disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            yield
    except OSError as error:
        free = shutil.disk_usage(path.parent).free / 2**30 if path.parent.is_dir() else 0
        raise UserError(
            f"image store {path} cannot be written: {error} ({free:.1f} GiB free). "
            "Set SCALECURVES_HOME to a folder with room"
        ) from error


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """A name beside ``path`` that nobody else uses; what is left under it at the end is deleted."""
    temporary = path.with_name(f"{path.stem}.{uuid.uuid4().hex[:8]}.partial")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)
