"""Which rows of which manifest a task trains on, selects on, and is scored on.

``search_spaces.study.EvaluationSetSpec`` says what a user writes. The order of the rules:

1. ``where`` of the task keeps rows, in every split.
2. Patients with a row in a held-out set leave training, validation and test with all their rows.
3. Rows without any known label of the task teach and score nothing; they leave, too, and are counted.
4. No patient is in both training and validation.
5. An evaluation set never holds an image of training or validation, nor a patient, where ids of patients compare
   (``trainables.same_patients``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from search_spaces.exceptions import UserError, unknown
from search_spaces.names import Column, Kind, Split
from search_spaces.study import EvaluationSetSpec
from search_spaces.trial import ResolvedTask
from trainables.label_values import (
    Columns,
    any_known,
    matched_labels,
    raw_values,
    scored_values,
    trained_values,
)
from trainables.library import TaskLibrary
from trainables.manifest import CLASS_KINDS, Manifest
from trainables.mask_labels import mask_presence
from trainables.same_patients import ids_compare
from trainables.scored_units import check_units

Positions = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationRows:
    """The rows of one evaluation set.

    Attributes:
        manifest: Whose rows they are.
        positions: Ascending rows of its table, shape (images,).
        columns: The task's label (class) -> the manifest's; None where it has none and the label is masked.
        raw: Labels as the manifest has them: (images, labels) float32 with 1, 0, -1 uncertain and NaN blank; or
            (images,) int64 with -1 unknown.
        targets: The same with every label masked (NaN; -1) that is not scored.
        shared_patients: Patients of the set whose id is that of a patient in training or validation, whatever the
            amount. 0 in the task's own manifest and in others whose ids compare, where they are refused; elsewhere
            equal ids need not mean the same person.
    """

    manifest: Manifest
    positions: Positions
    columns: Columns
    raw: NDArray[Any]
    targets: NDArray[Any]
    shared_patients: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRows:
    """The rows of a task.

    Attributes:
        manifest: The task's manifest.
        train: Ascending rows of the training pool, shape (images,).
        train_targets: Labels of the pool under the task's label policy: (images, labels) float32, NaN masked and
            between 0 and 1 where drawn at each access; or (images,) int64 positions in the task's classes.
        train_raw: The same as the manifest has them, see ``EvaluationRows.raw``.
        val_set: Validation; scored like an evaluation set.
        sets: Evaluation sets by name, in the study's order.
        left_out: Why -> number of rows of the task's splits that it takes away.
    """

    manifest: Manifest
    train: Positions
    train_targets: NDArray[Any]
    train_raw: NDArray[Any]
    val_set: EvaluationRows
    sets: dict[str, EvaluationRows]
    left_out: dict[str, int]

    @property
    def val(self) -> Positions:
        """Ascending rows of validation, shape (images,)."""
        return self.val_set.positions

    @property
    def val_patients(self) -> int:
        """Number of patients in validation."""
        return int(self.manifest.table[Column.PATIENT_ID].iloc[self.val].nunique())

    def pool(self, labels: tuple[str, ...]) -> pd.DataFrame:
        """What ``trainables.subsets`` draws from: ids and training targets, one row per entry of ``train``.

        Args:
            labels: The task's labels.
        """
        return self._drawn_from(self.train, self.train_targets, labels)

    def val_pool(self, labels: tuple[str, ...]) -> pd.DataFrame:
        """The same of validation, one row per entry of ``val``."""
        return self._drawn_from(self.val, self.val_set.targets, labels)

    def _drawn_from(self, positions: Positions, targets: NDArray[Any], labels: tuple[str, ...]) -> pd.DataFrame:
        ids = self.manifest.table[[Column.IMAGE_ID, Column.PATIENT_ID]].iloc[positions].reset_index(drop=True)
        if targets.ndim == 1:
            return ids.assign(**{Column.Y: targets})
        return ids.assign(**{Column.LABEL_PREFIX + label: targets[:, k] for k, label in enumerate(labels)})


def task_rows(library: TaskLibrary, task: ResolvedTask) -> TaskRows:
    """The rows of a task and of its evaluation sets, checked.

    Args:
        library: Where manifests are.
        task: What to learn and to score.

    Raises:
        UserError: No training or validation rows, patients in both, a set that is empty, shares no label, or holds
            what is trained on, an unknown column, value or label.
        DataError: A manifest is damaged.
    """
    for name, spec in task.evaluate.items():
        place = f"tasks.{task.name}.evaluate.{name}"
        if spec.held_out and spec.manifest not in (None, task.manifest):
            raise UserError(f"{place}: held_out takes rows out of the task's own manifest; drop it or the manifest")
        splits = [split.value for split in Split]
        if strange := [split for split in spec.split or () if split not in splits]:
            raise UserError(unknown("split", strange[0], splits, f"{place}.split"))
    return _Rows(library, task).all()


class _Rows:
    """Working state of ``task_rows``: masks over the rows of the task's manifest."""

    def __init__(self, library: TaskLibrary, task: ResolvedTask) -> None:
        self._library, self._task, self._kind = library, task, Kind(task.kind)
        self._manifest = library.load(task.manifest)
        self._manifests = {task.manifest: self._manifest}
        table = self._manifest.table
        self._columns = matched_labels(task.labels, self._kind, self._manifest, None, f"tasks.{task.name}")
        self._raw = self._raw_of(self._manifest, self._columns)
        self._patients, names = pd.factorize(table[Column.PATIENT_ID])  # texts of a million rows compare slowly
        self._patient_names = names.astype(str)
        self._splits = table[Column.SPLIT].to_numpy(dtype=object)
        self._within = _where(self._manifest, task.where, f"tasks.{task.name}.where")
        held = np.zeros(len(table), dtype=bool)
        for where in task.held_out:
            held |= _where(self._manifest, where, f"tasks.{task.name}, held-out set") & self._within
        self._of_held_patient = np.isin(self._patients, self._patients[held])

    def _raw_of(self, manifest: Manifest, columns: Columns) -> NDArray[Any]:
        is_masks = self._kind is Kind.SEGMENTATION
        presence = mask_presence(self._library, manifest) if is_masks else None
        return raw_values(manifest, columns, self._kind, presence)

    def all(self) -> TaskRows:
        task = self._task
        train_targets = trained_values(self._raw, task.labels, task.label_policy, task.blank)
        val_targets = scored_values(self._raw)
        train = self._split_rows(Split.TRAIN, train_targets)
        val = self._split_rows(Split.VAL, val_targets)
        self._refuse_selected(train, val)
        self._seen = np.union1d(train, val)
        self._trained = np.unique(self._patients[self._seen])
        return TaskRows(
            manifest=self._manifest,
            train=train,
            train_targets=train_targets[train],
            train_raw=self._raw[train],
            val_set=EvaluationRows(
                manifest=self._manifest,
                positions=val,
                columns=self._columns,
                raw=self._raw[val],
                targets=val_targets[val],
            ),
            sets={name: self._set(name, spec) for name, spec in self._task.evaluate.items()},
            left_out=self._left_out(train_targets),
        )

    def _split_rows(self, split: Split, targets: NDArray[Any]) -> Positions:
        rows = np.flatnonzero(self._usable() & (self._splits == split) & any_known(targets))
        if not len(rows):
            raise UserError(f"task {self._task.name!r} has no {split} rows: {self._why_none(split)}")
        return rows

    def _refuse_selected(self, train: Positions, val: Positions) -> None:
        """Patients that are trained on: a model that knows them by heart would be selected."""
        shared = self._patients[val][np.isin(self._patients[val], self._patients[train])]
        if len(shared):
            name, grouping = self._manifest.name, self._manifest.grouping
            count = len(np.unique(shared))
            raise UserError(
                f"task {self._task.name!r}: {count} {grouping}s of manifest {name!r} are in both training "
                f"and validation, with {len(shared)} of its {len(val)} validation images. python -m orchestrator.tasks "
                f"check {name} names them; correct the split, or import again with --split-column none for a split by "
                f"{grouping}"
            )

    def _usable(self) -> NDArray[np.bool_]:
        return self._within & ~self._of_held_patient

    def _why_none(self, split: Split) -> str:
        of_split = self._splits == split
        name = self._manifest.name
        if not of_split.any():
            return (
                f"manifest {name!r} has no split '{split}'. Import it again with one: a --split-column that names it, "
                "or without any, and patients are split at random"
            )
        if not (of_split & self._within).any():
            return f"none of the {of_split.sum()} of manifest {name!r} matches where {dict(self._task.where)}"
        if not (of_split & self._usable()).any():
            return f"all {(of_split & self._within).sum()} belong to patients of held-out sets"
        return f"none of {(of_split & self._usable()).sum()} has a known label of {', '.join(self._task.labels)}"

    def _left_out(self, targets: NDArray[Any]) -> dict[str, int]:
        trained = np.isin(self._splits, [Split.TRAIN, Split.VAL, Split.TEST])
        unlabelled = trained & self._usable() & ~any_known(targets)
        other = np.zeros_like(unlabelled)
        if self._kind in CLASS_KINDS:
            other = unlabelled & (self._manifest.table[Column.Y].to_numpy() >= 0)
        counts = {
            "not matching where": trained & ~self._within,
            "patients of held-out sets": trained & self._within & self._of_held_patient,
            "of another class": other,
            "without a known label": unlabelled & ~other,
        }
        return {why: int(mask.sum()) for why, mask in counts.items() if mask.any()}

    def _set(self, name: str, spec: EvaluationSetSpec) -> EvaluationRows:
        place = f"tasks.{self._task.name}.evaluate.{name}"
        other = self._manifest_of(spec)
        own = other.key == self._manifest.key
        columns = matched_labels(self._task.labels, self._kind, other, spec.label_map, place)
        raw = self._raw if other is self._manifest and columns == self._columns else self._raw_of(other, columns)
        chosen = _where(other, spec.where, f"{place}.where") & _in_splits(other, spec)
        if spec.manifest is None:
            chosen &= self._within if spec.held_out else self._usable()
        targets = scored_values(raw)
        rows = np.flatnonzero(chosen & any_known(targets))
        if not len(rows):
            known = f"; {chosen.sum()} match, but without a known label of the task" if chosen.any() else ""
            raise UserError(f"{place}: the evaluation set is empty{known}. {_describe(spec, other)}")
        check_units(spec, other, rows, targets[rows], self._kind, place)
        patients, of_trained = self._trained_patients(other, own, rows)
        self._refuse_trained(place, other, own, rows, of_trained)
        return EvaluationRows(
            manifest=other,
            positions=rows,
            columns=columns,
            raw=raw[rows],
            targets=targets[rows],
            shared_patients=len(set(patients[of_trained].tolist())),
        )

    def _manifest_of(self, spec: EvaluationSetSpec) -> Manifest:
        """The manifest of a set: one object per name, so that what is the same can be told from what looks alike."""
        name = spec.manifest or self._task.manifest
        if name not in self._manifests:
            self._manifests[name] = self._library.load(name)
        return self._manifests[name]

    def _trained_patients(self, other: Manifest, own: bool, rows: Positions) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """The patient of each of these rows, and whether its id is that of one in training or validation."""
        if own:
            return self._patients[rows], np.isin(self._patients[rows], self._trained)
        codes, names = pd.factorize(other.table[Column.PATIENT_ID].iloc[rows])
        trained = set(self._patient_names[self._trained])
        return codes, np.array([name in trained for name in names.astype(str)], dtype=bool)[codes]

    def _refuse_trained(
        self, place: str, other: Manifest, own: bool, rows: Positions, of_trained: NDArray[np.bool_]
    ) -> None:
        """Images that are trained on by either path, and where ids compare those of patients that are."""
        shared = np.zeros(len(rows), dtype=bool)
        if of_patients := own or (bool(of_trained.any()) and ids_compare(self._manifest, other)):
            shared = of_trained
        if not own and not shared.any():
            files = set(_files(self._manifest, self._seen))
            shared = np.array([file in files for file in _files(other, rows)], dtype=bool)
            of_patients = False
        count = int(shared.sum())
        if count:
            what = f"images of {self._manifest.grouping}s that" if of_patients else "image files that"
            raise UserError(
                f"{place}: {count} of its {len(rows)} rows are {what} the task trains or selects on. "
                "Use held_out: true, another where, or an import whose splits keep them apart"
            )


