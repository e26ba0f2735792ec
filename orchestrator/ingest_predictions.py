"""Predictions of others: checked, and their ids replaced by keyed hashes before anything leaves for MLflow."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dashboards.statistics import metric_names
from search_spaces.exceptions import DataError
from search_spaces.names import AGGREGATIONS, NO_AGGREGATION, Column, Kind, Unit
from trainables.predictions import set_hash

_IDS = (Column.IMAGE_ID, Column.PATIENT_ID, Column.STUDY_ID)
_GROUPS = (Column.SITE, Column.SEX, Column.AGE_BAND)
_PREFIXES = (Column.LABEL_PREFIX, Column.RAW_PREFIX, Column.LOGIT_PREFIX)
_CLASS_KINDS = (Kind.MULTICLASS, Kind.ORDINAL)
_PUBLISHED_AS = b"scalecurves predictions 2"
"""Changes with what ``publishable`` makes of the same file; then all files are published anew."""
_MOST_GROUPS = 50
"""Values of a subgroup column; a column with more is none, and may say who a patient is."""
_FEW_GROUPS = 3
"""Values that a subgroup column may have however few the patients are, such as those of sex."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """What all trials scored on one evaluation set have in common.

    Attributes:
        digest: Of images, patients and labels as written, in any order of rows.
        patients_known: Whether the file says which patient an image is of.
        kind: Kind of its task.
        metrics: Metrics that can be computed.
        groups: Columns of subgroups, the prefix ``g_`` left out.
        finite: Whether every logit of this file is a finite number.
    """

    digest: str
    patients_known: bool
    kind: str
    metrics: tuple[str, ...]
    groups: tuple[str, ...]
    finite: bool


class PredictionFiles:
    """Reads predictions of others. One object serves a whole table: what trials share is hashed once."""

    def __init__(self) -> None:
        self._digests: dict[str, set[str]] = {}
        self._hashed: dict[tuple[str, str], tuple[dict[str, pa.Array], str]] = {}

    def check(self, path: Path, task: str) -> Truth:
        """Whether a file can be used, and what it is about. All that are checked of a task give the key of its ids.

        Raises:
            DataError: It is not there, not Parquet, lacks metadata or columns, repeats an image, holds probabilities
                or truth that is no number, or has a subgroup column that is none.
        """
        table = _read(path)
        kind, labels = _metadata(table, path)
        truth = Truth(
            kind=kind,
            digest=_digest(table),
            patients_known=_patients_known(table),
            metrics=metric_names(kind, labels),
            groups=tuple(name.removeprefix(Column.GROUP_PREFIX) for name in _group_columns(table)),
            finite=bool(np.isfinite(_logits(table, labels)).all()),
        )
        self._digests.setdefault(task, set()).add(truth.digest)
        return truth

    def ids_of(self, task: str) -> str:
        """Stands for how predictions of a task are published: for the key of its ids, without giving it away.

        Hashes of other keys cannot be compared, so predictions that were published with another one must be so anew.
        Ask once all files of the task are checked.
        """
        return hmac.new(self._key(task), _PUBLISHED_AS, hashlib.sha256).hexdigest()[:16]

    def _key(self, task: str) -> bytes:
        """Of every evaluation set of a task, whatever the order of its files."""
        return "|".join(sorted(self._digests[task])).encode()

    def publishable(self, path: Path, *, task: str, set_name: str, trial_id: str) -> pa.Table:
        """The predictions as the record may have them: known columns only, ids as keyed hashes.

        The key follows from images, patients and labels of all files of the task, so a patient has the same hash in all
        trials, and nobody without the data can make it.

        Args:
            path: A file that was checked.
            task: Its task.
            set_name: The evaluation set.
            trial_id: The trial.

        Raises:
            DataError: As ``check``.
        """
        table = _read(path)
        columns, hashed = self._shared(table, task)
        logits = {c: table.column(c) for c in table.column_names if c.startswith(Column.LOGIT_PREFIX)}
        kind, labels = _metadata(table, path)
        metadata = {
            "trial_id": trial_id,
            "task": task,
            "kind": kind,
            "labels": json.dumps(labels),
            "set": set_name,
            "set_hash": hashed,
            "aggregation": (table.schema.metadata or {}).get(b"aggregation", NO_AGGREGATION.encode()).decode(),
        }
        return pa.table({**columns, **logits}).replace_schema_metadata(metadata)

    def _shared(self, table: pa.Table, task: str) -> tuple[dict[str, pa.Array], str]:
        """What files of the same images, truth and subgroups have in common; rows are in the order of image ids."""
        kept = [name for name in table.column_names if not name.startswith(Column.LOGIT_PREFIX)]
        about = task, _hash_of_rows(table, sorted(kept))
        if about not in self._hashed:
            key = self._key(task)
            ids = {name: _hashes(table.column(name), key) for name in kept if name in _IDS}
            columns = {name: table.column(name).combine_chunks() for name in kept if name not in _IDS}
            ids.setdefault(Column.PATIENT_ID, ids[Column.IMAGE_ID])
            whole = {**ids, **columns}
            self._hashed[about] = whole, set_hash(pa.table(whole).to_pandas())
        return self._hashed[about]


def _group_columns(table: pa.Table) -> list[str]:
    return [name for name in table.column_names if name in _GROUPS or name.startswith(Column.GROUP_PREFIX)]


def _number_columns(table: pa.Table, kind: str, labels: list[str]) -> list[str]:
    """Truth and logits of the file's labels: whatever else begins like them may be anything, such as a path."""
    known = {prefix + label for prefix in _PREFIXES for label in labels}
    known |= {Column.Y} if kind in _CLASS_KINDS else set()
    return [name for name in table.column_names if name in known]


