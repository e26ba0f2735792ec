"""Claims: which driver trains which trial, so that two drivers of one study share its work instead of doubling it.

A claim is a small file in the storage, one per trial, made exclusively. It counts for as long as its driver lives
(``orchestrator.drivers``): a driver that was killed blocks nobody. Whether a trial is done stands in the record alone;
a storage that is away, or claims that are lost, cost double work and nothing else.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum

import pyarrow as pa

from orchestrator.drivers import live_drivers
from orchestrator.record_states import TrialState
from search_spaces.exceptions import TrackingError
from search_spaces.failpoints import failpoint
from search_spaces.names import FailureClass, State
from search_spaces.results import TrialResult
from trainables.storage import Storage, Undelivered

LOOK_S = 3.0
"""Seconds between two looks at what others do."""
YOUNG_S = 30.0
"""A claim that is younger counts although its driver has not left a note yet."""

_STORAGE_ERRORS = (OSError, pa.ArrowException)


class Claim(StrEnum):
    """What a trial's claim says to a driver."""

    OURS = "ours"
    HELD = "held"
    """Another driver, which lives, trains it."""
    ENDED = "ended"
    """A driver has ended it: the record has its result, or a failure that would come again."""
    FREE = "free"
    """No driver that lives has it."""


class Claims:
    """The claims of one driver.

    Args:
        storage: Where they lie.
        driver: Its name (``DriverNote.name``).
        record_read_at: When this run read the record, seconds since the epoch: what ended earlier it knew then.
        again: Trials that this run trains although they had diverged by then.
        clock: Seconds, never going back.
    """

    def __init__(
        self,
        storage: Storage,
        driver: str,
        *,
        record_read_at: float = 0.0,
        again: Collection[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._storage = storage
        self._driver = driver
        self._record_read_at = record_read_at
        self._again = frozenset(again)
        self._clock = clock
        self._mine: set[str] = set()
        self._drivers: dict[str, bool] = {}
        self._looked_at = -LOOK_S

    def take(self, trial_id: str) -> Claim:
        """Claim a trial.

        Returns:
            OURS if it is this driver's now. HELD or ENDED if it is another's; of one that ended the record says how.
        """
        if trial_id in self._mine:
            return Claim.OURS
        try:
            stands = self._take(trial_id)
        except _STORAGE_ERRORS:
            stands = Claim.OURS
        if stands is Claim.OURS:
            self._mine.add(trial_id)
            failpoint("claim.taken")
        return stands

    def tries_again(self, trial_id: str) -> bool:
        """Whether a divergence that the record had when it was read is no end of this trial."""
        return trial_id in self._again

    def take_over(self, trial_id: str) -> None:
        """Claim a trial that another driver has ended, but of which the record knows nothing."""
        self._mine.add(trial_id)
        with contextlib.suppress(*_STORAGE_ERRORS):
            self._storage.replace_claim(trial_id, self._text(Claim.HELD))

    def look(self, trial_id: str) -> Claim:
        """What the claim of a trial says now."""
        try:
            return self._look(trial_id)
        except _STORAGE_ERRORS:
            return Claim.HELD  # asked again

    def end(self, trial_id: str) -> None:
        """The record has the end of a trial of this driver: no other one should train it again. From any thread."""
        if trial_id in self._mine:
            with contextlib.suppress(*_STORAGE_ERRORS):
                self._storage.replace_claim(trial_id, self._text(Claim.ENDED))

    def release(self, trial_id: str) -> None:
        """This driver will not end this trial: another one may train it."""
        if trial_id in self._mine:
            self._mine.discard(trial_id)
            with contextlib.suppress(*_STORAGE_ERRORS):
                self._delete_if_ours(trial_id)

    def close(self) -> None:
        """The driver ends: what it has not ended is free. The last driver deletes all claims."""
        with contextlib.suppress(*_STORAGE_ERRORS):
            if not any(lives for name, lives in live_drivers(self._storage).items() if name != self._driver):
                self._storage.delete_claims()
                return
            for trial_id in self._mine:
                self._delete_if_ours(trial_id)

    def _take(self, trial_id: str) -> Claim:
        if self._storage.create_claim(trial_id, self._text(Claim.HELD)):
            return Claim.OURS
        stands = self._look(trial_id)
        if stands is not Claim.FREE:
            return stands
        self._storage.delete_claim(trial_id)
        return Claim.OURS if self._storage.create_claim(trial_id, self._text(Claim.HELD)) else self._look(trial_id)

    def _look(self, trial_id: str) -> Claim:
        text = self._storage.claim(trial_id)
        if text is None:
            return Claim.FREE
        try:
            said = json.loads(text)
            state, driver, at = Claim(said["state"]), str(said["driver"]), float(said["time"])
        except (ValueError, KeyError, TypeError):
            return Claim.FREE  # cut off while it was written
        if state is Claim.ENDED:
            return Claim.ENDED if self._has_ended(trial_id, driver, at) else Claim.FREE
        if driver == self._driver:
            return Claim.OURS
        return Claim.HELD if self._lives(driver, unknown=time.time() - at < YOUNG_S) else Claim.FREE

    def _has_ended(self, trial_id: str, driver: str, at: float) -> bool:
        """Whether an end counts. One from before this run read the record does not keep it from what it then chose to
        train: weights may be gone since, or a divergence is to be tried again."""
        if at >= self._record_read_at or driver == self._driver:
            return True
        return trial_id not in self._again and self._lives(driver, unknown=False)

    def _lives(self, driver: str, unknown: bool) -> bool:
        if self._clock() - self._looked_at >= LOOK_S or driver not in self._drivers:
            self._drivers, self._looked_at = live_drivers(self._storage), self._clock()
        return self._drivers.get(driver, unknown)

    def _text(self, state: Claim) -> str:
        return json.dumps({"driver": self._driver, "state": state, "time": time.time()})

    def _delete_if_ours(self, trial_id: str) -> None:
        if self._look(trial_id) is Claim.OURS:
            self._storage.delete_claim(trial_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """How a trial that another driver had goes on; with neither of the two it is to be trained here.

    Attributes:
        trial_id: The trial.
        state: Its state in the record if it has ended there, done or by a divergence.
        result: Its result, if that waits in the storage of a driver that is gone; to be delivered.
    """

    trial_id: str
    state: TrialState | None = None
    result: TrialResult | None = None


class Others:
    """The trials of a run that other drivers have.

    Args:
        claims: Of this driver.
        storage: Where results wait.
        states: Where trials stand in the record.
        upstream: Trials whose weights others start from.
        every_s: Seconds between two looks.
        clock: Seconds, never going back.
    """

    def __init__(
        self,
        claims: Claims,
        storage: Storage,
        states: Callable[[Iterable[str]], dict[str, TrialState]],
        upstream: Collection[str | None] = (),
        every_s: float = LOOK_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.claims = claims
        self._storage = storage
        self._states = states
        self._upstream = upstream
        self._every_s = every_s
        self._clock = clock
        self._waiting: dict[str, None] = {}
        self._looked_at = -every_s

    def __len__(self) -> int:
        """Trials that another driver has."""
        return len(self._waiting)

    def mine(self, trial_id: str) -> bool:
        """Claim a trial; False if another driver has it, which ``news`` will tell of."""
        if self.claims.take(trial_id) is Claim.OURS:
            return True
        self._waiting[trial_id] = None
        return False

    def news(self) -> list[News]:
        """What has become of the trials that others had; each is told of once. Looks every few seconds."""
        if not self._waiting or self._clock() - self._looked_at < self._every_s:
            return []
        self._looked_at = self._clock()
        stands = {trial_id: self.claims.look(trial_id) for trial_id in self._waiting}
        free = {trial_id: stand for trial_id, stand in stands.items() if stand is not Claim.HELD}
        if not free:
            return []
        try:
            # In this order: what is delivered leaves the storage only when the record has it.
            published = {trial_id for trial_id in free if self._storage.is_published(trial_id)}
            states = self._states(free)
            news = [self._news(i, stand, states[i], i in published) for i, stand in free.items()]
        except (TrackingError, *_STORAGE_ERRORS):
            return []  # the record or the storage is away; asked again
        for one in news:
            del self._waiting[one.trial_id]
        return news

    def _news(self, trial_id: str, stand: Claim, state: TrialState, published: bool) -> News:
        if self._has_diverged(trial_id, stand, state) or self._is_done(trial_id, state):
            return News(trial_id=trial_id, state=state)
        if published:
            item = Undelivered(folder=f"trials/{trial_id}", key=trial_id, state=State.COMPLETE)
            return News(trial_id=trial_id, result=self._storage.result(item))
        if stand is Claim.ENDED:
            self.claims.take_over(trial_id)
        return News(trial_id=trial_id)

    def _has_diverged(self, trial_id: str, stand: Claim, state: TrialState) -> bool:
        """Diverged, and if this run tries it again, not only before: another driver has ended it since."""
        if state.failure_class is not FailureClass.DIVERGENCE:
            return False
        return stand is Claim.ENDED or not self.claims.tries_again(trial_id)

    def _is_done(self, trial_id: str, state: TrialState) -> bool:
        """Complete, and nothing that starts from it lacks its weights, which may have been pruned."""
        return state.state is State.COMPLETE and (trial_id not in self._upstream or self._storage.has_weights(trial_id))