def _where(manifest: Manifest, where: Mapping[str, Any], place: str) -> NDArray[np.bool_]:
    try:
        return manifest.where(where)
    except UserError as error:
        raise UserError(f"{place}: {error}") from error


def _in_splits(manifest: Manifest, spec: EvaluationSetSpec) -> NDArray[np.bool_]:
    """Rows of the splits that a set uses; ``unused`` only if it is named."""
    every = spec.held_out or spec.manifest is not None
    default = (Split.TRAIN, Split.VAL, Split.TEST, Split.EXTERNAL) if every else (Split.TEST,)
    return manifest.table[Column.SPLIT].isin(spec.split or default).to_numpy(dtype=bool)


def _describe(spec: EvaluationSetSpec, manifest: Manifest) -> str:
    counts = manifest.table[Column.SPLIT].value_counts()
    held = ", ".join(f"{split}: {counts[split]}" for split in Split if split in counts)
    return f"Manifest {manifest.name!r} holds {held}; the set asks for where {dict(spec.where)}" + (
        f" and split {list(spec.split)}" if spec.split else ""
    )


def _files(manifest: Manifest, rows: Positions) -> list[tuple[str, int | None]]:
    """Where the pixels of these rows lie."""
    return [(str(manifest.file(int(row)).resolve()), manifest.frame(int(row))) for row in rows]
