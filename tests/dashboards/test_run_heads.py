"""Heads of runs: the same from SQLite's tables as from MLflow's search, whatever has changed in between."""

from __future__ import annotations

import pytest

from dashboards.run_heads import RunHead, experiment_heads, study_heads
from dashboards.tracking import RecordTag
from orchestrator.delivery import spooled
from search_spaces.exceptions import TrackingError
from search_spaces.names import Tag
from tests.orchestrator.record_fixtures import client_of, make_failure, make_result, make_trial, publish, runs_of

pytest_plugins = ("tests.orchestrator.record_plugin",)


@pytest.fixture
def filled(record, storage):
    """A record of two complete trials and a failed attempt."""
    for seed in (0, 1):
        record.deliver(spooled(publish(storage, make_result(make_trial(seed=seed)))))
    record.failed(make_failure())
    return record


def searched(record) -> list[RunHead]:
    return [RunHead.of(run) for run in runs_of(record, "")]


def test_the_tables_say_what_the_search_says(filled):
    heads = study_heads(filled.uri, "skin")
    assert heads == searched(filled)
    assert len(heads) == 4, "the parent, too"
    assert experiment_heads(client_of(filled), filled.uri, filled.experiment_id) == heads
    complete = [h for h in heads if h.tags.get(Tag.STATE) == "complete"]
    assert [h.seconds for h in complete] == [20.0, 20.0]
    assert complete[0].tags["sc.sets"] == "head_neck,test"
    assert complete[0].tags["env.host"] == "node1"
    client_of(filled).set_tag(complete[0].run_id, RecordTag.set_hash("test"), "abc")
    changed = {h.run_id: h for h in study_heads(filled.uri, "skin")}
    assert changed[complete[0].run_id].tags["sc.set_hash/test"] == "abc"
    assert list(changed.values()) == searched(filled)


def test_deleted_runs_and_changed_tags_are_seen_at_once(filled):
    client = client_of(filled)
    trial_id = make_trial(seed=1).trial_id
    run = next(h for h in study_heads(filled.uri, "skin") if h.tags.get(Tag.TRIAL_ID) == trial_id)
    assert filled.look([trial_id])[trial_id].state == "complete"
    client.set_tag(run.run_id, Tag.STATE, "superseded")
    assert filled.look([trial_id])[trial_id].state == "missing"
    client.set_tag(run.run_id, Tag.STATE, "complete")
    client.delete_run(run.run_id)
    assert filled.look([trial_id])[trial_id].state == "missing"
    assert run.run_id not in {h.run_id for h in study_heads(filled.uri, "skin")}
    client.restore_run(run.run_id)
    assert study_heads(filled.uri, "skin") == searched(filled)


def test_tables_that_are_not_known_are_left_to_the_search(filled, monkeypatch):
    expected = searched(filled)
    monkeypatch.setattr("dashboards.run_heads._NEEDED", {"runs": {"a_column_of_another_version"}})
    assert study_heads(filled.uri, "skin") == expected


def test_the_search_goes_over_many_pages(filled, monkeypatch):
    monkeypatch.setattr("dashboards.run_heads._is_known", lambda connection: False)
    monkeypatch.setattr("dashboards.run_heads.PAGE", 1)
    assert study_heads(filled.uri, "skin") == searched(filled)


def test_a_study_without_a_record_has_no_runs(filled, tmp_path):
    assert study_heads(filled.uri, "another") == []
    assert study_heads(f"sqlite:///{tmp_path / 'none.db'}", "skin") == []


def test_a_damaged_file_is_an_outage_and_not_an_empty_record(tmp_path):
    file = tmp_path / "damaged.db"
    file.write_bytes(b"no database, but long enough to look like a file of one" * 50)
    with pytest.raises(TrackingError, match="cannot be read"):
        study_heads(f"sqlite:///{file}", "skin")
