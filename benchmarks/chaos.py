"""Whether anything is lost when processes die: ``python -m benchmarks.chaos [--quick]``.

The same study of 40 short trials, three times: undisturbed; with a SIGKILL at every failpoint; and with random SIGKILLs
of driver, rank, raylet and MLflow server. The command is started again whenever it ended before the study was done, and
the server whenever it was killed. ``lost`` counts trials without a result at the end, ``duplicated`` trials with more
than one that counts, ``different`` trials whose metrics are not those of the undisturbed run, bit for bit.
``resume_s_max`` is the longest time from a kill to the next result.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlflow
import psutil
import yaml

from search_spaces.failpoints import POINTS
from search_spaces.names import State, Tag

STUDY = "chaos"
PORT = 5079
PATIENCE_S = 600.0
VICTIMS = {"driver": "orchestrator.sweep", "rank": "ray::RayTrainWorker", "raylet": "raylet/raylet", "server": "mlflow"}
"""What dies -> a part of its command line."""


def study_of(trials: int) -> dict[str, Any]:
    """So many seeds of one small net, trained by gangs of two ranks."""
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
        "scales": {"small": {"factory": "trainables.ladder_nets:resnet8", "arguments": {"width": 4}, "input_size": 32}},
        "tasks": {"skin": {"manifest": "skin_phantom", "primary": "auc_macro"}},
        "protocol": {
            "budget": {"steps": 60},
            "global_batch_size": 16,
            "ghost_batch_size": 8,
            "storage_size": 32,
            "evaluations": 3,
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
        resume_s: Seconds from each kill to the next result.
    """

    home: Path
    tracking_uri: str
    starts: int = 0
    resume_s: list[float] = field(default_factory=list)

    def start(self, **environment: str) -> subprocess.Popen[bytes]:
        """The command, in a process group of its own."""
        self.starts += 1
        log = (self.home / f"run{self.starts}.log").open("wb")
        command = [sys.executable, "-m", "orchestrator.sweep", "run", str(self.home / "study.yaml"), "--yes"]
        command += ["--tracking-uri", self.tracking_uri, "--out", str(self.home / "report")]
        variables = os.environ | {"SCALECURVES_HOME": str(self.home / "home")} | environment
        return subprocess.Popen(command, env=variables, stdout=log, stderr=log, start_new_session=True)

    def results(self) -> int:
        """Trials whose result is durable."""
        storage = self.home / "home" / "storage" / STUDY
        waiting = len(list(storage.glob("trials/*/trial.json")))
        return waiting + sum(state == State.COMPLETE for state in self.states())

    def states(self) -> list[str]:
        """``sc.state`` of all finished runs."""
        return [run.data.tags.get(Tag.STATE, "") for run in self.runs()]

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
    (home / "study.yaml").write_text(yaml.safe_dump(study_of(trials)), encoding="utf-8")
    return Stage(home, tracking_uri or f"sqlite:///{home / 'mlflow.db'}")


def finish(stage: Stage, **environment: str) -> None:
    """Start the command until it says that the study is done."""
    while True:
        process = stage.start(**environment)
        if process.wait(PATIENCE_S) == 0:
            return
        _end_group(process)
        if stage.starts > 3 * len(POINTS):
            raise RuntimeError(f"the study is not done after {stage.starts} starts; see {stage.home}")


def every_failpoint(stage: Stage) -> int:
    """Kill one process at each failpoint; returns how many were reached."""
    once = stage.home / "once"
    once.mkdir()
    points = ",".join(f"{name}=kill" for name in POINTS)
    finish(stage, SCALECURVES_FAILPOINTS=points, SCALECURVES_FAILPOINTS_ONCE=str(once))
    return len(list(once.iterdir()))


