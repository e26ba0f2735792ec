"""Whole studies in which no source does anything, from predictions to ``verdict.json``: what is claimed falsely?

    python -m benchmarks.null_verdicts [--studies 600] [--log FILE]

Each study is small but complete: two tasks, two scales of one ladder, two sources like the baseline, three amounts on
a curve that levels off. Its predictions go through every table and every answer of a report, so that what is counted is
what a reader would be told. Every study has a random stream of its own, from its number: with ``--log`` a run that was
broken off goes on where it stopped, and runs of other numbers (``--first``) can be put together.
``benchmarks.coverage`` takes the first of them.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from benchmarks.simulated_studies import Binormal, EvaluationSet, FloatArray, slopes
from dashboards.answers import Answer
from dashboards.evidence import Evidence, target_results
from dashboards.label_tables import SAVES
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
TARGET = 0.05
"""Most studies that may claim something of one kind."""

CLAIMS: dict[str, Callable[[Answer], bool]] = {
    "help or harm in the primary family": lambda a: a.question == 1 and _primary(a) and a.tone in ("good", "bad"),
    "labels saved": lambda a: a.question == 4 and a.word == SAVES,
    "a benefit that changes with scale": lambda a: "ladder" in a.numbers and a.tone in ("good", "bad"),
    "a harmed group": lambda a: a.question == 5 and a.tone == "bad",
}
"""What may be claimed falsely, and the answers that would claim it."""


def false_claims(seeds: int, rng: np.random.Generator) -> Counter[str]:
    """What the verdict of one such study claims, each kind counted once: nothing of it is true."""
    evidence = null_evidence(seeds, rng)
    answers = collect(evidence, build_tables(evidence))
    return Counter({kind: 1 for kind, claims in CLAIMS.items() if any(map(claims, answers))})


def claims_of(seeds: int, number: int) -> list[str]:
    """Kinds of false claim that the study of a number makes, whatever was simulated before it."""
    found = false_claims(seeds, np.random.default_rng([28, seeds, number]))
    return [kind for kind in CLAIMS if found[kind]]


def shares(seeds: int, studies: int) -> dict[str, float]:
    """Kind of false claim -> share of the first so many studies that make it."""
    made = [claims_of(seeds, number) for number in range(studies)]
    return {kind: sum(kind in claims for claims in made) / studies for kind in CLAIMS}


def null_evidence(seeds: int, rng: np.random.Generator) -> Evidence:
    """A complete study of sources that are all alike, as if read from a record."""
    study = _study(seeds)
    rows: list[dict[str, Any]] = []
    predictions: dict[tuple[str, str], PredictionSet] = {}
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
                        rows.append(row)
    columns = ["trial_id", "role", *AXES, "seed", "failure_class", "message", "step", "done"]
    return Evidence(
        name=study.name,
        results=target_results(pd.DataFrame(rows)),
        predictions=predictions,
        failures=pd.DataFrame(columns=columns),
        study=study,
        plan=make_plan(study, None),
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


def _primary(answer: Answer) -> bool:
    return bool(answer.numbers.get("primary"))


def _logged(log: Path | None, seeds: int) -> dict[int, list[str]]:
    """Number of a study -> its false claims, as an earlier run left them; a line that was cut off is done again."""
    found: dict[int, list[str]] = {}
    for line in log.read_text("utf-8").splitlines() if log is not None and log.is_file() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if row["seeds"] == seeds:
            found[int(row["study"])] = list(row["claims"])
    return found


def simulate(seeds: int, numbers: Iterable[int], log: Path | None) -> dict[int, list[str]]:
    """False claims of the studies of these numbers; those in the log are not made again.

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
                    print(json.dumps({"seeds": seeds, "study": number, "claims": known[number]}), file=stream)
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
    print(f"false claim, {given.seeds} seeds, {len(made)} studies{'share':>32}{'95 % interval (Clopper-Pearson)':>36}")
    answer: dict[str, Any] = {"benchmark": "null_verdicts", "studies": len(made), "seeds": given.seeds}
    for kind in CLAIMS:
        n = sum(kind in claims for claims in made.values())
        interval = binomtest(n, len(made)).proportion_ci()
        print(f"{kind:52}{n / len(made):12.4f}{interval.low:20.4f} to {interval.high:.4f}")
        answer[f"false_{kind.replace(' ', '_')}"] = [round(x, 4) for x in (n / len(made), interval.low, interval.high)]
    answer |= {
        "target": TARGET,
        "seconds": round(time.perf_counter() - started, 1),
        "cpu_s": round(time.process_time() - cpu, 1),
        "load_average": round(os.getloadavg()[0], 1),
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
