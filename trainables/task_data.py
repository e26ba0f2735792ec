"""Everything a trial trains and is scored on, as arrays: images, targets, and what predictions say about each image.

In a warm process this takes milliseconds: manifests, stores, rows and patient orders of the last tasks are kept.
"""

from __future__ import annotations

import hmac
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from search_spaces.exceptions import UserError
from search_spaces.names import NO_AGGREGATION, Column
from search_spaces.protocol import Protocol
from search_spaces.results import SubsetFacts
from search_spaces.trial import ResolvedTask, ResolvedTrial
from trainables.evaluation_sets import EvaluationRows, TaskRows, task_rows
from trainables.label_values import Columns
from trainables.library import TaskLibrary
from trainables.manifest import MANIFEST_FILE, Manifest
from trainables.mask_sets import MaskSet, mask_set
from trainables.predictions import set_hash
from trainables.rows import group_column, group_names
from trainables.shards import ImageStack
from trainables.store import ImageStore, is_store_of, open_store, store_path
from trainables.store_cache import CacheFullError
from trainables.subset_files import DrawnSubset
from trainables.subsets import PatientOrder, Subset, SubsetPool

WORKING_RATIO = (8, 7)
"""Stored side over input side: resize to 256, crop 224, as from Krizhevsky et al. 2012 to timm."""

