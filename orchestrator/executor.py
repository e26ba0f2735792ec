"""Runs resolved trials through Ray Tune, on warm gangs or in reused single processes.

with connect("local"), Executor(shape, on_report=..., on_done=...) as executor:
    executor.run(InOrder(trials))
"""

from __future__ import annotations

import json
import logging
import math
import shutil
import signal
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Any, Self, TypeVar

import ray
from ray import tune
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.shapes import Shape, trials_at_a_time
from orchestrator.broker import Broker, BrokerConfig
from orchestrator.feed import Feed, TuneFeed
from orchestrator.gangs import Gangs
from orchestrator.leases import ENDING, REPORT, GangTrainable, SoloTrainable
from search_spaces.results import Failure, TrialResult
from search_spaces.study import GangSpec
from trainables.failures import node_failure

logger = logging.getLogger(__name__)

Report = dict[str, Any]
Made = TypeVar("Made")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialOutcome:
    """How one attempt at a trial ended: exactly one of result and failure.

    Attributes:
        trial_id: Of the trial.
        attempt_id: Of the attempt.
        result: Of a finished trial; its folder is in the storage.
        failure: Why there is none.
    """

    trial_id: str
    attempt_id: str
    result: TrialResult | None = None
    failure: Failure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of an executor.

    Attributes:
        max_node_retries: How often a trial is tried again after its ranks or its process were lost.
        report_deadline_s: Longest silence of a gang that trains; then it is killed and its trial tried again.
        stop_patience_s: After an interruption, how long running trials may take to reach their next report and write
            a checkpoint.
        memory_growth_bytes: Private memory that a process may gain over its first trials before it is replaced.
        trials_per_tuner: After as many a fresh Tuner goes on: its cost per trial grows with their number.
    """

    max_node_retries: int = 3
    report_deadline_s: float = 1800.0
    stop_patience_s: float = 60.0
    memory_growth_bytes: int = 2 * 1024**3
    trials_per_tuner: int = 1000


class Executor:
    """Trains trials, in the order of their feed, as many at a time as fit. Needs a connection (``connection.connect``).

    Callbacks are called in the thread of ``run``, one at a time.

    Args:
        shape: Ranks per trial and what each of them gets.
        on_report: Called with each report: what the trial told (step, steps, loss, val, samples_per_s), ``trial_id``
            and ``attempt_id``.
        on_done: Called once for each trial that ended; not for one that was interrupted.
        max_concurrent: Most trials at a time; as many as fit if not given.
        train: The training function, ``module:function``.
        limits: Limits.

    Raises:
        UserError: Not even one trial of this shape fits the cluster.
    """

    def __init__(
        self,
        shape: GangSpec,
        *,
        on_report: Callable[[Report], None],
        on_done: Callable[[TrialOutcome], None],
        max_concurrent: int | None = None,
        train: str = "trainables.loop:train",
        limits: Limits | None = None,
    ) -> None:
        self._spec = shape
        self._on_report = on_report
        self._on_done = on_done
        self._max_concurrent = max_concurrent
        self._train = train
        self._limits = limits or Limits()
        nodes = ray.nodes()
        self._shape = Shape.of(shape, nodes)
        trials_at_a_time(self._shape, nodes)
        self._folder = tempfile.mkdtemp(prefix="scalecurves-")
        self._broker_name = f"scalecurves-{uuid.uuid4().hex[:12]}"
        self._broker = self._start_broker()
        self._gangs: Gangs | None = None
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
        logging.getLogger("ray.train").setLevel(logging.CRITICAL)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def run(self, feed: Feed) -> None:
        """Train every trial of the feed and return when all have ended, one way or another.

        On SIGINT and SIGTERM running trials stop at their next report and write a checkpoint, the others are left; a
        second signal ends without waiting for them. An exception of a callback or of the feed has the same effect as a
        first signal and is raised when all have stopped.

        Args:
            feed: Gives the trials, each once, when they may start; a callback may make more of them ready.

        Raises:
            KeyboardInterrupt: It was interrupted.
        """
        brake = _Brake(self._broker, self._limits.stop_patience_s)
        with _signals(brake):
            while len(feed) and not brake.pulled:
                self._run_tuner(feed, brake)
        if brake.pulled:
            ray.get(self._broker.resume.remote())
        if brake.error is not None:
            raise brake.error
        if brake.pulled:
            raise KeyboardInterrupt

    def counts(self) -> dict[str, int]:
        """How often a trial ended in a gang, a gang was lost with one, and shot."""
        counts: dict[str, int] = ray.get(self._broker.counts.remote())
        return counts

    def close(self) -> None:
        """Send the gangs home and remove Tune's and Train's files. Never waits for a stuck rank."""
        try:
            if self._gangs is not None:
                self._gangs.close(patience_s=0.0)
            ray.kill(self._broker)
        except ray.exceptions.RayError:
            logger.exception("the gangs could not be sent home; they end with this process")
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start_broker(self) -> Any:
        config = BrokerConfig(
            report_deadline_s=self._limits.report_deadline_s, max_node_retries=self._limits.max_node_retries
        )
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        broker = (
            ray.remote(Broker)
            .options(name=self._broker_name, num_cpus=0, max_concurrency=10_000, scheduling_strategy=here)
            .remote(config)
        )
        broker.watch.remote()
        return broker

    def _run_tuner(self, feed: Feed, brake: _Brake) -> None:
        fit = trials_at_a_time(self._shape, ray.nodes())
        slots = min(fit, len(feed), self._max_concurrent or fit)
        # Tune keeps the process of a trial that ended for one that waits, so some always should; but where nothing else
        # holds trials to the limit, they are not even named to it.
        named = self._max_concurrent if self._shape.ranks == 1 and self._max_concurrent else 2 * slots + 2
        tuner = tune.Tuner(
            self._trainable(slots),
            param_space=self._config(),
            tune_config=tune.TuneConfig(
                search_alg=TuneFeed(feed, brake, slots=slots, at_a_time=named, most=self._limits.trials_per_tuner),
                reuse_actors=True,
                trial_name_creator=_short_name,
                trial_dirname_creator=_short_name,
            ),
            run_config=tune.RunConfig(
                name=f"tune-{uuid.uuid4().hex[:8]}",
                storage_path=self._folder,
                verbose=0,
                stop=_Stopper(brake),
                callbacks=[_Pilot(self._broker, brake, self._on_report, self._on_done)],
                failure_config=tune.FailureConfig(max_failures=self._limits.max_node_retries),
                # Checkpoints are the training loop's own, in the storage.
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        )
        tuner.fit()

    def _trainable(self, at_a_time: int) -> Any:
        shape = self._shape
        if shape.ranks == 1:
            return tune.with_resources(SoloTrainable, {"cpu": shape.cpus, "gpu": shape.gpus})
        if self._gangs is None:
            from trainables.gang import RankConfig

            config = RankConfig(
                broker=self._broker_name,
                gang="",
                train=self._train,
                threads=shape.cpus,
                timeout_s=2 * self._limits.report_deadline_s,
                memory_growth_bytes=self._limits.memory_growth_bytes,
            )
            self._gangs = Gangs(shape, config, self._folder)
        self._gangs.ensure(at_a_time)
        # Every cluster has this resource, one unit of it, on the node of its head. So Tune starts no more leases than
        # this, without a CPU: one that asks for any never starts while ranks hold them all. There is one more than
        # gangs, so that a gang that ends a trial finds the next one waiting instead of Tune's loop.
        share = math.floor(0.9 / (at_a_time + 1) * 10_000) / 10_000
        return tune.with_resources(GangTrainable, {"cpu": 0, "node:__internal_head__": share})

    def _config(self) -> dict[str, Any]:
        config: dict[str, Any] = {"broker": self._broker_name}
        if self._shape.ranks == 1:
            config |= {
                "train": self._train,
                "threads": self._shape.cpus,
                "gpus": self._shape.gpus,
                "memory_growth_bytes": self._limits.memory_growth_bytes,
            }
        return config


class _Brake:
    """Pulled by a signal or by an error of a callback; then running trials stop and no other is started."""

    def __init__(self, broker: Any, patience_s: float) -> None:
        self._broker = broker
        self._patience_s = patience_s
        self._until: float | None = None
        self._waiting_for: list[Any] = []
        self.pulled = False
        self.hurry = False
        self.error: Exception | None = None

    def guard(self, function: Callable[..., Made], *arguments: Any) -> Made | None:
        """What a function of the caller gives. Its exception pulls the brake: Tune would turn it into text."""
        try:
            return function(*arguments)
        except Exception as error:
            self.error = self.error or error
            self.pulled = True
            return None

    def apply(self, trials: Sequence[Any]) -> None:
        """Called in each turn of Tune's loop: once pulled, have the running trials stopped."""
        if self.pulled and self._until is None:
            self._until = time.monotonic() + self._patience_s
            self._waiting_for = [trial for trial in trials if trial.status == "RUNNING"]
            ray.get(self._broker.drain.remote())

    def stands(self) -> bool:
        """Whether all trials that ran have stopped, or have taken too long."""
        if self._until is None:
            return False
        return (
            self.hurry
            or time.monotonic() > self._until
            or all(trial.status != "RUNNING" for trial in self._waiting_for)
        )


