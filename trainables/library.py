"""The imported tasks of one home folder, and the hashes of their images."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from search_spaces.exceptions import DataError, UserError, unknown
from search_spaces.identity import TaskCard
from search_spaces.names import Column, Kind
from trainables.manifest import MANIFEST_FILE, MASK_COLUMNS, Manifest, write_parquet
from trainables.mask_labels import PLANE_RULE
from trainables.pixels import FRAME_SEPARATOR, is_npz_frame, read_frames, split_npz
from trainables.places import each_read, os_errors, stamp

if TYPE_CHECKING:
    from trainables.places import Place

IMPORT_HINT = "Import one with: python -m orchestrator.tasks import csv|folder|npz|DATA_SET PATH --name NAME"
_TASKS = "tasks"
_BYTES_FILE = "bytes.parquet"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_KEY = ["file", "frame", "size", "mtime_ns"]


class TaskLibrary:
    """Manifests by name, one folder each under ``<home>/tasks``.

    Args:
        home: Folder of imported tasks; need not exist yet.
    """

    def __init__(self, home: Path) -> None:
        self.home = home

    def names(self) -> tuple[str, ...]:
        """Names of all imported tasks, sorted."""
        return tuple(sorted(p.parent.name for p in (self.home / _TASKS).glob(f"*/{MANIFEST_FILE}")))

    def folder(self, name: str) -> Path:
        """Folder of the task of that name, whether it exists or not.

        Raises:
            UserError: Not a name.
        """
        if not _NAME.fullmatch(name):
            raise UserError(f"task name {name!r}: letters, digits, '_', '-' and '.' only, not starting with a sign")
        return self.home / _TASKS / name

    def load(self, name: str) -> Manifest:
        """The manifest of that name, or in that folder.

        Raises:
            UserError: No such task, or its manifest has another schema version.
            DataError: The manifest is damaged.
        """
        if _NAME.fullmatch(name) and (self.folder(name) / MANIFEST_FILE).is_file():
            return Manifest.read(self.folder(name))
        if os.sep in name or (Path(name) / MANIFEST_FILE).is_file():
            return Manifest.read(Path(name).expanduser())
        raise UserError(f"{unknown('task', name, self.names(), str(self.home / _TASKS))} {_how_to_import(name)}")

    def save(self, manifest: Manifest, overwrite: bool = False) -> Manifest:
        """Write a manifest under its name; the same content again is no change.

        A manifest that replaces another keeps its hash key, so that patients in old and new results match.

        Returns:
            The manifest as saved.

        Raises:
            UserError: Another manifest of that name exists and ``overwrite`` is not set, or the home is not writable.
        """
        folder = self.folder(manifest.name)
        if (folder / MANIFEST_FILE).is_file():
            old = _read_or_none(folder) if overwrite else Manifest.read(folder)
            if not overwrite and old is not None and not _same(old, manifest):
                raise UserError(f"task {manifest.name!r} exists with other content; --overwrite replaces it")
            if old is not None:
                manifest = manifest.with_hash_key(old.hash_key)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{folder} cannot be made: {error}; set SCALECURVES_HOME to a writable folder") from error
        manifest.write(folder)
        return manifest

    def byte_digests(self, manifest: Manifest) -> pd.DataFrame:
        """Hash of every image's bytes, computed once and remembered until size or time of the file changes.

        Returns:
            Columns ``image_id``, ``sha256`` (64 hexadecimal digits; of the file's bytes, or of an npz frame's values
            with shape and type) and ``size`` (bytes of the file), in the manifest's order.

        Raises:
            DataError: Images are missing; names the first with its row and counts them.
        """
        wanted = _stat_images(manifest)
        cache = self._cached_digests(manifest.name)
        known = wanted.merge(cache, on=_KEY, how="left") if cache is not None else wanted.assign(sha256=None)
        todo = np.flatnonzero(known["sha256"].isna())
        if len(todo):
            fresh = _sha256s(manifest, todo.tolist())
            known["sha256"] = (
                known["sha256"].astype(object).where(known["sha256"].notna(), pd.Series(fresh, index=todo))
            )
            self._remember(manifest.name, known)
        return pd.DataFrame(
            {
                "image_id": manifest.table[Column.IMAGE_ID],
                "sha256": known["sha256"].astype("str"),
                "size": known["size"],
            }
        )

    def content_hash(self, manifest: Manifest, digests: pd.DataFrame | None = None) -> str:
        """32 hexadecimal digits that stand for the table and every image's bytes.

        sha256 over ``table_hash`` and the sorted lines ``image_id sha256``; masks count where they are the label, and
        with them how they are stored.

        Args:
            manifest: The images.
            digests: ``byte_digests`` of it, if the caller has them.

        Raises:
            DataError: Images are missing.
        """
        digests = self.byte_digests(manifest) if digests is None else digests
        lines = [f"{i} {s}" for i, s in zip(digests[Column.IMAGE_ID], digests["sha256"], strict=True)]
        if manifest.kind is Kind.SEGMENTATION:
            lines += [PLANE_RULE, *_mask_lines(manifest)]
        return hashlib.sha256("\n".join([manifest.table_hash, *sorted(lines)]).encode()).hexdigest()[:32]

    def card(self, name: str) -> TaskCard:
        """The facts about a task that a trial's identity needs.

        Raises:
            UserError: No such task.
            DataError: Images are missing.
        """
        manifest = self.load(name)
        return TaskCard(
            manifest_hash=self.content_hash(manifest),
            kind=manifest.kind.value,
            labels=tuple(manifest.labels),
            importer=manifest.importer,
            archives=_archives(manifest),
            image_area=_image_area(manifest),
        )

    def _cached_digests(self, name: str) -> pd.DataFrame | None:
        file = self.folder(name) / _BYTES_FILE
        try:
            cache: pd.DataFrame = pq.read_table(file).to_pandas()
            return cache[[*_KEY, "sha256"]].drop_duplicates(_KEY)
        except (FileNotFoundError, pa.ArrowException, KeyError):
            return None  # a lost or damaged cache is computed anew

    def _remember(self, name: str, digests: pd.DataFrame) -> None:
        file = self.folder(name) / _BYTES_FILE
        file.parent.mkdir(parents=True, exist_ok=True)
        write_parquet(pa.Table.from_pandas(digests[[*_KEY, "sha256"]], preserve_index=False), file)


def _how_to_import(name: str) -> str:
    from trainables.importers.catalogue import import_hint

    return import_hint(name) or IMPORT_HINT


def _read_or_none(folder: Path) -> Manifest | None:
    """An unreadable manifest must not stand in the way of the import that replaces it."""
    try:
        return Manifest.read(folder)
    except (DataError, UserError):
        return None


def _image_area(manifest: Manifest) -> float | None:
    """Median of width times height over the images whose size is recorded; None if none is."""
    if Column.WIDTH not in manifest.table or Column.HEIGHT not in manifest.table:
        return None
    areas = (manifest.table[Column.WIDTH] * manifest.table[Column.HEIGHT]).dropna()
    return float(areas.astype("float64").median()) if len(areas) else None


def _archives(manifest: Manifest) -> tuple[str, ...]:
    """Names without suffix of the npz files of a manifest, sorted."""
    if Column.FRAME not in manifest.table:
        return ()
    paths = [PurePosixPath(path) for path in manifest.table[Column.PATH].unique()]
    arrays = (str(path).rpartition(FRAME_SEPARATOR) for path in paths if is_npz_frame(path, 0))
    return tuple(sorted({PurePosixPath(file).stem for file, separator, _ in arrays if separator}))


def _same(old: Manifest, new: Manifest) -> bool:
    return old.table_hash == new.table_hash


def _stat_images(manifest: Manifest) -> pd.DataFrame:
    """File (with its array), frame (-1 for none), size in bytes and modification time of every image.

    Raises:
        DataError: Images are missing.
    """
    sources = manifest.sources(range(len(manifest)))
    files = _containers(sources)
    unique = list(dict.fromkeys(files))
    stats = dict(zip(unique, each_read(stamp, unique), strict=True))
    missing = [row for row, file in enumerate(files) if stats[file] is None]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(files)} images of task {manifest.name!r} are missing, the first: "
            f"{files[missing[0]]} (row {missing[0]}); root is {manifest.root}"
        )
    found = [stats[file] or (0, 0) for file in files]
    return pd.DataFrame(
        {
            # With the name of the array: frames of several arrays of one npz have the same numbers.
            "file": pd.Series([str(file) for file, _ in sources], dtype="str"),
            "frame": np.asarray([-1 if frame is None else frame for _, frame in sources], dtype=np.int64),
            "size": np.asarray([size for size, _ in found], dtype=np.int64),
            "mtime_ns": np.asarray([mtime for _, mtime in found], dtype=np.int64),
        }
    )


def _containers(sources: Sequence[tuple[Place, int | None]]) -> list[Place]:
    """The file of each source; of npz frames without the array's name."""
    arrays = {file for file, frame in sources if is_npz_frame(file, frame)}
    known = {file: split_npz(file)[0] for file in arrays}
    return [file if frame is None else known.get(file, file) for file, frame in sources]


