"""Reading ``predictions/<evaluation set>.parquet``: what a trial said about each image of one evaluation set."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from search_spaces.exceptions import DataError
from search_spaces.names import MISSING_CLASS, Column, Kind

_CLASS_KINDS = (Kind.MULTICLASS, Kind.ORDINAL)
_SUBGROUPS = (Column.SEX, Column.AGE_BAND)


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionSet:
    """Truth and logits of one trial on one evaluation set; N images, L labels (classes).

    Attributes:
        name: The evaluation set.
        kind: binary, multiclass, multilabel or ordinal.
        labels: Labels (classes) in the order of the columns.
        y: Binary, multilabel: (N, L) float32 of 0, 1 and NaN (masked). Multiclass, ordinal: (N,) int64 into labels, -1
            masked.
        logits: (N, L) float32, before sigmoid or softmax.
        image: (N,) keyed hashes of the image ids.
        patient: (N,) keyed hashes of the patient ids; one key per task, so patients match across trials.
        site: (N,) of the site's name; None if the manifest has none.
        groups: Subgroup column (``sex``, ``age_band``, ``g_*`` without the prefix) -> (N,) of values, None blank.
        set_hash: Stands for the images with their patients and truth; empty if the file does not say.
        shared_patients: Patients whose id is that of one in training or validation; None if it was not looked for.
        same_ids: Whether equal ids mean the same person; in another manifest they need not.
    """

    name: str
    kind: str
    labels: tuple[str, ...]
    y: NDArray[np.float32] | NDArray[np.int64]
    logits: NDArray[np.float32]
    image: NDArray[np.str_]
    patient: NDArray[np.str_]
    site: NDArray[np.object_] | None = None
    groups: dict[str, NDArray[np.object_]] = field(default_factory=dict)
    set_hash: str = ""
    shared_patients: int | None = None
    same_ids: bool = True

    @property
    def positives(self) -> dict[str, int]:
        """Label -> number of positive images (multiclass: images of the class)."""
        if self.kind in _CLASS_KINDS:
            return {label: int(np.sum(self.y == k)) for k, label in enumerate(self.labels)}
        return {label: int(np.nansum(self.y[:, k])) for k, label in enumerate(self.labels)}


class PredictionReader:
    """Reads predictions files; what is equal in many of them (ids, truth, groups) is held in memory once.

    All trials of a task have the same images in the same order, so a study of thousands of trials differs in its
    logits alone.
    """

    def __init__(self) -> None:
        self._seen: dict[tuple[str, ...], list[tuple[pa.Table, NDArray[Any]]]] = {}

    def read(self, path: Path) -> PredictionSet:
        """One predictions file.

        Args:
            path: ``.../predictions/<evaluation set>.parquet``.

        Raises:
            DataError: The file is not Parquet, or its metadata or columns are not those of predictions.
        """
        try:
            table = pq.read_table(path)
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(f"predictions {path.name} cannot be read: {error}") from error
        kind, labels = _metadata(table, path)
        about = table.schema.metadata or {}
        shared = about.get(b"shared_patients")
        truth = [Column.Y] if kind in _CLASS_KINDS else [Column.LABEL_PREFIX + label for label in labels]
        logits = [Column.LOGIT_PREFIX + label for label in labels]
        needed = [Column.IMAGE_ID, Column.PATIENT_ID, *truth, *logits]
        if missing := [name for name in needed if name not in table.column_names]:
            raise DataError(f"predictions {path.name} lack the columns {', '.join(missing)}; labels are {list(labels)}")
        return PredictionSet(
            name=path.stem,
            kind=kind,
            labels=labels,
            y=self._shared(table, truth, _classes if kind in _CLASS_KINDS else _matrix),
            logits=_matrix(table.select(logits)),
            image=self._shared(table, [Column.IMAGE_ID], _text),
            patient=self._shared(table, [Column.PATIENT_ID], _text),
            site=self._shared(table, [Column.SITE], _objects) if Column.SITE in table.column_names else None,
            groups={
                name.removeprefix(Column.GROUP_PREFIX): self._shared(table, [name], _objects)
                for name in table.column_names
                if name in _SUBGROUPS or name.startswith(Column.GROUP_PREFIX)
            },
            set_hash=about.get(b"set_hash", b"").decode(),
            shared_patients=None if shared is None else int(shared),
            same_ids=about.get(b"same_ids", b"true") == b"true",
        )

    def _shared(self, table: pa.Table, columns: list[str], decode: Callable[[pa.Table], NDArray[Any]]) -> NDArray[Any]:
        part = table.select(columns)
        seen = self._seen.setdefault((decode.__name__, *columns), [])
        for known, array in seen:
            if known.equals(part):
                return array
        array = decode(part)
        array.setflags(write=False)
        seen.append((part, array))
        return array


def read_predictions(path: Path) -> PredictionSet:
    """One predictions file; see ``PredictionReader.read``."""
    return PredictionReader().read(path)


def recorded_hash(path: Path) -> str:
    """The ``set_hash`` that a predictions file states, from its schema alone; empty if it states none.

    Raises:
        DataError: The file is not Parquet.
    """
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"predictions {path.name} cannot be read: {error}") from error
    return str(metadata.get(b"set_hash", b"").decode())


def _metadata(table: pa.Table, path: Path) -> tuple[str, tuple[str, ...]]:
    metadata = table.schema.metadata or {}
    try:
        kind, labels = metadata[b"kind"].decode(), tuple(json.loads(metadata[b"labels"]))
    except (KeyError, ValueError) as error:
        raise DataError(f"predictions {path.name}: metadata kind and labels (a JSON list) are missing") from error
    if kind not in (*_CLASS_KINDS, Kind.BINARY, Kind.MULTILABEL):
        raise DataError(f"predictions {path.name}: kind {kind!r} has no logits")
    return kind, labels


def _classes(part: pa.Table) -> NDArray[np.int64]:
    """(N,) of the one column; nulls are masked."""
    return np.array(part.column(0).fill_null(MISSING_CLASS).to_numpy(), dtype=np.int64)


def _matrix(part: pa.Table) -> NDArray[np.float32]:
    """(N, number of columns); nulls become NaN. Labels and logits are stored as float32."""
    matrix = np.empty((part.num_rows, part.num_columns), dtype=np.float32)
    for k, column in enumerate(part.columns):
        matrix[:, k] = column.to_numpy()
    return matrix


def _text(part: pa.Table) -> NDArray[np.str_]:
    return np.array(part.column(0).to_pylist(), dtype=np.str_)


def _objects(part: pa.Table) -> NDArray[np.object_]:
    values = part.column(0).to_pylist()
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array
