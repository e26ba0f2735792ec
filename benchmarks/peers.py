"""One study the usual ways and ours: ``python -m benchmarks.peers [--quick] [--lengths short,medium,long]``.

The study has 48 trials of 0.5 s, 24 of 5 s, or 8 of 60 s. Each is a whole trial of ``trainables.loop.train`` (images,
augmentation, steps, two validations, predictions, files) of a small net whose every optimiser step first waits for
50 ms, as for a busy accelerator: 10, 100 or 1200 steps. So the work is the same on all sides and hardly depends on how
noisy the machine is. What the loop itself computes comes on top, equally. Every side leaves one MLflow run per trial,
on SQLite.

- ``tune``: plain Ray Tune, one ``TorchTrainer`` of two ranks per trial, Train's health check at 0.1 s.
- ``shell``: a loop of ``torchrun --nproc-per-node 2``.
- ``hydra``: Hydra's basic launcher, all trials of one rank in one process; skipped where Hydra is not installed
  (``pip install 'scalecurves[benchmarks]'``).

Each side is a command in a fresh process and counted from its start to its end: imports, cluster, gangs, recording.
``start_s`` is the part of it before the first trial begins. Ours also plans; no side writes a report. Where the others
take many times as long, ours runs before, between and after them, and its median counts. Images are
decoded and the databases made before. ``ratio_*`` is the wall clock of a side over ours on trials of as many ranks;
trials of one rank ours trains at once on all CPUs, which the basic launcher cannot.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from mlflow import MlflowClient

from benchmarks.peer_sides import Place, kind_of
from benchmarks.per_trial_peers import HEALTH_CHECK
from search_spaces.results import Order
from trainables.groups import SingleProcess
from trainables.library import TaskLibrary
from trainables.loop import train
from trainables.phantoms import PhantomSizes, make_phantoms

STEP_S = 0.05
RANKS = 2
NAME = "peers"
OURS = {"tune": "ours", "shell": "ours", "hydra": "ours_alone"}
"""Side -> ours with trials of as many ranks."""


@dataclass(frozen=True, slots=True)
class Length:
    """A study of trials that take equally long.

    Attributes:
        trials: Number of trials.
        quick: The same for ``--quick``.
        steps: Optimiser steps of each, each of which waits for ``STEP_S``.
        targets: Side -> least ratio.
        turns: Whether ours runs before and after every other side.
    """

    trials: int
    quick: int
    steps: int
    targets: dict[str, float]
    turns: bool = False


LENGTHS = {
    "short": Length(48, 2, 10, {"tune": 15.0, "shell": 8.0, "hydra": 1.0}, turns=True),
    "medium": Length(24, 1, 100, {"tune": 3.0, "shell": 2.0, "hydra": 1.0}),
    "long": Length(8, 1, 1200, {"tune": 0.95, "shell": 0.95, "hydra": 0.95}),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What one side took, in seconds: all of it, and until the first trial began."""

    wall_s: float
    start_s: float


def study_of(trials: int, steps: int, ranks: int) -> dict[str, Any]:
    """``trials`` seeds of one cell; a rank computes one ghost batch per step, whatever their number."""
    return {
        "schema": 1,
        "name": NAME,
        "axes": {
            "model_scale": ["paced"],
            "pretraining_source": ["random"],
            "data_fraction": [1.0],
            "task": ["skin"],
        },
        "seeds": trials,
        "scales": {
            "paced": {"factory": "benchmarks.paced_net:paced", "arguments": {"step_s": STEP_S}, "input_size": 32}
        },
        "tasks": {"skin": {"manifest": "skin_phantom", "primary": "auc_macro", "evaluate": {"test": {}}}},
        "protocol": {
            "budget": {"steps": steps},
            "global_batch_size": 8 * ranks,
            "ghost_batch_size": 8,
            "storage_size": 32,
            "evaluations": 2,
        },
        "execution": {"gang": {"ranks": ranks, "gpus_per_rank": 0}, "keep_weights": "none"},
    }


def prepare(folder: Path, trials: int, steps: int, ranks: int, sides: list[str]) -> None:
    """Study, decoded images, what a plan remembers, empty databases, and the trials for sides that have no plan."""
    (folder / "home").mkdir(parents=True)
    (folder / "study.yaml").write_text(yaml.safe_dump(study_of(trials, steps, ranks)), encoding="utf-8")
    make_phantoms(TaskLibrary(folder / "home"), ["skin_phantom"], sizes=PhantomSizes(skin=(100, 30, 60)))
    plan = Place(folder, "warm-up").plan()
    if plan.problems:
        raise RuntimeError("\n".join(plan.problems))
    first = Place(folder, "warm-up").trials(plan)[0]
    brief = first.protocol.model_copy(update={"budget": first.protocol.budget.model_copy(update={"steps": 2})})
    train(first.model_copy(update={"protocol": brief}), SingleProcess(torch.device("cpu")), lambda report: Order.GO)
    for side in sides:
        place = Place(folder, side)
        (folder / side).mkdir(exist_ok=True)
        MlflowClient(place.tracking_uri).search_experiments(max_results=1)
        place.write_trials(place.trials(plan))


