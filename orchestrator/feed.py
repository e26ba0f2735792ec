"""Hands trials to Ray Tune one after the other, as they become ready and as a gang of their shape has a place."""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from ray.tune.execution.placement_groups import PlacementGroupFactory
from ray.tune.experiment import Experiment, Trial
from ray.tune.search import SearchAlgorithm

from orchestrator.fleet import Demand
from search_spaces.study import GangSpec

Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class Handout:
    """A trial that should start now.

    Attributes:
        payload: The ResolvedTrial as plain data.
        gang: Which gang trains it.
    """

    payload: dict[str, Any]
    gang: GangSpec


class Feed(Protocol):
    """Where an executor takes its trials from. Called in the thread of ``Executor.run``."""

    def __len__(self) -> int:
        """Most trials that may still be taken; the executor ends at 0."""

    def demands(self, running: Mapping[GangSpec, int]) -> dict[GangSpec, Demand]:
        """What there is to do for each gang of the feed, with nothing left to do too.

        Args:
            running: Trials that were taken and have not ended.
        """

    def next(self, gangs: Collection[GangSpec]) -> Handout | None:
        """The trial that should start now; None if all that are left wait for a running one or for another gang."""


class Brake(Protocol):
    """What stops a run."""

    pulled: bool

    def guard(self, function: Callable[..., Made], *arguments: Any) -> Made | None:
        """What the function gives; its exception pulls the brake."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a trial can be trained.

    Attributes:
        trainable: Name under which Tune knows what leases it.
        config: What the Trainable is told, beside the trial.
        resources: Of the lease.
        first: Most trials that Tune may know of before any has spoken: whose process is up first would start first.
        named: Most after that; a few more than can run, so that it finds the next one.
    """

    trainable: str
    config: dict[str, Any]
    resources: PlacementGroupFactory
    first: int
    named: int


PER_SLOT = 100
"""At the end of a Tuner all slots wait for the last trial, half a trial each: 0.5 % of so many in each."""

Places = Callable[[Mapping[GangSpec, Demand]], dict[GangSpec, Place]]
"""From what there is to do to where trials can be trained now."""


class InOrder:
    """A feed of trials that wait for nothing.

    Args:
        trials: ResolvedTrials as plain data.
        gang: Which gang trains them.
    """

    def __init__(self, trials: Iterable[dict[str, Any]], gang: GangSpec) -> None:
        self._trials = deque(trials)
        self._gang = gang

    def __len__(self) -> int:
        """Trials that are left."""
        return len(self._trials)

    def demands(self, running: Mapping[GangSpec, int]) -> dict[GangSpec, Demand]:
        """All that are left are ready."""
        left = len(self._trials)
        return {self._gang: Demand(ready=left, running=running.get(self._gang, 0), work=left)}

    def next(self, gangs: Collection[GangSpec]) -> Handout | None:
        """The first that is left."""
        return Handout(self._trials.popleft(), self._gang) if self._trials and self._gang in gangs else None


class TuneFeed(SearchAlgorithm):  # type: ignore[misc]
    """Tune's view of a feed.

    Args:
        feed: Where the trials come from.
        brake: Once pulled, no more trial is started.
        places: Where trials can be trained.
        most: Trials of one Tuner; as many more as ``PER_SLOT`` times those that ran at a time.
    """

    def __init__(self, feed: Feed, brake: Brake, places: Places, most: int) -> None:
        self._feed = feed
        self._brake = brake
        self._places = places
        self._most = most
        self._named = self._slots = 0
        self._running: dict[str, GangSpec] = {}
        self._anybody_spoke = False
        self._spoke: set[str] = set()
        self._experiment: Experiment | None = None

    def __reduce__(self) -> Any:
        # Tune saves its search for a restore that nobody asks for; a feed holds connections and locks.
        return (SearchAlgorithm, ())

    @property
    def total_samples(self) -> int:
        """Called by Tune for its progress output."""
        return min(len(self._feed), self._left)

    @property
    def _left(self) -> int:
        """Trials that this Tuner may still name."""
        return max(0, max(self._most, PER_SLOT * self._slots) - self._named)

    def add_configurations(self, experiments: Any) -> None:
        """Called by Tune once, with the one experiment whose settings every trial shares."""
        [self._experiment] = experiments

    def next_trial(self) -> Trial | None:
        """Called by Tune in each turn of its loop."""
        if self.is_finished():
            return None
        return self._brake.guard(self._next)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Called by Tune when a trial has reported."""
        self._anybody_spoke = True
        self._spoke.add(trial_id)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Called by Tune when a trial has ended."""
        self._anybody_spoke = True
        self._running.pop(trial_id, None)
        self._spoke.discard(trial_id)

    def is_finished(self) -> bool:
        """Called by Tune: whether no more trial will come."""
        return self._brake.pulled or not self._left or not len(self._feed)

    def _next(self) -> Trial | None:
        named = Counter(self._running.values())
        training = Counter(gang for trial_id, gang in self._running.items() if trial_id in self._spoke)
        demands = {gang: replace(d, training=training[gang]) for gang, d in self._feed.demands(named).items()}
        places = self._places(demands)
        # Two gangs of a study may come to one place.
        taken = {gang: sum(named[g] for g, other in places.items() if other == place) for gang, place in places.items()}
        handout = self._feed.next([gang for gang, place in places.items() if taken[gang] < self._limit(place)])
        if handout is None:
            if not named and not any(demand.ready for demand in demands.values()):
                raise RuntimeError(f"{len(self._feed)} trials wait for others, but none is running")
            return None
        self._named += 1
        trial = self._trial(handout.payload, places[handout.gang])
        self._running[trial.trial_id] = handout.gang
        self._slots = max(self._slots, len(self._running))
        return trial

    def _limit(self, place: Place) -> int:
        return place.named if self._anybody_spoke else place.first

    def _trial(self, payload: dict[str, Any], place: Place) -> Trial:
        assert self._experiment is not None, "Tune adds its experiment before it asks for trials"
        spec = self._experiment.spec
        return Trial(
            place.trainable,
            config=place.config | {"trial": json.dumps(payload)},
            placement_group_factory=place.resources,
            checkpoint_config=spec["checkpoint_config"],
            max_failures=spec["max_failures"],
            trial_name_creator=spec["trial_name_creator"],
            trial_dirname_creator=spec["trial_dirname_creator"],
            storage=spec["storage"],
        )
