"""Reading ``predictions/<evaluation set>.parquet``: what a trial said about each image of one evaluation set."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dashboards.units import Units
from search_spaces.exceptions import DataError
from search_spaces.names import AGGREGATIONS, MISSING_CLASS, NO_AGGREGATION, Column, Kind, MaskColumn, Unit

_CLASS_KINDS = (Kind.MULTICLASS, Kind.ORDINAL)
_SUBGROUPS = (Column.SEX, Column.AGE_BAND)


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionSet:
    """Truth and logits of one trial on one evaluation set; N images, L labels (classes).

    Where the set is scored by examination or patient, N counts those, and each has one row: the mean or the largest
    probability over its images. Whoever reads a predictions file gets what is to be scored, so the record and the
    report cannot disagree.

    Attributes:
        name: The evaluation set.
        kind: binary, multiclass, multilabel, ordinal or segmentation.
        labels: Labels (classes) in the order of the columns.
        y: Binary, multilabel: (N, L) float32 of 0, 1 and NaN (masked). Multiclass, ordinal: (N,) int64 into labels, -1
            masked. Segmentation: (N, L), whether the original mask shows the label.
        logits: (N, L) float32, before sigmoid or softmax. Segmentation: (N, L, 4) float64, pixels that are predicted
            and true, predicted only, true only, and neither; NaN where a label is not known.
        distances: Segmentation: (N, L, 2) float64, HD95 in pixels of the original image and normalised surface Dice;
            NaN where undefined.
        image: (N,) keyed hashes of the image ids; of the first one where several images are one row.
        patient: (N,) keyed hashes of the patient ids; one key per task, so patients match across trials.
        site: (N,) of the site's name; None if the manifest has none.
        groups: Subgroup column (``sex``, ``age_band``, ``g_*`` without the prefix) -> (N,) of values, None blank.
        set_hash: Stands for the images with their patients and truth; empty if the file does not say.
        shared_patients: Patients whose id is that of one in training or validation; None if it was not looked for.
        same_ids: Whether equal ids mean the same person; in another manifest they need not.
        study: (N,) keyed hashes of the examination ids; None if the manifest has none.
        aggregation: What a row is: ``none`` for an image, else such as ``patient:mean``.
        n_images: Images behind the rows; None if it is the number of rows.
    """

    name: str
    kind: str
    labels: tuple[str, ...]
    y: NDArray[np.float32] | NDArray[np.int64]
    logits: NDArray[Any]
    image: NDArray[np.str_]
    patient: NDArray[np.str_]
    site: NDArray[np.object_] | None = None
    groups: dict[str, NDArray[np.object_]] = field(default_factory=dict)
    set_hash: str = ""
    shared_patients: int | None = None
    same_ids: bool = True
    study: NDArray[np.str_] | None = None
    aggregation: str = NO_AGGREGATION
    n_images: int | None = None
    distances: NDArray[np.float64] | None = None

    @property
    def is_masks(self) -> bool:
        """Whether masks were predicted."""
        return self.kind == Kind.SEGMENTATION

    @property
    def known_distances(self) -> NDArray[np.float64]:
        """``distances``, NaN throughout if there are none."""
        return np.full((*self.logits.shape[:2], 2), np.nan) if self.distances is None else self.distances

    @property
    def images(self) -> int:
        """Number of images."""
        return len(self.logits) if self.n_images is None else self.n_images

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
        self._aggregated: list[tuple[PredictionSet, NDArray[Any] | None, _Aggregated]] = []

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
        distances = None
        if kind == Kind.SEGMENTATION:
            table, distances = _one_row_per_image(table, labels, path)
        shared = about.get(b"shared_patients")
        truth = [Column.Y] if kind in _CLASS_KINDS else [Column.LABEL_PREFIX + label for label in labels]
        logits = _number_columns(kind, labels)
        needed = [Column.IMAGE_ID, Column.PATIENT_ID, *truth, *logits]
        if missing := [name for name in needed if name not in table.column_names]:
            raise DataError(f"predictions {path.name} lack the columns {', '.join(missing)}; labels are {list(labels)}")
        images = PredictionSet(
            name=path.stem,
            kind=kind,
            labels=labels,
            y=self._shared(table, truth, _classes if kind in _CLASS_KINDS else _matrix),
            logits=_matrix(table.select(logits)) if distances is None else _counts(table.select(logits)),
            distances=distances,
            image=self._shared(table, [Column.IMAGE_ID], _text),
            patient=self._shared(table, [Column.PATIENT_ID], _text),
            site=self._shared(table, [Column.SITE], _objects) if Column.SITE in table.column_names else None,
            groups={
                name.removeprefix(Column.GROUP_PREFIX): self._shared(table, [name], _objects)
                for name in table.column_names
                if name in _SUBGROUPS or name.startswith(Column.GROUP_PREFIX)
            },
            study=self._shared(table, [Column.STUDY_ID], _text) if Column.STUDY_ID in table.column_names else None,
            set_hash=about.get(b"set_hash", b"").decode(),
            shared_patients=None if shared is None else int(shared),
            same_ids=about.get(b"same_ids", b"true") == b"true",
        )
        aggregation = about.get(b"aggregation", b"").decode() or NO_AGGREGATION
        if aggregation == NO_AGGREGATION:
            return images
        if aggregation not in AGGREGATIONS:
            raise DataError(
                f"predictions {path.name}: aggregation {aggregation!r} is not one of {', '.join(AGGREGATIONS)}"
            )
        if aggregation.startswith(f"{Unit.STUDY}:") and images.study is None:
            raise DataError(f"predictions {path.name} are to be scored by examination, but lack {Column.STUDY_ID}")
        return self._aggregate(images, aggregation)

    def _aggregate(self, images: PredictionSet, aggregation: str) -> PredictionSet:
        """One row per examination or patient; all but the logits is worked out once for all trials of a set."""
        study = _examinations(images, aggregation)
        for like, of_study, known in self._aggregated:
            if of_study is study and _same_images(like, images):
                return known.with_logits(images, aggregation)
        known = _Aggregated.of(images, study)
        self._aggregated.append((images, study, known))
        return known.with_logits(images, aggregation)

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


@dataclass(frozen=True, slots=True)
class _Aggregated:
    """What the rows of an aggregated set are, without logits."""

    units: Units
    y: NDArray[Any]
    groups: dict[str, NDArray[np.object_]]
    site: NDArray[np.object_] | None
    image: NDArray[np.str_]
    patient: NDArray[np.str_]

    @classmethod
    def of(cls, images: PredictionSet, study: NDArray[Any] | None) -> _Aggregated:
        units = Units(images.patient) if study is None else Units(images.patient, study)
        return cls(
            units=units,
            y=units.truth(images.y),
            groups={name: units.values(values) for name, values in images.groups.items()},
            site=None if images.site is None else units.values(images.site),
            image=images.image[units.first],
            patient=images.patient[units.first],
        )

    def with_logits(self, images: PredictionSet, aggregation: str) -> PredictionSet:
        how = aggregation.partition(":")[2]
        return replace(
            images,
            y=self.y,
            logits=self.units.logits(images.logits, how, independent=images.kind not in _CLASS_KINDS),
            image=self.image,
            patient=self.patient,
            site=self.site,
            groups=self.groups,
            study=None if images.study is None else images.study[self.units.first],
            aggregation=aggregation,
            n_images=len(images.logits),
        )


def _examinations(images: PredictionSet, aggregation: str) -> NDArray[Any] | None:
    """What tells examinations apart, where they are scored."""
    return images.study if aggregation.startswith(f"{Unit.STUDY}:") else None


def scored_as(images: PredictionSet, aggregation: str) -> PredictionSet:
    """Predictions of images scored as another set is: by image, examination or patient.

    Raises:
        DataError: They are no longer one row per image; or examinations are asked for and not known.
    """
    if aggregation == images.aggregation:
        return images
    if images.aggregation != NO_AGGREGATION:
        raise DataError(f"predictions {images.name} are scored as {images.aggregation}, not as {aggregation}")
    if aggregation.startswith(f"{Unit.STUDY}:") and images.study is None:
        raise DataError(f"predictions {images.name} are to be scored by examination, but lack {Column.STUDY_ID}")
    return _Aggregated.of(images, _examinations(images, aggregation)).with_logits(images, aggregation)


def _same_images(a: PredictionSet, b: PredictionSet) -> bool:
    """Whether two sets share ids, truth and groups, which a reader holds once."""
    same = a.y is b.y and a.patient is b.patient and a.image is b.image and a.site is b.site
    return same and a.groups.keys() == b.groups.keys() and all(a.groups[name] is b.groups[name] for name in a.groups)


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
    if kind not in set(Kind):
        raise DataError(f"predictions {path.name}: kind {kind!r} is not one of {', '.join(Kind)}")
    return kind, labels


def _number_columns(kind: str, labels: tuple[str, ...]) -> list[str]:
    """Columns of what was predicted, once there is one row per image."""
    if kind == Kind.SEGMENTATION:
        return [f"{name}_{label}" for label in labels for name in MaskColumn.COUNTS]
    return [Column.LOGIT_PREFIX + label for label in labels]


def _one_row_per_image(table: pa.Table, labels: tuple[str, ...], path: Path) -> tuple[pa.Table, NDArray[np.float64]]:
    """Predictions of masks, which have a row per image and label, with a row per image.

    Returns:
        The table with ``y_<label>`` and ``tp_<label>`` and so on; (N, L, 2) distances.

    Raises:
        DataError: Rows are not the images with all labels in their order.
    """
    numbers = (Column.Y, *MaskColumn.COUNTS, *MaskColumn.DISTANCES)
    needed = (Column.IMAGE_ID, Column.PATIENT_ID, MaskColumn.LABEL, *numbers)
    if missing := [name for name in needed if name not in table.column_names]:
        raise DataError(f"predictions {path.name} lack the columns {', '.join(missing)}")
    images, left = divmod(len(table), len(labels))
    ids = np.array(table.column(Column.IMAGE_ID).to_pylist(), dtype=np.str_)
    in_order = not left and table.column(MaskColumn.LABEL).to_pylist() == list(labels) * images
    if not in_order or (ids.reshape(images, len(labels)) != ids[:: len(labels), None]).any():
        raise DataError(f"predictions {path.name}: rows must be the images in order, each with labels {list(labels)}")
    whole = table.take(np.arange(0, len(table), len(labels))).drop_columns([MaskColumn.LABEL, *numbers])
    for k, label in enumerate(labels):
        of_label = table.take(np.arange(k, len(table), len(labels)))
        whole = whole.append_column(Column.LABEL_PREFIX + label, of_label.column(Column.Y))
        for name in MaskColumn.COUNTS:
            whole = whole.append_column(f"{name}_{label}", of_label.column(name))
    distances = np.stack([table.column(name).to_numpy() for name in MaskColumn.DISTANCES], axis=1)
    return whole, distances.reshape(images, len(labels), len(MaskColumn.DISTANCES)).astype(np.float64)


def _counts(part: pa.Table) -> NDArray[np.float64]:
    """(N, L, 4); nulls become NaN."""
    flat = np.stack([column.to_numpy().astype(np.float64) for column in part.columns], axis=1)
    return flat.reshape(part.num_rows, -1, len(MaskColumn.COUNTS))


def _classes(part: pa.Table) -> NDArray[np.int64]:
    """(N,) of the one column; nulls and NaN are masked."""
    values = np.asarray(part.column(0).fill_null(MISSING_CLASS).to_numpy())
    return np.where(np.isnan(values), MISSING_CLASS, values).astype(np.int64)


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
