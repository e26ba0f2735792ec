"""Remembered hashes of images, and the near copies that two sets of images share.

``tasks check`` reads every image and remembers its hash beside the manifest, under the hash of its bytes and the number
of the rule by which they are read, so nothing that is remembered can be stale. Plans look for near copies where all
hashes are remembered, and read only the few pairs that need a second look.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from trainables.library import TaskLibrary
from trainables.manifest import Manifest, write_parquet
from trainables.similar_images import LEAST_CORRELATION, Hashes, close_pairs, correlation

_RULE = 2
"""Raised when a file's bytes are decoded to other pixels than before, or hashed otherwise."""

_HASHES_FILE = f"hashes-{_RULE}.parquet"
_PAIRS_FILE = f"near_copies-{_RULE}.parquet"
_THREADS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageHashes:
    """Hashes of a manifest's images.

    Attributes:
        sha256: Of the bytes, shape (rows,).
        hashes: See ``trainables.similar_images``, shape (rows,).
        plain: Images too plain to be compared, shape (rows,).
    """

    sha256: NDArray[np.object_]
    hashes: Hashes
    plain: NDArray[np.bool_]


def remember_hashes(library: TaskLibrary, manifest: Manifest, hashes: Hashes, plain: NDArray[np.bool_]) -> ImageHashes:
    """Keep the hashes of all images of a manifest, which are given in the order of its rows."""
    sha256 = library.byte_digests(manifest)["sha256"].to_numpy(dtype=object)
    frame = pd.DataFrame({"sha256": sha256.astype(str), "hash": hashes, "plain": plain}).drop_duplicates("sha256")
    file = library.folder(manifest.name) / _HASHES_FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    write_parquet(pa.Table.from_pandas(frame, preserve_index=False), file)
    return ImageHashes(sha256=sha256, hashes=hashes, plain=plain)


def remembered_hashes(library: TaskLibrary, manifest: Manifest) -> ImageHashes | None:
    """The hashes of a manifest's images; None if one is not known. Reads no image."""
    try:
        known = pq.read_table(library.folder(manifest.name) / _HASHES_FILE).to_pandas().set_index("sha256")
        columns = known[["hash", "plain"]]
    except (FileNotFoundError, pa.ArrowException, KeyError):
        return None
    sha256 = library.byte_digests(manifest)["sha256"].to_numpy(dtype=object)
    rows = columns.index.get_indexer(pd.Index(sha256))
    if (rows < 0).any():
        return None
    return ImageHashes(
        sha256=sha256,
        hashes=columns["hash"].to_numpy(dtype=np.uint64)[rows],
        plain=columns["plain"].to_numpy(dtype=bool)[rows],
    )


@dataclass(frozen=True, slots=True)
class Side:
    """Some images of a manifest, with the hashes of all of them."""

    manifest: Manifest
    known: ImageHashes
    rows: NDArray[np.int64]


def near_copies(library: TaskLibrary, one: Side, other: Side) -> pd.DataFrame:
    """Pairs of images of two sets that are copies or near copies of each other.

    Args:
        library: Remembers the second looks.
        one: A set.
        other: Another, of the same or another manifest.

    Returns:
        Columns ``row`` (in the manifest of ``one``), ``other_row``, ``identical`` (equal bytes) and ``correlation``.

    Raises:
        DataError: An image that needs a second look cannot be read.
    """
    a, b = one.rows[~one.known.plain[one.rows]], other.rows[~other.known.plain[other.rows]]
    pairs = close_pairs(one.known.hashes[a], other.known.hashes[b])
    left, right = a[pairs[:, 0]], b[pairs[:, 1]]
    apart = (left != right) | (one.manifest.key != other.manifest.key)
    left, right = left[apart], right[apart]
    keys = [_key(x, y) for x, y in zip(one.known.sha256[left], other.known.sha256[right], strict=True)]
    looks = _Looks(library.home)
    looks.add(keys, left, right, one.manifest, other.manifest)
    found = pd.DataFrame(
        {
            "row": left,
            "other_row": right,
            "identical": np.array([x == y for x, y in keys], dtype=bool),
            "correlation": np.array([looks.known[key] for key in keys], dtype=float),
        }
    )
    return found[found["identical"] | (found["correlation"] >= LEAST_CORRELATION)].reset_index(drop=True)


class _Looks:
    """Correlations of pairs, by the hashes of their bytes; kept in the home's cache."""

    def __init__(self, home: Path) -> None:
        self._file = home / "cache" / _PAIRS_FILE
        try:
            table = pq.read_table(self._file).to_pandas()
            pairs = zip(table["one"], table["other"], strict=True)
            self.known: dict[tuple[str, str], float] = dict(zip(pairs, table["correlation"], strict=True))
        except (FileNotFoundError, pa.ArrowException, KeyError):
            self.known = {}

    def add(
        self,
        keys: Sequence[tuple[str, str]],
        left: NDArray[Any],
        right: NDArray[Any],
        one: Manifest,
        other: Manifest,
    ) -> None:
        """Look at the pairs that are not known, and remember them."""
        self.known |= {key: 1.0 for key in keys if key[0] == key[1]}
        todo = {key: i for i, key in enumerate(keys) if key not in self.known}
        if not todo:
            return

        def look(i: int) -> float:
            return correlation(one.pixels(int(left[i])), other.pixels(int(right[i])))

        with ThreadPoolExecutor(_THREADS) as pool:
            self.known |= dict(zip(todo, pool.map(look, todo.values()), strict=True))
        kept = {key: value for key, value in self.known.items() if key[0] != key[1]}
        table = pa.table(
            {
                "one": [one for one, _ in kept],
                "other": [other for _, other in kept],
                "correlation": list(kept.values()),
            }
        )
        self._file.parent.mkdir(parents=True, exist_ok=True)
        write_parquet(table, self._file)


def _key(one: str, other: str) -> tuple[str, str]:
    return (one, other) if one <= other else (other, one)