class _Pilot(tune.Callback):  # type: ignore[misc]
    """Turns Tune's events into reports and outcomes."""

    def __init__(
        self,
        broker: Any,
        brake: _Brake,
        on_report: Callable[[Report], None],
        on_done: Callable[[TrialOutcome], None],
    ) -> None:
        self._broker = broker
        self._brake = brake
        self._on_report = on_report
        self._on_done = on_done

    def __reduce__(self) -> Any:
        # Tune saves its callbacks for a restore that nobody asks for; these hold connections and locks.
        return (tune.Callback, ())

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Called by Tune in each turn of its loop."""
        self._brake.apply(trials)

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
            if "stopped" not in ending:
                self._brake.guard(self._on_done, _outcome(raw, ending))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Called by Tune when a process died once too often."""
        raw = json.loads(trial.config["trial"])
        self._broker.cancel.remote(raw["trial_id"])
        failure = node_failure(f"the process of this trial died {trial.num_failures} times: {_last_error(trial)}")
        outcome = TrialOutcome(trial_id=raw["trial_id"], attempt_id=raw["attempt_id"], failure=failure)
        self._brake.guard(self._on_done, outcome)


class _Stopper(tune.Stopper):  # type: ignore[misc]
    """Ends Tune's loop once the brake has brought everything to a stand."""

    def __init__(self, brake: _Brake) -> None:
        self._brake = brake

    def __reduce__(self) -> Any:
        return (tune.stopper.NoopStopper, ())

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        """Called by Tune in each turn of its loop."""
        return self._brake.stands()


@contextmanager
def _signals(brake: _Brake) -> Iterator[None]:
    """SIGINT and SIGTERM pull the brake; after a second one nothing is waited for, a third one raises where it hits."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def pull(number: int, frame: FrameType | None) -> None:
        if brake.hurry:
            raise KeyboardInterrupt
        brake.hurry = brake.pulled
        brake.pulled = True

    watched = (signal.SIGINT, signal.SIGTERM)
    # Tune takes SIGUSR1 and does not give it back.
    before = {number: signal.getsignal(number) for number in (*watched, signal.SIGUSR1)}
    for number in watched:
        signal.signal(number, pull)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _outcome(trial: dict[str, Any], ending: dict[str, Any]) -> TrialOutcome:
    failure, result = ending.get("failure"), ending.get("result")
    return TrialOutcome(
        trial_id=trial["trial_id"],
        attempt_id=trial["attempt_id"],
        failure=None if failure is None else Failure.model_validate(failure),
        result=None if result is None else TrialResult.model_validate(result),
    )


def _short_name(trial: Any) -> str:
    return str(trial.trial_id)


def _last_error(trial: Any) -> str:
    error = trial.get_error()
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
