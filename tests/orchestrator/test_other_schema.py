"""A record that another version has written: every command refuses it, above all the one that deletes."""

from __future__ import annotations

import pytest
from mlflow import MlflowClient

from orchestrator.api import places_of, plan_study
from orchestrator.places import Places
from orchestrator.record import Record
from search_spaces.exceptions import OtherSchemaError
from search_spaces.names import Tag
from tests.orchestrator.record_fixtures import make_study
from tests.orchestrator.small_runs import call
from tests.orchestrator.small_study import write_study

pytest_plugins = ("tests.orchestrator.record_plugin",)

REFUSAL = "the record of study 'small' has schema 99, this version reads and writes schema 1: use the version that"
GONE = "0" * 16
"""A trial that is not in the study: its checkpoint is the first thing that prune deletes."""


@pytest.fixture
def written_elsewhere(tmp_path, tracking_uri):
    """The study file of a record of schema 99, with a leftover in its storage."""
    file = write_study(tmp_path)
    places = Places.of(tracking_uri=tracking_uri)
    storage = places.storage_of("small")
    record = Record(plan_study(file).study, storage, tracking_uri, retry_pauses_s=())
    record.open()
    MlflowClient(tracking_uri).set_tag(record.parent_id, Tag.SCHEMA, "99")
    storage.put_checkpoint(GONE, b"1")
    return file, tracking_uri, storage


@pytest.mark.parametrize(
    "command",
    [
        ("status", "STUDY", "--json"),
        ("plan", "STUDY", "--json"),
        ("why", "STUDY", "0"),
        ("retry", "STUDY", "--failed"),
        ("prune", "STUDY", "--weights", "all", "--yes"),
        ("report", "STUDY"),
    ],
    ids=lambda command: command[0],
)
def test_every_command_refuses_it_and_nothing_is_deleted(written_elsewhere, command):
    file, uri, storage = written_elsewhere
    told = call(*(file if a == "STUDY" else a for a in command), "--tracking-uri", uri, code=1)
    assert REFUSAL in " ".join(told.split())
    assert storage.checkpoints() == {GONE: 1}


def test_it_is_refused_over_a_server_as_in_a_file(storage, tracking_uri, monkeypatch):
    """The tables of a SQLite file are read directly; every other record is searched by MLflow."""
    record = Record(make_study(), storage, tracking_uri, retry_pauses_s=())
    record.open()
    MlflowClient(tracking_uri).delete_tag(record.parent_id, Tag.SCHEMA)
    monkeypatch.setattr("dashboards.run_heads._from_sqlite", lambda *_: None)
    with pytest.raises(OtherSchemaError, match=r"'skin' has schema none, this version"):
        record.attempts()


def test_a_study_without_a_record_has_nothing_to_refuse(tracking_uri):
    places = places_of(tracking_uri=tracking_uri)
    assert Record(make_study(), places.storage_of("skin"), tracking_uri).attempts() == []
