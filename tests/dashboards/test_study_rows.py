"""Several processes give the rows that one gives; what one of them leaves undone is done all the same."""

import pickle

import pandas as pd
import pytest

from dashboards import processes, study_rows
from dashboards.block_tables import BlockTables
from dashboards.exchange import Exchange, asked_for, read_whole, take, write_whole
from dashboards.record_files import LazyPredictions, RecordFiles, SetFile
from dashboards.tables import build_tables
from tests.dashboards.synthetic import evidence_of, whole_study, whole_tables


@pytest.fixture
def worked_on(monkeypatch):
    """Predictions in memory count as lazy ones, and the study as large; returns the tasks done by this process."""
    done, task_rows = [], study_rows.task_rows

    def counted(evidence, task, exchange):
        done.append(task)
        return task_rows(evidence, task, exchange)

    monkeypatch.setattr(study_rows, "LazyPredictions", dict)
    monkeypatch.setattr(study_rows, "PER_PROCESS", 1)
    monkeypatch.setattr(study_rows, "task_rows", counted)
    return done


def assert_tables_are_those_of_one_process():
    found = build_tables(evidence_of(whole_study()))
    assert found.named().keys() == whole_tables().named().keys()
    for name, table in whole_tables().named().items():
        pd.testing.assert_frame_equal(found.named()[name], table, check_exact=True)
    assert found.left_out == whole_tables().left_out


def test_what_another_process_made_is_used(worked_on, monkeypatch):
    monkeypatch.setattr(study_rows, "cpus", lambda: 2)
    monkeypatch.setattr(processes, "take", lambda folder, n: n == 0 and take(folder, n))
    assert_tables_are_those_of_one_process()
    assert "brain" not in worked_on


class OtherProcess(Exchange):
    """Every part is made as in another process: from what was sent, by tables of its own."""

    tables: BlockTables

    def hand(self, payload):
        name = f"{self._piece}-{self._parts}"
        self._parts += 1
        write_whole(asked_for(self._folder, name), payload)
        return name

    def collect(self, name, work):
        return self.tables.rows(*read_whole(asked_for(self._folder, name)))


def test_blocks_that_were_handed_on_give_the_same_rows(worked_on, monkeypatch):
    OtherProcess.tables = BlockTables(evidence_of(whole_study()))
    monkeypatch.setattr(study_rows, "cpus", lambda: 1)
    monkeypatch.setattr(processes, "Exchange", OtherProcess)
    assert_tables_are_those_of_one_process()
    assert worked_on == ["skin", "brain"]


def test_what_a_process_took_and_did_not_make_is_made_here(worked_on, monkeypatch):
    monkeypatch.setattr(study_rows, "cpus", lambda: 1)
    monkeypatch.setattr(processes, "take", lambda folder, n: n == 0)
    assert_tables_are_those_of_one_process()
    assert worked_on == ["skin", "brain"]


def test_predictions_of_a_record_can_be_sent_to_another_process():
    files = {("t", "test"): SetFile(run_id="r", artifact_uri="file:///gone", version="v")}
    predictions = LazyPredictions(files, "http://127.0.0.1:1")
    assert list(pickle.loads(pickle.dumps(predictions))) == [("t", "test")]
    of_record = RecordFiles("http://127.0.0.1:1")
    of_record._client = lambda: "a connection cannot be sent"
    again = pickle.loads(pickle.dumps(of_record))
    assert (again._uri, again._client) == ("http://127.0.0.1:1", None)
