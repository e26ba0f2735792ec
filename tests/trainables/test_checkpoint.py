"""When a checkpoint is written, what it refuses, and what a storage that is away means."""

from __future__ import annotations

import logging

import pytest
import torch

from search_spaces.exceptions import StorageError, UserError
from search_spaces.names import FailureClass
from tests.trainables.toy import TRIAL_ID
from trainables.checkpoint import Checkpoints, from_bytes, to_bytes
from trainables.failures import failure_of
from trainables.groups import SingleProcess
from trainables.storage import Storage

STATE = {"step": 3, "weights": {"w": torch.arange(4.0)}, "history": [{"step": 1, "val": None}]}


class _Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return _Clock()


@pytest.fixture
def storage(tmp_path):
    return Storage(tmp_path)


@pytest.fixture
def checkpoints(storage, clock):
    return Checkpoints(storage, TRIAL_ID, 30.0, SingleProcess(), clock)


def test_what_is_written_is_read(storage, checkpoints):
    assert checkpoints.load() is None
    checkpoints.save(lambda: STATE)
    loaded = checkpoints.load()
    assert torch.equal(loaded.pop("weights")["w"], STATE["weights"]["w"])
    assert loaded == {"step": 3, "history": [{"step": 1, "val": None}]}
    checkpoints.delete()
    assert checkpoints.load() is None


def test_a_storage_that_is_away_may_be_back_another_time(storage, checkpoints, monkeypatch):
    def away(trial_id):
        raise OSError("Stale file handle")

    monkeypatch.setattr(storage, "get_checkpoint", away)
    with pytest.raises(StorageError, match=f"checkpoint of trial {TRIAL_ID} cannot be read: Stale") as raised:
        checkpoints.load()
    assert failure_of(raised.value, step=None).failure_class is FailureClass.TRACKING


@pytest.mark.parametrize(("seconds", "written"), [(29, 0), (31, 1)])
def test_written_when_the_last_is_old_enough(checkpoints, clock, seconds, written):
    made = []
    clock.now = seconds
    checkpoints.save_if_due(lambda: made.append(1) or STATE)
    assert len(made) == written
    checkpoints.save_if_due(lambda: made.append(1) or STATE)
    assert len(made) == written  # the interval starts again


def test_a_checkpoint_of_another_trial_is_refused(storage, checkpoints):
    storage.put_checkpoint(TRIAL_ID, to_bytes(STATE, "f" * 16))
    with pytest.raises(UserError, match=f"belongs to trial {'f' * 16}"):
        checkpoints.load()


@pytest.mark.parametrize("damage", [lambda d: d[:100], lambda d: b"", lambda d: d[: len(d) // 2], lambda d: b"x" * 99])
def test_a_damaged_checkpoint_starts_the_trial_over(damage, caplog):
    with caplog.at_level(logging.WARNING):
        assert from_bytes(damage(to_bytes(STATE, TRIAL_ID)), TRIAL_ID) is None
    assert "starts over" in caplog.text


def test_another_format_starts_the_trial_over(monkeypatch, caplog):
    data = to_bytes(STATE, TRIAL_ID)
    monkeypatch.setattr("trainables.checkpoint.CHECKPOINT_FORMAT", 99)
    assert from_bytes(data, TRIAL_ID) is None
    assert "format 3, not 99" in caplog.text


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    data = to_bytes({"step": Evil()}, TRIAL_ID)
    assert from_bytes(data, TRIAL_ID) is None
    assert not (tmp_path / "owned").exists()


def test_a_storage_that_is_away_costs_the_checkpoint_and_not_the_trial(storage, checkpoints, monkeypatch, caplog):
    def fails(*_):
        raise OSError("no route to host")

    with monkeypatch.context() as patched:
        patched.setattr(storage, "put_checkpoint", fails)
        checkpoints.save(lambda: STATE)
    assert checkpoints.failures == 1
    assert "no route to host" in caplog.text
    checkpoints.save(lambda: STATE)
    assert checkpoints.load() is not None