_KEPT_TASKS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledSet:
    """Images of one split with their targets; what ``trainables.batches.ImageSet`` asks for.

    Attributes:
        images: (M, S, S, 3) uint8 RGB, read-only and memory-mapped: all images of the manifest.
        positions: (N,) rows of ``images`` that belong to this set.
        targets: (N, L) float32 in {0, 1}, NaN where masked; or (N,) int64 positions in the task's classes, -1 masked.
        frame: N rows: ``image_id, patient_id, study_id?, site?, g_<group>*`` as the manifest has them; of validation
            and evaluation sets also the truth (``y_<label>`` float32 and ``raw_<label>`` Int8, blank where unknown; or
            ``y`` int16). Index 0..N-1.
        hash_key: Key of the hashes that stand for ids in predictions.
        shared_patients: Of an evaluation set: see ``trainables.evaluation_sets.EvaluationRows``.
        same_ids: Whether its patient ids are those of training: one manifest.
        store: Name of the folder of its image store, which says content and size.
        masks: Of a segmentation task; its targets then say what the masks show.
        shown: What ``shown_columns`` worked out, for the next trial on these images.
    """

    images: ImageStack
    positions: NDArray[np.int64]
    targets: NDArray[np.float32] | NDArray[np.int64]
    frame: pd.DataFrame
    hash_key: bytes
    shared_patients: int = 0
    same_ids: bool = True
    store: str = ""
    masks: MaskSet | None = None
    shown: dict[tuple[str, ...], tuple[pd.DataFrame, str]] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.positions)

    def gather(self, index: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Copies of the images of these rows of the set, (B, S, S, 3) uint8."""
        return self.images[self.positions[index]]

    def take(self, index: NDArray[np.int64]) -> LabelledSet:
        """The set of these rows."""
        return LabelledSet(
            images=self.images,
            positions=self.positions[index],
            targets=self.targets[index],
            frame=self.frame.iloc[index].reset_index(drop=True),
            hash_key=self.hash_key,
            store=self.store,
            masks=None if self.masks is None else self.masks.take(index),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskData:
    """What one trial trains and is scored on.

    Attributes:
        train: The training subset.
        val: Validation; of a task whose validation is scaled, the part that goes with the amount.
        all_val: All of validation, the same for every trial of the task.
        sets: Evaluation sets by name.
        subset: Facts about the training subset.
        drawn: The subset itself, and that of validation where it is scaled.
        learned: The whole training pool and all of validation, whatever the amount.
    """

    train: LabelledSet
    val: LabelledSet
    all_val: LabelledSet
    sets: dict[str, LabelledSet]
    subset: SubsetFacts
    drawn: tuple[DrawnSubset, ...]
    learned: tuple[LabelledSet, LabelledSet]


def working_side(input_size: int, storage_size: int) -> int:
    """Side in pixels of the images that a trial works on: 8/7 of the input, rounded up, at most what is stored.

    Training crops at random from it, evaluation takes the central 7/8.

    Raises:
        UserError: Less is stored than the model takes in.
    """
    if storage_size < input_size:
        raise UserError(
            f"protocol.storage_size is {storage_size} px, but the model takes {input_size} px; "
            f"store at least {input_size}, better {_enlarged(input_size)}"
        )
    return min(_enlarged(input_size), storage_size)


def worked_side(protocol: Protocol, input_size: int) -> int:
    """Side in pixels of the images that a trial works on: what its ``image_size`` resizes to, else ``working_side``.

    Args:
        protocol: Image sizes of a rule are numbers in it.
        input_size: Of the model.

    Raises:
        UserError: Less is stored than the model takes in, or no more, so that ten crops would be one and its mirror
            image.
    """
    if isinstance(protocol.image_size, str):
        side = working_side(input_size, protocol.storage_size)
    else:
        side = protocol.image_size[0]
    if protocol.test_time_augmentation == "ten_crop" and side <= input_size:
        raise UserError(
            f"test_time_augmentation is ten_crop, but the model takes {input_size} px of images of {side} px, so that "
            f"all crops are the same; store at least {_enlarged(input_size)} px (protocol.storage_size), or use flip"
        )
    return side


def load_task_data(trial: ResolvedTrial, library: TaskLibrary) -> TaskData:
    """The arrays of a trial.

    Args:
        trial: What to train.
        library: Where manifests and stores are.

    Raises:
        UserError: See ``task_rows`` and ``PatientOrder.draw``; also a manifest that has changed since the plan.
        DataError: Images are missing or unreadable.
    """
    side = worked_side(trial.protocol, trial.scale.input_size)
    task = _task(library, trial.task, trial.protocol.storage_size, side)
    order = task.order(trial.seed.subset)
    subset = order.draw(trial.amount)
    drawn = [_drawn(trial, task, order, subset)]
    val, val_patients, val_hash = task.val, task.rows.val_patients, ""
    if trial.task.validation == "scaled":
        val_order = task.val_order(trial.seed.subset)
        part = val_order.draw_share(subset.share)
        drawn.append(_drawn(trial, task, val_order, part))
        val, val_patients, val_hash = task.val.take(part.rows), part.patients, part.subset_hash
    facts = subset.facts(
        val_images=len(val),
        val_patients=val_patients,
        val_hash=val_hash,
        patients_known=task.rows.manifest.patients_known,
    )
    return TaskData(
        train=task.pool.take(subset.rows),
        val=val,
        all_val=task.val,
        sets=dict(task.sets),
        subset=facts,
        drawn=tuple(drawn),
        learned=(task.pool, task.val),
    )


def _drawn(trial: ResolvedTrial, task: _Task, order: PatientOrder, subset: Subset) -> DrawnSubset:
    return DrawnSubset(manifest=task.rows.manifest, manifest_hash=trial.task.manifest_hash, order=order, subset=subset)


def set_hashes(task: ResolvedTask, library: TaskLibrary) -> dict[str, str]:
    """Evaluation set -> ``trainables.predictions.set_hash`` of what a trial would be scored on now. Reads no image.

    Raises:
        UserError: See ``task_rows``.
    """
    sets = task_rows(library, task).sets
    return {
        name: set_hash(_public(_with_truth(rows, task), task, rows.manifest.hash_key), task.evaluate[name].aggregation)
        for name, rows in sets.items()
    }


def prediction_frame(labelled_set: LabelledSet, task: ResolvedTask, hash_key: bytes | None = None) -> pd.DataFrame:
    """The columns of a predictions table that do not depend on the model, one row per image.

    Args:
        labelled_set: An evaluation set.
        task: Its task.
        hash_key: Key of the hashes; that of the set's manifest if not given.

    Returns:
        ``image_id, patient_id, study_id?`` as the first 16 hexadecimal digits of their HMAC-SHA256, then ``site?``,
        ``g_<group>`` for the task's groups, and ``y_<label>`` (NaN masked) with ``raw_<label>`` (-1 uncertain), or
        ``y``.
    """
    return _public(labelled_set.frame, task, labelled_set.hash_key if hash_key is None else hash_key)


def shown_columns(labelled_set: LabelledSet, task: ResolvedTask, set_name: str) -> tuple[pd.DataFrame, str]:
    """``prediction_frame`` and its ``set_hash``, worked out once for all trials of a process; not to be changed."""
    spec = task.evaluate.get(set_name)
    aggregation = spec.aggregation if spec else NO_AGGREGATION
    key = (aggregation, *task.groups)
    if key not in labelled_set.shown:
        frame = prediction_frame(labelled_set, task)
        labelled_set.shown[key] = (frame, set_hash(frame, aggregation))
    return labelled_set.shown[key]


def _public(frame: pd.DataFrame, task: ResolvedTask, key: bytes) -> pd.DataFrame:
    hashed = {
        column: [_hashed(key, str(value)) for value in frame[column]]
        for column in (Column.IMAGE_ID, Column.PATIENT_ID, Column.STUDY_ID)
        if column in frame
    }
    wanted = {Column.GROUP_PREFIX + name.removeprefix(Column.GROUP_PREFIX) for name in task.groups}
    kept = [c for c in map(str, frame) if not c.startswith(Column.GROUP_PREFIX) or c in wanted]
    return frame[kept].assign(**hashed)


def _hashed(key: bytes, identifier: str) -> str:
    """The same as ``Manifest.hashed``, in one call of the C library."""
    return hmac.digest(key, identifier.encode(), "sha256").hex()[:16]


def _enlarged(input_size: int) -> int:
    over, under = WORKING_RATIO
    return math.ceil(input_size * over / under)


@dataclass(slots=True)
class _Orders:
    """The patient orders of a pool by seed, made when they are asked for."""

    pool: SubsetPool | None = None
    by_seed: dict[int, PatientOrder] = field(default_factory=dict)

    def of(
        self, subset_seed: int, rows: Callable[[], pd.DataFrame], labels: tuple[str, ...], kind: str
    ) -> PatientOrder:
        if subset_seed not in self.by_seed:
            if self.pool is None:
                self.pool = SubsetPool(rows(), labels, kind)
            self.by_seed[subset_seed] = self.pool.order(subset_seed)
        return self.by_seed[subset_seed]


@dataclass(slots=True, kw_only=True)
class _Task:
    """A task at one working size: what all its trials share."""

    rows: TaskRows
    labels: tuple[str, ...]
    kind: str
    pool: LabelledSet
    val: LabelledSet
    sets: dict[str, LabelledSet]
    orders: _Orders = field(default_factory=_Orders)
    val_orders: _Orders = field(default_factory=_Orders)

    def order(self, subset_seed: int) -> PatientOrder:
        """The order of the training patients under a seed, drawn once."""
        return self.orders.of(subset_seed, lambda: self.rows.pool(self.labels), self.labels, self.kind)

    def val_order(self, subset_seed: int) -> PatientOrder:
        """The order of the validation patients under a seed, drawn once."""
        return self.val_orders.of(subset_seed, lambda: self.rows.val_pool(self.labels), self.labels, self.kind)


_TASKS: OrderedDict[tuple[object, ...], _Task] = OrderedDict()
"""Tasks of this process, the latest used last. Keyed by content, so nothing in it can be stale."""


def forget_tasks() -> None:
    """Drop all that is kept; the next trial reads it again."""
    _TASKS.clear()


def _task(library: TaskLibrary, task: ResolvedTask, storage_size: int, side: int) -> _Task:
    names = (task.manifest, *(s.manifest for s in task.evaluate.values() if s.manifest))
    stamps = tuple(_stamp(library, name) for name in names)
    key = (str(library.home), task.model_dump_json(), storage_size, side, stamps)
    if key not in _TASKS:
        with suppress(CacheFullError):
            _TASKS[key] = _loaded(library, task, storage_size, side)
    if key not in _TASKS:
        forget_tasks()  # tasks of earlier trials keep their stores in use
        _TASKS[key] = _loaded(library, task, storage_size, side)
    _TASKS.move_to_end(key)
    while len(_TASKS) > _KEPT_TASKS:
        _TASKS.popitem(last=False)
    return _TASKS[key]


def _stamp(library: TaskLibrary, name: str) -> tuple[int, int]:
    """What changes when a manifest is written again."""
    folder = Path(name).expanduser() if "/" in name else library.folder(name)
    file = folder / MANIFEST_FILE
    if not file.is_file():
        return (0, 0)
    status = file.stat()
    return (status.st_mtime_ns, status.st_ino)


def _loaded(library: TaskLibrary, task: ResolvedTask, storage_size: int, side: int) -> _Task:
    rows = task_rows(library, task)
    own = _own_store(library, rows, task, storage_size, side)
    stores = {rows.manifest: own}
    for of_set in rows.sets.values():
        if of_set.manifest not in stores:
            stores[of_set.manifest] = open_store(library, of_set.manifest, storage_size, side)
    truths = _truths(library, task, rows, stores, storage_size, side)
    return _Task(
        rows=rows,
        labels=task.labels,
        kind=task.kind,
        pool=LabelledSet(
            images=own.images,
            positions=own.rows[rows.train],
            targets=rows.train_targets,
            frame=_described(rows.manifest, rows.train, task.groups),
            hash_key=rows.manifest.hash_key,
            store=own.path.name,
            masks=_masks(own, rows.manifest, rows.val_set.columns, rows.train),
        ),
        val=_evaluation_set(own, truths[rows.manifest], rows.val_set, task),
        sets={
            name: replace(
                _evaluation_set(stores[of.manifest], truths[of.manifest], of, task),
                shared_patients=of.shared_patients,
                same_ids=of.manifest.key == rows.manifest.key,
            )
            for name, of in rows.sets.items()
        },
    )


def _truths(
    library: TaskLibrary,
    task: ResolvedTask,
    rows: TaskRows,
    stores: Mapping[Manifest, ImageStore],
    storage_size: int,
    side: int,
) -> dict[Manifest, ImageStore]:
    """Stores whose masks are the truth of evaluation, by manifest: the largest, whatever a scale takes in.

    So a study's scales are scored on the same truth.
    """
    if not task.is_dense or side == storage_size:
        return dict(stores)
    own = {rows.manifest: task.manifest_hash}
    return {
        manifest: open_store(library, manifest, storage_size, content_hash=own.get(manifest))
        for manifest in {rows.manifest, *(of.manifest for of in rows.sets.values())}
    }


def _masks(store: ImageStore, manifest: Manifest, columns: Columns, positions: NDArray[np.int64]) -> MaskSet | None:
    return None if store.masks is None else mask_set(store.masks, manifest, columns, positions)


def _own_store(library: TaskLibrary, rows: TaskRows, task: ResolvedTask, storage_size: int, side: int) -> ImageStore:
    """The store of what was planned; the images themselves are looked at only if it has to be built.

    Raises:
        UserError: The manifest or an image is not what it was when the trial was planned.
    """
    manifest = rows.manifest
    if not is_store_of(store_path(library.home, task.manifest_hash, storage_size, side), manifest):
        found = library.content_hash(manifest)
        if found != task.manifest_hash:
            raise UserError(
                f"task {task.name!r}: manifest {manifest.name!r} or its images changed after the study was planned "
                f"(content hash {found}, planned {task.manifest_hash}); run the study again"
            )
    return open_store(library, manifest, storage_size, side, content_hash=task.manifest_hash)


def _evaluation_set(store: ImageStore, truth: ImageStore, rows: EvaluationRows, task: ResolvedTask) -> LabelledSet:
    return LabelledSet(
        images=store.images,
        positions=store.rows[rows.positions],
        targets=rows.targets,
        frame=_with_truth(rows, task),
        hash_key=rows.manifest.hash_key,
        store=store.path.name,
        masks=_masks(truth, rows.manifest, rows.columns, rows.positions),
    )


def _with_truth(rows: EvaluationRows, task: ResolvedTask) -> pd.DataFrame:
    frame = _described(rows.manifest, rows.positions, task.groups)
    truth: dict[str, Any] = {}
    if rows.targets.ndim == 1:
        truth[Column.Y] = rows.targets.astype(np.int16)
    else:
        for k, label in enumerate(task.labels):
            truth[Column.LABEL_PREFIX + label] = rows.targets[:, k]
            truth[Column.RAW_PREFIX + label] = pd.array(rows.raw[:, k], dtype="Float32").astype("Int8")
    return frame.assign(**truth)


def _described(manifest: Manifest, positions: NDArray[np.int64], groups: Sequence[str]) -> pd.DataFrame:
    """Ids, site and groups of these rows. A group that the manifest does not have gives no column."""
    table = manifest.table.iloc[positions].reset_index(drop=True)
    columns = [Column.IMAGE_ID, Column.PATIENT_ID, Column.STUDY_ID, Column.SITE]
    frame = table[[c for c in columns if c in table]].copy()
    present = group_names(manifest.table)
    for name in (group.removeprefix(Column.GROUP_PREFIX) for group in groups):
        if name in present:
            frame[Column.GROUP_PREFIX + name] = group_column(table, name)
    return frame
