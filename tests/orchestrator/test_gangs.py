"""Gangs of one shape as the driver keeps them; with a cluster in test_executor."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

ray = pytest.importorskip("ray")

from cluster.capacity import Shape  # noqa: E402
from orchestrator import gangs as gangs_module  # noqa: E402
from orchestrator.gangs import Gangs  # noqa: E402
from trainables.rank_config import RankConfig  # noqa: E402

WAIT_S = 20


class Waiting:
    """Train, whose ranks wait for room that never comes."""

    def __init__(self) -> None:
        self.inside, self.abandoned = threading.Event(), threading.Event()

    def fit(self) -> None:
        self.inside.set()
        assert self.abandoned.wait(WAIT_S)
        raise RuntimeError("the controller was killed")

    def abandon(self) -> None:
        self.abandoned.set()

    def rooms(self) -> list[str]:
        return ["one", "another"]


def answers(value: Any = None) -> Any:
    return SimpleNamespace(remote=lambda *_: value)


@pytest.fixture
def gangs(monkeypatch: pytest.MonkeyPatch) -> Gangs:
    broker = SimpleNamespace(retire=answers(0), expect=answers(), lost=answers(True), gone=answers())
    monkeypatch.setattr(ray, "get_actor", lambda name: broker)
    monkeypatch.setattr(ray, "get", lambda reference: reference)
    monkeypatch.setattr(gangs_module, "GOODBYE_S", 0.1)
    config = RankConfig(broker="b", gang="", train="m:f", threads=1, timeout_s=1.0, memory_growth_bytes=1)
    return Gangs(Shape(ranks=2, cpus=1, gpus=0.0), config, "")


def test_a_gang_that_still_waits_for_room_at_the_end_is_abandoned(
    gangs: Gangs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else its thread would be inside ``fit`` when the connection closes, which ends the process."""
    train = Waiting()
    removed: list[str] = []
    monkeypatch.setattr(gangs, "_trainer", lambda name: train)
    monkeypatch.setattr(gangs_module, "remove_placement_group", removed.append)
    gangs.resize(1)
    assert train.inside.wait(WAIT_S)
    [thread] = gangs._threads
    gangs.close()
    assert train.abandoned.is_set()
    assert not thread.is_alive()
    assert removed == ["one", "another"], "it would take the CPUs of whatever the driver does next"
