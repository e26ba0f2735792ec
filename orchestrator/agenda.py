"""Which trial starts next: one pure module that a run, a plan's forecast and the tests share.

Longest first, by the expected work of a trial and of the longest chain of trials that start from its result, so that
the end of a run is short and no stage waits for another: a trial may start as soon as the one it starts from exists.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A trial that is to be trained.

    Attributes:
        trial_id: Its id.
        cost: Expected work, in any unit.
        upstream_id: Trial that it starts from; one that is not on the agenda is taken to exist.
    """

    trial_id: str
    cost: float
    upstream_id: str | None = None


class Agenda:
    """Hands out trials in the order in which they should start.

    Args:
        entries: The trials; of two that weigh the same the first one starts first.

    Raises:
        ValueError: A trial is there twice, or trials start from each other.
    """

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._entries: dict[str, Entry] = {}
        for entry in entries:
            if entry.trial_id in self._entries:
                raise ValueError(f"trial {entry.trial_id} is on the agenda twice")
            self._entries[entry.trial_id] = entry
        self._dependents: dict[str, list[str]] = {}
        for entry in self._entries.values():
            if entry.upstream_id is not None:
                self._dependents.setdefault(entry.upstream_id, []).append(entry.trial_id)
        self._weights = self._chain_costs()
        self._numbers = {trial_id: n for n, trial_id in enumerate(self._entries)}
        self._ready: list[tuple[float, int, str]] = []
        self._waiting = {i for i, entry in self._entries.items() if entry.upstream_id in self._entries}
        for trial_id in self._entries:
            if trial_id not in self._waiting:
                self._push(trial_id)

    def __len__(self) -> int:
        """Trials that have not been handed out."""
        return len(self._ready) + len(self._waiting)

    def next(self) -> str | None:
        """The trial that should start now; None if all that are left wait for another, or none is left."""
        return heapq.heappop(self._ready)[2] if self._ready else None

    def complete(self, trial_id: str) -> None:
        """A trial has its result: those that start from it may start."""
        for dependent in self._dependents.get(trial_id, ()):
            if dependent in self._waiting:
                self._waiting.remove(dependent)
                self._push(dependent)

    def fail(self, trial_id: str) -> list[str]:
        """A trial has none, now or from before: takes off and returns those below it in the chain."""
        open_ids = self._waiting | {item[2] for item in self._ready}
        lost = [i for i in self._below(trial_id) if i in open_ids]
        self._drop(lost)
        return lost

    def leave(self, chosen: Callable[[str], bool]) -> list[str]:
        """Takes off and returns the chosen trials that were not handed out, and those below them in the chain."""
        left: list[str] = []
        open_ids = [item[2] for item in sorted(self._ready)] + [i for i in self._entries if i in self._waiting]
        for trial_id in open_ids:
            if chosen(trial_id):
                left += [trial_id, *self._below(trial_id)]
        left = list(dict.fromkeys(left))
        self._drop(left)
        return left

    def _below(self, trial_id: str) -> list[str]:
        found: list[str] = []
        above = [trial_id]
        while above:
            below = self._dependents.get(above.pop(0), [])
            found += below
            above += below
        return found

    def _drop(self, trial_ids: list[str]) -> None:
        dropped = set(trial_ids)
        self._waiting -= dropped
        self._ready = [item for item in self._ready if item[2] not in dropped]
        heapq.heapify(self._ready)

    def _push(self, trial_id: str) -> None:
        heapq.heappush(self._ready, (-self._weights[trial_id], self._numbers[trial_id], trial_id))

    def _chain_costs(self) -> dict[str, float]:
        """Trial -> its cost and that of the costliest chain below it."""
        weights: dict[str, float] = {}
        open_below = {i: len(self._dependents.get(i, ())) for i in self._entries}
        leaves = [i for i, count in open_below.items() if not count]
        while leaves:
            trial_id = leaves.pop()
            entry = self._entries[trial_id]
            weights[trial_id] = entry.cost + max((weights[d] for d in self._dependents.get(trial_id, ())), default=0.0)
            above = entry.upstream_id
            if above in open_below:
                open_below[above] -= 1
                if not open_below[above]:
                    leaves.append(above)
        if len(weights) < len(self._entries):
            circle = sorted(self._entries.keys() - weights.keys())
            raise ValueError(f"trials start from each other: {', '.join(circle)}")
        return weights


def makespan(entries: Iterable[Entry], slots: int) -> float:
    """When the last trial ends, on a virtual clock, if as many run at a time as there are slots.

    Args:
        entries: The trials; ``cost`` is the length of each in the unit of the answer.
        slots: At least 1.

    Raises:
        ValueError: No slot.
    """
    if slots < 1:
        raise ValueError(f"makespan needs at least 1 slot, got {slots}")
    entries = list(entries)
    costs = {entry.trial_id: entry.cost for entry in entries}
    agenda = Agenda(entries)
    now = 0.0
    running: list[tuple[float, str]] = []
    while True:
        while len(running) < slots and (trial_id := agenda.next()) is not None:
            heapq.heappush(running, (now + costs[trial_id], trial_id))
        if not running:
            return now
        now, ended = heapq.heappop(running)
        agenda.complete(ended)
