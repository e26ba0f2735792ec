"""What ``why`` says of the attempts at a trial."""

from __future__ import annotations

import subprocess
import sys

from orchestrator.delivery import spooled
from orchestrator.redact import public_result
from orchestrator.whereabouts import JOB, Whereabouts
from orchestrator.why import attempts_at
from search_spaces.names import FailureClass
from search_spaces.results import Failure
from tests.orchestrator.record_fixtures import STARTED_AT, make_failure, make_result, make_trial, publish
from trainables.failures import failure_of, node_failure

pytest_plugins = ("tests.orchestrator.record_plugin",)

LOST = Failure(failure_class=FailureClass.NODE, message="lost", public_message="lost")


def test_attempts_come_from_the_record_and_the_storage_once_each(record, storage):
    delivered = make_failure(make_trial(attempt="f0"))
    record.failed(delivered)
    waiting = make_failure(make_trial(attempt="f1"), started_at=STARTED_AT + 50, failure_class=FailureClass.MEMORY)
    storage.publish_failure(waiting)
    record.deliver(spooled(publish(storage, make_result(started_at=STARTED_AT + 100))))
    record.failed(make_failure(make_trial(seed=1, attempt="f0")))

    trial_id = delivered.trial.trial_id
    found = attempts_at(trial_id, record.attempts(), storage.failures(trial_id))
    assert [(a.state, a.failure_class) for a in found] == [
        ("failed", "divergence"),
        ("failed", "memory"),
        ("complete", ""),
    ]
    assert found[0].message == delivered.failure.message, "the storage's words, which may name files"
    assert [a.seconds for a in found] == [5.0, 5.0, 20.0]
    assert found[2].host == "node1"


def test_an_attempt_whose_details_were_deleted_is_still_told_of(record, storage):
    failure = make_failure(make_trial(attempt="f0"))
    record.failed(failure)
    storage.delete_delivered_failure(failure.trial.attempt_id)
    [attempt] = attempts_at(failure.trial.trial_id, record.attempts(), storage.failures(failure.trial.trial_id))
    assert (attempt.message, attempt.step, attempt.log) == ("cannot read an image", 17, "")


def test_a_lost_process_is_placed_by_its_last_report():
    where = Whereabouts()
    trial = make_trial()
    where.reported(
        {"trial_id": trial.trial_id, "step": 40, "host": "node7", "log": "/ray/worker.err", "resumed_from": 30}
    )
    result = where.failed_attempt(trial, LOST, STARTED_AT)
    assert (result.failure.host, result.failure.log, result.resumed_from) == ("node7", "/ray/worker.err", 30)
    assert (result.started_at, result.extra) == (STARTED_AT, {})


def test_a_failure_that_knows_its_place_keeps_it(monkeypatch):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", '{"metadata": {"job_submission_id": "raysubmit_1"}}')
    where = Whereabouts()
    trial = make_trial()
    where.reported({"trial_id": trial.trial_id, "host": "node7", "log": "/old.err"})
    known = LOST.model_copy(update={"host": "node8", "log": "/new.err"})
    result = where.failed_attempt(trial, known, STARTED_AT)
    assert (result.failure.host, result.failure.log, result.extra) == ("node8", "/new.err", {JOB: "raysubmit_1"})


def test_the_lines_say_when_where_how_long_and_where_the_log_is(record, storage):
    failure = make_failure(make_trial(attempt="f0"))
    placed = failure.failure.model_copy(update={"host": "node7", "log": "/ray/worker.err"})
    result = failure.model_copy(update={"failure": placed, "resumed_from": 12, "extra": {JOB: "raysubmit_1"}})
    storage.publish_failure(result)
    [attempt] = attempts_at(result.trial.trial_id, [], storage.failures(result.trial.trial_id))
    text = "\n".join(attempt.lines())
    for part in (
        "failed, started 20",
        "on node7, for 5 s, from the checkpoint of step 12",
        "divergence at step 17",
        "log: /ray/worker.err on node7",
        "ray job logs raysubmit_1",
        "| Traceback",
    ):
        assert part in text


def test_logs_stay_out_of_mlflow():
    failed = make_failure()
    placed = failed.failure.model_copy(update={"log": "/home/jane/ray/worker.err", "host": "node7"})
    public = public_result(failed.model_copy(update={"failure": placed}))["failure"]
    assert (public["log"], public["detail"], public["host"]) == ("", "", "node7")


def test_a_failure_names_the_file_that_its_process_writes_errors_to(tmp_path):
    code = "from trainables.failures import failure_of; f = failure_of(ValueError('x'), None); print(f.log, f.host)"
    with (tmp_path / "worker.err").open("w") as log:
        ran = subprocess.run([sys.executable, "-c", code], stderr=log, stdout=subprocess.PIPE, text=True, check=True)
    assert ran.stdout.split()[0] == str(tmp_path / "worker.err")
    piped = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert len(piped.stdout.split()) == 1, "a pipe is no file that one could read"
    assert failure_of(ValueError("x"), 3).step == 3
    assert node_failure("gone").log == ""
