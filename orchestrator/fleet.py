"""How many gangs of each shape there should be: one pure policy that a run, the simulator and the tests share.

A study may need gangs of several shapes, and not all fit the cluster at once. A shape keeps its gangs while it has
trials, so that ranks are not started over and over; a shape that does not fit beside them gets its turn when it has
waited for long enough. So neither large nor small gangs starve, but for trials of a lower priority.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

Kind = TypeVar("Kind")
Kind_contra = TypeVar("Kind_contra", contravariant=True)

PATIENCE_S = 300.0
"""Longest wait of a shape with trials that could start. Starting ranks takes 10 to 20 s, a few per cent of it."""


class Packing(Protocol[Kind_contra]):
    """Gangs that are placed one after the other."""

    def add(self, kind: Kind_contra, /) -> bool:
        """Place one more gang; False if there is no room for it."""


class Room(Protocol[Kind_contra]):
    """What fits at once (``cluster.capacity.Capacity``)."""

    def packing(self) -> Packing[Kind_contra]:
        """Nothing placed yet."""


@dataclass(slots=True)
class Slots:
    """A room for a number of gangs, whatever their shape.

    Attributes:
        number: At least 1.
    """

    number: int

    def packing(self) -> Slots:
        """As many slots."""
        return Slots(self.number)

    def add(self, kind: object, /) -> bool:
        """Take a slot."""
        self.number -= 1
        return self.number >= 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What there is to do for one shape.

    Attributes:
        ready: Trials that could start now.
        running: Trials that have been handed out and have not ended.
        waiting: Trials that start from one that has not ended.
        work: Of the trials that are ready, in any unit that all shapes share.
        priority: Highest of the trials that are ready; None if none is.
        training: Of those that have been handed out, trials that have reported: they hold their room.
    """

    ready: int = 0
    running: int = 0
    waiting: int = 0
    work: float = 0.0
    priority: int | None = None
    training: int = 0

    def __add__(self, other: Demand) -> Demand:
        return Demand(
            ready=self.ready + other.ready,
            running=self.running + other.running,
            waiting=self.waiting + other.waiting,
            work=self.work + other.work,
            priority=max((p for p in (self.priority, other.priority) if p is not None), default=None),
            training=self.training + other.training,
        )

    @property
    def now(self) -> int:
        """Gangs that could be of use now."""
        return self.ready + self.running


class Fleet(Generic[Kind]):
    """Decides how many gangs of each shape there should be.

    Args:
        size: Of a shape, to be compared: the larger one of two that could start is placed first.
        most: Most gangs at a time; None for no limit.
        patience_s: Longest wait of a shape that does not fit beside the others.
    """

    def __init__(
        self, size: Mapping[Kind, tuple[float, float]], *, most: int | None = None, patience_s: float = PATIENCE_S
    ) -> None:
        self._size = size
        self._most = most
        self._patience_s = patience_s
        self._targets: dict[Kind, int] = {}
        self._short_since: dict[Kind, float] = {}
        self._priorities: dict[Kind, int] = {}

    def targets(
        self,
        demands: Mapping[Kind, Demand],
        room: Room[Kind],
        now: float,
        live: Mapping[Kind, int] | None = None,
        busy: Mapping[Kind, int] | None = None,
    ) -> dict[Kind, int]:
        """How many gangs of each shape there should be from now on.

        Args:
            demands: Per shape.
            room: What fits.
            now: Seconds on a clock that never goes back.
            live: Gangs that hold their room, those that end their last trial included. A shape waits only while it has
                none; else two shapes with long trials would take each other's turns before they could begin.
            busy: What counts among the ``most``: gangs as in ``live``, trials of single processes from their start;
                ``live`` if not given.
        """
        # One whose last trials run keeps the priority that they had.
        self._priorities |= {kind: d.priority for kind, d in demands.items() if d.priority is not None}
        made = _Targets(dict.fromkeys(demands, 0), room.packing(), self._most)
        for kind in self._in_turn([k for k, demand in demands.items() if demand.now], now):
            made.add(kind)
        self._share_out(made, demands)
        self._keep(made, demands)
        targets = self._within_most(made.numbers, (live if busy is None else busy) or {})
        self._targets = targets
        for kind in demands:
            if not targets[kind] and demands[kind].now and not (live or {}).get(kind):
                self._short_since.setdefault(kind, now)
            else:
                self._short_since.pop(kind, None)
        return dict(targets)

    def _within_most(self, numbers: dict[Kind, int], busy: Mapping[Kind, int]) -> dict[Kind, int]:
        """No shape grows into the place of a trial that still runs on a gang which is to go."""
        if self._most is None:
            return numbers
        free = self._most - sum(busy.values())
        kept = {}
        for kind, number in numbers.items():
            there = busy.get(kind, 0)
            grown = min(max(0, number - there), max(0, free))
            kept[kind] = min(number, there + grown)
            free -= grown
        return kept

    def _in_turn(self, kinds: list[Kind], now: float) -> list[Kind]:
        """By priority; of the same, those that have waited too long, longest first; those that have gangs; the others.
        Large before small.
        """

        def turn(kind: Kind) -> tuple[int, int, float, tuple[float, float]]:
            rank = -self._priorities.get(kind, 0)
            waited = now - self._short_since.get(kind, now)
            gpus, cpus = self._size[kind]
            size = (-gpus, -cpus)
            if kind in self._short_since and waited >= self._patience_s:
                return rank, 0, -waited, size
            return rank, (1 if self._targets.get(kind) else 2), 0.0, size

        return sorted(kinds, key=turn)

    def _share_out(self, made: _Targets[Kind], demands: Mapping[Kind, Demand]) -> None:
        """Give what is left to the shape with most work per gang, again and again."""
        numbers = made.numbers
        growing = {kind for kind, number in numbers.items() if number and number < demands[kind].now}
        while growing:
            kind = max(growing, key=lambda k: (demands[k].work / numbers[k], self._size[k]))
            if not made.add(kind) or numbers[kind] >= demands[kind].now:
                growing.remove(kind)

    def _keep(self, made: _Targets[Kind], demands: Mapping[Kind, Demand]) -> None:
        """Idle gangs whose trials only wait for others stay where nobody needs their room."""
        for kind, demand in demands.items():
            of_use = min(self._targets.get(kind, 0), demand.now + demand.waiting)
            while made.numbers[kind] < of_use and made.add(kind):
                pass


@dataclass(slots=True)
class _Targets(Generic[Kind]):
    """Targets in the making."""

    numbers: dict[Kind, int]
    packing: Packing[Kind]
    most: int | None

    def add(self, kind: Kind) -> bool:
        """One more gang; False if there is no room for it."""
        if (self.most is not None and sum(self.numbers.values()) >= self.most) or not self.packing.add(kind):
            return False
        self.numbers[kind] += 1
        return True
