"""The table of a task: one row per image with its labels, patient, split and groups; one Parquet file.

docs/formats.md lists the columns. Images stay where they are; the manifest knows their folder (``root``).
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from search_spaces.exceptions import DataError, UserError
from search_spaces.names import MISSING_CLASS, SCHEMA_VERSION, Column, Kind, Split
from trainables.dicom import Window
from trainables.pixels import Colour, read_image, read_mask
from trainables.places import is_folder, is_remote, place
from trainables.rows import UNKNOWN as UNKNOWN
from trainables.rows import age_band as age_band
from trainables.rows import group_column as group_column
from trainables.rows import group_names as group_names
from trainables.rows import texts
from trainables.rows import where_mask as where_mask
from trainables.written_whole import written_whole

if TYPE_CHECKING:
    from PIL import Image

    from trainables.places import Place

# Arrow's own allocator keeps about 20 MB in every process that has read a manifest of 2,000 rows and its digests.
pa.set_memory_pool(pa.system_memory_pool())

MANIFEST_FILE = "manifest.parquet"
MASK_COLUMNS = (Column.MASK, Column.MASK_SECOND, Column.VALID_AREA)
"""Columns that name mask files, under ``mask_root``."""

CLASS_KINDS = frozenset({Kind.MULTICLASS, Kind.ORDINAL})
"""Kinds whose labels are the classes of one column ``y``; the others have a column per label."""

_METADATA_KEY = b"scalecurves"
_REQUIRED = (Column.IMAGE_ID, Column.PATH, Column.PATIENT_ID, Column.SPLIT)
_WHERE_BYTES_LIE = frozenset({Column.PATH, Column.FRAME, Column.WIDTH, Column.HEIGHT})
"""Left out of the hash: where the pixels lie, and what follows from them."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Manifest:
    """A task's table and what it means. Rows are addressed by their position in ``table``, from 0.

    Attributes:
        name: Name of the task.
        kind: What one label is.
        labels: Labels, or classes in the order of column ``y``.
        table: Columns ``image_id, path, frame?, width?, height?, patient_id, study_id?, site?, split, y_<label> or y,
            mask?, mask_second?, valid_area?, sex?, age_years?, g_<name>*`` (docs/formats.md); index 0..n-1.
        root: Folder or URL that ``path`` is relative to, and masks if ``mask_root`` is not given.
        importer: What made this manifest.
        patients_known: Whether ``patient_id`` groups images; if not, every image counts as its own patient.
        grouping: What ``patient_id`` really holds: patient, lesion, smear, ...
        hash_key: Key of the hashes that stand for ids outside this machine; see ``hashed``.
        bit_depth: Bits that 16-bit images use.
        notes: What a reader of results must know.
        mask_root: Folder of the masks, where it is another than that of the images.
        colour: What the images are.
        window: Centre and width for DICOM files; their own if None.
        expected: What the data set's release holds: ``images``, ``patients``, ``split.<split>``, ``label.<label>`` and
            ``label.<label>.<split>`` (positive images) -> count. Empty if not known.
        set_aside: Reason -> rows that were set aside on import or by a check.
        left_blank: Reason -> rows that stay with a cell left blank, such as an impossible age.
    """

    name: str
    kind: Kind
    labels: tuple[str, ...]
    table: pd.DataFrame
    root: Place
    importer: str
    patients_known: bool
    grouping: str = "patient"
    hash_key: bytes = b""
    bit_depth: int = 16
    notes: tuple[str, ...] = ()
    mask_root: Place | None = None
    colour: Colour = Colour.AS_STORED
    window: Window | None = None
    expected: Mapping[str, int] = field(default_factory=dict)
    set_aside: Mapping[str, int] = field(default_factory=dict)
    left_blank: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        problems = _problems(self.kind, self.labels, self.table)
        if problems:
            raise DataError(f"manifest {self.name!r} is not valid:\n  " + "\n  ".join(problems))
        if not self.hash_key:
            object.__setattr__(self, "hash_key", _digest(self, "key").digest())

    def __len__(self) -> int:
        return len(self.table)

    @property
    def label_columns(self) -> tuple[str, ...]:
        """The table's label columns, in the order of ``labels``; ``y`` alone where the labels are classes."""
        return label_columns(self.kind, self.labels)

    @property
    def table_hash(self) -> str:
        """sha256 (64 hexadecimal digits) of kind, labels and table; row order, root and paths do not matter."""
        return str(_digest(self, "table").hexdigest())

    @property
    def key(self) -> tuple[str, str]:
        """Equal for two readings of one manifest, whatever it is called: root, and images with patients in order."""
        ids = self.table[[Column.IMAGE_ID, Column.PATIENT_ID]].to_csv(index=False)
        return str(self.root), hashlib.sha256(ids.encode()).hexdigest()

    def where(self, where: Mapping[str, Any]) -> npt.NDArray[np.bool_]:
        """Which rows have the wanted values; see ``where_mask``.

        Raises:
            UserError: Unknown column or value.
        """
        return where_mask(self.table, where, self.labels)

    def file(self, row: int) -> Place:
        """Path of a row's image file; for an npz frame ``FILE.npz#ARRAY``."""
        return self.root / str(self.table[Column.PATH].iat[row])

    def mask_file(self, row: int, column: str = Column.MASK) -> Place | None:
        """Path of a row's mask; None if it has none."""
        path: Any = self.table[column].iat[row] if column in self.table else None
        return None if path is None or pd.isna(path) else (self.mask_root or self.root) / str(path)

    def frame(self, row: int) -> int | None:
        """Index of a row's npz frame, DICOM frame or page; None for a file of one image."""
        if Column.FRAME not in self.table:
            return None
        value: Any = self.table[Column.FRAME].iat[row]
        return None if pd.isna(value) else int(value)

    def sources(self, rows: Sequence[int] | npt.NDArray[np.int64]) -> list[tuple[Place, int | None]]:
        """``file`` and ``frame`` of each of these rows; much faster than row by row."""
        rows = np.asarray(rows, dtype=np.int64)
        paths = self.table[Column.PATH].iloc[rows].astype(str).tolist()
        files = {path: self.root / path for path in dict.fromkeys(paths)}
        if Column.FRAME not in self.table:
            return [(files[path], None) for path in paths]
        frames: list[Any] = self.table[Column.FRAME].iloc[rows].astype("Int64").tolist()
        return [(files[path], None if frame is pd.NA else frame) for path, frame in zip(paths, frames, strict=True)]

    def pixels(self, row: int) -> npt.NDArray[np.uint8]:
        """The row's image, uint8 RGB, shape (H, W, 3).

        Raises:
            DataError: The image is missing or unreadable; names file and row.
        """
        return np.array(self.image(row).convert("RGB"), dtype=np.uint8)

    def image(self, row: int, source: tuple[Place, int | None] | None = None) -> Image.Image:
        """The row's image, decoded, of mode L or RGB; see ``trainables.pixels.read_image``.

        Args:
            row: Position in the table.
            source: What ``sources`` says of the row, if the caller has asked it.

        Raises:
            DataError: The image is missing or unreadable; names file and row.
        """
        file, frame = source or (self.file(row), self.frame(row))
        try:
            return read_image(file, frame, self.bit_depth, self.window, self.colour)
        except DataError as error:
            raise DataError(f"{error} (manifest {self.name!r}, row {row})") from error

    def mask(self, row: int, column: str = Column.MASK) -> npt.NDArray[np.int32] | None:
        """The row's mask as stored, shape (H, W); None if it has none.

        Args:
            row: Position in the table.
            column: One of ``MASK_COLUMNS``.

        Raises:
            DataError: The mask is missing or unreadable; names file and row.
        """
        file = self.mask_file(row, column)
        if file is None:
            return None
        try:
            return read_mask(file)
        except DataError as error:
            raise DataError(f"{error} (manifest {self.name!r}, row {row})") from error

    def hashed(self, identifier: str) -> str:
        """16 hexadecimal digits that stand for a patient, image or study id wherever results travel.

        The same everywhere for one task (HMAC-SHA256 under ``hash_key``), and not to be undone without the manifest.
        """
        return hmac.new(self.hash_key, identifier.encode(), hashlib.sha256).hexdigest()[:16]

    def write(self, folder: Path) -> None:
        """Write ``manifest.parquet`` into ``folder`` (made if needed), whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        facts = {
            "schema": SCHEMA_VERSION,
            "name": self.name,
            "kind": self.kind.value,
            "labels": list(self.labels),
            "importer": self.importer,
            "patients_known": self.patients_known,
            "grouping": self.grouping,
            "bit_depth": self.bit_depth,
            "root": _portable_root(self.root, folder),
            "hash_key": self.hash_key.hex(),
            "table_hash": self.table_hash,
            "notes": list(self.notes),
            "mask_root": None if self.mask_root is None else _portable_root(self.mask_root, folder),
            "colour": self.colour.value,
            "window": None if self.window is None else list(self.window),
            "expected": dict(self.expected),
            "set_aside": dict(self.set_aside),
            "left_blank": dict(self.left_blank),
        }
        table = pa.Table.from_pandas(self.table, preserve_index=False)
        metadata = {**(table.schema.metadata or {}), _METADATA_KEY: json.dumps(facts).encode()}
        write_parquet(table.replace_schema_metadata(metadata), folder / MANIFEST_FILE)

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read what ``write`` wrote.

        Raises:
            UserError: There is no manifest, or one of another schema version.
            DataError: The file is damaged.
        """
        file = folder / MANIFEST_FILE
        if not file.is_file():
            raise UserError(f"no manifest at {file}; make one with python -m orchestrator.tasks import")
        try:
            table = pq.read_table(file)
            facts = json.loads((table.schema.metadata or {})[_METADATA_KEY])
        except (pa.ArrowException, OSError, KeyError, ValueError) as error:
            raise DataError(f"manifest {file} cannot be read ({error}); import it again") from error
        if facts["schema"] != SCHEMA_VERSION:
            raise UserError(f"manifest {file} has schema {facts['schema']}, this is {SCHEMA_VERSION}; import it again")
        return cls(
            name=facts["name"],
            kind=Kind(facts["kind"]),
            labels=tuple(facts["labels"]),
            table=table.to_pandas(),
            root=_found_root(facts["root"], folder),
            importer=facts["importer"],
            patients_known=facts["patients_known"],
            grouping=facts["grouping"],
            hash_key=bytes.fromhex(facts["hash_key"]),
            bit_depth=int(facts.get("bit_depth", 16)),
            notes=tuple(facts["notes"]),
            mask_root=_found_root(facts["mask_root"], folder) if facts.get("mask_root") else None,
            colour=Colour(facts.get("colour", Colour.AS_STORED)),
            window=(facts["window"][0], facts["window"][1]) if facts.get("window") else None,
            expected=facts.get("expected", {}),
            set_aside=facts.get("set_aside", {}),
            left_blank=facts.get("left_blank", {}),
        )

    def with_hash_key(self, hash_key: bytes) -> Manifest:
        """The same manifest under another key."""
        return replace(self, hash_key=hash_key)


