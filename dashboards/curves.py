"""The curves of a task: one source at one scale over all amounts, on one evaluation set, beside the baseline's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dashboards.cell_tables import TaskView
from dashboards.evidence import CellKey, Evidence
from dashboards.pairing import Paired, pair
from dashboards.statistics import Influence, SeedKey

SeedRuns = dict[SeedKey, Influence]


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A source against the baseline, paired over amounts by the order that all subsets of a seed are prefixes of.

    Attributes:
        scale: Model scale.
        source: Pretraining source.
        set: Evaluation set.
        amounts: Amounts of either side, fewest labelled images first.
        images: Amount -> labelled training images.
        runs: Amount -> runs of the source, where it has any.
        base: Amount -> runs of the baseline.
        paired: Of which seeds.
    """

    scale: str
    source: str
    set: str
    amounts: tuple[str, ...]
    images: dict[str, float]
    runs: dict[str, SeedRuns]
    base: dict[str, SeedRuns]
    paired: Paired

    @property
    def common(self) -> list[str]:
        """Amounts that both sides have, fewest images first."""
        return [amount for amount in self.amounts if amount in self.runs and amount in self.base]


def curves(evidence: Evidence, task: TaskView) -> Iterator[Curve]:
    """Every curve of a task that has a baseline at its scale."""
    pairs = dict.fromkeys((scale, source) for scale, source, _ in task.cells if source != evidence.baseline)
    for scale, source in pairs:
        for set_name in task.estimates.sets:
            found = _curve(evidence, task, scale, source, set_name)
            if found.runs and found.base:
                yield found


def _curve(evidence: Evidence, task: TaskView, scale: str, source: str, set_name: str) -> Curve:
    cells = [cell for cell in task.cells if cell[0] == scale and cell[1] in (source, evidence.baseline)]
    paired = pair(task, cells, set_name)
    sides: dict[str, dict[str, SeedRuns]] = {source: {}, evidence.baseline: {}}
    for cell, runs in zip(cells, paired.runs, strict=True):
        if runs:
            sides[cell[1]][cell[2]] = runs
    images = {cell[2]: _images(task, cell) for cell in cells}
    ranks = {cell[2]: task.facts[cell]["amount_rank"] for cell in cells}
    return Curve(
        scale=scale,
        source=source,
        set=set_name,
        amounts=tuple(sorted(images, key=lambda amount: ranks[amount])),
        images=images,
        runs=sides[source],
        base=sides[evidence.baseline],
        paired=paired,
    )


def _images(task: TaskView, cell: CellKey) -> float:
    return float(task.facts[cell]["images"])
