"""Images decoded once: all images of a manifest as memory-mapped shards, shared by every process of a node.

A store is a folder ``<home>/stores/<content hash>-<storage size>[-<side>]-v<format>`` with the files of
``trainables.shards`` and ``store.json``, in the order of image ids. The name says content and transform, so a store
never changes; it can be deleted at any time (``trainables.store_cache``) and is built again
(``trainables.store_build``). The modification time of ``store.json`` is that of the last use. Every shard is compared
with its checksum when it is first opened after it was written or copied.

Images are squashed to a square whatever their aspect ratio. Every image is first resized from the original to
``storage_size`` with PIL's bicubic filter; a smaller ``side`` is resized from those pixels, not from the original, with
PIL's bilinear filter. Both filters widen with the factor of reduction, so they do not alias. Masks of segmentation
tasks become one plane of labels (``trainables.mask_labels``: 0 none, k the k-th label, 255 not known) and go the same
way with the nearest pixel; those of other tasks are not stored, as the content hash does not cover them.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from search_spaces.exceptions import DataError, UserError
from search_spaces.names import Column, Kind
from trainables.library import TaskLibrary
from trainables.manifest import Manifest
from trainables.shards import INDEX_FILE, ImageStack, Layout, Pixels, Shard, open_shard
from trainables.store_build import Decoded, Progress, Recipe, build, finished_bytes
from trainables.store_cache import STORES, building_lock, damaged_shards, make_room, read_index
from trainables.store_use import StoreGoneError, StoreInUse

FORMAT_VERSION = 3
"""Raised when pixels or files of a store would differ; older stores are then built anew."""

_OPENINGS = 5
"""Tries to open a store that others delete at the same time."""

_PAUSE_S = 0.05
"""Wait before the second try; the third waits twice as long, and so on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageStore:
    """The images of one manifest.

    Attributes:
        path: The folder.
        images: (N, S, S, 3) uint8 RGB, read-only, memory-mapped; in the order of image ids.
        rows: (N,) row of ``images`` of each row of the manifest.
        masks: (N, S, S) uint8 in the same order, 0 where an image has none; None but for segmentation.
        has_mask: (N,) whether an image has a mask; None but for segmentation.
    """

    path: Path
    images: ImageStack
    rows: NDArray[np.int64]
    masks: ImageStack | None = None
    has_mask: NDArray[np.bool_] | None = None

    @property
    def side(self) -> int:
        """S, in pixels."""
        return self.images.shape[1]

    def gather(self, positions: NDArray[np.int64]) -> Pixels:
        """Copies of the images of these rows of the manifest, (B, S, S, 3) uint8."""
        return self.images[self.rows[positions]]


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
        DataError: Images are missing or unreadable (lists the first ten), or the store is damaged.
        UserError: The home cannot be written to, its disk is full, or the limit of the cache is reached.
    """
    side = side or storage_size
    if not 0 < side <= storage_size:
        raise ValueError(f"side must be from 1 to the storage size {storage_size}, got {side}")
    digests = None if content_hash else library.byte_digests(manifest)
    wanted = _Wanted(
        library=library,
        manifest=manifest,
        content_hash=content_hash or library.content_hash(manifest, digests),
        digests=digests,
        storage_size=storage_size,
        side=side,
        progress=progress,
    )
    for attempt in range(_OPENINGS):
        time.sleep(_PAUSE_S * attempt)
        if not is_store(wanted.path):
            with _building(wanted.path):
                if not is_store(wanted.path):
                    _build(wanted)
        with suppress(StoreGoneError):
            return _opened(wanted)
    raise UserError(
        f"image store {wanted.path} was deleted {_OPENINGS} times while it was opened; stop what deletes it"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wanted:
    """A store to open or to build; see ``open_store``. ``digests`` are those of its images, if known."""

    library: TaskLibrary
    manifest: Manifest
    content_hash: str
    digests: pd.DataFrame | None
    storage_size: int
    side: int
    progress: Progress | None

    @property
    def path(self) -> Path:
        return store_path(self.library.home, self.content_hash, self.storage_size, self.side)


def store_path(home: Path, content_hash: str, storage_size: int, side: int) -> Path:
    """Where the store of this content lies or would lie."""
    smaller = f"-{side}" if side != storage_size else ""
    return home / STORES / f"{content_hash}-{storage_size}{smaller}-v{FORMAT_VERSION}"


def is_store(path: Path) -> bool:
    """Whether a finished store lies there."""
    return (path / INDEX_FILE).is_file()


def is_store_of(path: Path, manifest: Manifest) -> bool:
    """Whether a store exists there and was built from this manifest's table."""
    if not is_store(path):
        return False
    try:
        return bool(read_index(path).get("table_hash") == manifest.table_hash)
    except DataError:
        return False


