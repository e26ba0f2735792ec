"""Where a study stands while it runs: what its drivers say in the storage."""

from __future__ import annotations

import io
import json
import time

import pytest
from rich.console import Console

from orchestrator import status as status_module
from orchestrator.api import places_of, plan_study, study_status
from orchestrator.drivers import DriverNote, running_now
from orchestrator.pace import TimeLeft
from orchestrator.status import status_view, watch
from tests.orchestrator.small_runs import call
from tests.orchestrator.small_study import raw_study, write_study
from tests.orchestrator.test_claims import leave_note
from trainables.storage import Storage

pytest_plugins = ("tests.orchestrator.record_plugin",)


def text_of(status):
    return str(status_view(status).renderables[0])


@pytest.fixture
def study(tmp_path, tracking_uri, monkeypatch):
    """Its file; nothing of it has run."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri)
    return write_study(tmp_path, axes=raw_study()["axes"] | {"pretraining_source": ["random"], "data_fraction": [1.0]})


def test_the_time_left_comes_with_its_error(study):
    storage = places_of().storage_of("small")
    leave_note(storage, "fast", eta_s=60.0, eta_error_s=5.0)
    leave_note(storage, "slow", eta_s=3600.0, eta_error_s=240.0, running=[plan_study(study).targets[0].trial_id])
    found = json.loads(call("status", study, "--json"))
    assert (found["running"], found["eta_s"], found["eta_error_s"]) == (1, 3600.0, 240.0), "of the last"
    assert ", about 1 h 00 min left (± 4 min 00 s)" in text_of(found)
    assert "left (± 4 min 00 s)" in call("status", study)


def test_without_a_driver_or_an_error_nothing_is_said_of_it(study):
    found = study_status(study)
    assert (found["eta_s"], found["eta_error_s"]) == (None, None)
    assert "left" not in text_of(found)
    leave_note(places_of().storage_of("small"), "earlier", eta_s=60.0)
    found = study_status(study)
    assert (found["eta_s"], found["eta_error_s"]) == (60.0, None), "drivers of earlier versions know of no error"
    assert text_of(found).endswith("about 1 min 00 s left")


def test_without_a_terminal_watching_prints_a_line_when_counts_change(study, monkeypatch):
    """As in a pipe or a log, where a live view shows nothing until it ends."""
    done_running = ((0, 0), (0, 1), (0, 1), (1, 1), (2, 0))
    seen = [{"done": done, "failed": 0, "running": running, "missing": 2 - done} for done, running in done_running]
    whole = study_status(study)
    looks = iter({**whole, **counts, "trials": 2, "eta_s": None} for counts in seen)
    monkeypatch.setattr(status_module, "study_status", lambda plan, places: next(looks))
    file = io.StringIO()
    watch(plan_study(study), places_of(), Console(file=file, width=200), every_s=0)
    lines = [line for line in file.getvalue().splitlines() if "trials done" in line]
    assert [line.split(": ")[1].split(" trials")[0] for line in lines] == ["0 of 2", "0 of 2", "1 of 2", "2 of 2"]
    assert file.getvalue().count("axis") == 1, "the whole at the end"


def test_a_driver_leaves_its_error_in_its_note(tmp_path):
    storage = Storage(tmp_path)
    storage.put_note("another", "")
    note = DriverNote(storage, "skin", lambda: TimeLeft(60.0, 5.0), every_s=0.01)
    try:
        while not storage.notes("driver-"):
            time.sleep(0.01)
        assert running_now(storage, "skin") == (set(), TimeLeft(60.0, 5.0))
    finally:
        note.close()
