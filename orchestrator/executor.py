"""Runs resolved trials through Ray Tune, on warm gangs or in reused single processes.

with connect("local"), Executor(on_report=..., on_done=...) as executor:
    executor.run(InOrder(trials, gang))
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
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Any, Self, TypeVar

import ray
from ray import tune
from ray.tune.execution import tune_controller
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.connection import draining_nodes
from orchestrator.broker import Broker, BrokerConfig
from orchestrator.feed import Feed, TuneFeed
from orchestrator.leases import ENDING, REPORT, GangTrainable
from orchestrator.yard import SoloConfig, Yard
from search_spaces.exceptions import Paused
from search_spaces.results import Failure, TrialResult
from trainables.failures import node_failure

logger = logging.getLogger(__name__)

NODES_S = 2.0
"""Seconds between two looks at which nodes will go away."""

Report = dict[str, Any]
Made = TypeVar("Made")


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
        on_report: Called with each report: what the trial told (step, steps, loss, val, samples_per_s), ``trial_id``
            and ``attempt_id``.
        on_done: Called once for each trial that ended; not for one that was interrupted with the whole run.
        max_concurrent: Most trials at a time; as many as fit if not given.
        train: The training function, ``module:function``.
        limits: Limits.
    """

    def __init__(
        self,
        *,
        on_report: Callable[[Report], None],
        on_done: Callable[[TrialOutcome], None],
        max_concurrent: int | None = None,
        train: str = "trainables.loop:train",
        limits: Limits | None = None,
    ) -> None:
        self._on_report = on_report
        self._on_done = on_done
        self._limits = limits or Limits()
        self._folder = tempfile.mkdtemp(prefix="scalecurves-")
        self._broker_name = f"scalecurves-{uuid.uuid4().hex[:12]}"
        self._broker = self._start_broker()
        self._yard = self._make_yard(train, max_concurrent)
        self._to_stop: set[str] = set()
        self._closed = False
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
            UserError: A gang of the feed does not fit the cluster.
            Paused: It was interrupted once, by Ctrl-C.
            KeyboardInterrupt: It was interrupted otherwise.
        """
        self._yard.require(list(feed.demands({})))
        brake = _Brake(self._broker, self._limits.stop_patience_s)
        with _signals(brake):
            while len(feed) and not brake.pulled:
                self._run_tuner(feed, brake)
        if brake.pulled:
            ray.get(self._broker.resume.remote())
        if brake.error is not None:
            raise brake.error
        if brake.pulled:
            raise Paused if brake.by == signal.SIGINT and not brake.hurry else KeyboardInterrupt

    def stop(self, trial_id: str) -> None:
        """Stop one trial, running or about to; it ends as ``stopped``, with a checkpoint if it ran. From any thread."""
        self._to_stop.add(trial_id)
        self._broker.stop.remote(trial_id)

    def counts(self) -> dict[str, int]:
        """How often a trial ended in a gang, a gang was lost with one, and shot."""
        counts: dict[str, int] = ray.get(self._broker.counts.remote())
        return counts

    def close(self) -> None:
        """Send the gangs home and remove Tune's and Train's files. Never waits for a stuck rank."""
        if self._closed:
            return
        self._closed = True
        try:
            ray.get(self._broker.close.remote())
            if ray.get(self._broker.busy.remote()):
                ray.get(self._broker.shoot_all.remote("the sweep ends"))
            self._yard.close()
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

    def _make_yard(self, train: str, most: int | None) -> Yard:
        from trainables.gang import RankConfig

        limits = self._limits
        ranks = RankConfig(
            broker=self._broker_name,
            gang="",
            train=train,
            threads=1,
            timeout_s=2 * limits.report_deadline_s,
            memory_growth_bytes=limits.memory_growth_bytes,
        )
        solo = SoloConfig(train=train, memory_growth_bytes=limits.memory_growth_bytes)
        return Yard(self._broker_name, ranks, solo, self._folder, most)

    def _run_tuner(self, feed: Feed, brake: _Brake) -> None:
        tuner = tune.Tuner(
            GangTrainable,  # each trial brings its own
            tune_config=tune.TuneConfig(
                search_alg=TuneFeed(feed, brake, self._yard.places, most=self._limits.trials_per_tuner),
                reuse_actors=True,
                trial_name_creator=_short_name,
                trial_dirname_creator=_short_name,
            ),
            run_config=tune.RunConfig(
                name=f"tune-{uuid.uuid4().hex[:8]}",
                storage_path=self._folder,
                verbose=0,
                stop=_Stopper(brake),
                callbacks=[_Pilot(self._broker, brake, self._on_report, self._on_done, self._to_stop)],
                failure_config=tune.FailureConfig(max_failures=self._limits.max_node_retries),
                # Checkpoints are the training loop's own, in the storage.
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            ),
        )
        with _cache_that_makes_room(self._yard):
            tuner.fit()


@contextmanager
def _cache_that_makes_room(yard: Yard) -> Iterator[None]:
    """Tune keeps the process of the last trial, and its CPUs and GPUs, in case that another one like it comes.

    Where a gang of another shape waits for them, neither it nor what starts from its result would ever come. Tune has
    no option for this.
    """

    class Cache(tune_controller._ObjectCache):  # type: ignore[misc]
        _may_keep_one = property(lambda _: not yard.crowded, lambda _, wanted: None)

    plain = tune_controller._ObjectCache
    tune_controller._ObjectCache = Cache
    try:
        yield
    finally:
        tune_controller._ObjectCache = plain


class _Brake:
    """Pulled by a signal or by an error of a callback; then running trials stop and no other is started."""

    def __init__(self, broker: Any, patience_s: float) -> None:
        self._broker = broker
        self._patience_s = patience_s
        self._until: float | None = None
        self._waiting_for: list[Any] = []
        self.pulled = False
        self.hurry = False
        self.by: int | None = None
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
        failure = node_failure(f"the process of this trial died {trial.num_failures} times: {_last_error(trial)}")
        outcome = TrialOutcome(trial_id=raw["trial_id"], attempt_id=raw["attempt_id"], failure=failure)
        self._brake.guard(self._on_done, outcome)

    def _look_for_preemption(self) -> None:
        self._looked_at = time.monotonic()
        leaving = draining_nodes()
        if leaving != self._leaving:
            self._leaving = leaving
            self._broker.preempt.remote(sorted(leaving))


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
        brake.pulled, brake.by = True, number

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


def _short_name(trial: Any) -> str:
    return str(trial.trial_id)


def _last_error(trial: Any) -> str:
    error = trial.get_error()
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
