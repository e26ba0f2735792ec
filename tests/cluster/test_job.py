"""Jobs submitted to clusters of their own, with tokens and without; a study stopped and submitted again."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

pytest.importorskip("ray")

from cluster.drain import any_trains
from dashboards import load_results
from tests.conftest import ROOT, free_port
from tests.orchestrator.small_study import raw_study, write_study

pytestmark = pytest.mark.ray

RAY = [sys.executable, "-m", "ray.scripts.scripts"]


@dataclass(frozen=True, kw_only=True)
class Head:
    """A cluster of one node that was started from the command line."""

    dashboard: str
    environment: dict[str, str]
    project: Path
    pid: int

    def ray(self, *arguments: str, check: bool = True) -> str:
        ran = subprocess.run(
            [*RAY, *arguments], env=self.environment, cwd=self.project, capture_output=True, text=True, check=False
        )
        assert not check or ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
        return ran.stdout + ran.stderr

    def submit(self, name: str, *command: str, wait: bool = True) -> str:
        variables = {"SCALECURVES_HOME": self.environment["SCALECURVES_HOME"], "PYTHONPATH": str(ROOT)}
        options = ["--address", self.dashboard, "--submission-id", name, "--working-dir", "."]
        options += ["--runtime-env-json", json.dumps({"env_vars": variables}), *([] if wait else ["--no-wait"])]
        return self.ray("job", "submit", *options, "--", *command)

    def drain(self) -> None:
        """What Kubernetes calls before it ends the pod of a head."""
        command = [sys.executable, "-m", "cluster.drain", "head", "--address", self.dashboard, "--seconds", "180"]
        environment = self.environment | {"PYTHONPATH": str(ROOT)}
        subprocess.run(command, env=environment, cwd=self.project, check=True)

    def processes(self) -> list[psutil.Process]:
        """What this cluster runs; other clusters of this machine are none of ours."""
        return psutil.Process(self.pid).children(recursive=True)


@pytest.fixture
def head(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Head]:
    """A head with token authentication, or with the environment variables that a parameter gives instead."""
    authentication = getattr(request, "param", None)
    project = tmp_path / "project"
    project.mkdir()
    port, dashboard = free_port(), free_port()
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
    environment = (
        os.environ
        | (authentication or token)
        | {
            "SCALECURVES_HOME": str(tmp_path / "home"),
            "RAY_JOB_STOP_WAIT_TIME_S": "150",
            "RAY_worker_niceness": "0",  # at Ray's own of 15 its workers would starve beside another test
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
    )
    # Ray's sockets need a short path; a folder of its own keeps other clusters of this machine out of `ray stop`.
    folder = Path("/tmp") / f"sc-{secrets.token_hex(4)}"
    start = ["start", "--head", "--num-cpus=2", f"--port={port}", f"--dashboard-port={dashboard}", "--block"]
    start += [f"--temp-dir={folder}", "--disable-usage-stats", "--dashboard-agent-listen-port=0"]
    process = subprocess.Popen([*RAY, *start], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{dashboard}"
    made = Head(dashboard=address, environment=environment, project=project, pid=process.pid)
    try:
        deadline = time.monotonic() + 90
        while "Error" in made.ray("job", "list", "--address", made.dashboard, check=False):
            if time.monotonic() > deadline:
                raise TimeoutError("the cluster does not answer")
            time.sleep(1)
        yield made
    finally:
        process.terminate()
        process.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


def test_a_stopped_job_leaves_a_checkpoint_and_the_next_one_goes_on(head: Head, tmp_path: Path) -> None:
    axes = raw_study()["axes"] | {"pretraining_source": ["random"], "data_fraction": [1.0]}
    protocol = raw_study()["protocol"] | {"budget": {"steps": 3000}, "evaluations": 300}
    write_study(head.project, axes=axes, seeds=1, protocol=protocol, execution={"checkpoint_every_s": 0})
    command = ["python", "-m", "orchestrator.sweep", "run", "small.yaml", "--address", "auto", "--yes"]
    command += ["--out", str(tmp_path / "report")]
    head.submit("first", *command, wait=False)
    checkpoints = tmp_path / "home" / "storage" / "small" / "checkpoints"
    deadline = time.monotonic() + 900
    while not list(checkpoints.glob("*.pt")) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert list(checkpoints.glob("*.pt")), head.ray("job", "logs", "first", "--address", head.dashboard)
    assert any(any_trains(head.processes()) for _ in range(100)), "looked often: between two steps its title is another"
    head.drain()
    assert not any_trains(head.processes())
    said = head.ray("job", "logs", "first", "--address", head.dashboard)
    assert said.index("stopping: running trials write checkpoints") < said.index("the same command continues")
    assert len(list(checkpoints.glob("*.pt"))) == 1

    said = head.submit("second", *command)
    assert "1 trials trained, 0 were done before, 0 failed" in said
    assert (tmp_path / "report" / "index.html").is_file()
    assert list(checkpoints.glob("*.pt")) == []
    [row] = load_results("small").to_dict("records")
    trial = json.loads((Path(row["artifact_uri"]) / "trial.json").read_text())
    assert 0 < trial["resumed_from"] < trial["steps"] == 3000


@pytest.mark.parametrize("head", [{"RAY_AUTH_MODE": "disabled"}], indirect=True, ids=["open"])
def test_a_cluster_without_tokens_takes_jobs_alike(head: Head) -> None:
    said = head.submit("look", "python", "-m", "cluster.doctor", "--address", "auto", "--json")
    assert "one set of packages, one home (no task is imported yet), one storage everywhere" in said
    assert "succeeded" in head.ray("job", "status", "look", "--address", head.dashboard)
