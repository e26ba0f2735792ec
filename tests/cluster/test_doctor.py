"""The doctor on made nodes, and on a real local cluster."""

from __future__ import annotations

import base64
import dataclasses
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ray = pytest.importorskip("ray")

from cluster.doctor import (  # noqa: E402
    CLOCK_S,
    Level,
    NodeFacts,
    compare,
    fits,
    gangs_of,
    look,
    tasks_in,
    tracking,
)
from search_spaces.study import GangSpec  # noqa: E402
from tests.conftest import ROOT  # noqa: E402
from tests.search_spaces.examples import raw_study, study  # noqa: E402

NOW = 1_000_000.0
FACTS = NodeFacts(
    host="head",
    python="3.12.1",
    packages={"torch": "2.12.0", "ray": "2.60.0"},
    clock=NOW + 1,
    home={"skin": "aa", "brain": "bb"},
    storage="",
    free_bytes=10**12,
)


def node(**changes: object) -> NodeFacts:
    return dataclasses.replace(FACTS, host="worker", **changes)


def test_alike_nodes_give_no_finding() -> None:
    assert compare(FACTS, [FACTS, node()], (NOW, NOW + 2)) == []


@pytest.mark.parametrize(
    ("changes", "level", "what", "says"),
    [
        (
            {"packages": {"torch": "2.11.0", "ray": "2.60.0"}},
            "error",
            "packages of worker",
            "torch 2.11.0 (driver 2.12",
        ),
        ({"python": "3.11.9"}, "error", "packages of worker", "python 3.11.9 (driver 3.12.1)"),
        ({"home": None}, "error", "home on worker", "does not exist there"),
        ({"home": {"skin": "aa"}}, "error", "home on worker", "tasks missing or different there: brain"),
        ({"home": {"skin": "aa", "brain": "cc"}}, "error", "home on worker", "missing or different there: brain"),
        ({"storage": "not seen here"}, "error", "storage on worker", "not seen here"),
        ({"clock": NOW - CLOCK_S - 1}, "warning", "clock of worker", "-6 s away"),
        ({"clock": NOW + 2 + CLOCK_S + 1}, "warning", "clock of worker", "+6 s away"),
        ({"free_bytes": 10**9}, "warning", "disk of worker", "1.0 GB free"),
    ],
)
def test_what_differs_is_found_with_its_node(changes: dict[str, object], level: str, what: str, says: str) -> None:
    [finding] = compare(FACTS, [FACTS, node(**changes)], (NOW, NOW + 2))
    assert (finding.level, finding.what) == (level, what)
    assert says in finding.message


def test_more_tasks_on_a_node_do_no_harm() -> None:
    assert compare(FACTS, [node(home={"skin": "aa", "brain": "bb", "other": "cc"})], (NOW, NOW + 2)) == []


def test_a_shape_that_does_not_fit_is_an_error() -> None:
    nodes = [{"Alive": True, "NodeID": "a", "Resources": {"CPU": 4.0}}]
    assert fits(GangSpec(ranks=2), nodes).message == "2 ranks x (1 CPU): 2 trials at a time"
    too_large = fits(GangSpec(ranks=8), nodes)
    assert too_large.level is Level.ERROR
    assert "8 ranks" in too_large.message


def test_every_gang_of_a_study_is_looked_at_once_under_its_place() -> None:
    two, eight = {"ranks": 2}, {"ranks": 8, "gpus_per_rank": 1}
    gangs = [
        {"when": {"task": "ham10000"}, "gang": eight},
        {"when": {"task": "chest"}, "gang": {"ranks": 3}},
        {"when": {"task": "lgg_tumour", "model_scale": "squeezenet"}, "gang": eight},
        {"when": {"task": "lgg_tumour", "model_scale": "resnet20"}, "gang": {"ranks": 4}},
    ]
    asked = gangs_of(study(execution={"gang": two, "gangs": gangs}))
    assert asked == {
        "execution.gangs[0]": GangSpec(**eight),
        "execution.gangs[1]": GangSpec(ranks=3),
        "execution.gangs[3]": GangSpec(ranks=4),
    }, "rules for all tasks, upstream ones included, leave nothing to execution.gang"
    assert gangs_of(study(execution={"gang": two, "gangs": gangs[1:2]})) == {
        "execution.gang": GangSpec(**two),
        "execution.gangs[0]": GangSpec(ranks=3),
    }


def test_what_an_autoscaler_may_add_counts() -> None:
    there = {"Alive": True, "NodeID": "a", "Resources": {"CPU": 4.0}}
    possible = {"Alive": True, "Resources": {"CPU": 16.0, "GPU": 8.0}}
    large = GangSpec(ranks=8, gpus_per_rank=1)
    refused = fits(large, [there], "execution.gangs[1]")
    assert (refused.level, refused.what) == (Level.ERROR, "execution.gangs[1]")
    assert "execution.gangs[1] needs 8 ranks" in refused.message
    waits = fits(large, [there, possible])
    assert (waits.level, waits.message) == (
        Level.OK,
        "8 ranks x (1 CPU, 1 GPU): 1 trials at a time, some once the autoscaler has added nodes",
    )
    assert "autoscaler" not in fits(GangSpec(gpus_per_rank=0), [there]).message


