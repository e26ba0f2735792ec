"""Trials that are taken out of a run while it goes on, on whatever machine: ``cancel`` asks, the run's course obeys.

A request is a note in the storage, addressed to one driver, which reads it within seconds and deletes it. It names
trials by their place in the study, so that it reaches those, too, whose values a search has not chosen yet. It holds
for that run alone: the next one takes the trials up again, from their checkpoints.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console

from orchestrator.drivers import Driver, answer_to, ask_to_cancel, drivers_now, is_heard
from orchestrator.places import Places
from orchestrator.plan import PlannedTrial
from search_spaces.exceptions import UserError
from search_spaces.expand import expand
from search_spaces.names import Role
from search_spaces.selection import Key, key_of, select
from search_spaces.study import Study
from trainables.storage import Storage

PATIENCE_S = 30.0
"""How long ``cancel`` waits for the drivers to hear it."""


class Cancellation:
    """What a run was asked to leave out. ``ask`` may be called from any thread, the rest from the run's.

    Args:
        todo: Trials of the run; it may grow.
        needed: Gives upstream trials that others will start from which are not known yet.
    """

    def __init__(self, todo: Mapping[str, PlannedTrial], needed: Callable[[], Collection[str]] = tuple) -> None:
        self._todo = todo
        self._needed = needed
        self._requests: queue.SimpleQueue[frozenset[Key]] = queue.SimpleQueue()
        self._keys: set[Key] = set()
        self._looked_at = 0
        self._held: set[str] = set()

    def __len__(self) -> int:
        """Trials that are held back."""
        return len(self._held)

    def ask(self, keys: Iterable[Key]) -> None:
        """Leave these target trials out, now and whenever they become known; others than the run's are ignored."""
        self._requests.put(frozenset(keys))

    def hear(self) -> bool:
        """Take the requests since the last call; whether there is anything to look for."""
        news = len(self._todo) > self._looked_at and bool(self._keys)
        while not self._requests.empty():
            self._keys |= self._requests.get()
            news = True
        self._looked_at = len(self._todo)
        return news

    def wants(self, planned: PlannedTrial) -> bool:
        """Whether a target trial is to be left out."""
        return planned.trial.role is Role.TARGET and key_of(planned.trial) in self._keys

    def asked(self, ended: Collection[str], also: Iterable[str] = ()) -> set[str]:
        """Trials to be left out that have not ended, and the upstream ones only they need.

        Args:
            ended: Trials that have.
            also: Further trials to be left out: of searches that nothing waits for any more.
        """
        chosen = {i for i, planned in self._todo.items() if self.wants(planned)} | set(also)
        if not chosen - {*ended, *self._held}:
            return set()
        gone = {*chosen, *ended, *self._held}
        return (chosen | (needless(self._todo.values(), gone) - set(self._needed()))) - {*ended, *self._held}

    def hold(self, trial_ids: Iterable[str]) -> None:
        """These are held back from now on."""
        self._held |= set(trial_ids)

    def holds(self, trial_id: str) -> bool:
        """Whether a trial is held back."""
        return trial_id in self._held

    def ended(self, trial_id: str) -> None:
        """A trial has ended, perhaps before it could be stopped."""
        self._held.discard(trial_id)


def needless(todo: Iterable[PlannedTrial], gone: Collection[str]) -> set[str]:
    """Upstream trials that nothing will start from any more.

    Args:
        todo: Trials of a run.
        gone: Those of them that need nothing: ended, or left out.
    """
    gone = set(gone)
    still_open = {t.trial_id: t for t in todo if t.trial_id not in gone}
    found: set[str] = set()
    # What needs an upstream trial is of a later stage, so that going from the last to the first finds whole chains.
    for stage in sorted({t.trial.stage for t in still_open.values()}, reverse=True):
        needed = {t.upstream_id for t in still_open.values()}
        upstream = [t for t in still_open.values() if t.trial.role is Role.UPSTREAM and t.trial.stage == stage]
        for planned in upstream:
            if planned.trial_id not in needed:
                found.add(planned.trial_id)
                del still_open[planned.trial_id]
    return found


def selected_keys(study: Study, only: str) -> set[Key]:
    """The target trials that are selected, from the study file alone: who cancels needs no images and no record.

    Args:
        study: The study.
        only: See ``search_spaces.selection.select``.

    Raises:
        UserError: ``only`` cannot be read, or selects no trial of the study.
    """
    return {key_of(t) for t in select(expand(study).trials, only) if t.role is Role.TARGET}


def request(
    storage: Storage,
    drivers: Sequence[Driver],
    keys: Collection[Key],
    patience_s: float = PATIENCE_S,
    every_s: float = 0.5,
) -> dict[Driver, int | None]:
    """Ask drivers to leave trials out, and wait until they have heard it.

    Args:
        storage: The study's.
        drivers: Those that run the study now.
        keys: The trials.
        patience_s: Longest wait.
        every_s: Between two looks.

    Returns:
        Driver -> how many of its trials these are, ended ones included, 0 if it has ended; None if it has not heard it
        yet.
    """
    asked = {driver: ask_to_cancel(storage, driver, keys) for driver in drivers}
    until = time.monotonic() + patience_s
    while True:
        deaf = [driver for driver, note in asked.items() if not is_heard(storage, note)]
        if not deaf or time.monotonic() >= until:
            return {d: None if d in deaf else answer_to(storage, d, note) for d, note in asked.items()}
        time.sleep(every_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancelled:
    """What was asked of runs that go on, and heard by them.

    Attributes:
        selected: Target trials of the study that were selected.
        running: Those of them that had reported and not ended; they stop at their next report.
        drivers: The runs.
    """

    selected: int
    running: int
    drivers: tuple[Driver, ...]

    @property
    def text(self) -> str:
        """One sentence."""
        where = ", ".join(driver.label for driver in self.drivers)
        return f"{self.selected} trials selected, {self.running} of them running; the run is {where}"


def cancel_selected(
    study: Study,
    only: str | None,
    places: Places,
    console: Console,
    confirm: Callable[[], None] = lambda: None,
) -> Cancelled:
    """Take trials out of every run of a study that goes on, and wait until it has heard it.

    Args:
        study: The study.
        only: Which trials; see ``search_spaces.selection.select``.
        places: Where runs leave their notes.
        console: Where to say what happens.
        confirm: Called before anything is asked; raises to leave it.

    Raises:
        UserError: Nothing was selected, no run goes on, or it has none of these trials, or it does not hear.
    """
    if only is None:
        raise UserError(
            "cancel needs --only, such as --only 'task=chest'; to stop the whole run, press Ctrl-C there "
            "(or ray job stop)"
        )
    storage = places.storage_of(study.name)
    drivers = drivers_now(storage, study.name)
    if not drivers:
        raise UserError(f"no run of {study.name} goes on, as far as the notes in storage {storage.label} say")
    chosen = selected_keys(study, only)
    running = {key for driver in drivers for key in driver.targets} & chosen
    asked = Cancelled(selected=len(chosen), running=len(running), drivers=tuple(drivers))
    console.print(asked.text, markup=False)
    confirm()
    with console.status("waiting until the run has heard it"):
        answers = request(storage, drivers, chosen)
    if deaf := [driver.label for driver, answer in answers.items() if answer is None]:
        raise UserError(f"{', '.join(deaf)} has not answered; it obeys when it next reads the storage")
    if not any(answers.values()):
        raise UserError(f"the run that goes on has no trial that --only {only!r} selects")
    console.print("heard: what has not ended is held back, what runs stops at its next report; run takes it up again")
    return asked
