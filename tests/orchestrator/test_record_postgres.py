"""The record on the server of the manifests: MLflow on Postgres, two workers; several writers, an outage, many runs."""

from __future__ import annotations

import math
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cluster.fill import template
from dashboards import load_predictions, load_results, tracking
from orchestrator.delivery import spooled
from orchestrator.record import Record
from search_spaces.names import Role, State, Tag
from tests.orchestrator.record_fixtures import (
    client_of,
    make_failure,
    make_result,
    make_study,
    make_trial,
    publish,
    runs_of,
    write_folder,
)
from tests.orchestrator.servers import TrackingServer, postgres, postgres_programs, tracking_server
from trainables.storage import Storage

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    pytest.importorskip("psycopg2", reason="psycopg2 not installed: pip install 'scalecurves[postgres]'")
    programs = postgres_programs()
    if programs is None:
        pytest.skip("Postgres not found: no initdb and pg_ctl on the path or in /usr/lib/postgresql/*/bin")
    with postgres(programs) as uri:
        yield uri


@pytest.fixture(scope="module")
def server(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrackingServer]:
    """With the options and variables of the manifests, but for addresses and places."""
    [pod] = [o["spec"]["template"]["spec"] for o in template()["mlflow.yaml"] if o["kind"] == "Deployment"]
    [container] = pod["containers"]
    variables = {v["name"]: v["value"].replace("$(POD_NAMESPACE)", "lab") for v in container["env"] if "value" in v}
    folder = tmp_path_factory.mktemp("mlflow")
    with tracking_server(database, folder, container["args"], variables) as made:
        yield made


def open_record(server: TrackingServer, folder: Path, study: str) -> Record:
    made = Record(make_study(study), Storage(folder), server.uri, retry_pauses_s=())
    made.open()
    return made


def test_two_writers_start_a_study_at_once_and_every_trial_is_there_once(
    server: TrackingServer, tmp_path: Path
) -> None:
    together = Barrier(2)

    def write(writer: int) -> int:
        storage = tmp_path / f"storage{writer}"
        together.wait()
        record = open_record(server, storage, "pair")
        for seed in range(3):  # the second seed is trained by both, as after a claim that was lost
            trial = make_trial(study="pair", seed=seed + writer, attempt=f"w{writer}")
            publish(Storage(storage), make_result(trial, started_at=1_700_000_000.0 + writer))
        return record.deliver_all().delivered

    with ThreadPoolExecutor(2) as pool:
        assert sum(pool.map(write, range(2))) >= 4
    results = load_results("pair", server.uri)
    assert sorted(results["trial_id"]) == sorted({make_trial(seed=seed).trial_id for seed in range(4)})
    record = open_record(server, tmp_path / "third", "pair")
    assert len(record.states()) == 4
    open_parents = runs_of(record, f"tags.`{Tag.ROLE}` = '{Role.STUDY}'")
    assert record.parent_id in {run.info.run_id for run in open_parents}


def test_what_is_not_finite_stays_out_and_the_rest_arrives(server: TrackingServer, tmp_path: Path) -> None:
    record, storage = open_record(server, tmp_path / "storage", "odd"), Storage(tmp_path / "storage")
    result = make_result(make_trial(study="odd"), loss=math.inf)
    with storage.staging() as staged:
        folder = write_folder(staged / "result", result)
        values = {
            "step": np.arange(4) * 100,
            "loss": [math.nan, math.inf, -math.inf, 0.5],
            "val": [0.6, math.nan, 0.7, 0.8],
        }
        pq.write_table(pa.table(values), folder / "history.parquet")
        storage.publish(folder, result.trial.trial_id)
    run_id = record.deliver(spooled(result))
    failed = record.failed(make_failure(make_trial(study="odd", seed=1, attempt="f0")))
    client = client_of(record)
    kept = {
        key: [(m.step, m.value) for m in client.get_metric_history(run_id, key)]
        for key in ("train/loss", "val/auc_macro")
    }
    assert kept == {"train/loss": [(300, 0.5)], "val/auc_macro": [(0, 0.6), (200, 0.7), (300, 0.8)]}
    assert all(math.isfinite(value) for value in client.get_run(run_id).data.metrics.values())
    assert client.get_run(failed).info.status == "FAILED"
    assert {state.state for state in record.states().values()} == {State.COMPLETE, State.FAILED}


def test_results_wait_while_the_server_is_away_and_arrive_once(
    server: TrackingServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    record, storage = open_record(server, tmp_path / "storage", "outage"), Storage(tmp_path / "storage")
    results = [publish(storage, make_result(make_trial(study="outage", seed=seed))) for seed in range(12)]
    for result in results[:4]:
        record.deliver(spooled(result))
    server.kill()
    try:
        outcome = record.deliver_all()
        assert (outcome.delivered, outcome.waiting) == (0, 8)
    finally:
        server.start()
    assert record.deliver_all().delivered == 8
    assert record.deliver_all().delivered == 0
    table = load_results("outage", server.uri)
    assert sorted(table["trial_id"]) == sorted(r.trial.trial_id for r in results)
    assert len(runs_of(record)) == 12
    assert len(load_predictions(table)) == 24


@pytest.mark.parametrize(
    ("host", "code"),
    [
        ("mlflow:5000", 200),
        ("mlflow.lab.svc.cluster.local:5000", 200),
        ("localhost:8080", 200),
        ("mlflow.evil:5000", 403),
    ],
)
def test_the_server_answers_to_the_names_of_its_service_only(server: TrackingServer, host: str, code: int) -> None:
    address = f"{server.uri}/api/2.0/mlflow/experiments/search?max_results=1"
    request = urllib.request.Request(address, headers={"Host": host})
    assert _status(request) == code


def _status(request: urllib.request.Request) -> int:
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_an_upgrade_of_the_database_is_the_documented_command(database: str, server: TrackingServer) -> None:
    """docs/cluster.md; on a database of this version it changes nothing, and the server goes on."""
    subprocess.run([sys.executable, "-m", "mlflow", "db", "upgrade", database], check=True, capture_output=True)
    assert tracking.connect(server.uri).search_experiments(max_results=1)
