"""Stands in for the executor: trials end at once, in an order that a test chooses, and say what was planted.

``Planted`` sets what all trials of a test do. Validation is best at a learning rate of 0.01; from 0.1 on training
diverges. Nothing of Ray is used.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import pytest

from orchestrator import engine
from orchestrator.feed import Feed
from orchestrator.pilot import TrialOutcome
from search_spaces.names import FailureClass
from search_spaces.results import Failure, TrialResult
from search_spaces.trial import ResolvedTrial
from tests.orchestrator.record_fixtures import make_result, publish
from trainables.storage import Storage

DIVERGES_FROM = 0.1


@dataclass
class Planted:
    """What the trials of a test do.

    Attributes:
        slots: Trials at a time.
        order: Seed of the order in which running trials end.
        stop_after: Interrupt the run once so many trials have ended.
        breaks: Gives the failure class of a trial that is to fail; None for one that is not.
        pause_s: What a trial takes.
        earlier_s: What the attempts are said to have taken that a trial went on from.
        trained: Every trial that was started, earliest first.
        rests: How often a run gave its gangs back to wait for others.
        at_rest: Called each time.
        asked: What the engine asked of each executor.
        nodes: Of the cluster, as Ray tells of them.
    """

    slots: int = 2
    order: int = 0
    stop_after: int | None = None
    breaks: Callable[[ResolvedTrial], FailureClass | None] = lambda trial: None
    pause_s: float = 0.0
    earlier_s: Callable[[ResolvedTrial], float] = lambda trial: 0.0
    trained: list[ResolvedTrial] = field(default_factory=list)
    rests: int = 0
    at_rest: Callable[[], None] = lambda: None
    asked: list[dict[str, Any]] = field(default_factory=list)
    nodes: list[dict[str, Any]] = field(default_factory=list)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> Planted:
        """Have the engine train like this."""
        monkeypatch.setattr(engine, "connect", lambda *arguments, **options: nullcontext())
        monkeypatch.setattr(engine, "present_and_possible", lambda: self.nodes)
        monkeypatch.setattr(engine, "Executor", lambda **options: _Executor(self, options))
        return self


def value_of(lr: float) -> float:
    """Validation value of a learning rate."""
    return 0.9 - 0.1 * (math.log10(lr) + 2) ** 2


class _Executor:
    def __init__(self, planted: Planted, options: dict[str, Any]) -> None:
        self._planted, self._on_done = planted, options["on_done"]
        planted.asked.append(options)
        self._order = random.Random(planted.order)

    def __enter__(self) -> _Executor:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def stop(self, trial_id: str) -> None:
        """Trials end at once, so that there is none to stop."""

    def rest(self) -> None:
        """There are no gangs to send home."""
        self._planted.rests += 1
        self._planted.at_rest()

    def run(self, feed: Feed) -> None:
        running: list[ResolvedTrial] = []
        ended = 0
        while len(feed) or running:
            while len(running) < self._planted.slots and len(feed) and (made := feed.next(list(feed.demands({})))):
                running.append(ResolvedTrial.model_validate(made.payload))
                self._planted.trained.append(running[-1])
            if not running and any(demand.ready for demand in feed.demands({}).values()):
                time.sleep(0.01)  # held back for now: Tune asks again
                continue
            if not running:
                assert not len(feed), f"{len(feed)} trials wait for others, but none is running"
                return
            if ended == self._planted.stop_after:
                raise KeyboardInterrupt
            time.sleep(self._planted.pause_s)
            self._on_done(self._end(running.pop(self._order.randrange(len(running)))))
            ended += 1

    def _end(self, trial: ResolvedTrial) -> TrialOutcome:
        broken = self._planted.breaks(trial)
        if broken is None and trial.protocol.lr >= DIVERGES_FROM:
            broken = FailureClass.DIVERGENCE
        ids: dict[str, Any] = {"trial_id": trial.trial_id, "attempt_id": trial.attempt_id}
        if broken is not None:
            message = f"planted {broken}"
            return TrialOutcome(**ids, failure=Failure(failure_class=broken, message=message, public_message=message))
        return TrialOutcome(**ids, result=self._publish(trial))

    def _publish(self, trial: ResolvedTrial) -> TrialResult:
        noise = 0.001 * (trial.seed.init % 7)
        result = make_result(trial, best_value=value_of(trial.protocol.lr) + noise)
        assert result.timing is not None
        timing = result.timing.model_copy(update={"earlier_s": self._planted.earlier_s(trial)})
        resumed = result.model_copy(update={"timing": timing})
        return publish(Storage(trial.workspace.storage), resumed, tuple(trial.task.evaluate))