def label_columns(kind: Kind, labels: Sequence[str]) -> tuple[str, ...]:
    """Label columns of a manifest of this kind; none for segmentation."""
    if kind is Kind.SEGMENTATION:
        return ()
    return (Column.Y,) if kind in CLASS_KINDS else tuple(f"{Column.LABEL_PREFIX}{label}" for label in labels)


def write_parquet(table: pa.Table, file: Path) -> None:
    """Write a Parquet file, whole or not at all.

    Raises:
        UserError: The folder cannot be written to.
    """
    try:
        with written_whole(file) as temporary:
            pq.write_table(table, temporary)
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error}") from error


def _portable_root(root: Place, folder: Path) -> str:
    """Relative when the images lie under the manifest's own folder, so that both can be moved together."""
    if not isinstance(root, Path):
        return str(root)
    root, folder = root.absolute(), folder.absolute()
    return str(root.relative_to(folder)) if root.is_relative_to(folder) else str(root)


def _found_root(written: str, folder: Path) -> Place:
    return place(written) if is_remote(written) else folder.absolute() / written


def _problems(kind: Kind, labels: Sequence[str], table: pd.DataFrame) -> list[str]:
    if missing := [c for c in (*_REQUIRED, *label_columns(kind, labels)) if c not in table]:
        return [f"column {column!r} is missing; it has {', '.join(map(str, table.columns))}" for column in missing]
    blanks = {column: int(table[column].isna().sum()) for column in _REQUIRED}
    problems = [f"column {column!r} is blank in {blank} rows" for column, blank in blanks.items() if blank]
    if not labels or len(set(labels)) != len(labels):
        problems.append(f"labels must be given and differ, got {list(labels)}")
    duplicated = table[Column.IMAGE_ID][table[Column.IMAGE_ID].duplicated()].astype(str)
    if len(duplicated):
        problems.append(f"image_id is not unique: {len(duplicated)} repeated, such as {duplicated.iloc[0]!r}")
    if strange := sorted(set(table[Column.SPLIT].dropna()) - set(Split)):
        problems.append(f"split has {strange}; allowed are {', '.join(Split)}")
    if not table.index.equals(pd.RangeIndex(len(table))):
        problems.append("the index must be 0..n-1 (use reset_index(drop=True))")
    return problems + _label_problems(kind, labels, table)


