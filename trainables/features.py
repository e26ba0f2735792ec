"""Features of a fixed network, computed once for all amounts, seeds and regularisations that use them.

A feature store is a folder ``<home>/stores/<content hash>-features-<key>-v<format>`` beside the image stores, with
files of the same kind (``trainables.shards``), so that it is listed, checked, evicted and kept while in use like them
(``trainables.store_cache``). It holds the features of the images of one data set that a task trains, selects or is
scored on; a set from another data set has its own. One process computes it, others wait.

The key is a hash of all that features follow from: scale and source as in the identity of a trial (the hash of the
weight file among them), the init seed and the number of outputs where weights are drawn, the image store (its name says
content and size), its rows, the crop, and the versions of what computes.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from search_spaces.exceptions import DataError, UserError
from search_spaces.identity import canonical, draws_weights, scale_identity, source_identity
from search_spaces.trial import ResolvedTrial
from trainables.shards import BUILDING, INDEX_FILE, checksum, shard_name, temporary
from trainables.store_cache import (
    STORES,
    building_lock,
    cached_stores,
    damaged_shards,
    delete_store,
    make_room,
    read_index,
)
from trainables.store_use import StoreGoneError, StoreInUse

FORMAT_VERSION = 1
"""Raised when features or files of a store would differ."""

Features = NDArray[np.float32]
_PACKAGES = ("torch", "torchvision", "timm")
_OPENINGS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureStore:
    """The features of images of one image store.

    Attributes:
        path: The folder.
        positions: (N,) rows of the image store, ascending.
        features: (N, D) float32, read-only, memory-mapped.
        facts: What was kept beside them when they were computed.
        in_use: Keeps the store from being deleted.
    """

    path: Path
    positions: NDArray[np.int64]
    features: Features
    facts: dict[str, Any]
    in_use: StoreInUse

    def of(self, positions: NDArray[np.int64]) -> Features:
        """Copies of the features of these rows of the image store, (n, D)."""
        found: Features = self.features[np.searchsorted(self.positions, positions)]
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Features that a trial needs.

    Attributes:
        home: Whose stores.
        images: Name of the image store's folder.
        positions: (N,) rows of it, ascending.
        key: What they follow from, as canonical JSON.
    """

    home: Path
    images: str
    positions: NDArray[np.int64]
    key: str

    @property
    def path(self) -> Path:
        """Where the store lies or would lie."""
        digest = hashlib.sha256(self.key.encode()).hexdigest()[:32]
        return self.home / STORES / f"{self.images.partition('-')[0]}-features-{digest}-v{FORMAT_VERSION}"


def wanted_features(trial: ResolvedTrial, home: Path, images: str, positions: Iterable[NDArray[np.int64]]) -> Wanted:
    """What a trial needs of one image store.

    Args:
        trial: Its scale, source, seed, number of labels and crop count.
        home: Whose stores.
        images: Name of the image store's folder.
        positions: Rows of it, in any order and number of parts.
    """
    rows = np.unique(np.concatenate(list(positions)))
    key = {
        "scale": scale_identity(trial.scale),
        "source": source_identity(trial.source),
        "drawn": _drawn(trial) if draws_weights(trial.source) else None,
        "images": images,
        "rows": hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest(),
        "crop": trial.protocol.evaluation_crop,
        "code": _code(),
    }
    return Wanted(home=home, images=images, positions=rows, key=canonical(key))


def _drawn(trial: ResolvedTrial) -> dict[str, int]:
    """What drawn weights follow from: a network may draw those of its head before others."""
    return {"seed": trial.seed.init, "outputs": len(trial.task.labels)}


@cache
def _code() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in _PACKAGES}


def open_features(wanted: Wanted) -> FeatureStore | None:
    """The store if it is there and whole; one that is damaged is deleted.

    Raises:
        UserError: It is damaged and cannot be deleted.
    """
    try:
        in_use = StoreInUse(wanted.path)
    except StoreGoneError:
        return None
    try:
        if not damaged_shards(wanted.path, trust=True):
            return _opened(wanted, in_use)
    except (DataError, pa.ArrowException, OSError, KeyError, ValueError):
        pass  # damaged, too
    del in_use
    _delete(wanted)
    return None


def _delete(wanted: Wanted) -> None:
    for store in cached_stores(wanted.home):
        if store.path == wanted.path and not delete_store(store):
            raise UserError(f"feature store {wanted.path} is damaged and in use; end what uses it and run again")


def _opened(wanted: Wanted, in_use: StoreInUse) -> FeatureStore:
    index = read_index(wanted.path)
    (name,) = index["shards"]
    batch = pa.ipc.open_file(pa.memory_map(str(wanted.path / name))).get_batch(0)
    column = batch.column("features")
    if index["key"] != wanted.key or len(column) != len(wanted.positions):
        raise DataError(f"feature store {wanted.path} holds other features")
    width = column.type.byte_width // 4
    features = np.frombuffer(column.buffers()[1], np.float32, len(column) * width).reshape(len(column), width)
    with suppress(PermissionError):
        os.utime(wanted.path / INDEX_FILE)
    return FeatureStore(
        path=wanted.path, positions=wanted.positions, features=features, facts=index["facts"], in_use=in_use
    )


def built_features(wanted: Wanted, compute: Callable[[], tuple[Features, dict[str, Any]]]) -> FeatureStore:
    """The store, computed first if it is missing or damaged. One process computes, others wait for it.

    Args:
        wanted: Which one.
        compute: Gives the features (N, D) of the rows, and facts that are kept beside them as JSON.

    Raises:
        UserError: The home cannot be written to, its disk is full, or the limit of the cache is reached.
    """
    for _ in range(_OPENINGS):
        if (found := open_features(wanted)) is not None:
            return found
        with building_lock(wanted.path):
            if (found := open_features(wanted)) is not None:
                return found
            _write(wanted, *compute())
            if (found := open_features(wanted)) is not None:
                return found
    raise UserError(
        f"feature store {wanted.path} was deleted {_OPENINGS} times while it was opened; stop what deletes it"
    )


def _write(wanted: Wanted, features: Features, facts: dict[str, Any]) -> None:
    """Under a name of its own until it is whole; what a build that was killed left is replaced."""
    path, folder = wanted.path, wanted.path.with_name(wanted.path.name + BUILDING)
    features = np.ascontiguousarray(features, np.float32)
    make_room(wanted.home, path, features.nbytes)
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        with temporary(folder) as partial:
            _write_shard(partial, features)
            shard = partial.replace(folder / shard_name(0, checksum(partial)))
        index = {"shards": [shard.name], "key": wanted.key, "facts": facts}
        with (folder / INDEX_FILE).open("w", encoding="utf-8") as file:
            json.dump(index, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        folder.rename(path)
    except OSError as error:
        raise UserError(
            f"feature store {path} cannot be written: {error}. Make room, or set SCALECURVES_HOME to a folder with more"
        ) from error


def _write_shard(path: Path, features: Features) -> None:
    rows, width = features.shape
    column = pa.Array.from_buffers(pa.binary(4 * width), rows, [None, pa.py_buffer(features)])
    batch = pa.record_batch([column], names=["features"])
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    with path.open("rb") as file:
        os.fsync(file.fileno())
