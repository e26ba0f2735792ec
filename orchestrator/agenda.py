"""Which trial starts next: one pure module that a run, a plan's forecast and the tests share.

Longest first, by the expected work of a trial and of the longest chain of trials that start from its result, so that
the end of a run is short and no stage waits for another: a trial may start as soon as the one it starts from exists.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from orchestrator.fleet import Demand, Fleet, Room, Slots

Kind = TypeVar("Kind")
"""Of gangs; hashable."""

FIRST = 2**31
"""Priority of what goes before all others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry(Generic[Kind]):
    """A trial that is to be trained.

    Attributes:
        trial_id: Its id.
        cost: Expected work, in any unit.
        upstream_id: Trial that it starts from; one that is not on the agenda is taken to exist.
        gang: Shape of the gang that trains it.
        priority: A higher one starts first, and what it starts from with it.
    """

    trial_id: str
    cost: float
    upstream_id: str | None = None
    gang: Kind = None  # type: ignore[assignment]
    priority: int = 0


class Agenda(Generic[Kind]):
    """Hands out trials in the order in which they should start.

    Args:
        entries: The trials; of two that weigh the same the first one starts first.

    Raises:
        ValueError: A trial is there twice, or trials start from each other.
    """

    def __init__(self, entries: Iterable[Entry[Kind]]) -> None:
        self._entries: dict[str, Entry[Kind]] = {}
        for entry in entries:
            if entry.trial_id in self._entries:
                raise ValueError(f"trial {entry.trial_id} is on the agenda twice")
            self._entries[entry.trial_id] = entry
        self._dependents: dict[str, list[str]] = {}
        for entry in self._entries.values():
            if entry.upstream_id is not None:
                self._dependents.setdefault(entry.upstream_id, []).append(entry.trial_id)
        self._weights = self._chain_weights()
        self._numbers = {trial_id: n for n, trial_id in enumerate(self._entries)}
        self._ready: dict[Kind, list[tuple[float, float, int, str]]] = {}
        self._work: dict[Kind, float] = {}
        self._waiting: dict[str, None] = {}
        self._aside: dict[str, list[str]] = {}
        """Trials that someone else trains -> those below them in the chain."""
        self._completed: set[str] = set()
        for trial_id, entry in self._entries.items():
            self._ready.setdefault(entry.gang, [])
            if entry.upstream_id in self._entries:
                self._waiting[trial_id] = None
            else:
                self._push(trial_id)

    def __len__(self) -> int:
        """Trials that have not been handed out, without those that are set aside."""
        return sum(map(len, self._ready.values())) + len(self._waiting)

    @property
    def aside(self) -> int:
        """Trials that are set aside, without those below them."""
        return len(self._aside)

    def next(self, gangs: Collection[Kind] | None = None) -> str | None:
        """The trial that should start now; None if all that are left wait for another, or none is left.

        Args:
            gangs: Shapes that have a place for one; all if not given.
        """
        heads = [heap for gang, heap in self._ready.items() if heap and (gangs is None or gang in gangs)]
        if not heads:
            return None
        trial_id = heapq.heappop(min(heads, key=lambda heap: heap[0]))[-1]
        entry = self._entries[trial_id]
        self._work[entry.gang] -= entry.cost
        return trial_id

    def demands(self, running: Mapping[Kind, int]) -> dict[Kind, Demand]:
        """What there is to do, per shape.

        Args:
            running: Trials per shape that were handed out and have not ended.
        """
        waiting = Counter(self._entries[trial_id].gang for trial_id in self._waiting)
        return {
            gang: Demand(
                ready=len(heap),
                running=running.get(gang, 0),
                waiting=waiting[gang],
                work=self._work.get(gang, 0.0),
                priority=self._priority(heap[0][-1]) if heap else None,
            )
            for gang, heap in self._ready.items()
        }

    def add(self, entry: Entry[Kind], *, first: bool = False) -> None:
        """A trial that is known from now on; nothing on the agenda starts from it.

        Args:
            entry: The trial.
            first: Whether it goes before all others, because more trials become known by its result.

        Raises:
            ValueError: The trial is there already.
        """
        if entry.trial_id in self._entries:
            raise ValueError(f"trial {entry.trial_id} is on the agenda already")
        upstream_id = entry.upstream_id
        self._numbers[entry.trial_id] = len(self._entries)
        self._entries[entry.trial_id] = entry
        self._weights[entry.trial_id] = (FIRST if first else entry.priority), entry.cost
        self._ready.setdefault(entry.gang, [])
        if upstream_id is not None:
            self._dependents.setdefault(upstream_id, []).append(entry.trial_id)
        aside = [below for root, below in self._aside.items() if upstream_id == root or upstream_id in below]
        if aside:
            aside[0].append(entry.trial_id)
        elif upstream_id in self._entries and upstream_id not in self._completed:
            self._waiting[entry.trial_id] = None
        else:
            self._push(entry.trial_id)

    def set_aside(self, trial_id: str) -> None:
        """A trial that was handed out is trained by someone else: it and those below it wait outside the agenda."""
        below = [i for i in self._below(trial_id) if i in self._waiting]
        self._waiting = {i: None for i in self._waiting if i not in set(below)}
        self._aside[trial_id] = below

    def take_up(self, trial_id: str) -> bool:
        """It is clear how a trial that was set aside goes on: ``complete``, ``fail`` or ``put_back`` follows.

        Returns:
            Whether it is still set aside: it may have been taken off meanwhile.
        """
        below = self._aside.pop(trial_id, None)
        self._waiting |= dict.fromkeys(below or ())
        return below is not None

    def complete(self, trial_id: str) -> None:
        """A trial has its result: those that start from it may start."""
        self._completed.add(trial_id)
        for dependent in self._dependents.get(trial_id, ()):
            if dependent in self._waiting:
                del self._waiting[dependent]
                self._push(dependent)

    def put_back(self, trial_id: str) -> None:
        """A trial that was handed out is to be tried again."""
        self._push(trial_id)

    def fail(self, trial_id: str) -> list[str]:
        """A trial has none, now or from before: takes off and returns those below it in the chain."""
        still_open = self._open()
        lost = [i for i in self._below(trial_id) if i in still_open]
        self._drop(lost)
        return lost

    def leave(self, chosen: Callable[[str], bool]) -> list[str]:
        """Takes off and returns the chosen trials that were not handed out, and those below them in the chain."""
        left: dict[str, None] = {}
        still_open = self._open()
        for trial_id in still_open:
            if chosen(trial_id):
                left |= dict.fromkeys(i for i in (trial_id, *self._below(trial_id)) if i in still_open)
        self._drop(list(left))
        return list(left)

    def _open(self) -> dict[str, None]:
        ready = sorted(item for heap in self._ready.values() for item in heap)
        aside = dict.fromkeys(i for root, below in self._aside.items() for i in (root, *below))
        return dict.fromkeys([item[-1] for item in ready]) | self._waiting | aside

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
        self._waiting = {i: None for i in self._waiting if i not in dropped}
        self._aside = {
            root: [i for i in below if i not in dropped] for root, below in self._aside.items() if root not in dropped
        }
        for gang, heap in self._ready.items():
            kept = [item for item in heap if item[-1] not in dropped]
            heapq.heapify(kept)
            self._ready[gang] = kept
            self._work[gang] = sum(self._entries[item[-1]].cost for item in kept)

    def _priority(self, trial_id: str) -> int:
        """Of its chain. What goes first among trials of its shape is no reason to take the room of other shapes."""
        priority, _ = self._weights[trial_id]
        return self._entries[trial_id].priority if priority == FIRST else priority

    def _push(self, trial_id: str) -> None:
        entry = self._entries[trial_id]
        priority, weight = self._weights[trial_id]
        heapq.heappush(self._ready[entry.gang], (-priority, -weight, self._numbers[trial_id], trial_id))
        self._work[entry.gang] = self._work.get(entry.gang, 0.0) + entry.cost

    def _chain_weights(self) -> dict[str, tuple[int, float]]:
        """Trial -> highest priority in its chain, and its cost and that of the costliest chain below it."""
        weights: dict[str, tuple[int, float]] = {}
        open_below = {i: len(self._dependents.get(i, ())) for i in self._entries}
        leaves = [i for i, count in open_below.items() if not count]
        while leaves:
            trial_id = leaves.pop()
            entry = self._entries[trial_id]
            below = [weights[d] for d in self._dependents.get(trial_id, ())]
            priority = max([entry.priority, *(p for p, _ in below)])
            weights[trial_id] = priority, entry.cost + max((cost for _, cost in below), default=0.0)
            above = entry.upstream_id
            if above in open_below:
                open_below[above] -= 1
                if not open_below[above]:
                    leaves.append(above)
        if len(weights) < len(self._entries):
            circle = sorted(self._entries.keys() - weights.keys())
            raise ValueError(f"trials start from each other: {', '.join(circle)}")
        return weights