def random_kills(stage: Stage, kills: int, generator: random.Random) -> Counter[str]:
    """Kill so many of each kind of process at random moments while the study runs."""
    order = [victim for victim in VICTIMS for _ in range(kills)]
    generator.shuffle(order)
    done: Counter[str] = Counter()
    with _server(stage.home) as server:
        process = stage.start()
        while process.poll() is None or process.returncode:
            if process.poll() is not None:
                _end_group(process)
                process = stage.start()
            if not order:
                process.wait(PATIENCE_S)
                continue
            before = stage.results()
            if not _wait_for_more(stage, process, before):
                continue
            time.sleep(generator.uniform(0.0, 2.0))
            victim = order.pop()
            if _kill(victim, process, server):
                done[victim] += 1
                killed, at_kill = time.monotonic(), stage.results()
                server.revive()
                if victim in ("driver", "raylet"):
                    process.wait(PATIENCE_S)
                    _end_group(process)
                    process = stage.start()
                if _wait_for_more(stage, process, at_kill):
                    stage.resume_s.append(time.monotonic() - killed)
    return done


def compare(stage: Stage, reference: dict[str, dict[str, float]]) -> dict[str, int]:
    """What the stage lost, has twice, or found otherwise."""
    found, counts = stage.metrics(), stage.counts()
    return {
        "lost": len(reference.keys() - found.keys()),
        "duplicated": sum(count > 1 for count in counts.values()),
        "different": sum(found[i] != reference[i] for i in reference.keys() & found.keys()),
    }


class _Server:
    """An MLflow server that can be killed and comes back."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._process: subprocess.Popen[bytes] | None = None

    def revive(self) -> None:
        """Start it unless it lives, and wait until it answers."""
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
def _server(home: Path) -> Iterator[_Server]:
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    server = _Server(home)
    server.revive()
    try:
        yield server
    finally:
        server.kill()


def _kill(victim: str, driver: subprocess.Popen[bytes], server: _Server) -> bool:
    if victim == "server":
        return server.kill()
    if victim == "driver":
        os.kill(driver.pid, signal.SIGKILL)
        return True
    for child in psutil.Process(driver.pid).children(recursive=True):
        try:
            if VICTIMS[victim] in " ".join(child.cmdline()):
                child.kill()
                return True
        except psutil.NoSuchProcess:
            continue
    return False


def _wait_for_more(stage: Stage, process: subprocess.Popen[bytes], before: int) -> bool:
    """Wait for one more result; False if the command ended first."""
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        if stage.results() > before:
            return True
        if process.poll() is not None:
            return False
        time.sleep(0.2)
    raise RuntimeError(f"no result within {PATIENCE_S:g} s; see {stage.home}")


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """What a killed driver may leave for a moment: the processes of its local cluster."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="16 trials and one random kill of each kind")
    quick = parser.parse_args().quick
    trials, kills = (16, 1) if quick else (40, 5)
    with tempfile.TemporaryDirectory(prefix="scalecurves-chaos-") as temporary:
        folder = Path(temporary)
        calm = new_stage(folder, "calm", trials)
        finish(calm)
        reference = calm.metrics()
        print(f"undisturbed: {len(reference)} trials", flush=True)
        pointed = new_stage(folder, "failpoints", trials)
        reached = every_failpoint(pointed)
        at_points = compare(pointed, reference)
        print(f"SIGKILL at {reached} of {len(POINTS)} failpoints, {pointed.starts} starts: {at_points}", flush=True)
        stormy = new_stage(folder, "random", trials, f"http://127.0.0.1:{PORT}")
        done = random_kills(stormy, kills, random.Random(0))
        stormy.tracking_uri = f"sqlite:///{stormy.home / 'mlflow.db'}"
        at_random = compare(stormy, reference)
        print(f"random SIGKILLs {dict(done)}, {stormy.starts} starts: {at_random}")
    answer = {
        "benchmark": "chaos",
        **{what: at_points[what] + at_random[what] for what in at_points},
        "trials": len(reference),
        "failpoints": reached,
        "kills": dict(done),
        "resume_s_max": round(max(stormy.resume_s, default=0.0), 1),
        "target_resume_s_max": 60,
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