def _hashes(column: pa.ChunkedArray, key: bytes) -> pa.Array:
    texts = [str(value) for value in column.to_pylist()]
    known = {text: hmac.new(key, text.encode(), hashlib.sha256).hexdigest()[:16] for text in set(texts)}
    return pa.array([known[text] for text in texts])


def _read(path: Path) -> pa.Table:
    """Known columns of a file that can be used, by image id: files of one set may differ in the order of rows."""
    if not path.is_file():
        raise DataError(f"predictions {path} are not there")
    try:
        table = pq.ParquetFile(path).read()
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"predictions {path.name} cannot be read: {error}") from error
    kind, labels = _metadata(table, path)
    truth = [Column.Y] if kind in _CLASS_KINDS else [Column.LABEL_PREFIX + label for label in labels]
    needed = [Column.IMAGE_ID, *truth, *(Column.LOGIT_PREFIX + label for label in labels)]
    if missing := [name for name in needed if name not in table.column_names]:
        raise DataError(f"predictions {path.name} lack the columns {', '.join(missing)}; labels are {labels}")
    if not len(table):
        raise DataError(f"predictions {path.name} have no rows")
    images = table.column(Column.IMAGE_ID)
    if images.null_count or len(images.unique()) != len(images):
        raise DataError(f"predictions {path.name}: image_id is blank or repeated; give one row per image")
    if Column.PATIENT_ID in table.column_names and table.column(Column.PATIENT_ID).null_count:
        raise DataError(f"predictions {path.name}: patient_id is blank; leave the column out if patients are unknown")
    numbers, groups = _number_columns(table, kind, labels), _group_columns(table)
    _refuse_text(table, numbers, path)
    _refuse_truth(table, kind, labels, path)
    _refuse_probabilities(table, kind, labels, path)
    _refuse_no_groups(table, groups, path)
    ids = [name for name in _IDS if name in table.column_names]
    return table.select([*ids, *groups, *numbers]).take(pc.sort_indices(images.cast(pa.string())))


def _metadata(table: pa.Table, path: Path) -> tuple[str, list[str]]:
    metadata: Mapping[bytes, bytes] = table.schema.metadata or {}
    try:
        kind, written = metadata[b"kind"].decode(), json.loads(metadata[b"labels"])
    except (KeyError, ValueError) as error:
        raise DataError(
            f"predictions {path.name}: the Parquet metadata needs kind and labels (a JSON list), see docs/results.md"
        ) from error
    labels = [str(label) for label in written] if isinstance(written, list) else []
    if not labels or len(set(labels)) < len(labels):
        raise DataError(
            f"predictions {path.name}: labels in the Parquet metadata must be a JSON list of different names, "
            f"got {metadata[b'labels'].decode()}"
        )
    if kind == Kind.BINARY and len(labels) > 1:
        raise DataError(f"predictions {path.name}: binary has one label, got {labels}; multilabel may have several")
    if (asked := metadata.get(b"aggregation", b"").decode() or NO_AGGREGATION) not in AGGREGATIONS:
        raise DataError(
            f"predictions {path.name}: aggregation {asked!r} in the Parquet metadata is not one of "
            f"{', '.join(AGGREGATIONS)}"
        )
    if asked.startswith(Unit.STUDY) and Column.STUDY_ID not in table.column_names:
        raise DataError(f"predictions {path.name} are to be scored by examination, but lack {Column.STUDY_ID}")
    if kind not in (*_CLASS_KINDS, Kind.BINARY, Kind.MULTILABEL):
        raise DataError(f"predictions {path.name}: kind {kind!r} is none of binary, multilabel, multiclass, ordinal")
    return kind, labels


