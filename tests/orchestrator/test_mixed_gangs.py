"""Gangs of several shapes in one run, on a cluster of eight CPUs in name: at the same time, and in turns."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

ray = pytest.importorskip("ray")

from cluster.connection import connect  # noqa: E402
from orchestrator import yard  # noqa: E402
from orchestrator.agenda import Agenda, Entry  # noqa: E402
from orchestrator.executor import Executor, Limits  # noqa: E402
from orchestrator.feed import Handout  # noqa: E402
from orchestrator.fleet import Demand, Fleet  # noqa: E402
from orchestrator.pilot import TrialOutcome  # noqa: E402
from search_spaces.study import GangSpec  # noqa: E402
from tests.orchestrator.fake_training import payload  # noqa: E402

pytestmark = [pytest.mark.ray, pytest.mark.slow]

PAIR, BROAD, ALONE = GangSpec(ranks=2), GangSpec(ranks=2, cpus_per_rank=2), GangSpec(ranks=1)
WIDE = GangSpec(ranks=2, cpus_per_rank=4)
"""As many CPUs as there are."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with connect("local", num_cpus=8):
        yield


class Mixed:
    """A feed of trials in gangs of their own shape; remembers in which order they ended."""

    def __init__(self) -> None:
        self._payloads: dict[str, dict[str, Any]] = {}
        self._entries: dict[str, Entry[GangSpec]] = {}
        self._agenda: Agenda[GangSpec] = Agenda([])
        self.ended: list[str] = []
        self.outcomes: dict[str, TrialOutcome] = {}

    def add(self, name: str, gang: GangSpec, folder: Path, upstream: str | None = None, **arguments: Any) -> None:
        number = len(self._entries)
        trial_id = f"{number:016x}"
        ids = {n: f"{k:016x}" for k, n in enumerate([*self._names, name])}
        self._payloads[trial_id] = payload(number, folder, **arguments)
        self._entries[name] = Entry(
            trial_id=trial_id, cost=1.0, gang=gang, upstream_id=ids[upstream] if upstream else None
        )

    @property
    def _names(self) -> list[str]:
        return list(self._entries)

    def run(self, most: int | None = None) -> None:
        self._agenda = Agenda(self._entries.values())
        with Executor(
            on_report=lambda report: None,
            on_done=self._done,
            train="tests.orchestrator.fake_training:train",
            max_concurrent=most,
            limits=Limits(report_deadline_s=120.0, max_node_retries=0),
        ) as executor:
            executor.run(self)

    def _done(self, outcome: TrialOutcome) -> None:
        [name] = [n for n, entry in self._entries.items() if entry.trial_id == outcome.trial_id]
        self.ended.append(name)
        self.outcomes[name] = outcome
        self._agenda.complete(outcome.trial_id)

    def __len__(self) -> int:
        return len(self._agenda)

    def demands(self, running: Mapping[GangSpec, int]) -> dict[GangSpec, Demand]:
        return self._agenda.demands(running)

    def next(self, gangs: Collection[GangSpec]) -> Handout | None:
        trial_id = self._agenda.next(gangs)
        if trial_id is None:
            return None
        gang = next(entry.gang for entry in self._entries.values() if entry.trial_id == trial_id)
        return Handout(self._payloads[trial_id], gang)


def test_gangs_of_three_shapes_train_at_the_same_time(cluster: None, tmp_path: Path) -> None:
    """The trials that meet end only if each shape had its lease and its ranks while the others had theirs."""
    feed = Mixed()
    for name, gang in (("pair", PAIR), ("broad", BROAD), ("alone", ALONE)):
        feed.add(name, gang, tmp_path, shows=name, meets=["pair", "broad", "alone"])
        feed.add(f"{name} again", gang, tmp_path)
    feed.run()
    assert {name: o.failure for name, o in feed.outcomes.items()} == dict.fromkeys(feed.outcomes)
    assert len(feed.ended) == 6


@ray.remote(num_cpus=0)
def elsewhere(folder: Path) -> list[Any]:
    """Failures of a run of another process."""
    feed = Mixed()
    for n in range(2):
        feed.add(f"theirs {n}", PAIR, folder / "theirs", shows="theirs", meets=["../ours/ours"])
    feed.run(most=1)
    return [outcome.failure for outcome in feed.outcomes.values()]


def test_two_processes_that_share_a_cluster_train_at_the_same_time(cluster: None, tmp_path: Path) -> None:
    """Each has room for its gang; neither may hold what the other one's trials need besides."""
    for name in ("ours", "theirs"):
        (tmp_path / name).mkdir()
    theirs = elsewhere.remote(tmp_path)
    feed = Mixed()
    for n in range(2):
        feed.add(f"ours {n}", PAIR, tmp_path / "ours", shows="ours", meets=["../theirs/theirs"])
    feed.run(most=1)
    assert [outcome.failure for outcome in feed.outcomes.values()] == [None, None]
    assert ray.get(theirs) == [None, None]


def test_a_shape_that_does_not_fit_beside_another_gets_its_turn_and_gives_it_back(
    cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wide gang holds all CPUs; trials alone get their turn after a while; then the process that Tune keeps of them
    must not keep the wide gang from coming back."""
    monkeypatch.setattr(yard, "Fleet", partial(Fleet, patience_s=4.0))
    monkeypatch.setattr(yard, "LOOK_S", 0.5)
    feed = Mixed()
    for n in range(8):
        feed.add(f"wide {n}", WIDE, tmp_path, steps=4, sleep_s=0.4)
    for n in range(3):
        feed.add(f"alone {n}", ALONE, tmp_path)
    feed.add("wide after", WIDE, tmp_path, upstream="alone 0")
    feed.run()
    assert {name: o.failure for name, o in feed.outcomes.items()} == dict.fromkeys(feed.outcomes)
    assert len(feed.ended) == 12
    turns = [name.split()[0] for name in feed.ended]
    assert turns.index("alone") < 8, f"they waited for all of the wide trials: {feed.ended}"
    assert "wide" in turns[turns.index("alone") :], "the wide gang came back"