@pytest.mark.ray
def test_the_command_looks_at_every_gang_of_the_study(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    gangs = [{"when": {"task": "ham10000"}, "gang": {"ranks": 64}}]
    file.write_text(yaml.safe_dump(raw_study(execution={"gang": {"ranks": 1}, "gangs": gangs})))
    command = [sys.executable, "-m", "cluster.doctor", "--address", "local", "--study", str(file), "--json"]
    environment = os.environ | {"SCALECURVES_HOME": str(tmp_path / "home")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    found = {f["what"]: f for f in json.loads(done.stdout)}
    assert found["execution.gang"]["level"] == "ok"
    assert found["execution.gangs[0]"]["level"] == "error"
    assert "64 ranks" in found["execution.gangs[0]"]["message"]


def test_a_node_says_what_it_has_and_sees(tmp_path: Path) -> None:
    (tmp_path / "home" / "tasks" / "skin").mkdir(parents=True)
    (tmp_path / "home" / "tasks" / "skin" / "manifest.parquet").write_bytes(b"x")
    storage = tmp_path / "storage"
    storage.mkdir()
    (storage / "token").write_bytes(b"")
    facts = look(str(tmp_path / "home"), str(storage), "token")
    assert facts.packages["ray"] == ray.__version__
    assert facts.home == tasks_in(tmp_path / "home") != {}
    assert facts.storage == ""
    assert [p.name for p in storage.iterdir()] == ["token"]
    assert "must be one place for all nodes" in look(str(tmp_path / "none"), str(storage), "another").storage


def test_a_server_that_does_not_answer_is_an_error() -> None:
    assert tracking("").level is Level.OK
    refused = tracking("http://someone:secret@127.0.0.1:1")
    assert refused.level is Level.ERROR
    assert "secret" not in refused.message
    assert "secret" not in tracking("http://someone:secret@nowhere.invalid").message


class Server(http.server.ThreadingHTTPServer):
    """Says that it is well to everybody, as MLflow does, and lets in whom it is told to."""

    daemon_threads = True
    lets_in: Callable[[Any], tuple[int, str]]

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        code, text = (200, "OK") if self.path == "/health" else self.server.lets_in(self.headers)
        body = text.encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("USERNAME", "PASSWORD", "TOKEN"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)
    made = Server(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def test_a_server_that_was_not_told_its_name_is_an_error_that_says_so(server: Server) -> None:
    server.lets_in = lambda headers: (403, "Invalid Host header - possible DNS rebinding attack detected")
    found = tracking(server.uri)
    assert (found.level, found.what) == (Level.ERROR, "MLflow")
    assert f"{server.uri} answers 403 Forbidden: Invalid Host header" in found.message
    assert "--allowed-hosts" in found.message
    assert "PASSWORD" not in found.message
    server.lets_in = lambda headers: (404, "<html>\nnot   here</html>")
    found = tracking(server.uri)
    assert (found.level, "404 Not Found: <html> not here</html>; is it" in found.message) == (Level.ERROR, True)


def test_the_doctor_says_who_asks_as_a_run_would(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    basic = f"Basic {base64.b64encode(b'ann:se:cret').decode()}"
    server.lets_in = lambda headers: (200, "{}") if headers["Authorization"] == basic else (401, "who are you?")
    nameless = tracking(server.uri)
    assert nameless.level is Level.WARNING, "MLflow's client may know more"
    assert "who are you?; set MLFLOW_TRACKING_USERNAME" in nameless.message
    assert tracking(server.uri.replace("://", "://ann:se%3Acret@")).level is Level.OK
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ann")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "se:cret")
    assert tracking(server.uri).level is Level.OK
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong")
    assert tracking(server.uri).level is Level.ERROR
    monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "abc")
    server.lets_in = lambda headers: (200 if headers["Authorization"] == "Bearer abc" else 401, "")
    assert tracking(server.uri).level is Level.OK


@pytest.mark.ray
def test_the_command_on_a_local_cluster(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cluster.doctor", "--address", "local", "--json"]
    environment = os.environ | {"SCALECURVES_HOME": str(tmp_path / "home")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    findings = json.loads(done.stdout)
    assert {f["level"] for f in findings} <= {"ok", "warning"}
    assert any(f["what"] == "nodes" and "no task is imported yet" in f["message"] for f in findings)
    assert list((tmp_path / "home" / "storage").iterdir()) == []
