"""Runs resolved trials through Ray Tune, on warm gangs or in reused single processes.

with connect("local"), Executor(on_report=..., on_done=...) as executor:
    executor.run(InOrder(trials, gang))
"""

from __future__ import annotations

import logging
import shutil
import signal
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import ray
from ray import tune
from ray.tune.execution import tune_controller
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.brake import Brake, BrakeStopper, signals
from orchestrator.broker import Broker, BrokerConfig
from orchestrator.feed import Feed, TuneFeed
from orchestrator.leases import GangTrainable
from orchestrator.pilot import Pilot, Report, TrialOutcome
from orchestrator.yard import SoloConfig, Yard
from search_spaces.exceptions import Paused
from trainables.rank_config import RankConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits of an executor.

    Attributes:
        max_node_retries: How often a trial is tried again after its ranks or its process were lost.
        report_deadline_s: Longest silence of a gang or a process that trains; then it is killed and its trial tried
            again.
        stop_patience_s: After an interruption, how long running trials may take to reach their next report and write
            a checkpoint.
        memory_growth_bytes: Private memory that a process may gain over its first trials before it is replaced.
        trials_per_tuner: After as many, or a hundred in each slot, a fresh Tuner goes on: its cost per trial grows
            with their number.
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
        on_signal: Called once when a signal stops a ``run``, before it waits for the trials that run.
    """

    def __init__(
        self,
        *,
        on_report: Callable[[Report], None],
        on_done: Callable[[TrialOutcome], None],
        max_concurrent: int | None = None,
        train: str = "trainables.loop:train",
        limits: Limits | None = None,
        on_signal: Callable[[], None] = lambda: None,
    ) -> None:
        self._on_report = on_report
        self._on_done = on_done
        self._on_signal = on_signal
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
        brake = Brake(self._broker, self._limits.stop_patience_s, self._on_signal)
        with signals(brake):
            if len(feed):
                self._yard.places(feed.demands({}))  # ranks come up while Tune does
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

    def rest(self) -> None:
        """Send all gangs home; the next ``run`` starts them again. Only between two runs."""
        self._yard.rest()

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
        limits = self._limits
        ranks = RankConfig(
            broker=self._broker_name,
            gang="",
            train=train,
            threads=1,
            timeout_s=2 * limits.report_deadline_s,
            memory_growth_bytes=limits.memory_growth_bytes,
        )
        solo = SoloConfig(
            train=train, memory_growth_bytes=limits.memory_growth_bytes, report_deadline_s=limits.report_deadline_s
        )
        return Yard(self._broker_name, ranks, solo, self._folder, most)

    def _run_tuner(self, feed: Feed, brake: Brake) -> None:
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
                stop=BrakeStopper(brake),
                callbacks=[Pilot(self._broker, brake, self._on_report, self._on_done, self._to_stop)],
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


def _short_name(trial: Any) -> str:
    return str(trial.trial_id)