def schedule(
    entries: Iterable[Entry[Kind]],
    room: int | Room[Kind],
    *,
    sizes: Mapping[Kind, tuple[float, float]] | None = None,
    most: int | None = None,
    start_s: float = 0.0,
) -> dict[str, tuple[float, float]]:
    """When each trial starts and ends, on a virtual clock that begins at 0.

    Args:
        entries: The trials; ``cost`` is the length of each in seconds.
        room: What fits at once; a number of slots for gangs of any shape.
        sizes: Shape -> its size, as ``Fleet`` wants it; all alike if not given.
        most: Most trials at a time, whatever fits.
        start_s: Seconds until a new gang can train.

    Raises:
        ValueError: No slot, or a gang that never fits.
    """
    if isinstance(room, int):
        if room < 1:
            raise ValueError(f"a schedule needs at least 1 slot, got {room}")
        room = Slots(room)
    return _Simulation(list(entries), room, sizes, most, start_s).run()


def makespan(
    entries: Iterable[Entry[Kind]],
    room: int | Room[Kind],
    *,
    sizes: Mapping[Kind, tuple[float, float]] | None = None,
    most: int | None = None,
    start_s: float = 0.0,
) -> float:
    """When the last trial ends; see ``schedule``."""
    times = schedule(entries, room, sizes=sizes, most=most, start_s=start_s)
    return max((end for _, end in times.values()), default=0.0)


