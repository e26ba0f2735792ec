"""A study run in one process that can be killed, without Ray: everything else is the real thing.

Processes are forked from a server that has imported what takes seconds, so that a test can afford to start many.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

from benchmarks.chaos_stage import Stage

_FORKS = get_context("forkserver")


@dataclass
class InProcess(Stage):
    """A stage of the chaos benchmark whose command trains in its own process."""

    def start(self, **environment: str) -> Any:
        """The run, as what ``subprocess`` gives back."""
        self.starts += 1
        variables = {"SCALECURVES_HOME": str(self.home / "home"), **environment}
        os.environ["OMP_NUM_THREADS"] = "1"  # for the server: threads that it had started would be missing in its forks
        _FORKS.set_forkserver_preload([__name__, "orchestrator.engine", "trainables.loop", "mlflow", "torch"])
        return _Started(_FORKS.Process(target=_run, args=(self, variables)))


class _Started:
    """Of a ``subprocess.Popen`` what the benchmark asks for."""

    def __init__(self, process: Any) -> None:
        self._process = process
        process.start()
        self.pid = int(process.pid)

    def wait(self, timeout: float) -> int:
        """The exit code, negative after a signal.

        Raises:
            TimeoutError: It has not ended in time.
        """
        self._process.join(timeout)
        if self._process.exitcode is None:
            self._process.kill()
            raise TimeoutError(f"the run has not ended after {timeout:g} s")
        return int(self._process.exitcode)


def _run(stage: InProcess, variables: dict[str, str]) -> None:
    os.environ.update(variables)
    log = os.open(stage.home / f"run{stage.starts}.log", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    from orchestrator import engine
    from orchestrator.sweep import app

    vars(engine).update(connect=lambda *arguments, **options: nullcontext(), Executor=_Executor)
    command = ["run", str(stage.home / "study.yaml"), "--yes", "--out", str(stage.home / "report")]
    sys.argv = ["sweep", *command, "--tracking-uri", stage.tracking_uri]
    app()


class _Executor:
    """Trains one trial after the other, here."""

    def __init__(
        self, *, on_report: Callable[[dict[str, Any]], None], on_done: Callable[[Any], None], **options: Any
    ) -> None:
        self._on_report, self._on_done = on_report, on_done

    def __enter__(self) -> _Executor:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def stop(self, trial_id: str) -> None:
        """Nobody cancels."""

    def rest(self) -> None:
        """There are no gangs."""

    def run(self, feed: Any) -> None:
        while len(feed) and (handout := feed.next(list(feed.demands({})))) is not None:
            self._on_done(self._outcome(handout.payload))

    def _outcome(self, payload: dict[str, Any]) -> Any:
        from orchestrator.pilot import TrialOutcome
        from search_spaces.results import Order
        from trainables.groups import SingleProcess
        from trainables.loop import train
        from trainables.warm import attempt

        ids = {name: payload[name] for name in ("trial_id", "attempt_id")}

        def tell(report: dict[str, Any]) -> Order:
            self._on_report({**ids, **report})
            return Order.GO

        ended = attempt(train, payload, SingleProcess(), tell)
        return TrialOutcome(**ids, result=ended.result, failure=ended.failure)
