"""What the trials of a plan read: rows, subsets, and whether an evaluation set was trained on upstream."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from search_spaces.amounts import Amount
from search_spaces.exceptions import ScalecurvesError, UserError
from search_spaces.expand import Cell, Exclusion, Trial
from search_spaces.names import Column, Role
from search_spaces.trial import ResolvedTask
from trainables.evaluation_sets import EvaluationRows, TaskRows, task_rows
from trainables.library import TaskLibrary
from trainables.manifest import Manifest
from trainables.subsets import EmptyCell, PatientOrder, SubsetPool

Made = TypeVar("Made")


@dataclass(slots=True, kw_only=True)
class Findings:
    """Collects problems instead of stopping at the first.

    Attributes:
        problems: What the user must change.
        notes: What the user should know.
    """

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def attempt(self, make: Callable[..., Made], *args: Any) -> Made | None:
        """What ``make(*args)`` gives, or None with the problem noted."""
        try:
            return make(*args)
        except ScalecurvesError as error:
            self.problem(str(error))
            return None

    def problem(self, text: str) -> None:
        """Note a problem once."""
        if text not in self.problems:
            self.problems.append(text)


@dataclass(slots=True, kw_only=True)
class PlanData:
    """What the trials of a plan read.

    Attributes:
        rows: Task -> its rows.
        sizes: (task, amount) -> images of the subset.
        empty: (task, amount) -> why no subset can be drawn.
        exclusions: Cells that are left out for that.
    """

    rows: dict[str, TaskRows] = field(default_factory=dict)
    sizes: dict[tuple[str, Amount], int] = field(default_factory=dict)
    empty: dict[tuple[str, Amount], str] = field(default_factory=dict)
    exclusions: list[Exclusion] = field(default_factory=list)

    @property
    def images(self) -> dict[str, dict[str, int]]:
        """Task -> images of train (the pool), val and each evaluation set."""
        return {
            name: {"train": len(rows.train), "val": len(rows.val)}
            | {set_name: len(of_set.positions) for set_name, of_set in rows.sets.items()}
            for name, rows in self.rows.items()
        }

    def drawable(self, trials: Iterable[Trial]) -> list[Trial]:
        """The trials whose subset, and those of all that they start from, can be drawn; notes the cells of others."""
        kept: list[Trial] = []
        reasons: dict[Cell, str] = {}
        for trial in trials:
            reason = self._why_not(trial)
            if reason is None:
                kept.append(trial)
            else:
                reasons.setdefault(trial.cell, reason)
        self.exclusions += [Exclusion(cell=cell, reason=reason) for cell, reason in reasons.items()]
        return kept

    def _why_not(self, trial: Trial) -> str | None:
        for link in (*_chain(trial), *(up for searched in trial.search for up in _chain(searched))):
            reason = self.empty.get((link.cell.task, link.cell.data_fraction))
            if reason is not None:
                return reason if link.cell == trial.cell else f"its source's trial {link.cell.label}: {reason}"
        return None


def read_data(
    tasks: Mapping[str, ResolvedTask], trials: Sequence[Trial], library: TaskLibrary, found: Findings
) -> PlanData:
    """Read every task's rows and draw every subset once."""
    data = PlanData()
    for name, task in tasks.items():
        rows = found.attempt(task_rows, library, task)
        if rows is None:
            continue
        data.rows[name] = rows
        pool = SubsetPool(rows.pool(task.labels), task.labels, task.kind)
        mine = [t for t in trials if t.cell.task == name]
        for seed in dict.fromkeys(t.seed.subset for t in mine):
            order = pool.order(seed)
            for amount in dict.fromkeys(t.cell.data_fraction for t in mine):
                size = found.attempt(_subset_size, order, amount, name)
                if isinstance(size, int):
                    data.sizes[name, amount] = size
                elif size is not None:
                    data.empty.setdefault((name, amount), f"{size} (subset seed {seed})")
    return data


def find_leaks(data: PlanData, trials: Iterable[Trial], library: TaskLibrary, found: Findings) -> None:
    """A trial must not start from weights that have seen what it is scored on.

    Patients of one manifest and files under one path are a problem; images of equal content under other paths are
    noted, as blank images are equal, too.
    """
    targets = [t for t in trials if t.role is Role.TARGET]
    pairs = {(t.cell.task, link.cell.task): None for t in targets for link in _chain(t)[1:]}
    images = _Images(library)
    for task, upstream in pairs:
        target, source = data.rows.get(task), data.rows.get(upstream)
        if target is None or source is None or task == upstream:
            continue
        for name, rows in target.sets.items():
            same, alike = images.shared(rows, source)
            place = f"evaluation set {name!r} of task {task!r}"
            if same:
                found.problem(
                    f"{place}: {same} of its {len(rows.positions)} images are of {source.manifest.grouping}s, or in "
                    f"files, that its source's task {upstream!r} trains or selects on. Give {upstream!r} the same "
                    "held_out set or a where that leaves them out, or import both with splits that keep them apart"
                )
            elif alike:
                found.notes.append(
                    f"{place}: {alike} of its {len(rows.positions)} images are equal, byte for byte, to images that "
                    f"its source's task {upstream!r} trains or selects on"
                )


class _Images:
    """Where the images of manifests lie and what they hold, looked up once."""

    def __init__(self, library: TaskLibrary) -> None:
        self._library = library
        self._known: dict[tuple[str, str], pd.DataFrame] = {}

    def shared(self, rows: EvaluationRows, source: TaskRows) -> tuple[int, int]:
        """Images of an evaluation set that a task has seen: by patient or place, and by content under other paths."""
        seen = np.concatenate([source.train, source.val])
        key = rows.manifest.key
        if key == source.manifest.key:
            patients = rows.manifest.table[Column.PATIENT_ID]
            return int(patients.iloc[rows.positions].isin(set(patients.iloc[seen])).sum()), 0
        here = self._of(rows.manifest).iloc[rows.positions]
        there = self._of(source.manifest).iloc[seen]
        same = here["place"].isin(set(there["place"]))
        alike = here["sha256"].isin(set(there["sha256"])) & ~same
        return int(same.sum()), int(alike.sum())

    def _of(self, manifest: Manifest) -> pd.DataFrame:
        """Columns place (path and frame) and sha256, a row per image."""
        if manifest.key not in self._known:
            resolved: dict[Path, str] = {}
            places = []
            for row in range(len(manifest)):
                file = manifest.file(row)
                folder = resolved.setdefault(file.parent, str(file.parent.resolve()))
                places.append(f"{folder}/{file.name}#{manifest.frame(row)}")
            self._known[manifest.key] = self._library.byte_digests(manifest).assign(place=places)
        return self._known[manifest.key]


def _chain(trial: Trial) -> list[Trial]:
    """The trial and those that it starts from."""
    return [trial, *(_chain(trial.upstream) if trial.upstream else [])]


def _subset_size(order: PatientOrder, amount: Amount, task: str) -> int | EmptyCell:
    """Images of the subset, or why it cannot be trained."""
    try:
        return len(order.draw(amount).rows)
    except EmptyCell as error:
        return error
    except UserError as error:
        raise UserError(f"task {task!r}, data_fraction {amount.label}: {error}") from None
