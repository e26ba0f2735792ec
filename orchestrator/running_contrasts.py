"""What a run suggests while it runs: each source against the baseline, from the trials that have ended. No test.

The values are those of the validation images that select weights: a run that is watched must not tempt anyone to stop
it when the evaluation sets look good.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from search_spaces.expand import Trial
from search_spaces.names import Role


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningContrast:
    """One source against the baseline on one task, so far.

    Attributes:
        source: The source.
        task: The task.
        metric: Its primary metric.
        difference: Source minus baseline: the mean over cells (scale, fraction) of the mean over their pairs.
        pairs: Pairs of trials that differ in the source alone: same cell otherwise, same seed.
        cells: Cells with a pair.
    """

    source: str
    task: str
    metric: str
    difference: float
    pairs: int
    cells: int

    @property
    def improvement(self) -> float:
        """The difference with the sign that makes the better one positive."""
        from dashboards.statistics.metrics import higher_is_better  # here, as it brings scipy

        return self.difference if higher_is_better(self.metric) else -self.difference

    @property
    def line(self) -> str:
        """Short text."""
        lower = "" if self.improvement == self.difference else " (lower is better)"
        pairs = f"{self.pairs} pair{'s' * (self.pairs != 1)} in {self.cells} cell{'s' * (self.cells != 1)}"
        return f"{self.source} on {self.task}: {self.difference:+.3f} {self.metric}{lower}, {pairs}"


@dataclass(slots=True)
class _Sum:
    total: float = 0.0
    count: int = 0


class RunningContrasts:
    """Keeps differences to the baseline as trials end; a few additions per trial.

    Args:
        baseline: Name of the source that the others are compared with.
        primaries: Task -> primary metric.
    """

    def __init__(self, baseline: str, primaries: Mapping[str, str]) -> None:
        self.baseline = baseline
        self._primaries = dict(primaries)
        self._values: dict[tuple[str, ...], dict[str, float]] = {}
        """What is paired -> source -> value."""
        self._sums: dict[tuple[str, str], dict[tuple[str, str], _Sum]] = {}
        """(source, task) -> (scale, fraction) -> differences."""

    def take(self, trial: Trial, value: float | None) -> None:
        """A trial has ended with this validation value of its primary metric; only targets with a value count."""
        if value is None or trial.role is not Role.TARGET or trial.cell.task not in self._primaries:
            return
        cell, source = trial.cell, trial.cell.pretraining_source
        place = (cell.model_scale, cell.data_fraction.label)
        values = self._values.setdefault((cell.task, *place, trial.seed.label), {})
        if source in values:
            return
        values[source] = value
        if source == self.baseline:
            differences = {other: there - value for other, there in values.items() if other != source}
        else:
            differences = {source: value - values[self.baseline]} if self.baseline in values else {}
        for other, difference in differences.items():
            of_cell = self._sums.setdefault((other, cell.task), {}).setdefault(place, _Sum())
            of_cell.total += difference
            of_cell.count += 1

    def contrasts(self) -> list[RunningContrast]:
        """All that have a pair, the largest improvement first."""
        # Copies: who draws may do so from a thread of its own.
        found = [self._of(*key, list(cells.values())) for key, cells in list(self._sums.items())]
        return sorted(found, key=lambda c: (-c.improvement, c.source, c.task))

    def lines(self, most: int = 5) -> list[str]:
        """What to show: a heading, the best contrasts, and the worst if there are more; nothing without a pair."""
        found = self.contrasts()
        if not found:
            return []
        shown = found if len(found) <= most else [*found[: most - 1], found[-1]]
        lines = [f"  {contrast.line}" for contrast in shown]
        if hidden := len(found) - len(shown):
            lines.insert(-1, f"  ... {hidden} more")
        return [f"so far, against {self.baseline} on validation images (preliminary, no test):", *lines]

    def _of(self, source: str, task: str, cells: list[_Sum]) -> RunningContrast:
        return RunningContrast(
            source=source,
            task=task,
            metric=self._primaries[task],
            difference=sum(c.total / c.count for c in cells) / len(cells),
            pairs=sum(c.count for c in cells),
            cells=len(cells),
        )
