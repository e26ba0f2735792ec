"""The rank side of a gang with two real processes on gloo, and a broker of a few lines instead of Ray."""

from __future__ import annotations

import json
import multiprocessing as mp
import os
from pathlib import Path
from typing import Any

import torch

from search_spaces.names import FailureClass
from search_spaces.results import Failure
from tests.orchestrator.fake_training import payload
from trainables.gang import Ending, Rank, RecycleRanksError, root_cause
from trainables.rank_config import RankConfig

TRAIN = "tests.orchestrator.fake_training:train"


def ending(failure: Failure | None, lost_a_peer: bool = False) -> Ending:
    return Ending(failure=failure, lost_a_peer=lost_a_peer, worn=False)


def failure(message: str, failure_class: FailureClass = FailureClass.USER) -> Failure:
    return Failure(failure_class=failure_class, message=message, public_message=message)


def test_the_root_cause_is_the_failure_that_is_more_than_a_lost_peer() -> None:
    lost, bug, other = failure("closed by peer", FailureClass.NODE), failure("bug"), failure("another")
    assert root_cause([ending(None), ending(None)]) is None
    assert root_cause([ending(lost, True), ending(bug)]) is bug
    assert root_cause([ending(bug), ending(other)]) is bug
    assert root_cause([ending(None), ending(bug)]) is bug


def test_ranks_that_only_lost_each_other_make_a_node_failure() -> None:
    cause = root_cause([ending(None), ending(failure("closed by peer"), True)])
    assert cause is not None
    assert cause.failure_class is FailureClass.NODE


class Broker:
    """Says idle once, hands out a list of trials, and writes down what it is told."""

    def __init__(self, trials: list[dict[str, Any]]) -> None:
        self._trials = list(enumerate(trials))
        self._idle = ["idle"]
        self.ended: list[dict[str, Any]] = []
        self.steps: list[int] = []

    def hello(self, me: Any, nodes: list[str]) -> int:
        return 7

    def urgent(self, generation: int, key: str) -> str:
        return "go"

    def next(self, generation: int) -> tuple[str, str | None, dict[str, Any] | None]:
        assert generation == 7
        if self._idle:
            return self._idle.pop(), None, None
        if not self._trials:
            return "bye", None, None
        number, trial = self._trials.pop(0)
        return "trial", str(number), trial

    def report(self, generation: int, key: str, report: dict[str, Any]) -> str:
        self.steps.append(report["step"])
        return "go"

    def done(self, generation: int, key: str, message: dict[str, Any]) -> None:
        self.ended.append(message)


def rank_process(rank: int, size: int, rendezvous: str, trials: list[dict[str, Any]], answers: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=size)
    broker = Broker(trials)
    config = RankConfig(broker="", gang="", train=TRAIN, threads=1, timeout_s=60, memory_growth_bytes=2**40)
    part = Rank(config, rank, size, torch.device("cpu"), lambda method, *arguments: getattr(broker, method)(*arguments))
    recycled = False
    try:
        part.run(None)
    except RecycleRanksError:
        recycled = True
    (answers / f"{rank}.json").write_text(json.dumps([broker.ended, broker.steps, recycled]))
    torch.distributed.destroy_process_group()
    # As Ray ends its actors: a thread of gloo that outlives the interpreter would abort the process now and then.
    os._exit(0)


def run_gang(tmp_path: Path, trials: list[dict[str, Any]], size: int = 2) -> dict[int, tuple[Any, ...]]:
    """Rank -> what its broker heard, and whether it asked for fresh processes."""
    context = mp.get_context("spawn")
    rendezvous = f"file://{tmp_path / 'rendezvous'}"
    processes = [
        context.Process(target=rank_process, args=(rank, size, rendezvous, trials, tmp_path)) for rank in range(size)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert all(process.exitcode == 0 for process in processes)
    return {rank: tuple(json.loads((tmp_path / f"{rank}.json").read_text())) for rank in range(size)}


def test_failures_on_one_rank_and_on_all_end_with_their_root_cause_and_the_gang_goes_on(tmp_path: Path) -> None:
    faults = ["", "raise_on_one", "raise_on_first", "diverge", ""]
    trials = [payload(n % 4, fault=fault, steps=4, evaluations=2) for n, fault in enumerate(faults)]
    heard = run_gang(tmp_path, trials)
    ended, steps, recycled = heard[0]
    assert [m.get("failure", {}).get("failure_class") for m in ended] == [None, "data", "user", "divergence", None]
    assert ended[0]["result"]["extra"]["weights"] == ended[4]["result"]["extra"]["weights"], "warm equals cold"
    assert steps == [2, 4, 2, 4]
    assert not recycled
    assert heard[1] == ([], [], False), "only rank 0 talks to the broker"


def test_after_running_out_of_memory_all_ranks_ask_for_fresh_processes(tmp_path: Path) -> None:
    heard = run_gang(tmp_path, [payload(0, fault="out_of_memory"), payload(1)])
    assert [m["failure"]["failure_class"] for m in heard[0][0]] == ["memory"]
    assert heard[0][2]
    assert heard[1][2]


def test_one_rank_needs_no_process_group(tmp_path: Path) -> None:
    heard = run_gang(tmp_path, [payload(0), payload(1, fault="diverge")], size=1)
    assert [next(iter(m)) for m in heard[0][0]] == ["result", "failure"]
