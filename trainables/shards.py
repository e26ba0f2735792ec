"""Files of an image store: shards of decoded images, their checksums, and all of them seen as one array.

A shard is an Arrow IPC file with one uncompressed record batch of the columns ``image_id``, ``sha256`` (of the bytes
that were decoded), ``pixels`` (fixed-size binary, RGB rows) and, of segmentation tasks, ``mask`` (fixed-size binary,
null where an image has none). Its name is its number and the CRC-32 of its bytes, ``00003-1a2b3c4d.arrow``: a shard
that has its name is finished, and whoever holds it can tell whether it is whole.
"""

from __future__ import annotations

import os
import re
import uuid
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]

INDEX_FILE = "store.json"
"""What makes a folder of shards a store; written last."""

BUILDING = ".building"
"""Ending of the folder of an unfinished store."""

LEAST_ROWS = 64
"""Images of a shard, unless a store has fewer."""

MOST_SHARDS = 64
"""Files of a store, which are all opened at once, unless shards would then exceed ``MOST_BYTES``."""

MOST_BYTES = 2**30
"""Pixels of a shard: what a build that is killed may lose per process."""

_NAME = re.compile(r"(\d{5,})-([0-9a-f]{8})\.arrow")
_PARTIAL = ".partial"
_READ_BYTES = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How the images of a store are cut into shards. A function of the store's content alone.

    Attributes:
        images: Number of images.
        side: Side S of the stored squares in pixels.
        masks: Whether masks are stored beside the images.
    """

    images: int
    side: int
    masks: bool = False

    @property
    def bytes_per_image(self) -> int:
        """Of pixels and mask."""
        return self.side * self.side * (4 if self.masks else 3)

    @property
    def size_bytes(self) -> int:
        """Of all images; ids and headers come on top."""
        return self.images * self.bytes_per_image

    @property
    def rows(self) -> int:
        """Images of every shard but the last."""
        even = max(LEAST_ROWS, -(-self.images // MOST_SHARDS))
        return min(even, max(1, MOST_BYTES // self.bytes_per_image))

    def spans(self) -> list[tuple[int, int]]:
        """First row, and row after the last, of every shard."""
        return [(start, min(start + self.rows, self.images)) for start in range(0, max(1, self.images), self.rows)]


def shard_name(number: int, checksum: int) -> str:
    """File name of a shard."""
    return f"{number:05d}-{checksum:08x}.arrow"


def shards_in(folder: Path) -> dict[int, Path]:
    """Finished shards of a folder by number; they may be damaged, see ``is_whole``."""
    found = {}
    for path in sorted(folder.iterdir()):
        matched = _NAME.fullmatch(path.name)
        if matched:
            found[int(matched[1])] = path
    return found


def is_whole(path: Path) -> bool:
    """Whether a shard's bytes are those that were written; reads all of them."""
    matched = _NAME.fullmatch(path.name)
    return matched is not None and checksum(path) == int(matched[2], 16)


def checksum(path: Path) -> int:
    """CRC-32 of a file's bytes."""
    value = 0
    with path.open("rb") as file:
        while piece := file.read(_READ_BYTES):
            value = zlib.crc32(piece, value)
    return value


def remove_partial(folder: Path) -> None:
    """Delete what a build that was killed left half-written."""
    for path in folder.glob(f"*{_PARTIAL}"):
        path.unlink(missing_ok=True)


@contextmanager
def temporary(folder: Path) -> Iterator[Path]:
    """A name in ``folder`` that nobody else uses; what is left under it at the end is deleted."""
    path = folder / f"{uuid.uuid4().hex}{_PARTIAL}"
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def write_shard(
    folder: Path,
    number: int,
    described: pa.RecordBatch,
    samples: Iterable[tuple[Pixels, Pixels | None]],
    layout: Layout,
) -> Path:
    """Write one shard under a temporary name, then give it its own; ``on_disk`` waits for the disk.

    Args:
        folder: Where; exists.
        number: Of the shard.
        described: The columns before ``pixels``, one row per image.
        samples: As many images (S, S, 3) with their masks (S, S).
        layout: Of the store.

    Raises:
        OSError: The disk is full or fails. Nothing has the shard's name then.
    """
    with temporary(folder) as pixels, temporary(folder) as masks, temporary(folder) as partial:
        known = []
        with pixels.open("wb") as pixel_file, masks.open("wb") as mask_file:
            for image, mask in samples:
                pixel_file.write(np.ascontiguousarray(image).data)
                if layout.masks:
                    known.append(mask is not None)
                    blank = np.zeros((layout.side, layout.side), np.uint8)
                    mask_file.write(np.ascontiguousarray(blank if mask is None else mask).data)
        _write_arrow(partial, described, pixels, masks if layout.masks else None, known, layout.side)
        return partial.replace(folder / shard_name(number, checksum(partial)))


def on_disk(shard: Path) -> None:
    """Wait until a shard is on the disk.

    Raises:
        OSError: The disk is full or fails. The shard is deleted then: its bytes can still be read, until they are not.
    """
    try:
        with shard.open("rb") as file:
            os.fsync(file.fileno())
    except OSError:
        shard.unlink(missing_ok=True)
        raise


