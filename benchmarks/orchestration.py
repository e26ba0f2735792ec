"""Seconds per trial beyond training: ``python -m benchmarks.orchestration [--quick]``.

Trains 24 short trials of two ranks on phantom images in one warm gang, with everything a study does: Tune schedules,
the gang trains, evaluates, writes predictions and publishes each trial, and the record goes to MLflow (SQLite). What
remains of the wall clock when the seconds of the optimiser steps are taken away, per trial, is the overhead. It counts
from the end of one more trial before them: what is paid once per run, the start of gang and Tuner, is given beside it.

In the same run, the same trials as people usually run them (``per_trial_peers``), and how many trials per second pass
when training takes no time (``many_trials``).
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.many_trials import mlflow_server, rate
from benchmarks.per_trial_peers import torchrun, train_in_tune
from cluster.connection import connect
from orchestrator.executor import Executor
from orchestrator.feed import InOrder
from orchestrator.pilot import TrialOutcome
from orchestrator.plan import Plan, make_plan
from orchestrator.record import Record
from orchestrator.record_writer import RecordWriter
from search_spaces.files import LoadedStudy
from search_spaces.results import TrialResult
from search_spaces.study import GangSpec, Study
from search_spaces.trial import Workspace
from trainables.library import TaskLibrary
from trainables.phantoms import PhantomSizes, make_phantoms
from trainables.storage import Storage

TARGET_S = 0.15
RANKS = 2
PEER_TRIALS = 4
SERVER_PORT = 5077
TARGETS = {
    "overhead_s": TARGET_S,
    "times_less_than_train_in_tune": 60,
    "times_less_than_torchrun": 40,
    "trials_per_s_1000": 7,
    "trials_per_s_5000_ratio": 0.8,
    "trials_per_s_server": 3,
    "driver_kib_per_trial": 20,
}


@dataclass(frozen=True)
class Measured:
    """What a run of all trials took, in seconds."""

    wall_s: float
    start_s: float
    record_s: float
    results: list[TrialResult]

    @property
    def trials(self) -> int:
        """Number of trials."""
        return len(self.results)

    @property
    def train_s(self) -> float:
        """Seconds of optimiser steps."""
        return sum(r.timing.train_s for r in self.results if r.timing)

    @property
    def inside_s(self) -> float:
        """Set-up, validation, predictions and publishing, as the trials timed them."""
        return sum(r.timing.total_s - r.timing.train_s for r in self.results if r.timing)

    @property
    def overhead_s(self) -> float:
        """Per trial."""
        return (self.wall_s - self.train_s) / self.trials


def study_of(trials: int, steps: int) -> Study:
    """``trials`` seeds of one cell."""
    return Study.model_validate(
        {
            "schema": 1,
            "name": "orchestration_benchmark",
            "axes": {
                "model_scale": "small",
                "pretraining_source": "random",
                "data_fraction": 1.0,
                "task": "skin",
            },
            "seeds": trials,
            "scales": {"small": {"factory": "trainables.ladder_nets:resnet8", "input_size": 32}},
            "tasks": {"skin": {"manifest": "skin_phantom", "primary": "auc_macro", "evaluate": {"test": {}}}},
            "protocol": {
                "budget": {"steps": steps},
                "global_batch_size": 16,
                "ghost_batch_size": 8,
                "storage_size": 32,
                "evaluations": 2,
            },
            "execution": {"gang": {"ranks": RANKS}},
        }
    )


def measure(plan: Plan, home: Path) -> Measured:
    """Run the plan's trials in a warm gang; the first one ends the start."""
    storage = Storage(str(home / "storage"))
    workspace = Workspace(home=str(home), storage=storage.place)
    assert plan.resolver is not None
    trials = [plan.resolver.resolved(p.trial, f"{p.trial_id}-1", workspace) for p in plan.trials]
    record = Record(plan.study, storage, f"sqlite:///{home / 'mlflow.db'}")
    record.open()
    writer = RecordWriter(record)
    results: list[TrialResult] = []
    endings: list[float] = []

    def on_done(outcome: TrialOutcome) -> None:
        if outcome.result is None:
            raise RuntimeError(f"a benchmark trial failed: {outcome.failure}")
        endings.append(time.perf_counter())
        results.append(outcome.result)
        writer.put(outcome.result)

    with (
        connect("local", num_cpus=max(RANKS, os.cpu_count() or RANKS)),
        Executor(on_report=lambda report: None, on_done=on_done, max_concurrent=1) as executor,
    ):
        started = time.perf_counter()
        executor.run(InOrder((t.model_dump(mode="json") for t in trials), GangSpec(ranks=RANKS)))
        writer.close()
        ended = time.perf_counter()
    first = results.pop(0)
    return Measured(
        wall_s=ended - endings[0],
        start_s=endings[0] - started - (first.timing.total_s if first.timing else 0.0),
        record_s=ended - endings[-1],
        results=results,
    )