def run(folder: Path, side: str, trials: int, ranks: int) -> Ran:
    """One side in a fresh process.

    Raises:
        RuntimeError: It failed, or did not record every trial.
    """
    log = folder / f"{side}.log"
    environment = os.environ | (HEALTH_CHECK if side == "tune" else {})
    command = [sys.executable, "-m", "benchmarks.peer_sides", side, str(folder), str(ranks)]
    with log.open("wb") as output:
        began = time.time()
        code = subprocess.run(command, env=environment, stdout=output, stderr=output, check=False).returncode
        wall_s = time.time() - began
    if code:
        raise RuntimeError(f"{side} ended with {code}:\n{log.read_text(errors='replace')[-3000:]}")
    starts = first_starts(Place(folder, side))
    if len(starts) != trials:
        raise RuntimeError(f"{side} recorded {len(starts)} of {trials} trials")
    return Ran(wall_s=wall_s, start_s=min(starts) - began)


def first_starts(place: Place) -> list[float]:
    """When the trials with a finished run in MLflow began, Unix seconds."""
    client = MlflowClient(place.tracking_uri)
    experiment = client.get_experiment_by_name(NAME)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "attributes.status = 'FINISHED'", max_results=1000)
    ours = [run for run in runs if "sc.trial_id" in run.data.tags]
    if kind_of(place.side) in OURS.values():
        return [run.info.start_time / 1000 for run in ours]
    # Other sides begin a run when the trial has ended; the trial's file says when it began.
    return [place.result(trial).started_at for trial in place.written()[: len(runs)]]


def compare(folder: Path, name: str, sides: list[str], quick: bool) -> dict[str, float]:
    """Ratios and seconds of one length; prints each side as it ends."""
    length = LENGTHS[name]
    trials = length.quick if quick else length.trials
    print(f"{name}: {trials} trials of {length.steps * STEP_S:g} s", flush=True)
    found: dict[str, float] = {}
    for ranks, theirs in ((RANKS, ["tune", "shell"]), (1, ["hydra"])):
        others = [side for side in theirs if side in sides]
        if not others:
            continue
        place = folder / f"{name}-{ranks}"
        order = _order(OURS[others[0]], others, length.turns)
        prepare(place, trials, length.steps, ranks, order)
        took = {}
        for side in order:
            took[side] = ran = run(place, side, trials, ranks)
            print(
                f"{ran.wall_s:9.1f} s, {ran.start_s:6.1f} s of it before the first trial  {side}, {ranks} ranks",
                flush=True,
            )
        found |= _figures(name, took, length)
    return found


def _order(ours: str, others: list[str], turns: bool) -> list[str]:
    """Ours first; with turns again, under another name, after each of the others."""
    if not turns:
        return [ours, *others]
    return [ours, *(side for turn, other in enumerate(others, 2) for side in (other, f"{ours}.{turn}"))]


def _figures(name: str, took: dict[str, Ran], length: Length) -> dict[str, float]:
    """Seconds of each side, the median of several turns, and ratios, which are printed."""
    runs: dict[str, list[Ran]] = {}
    for side, ran in took.items():
        runs.setdefault(kind_of(side), []).append(ran)
    wall_s = {side: statistics.median(ran.wall_s for ran in several) for side, several in runs.items()}
    start_s = {side: statistics.median(ran.start_s for ran in several) for side, several in runs.items()}
    found = {f"{name}_{side}_s": round(seconds, 1) for side, seconds in wall_s.items()}
    found |= {f"{name}_{side}_start_s": round(seconds, 1) for side, seconds in start_s.items()}
    for side in wall_s.keys() & OURS.keys():
        ratio = found[f"ratio_{name}_{side}"] = round(wall_s[side] / wall_s[OURS[side]], 2)
        print(f"{side}: {ratio:.2f} times ours (target {length.targets[side]:g})", flush=True)
    return found


def _sides() -> list[str]:
    if importlib.util.find_spec("hydra") is not None:
        return list(OURS)
    print("hydra is skipped: it is not installed (pip install 'scalecurves[benchmarks]')", flush=True)
    return [side for side in OURS if side != "hydra"]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="2, 1 and 1 trials; short and medium ones if not told")
    parser.add_argument("--lengths", help=f"comma-separated, of {', '.join(LENGTHS)}; all if not given")
    given = parser.parse_args()
    lengths = (given.lengths or ("short,medium" if given.quick else ",".join(LENGTHS))).split(",")
    if unknown := set(lengths) - LENGTHS.keys():
        parser.error(f"--lengths: unknown {', '.join(sorted(unknown))}; there are {', '.join(LENGTHS)}")
    sides = _sides()
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="scalecurves-peers-") as folder:
        for name in lengths:
            found |= compare(Path(folder), name, sides, given.quick)
    of_long = [value for what, value in found.items() if what.startswith("ratio_long_")]
    answer: dict[str, Any] = {
        "benchmark": "peers",
        **found,
        **({"ratio_long_min": min(of_long)} if of_long else {}),
        "targets": {f"ratio_{name}_{s}": t for name in lengths for s, t in LENGTHS[name].targets.items()},
        "quick": given.quick,
        "load_average": round(os.getloadavg()[0], 1),
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