def _write_arrow(
    path: Path, described: pa.RecordBatch, pixels: Path, masks: Path | None, known: Sequence[bool], side: int
) -> None:
    """One record batch, so that its pixels lie in one piece; they go from map to file without passing the heap."""
    images = len(described)
    with pa.memory_map(str(pixels)) as source:
        batch = described.append_column("pixels", _column(source, images, side * side * 3, None))
        if masks is None:
            _write_batch(path, batch)
            return
        with pa.memory_map(str(masks)) as mask_source:
            packed = pa.py_buffer(np.packbits(np.asarray(known, dtype=bool), bitorder="little").tobytes())
            _write_batch(path, batch.append_column("mask", _column(mask_source, images, side * side, packed)))


def _column(source: pa.MemoryMappedFile, images: int, width: int, known: pa.Buffer | None) -> pa.Array:
    return pa.Array.from_buffers(pa.binary(width), images, [known, source.read_buffer(images * width)])


def _write_batch(path: Path, batch: pa.RecordBatch) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One open shard; its arrays look into the memory-mapped file.

    Attributes:
        ids: (n,) image ids.
        pixels: (n, S, S, 3) uint8, read-only.
        masks: (n, S, S) uint8, read-only; None without masks.
        has_mask: (n,) whether an image has one; None without masks.
    """

    ids: pa.Array
    pixels: Pixels
    masks: Pixels | None
    has_mask: NDArray[np.bool_] | None


def open_shard(path: Path, side: int) -> Shard:
    """Map a shard.

    Raises:
        pa.ArrowException: The file is no shard.
        OSError: It cannot be read.
        KeyError, ValueError: It is another kind of shard.
    """
    # The map stays open as long as an array looks into it.
    batch = pa.ipc.open_file(pa.memory_map(str(path))).get_batch(0)
    if "mask" not in batch.schema.names:
        return Shard(ids=batch.column("image_id"), pixels=_view(batch, "pixels", side, 3), masks=None, has_mask=None)
    return Shard(
        ids=batch.column("image_id"),
        pixels=_view(batch, "pixels", side, 3),
        masks=_view(batch, "mask", side),
        has_mask=batch.column("mask").is_valid().to_numpy(zero_copy_only=False),
    )


def _view(batch: pa.RecordBatch, name: str, side: int, *channels: int) -> Pixels:
    column = batch.column(name)
    bytes_ = len(column) * column.type.byte_width
    array: Pixels = np.frombuffer(column.buffers()[1], dtype=np.uint8, count=bytes_)
    return array.reshape(len(column), side, side, *channels)


class ImageStack:
    """The images of several shards in a row, read like one array; nothing is copied before it is asked for.

    Args:
        parts: Read-only arrays (n, ...) with the same number of rows but for the last.
        keep: What must live as long as the images are used.
    """

    def __init__(self, parts: Sequence[Pixels], keep: object = None) -> None:
        self.parts, self._keep = tuple(parts), keep
        self._rows = len(self.parts[0])
        self.shape: tuple[int, ...] = (sum(map(len, self.parts)), *self.parts[0].shape[1:])

    dtype = np.dtype(np.uint8)

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        """Of all images."""
        return sum(part.nbytes for part in self.parts)

    def __getitem__(self, rows: SupportsIndex | slice | NDArray[Any]) -> Pixels:
        """One image, or copies of several: by slice, positions or (N,) booleans.

        Raises:
            IndexError: A row that is not there.
        """
        if len(self.parts) == 1:
            only: Pixels = self.parts[0][rows]
            return only.copy() if isinstance(rows, slice) else only
        if isinstance(rows, SupportsIndex) and not isinstance(rows, np.ndarray):
            row = range(len(self))[rows]
            single: Pixels = self.parts[row // self._rows][row % self._rows]
            return single
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(len(self)))
        index = np.asarray(rows)
        index = np.flatnonzero(index) if index.dtype == bool else index
        return self.read(index, np.empty((len(index), *self.shape[1:]), np.uint8))

    def read(self, rows: NDArray[Any], out: Pixels) -> Pixels:
        """Copy the images of these rows to ``out`` and return it.

        Args:
            rows: (B,), from 0; negative ones count from the end.
            out: (B, ...) uint8, contiguous.

        Raises:
            IndexError: A row that is not there.
        """
        rows = self._checked(rows)
        if len(self.parts) == 1:
            # mode="raise" would copy to a buffer first; the bounds have been looked at.
            return np.take(self.parts[0], rows, axis=0, out=out, mode="clip")
        if len(rows):
            # Random rows lie in nearly as many shards as there are rows: taking them shard by shard, then putting them
            # back in order, would copy everything twice.
            shards, inside = divmod(rows, self._rows)
            images = [self.parts[k][row] for k, row in zip(shards.tolist(), inside.tolist(), strict=True)]
            np.concatenate(images, out=out.reshape(-1, *out.shape[2:]))
        return out

    def _checked(self, rows: NDArray[Any]) -> NDArray[Any]:
        if not len(rows):
            return rows.astype(np.int64, copy=False)
        first, last = rows.min(), rows.max()
        if first < -len(self) or last >= len(self):
            raise IndexError(f"rows from {first} to {last} asked for, there are {len(self)} images")
        return np.where(rows < 0, rows + len(self), rows) if first < 0 else rows

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """All images as one array, which is a copy if there are several shards."""
        whole = self.parts[0] if len(self.parts) == 1 and not copy else np.concatenate(self.parts)
        return whole if dtype is None else whole.astype(dtype, copy=False)
