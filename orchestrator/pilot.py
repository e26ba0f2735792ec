"""Tune's events as reports and outcomes of trials."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import ray
from ray import tune

from cluster.connection import draining_nodes
from orchestrator.brake import Brake
from orchestrator.leases import ENDING, REPORT
from search_spaces.results import Failure, TrialResult
from trainables.failures import node_failure

NODES_S = 2.0
"""Seconds between two looks at which nodes will go away."""

Report = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialOutcome:
    """How one attempt at a trial ended: with a result, with a failure, or stopped on demand.

    Attributes:
        trial_id: Of the trial.
        attempt_id: Of the attempt.
        result: Of a finished trial; its folder is in the storage.
        failure: Why there is none.
        stopped: Whether ``Executor.stop`` asked for it; its checkpoint is in the storage.
    """

    trial_id: str
    attempt_id: str
    result: TrialResult | None = None
    failure: Failure | None = None
    stopped: bool = False


class Pilot(tune.Callback):  # type: ignore[misc]
    """Turns Tune's events into reports and outcomes."""

    def __init__(
        self,
        broker: Any,
        brake: Brake,
        on_report: Callable[[Report], None],
        on_done: Callable[[TrialOutcome], None],
        to_stop: Collection[str],
    ) -> None:
        self._broker = broker
        self._brake = brake
        self._on_report = on_report
        self._on_done = on_done
        self._to_stop = to_stop
        self._leaving: frozenset[str] = frozenset()
        self._looked_at = -math.inf

    def __reduce__(self) -> Any:
        # Tune saves its callbacks for a restore that nobody asks for; these hold connections and locks.
        return (tune.Callback, ())

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Called by Tune in each turn of its loop."""
        self._brake.apply(trials)
        if time.monotonic() - self._looked_at > NODES_S:
            self._look_for_preemption()

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Called by Tune for each result of a lease."""
        raw = json.loads(trial.config["trial"])
        if REPORT in result:
            report = json.loads(result.pop(REPORT))
            self._brake.guard(self._on_report, {"trial_id": raw["trial_id"], "attempt_id": raw["attempt_id"], **report})
        if ENDING in result:
            ending = json.loads(result.pop(ENDING))
            if "stopped" not in ending or raw["trial_id"] in self._to_stop:
                self._brake.guard(self._on_done, _outcome(raw, ending))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Called by Tune when a trial has ended."""
        _slim(trial)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Called by Tune when a process died once too often."""
        raw = json.loads(trial.config["trial"])
        self._broker.cancel.remote(raw["trial_id"])
        hung = self._brake.guard(lambda: ray.get(self._broker.last_words.remote(raw["trial_id"])))
        why = hung or _last_error(trial)
        failure = node_failure(f"the process of this trial died {trial.num_failures} times: {why}")
        outcome = TrialOutcome(trial_id=raw["trial_id"], attempt_id=raw["attempt_id"], failure=failure)
        self._brake.guard(self._on_done, outcome)

    def _look_for_preemption(self) -> None:
        self._looked_at = time.monotonic()
        leaving = draining_nodes()
        if leaving != self._leaving:
            self._leaving = leaving
            self._broker.preempt.remote(sorted(leaving))


def _outcome(trial: dict[str, Any], ending: dict[str, Any]) -> TrialOutcome:
    failure, result = ending.get("failure"), ending.get("result")
    return TrialOutcome(
        trial_id=trial["trial_id"],
        attempt_id=trial["attempt_id"],
        failure=None if failure is None else Failure.model_validate(failure),
        result=None if result is None else TrialResult.model_validate(result),
        stopped="stopped" in ending,
    )


def _slim(trial: Any) -> None:
    """Drop what Tune keeps of a trial that has ended until all have: its config twice, and statistics of its metrics,
    some 20 KiB."""
    trial.config.pop("trial", None)
    metadata = trial.run_metadata
    kept = ("training_iteration", "trial_id", "done")  # Tune asks for them at the end
    metadata.last_result = {name: metadata.last_result[name] for name in kept if name in metadata.last_result}
    metadata.metric_analysis, metadata.metric_n_steps = {}, {}


def _last_error(trial: Any) -> str:
    error = trial.get_error()
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
