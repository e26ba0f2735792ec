"""What pulls the brake, and what is said then."""

from __future__ import annotations

import os
import signal
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from orchestrator.brake import Brake, signals


@pytest.fixture
def drained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """How often the broker was told to stop what runs."""
    monkeypatch.setattr(ray, "get", lambda answer: answer)
    return []


def brake_of(drained: list[str], said: list[str]) -> Brake:
    broker = SimpleNamespace(drain=SimpleNamespace(remote=lambda: drained.append("drain")))
    return Brake(broker, 60.0, lambda: said.append("stopping"))


def test_a_signal_stops_what_runs_and_is_answered_once(drained: list[str]) -> None:
    said: list[str] = []
    brake = brake_of(drained, said)
    running: list[Any] = [SimpleNamespace(status="RUNNING"), SimpleNamespace(status="PENDING")]
    with signals(brake):
        os.kill(os.getpid(), signal.SIGTERM)
        assert (brake.pulled, brake.by, brake.hurry, brake.stands()) == (True, signal.SIGTERM, False, False)
        brake.apply(running)
        brake.apply(running)
        assert (drained, said, brake.stands()) == (["drain"], ["stopping"], False)
        running[0].status = "TERMINATED"
        assert brake.stands(), "nobody waits for a trial that had not begun"
        os.kill(os.getpid(), signal.SIGTERM)
        assert brake.hurry
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)


def test_an_error_stops_what_runs_without_a_word_of_signals(drained: list[str]) -> None:
    said: list[str] = []
    brake = brake_of(drained, said)
    error = ValueError("of a callback")

    def fails() -> None:
        raise error

    assert brake.guard(fails) is None
    brake.apply([])
    assert (drained, said, brake.error, brake.stands()) == (["drain"], [], error, True)
