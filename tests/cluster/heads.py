"""Clusters that tests start as users do, from the command line."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.conftest import ROOT, free_port

RAY = [sys.executable, "-m", "ray.scripts.scripts"]


@dataclass(frozen=True, kw_only=True)
class Head:
    """A cluster of one node that was started from the command line."""

    address: str
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


@contextmanager
def started(folder: Path, environment: Mapping[str, str], port: int, *options: str) -> Iterator[Head]:
    """A head that answers, for the length of a ``with`` block; its home and its project are new folders.

    Args:
        folder: For both.
        environment: Variables beside those of this process.
        port: Of the head.
        options: Of ``ray start --head``.
    """
    project, dashboard = folder / "project", free_port()
    project.mkdir()
    variables = (
        os.environ
        | {
            "SCALECURVES_HOME": str(folder / "home"),
            "RAY_JOB_STOP_WAIT_TIME_S": "150",
            "RAY_worker_niceness": "0",  # at Ray's own of 15 its workers would starve beside another test
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
        | environment
    )
    # Ray's sockets need a short path; a folder of its own keeps other clusters of this machine out of `ray stop`.
    sockets = Path("/tmp") / f"sc-{secrets.token_hex(4)}"
    start = ["start", "--head", f"--port={port}", f"--dashboard-port={dashboard}", "--block", *options]
    start += [f"--temp-dir={sockets}", "--disable-usage-stats", "--dashboard-agent-listen-port=0"]
    process = subprocess.Popen([*RAY, *start], env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    made = Head(
        address=f"127.0.0.1:{port}",
        dashboard=f"http://127.0.0.1:{dashboard}",
        environment=variables,
        project=project,
        pid=process.pid,
    )
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
        shutil.rmtree(sockets, ignore_errors=True)
