"""The doctor on made nodes, and on a real local cluster."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ray = pytest.importorskip("ray")

from cluster.doctor import CLOCK_S, Level, NodeFacts, compare, fits, look, tasks_in, tracking  # noqa: E402
from search_spaces.study import GangSpec  # noqa: E402
from tests.conftest import ROOT  # noqa: E402

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
    nodes = [{"Alive": True, "Resources": {"CPU": 4.0}}]
    assert fits(GangSpec(ranks=2), nodes).message == "2 ranks x (1 CPU): 2 trials at a time"
    too_large = fits(GangSpec(ranks=8), nodes)
    assert too_large.level is Level.ERROR
    assert "8 ranks" in too_large.message


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
