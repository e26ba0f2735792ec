"""The record on a real MLflow server that goes away and comes back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from dashboards import load_predictions, load_results
from orchestrator.delivery import spooled
from orchestrator.record import Record
from search_spaces.home import scalecurves_home
from tests.conftest import free_port
from tests.orchestrator.record_fixtures import (
    make_result,
    make_study,
    make_trial,
    publish,
)
from trainables.storage import Storage

pytest_plugins = ("tests.orchestrator.record_plugin",)


@pytest.fixture
def server(tracking_uri: str, tmp_path: Path):
    """A real tracking server that can be stopped and started."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", tracking_uri, "--port", str(port)]
    command += ["--artifacts-destination", str(tmp_path / "served"), "--workers", "1"]
    processes: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        log = (tmp_path / "server.log").open("ab")
        processes.append(subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log, start_new_session=True))
        until = time.monotonic() + 300
        while time.monotonic() < until:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2)
                return
            except OSError:
                time.sleep(0.3)
        raise RuntimeError((tmp_path / "server.log").read_text())

    def stop() -> None:
        while processes:
            process = processes.pop()
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    start()
    yield f"http://127.0.0.1:{port}", start, stop
    stop()


@pytest.mark.slow
def test_a_real_server_takes_the_same_record_and_may_go_away(
    server, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, start, stop = server
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    record = Record(make_study(), storage, uri, retry_pauses_s=())
    record.open()
    first = record.deliver(spooled(publish(storage, make_result())))
    stop()
    publish(storage, make_result(make_trial(seed=1)))
    outcome = record.deliver_all()
    assert (outcome.delivered, outcome.waiting) == (0, 1)
    start()
    assert record.deliver_all().delivered == 1
    results = load_results("skin", uri)
    assert first in results["run_id"].tolist()
    predictions = load_predictions(results)
    assert len(predictions) == 4
    assert predictions[make_trial(seed=1).trial_id, "test"].logits.shape == (60, 3)
    assert (scalecurves_home() / "cache" / "record" / first).is_dir() is False
    assert len(dict(predictions)) == 4
    assert (scalecurves_home() / "cache" / "record" / first / "predictions" / "test.parquet").is_file()
