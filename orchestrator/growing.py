"""An agenda to which trials are added while it is worked off."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable

from orchestrator.agenda import Agenda, Entry


class GrowingAgenda:
    """An agenda and the trials that came later; nothing starts from one of those.

    What is urgent, because more trials become known by it, goes before all others; the rest of what came later goes
    last, longest first.

    Args:
        entries: The trials that are known now.
    """

    def __init__(self, entries: Iterable[Entry]) -> None:
        entries = list(entries)
        self._first = Agenda(entries)
        self._unfinished = {entry.trial_id for entry in entries}
        self._ready: list[tuple[bool, float, int, str]] = []
        self._held: dict[str, list[tuple[bool, float, int, str]]] = {}
        self._added = 0

    def __len__(self) -> int:
        """Trials that have not been handed out."""
        return len(self._first) + len(self._ready) + sum(len(items) for items in self._held.values())

    def add(self, entry: Entry, *, urgent: bool) -> None:
        """A trial that is known from now on; it waits for the one it starts from."""
        self._added += 1
        item = (not urgent, -entry.cost, self._added, entry.trial_id)
        if entry.upstream_id in self._unfinished:
            self._held.setdefault(str(entry.upstream_id), []).append(item)
        else:
            heapq.heappush(self._ready, item)

    def next(self) -> str | None:
        """As ``Agenda.next``."""
        if self._ready and not self._ready[0][0]:
            return heapq.heappop(self._ready)[-1]
        trial_id = self._first.next()
        if trial_id is None and self._ready:
            return heapq.heappop(self._ready)[-1]
        return trial_id

    def complete(self, trial_id: str) -> None:
        """As ``Agenda.complete``."""
        self._first.complete(trial_id)
        self._unfinished.discard(trial_id)
        for item in self._held.pop(trial_id, ()):
            heapq.heappush(self._ready, item)

    def fail(self, trial_id: str) -> list[str]:
        """As ``Agenda.fail``."""
        lost = self._first.fail(trial_id)
        for gone in (trial_id, *lost):
            self._unfinished.discard(gone)
            lost += [item[-1] for item in self._held.pop(gone, ())]
        return lost

    def leave(self, chosen: Callable[[str], bool]) -> list[str]:
        """As ``Agenda.leave``."""
        left = self._first.leave(chosen)
        for gone in list(left):
            self._unfinished.discard(gone)
            left += [item[-1] for item in self._held.pop(gone, ())]
        left += [item[-1] for item in sorted(self._ready) if chosen(item[-1])]
        self._ready = [item for item in self._ready if not chosen(item[-1])]
        heapq.heapify(self._ready)
        for upstream_id, items in list(self._held.items()):
            left += [item[-1] for item in items if chosen(item[-1])]
            self._held[upstream_id] = [item for item in items if not chosen(item[-1])]
        return left
