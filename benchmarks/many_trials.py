"""How many trials per second pass through Tune and the record when training takes no time. Used by orchestration."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from cluster.connection import connect
from orchestrator.executor import Executor
from orchestrator.feed import InOrder
from orchestrator.pilot import TrialOutcome
from orchestrator.plan import Plan
from orchestrator.record import Record
from orchestrator.record_writer import RecordWriter
from search_spaces.names import Artifact, State
from search_spaces.results import Order, TrialResult
from search_spaces.study import GangSpec
from search_spaces.trial import ResolvedTrial, Workspace
from trainables.groups import Group, SingleProcess
from trainables.loop import train
from trainables.storage import Storage
from trainables.warm import Tell


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """What passing many trials showed.

    Attributes:
        per_s: Trials per second, from the end of the first to the delivery of the last.
        growth_kib: Memory that the driver gained per trial over the second half.
    """

    per_s: float
    growth_kib: float


def copied(trial: ResolvedTrial, group: Group, tell: Tell) -> TrialResult:
    """A training function that publishes the files of a trial that was trained before."""
    template = Path(str(trial.scale.arguments["template"]))
    started = time.time()
    storage = Storage(trial.workspace.storage)
    done = TrialResult.model_validate_json((template / Artifact.TRIAL).read_bytes())
    result = done.model_copy(update={"trial": trial, "started_at": started, "finished_at": time.time()})
    with storage.staging() as folder:
        shutil.copytree(template, folder, dirs_exist_ok=True)
        (folder / Artifact.TRIAL).write_text(result.model_dump_json(), encoding="utf-8")
        storage.publish(folder, trial.trial_id)
    return result


def template_of(plan: Plan, home: Path) -> tuple[ResolvedTrial, Path]:
    """The files of one trial that is really trained, without its weights."""
    assert plan.resolver is not None
    storage = Storage(str(home / "template"))
    workspace = Workspace(home=str(home), storage=storage.place, keep_weights="none")
    trial = plan.resolver.resolved(plan.trials[0].trial, "template", workspace)
    result = train(trial, SingleProcess(torch.device("cpu")), lambda report: Order.GO)
    assert result is not None
    assert result.state is State.COMPLETE
    return trial, Path(storage.place) / "trials" / trial.trial_id


def rate(plan: Plan, home: Path, trials: int, tracking_uri: str) -> Rate:
    """Pass so many trials of one rank through reused processes, and their results into the record."""
    template, files = template_of(plan, home)
    storage = Storage(tempfile.mkdtemp(prefix="storage-", dir=home))
    workspace = Workspace(home=str(home), storage=storage.place, keep_weights="none")
    scale = template.scale.model_copy(update={"arguments": {"template": str(files)}})
    record = Record(plan.study, storage, tracking_uri)
    record.open()
    ends: list[float] = []
    sizes: list[int] = []
    process = psutil.Process()

    def done(outcome: TrialOutcome) -> None:
        if outcome.result is None:
            raise RuntimeError(f"a benchmark trial failed: {outcome.failure}")
        ends.append(time.perf_counter())
        sizes.append(process.memory_info().rss)
        writer.put(outcome.result)

    payloads = (
        template.model_copy(
            update={"trial_id": f"{n:016x}", "attempt_id": f"{n:016x}-1", "scale": scale, "workspace": workspace}
        ).model_dump(mode="json")
        for n in range(trials)
    )
    writer = RecordWriter(record)
    with (
        connect("local", num_cpus=os.cpu_count()),
        Executor(on_report=lambda report: None, on_done=done, train="benchmarks.many_trials:copied") as executor,
    ):
        executor.run(InOrder(payloads, GangSpec(gpus_per_rank=0)))
        waiting = writer.close()
        ended = time.perf_counter()
    assert not waiting, f"{waiting} results were not delivered"
    half = len(sizes) // 2
    growth = (sizes[-1] - sizes[half]) / (len(sizes) - half) / 1024
    return Rate(per_s=(len(ends) - 1) / (ended - ends[0]), growth_kib=growth)


@contextmanager
def mlflow_server(home: Path, port: int) -> Iterator[str]:
    """An MLflow server on a SQLite file; gives its address."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{home / 'server.db'}"]
    command += ["--artifacts-destination", str(home / "artifacts"), "--workers", "1"]
    address = f"http://127.0.0.1:{port}"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            _wait_for(f"{address}/health")
            yield address
        finally:
            for child in psutil.Process(server.pid).children(recursive=True):
                child.kill()
            server.kill()


def _wait_for(url: str) -> None:
    for _ in range(600):
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"{url} does not answer")
