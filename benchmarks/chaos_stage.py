"""One run of the chaos study in a home of its own, and an MLflow server that can be killed. Used by ``chaos``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlflow
import yaml

from benchmarks.paced_net import LOG, repeated_steps, steps_of_attempts
from search_spaces.failpoints import POINTS
from search_spaces.names import State, Tag

STUDY = "chaos"
PORT = 5079
PATIENCE_S = 600.0
STEPS, EVALUATIONS, STEP_S = 60, 3, 0.05


def study_of(trials: int) -> dict[str, Any]:
    """So many seeds of one small net, trained by gangs of two ranks; a checkpoint at each evaluation."""
    return {
        "schema": 1,
        "name": STUDY,
        "axes": {
            "model_scale": ["small"],
            "pretraining_source": ["random"],
            "data_fraction": [1.0],
            "task": ["skin"],
        },
        "seeds": trials,
        "scales": {
            "small": {"factory": "benchmarks.paced_net:paced", "arguments": {"step_s": STEP_S}, "input_size": 32}
        },
        "tasks": {"skin": {"manifest": "skin_phantom", "primary": "auc_macro"}},
        "protocol": {
            "budget": {"steps": STEPS},
            "global_batch_size": 16,
            "ghost_batch_size": 8,
            "storage_size": 32,
            "evaluations": EVALUATIONS,
        },
        "execution": {"gang": {"ranks": 2, "gpus_per_rank": 0}, "checkpoint_every_s": 0, "keep_weights": "none"},
    }


@dataclass
class Stage:
    """One run of the study in a home of its own.

    Attributes:
        home: Holds the study file, images, storage and record.
        tracking_uri: MLflow.
        starts: How often the command was started.
        resume_s: Seconds from each kill to the next checkpoint or result.
    """

    home: Path
    tracking_uri: str
    starts: int = 0
    resume_s: list[float] = field(default_factory=list)

    @property
    def storage(self) -> Path:
        """Folder of the trials' files."""
        return self.home / "home" / "storage" / STUDY

    @property
    def steps(self) -> Path:
        """Where the nets count their steps."""
        return self.home / "steps"

    def start(self, **environment: str) -> subprocess.Popen[bytes]:
        """The command, in a process group of its own."""
        self.starts += 1
        log = (self.home / f"run{self.starts}.log").open("wb")
        command = [sys.executable, "-m", "orchestrator.sweep", "run", str(self.home / "study.yaml"), "--yes"]
        command += ["--tracking-uri", self.tracking_uri, "--out", str(self.home / "report")]
        variables = os.environ | {"SCALECURVES_HOME": str(self.home / "home"), LOG: str(self.steps)} | environment
        return subprocess.Popen(command, env=variables, stdout=log, stderr=log, start_new_session=True)

    def progress(self) -> float:
        """When a trial has got on last, Unix seconds: the newest checkpoint or result in the storage; 0 without one."""
        times = []
        for file in (*self.storage.glob("checkpoints/*"), *self.storage.glob("trials/*/trial.json")):
            with suppress(FileNotFoundError):
                times.append(file.stat().st_mtime)
        return max(times, default=0.0)

    def repeated_intervals(self) -> float:
        """Evaluation intervals trained twice per interruption, at most."""
        return repeated_steps(steps_of_attempts(self.steps), STEPS) / (STEPS / EVALUATIONS)

    def runs(self) -> list[Any]:
        """All finished runs of trials; none while MLflow does not answer."""
        try:
            client = mlflow.MlflowClient(self.tracking_uri)
            experiment = client.get_experiment_by_name(STUDY)
            if experiment is None:
                return []
            finished = f"tags.`{Tag.ROLE}` = 'target' and attributes.status = 'FINISHED'"
            return list(client.search_runs([experiment.experiment_id], finished, max_results=1000))
        except Exception:  # it was killed
            return []

    def metrics(self) -> dict[str, dict[str, float]]:
        """Trial -> its metrics on the test set; of several runs that count, any."""
        return {
            run.data.tags[Tag.TRIAL_ID]: {k: v for k, v in run.data.metrics.items() if k.startswith("test/")}
            for run in self.runs()
            if run.data.tags.get(Tag.STATE) == State.COMPLETE
        }

    def counts(self) -> Counter[str]:
        """Trial -> number of runs that count."""
        return Counter(r.data.tags[Tag.TRIAL_ID] for r in self.runs() if r.data.tags.get(Tag.STATE) == State.COMPLETE)


def new_stage(folder: Path, name: str, trials: int, tracking_uri: str | None = None) -> Stage:
    """A fresh home with the study file."""
    home = folder / name
    (home / "home").mkdir(parents=True)
    (home / "steps").mkdir()
    (home / "study.yaml").write_text(yaml.safe_dump(study_of(trials)), encoding="utf-8")
    return Stage(home, tracking_uri or f"sqlite:///{home / 'mlflow.db'}")


def finish(stage: Stage, **environment: str) -> None:
    """Start the command until it says that the study is done."""
    while True:
        process = stage.start(**environment)
        if process.wait(PATIENCE_S) == 0:
            return
        end_group(process)
        if stage.starts > 3 * len(POINTS):
            raise RuntimeError(f"the study is not done after {stage.starts} starts; see {stage.home}")


class Server:
    """An MLflow server that can be killed and comes back."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._process: subprocess.Popen[bytes] | None = None

    def revive(self) -> None:
        """Start it unless it lives; it answers after some seconds, in which the study goes on without it."""
        if self._process is not None and self._process.poll() is None:
            return
        command = [
            sys.executable,
            "-m",
            "mlflow",
            "server",
            "--host",
            "127.0.0.1",
            "--port",
            str(PORT),
            "--workers",
            "1",
        ]
        command += ["--backend-store-uri", f"sqlite:///{self._home / 'mlflow.db'}"]
        command += ["--artifacts-destination", str(self._home / "artifacts")]
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(command, stdout=quiet, stderr=quiet, start_new_session=True)

    def wait(self) -> None:
        """Wait until it answers.

        Raises:
            RuntimeError: It does not.
        """
        until = time.monotonic() + 120
        while time.monotonic() < until:
            try:
                mlflow.MlflowClient(f"http://127.0.0.1:{PORT}").search_experiments(max_results=1)
                return
            except Exception:
                time.sleep(0.5)
        raise RuntimeError("the MLflow server does not come back")

    def kill(self) -> bool:
        """SIGKILL to it and its workers."""
        if self._process is None:
            return False
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        return True


@contextmanager
def server(home: Path) -> Iterator[Server]:
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    one = Server(home)
    one.revive()
    one.wait()
    try:
        yield one
    finally:
        one.kill()


def end_group(process: subprocess.Popen[bytes]) -> None:
    """What a killed driver may leave for a moment: the processes of its local cluster."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
