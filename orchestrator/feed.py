"""Hands trials to Ray Tune one after the other, as they become ready, instead of as one fixed list."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeVar

from ray.tune.experiment import Experiment, Trial
from ray.tune.search import SearchAlgorithm

Made = TypeVar("Made")


class Feed(Protocol):
    """Where an executor takes its trials from. Called in the thread of ``Executor.run``."""

    def __len__(self) -> int:
        """Most trials that may still be taken; the executor ends at 0."""

    def next(self) -> dict[str, Any] | None:
        """The ResolvedTrial that should start now, as plain data; None if all that are left wait for a running one."""


class Brake(Protocol):
    """What stops a run."""

    pulled: bool

    def guard(self, function: Callable[..., Made], *arguments: Any) -> Made | None:
        """What the function gives; its exception pulls the brake."""


class InOrder:
    """A feed of trials that wait for nothing.

    Args:
        trials: ResolvedTrials as plain data.
    """

    def __init__(self, trials: Iterable[dict[str, Any]]) -> None:
        self._trials = deque(trials)

    def __len__(self) -> int:
        """Trials that are left."""
        return len(self._trials)

    def next(self) -> dict[str, Any] | None:
        """The first that is left."""
        return self._trials.popleft() if self._trials else None


class TuneFeed(SearchAlgorithm):  # type: ignore[misc]
    """Tune's view of a feed.

    Args:
        feed: Where the trials come from.
        brake: Once pulled, no more trial is started.
        slots: Trials that can run at a time. No more than these are named to Tune before the first of them speaks:
            whose process is up first would start first.
        at_a_time: Most trials after that which Tune may know of and that have not ended.
        most: Trials of one Tuner.
    """

    def __init__(self, feed: Feed, brake: Brake, *, slots: int, at_a_time: int, most: int) -> None:
        self._feed = feed
        self._brake = brake
        self._limit = slots
        self._at_a_time = at_a_time
        self._left = most
        self._known: set[str] = set()
        self._experiment: Experiment | None = None

    def __reduce__(self) -> Any:
        # Tune saves its search for a restore that nobody asks for; a feed holds connections and locks.
        return (SearchAlgorithm, ())

    @property
    def total_samples(self) -> int:
        """Called by Tune for its progress output."""
        return min(len(self._feed), self._left)

    def add_configurations(self, experiments: Any) -> None:
        """Called by Tune once, with the one experiment whose settings every trial shares."""
        [self._experiment] = experiments

    def next_trial(self) -> Trial | None:
        """Called by Tune in each turn of its loop."""
        if self.is_finished() or len(self._known) >= self._limit:
            return None
        payload = self._brake.guard(self._feed.next)
        if payload is None:
            if not self._known and not self._brake.pulled:
                self._brake.guard(_nothing_to_wait_for, len(self._feed))
            return None
        self._left -= 1
        trial = self._trial(payload)
        self._known.add(trial.trial_id)
        return trial

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Called by Tune when a trial has reported."""
        self._limit = self._at_a_time

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Called by Tune when a trial has ended."""
        self._limit = self._at_a_time
        self._known.discard(trial_id)

    def is_finished(self) -> bool:
        """Called by Tune: whether no more trial will come."""
        return self._brake.pulled or not self._left or not len(self._feed)

    def _trial(self, payload: dict[str, Any]) -> Trial:
        assert self._experiment is not None, "Tune adds its experiment before it asks for trials"
        spec = self._experiment.spec
        return Trial(
            spec["run"],
            config=spec["config"] | {"trial": json.dumps(payload)},
            placement_group_factory=spec.get("resources_per_trial"),
            checkpoint_config=spec["checkpoint_config"],
            max_failures=spec["max_failures"],
            trial_name_creator=spec["trial_name_creator"],
            trial_dirname_creator=spec["trial_dirname_creator"],
            storage=spec["storage"],
        )


def _nothing_to_wait_for(left: int) -> None:
    raise RuntimeError(f"{left} trials wait for others, but none is running")
