"""Whole studies in which no source does anything, from predictions to ``verdict.json``: what is claimed falsely?

    python -m benchmarks.null_verdicts [--studies 600] [--log FILE]

Each study is small but complete: two tasks, two scales of one ladder, two sources like the baseline, three amounts on
a curve that levels off, validation curves of one speed. Its predictions go through every table and every answer of a
report, so that what is counted is what a reader would be told (``null_claims``). Every study has a random stream of its
own, from its number: with ``--log`` a run that was broken off goes on where it stopped, and runs of other numbers
(``--first``) can be put together. ``benchmarks.coverage`` takes the first of them.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import binomtest, norm

from benchmarks.null_claims import kinds
from benchmarks.simulated_studies import Binormal, EvaluationSet, FloatArray, slopes
from dashboards.evidence import Evidence, target_results
from dashboards.histories import History
from dashboards.planned import make_plan
from dashboards.prediction_sets import PredictionSet
from dashboards.tables import build_tables
from dashboards.verdict.frame import collect
from search_spaces.names import AXES
from search_spaces.study import Study

SCALES = {"small": (50_000, 0.0), "large": (400_000, 0.15)}
"""Parameters, and what the larger scale adds to every slope."""
SOURCES = ("random", "natural", "textures")
FRACTIONS = {"0.1": (90, 0.95), "0.3": (270, 1.15), "1": (900, 1.2)}
"""Labelled images, and the slope of every source alike: AUC 0.74, 0.79, 0.80."""
TASKS = {
    "chest": Binormal(n_patients=200, prevalence=(0.35,), seed_sd=0.08),
    "skin": Binormal(n_patients=250, prevalence=(0.3,), images=1, seed_sd=0.05, source_sd=0.3, run_sd=0.2),
}
GROUPS = ("F", "M")
STUDIES = 600
STEPS = np.arange(50.0, 1001.0, 50.0)
"""Optimiser steps at which training is validated."""

KINDS = kinds(SOURCES)
Counts = dict[str, tuple[int, int]]
"""Kind of false claim -> families of a study that make it, and all its families."""


def false_claims(seeds: int, rng: np.random.Generator) -> Counts:
    """What the verdict of one such study claims: nothing of it is true."""
    evidence = null_evidence(seeds, rng)
    tables = build_tables(evidence)
    answers = collect(evidence, tables)
    found = {name: kind.found(tables, answers) for name, kind in KINDS.items()}
    return {name: (sum(families.values()), len(families)) for name, families in found.items()}


def claims_of(seeds: int, number: int) -> Counts:
    """What the study of a number claims, whatever was simulated before it."""
    return false_claims(seeds, np.random.default_rng([28, seeds, number]))


def shares(seeds: int, studies: int) -> dict[str, float]:
    """Kind of false claim -> share of its families in the first so many studies that make it."""
    made = [claims_of(seeds, number) for number in range(studies)]
    return {name: share_of([counts[name] for counts in made])[0] for name in KINDS}


def share_of(counts: Sequence[tuple[int, int]]) -> tuple[float, float]:
    """Share of families that claim something, and its standard error over studies, whose families may be dependent.

    Args:
        counts: Of each study, families that do and all of them.
    """
    false, every = np.array(counts, dtype=np.float64).T
    share = float(false.sum() / every.sum())
    n = len(counts)
    se = float(np.sqrt(n / (n - 1) * ((false - share * every) ** 2).sum()) / every.sum()) if n > 1 else float("nan")
    return share, se


def null_evidence(seeds: int, rng: np.random.Generator) -> Evidence:
    """A complete study of sources that are all alike, as if read from a record."""
    study = _study(seeds)
    rows: list[dict[str, Any]] = []
    predictions: dict[tuple[str, str], PredictionSet] = {}
    histories: dict[str, History] = {}
    for task, design in TASKS.items():
        images = design.evaluation_set(rng)
        sex = np.asarray(GROUPS, dtype=object)[rng.permutation(design.n_patients) % 2][images.index.codes]
        for scale, (_, more) in SCALES.items():
            for fraction, (_, slope) in FRACTIONS.items():
                for source in SOURCES:
                    runs = images.logits(slopes(slope + more, design.seed_sd, seeds, rng), rng)
                    for seed, logits in runs.items():
                        row = _row(task, scale, source, fraction, int(str(seed)))
                        predictions[row["trial_id"], "test"] = _prediction(task, images, logits, sex)
                        histories[row["trial_id"]] = _history(rng)
                        rows.append(row)
    columns = ["trial_id", "role", *AXES, "seed", "failure_class", "message", "step", "done"]
    return Evidence(
        name=study.name,
        results=target_results(pd.DataFrame(rows)),
        predictions=predictions,
        failures=pd.DataFrame(columns=columns),
        study=study,
        plan=make_plan(study, None),
        histories=histories,
    )


def _study(seeds: int) -> Study:
    weights = {scale: {"file": f"{scale}.pth", "contents": ["photographs"]} for scale in SCALES}
    written = {
        "name": "null",
        "axes": {
            "model_scale": list(SCALES),
            "pretraining_source": list(SOURCES),
            "data_fraction": [float(f) for f in FRACTIONS],
            "task": list(TASKS),
        },
        "seeds": seeds,
        "scales": {name: {"factory": "nets:net", "input_size": 32, "ladder": "nets"} for name in SCALES},
        "sources": {name: {"by_scale": weights} for name in SOURCES if name != "random"},
        "tasks": {name: {"manifest": name, "primary": "auc"} for name in TASKS},
        "statistics": {"baseline": "random", "groups": ["sex"], "delta": 0.01},
    }
    return Study.parse(written, "null study")


def _prediction(task: str, images: EvaluationSet, logits: FloatArray, sex: Iterable[object]) -> PredictionSet:
    n = len(logits)
    return PredictionSet(
        name="test",
        kind="binary",
        labels=("finding",),
        y=images.y.astype(np.float32),
        logits=logits.astype(np.float32),
        image=np.array([f"{task}-{i}" for i in range(n)]),
        patient=np.array([f"{task}-{p}" for p in images.index.codes]),
        groups={"sex": np.asarray(sex, dtype=object)},
        shared_patients=0,
    )


def _row(task: str, scale: str, source: str, fraction: str, seed: int) -> dict[str, Any]:
    images = FRACTIONS[fraction][0]
    return {
        "trial_id": f"{task}-{scale}-{source}-{fraction}-{seed}",
        "role": "target",
        "model_scale": scale,
        "pretraining_source": source,
        "data_fraction": fraction,
        "task": task,
        "seed": str(seed),
        "seed_subset": seed,
        "seed_init": seed,
        "primary": "auc",
        "ladder": "nets",
        "parameters": SCALES[scale][0],
        "n_images": images,
        "n_patients": images // 2,
        "n_val_images": 100,
        "n_val_patients": 50,
        "patients_known": True,
        "still_rising": False,
        "subset_hash": f"{task}{fraction}{seed}",
        "order_hash": f"{task}{seed}",
        "train_s": 1.0,
    }


def _history(rng: np.random.Generator) -> History:
    """A validation curve, whose speed is a matter of the run alone."""
    rise = 1 - np.exp(-STEPS / (200.0 * rng.uniform(0.7, 1.3)))
    return History(steps=STEPS, values=0.5 + 0.3 * rise + rng.normal(0, 0.003, len(STEPS)), seconds=0.1 * STEPS)


def _logged(log: Path | None, seeds: int) -> dict[int, Counts]:
    """Number of a study -> what it claims, as an earlier run left it; lines cut off or without a kind do not count."""
    found: dict[int, Counts] = {}
    for line in log.read_text("utf-8").splitlines() if log is not None and log.is_file() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        counts = row.get("counts", {})
        if row["seeds"] == seeds and set(counts) == set(KINDS):
            found[int(row["study"])] = {name: (int(n), int(of)) for name, (n, of) in counts.items()}
    return found


def simulate(seeds: int, numbers: Iterable[int], log: Path | None) -> dict[int, Counts]:
    """What the studies of these numbers claim falsely; those in the log are not made again.

    Args:
        seeds: Trials per cell.
        numbers: Which studies.
        log: JSON lines, to which each study is added as soon as it is done; None for nowhere.
    """
    known, found = _logged(log, seeds), {}
    for number in numbers:
        if number not in known:
            known[number] = claims_of(seeds, number)
            if log is not None:
                with log.open("a", encoding="utf-8") as stream:
                    print(json.dumps({"seeds": seeds, "study": number, "counts": known[number]}), file=stream)
        found[number] = known[number]
    return found


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=STUDIES)
    parser.add_argument("--first", type=int, default=0, help="number of the first study")
    parser.add_argument("--seeds", type=int, default=5, help="trials per cell")
    parser.add_argument("--log", type=Path, help="file of JSON lines to which each study is added, and gone on from")
    given = parser.parse_args()
    started, cpu = time.perf_counter(), time.process_time()
    made = simulate(given.seeds, range(given.first, given.first + given.studies), given.log)
    print(f"{given.seeds} seeds, {len(made)} studies; standard errors over studies, interval of Clopper and Pearson")
    print(f"{'false claim':44}{'family':22}{'level':>8}{'share':>8}{'SE':>8}{'of studies':>12}{'95 % interval':>20}")
    answer: dict[str, Any] = {"benchmark": "null_verdicts", "studies": len(made), "seeds": given.seeds}
    above = []
    for name, kind in KINDS.items():
        counts = [found[name] for found in made.values()]
        share, se = share_of(counts)
        n = sum(false > 0 for false, _ in counts)
        interval = binomtest(n, len(made)).proportion_ci()
        ends = f"{interval.low:.4f} to {interval.high:.4f}"
        print(f"{name:44}{kind.per:22}{kind.level:8.4f}{share:8.4f}{se:8.4f}{n / len(made):12.4f}{ends:>20}")
        answer[f"false_{name.replace(' ', '_')}"] = [
            round(x, 4) if x == x else None for x in (share, se, n / len(made))
        ]
        if share - norm.ppf(0.975) * se > kind.level:
            above.append(name)
    answer |= {
        "levels": {name: kind.level for name, kind in KINDS.items()},
        "above": above,
        "seconds": round(time.perf_counter() - started, 1),
        "cpu_s": round(time.process_time() - cpu, 1),
        "load_average": round(os.getloadavg()[0], 1),
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
