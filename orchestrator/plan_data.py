"""What the trials of a plan read: rows and subsets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from search_spaces.amounts import Amount
from search_spaces.exceptions import ScalecurvesError, UserError
from search_spaces.expand import Cell, Exclusion, Trial
from search_spaces.trial import ResolvedTask
from trainables.evaluation_sets import TaskRows, task_rows
from trainables.library import TaskLibrary
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """Counts of one subset.

    Attributes:
        images: Training images.
        patients: Their patients, forced ones included.
        forced_patients: Those taken in because a class would be missing.
        val_images: Images that select; labels, too.
        positives: Label -> positive images (multiclass: images of the class).
        negatives: Label -> images that are known not to have it (multiclass: images of other classes).
    """

    images: int
    patients: int
    forced_patients: int
    val_images: int
    positives: dict[str, int]
    negatives: dict[str, int]


@dataclass(slots=True, kw_only=True)
class PlanData:
    """What the trials of a plan read.

    Attributes:
        rows: Task -> its rows.
        subsets: (task, amount) -> what each subset seed draws.
        empty: (task, amount) -> why no subset can be drawn.
        exclusions: Cells that are left out for that.
    """

    rows: dict[str, TaskRows] = field(default_factory=dict)
    subsets: dict[tuple[str, Amount], dict[int, Drawn]] = field(default_factory=dict)
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

    def size(self, task: str, amount: Amount) -> Drawn | None:
        """What the last subset seed draws; None if nothing can be drawn. Seeds differ by a patient or two."""
        seeds = self.subsets.get((task, amount))
        return list(seeds.values())[-1] if seeds else None

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
        for link in (*chain(trial), *(up for searched in trial.search for up in chain(searched))):
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
        found.notes += _partly_scored(name, rows)
        pool = SubsetPool(rows.pool(task.labels), task.labels, task.kind)
        scaled = task.validation == "scaled"
        val_pool = SubsetPool(rows.val_pool(task.labels), task.labels, task.kind) if scaled else None
        mine = [t for t in trials if t.cell.task == name]
        for seed in dict.fromkeys(t.seed.subset for t in mine):
            draw = _Draw(pool.order(seed), val_pool.order(seed) if val_pool else None, len(rows.val), name)
            for amount in dict.fromkeys(t.cell.data_fraction for t in mine):
                drawn = found.attempt(draw, amount)
                if isinstance(drawn, Drawn):
                    data.subsets.setdefault((name, amount), {})[seed] = drawn
                elif drawn is not None:
                    data.empty.setdefault((name, amount), f"{drawn} (subset seed {seed})")
    return data


def _partly_scored(task: str, rows: TaskRows) -> list[str]:
    """Says which labels of a task an evaluation set lacks: a model of all is scored on the others alone."""
    notes = []
    for name, of_set in rows.sets.items():
        masked = [label for label, other in of_set.columns.items() if other is None]
        if masked:
            scored = len(of_set.columns) - len(masked)
            notes.append(
                f"task {task!r}: {name} is scored on {scored} of {len(of_set.columns)} labels, not on "
                f"{', '.join(masked)}"
            )
    return notes


def chain(trial: Trial) -> list[Trial]:
    """The trial and those that it starts from."""
    return [trial, *(chain(trial.upstream) if trial.upstream else [])]


@dataclass(frozen=True, slots=True)
class _Draw:
    """Draws the subsets of one task and subset seed.

    Attributes:
        order: Of the training patients.
        val_order: Of the validation patients, if validation is scaled.
        val_images: All of validation.
        task: Name, for messages.
    """

    order: PatientOrder
    val_order: PatientOrder | None
    val_images: int
    task: str

    def __call__(self, amount: Amount) -> Drawn | EmptyCell:
        """Counts of the subset, or why it cannot be trained."""
        try:
            subset = self.order.draw(amount)
        except EmptyCell as error:
            return error
        except UserError as error:
            raise UserError(f"task {self.task!r}, data_fraction {amount.label}: {error}") from None
        val = self.val_images if self.val_order is None else len(self.val_order.draw_share(subset.share).rows)
        return Drawn(
            images=len(subset.rows),
            patients=subset.patients,
            forced_patients=subset.forced_patients,
            val_images=val,
            positives=subset.positives,
            negatives=subset.negatives,
        )
