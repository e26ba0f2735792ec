"""What is remembered of memory that ran out."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.memory_limits import MemoryLimits, devices_of, memory_need
from orchestrator.retries import Retries
from search_spaces.names import FailureClass
from search_spaces.results import Failure
from search_spaces.study import GangSpec
from search_spaces.trial import ResolvedTrial
from tests.orchestrator.fake_training import payload
from trainables.storage import Storage

NEED, OTHER = '{"factory":"resnet50"}', '{"factory":"vit"}'
OUT_OF_MEMORY = Failure(failure_class=FailureClass.MEMORY, message="m", public_message="m")


def test_a_later_run_knows_the_needs_that_were_too_much_for_the_same_devices(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    first = MemoryLimits(storage, ["A100"])
    assert not first
    first.add(NEED)
    later = MemoryLimits(storage, ["A100"])
    assert later
    assert NEED in later
    assert OTHER not in later
    assert NEED not in MemoryLimits(storage, ["A100", "H100"])


def test_a_run_saves_memory_where_an_earlier_one_ran_out_of_it(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    before, after = Retries(lambda trial_id: NEED), Retries(lambda trial_id: NEED if trial_id == "b" else OTHER)
    before.remember(MemoryLimits(storage, []))
    assert before.again("a", OUT_OF_MEMORY)
    assert not after.should_save_memory("b")
    after.remember(MemoryLimits(storage, []))
    assert after.should_save_memory("b")
    assert not after.should_save_memory("c")


def test_a_storage_that_is_away_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Storage(tmp_path)

    def away(*arguments: str) -> None:
        raise OSError("stale file handle")

    monkeypatch.setattr(storage, "notes", away)
    monkeypatch.setattr(storage, "put_note", away)
    limits = MemoryLimits(storage, [])
    limits.add(NEED)
    assert NEED not in limits


def test_devices_are_the_types_of_the_clusters_accelerators() -> None:
    nodes = [
        {"Resources": {"CPU": 8.0, "GPU": 1.0, "accelerator_type:H100": 1.0}},
        {"Resources": {"CPU": 8.0, "accelerator_type:A100": 1.0}},
        {"Resources": {"CPU": 8.0, "accelerator_type:A100": 1.0}},
        {"Alive": True},
    ]
    assert devices_of(nodes) == ["A100", "H100"]
    assert devices_of(nodes[3:]) == []


@pytest.mark.parametrize(
    ("protocol", "scale", "gang", "same"),
    [
        ({"lr": 0.5, "label_smoothing": 0.1}, {}, {}, True),
        ({"ghost_batch_size": 7}, {}, {}, False),
        ({"precision": "bf16"}, {}, {}, False),
        ({}, {"input_size": 99}, {}, False),
        ({}, {"arguments": {"width": 2.0}}, {}, False),
        ({}, {}, {"ranks": 4}, False),
    ],
)
def test_a_need_is_what_the_memory_of_a_ghost_batch_follows_from(
    protocol: dict[str, object], scale: dict[str, object], gang: dict[str, int], same: bool
) -> None:
    trial = ResolvedTrial.model_validate(payload(0))
    changed = trial.model_copy(
        update={
            "protocol": trial.protocol.model_copy(update=protocol),
            "scale": trial.scale.model_copy(update=scale),
            "seed": trial.seed.model_copy(update={"init": 5}),
        }
    )
    assert (memory_need(changed, GangSpec(**gang)) == memory_need(trial, GangSpec())) is same