def lines(measured: Measured) -> list[tuple[str, float]]:
    """The table: what, and seconds per trial."""
    count = measured.trials
    return [
        ("wall clock", measured.wall_s / count),
        ("optimiser steps", measured.train_s / count),
        ("overhead", measured.overhead_s),
        ("  in the trial: set-up, validation, predictions, files", measured.inside_s / count),
        ("  after the last trial: end of the Tuner, record still to be written", measured.record_s / count),
    ]


def peers(plan: Plan, home: Path, trials: int, ours_s: float) -> dict[str, float]:
    """Overhead of the usual ways, and how many times ours it is."""
    assert plan.resolver is not None
    ways = {"train_in_tune": train_in_tune, "torchrun": torchrun}
    found: dict[str, float] = {}
    for name, way in ways.items():
        storage = Storage(str(home / name))
        workspace = Workspace(home=str(home), storage=storage.place)
        chosen = [plan.resolver.resolved(p.trial, f"{name}-{p.trial_id}", workspace) for p in plan.trials[:trials]]
        found[f"{name}_overhead_s"] = way(chosen, RANKS)
        found[f"times_less_than_{name}"] = found[f"{name}_overhead_s"] / ours_s
    return found


def rates(plan: Plan, home: Path, few: int, many: int) -> dict[str, float]:
    """Trials per second through Tune and the record, few and many of them, and against a server."""
    of_few = rate(plan, home, few, f"sqlite:///{home / 'few.db'}")
    of_many = rate(plan, home, many, f"sqlite:///{home / 'many.db'}")
    with mlflow_server(home, SERVER_PORT) as address:
        of_server = rate(plan, home, few // 5, address)
    return {
        f"trials_per_s_{few}": of_few.per_s,
        f"trials_per_s_{many}": of_many.per_s,
        f"trials_per_s_{many}_ratio": of_many.per_s / of_few.per_s,
        "trials_per_s_server": of_server.per_s,
        "driver_kib_per_trial": of_many.growth_kib,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few trials of each kind")
    quick = parser.parse_args().quick
    count, of_peers, few, many = (6, 1, 100, 300) if quick else (24, PEER_TRIALS, 1000, 5000)
    with tempfile.TemporaryDirectory(prefix="scalecurves-benchmark-") as folder:
        home = Path(folder)
        library = TaskLibrary(home)
        make_phantoms(library, ["skin_phantom"], sizes=PhantomSizes(skin=(200, 60, 120)))
        study = study_of(trials=count + 1, steps=20)
        plan = make_plan(LoadedStudy(study=study, text="", folder=home, origin="benchmark"), library)
        measured = measure(plan, home)
        print(f"{measured.trials} trials of {RANKS} ranks in one warm gang, {os.cpu_count()} CPUs, seconds per trial")
        for what, seconds in lines(measured):
            print(f"{seconds:8.3f}  {what}")
        print(f"{measured.start_s:8.3f}  once per run: start of the gang's processes and of the Tuner", flush=True)
        found = peers(plan, home, of_peers, measured.overhead_s) | rates(plan, home, few, many)
    for what, value in found.items():
        print(f"{value:8.3f}  {what}")
    answer: dict[str, Any] = {
        "benchmark": "orchestration",
        "overhead_s": round(measured.overhead_s, 4),
        **{what: round(value, 3) for what, value in found.items()},
        "targets": TARGETS,
        "trials": measured.trials,
        "ranks": RANKS,
        "wall_s": round(measured.wall_s, 3),
        "train_s": round(measured.train_s, 3),
        "start_s": round(measured.start_s, 3),
        "load_average": round(os.getloadavg()[0], 1),
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
