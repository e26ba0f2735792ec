"""Gangs as the driver owns them: one Train run each, whose ranks take trials from the broker until sent home."""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
import uuid
from typing import Any

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.util.placement_group import remove_placement_group

from cluster.capacity import Shape
from trainables.failures import first_line
from trainables.rank_config import RankConfig

logger = logging.getLogger(__name__)

GOODBYE_S = 20.0
"""Longest wait for Train to end its runs; it takes about half a second once ranks are up, ten while they start."""
ABANDONED_S = 10.0
"""Longest wait after Train's controllers have been ended."""


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
        self._trainers: dict[str, Any] = {}
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
        # still starting go home when they say hello; those that wait for room never do.
        self._join(GOODBYE_S)
        for trainer in [*self._trainers.values()]:
            trainer.abandon()
        self._join(ABANDONED_S)

    def _join(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))

    def _keep(self, name: str) -> None:
        """Thread of one gang: Train restarts lost ranks; this starts over when Train itself gives up."""
        message = ""
        try:
            while not self._closing.is_set():
                try:
                    self._trainers[name] = trainer = self._trainer(name)
                    trainer.fit()
                    message = "its ranks went home"
                except Exception as error:
                    message = first_line(error)
                    self._clear_room(name)
                if self._closing.is_set() or not ray.get(self._broker.lost.remote(name, message)):
                    break
            if not self._closing.is_set():
                ray.get(self._broker.gone.remote(name, message))
        except (ray.exceptions.RayError, ValueError):
            if not self._closing.is_set():
                raise
        finally:
            self._trainers.pop(name, None)

    def _clear_room(self, name: str) -> None:
        """Free what the ranks held or waited for: a controller that was killed has left it."""
        try:
            for room in self._trainers[name].rooms() if name in self._trainers else ():
                remove_placement_group(room)
        except Exception:
            if not self._closing.is_set():
                logger.warning("the room of %s could not be cleared", name, exc_info=True)

    def _trainer(self, gang: str) -> Any:
        # Private parts of Train are in there: a run without gangs needs none of them.
        from orchestrator.trainer import GangTrainer

        shape = self._shape
        config = dataclasses.replace(self._config, gang=gang, backend=shape.backend)
        return GangTrainer(
            broker=config.broker,
            gang=gang,
            config=dataclasses.asdict(config),
            timeout_s=int(config.timeout_s),
            scaling_config=ScalingConfig(
                num_workers=shape.ranks, use_gpu=shape.gpus > 0, resources_per_worker=shape.resources
            ),
            run_config=RunConfig(
                # A name that was used before would make Train resume that run.
                name=f"{gang}-{uuid.uuid4().hex[:8]}",
                storage_path=self._folder,
                # Deaths are counted by the broker, per trial; Train's counter never goes back.
                failure_config=FailureConfig(max_failures=-1),
            ),
        )
