"""Tune's view of a feed: how many trials one Tuner names."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("ray")

from ray.tune.execution.placement_groups import resource_dict_to_pg_factory

from orchestrator import feed as feed_module
from orchestrator.brake import Brake
from orchestrator.feed import PER_SLOT, Handout, InOrder, Place, TuneFeed
from orchestrator.fleet import Demand
from search_spaces.study import GangSpec

GANG = GangSpec()


@pytest.mark.parametrize(("slots", "named"), [(1, 150), (4, 4 * PER_SLOT)])
def test_a_tuner_ends_seldom_enough_that_its_slots_are_busy(
    monkeypatch: pytest.MonkeyPatch, slots: int, named: int
) -> None:
    """At its end all slots but the last one that trains are idle."""
    asked: list[Demand] = []

    def places(demands: Mapping[GangSpec, Demand]) -> dict[GangSpec, Place]:
        asked.append(demands[GANG])
        resources = resource_dict_to_pg_factory({"CPU": 1})
        return {GANG: Place(trainable="t", config={}, resources=resources, first=slots, named=slots)}

    count = iter(range(10_000))
    monkeypatch.setattr(feed_module, "Trial", lambda *a, **options: SimpleNamespace(trial_id=str(next(count))))
    brake = Brake(None, 1.0, lambda: None)
    feed = TuneFeed(InOrder(({"trial_id": str(n)} for n in range(1000)), GANG), brake, places, most=150)
    feed.add_configurations([SimpleNamespace(spec=_Anything())])
    running: list[Any] = []
    started = 0
    while not feed.is_finished() or running:
        while (trial := feed.next_trial()) is not None:
            started += 1
            running.append(trial)
        feed.on_trial_result(running[0].trial_id, {})
        feed.on_trial_complete(running.pop(0).trial_id)
    assert started == named
    assert brake.error is None
    assert max(d.running for d in asked) == slots
    assert {d.training for d in asked} == {0}, "one that has reported has ended here"


def test_trials_that_have_reported_hold_their_room(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Demand] = []

    def places(demands: Mapping[GangSpec, Demand]) -> dict[GangSpec, Place]:
        asked.append(demands[GANG])
        resources = resource_dict_to_pg_factory({"CPU": 1})
        return {GANG: Place(trainable="t", config={}, resources=resources, first=2, named=2)}

    count = iter("abcd")
    monkeypatch.setattr(feed_module, "Trial", lambda *a, **options: SimpleNamespace(trial_id=next(count)))
    feed = TuneFeed(InOrder(({} for _ in range(9)), GANG), Brake(None, 1.0, lambda: None), places, most=150)
    feed.add_configurations([SimpleNamespace(spec=_Anything())])
    feed.next_trial()
    feed.next_trial()
    feed.on_trial_result("a", {})
    feed.next_trial()
    assert [(d.running, d.training) for d in asked] == [(0, 0), (1, 0), (2, 1)]


def test_gangs_that_come_to_one_place_share_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """As those of ``gpus_per_rank`` null and 0 do on a cluster without GPUs."""
    other = GangSpec(gpus_per_rank=0)
    apart = GangSpec(ranks=2)

    def places(demands: Mapping[GangSpec, Demand]) -> dict[GangSpec, Place]:
        resources = resource_dict_to_pg_factory({"CPU": 1})
        one, two = (Place(trainable="t", config={"is": n}, resources=resources, first=2, named=2) for n in "ab")
        return {GANG: one, other: one, apart: two}

    class OfThree:
        def __len__(self) -> int:
            return 99

        def demands(self, running: Mapping[GangSpec, int]) -> dict[GangSpec, Demand]:
            return {gang: Demand(ready=9, running=running.get(gang, 0)) for gang in (GANG, other, apart)}

        def next(self, gangs: Any) -> Handout | None:
            return Handout({}, gangs[-1]) if gangs else None

    count = iter(range(99))
    monkeypatch.setattr(feed_module, "Trial", lambda *a, **options: SimpleNamespace(trial_id=str(next(count))))
    feed = TuneFeed(OfThree(), Brake(None, 1.0, lambda: None), places, most=150)
    feed.add_configurations([SimpleNamespace(spec=_Anything())])
    while feed.next_trial() is not None:
        pass
    running = list(feed._running.values())
    assert [running.count(gang) for gang in (apart, other, GANG)] == [2, 2, 0]


class _Anything(dict[str, Any]):
    def __missing__(self, key: str) -> None:
        return None
