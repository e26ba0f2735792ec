"""Ray Train as a gang uses it: a controller, the ranks, their point of synchronisation, and no other process.

Train's own ``TorchTrainer`` would import torch into the driver and into every controller, and start three actors more.
A gang has no use for them: together they are a third of the CPU time until its first trial, and most of its memory on
the driver's node.
"""

from __future__ import annotations

import gc
import os
from dataclasses import dataclass
from typing import Any

import ray
from ray._raylet import PlacementGroupID
from ray.core.generated.gcs_pb2 import PlacementGroupTableData
from ray.train import FailureConfig, UserCallback
from ray.train._internal.utils import get_address_and_port
from ray.train.backend import Backend, BackendConfig
from ray.train.v2._internal.exceptions import WorkerGroupStartupFailedError
from ray.train.v2._internal.execution.callback import WorkerGroupCallback
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.failure_handling import DefaultFailurePolicy, FailureDecision
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy, NoopDecision, ResizeDecision
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.util.placement_group import PlacementGroup, remove_placement_group

from cluster.connection import has_our_environment, train_variables
from trainables.failures import first_line

UNUSED = frozenset({"DatasetsCallback", "PlacementGroupCleanerCallback"})
"""Callbacks of Train that start an actor each: one hands out Ray's datasets, of which gangs have none; the other
removes the placement group of a controller that was killed, if its ranks had come (``GangTrainer.rooms``)."""


class GangGivenUpError(RuntimeError):
    """Raised in Train's controller so that it does not start the ranks once more."""


class _OfGang:
    """Part of a callback in Train's controller that talks to the broker.

    Args:
        broker: Name of the broker.
        gang: Name of the gang.
    """

    def __init__(self, broker: str, gang: str) -> None:
        self._broker_name = broker
        self._gang = gang

    @property
    def _broker(self) -> Any:
        return ray.get_actor(self._broker_name)


class TellLoss(_OfGang, UserCallback):  # type: ignore[misc]
    """Tells the broker at once that ranks were lost."""

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Called by Train after one or more ranks failed, before it starts them again.

        Raises:
            GangGivenUpError: The gang is to end.
            ValueError: The broker is gone, and the gang with it.
        """
        rank, error = min(worker_exceptions.items())
        message = f"rank {rank}: {first_line(error)}"
        if not ray.get(self._broker.lost.remote(self._gang, message)):
            raise GangGivenUpError(message)


class CountStarts(_OfGang, DefaultFailurePolicy):  # type: ignore[misc]
    """Tells the broker of ranks that were lost while they started, of which Train tells no callback and which it would
    start again for ever. A placement group that only waits for room is no such loss.

    Args:
        broker: Name of the broker.
        gang: Name of the gang.
        failure_config: Of Train.
    """

    def __init__(self, broker: str, gang: str, failure_config: FailureConfig) -> None:
        _OfGang.__init__(self, broker, gang)
        DefaultFailurePolicy.__init__(self, failure_config)

    def make_decision(self, training_failed_error: Exception) -> FailureDecision:
        """Called by Train in its controller; a broker that is gone takes the gang with it."""
        cause = getattr(training_failed_error, "controller_failure", None)
        if isinstance(cause, WorkerGroupStartupFailedError):
            message = f"the ranks were lost while they started: {first_line(cause.__cause__ or cause)}"
            try:
                starts_again = ray.get(self._broker.lost.remote(self._gang, message))
            except ValueError:
                starts_again = False
            if not starts_again:
                return FailureDecision.RAISE
        return super().make_decision(training_failed_error)


class KeepRoom(WorkerGroupCallback):  # type: ignore[misc]
    """Sees to it that no placement group outlives a start that failed. Runs before the controller's other callbacks,
    because a start that fails in one of those leaves its placement group; those of a controller that is killed are
    removed by the driver (``GangTrainer.rooms``).
    """

    _room: Any = None

    def before_worker_group_start(self, worker_group_context: Any) -> None:
        """Called by Train; what is still there is of a start that failed."""
        if self._room is not None:
            remove_placement_group(self._room)
            self._room = None

    def after_worker_group_start(self, worker_group: Any) -> None:
        """Called by Train when the ranks' processes are there, before they run anything."""
        self._room = worker_group.get_worker_group_state().placement_group_handle.placement_group

    def after_worker_group_shutdown(self, worker_group_context: Any) -> None:
        """Called by Train when it has removed the placement group itself."""
        self._room = None


