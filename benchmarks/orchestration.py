"""Seconds per trial beyond training: ``python -m benchmarks.orchestration [--quick]``.

Trains 24 short trials of two ranks on phantom images in one warm gang, with everything a study does: Tune schedules,
the gang trains, evaluates, writes predictions and publishes each trial, and the record goes to MLflow (SQLite). What
remains of the wall clock when the seconds of the optimiser steps are taken away, per trial, is the overhead. It counts
from the end of one more trial before them: what is paid once per run, the start of gang and Tuner, is given beside it.
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

from cluster.connection import connect
from orchestrator.executor import Executor, TrialOutcome
from orchestrator.feed import InOrder
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

TARGET_S = 0.3
RANKS = 2


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


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="6 trials instead of 24")
    count = 6 if parser.parse_args().quick else 24
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
    print(f"{measured.start_s:8.3f}  once per run: start of the gang's processes and of the Tuner")
    answer: dict[str, Any] = {
        "benchmark": "orchestration",
        "overhead_s": round(measured.overhead_s, 4),
        "target_s": TARGET_S,
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
