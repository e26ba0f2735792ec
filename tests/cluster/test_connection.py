"""A local cluster on a machine that is slow to start one."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import ray

from cluster import connection
from search_spaces.exceptions import UserError

SLOW = "The current node timed out during startup. This could happen because some of the raylet failed to startup."


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Errors of the coming starts, first one last; a start without one succeeds."""
    errors: list[str] = []

    def init(address: str, **options: object) -> None:
        assert address in ("local", "10.0.0.1:6379")
        assert ("num_cpus" in options) is (address == "local")
        if errors:
            raise Exception(errors.pop())

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    return errors


def test_a_slow_start_is_tried_again(starts: list[str]) -> None:
    starts += [SLOW, SLOW]
    with connection.connect():
        assert starts == []


def test_a_machine_that_is_too_slow_is_told(starts: list[str]) -> None:
    starts += [SLOW] * 5
    with (
        pytest.raises(UserError, match=r"no local Ray cluster within 30 s, tried 3 times.*session_latest"),
        connection.connect(),
    ):
        pass
    assert len(starts) == 2


@pytest.mark.parametrize(("address", "text"), [("local", "something else"), ("10.0.0.1:6379", SLOW)])
def test_other_errors_are_told_at_once(starts: list[str], address: str, text: str) -> None:
    starts += [text] * 5
    with pytest.raises(Exception, match=text[:20]) as raised, connection.connect(address):
        pass
    assert type(raised.value) is Exception
    assert len(starts) == 4


@pytest.mark.parametrize(
    ("address", "error"),
    [
        ("head", ValueError("Invalid address format: head")),
        ("10.0.0.1:6379", ray.exceptions.AuthenticationError("Token authentication is on\nbut no token was found")),
    ],
)
def test_an_address_that_ray_refuses_is_the_users_error(
    monkeypatch: pytest.MonkeyPatch, address: str, error: Exception
) -> None:
    def init(**_: object) -> None:
        raise error

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    said = " ".join(str(error).split())[:40]
    with (
        pytest.raises(UserError, match=f"does not connect to address '{address}': {said}.*HOST:PORT"),
        connection.connect(address),
    ):
        pass


@contextmanager
def slow_connection(steps: list[str], ready: threading.Event, error: Exception | None = None) -> Iterator[None]:
    """A connection that is there when the test says so."""
    assert ready.wait(20)
    if error is not None:
        raise error
    starter = threading.current_thread()
    steps.append("connected")
    try:
        yield
    finally:
        assert threading.current_thread() is starter, "the system would have ended Ray's processes with that thread"
        steps.append("closed")


def test_meanwhile_the_block_goes_on_and_waits_when_it_needs_the_cluster() -> None:
    steps: list[str] = []
    ready = threading.Event()
    with connection.meanwhile(slow_connection(steps, ready)) as connected:
        steps.append("something else")
        ready.set()
        connected()
        steps.append("trains")
    assert steps == ["something else", "connected", "trains", "closed"]


def test_a_cluster_that_comes_when_the_block_has_failed_is_closed() -> None:
    steps: list[str] = []
    ready = threading.Event()
    ready.set()

    def opens_the_record() -> None:
        with connection.meanwhile(slow_connection(steps, ready)):
            raise UserError("the record does not answer")

    with pytest.raises(UserError, match="the record"):
        opens_the_record()
    assert steps == ["connected", "closed"]


def test_an_error_of_the_start_is_raised_where_the_cluster_is_needed() -> None:
    steps: list[str] = []
    ready = threading.Event()
    ready.set()
    with connection.meanwhile(slow_connection(steps, ready, UserError("no cluster"))) as connected:
        steps.append("something else")
        with pytest.raises(UserError, match="no cluster"):
            connected()
    assert steps == ["something else"]


def test_variables_of_train_reach_a_cluster_unless_the_job_brings_them(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[dict[str, str]] = []

    def init(address: str, runtime_env: dict[str, dict[str, str]], **options: object) -> None:
        given.append(runtime_env["env_vars"])

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "300")
    assert not connection.has_our_environment()
    with connection.connect("auto"):
        assert connection.has_our_environment()
    job = {"runtime_env": {"env_vars": {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300"}}, "metadata": {}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(job))
    with connection.connect("auto"):
        pass
    assert not connection.has_our_environment()
    alone, in_job = given
    assert alone["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] == "300"
    assert "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S" not in in_job
    assert in_job["RAY_CHDIR_TO_TRIAL_DIR"] == "0"
