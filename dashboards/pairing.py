"""Which runs of several cells are pairs: one seed, one order of patients, and at one amount one subset of it.

The pairing key is (task, hash of the subset order, seed). Across amounts the order has to be the same; across different
subset rules nothing is paired.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from dashboards.cell_tables import TaskView
from dashboards.evidence import CellKey
from dashboards.exclusions import Exclusion, Why
from dashboards.statistics import Influence, SeedKey


@dataclass(frozen=True, slots=True)
class Drawn:
    """What a trial was trained on.

    Attributes:
        amount: Label of the amount.
        order: Hash of the subset order; None where it is not known.
        subset: Hash of the subset; None likewise.
    """

    amount: str
    order: str | None
    subset: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """Runs of several cells without the seeds that are no pairs.

    Attributes:
        runs: Per cell: seed -> run.
        odd: Seeds taken out of all cells, because their subsets or orders differ.
        sure: Whether the hashes of all seeds that two cells share are known.
    """

    runs: tuple[dict[SeedKey, Influence], ...]
    odd: tuple[SeedKey, ...]
    sure: bool

    @property
    def note(self) -> str:
        """Names the seeds that were taken out; empty if there are none."""
        names = ", ".join(str(getattr(s, "label", s)) for s in self.odd)
        return f"seeds left out, trained on different subsets: {names}" if self.odd else ""


def pair(task: TaskView, cells: Sequence[CellKey], set_name: str, metric: str | None = None) -> Paired:
    """The runs of cells on a set, paired.

    Args:
        task: The task.
        cells: At one amount, or at several.
        set_name: Evaluation set.
        metric: The primary one if not given.
    """
    runs = [task.runs(cell, set_name, metric) for cell in cells]
    drawn = [
        {seed: Drawn(cell[2], *task.hashes[task.cells[cell][seed]]) for seed in of_cell}
        for cell, of_cell in zip(cells, runs, strict=True)
    ]
    odd, sure = odd_seeds(drawn)
    kept = tuple({seed: run for seed, run in of_cell.items() if seed not in odd} for of_cell in runs)
    return Paired(runs=kept, odd=odd, sure=sure)


def odd_seeds(cells: Sequence[Mapping[SeedKey, Drawn]]) -> tuple[tuple[SeedKey, ...], bool]:
    """Seeds whose trials are no pairs, as far as is known.

    Args:
        cells: Of each cell: seed -> what its trial was trained on.

    Returns:
        These seeds; and whether the hashes of all others that two cells share are known.
    """
    odd, sure = [], True
    for seed in dict.fromkeys(seed for of_cell in cells for seed in of_cell):
        holders = [of_cell[seed] for of_cell in cells if seed in of_cell]
        if len(holders) < 2:
            continue
        alike, known = _same_subsets(holders)
        if not alike:
            odd.append(seed)
        sure &= known or not alike
    return tuple(odd), sure


def _same_subsets(drawn: Sequence[Drawn]) -> tuple[bool, bool]:
    """Whether the trials of a seed are pairs as far as is known, and whether it is known."""
    orders = [found.order for found in drawn]
    alike, known = _agree(orders), None not in orders
    for amount in dict.fromkeys(found.amount for found in drawn):
        here = [found.subset for found in drawn if found.amount == amount]
        alike &= _agree(here)
        if len(here) == len(drawn):
            known |= None not in here
    return alike, known


def _agree(hashes: Iterable[str | None]) -> bool:
    """Unknown hashes contradict nothing."""
    return len({h for h in hashes if h is not None}) < 2


def exclusions_of(task: TaskView, cells: Sequence[CellKey], paired: Paired) -> list[Exclusion]:
    """The trials behind the seeds that were taken out."""
    return [
        Exclusion(
            why=Why.OTHER_SUBSET,
            task=task.estimates.task,
            set="",
            trial_id=task.cells[cell][seed],
            detail=f"{cell[0]}, {cell[1]}, {cell[2]}, seed {getattr(seed, 'label', seed)}",
        )
        for seed in paired.odd
        for cell in cells
        if seed in task.cells.get(cell, {})
    ]