class FixedSize(FixedScalingPolicy):  # type: ignore[misc]
    """As many ranks as asked for. A placement group that waits asks the autoscaler for nodes by itself, so that Train's
    coordinator, which would ask for the same ones once more, is never started.
    """

    def after_controller_start(self, train_run_context: Any) -> None:
        """Called by Train; its own would start the coordinator."""

    def make_decision_for_non_running_worker_group(self) -> ResizeDecision:
        """Called by Train before it starts the ranks."""
        return ResizeDecision(
            num_workers=self.scaling_config.num_workers,
            resources_per_worker=self.scaling_config._resources_per_worker_not_none,
        )

    def make_decision_for_running_worker_group(self, *state: Any, **named: Any) -> NoopDecision:
        """Called by Train again and again, by names that may change."""
        return NoopDecision()

    def _cancel_resource_request(self) -> None:
        pass


@dataclass(frozen=True)
class DefaultGroup(BackendConfig):  # type: ignore[misc]
    """Torch's default process group of the ranks, on gloo.

    Attributes:
        timeout_s: Of its collectives, seconds.
    """

    timeout_s: int

    @property
    def backend_cls(self) -> type[Backend]:
        """Read by Train."""
        return _DefaultGroupBackend


class _DefaultGroupBackend(Backend):  # type: ignore[misc]
    """Has Train's own functions for torch called where torch is needed: in the ranks."""

    share_cuda_visible_devices = True  # Train's get_device() counts on it

    def on_start(self, worker_group: Any, backend_config: DefaultGroup) -> None:
        """Called by Train in the controller. When the ranks end, so do their processes, and the group with them."""
        address, port = worker_group.execute_single(0, get_address_and_port)
        size = len(worker_group)
        meet = [
            worker_group.execute_single_async(rank, _meet, address, port, rank, size, backend_config.timeout_s)
            for rank in range(size)
        ]
        ray.get(meet)


def _meet(address: str, port: int, rank: int, size: int, timeout_s: int) -> None:
    """Open the default group; runs in a rank."""
    gc.disable()  # until ``ProcessState``: searches for garbage are a fifth of the time of imports

    from ray.train.torch import config

    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = address, str(port)
    config._set_torch_distributed_env_vars()
    config._setup_torch_process_group("gloo", rank, size, "env://", timeout_s)


def _ranks(config: dict[str, Any]) -> None:
    from trainables.gang import ranks

    ranks(config)


class GangTrainer(DataParallelTrainer):  # type: ignore[misc]
    """The ranks of one gang; ``fit`` returns when they went home, and raises when Train gives them up.

    Args:
        broker: Name of the broker.
        gang: Name of the gang.
        config: What ``trainables.gang.ranks`` is told.
        timeout_s: Of collectives of the default process group, seconds.
        scaling_config: Number and resources of the ranks.
        run_config: Of Train.
    """

    def __init__(
        self, *, broker: str, gang: str, config: dict[str, Any], timeout_s: int, scaling_config: Any, run_config: Any
    ) -> None:
        run_config.callbacks = [TellLoss(broker, gang)]
        self._names = (broker, gang)
        self._controller: Any = None
        super().__init__(
            _ranks,
            train_loop_config=config,
            backend_config=DefaultGroup(timeout_s=timeout_s),
            scaling_config=scaling_config,
            run_config=run_config,
        )

    def _create_default_callbacks(self) -> list[Any]:
        kept = [c for c in super()._create_default_callbacks() if type(c).__name__ not in UNUSED]
        return [KeepRoom(), *kept]

    def _initialize_and_run_controller(self, **arguments: Any) -> Any:
        """Called by Train. Its own way gives the controller an environment of its own, for which Ray starts a process
        although one waits.
        """
        options: dict[str, Any] = {"num_cpus": 0}
        options["label_selector"] = {ray._raylet.RAY_NODE_ID_KEY: ray.get_runtime_context().get_node_id()}
        if not has_our_environment():
            options["runtime_env"] = {"env_vars": train_variables()}
        policies = {
            "scaling_policy": FixedSize(self.scaling_config),
            "failure_policy": CountStarts(*self._names, self.run_config.failure_config),
        }
        self._controller = controller = ray.remote(**options)(TrainController).remote(**arguments | policies)
        ray.get(controller.run.remote())
        return ray.get(controller.get_result.remote())

    def abandon(self) -> None:
        """End Train's controller, so that ``fit`` raises soon, in whatever thread. Ranks end with their controller;
        placement groups stay (``rooms``).
        """
        if self._controller is not None:
            ray.kill(self._controller)

    def rooms(self) -> list[PlacementGroup]:
        """Placement groups of the controller, those included that wait for room. Ray keeps them for as long as the
        driver lives, whatever becomes of the controller, and has no public call that says whose they are.
        """
        if self._controller is None:
            return []
        mine = self._controller._actor_id.binary()
        table = ray._private.state.state._connect_and_get_accessor().get_placement_group_table()
        groups = map(PlacementGroupTableData.FromString, table)
        there = [g for g in groups if g.creator_actor_id == mine and g.state != PlacementGroupTableData.REMOVED]
        return [PlacementGroup(PlacementGroupID(g.placement_group_id)) for g in there]
