"""The writer: attempts reach the record in the background, through outages."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.record import Record
from orchestrator.record_writer import RecordWriter
from search_spaces.exceptions import DataError
from tests.orchestrator.record_fixtures import (
    away,
    make_failure,
    make_result,
    make_trial,
    publish,
    runs_of,
)
from trainables.storage import Storage

pytest_plugins = ("tests.orchestrator.record_plugin",)


def test_the_writer_delivers_in_the_background(record: Record, storage: Storage) -> None:
    told: list[tuple[str, str]] = []
    writer = RecordWriter(record, on_delivered=lambda result, run_id: told.append((result.trial.trial_id, run_id)))
    for seed in range(3):
        writer.put(publish(storage, make_result(make_trial(seed=seed))))
    writer.put(make_failure())
    assert writer.close() == 0
    assert writer.delivered == 4
    assert [run_id for _, run_id in told] == [
        r.info.run_id for t in told for r in runs_of(record) if r.info.run_id == t[1]
    ]
    with pytest.raises(RuntimeError, match="closed"):
        writer.put(make_failure())


def test_the_writer_keeps_attempts_through_an_outage(
    record: Record, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = RecordWriter(record)
    with monkeypatch.context() as patch:
        patch.setattr(record._client, "create_run", away)
        for seed in range(2):
            writer.put(publish(storage, make_result(make_trial(seed=seed))))
        writer.put(make_failure())
        assert writer.flush() == 3
        assert "no route to host" in str(writer.outage)
        assert len(storage.undelivered()) == 3
    assert writer.flush() == 0
    assert writer.outage is None
    assert writer.close() == 0
    assert len(runs_of(record)) == 3


def test_what_an_outage_outlasts_is_delivered_at_the_next_start(
    record: Record, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = RecordWriter(record)
    with monkeypatch.context() as patch:
        patch.setattr(record._client, "create_run", away)
        writer.put(make_failure())
        writer.put(publish(storage, make_result()))
        assert writer.close() == 2
    assert record.deliver_all().delivered == 2
    assert record.states()[make_trial().trial_id].attempts == 2


def test_the_writer_raises_what_is_no_outage(record: Record, storage: Storage) -> None:
    writer = RecordWriter(record)
    broken = publish(storage, make_result())
    (Path(storage.place) / "trials" / broken.trial.trial_id / "history.parquet").write_text("no")
    writer.put(broken)
    writer.put(publish(storage, make_result(make_trial(seed=1))))
    with pytest.raises(DataError, match=r"1 attempts could not be recorded.*\n.*history\.parquet"):
        writer.flush()
    assert writer.delivered == 1
    assert writer.close() == 0
    assert [item.key for item in storage.undelivered()] == [broken.trial.trial_id]


def test_errors_of_a_callback_are_raised_as_they_are(record: Record, storage: Storage) -> None:
    writer = RecordWriter(record, on_delivered=lambda result, run_id: [][1])
    writer.put(publish(storage, make_result()))
    with pytest.raises(ExceptionGroup) as caught:
        writer.close()
    assert isinstance(caught.value.exceptions[0], IndexError)