class _Simulation(Generic[Kind]):
    def __init__(
        self,
        entries: list[Entry[Kind]],
        room: Room[Kind],
        sizes: Mapping[Kind, tuple[float, float]] | None,
        most: int | None,
        start_s: float,
    ) -> None:
        self._entries = {entry.trial_id: entry for entry in entries}
        self._agenda = Agenda(entries)
        gangs = {entry.gang for entry in entries}
        self._fleet: Fleet[Kind] = Fleet(sizes or dict.fromkeys(gangs, (0.0, 1.0)), most=most)
        self._room = room
        self._start_s = start_s
        self._running: list[tuple[float, int, str]] = []
        self._busy = dict.fromkeys(gangs, 0)
        self._gangs = dict.fromkeys(gangs, 0)
        self._now = 0.0
        self._times: dict[str, tuple[float, float]] = {}

    def run(self) -> dict[str, tuple[float, float]]:
        while True:
            self._start_what_fits()
            if not self._running:
                if len(self._agenda):
                    raise ValueError(f"{len(self._agenda)} trials need gangs that never fit")
                return self._times
            self._now, _, ended = heapq.heappop(self._running)
            self._busy[self._entries[ended].gang] -= 1
            self._agenda.complete(ended)

    def _start_what_fits(self) -> None:
        targets = self._fleet.targets(self._agenda.demands(self._busy), self._room, self._now, self._busy)
        # A gang that trains keeps its room until its trial has ended.
        for gang, number in targets.items():
            self._gangs[gang] = max(self._busy[gang], min(self._gangs[gang], number))
        while True:
            places = [gang for gang in targets if self._has_place(gang, targets[gang])]
            trial_id = self._agenda.next(places)
            if trial_id is None:
                return
            self._start(trial_id)

    def _has_place(self, gang: Kind, target: int) -> bool:
        if self._busy[gang] >= target:
            return False
        return self._busy[gang] < self._gangs[gang] or self._fits_beside_the_others(gang)

    def _fits_beside_the_others(self, gang: Kind) -> bool:
        packing = self._room.packing()
        live = [kind for kind, number in self._gangs.items() for _ in range(number)]
        return all(packing.add(kind) for kind in [*live, gang])

    def _start(self, trial_id: str) -> None:
        entry = self._entries[trial_id]
        new = self._busy[entry.gang] >= self._gangs[entry.gang]
        self._busy[entry.gang] += 1
        self._gangs[entry.gang] += new
        start = self._now + (self._start_s if new else 0.0)
        self._times[trial_id] = start, start + entry.cost
        heapq.heappush(self._running, (start + entry.cost, len(self._times), trial_id))
