"""What is remembered of memory that ran out."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.memory_limits import DEVICES_S, MemoryLimits, devices_of, memory_need
from orchestrator.retries import Retries
from search_spaces.names import FailureClass
from search_spaces.results import Failure
from search_spaces.study import GangSpec
from search_spaces.trial import ResolvedTrial
from tests.orchestrator.fake_training import payload
from trainables.storage import Storage

NEED, OTHER = '{"factory":"resnet50"}', '{"factory":"vit"}'
OUT_OF_MEMORY = Failure(failure_class=FailureClass.MEMORY, message="m", public_message="m")


def limits(storage: Storage, *devices: str) -> MemoryLimits:
    return MemoryLimits(storage, lambda: list(devices))


def test_a_later_run_knows_the_needs_that_were_too_much_for_the_same_devices(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    first = limits(storage, "A100")
    assert not first
    first.add(NEED)
    assert NEED in first
    later = limits(storage, "A100")
    assert later
    assert NEED in later
    assert OTHER not in later
    assert NEED not in limits(storage, "A100", "H100")


def test_the_devices_are_looked_at_now_and_then(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    limits(storage, "A100").add(NEED)
    now = 0.0
    types = ["H100"]
    later = MemoryLimits(storage, lambda: list(types), lambda: now)
    assert NEED not in later
    types[:] = ["A100"]
    assert NEED not in later, "not for every trial"
    now = DEVICES_S + 1
    assert NEED in later


def test_nothing_is_remembered_of_devices_whose_type_is_not_known(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    limits(storage).add(NEED)
    assert storage.notes() == {}
    limits(storage, "A100").add(NEED)
    assert NEED not in limits(storage)


def test_a_run_saves_memory_where_saving_it_has_helped_an_earlier_one(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    before = Retries(lambda trial_id: NEED)
    before.remember(limits(storage, "A100"))
    before.helped("early")
    assert before.again("a", OUT_OF_MEMORY)
    assert storage.notes() == {}, "nobody knows yet whether it helps"
    before.helped("a")

    after = Retries(lambda trial_id: NEED if trial_id == "b" else OTHER)
    assert not after.should_save_memory("b")
    after.remember(limits(storage, "A100"))
    assert after.should_save_memory("b")
    assert not after.should_save_memory("c")
    assert not after.again("b", OUT_OF_MEMORY, saved_memory=True), "there is no more to save"


def test_a_storage_that_is_away_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Storage(tmp_path)

    def away(*arguments: str) -> None:
        raise OSError("stale file handle")

    monkeypatch.setattr(storage, "notes", away)
    monkeypatch.setattr(storage, "put_note", away)
    found = limits(storage, "A100")
    assert NEED not in found
    found.add(NEED)
    assert NEED in found, "this run knows it all the same"


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
        ({}, {"factory_sha256": "0" * 64}, {}, False),
        ({"method": "linear_probe"}, {}, {}, False),
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
