"""Gangs as the driver owns them: one ``TorchTrainer`` each, whose ranks take trials from the broker until sent home."""

from __future__ import annotations

import dataclasses
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig, UserCallback

from cluster.capacity import Shape

if TYPE_CHECKING:
    from trainables.gang import RankConfig


GOODBYE_S = 20.0
"""Longest wait for Train to end its runs; it takes about half a second once ranks are up, ten while they start."""


class GangGivenUpError(RuntimeError):
    """Raised in Train's controller so that it does not start the ranks once more."""


class TellBroker(UserCallback):  # type: ignore[misc]
    """Tells the broker at once that ranks were lost. Runs in Train's controller.

    Args:
        broker: Name of the broker.
        gang: Name of the gang.
    """

    def __init__(self, broker: str, gang: str) -> None:
        self._broker = broker
        self._gang = gang

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Called by Train after one or more ranks failed, before it starts them again.

        Raises:
            GangGivenUpError: The gang is to end.
            ValueError: The broker is gone, and the gang with it.
        """
        rank, error = min(worker_exceptions.items())
        message = f"rank {rank}: {_first_line(error)}"
        if not ray.get(ray.get_actor(self._broker).lost.remote(self._gang, message)):
            raise GangGivenUpError(message)


class Gangs:
    """The gangs of one shape.

    Args:
        shape: Of each gang.
        config: What ranks are told; the name of the gang is filled in.
        folder: Local folder for Train's own files.
    """

    def __init__(self, shape: Shape, config: RankConfig, folder: str) -> None:
        self._shape = shape
        self._config = config
        self._broker = ray.get_actor(config.broker)
        self._folder = folder
        self._threads: list[threading.Thread] = []
        self._closing = threading.Event()
        self._number = 0

    def resize(self, number: int) -> None:
        """Start gangs until ``number`` of them live, or send some home: idle ones at once, others after their trial.

        Returns at once; ranks take about ten seconds to come.
        """
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        if number == self._number and len(self._threads) >= number:
            return
        self._number = number
        live = ray.get(self._broker.retire.remote(self._shape.queue, number))
        for _ in range(number - live):
            name = f"gang-{uuid.uuid4().hex[:8]}"
            ray.get(self._broker.expect.remote(name, self._shape.queue))
            thread = threading.Thread(target=self._keep, args=(name,), name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def close(self) -> None:
        """Wait until all ranks have gone home, or Train has been given up; the broker has been closed before."""
        self._closing.set()
        # A thread that is still inside fit() when the connection closes takes the whole process with it. Ranks that are
        # still starting go home when they say hello.
        end = time.monotonic() + GOODBYE_S
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))

    def _keep(self, name: str) -> None:
        """Thread of one gang: Train restarts lost ranks; this starts over when Train itself gives up."""
        message = ""
        try:
            while not self._closing.is_set():
                try:
                    self._trainer(name).fit()
                    message = "its ranks went home"
                except Exception as error:
                    message = _first_line(error)
                if self._closing.is_set() or not ray.get(self._broker.lost.remote(name, message)):
                    break
            if not self._closing.is_set():
                ray.get(self._broker.gone.remote(name, message))
        except (ray.exceptions.RayError, ValueError):
            if not self._closing.is_set():
                raise

    def _trainer(self, gang: str) -> Any:
        from ray.train.torch import TorchConfig, TorchTrainer
        from ray.train.v2._internal.callbacks import DatasetsCallback

        from trainables.gang import ranks

        class Trainer(TorchTrainer):  # type: ignore[misc]
            """Without the actor that hands out Ray's datasets, of which gangs have none: 2 s of CPU at each start."""

            def _create_default_callbacks(self) -> list[Any]:
                return [c for c in super()._create_default_callbacks() if not isinstance(c, DatasetsCallback)]

        shape = self._shape
        return Trainer(
            ranks,
            train_loop_config=dataclasses.asdict(
                dataclasses.replace(self._config, gang=gang, backend=self._shape.backend)
            ),
            torch_config=TorchConfig(backend="gloo", timeout_s=int(self._config.timeout_s)),
            scaling_config=ScalingConfig(
                num_workers=shape.ranks, use_gpu=shape.gpus > 0, resources_per_worker=shape.resources
            ),
            run_config=RunConfig(
                # A name that was used before would make Train resume that run.
                name=f"{gang}-{uuid.uuid4().hex[:8]}",
                storage_path=self._folder,
                # Deaths are counted by the broker, per trial; Train's counter never goes back.
                failure_config=FailureConfig(max_failures=-1),
                callbacks=[TellBroker(self._config.broker, gang)],
            ),
        )


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