def _label_problems(kind: Kind, labels: Sequence[str], table: pd.DataFrame) -> list[str]:
    problems: list[str] = []
    for column in label_columns(kind, labels):
        values = table[column]
        if kind in CLASS_KINDS:
            allowed = values.between(MISSING_CLASS, len(labels) - 1)
            meaning = f"classes 0 to {len(labels) - 1}, or {MISSING_CLASS} (unknown)"
        else:
            allowed = values.isna() | values.isin([0, 1, -1])
            meaning = "0, 1, blank (not known) or -1 (uncertain)"
        rows = np.flatnonzero(~allowed.to_numpy(dtype=bool))[:5].tolist()
        problems += [f"{column} of row {row} is {values.iat[row]}; allowed: {meaning}" for row in rows]
    return problems


def _digest(manifest: Manifest, purpose: str) -> Any:
    """sha256 over the content in a canonical order.

    ``purpose`` keeps the published hash and the secret key apart: one cannot be computed from the other. A key that
    follows from the content is the same on every cluster that imports the same data, so patients match.
    """
    table = manifest.table
    order = np.argsort(table[Column.IMAGE_ID].to_numpy(dtype=str), kind="stable")
    head: dict[str, Any] = {
        "purpose": purpose,
        "schema": SCHEMA_VERSION,
        "kind": manifest.kind,
        "labels": list(manifest.labels),
    }
    if manifest.bit_depth != 16:  # full scale, which earlier manifests do not name
        head["bit_depth"] = manifest.bit_depth
    if manifest.colour is not Colour.AS_STORED:
        head["colour"] = manifest.colour.value
    if manifest.window is not None:
        head["window"] = list(manifest.window)
    digest = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
    for column in sorted(str(c) for c in table.columns if c not in _WHERE_BYTES_LIE):
        values = table[column].notna() if column in MASK_COLUMNS else table[column]
        cells = texts(values, missing=None)[order].tolist()
        digest.update(json.dumps([column, cells], ensure_ascii=True).encode())
    return digest


def checked_root(root: Place) -> Place:
    """``root``; a path is made absolute.

    Raises:
        UserError: It is no folder, or cannot be reached.
    """
    if not is_folder(root):
        raise UserError(f"folder of images {root} does not exist")
    return root.absolute() if isinstance(root, Path) else root