def _sha256s(manifest: Manifest, rows: Sequence[int]) -> list[str]:
    """Of the bytes of these rows' images; a file of several frames is looked at and read once."""
    plain: list[tuple[int, Place]] = []
    paged: dict[Place, list[tuple[int, int]]] = {}  # frame of a DICOM file or page: what the file says of it counts
    framed: dict[Place, list[tuple[int, int]]] = {}
    for row, (file, frame) in zip(rows, manifest.sources(rows), strict=True):
        if frame is None:
            plain.append((row, file))
        else:
            (framed if is_npz_frame(file, frame) else paged).setdefault(file, []).append((row, frame))
    found = dict(zip((row for row, _ in plain), each_read(_file_sha256, plain), strict=True))
    wholes = each_read(_file_sha256, [(of_file[0][0], file) for file, of_file in paged.items()])
    for whole, of_file in zip(wholes, paged.values(), strict=True):
        found.update((row, _text_sha256(f"{whole} frame {frame}")) for row, frame in of_file)
    for array, of_array in framed.items():
        frames = read_frames(array, [frame for _, frame in of_array])
        found.update(zip((row for row, _ in of_array), each_read(_array_sha256, frames), strict=True))
    return [found[row] for row in rows]


def _text_sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _array_sha256(values: npt.NDArray[np.generic]) -> str:
    head = f"{values.shape} {values.dtype.str}".encode()
    return hashlib.sha256(head + np.ascontiguousarray(values).tobytes()).hexdigest()


def _file_sha256(of_row: tuple[int, Place]) -> str:
    row, file = of_row
    try:
        with os_errors(file), file.open("rb") as stream:
            readable: Any = stream  # of fsspec, too: it has readinto
            return hashlib.file_digest(readable, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{file} (row {row}) cannot be read: {error}") from error


def _mask_lines(manifest: Manifest) -> list[str]:
    lines: list[str] = []
    for column in (c for c in MASK_COLUMNS if c in manifest.table):
        files = [(row, file) for row in range(len(manifest)) if (file := manifest.mask_file(row, column)) is not None]
        digests = each_read(_file_sha256, files)
        ids = manifest.table[Column.IMAGE_ID]
        lines += [f"{ids.iat[row]} {column} {d}" for (row, _), d in zip(files, digests, strict=True)]
    return lines
