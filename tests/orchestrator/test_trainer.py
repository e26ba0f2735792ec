"""What gangs change of Ray Train, without a cluster; with one in test_executor."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

ray = pytest.importorskip("ray")

from ray.train import FailureConfig, RunConfig, ScalingConfig  # noqa: E402
from ray.train.v2._internal.exceptions import (  # noqa: E402
    WorkerGroupStartupFailedError,
    WorkerGroupStartupTimeoutError,
)
from ray.train.v2._internal.execution.failure_handling import FailureDecision  # noqa: E402
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError  # noqa: E402

from cluster import connection  # noqa: E402
from orchestrator import trainer  # noqa: E402
from orchestrator.trainer import UNUSED, CountStarts, FixedSize, GangTrainer, KeepRoom  # noqa: E402


class Told:
    """A broker that remembers losses."""

    def __init__(self) -> None:
        self.losses: list[str] = []
        self.starts_again = True
        self.lost = SimpleNamespace(remote=self._lost)

    def _lost(self, gang: str, message: str) -> bool:
        self.losses.append(f"{gang}: {message}")
        return self.starts_again


@pytest.fixture
def removed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    rooms: list[str] = []
    monkeypatch.setattr(trainer, "remove_placement_group", rooms.append)
    return rooms


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Told:
    told = Told()
    monkeypatch.setattr(ray, "get_actor", lambda name: told)
    monkeypatch.setattr(ray, "get", lambda reference: reference)
    return told


def worker_group(room: str) -> Any:
    state = SimpleNamespace(placement_group_handle=SimpleNamespace(placement_group=room))
    return SimpleNamespace(get_worker_group_state=lambda: state)


def test_the_room_of_a_start_that_failed_is_removed_before_the_next_one(removed: list[str]) -> None:
    keep = KeepRoom()
    keep.before_worker_group_start(None)
    keep.after_worker_group_start(worker_group("first"))
    assert removed == []
    keep.before_worker_group_start(None)
    keep.after_worker_group_start(worker_group("second"))
    assert removed == ["first"]


def test_a_room_that_train_has_removed_is_left_alone(removed: list[str]) -> None:
    keep = KeepRoom()
    keep.after_worker_group_start(worker_group("first"))
    keep.after_worker_group_shutdown(None)
    keep.before_worker_group_start(None)
    assert removed == []


def test_the_size_is_decided_and_given_up_without_a_coordinator() -> None:
    policy = FixedSize(ScalingConfig(num_workers=3, resources_per_worker={"CPU": 2}))
    policy.after_controller_start(None)
    decision = policy.make_decision_for_non_running_worker_group()
    assert (decision.num_workers, decision.resources_per_worker) == (3, {"CPU": 2})
    going_on = policy.make_decision_for_running_worker_group(worker_group_state=None, worker_group_status=None)
    assert type(going_on).__name__ == "NoopDecision"
    asyncio.run(policy.before_controller_shutdown())
    policy.before_controller_abort()
    assert policy._coordinator_client is None


def startup_failure() -> ControllerError:
    failure = WorkerGroupStartupFailedError("At least one of the worker actors failed to initialize.")
    failure.__cause__ = RuntimeError("killed by the memory monitor")
    return ControllerError(failure)


def count_starts() -> CountStarts:
    return CountStarts("broker", "a", FailureConfig(max_failures=-1))


@pytest.mark.parametrize("starts_again", [True, False])
def test_ranks_that_die_while_they_start_are_told_of_and_given_up_when_the_broker_says_so(
    broker: Told, starts_again: bool
) -> None:
    broker.starts_again = starts_again
    decision = count_starts().make_decision(startup_failure())
    assert decision is (FailureDecision.RETRY if starts_again else FailureDecision.RAISE)
    [loss] = broker.losses
    assert loss.startswith("a: the ranks were lost while they started: ")
    assert "killed by the memory monitor" in loss


def test_waiting_for_room_and_lost_ranks_are_no_failed_starts(broker: Told) -> None:
    policy = count_starts()
    for error in (ControllerError(WorkerGroupStartupTimeoutError(2)), WorkerGroupError("lost", {0: OSError()})):
        assert policy.make_decision(error) is FailureDecision.RETRY
    assert broker.losses == []


def test_without_a_broker_a_failed_start_is_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(name: str) -> None:
        raise ValueError("no actor of this name")

    monkeypatch.setattr(ray, "get_actor", gone)
    assert count_starts().make_decision(startup_failure()) is FailureDecision.RAISE


def _gang() -> GangTrainer:
    return GangTrainer(
        broker="b",
        gang="a",
        config={},
        timeout_s=1,
        scaling_config=ScalingConfig(num_workers=2),
        run_config=RunConfig(),
    )


def test_rooms_are_kept_before_anything_else_of_a_start_can_fail() -> None:
    names = [type(callback).__name__ for callback in _gang()._create_default_callbacks()]
    assert names[0] == "KeepRoom"
    assert "BackendSetupCallback" in names
    assert not UNUSED & set(names)


def test_a_gang_whose_controller_never_started_has_no_room() -> None:
    _gang().abandon()
    assert _gang().rooms() == []


@pytest.mark.parametrize("ours", [True, False])
def test_controllers_of_a_connection_that_is_not_ours_get_the_variables(
    ours: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    def remote(**options: Any) -> Any:
        asked.append(options)
        done = SimpleNamespace(remote=lambda: "result")
        return lambda _: SimpleNamespace(remote=lambda **arguments: SimpleNamespace(run=done, get_result=done))

    monkeypatch.setattr(ray, "remote", remote)
    monkeypatch.setattr(ray, "get", lambda reference: reference)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "here"))
    monkeypatch.setattr(trainer, "has_our_environment", lambda: ours)
    monkeypatch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    assert _gang()._initialize_and_run_controller(scaling_policy=None) == "result"
    variables = asked[0].get("runtime_env", {}).get("env_vars", {})
    assert variables.get("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S") == (None if ours else "0.5")
    assert connection.train_variables()["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] == "0.5"
