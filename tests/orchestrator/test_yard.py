"""Which gangs a run keeps, with gangs and a cluster in name only."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("ray")

from cluster.capacity import Shape
from orchestrator import yard as yard_module
from orchestrator.fleet import Demand
from orchestrator.yard import SoloConfig, Yard
from search_spaces.study import GangSpec
from trainables.rank_config import RankConfig

NODES = [{"Alive": True, "Resources": {"CPU": 8.0}}]
PAIR, BROAD, ALONE = GangSpec(ranks=2), GangSpec(ranks=2, cpus_per_rank=2), GangSpec(ranks=1)


class _Gangs:
    """Remembers how many there should be, over time."""

    made: dict[int, _Gangs]

    def __init__(self, shape: Shape, config: Any, folder: str) -> None:
        self.sizes: list[int] = []
        type(self).made[shape.cpus] = self

    def resize(self, number: int) -> None:
        self.sizes.append(number)


@pytest.fixture
def yard(monkeypatch: pytest.MonkeyPatch) -> Yard:
    monkeypatch.setattr(_Gangs, "made", {}, raising=False)
    monkeypatch.setattr(yard_module, "Gangs", _Gangs)
    monkeypatch.setattr(yard_module, "register_trainable", lambda name, trainable: None)
    monkeypatch.setattr(yard_module, "present_and_possible", lambda: NODES)
    monkeypatch.setattr(Yard, "_live", lambda self, demands: {})
    ranks = RankConfig(broker="b", gang="", train="m:f", threads=1, timeout_s=1.0, memory_growth_bytes=1)
    return Yard("b", ranks, SoloConfig(train="m:f", memory_growth_bytes=1, report_deadline_s=1), "", None)


@pytest.mark.parametrize("specs", [(PAIR,), (PAIR, BROAD, ALONE)], ids=["one shape", "three"])
def test_a_yard_that_rests_has_no_gang_and_gets_the_same_ones_when_it_is_asked_again(
    yard: Yard, specs: tuple[GangSpec, ...]
) -> None:
    demands = {spec: Demand(ready=1, work=1.0) for spec in specs}
    yard.require(list(demands))
    before = yard.places(demands)
    assert yard.places(demands).keys() == before.keys()
    assert {cpus: gangs.sizes for cpus, gangs in _Gangs.made.items()} == {s.cpus_per_rank: [1] for s in specs[:2]}
    yard.rest()
    assert all(gangs.sizes == [1, 0] for gangs in _Gangs.made.values())
    assert not yard.crowded
    again = yard.places(demands)  # the same demands, within the seconds between two decisions
    assert all(gangs.sizes == [1, 0, 1] for gangs in _Gangs.made.values())
    assert {spec: place.first for spec, place in again.items()} == {spec: p.first for spec, p in before.items()}


def test_leases_of_a_large_run_leave_those_of_other_drivers_their_part(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They share one unit of a resource; how many there are follows from the feed."""
    monkeypatch.setattr(yard_module, "present_and_possible", lambda: [{"Alive": True, "Resources": {"CPU": 1000.0}}])
    demands = {PAIR: Demand(ready=500, work=500.0)}
    yard.require(list(demands))
    place = yard.places(demands)[PAIR]
    assert place.first == place.named == 501
    [(name, share)] = place.resources.required_resources.items()
    assert name == "node:__internal_head__"
    assert place.named * share < 0.1


def test_a_yard_may_rest_before_anything_ran(yard: Yard) -> None:
    yard.rest()
    assert _Gangs.made == {}


def test_nodes_that_do_not_come_are_named(
    yard: Yard, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    there = [NODES[0] | {"NodeID": "a"}]
    possible = [{"Alive": True, "Resources": {"CPU": 64.0}}] * 2
    monkeypatch.setattr(yard_module, "present_and_possible", lambda: [*there, *possible])
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(yard_module.time, "monotonic", lambda: clock.now)
    wide = GangSpec(ranks=2, cpus_per_rank=64, gpus_per_rank=0)
    yard.require([wide])
    yard.places({wide: Demand(ready=1, work=1.0)})
    for minutes in (1, 9):
        clock.now = 1000.0 + 60 * minutes
        yard.places({wide: Demand(ready=1, work=1.0)})
    assert not caplog.messages
    clock.now = 1000.0 + 60 * 11
    yard.places({wide: Demand(ready=1, work=1.0)})
    [said] = caplog.messages
    assert said.startswith("1 nodes are there, and for 10 minutes none has come")
    there.extend([possible.pop() | {"NodeID": "b"}, possible.pop() | {"NodeID": "c"}])
    clock.now += 3600
    yard.places({wide: Demand(ready=1, work=1.0)})
    assert len(caplog.messages) == 1
