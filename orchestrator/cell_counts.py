"""How far the cells of a run are."""

from __future__ import annotations

from dataclasses import dataclass, field

from search_spaces.expand import Trial
from search_spaces.names import Role


@dataclass(slots=True)
class _Cell:
    trials: set[str] = field(default_factory=set)
    begun: set[str] = field(default_factory=set)
    done: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)


class CellCounts:
    """How many target cells of a run are done, running, waiting and failed, and which tasks have ended."""

    def __init__(self) -> None:
        self._cells: dict[tuple[str, ...], _Cell] = {}
        self._of: dict[str, tuple[str, ...]] = {}

    def expect(self, trial_id: str, trial: Trial) -> None:
        """A trial belongs to the study; those that are no targets count for nothing."""
        if trial.role is Role.TARGET:
            key = tuple(trial.cell.coordinates.values())
            self._of[trial_id] = key
            self._cells.setdefault(key, _Cell()).trials.add(trial_id)

    def forget(self, trial_id: str) -> None:
        """A trial will not end in this run, or is known by another id from now on."""
        cell = self._cell(self._of.pop(trial_id, ()))
        cell.trials.discard(trial_id)

    def began(self, trial_id: str) -> None:
        """A trial has reported."""
        self._cell(self._of.get(trial_id, ())).begun.add(trial_id)

    def ended(self, trial_id: str, *, done: bool) -> None:
        """A trial has a result, or has failed for good."""
        cell = self._cell(self._of.get(trial_id, ()))
        (cell.done if done else cell.failed).add(trial_id)

    def counts(self) -> dict[str, int]:
        """Cells by state: done (all their trials are), failed (all have ended, some without a result), running (some
        have begun), waiting."""
        counts = dict.fromkeys(("done", "running", "waiting", "failed"), 0)
        for cell in list(self._cells.values()):  # whoever draws has a thread of its own
            if cell.trials:
                counts[_state(cell)] += 1
        return counts

    def task_ended(self, trial_id: str) -> str:
        """The task of a trial if all its cells have ended; else empty."""
        key = self._of.get(trial_id)
        if key is None:
            return ""
        task = key[-1]
        open_ = any(other[-1] == task and cell.trials - cell.done - cell.failed for other, cell in self._cells.items())
        return "" if open_ else task

    def _cell(self, key: tuple[str, ...]) -> _Cell:
        return self._cells.get(key) or _Cell()


def _state(cell: _Cell) -> str:
    if cell.trials <= cell.done:
        return "done"
    if cell.trials <= cell.done | cell.failed:
        return "failed"
    return "running" if (cell.done | cell.failed | cell.begun) & cell.trials else "waiting"