def _refuse_text(table: pa.Table, names: list[str], path: Path) -> None:
    types = {name: table.schema.field(name).type for name in names}
    numbers = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean)
    if wrong := [f"{name} ({kind})" for name, kind in types.items() if not any(test(kind) for test in numbers)]:
        raise DataError(f"predictions {path.name}: {', '.join(wrong)} must hold numbers, see docs/results.md")


def _refuse_truth(table: pa.Table, kind: str, labels: list[str], path: Path) -> None:
    """Truth is 0 and 1, or whole numbers of classes; blank, NaN and -1 are masked."""
    classes = kind in _CLASS_KINDS
    allowed = range(-1, len(labels)) if classes else range(-1, 2)
    for name in [Column.Y] if classes else [Column.LABEL_PREFIX + label for label in labels]:
        values = np.unique(np.asarray(table.column(name).to_numpy(), dtype=float))
        if strange := [f"{v:g}" for v in values[~np.isnan(values)] if v not in allowed]:
            meant = f"classes from 0 to {len(labels) - 1}" if classes else "0 and 1"
            raise DataError(
                f"predictions {path.name}: {name} holds {', '.join(strange[:5])}; it may hold {meant}, and blank or -1 "
                "where the truth is not known"
            )


def _refuse_no_groups(table: pa.Table, names: list[str], path: Path) -> None:
    """A column with about as many values as patients is no subgroup: it is a note, a date or a name."""
    who = Column.PATIENT_ID if Column.PATIENT_ID in table.column_names else Column.IMAGE_ID
    patients = len(table.column(who).unique())
    for name in names:
        values = len({str(value) for value in table.column(name).to_pylist() if value is not None})
        if values > _MOST_GROUPS or (values > _FEW_GROUPS and 2 * values > patients):
            raise DataError(
                f"predictions {path.name}: column {name} has {values} different values for {patients} patients; a "
                f"subgroup column has at most {_MOST_GROUPS}, and at most one for every two patients. Group the values "
                "(such as ages into bands), or leave the column out: it may say who a patient is"
            )


def _refuse_probabilities(table: pa.Table, kind: str, labels: list[str], path: Path) -> None:
    logits = _logits(table, labels)
    inside = bool(np.all((logits >= 0) & (logits <= 1))) and bool(np.ptp(logits) > 0)
    summing = kind not in _CLASS_KINDS or bool(np.allclose(logits.sum(axis=1), 1.0, atol=1e-3))
    if inside and summing:
        raise DataError(
            f"predictions {path.name}: every z_ lies in [0, 1], as probabilities do; give values before sigmoid or "
            "softmax (log(p / (1 - p)), or log(p) of classes that exclude each other)"
        )


def _logits(table: pa.Table, labels: list[str]) -> NDArray[np.float64]:
    """(N, L); blank is NaN."""
    columns = [table.column(Column.LOGIT_PREFIX + label).to_numpy() for label in labels]
    return np.stack([np.asarray(column, dtype=np.float64) for column in columns], axis=1)


def _patients_known(table: pa.Table) -> bool:
    if Column.PATIENT_ID not in table.column_names:
        return False
    return not bool(table.column(Column.PATIENT_ID).equals(table.column(Column.IMAGE_ID)))


def _digest(table: pa.Table) -> str:
    """sha256 that stands for images, patients and labels, whatever the order of rows."""
    ids = [c for c in (Column.IMAGE_ID, Column.PATIENT_ID) if c in table.column_names]
    truth = sorted(c for c in table.column_names if c == Column.Y or c.startswith(Column.LABEL_PREFIX))
    return _hash_of_rows(table, [*ids, *truth])


def _hash_of_rows(table: pa.Table, names: list[str]) -> str:
    frame: pd.DataFrame = table.select(names).to_pandas()
    rows: Any = pd.util.hash_pandas_object(frame, index=False).to_numpy()
    return hashlib.sha256("|".join(names).encode() + np.sort(rows).tobytes()).hexdigest()