def _opened(wanted: _Wanted) -> ImageStore:
    path, manifest = wanted.path, wanted.manifest
    in_use = StoreInUse(path)
    damaged = damaged_shards(path, trust=True)
    if damaged:
        raise DataError(f"image store {path} is damaged ({', '.join(damaged)}); delete it, and it is built again")
    try:
        shards = [open_shard(path / name, wanted.side) for name in read_index(path)["shards"]]
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise DataError(f"image store {path} is damaged ({error}); delete it, and it is built again") from error
    ids, order = _sorted_ids(manifest)
    if not pa.chunked_array([shard.ids for shard in shards]).equals(pa.chunked_array([ids])):
        raise DataError(f"image store {path} holds other images than manifest {manifest.name!r}; delete it")
    rows = np.empty(len(order), np.int64)
    rows[order] = np.arange(len(order))
    with suppress(PermissionError):  # a store that others own can be used, but not be marked as used
        os.utime(path / INDEX_FILE)
    masks, has_mask = _masks(shards, in_use)
    images = ImageStack([shard.pixels for shard in shards], keep=in_use)
    return ImageStore(path=path, images=images, rows=rows, masks=masks, has_mask=has_mask)


def _masks(shards: list[Shard], in_use: StoreInUse) -> tuple[ImageStack | None, NDArray[np.bool_] | None]:
    parts = [shard.masks for shard in shards if shard.masks is not None]
    known = [shard.has_mask for shard in shards if shard.has_mask is not None]
    if not parts:
        return None, None
    return ImageStack(parts, keep=in_use), np.concatenate(known)


def _sorted_ids(manifest: Manifest) -> tuple[pa.Array, NDArray[np.int64]]:
    """Image ids in the order of stores, by code point, and the manifest's row of each."""
    ids = pa.array(manifest.table[Column.IMAGE_ID].astype(str), pa.string())
    order = pc.sort_indices(ids)
    return ids.take(order), order.to_numpy().astype(np.int64)


def _build(wanted: _Wanted) -> None:
    manifest = wanted.manifest
    layout = Layout(images=len(manifest), side=wanted.side, masks=manifest.kind is Kind.SEGMENTATION)
    decoded = None
    if wanted.side != wanted.storage_size:
        larger = open_store(
            wanted.library,
            manifest,
            wanted.storage_size,
            content_hash=wanted.content_hash,
            progress=wanted.progress,
        )
        decoded = Decoded(images=larger.images, masks=larger.masks, has_mask=larger.has_mask)
    digests = wanted.library.byte_digests(manifest) if wanted.digests is None else wanted.digests
    _, order = _sorted_ids(manifest)
    hashes = digests["sha256"].to_numpy(dtype=object)[order]
    recipe = Recipe(manifest=manifest, order=order, hashes=hashes, layout=layout, decoded=decoded)
    make_room(wanted.library.home, wanted.path, layout.size_bytes, finished_bytes(wanted.path))
    facts = {"table_hash": manifest.table_hash, "content_hash": wanted.content_hash}
    build(wanted.path, recipe, facts, int(digests["size"].sum()), wanted.progress)
    with suppress(StoreGoneError):
        in_use = StoreInUse(wanted.path)
        damaged_shards(wanted.path, trust=True)  # now, so that those who wait for the store need not look
        del in_use


@contextmanager
def _building(path: Path) -> Iterator[None]:
    """The right to build a store, and its folder.

    Raises:
        UserError: The folder cannot be written to, or its disk is full.
    """
    try:
        with building_lock(path):
            yield
    except OSError as error:
        free = shutil.disk_usage(path.parent).free / 2**30 if path.parent.is_dir() else 0
        raise UserError(
            f"image store {path} cannot be written: {error} ({free:.1f} GiB free). What is finished is kept for the "
            "next attempt. Make room, or set SCALECURVES_HOME to a folder with more"
        ) from error
