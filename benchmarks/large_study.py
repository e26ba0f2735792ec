"""A record of 1,000 finished trials with predictions: the raw material of ``benchmarks.report``.

Four tasks (14 labels; 7 and 5 classes that exclude each other; one label), five scales, five sources, two amounts, five
seeds. Each evaluation set has 2,000 to 5,000 images, 2.5 per patient, with sex, age band and scanner; every task has a
shifted set besides. Every trial has what a real one leaves: predictions on validation, on which temperatures and
thresholds are fitted, and the curve of its training. Predictions are drawn from a binormal model whose signal grows
with scale, amount and source, with effects of patients that all trials share; logits are too large, so that
temperatures have something to do. Runs are written as rows of MLflow's SQLite tables, as in
``benchmarks.large_record``, which holds them to be what the record itself writes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.large_record import entry_like, insert_rows, rows_of
from dashboards import tracking
from orchestrator.entries import Entry, read_entry
from orchestrator.record import Record
from search_spaces.amounts import Amount, Seed
from search_spaces.names import Artifact, Role, Split, State
from search_spaces.protocol import Protocol
from search_spaces.results import Environment, SubsetFacts, Timing, TrialResult
from search_spaces.source_specs import RandomSource
from search_spaces.study import CheckpointSource, Normalisation, Study
from search_spaces.trial import LeakageFacts, ResolvedScale, ResolvedSource, ResolvedTask, ResolvedTrial, Workspace
from trainables.loop import HISTORY_SCHEMA
from trainables.predictions import predictions_table, write_predictions
from trainables.storage import Storage

STARTED_AT = 1_700_000_000.0
SCALES = {f"net{k}": 10 ** (5 + k // 2) * (1 + 2 * (k % 2)) for k in range(5)}
SOURCES = ("random", "natural", "natural_meanvar", "medical", "both")
AMOUNTS = {0.1: 2_000, 1.0: 20_000}
SETS = ("test", "site_b")
VAL_IMAGES = 2_000
STEPS, EVALUATIONS = 1_000, 20
IMAGES_PER_PATIENT = 2.5
OVERCONFIDENCE = 3.0
GAIN = {"random": 0.0, "natural": 0.25, "natural_meanvar": 0.02, "medical": 0.15, "both": 0.3}
"""What a source adds to the signal at the small amount; a fifth of it with all labels."""


@dataclass(frozen=True)
class Task:
    """A task of the study; images of its two evaluation sets."""

    kind: str
    labels: tuple[str, ...]
    test: int
    shifted: int

    @property
    def primary(self) -> str:
        """Its primary metric."""
        return "auc" if self.kind == "binary" else "auc_macro"


TASKS = {
    "chest": Task("multilabel", tuple(f"finding{k:02d}" for k in range(14)), 5_000, 3_000),
    "skin": Task("multiclass", tuple(f"lesion{k}" for k in range(7)), 2_500, 2_000),
    "fundus": Task("multiclass", tuple(f"stage{k}" for k in range(5)), 3_000, 2_000),
    "brain": Task("binary", ("tumour",), 2_000, 2_000),
}


@dataclass(frozen=True)
class Crowd:
    """Images of one evaluation set, or of validation, and what all trials share of their scores."""

    frame: pd.DataFrame
    truth: NDArray[np.float64]
    effect: NDArray[np.float64]

    def logits(self, signal: float, rng: np.random.Generator) -> NDArray[np.float64]:
        """(N, L) of one trial."""
        scores = signal * (self.truth * 2 - 1) + self.effect + rng.normal(0, 1, self.truth.shape) - 1.0
        return np.asarray(OVERCONFIDENCE * scores)


def study_of(seeds: int) -> Study:
    """The study file."""
    return Study.model_validate(
        {
            "name": "large_study",
            "axes": {
                "model_scale": list(SCALES),
                "pretraining_source": list(SOURCES),
                "data_fraction": list(AMOUNTS),
                "task": list(TASKS),
            },
            "seeds": seeds,
            "scales": {name: {"factory": "nets:net", "input_size": 32, "ladder": "nets"} for name in SCALES},
            "sources": {name: {"file": f"/weights/{name}.pth"} for name in SOURCES if name != "random"},
            "tasks": {
                name: {"manifest": name, "primary": task.primary, "evaluate": {"site_b": {"manifest": f"{name}_b"}}}
                for name, task in TASKS.items()
            },
            "statistics": {"baseline": "random", "groups": ["sex", "age_band", "scanner"]},
        }
    )


def crowd(name: str, task: Task, n_images: int, rng: np.random.Generator) -> Crowd:
    """Images with patients, groups and labels; rare labels have a prevalence of 2 %."""
    n_patients = round(n_images / IMAGES_PER_PATIENT)
    who = np.sort(np.concatenate([np.arange(n_patients), rng.integers(n_patients, size=n_images - n_patients)]))
    k = len(task.labels)
    columns: dict[str, Any] = {
        "image_id": [f"{i:08x}" for i in range(n_images)],
        "patient_id": [f"{name}{p:08x}" for p in who],
        "sex": rng.choice(["F", "M"], n_patients)[who],
        "age_band": rng.choice(["0-39", "40-59", "60-79", "80+"], n_patients, p=[0.2, 0.35, 0.35, 0.1])[who],
        "g_scanner": rng.choice(["a", "b", "c"], n_patients)[who],
    }
    if task.kind == "multiclass":
        drawn = rng.choice(k, n_patients, p=np.geomspace(8, 1, k) / np.geomspace(8, 1, k).sum())[who]
        columns["y"] = drawn.astype(np.int16)
        truth = np.eye(k)[drawn]
    else:
        prevalence = np.geomspace(0.02, 0.3, k) if k > 1 else np.array([0.2])
        truth = (rng.random((n_patients, k)) < prevalence)[who].astype(float)
        for j, label in enumerate(task.labels):
            columns[f"y_{label}"] = truth[:, j].astype(np.float32)
            columns[f"raw_{label}"] = truth[:, j].astype(np.int8)
    return Crowd(frame=pd.DataFrame(columns), truth=truth, effect=rng.normal(0, 0.5, (n_patients, k))[who])


def make_study(seeds: int, home: Path, uri: str) -> int:
    """Finish every trial in an empty record; returns their number."""
    study = study_of(seeds)
    record = Record(study, Storage(str(home / "storage")), uri)
    record.open()
    database = tracking.sqlite_file(uri)
    assert database is not None
    with closing(sqlite3.connect(database)) as connection:
        number = insert_rows(connection, _trials(study, record, seeds, home))
    cells = product(TASKS, SCALES, SOURCES, AMOUNTS, range(seeds))
    targets = []
    for name, scale, source, fraction, seed in cells:
        axes, _, trial_id = _identity(name, scale, source, fraction, seed)
        targets.append({"trial_id": trial_id, **axes, "seed": str(seed)})
    record.set_plan(json.dumps({"targets": targets, "exclusions": []}))
    record.close()
    return number


def _trials(study: Study, record: Record, seeds: int, home: Path) -> Iterator[dict[str, list[tuple[Any, ...]]]]:
    """Rows of every run, whose files are put in place; logged metrics are those of a task's first trial."""
    rng = np.random.default_rng(0)
    for name, task in TASKS.items():
        sizes = dict(zip(SETS, (task.test, task.shifted), strict=True)) | {str(Split.VAL): VAL_IMAGES}
        crowds = {s: crowd(s, task, n, rng) for s, n in sizes.items()}
        template: tuple[TrialResult, Entry] | None = None
        tables: dict[str, pa.Table] = {}
        cells = product(SCALES, SOURCES, AMOUNTS, range(seeds))
        for number, (scale, source, amount, seed) in enumerate(cells):
            result = _result(study, name, task, (scale, source, amount, seed), number)
            signal = 0.9 + 0.12 * list(SCALES).index(scale) + (0.5 if amount == 1 else 0.0)
            signal += GAIN[source] * (0.2 if amount == 1 else 1.0) + rng.normal(0, 0.04)
            staged = home / "staged"
            for set_name, images in crowds.items():
                logits = images.logits(signal - (0.3 if set_name == "site_b" else 0.0), rng)
                if set_name not in tables:
                    known = None if set_name == Split.VAL else (0, set_name == "test")
                    tables[set_name] = predictions_table(
                        images.frame, logits, result.trial, set_name, shared_patients=known
                    )
                table = _with_logits(tables[set_name], logits, task.labels, result.trial.trial_id)
                write_predictions(table, staged / Artifact.PREDICTIONS, set_name)
            pq.write_table(_history(signal, rng), staged / Artifact.HISTORY)
            if template is None:
                (staged / Artifact.TRIAL).write_text(result.model_dump_json())
                template = result, read_entry(staged)
            run_id = uuid.uuid4().hex
            yield rows_of(record, entry_like(template, result), run_id)
            target = database_artifacts(record, run_id)
            target.parent.mkdir(parents=True, exist_ok=True)
            staged.rename(target)


def _history(signal: float, rng: np.random.Generator) -> pa.Table:
    """An evaluation every fifty steps; the better the start, the sooner the curve is flat."""
    steps = np.linspace(STEPS / EVALUATIONS, STEPS, EVALUATIONS).astype(int)
    values = 0.5 + 0.2 * signal * (1 - np.exp(-steps * signal / 200)) + rng.normal(0, 0.005, EVALUATIONS)
    columns = {
        "step": steps,
        "loss": 1.5 / np.sqrt(steps),
        "val": np.minimum(values, 1.0),
        "val_loss": [None] * EVALUATIONS,
        "lr": 0.5e-3 * (1 + np.cos(np.pi * steps / STEPS)),
        "seconds": steps * 0.06,
        "step_losses": list(1.5 / np.sqrt(1 + np.arange(STEPS).reshape(EVALUATIONS, -1))),
    }
    return pa.table(columns, schema=HISTORY_SCHEMA)


def _with_logits(table: pa.Table, logits: NDArray[np.float64], labels: tuple[str, ...], trial_id: str) -> pa.Table:
    """The table of one trial: all but logits and id is the same in every trial."""
    for k, label in enumerate(labels):
        place = table.column_names.index(f"z_{label}")
        table = table.set_column(place, f"z_{label}", pa.array(logits[:, k].astype(np.float32)))
    return table.replace_schema_metadata({**table.schema.metadata, b"trial_id": trial_id.encode()})


def database_artifacts(record: Record, run_id: str) -> Path:
    """Where the files of a run lie."""
    root = tracking.artifact_root(record.uri, record.study.name)
    assert root is not None
    return Path(root) / run_id / "artifacts"


def _identity(name: str, scale: str, source: str, fraction: float, seed: int) -> tuple[dict[str, str], str, str]:
    """Axes, cell id and trial id."""
    label = Amount.model_validate(fraction).label
    axes = {"model_scale": scale, "pretraining_source": source, "data_fraction": label, "task": name}
    cell_id = hashlib.sha256(str(axes).encode()).hexdigest()[:16]
    return axes, cell_id, hashlib.sha256(f"{cell_id}{seed}".encode()).hexdigest()[:16]


def _result(study: Study, name: str, task: Task, cell: tuple[str, str, float, int], number: int) -> TrialResult:
    scale, source, fraction, seed = cell
    amount = Amount.model_validate(fraction)
    axes, cell_id, trial_id = _identity(name, scale, source, fraction, seed)
    weights = RandomSource() if source == "random" else CheckpointSource(file=f"{source}.pth")
    trial = ResolvedTrial(
        trial_id=trial_id,
        cell_id=cell_id,
        attempt_id=f"{trial_id}-a",
        study=study.name,
        role=Role.TARGET,
        axes=axes,
        seed=Seed(subset=seed, init=seed),
        scale=ResolvedScale(name=scale, factory="nets:net", input_size=32, ladder="nets"),
        source=ResolvedSource(name=source, weights=weights, normalise=Normalisation.model_validate("imagenet")),
        task=ResolvedTask(
            name=name,
            manifest=name,
            manifest_hash="0" * 16,
            kind=task.kind,
            labels=task.labels,
            primary=task.primary,
            evaluate=study.tasks[name].evaluate,
        ),
        amount=amount,
        leakage=LeakageFacts(upstream_overlap=dict.fromkeys(SETS, "no"), near_copies=dict.fromkeys(SETS)),
        protocol=Protocol(),
        workspace=Workspace(home="", storage=""),
    )
    images, order = AMOUNTS[fraction], f"{name}{seed}"
    return TrialResult(
        trial=trial,
        state=State.COMPLETE,
        subset=SubsetFacts(
            subset_hash=f"{order}-{fraction:g}",
            order_hash=order,
            images=images,
            patients=images // 2,
            forced_patients=0,
            positives=dict.fromkeys(task.labels, images // 10),
            negatives=dict.fromkeys(task.labels, images - images // 10),
            pool_images=AMOUNTS[1.0],
            pool_patients=AMOUNTS[1.0] // 2,
            val_images=VAL_IMAGES,
            val_patients=round(VAL_IMAGES / IMAGES_PER_PATIENT),
            patients_known=True,
        ),
        parameters=SCALES[scale],
        backbone_parameters=SCALES[scale] - 100,
        steps=STEPS,
        best_step=900,
        best_value=0.8,
        still_rising=False,
        loss=0.4,
        timing=Timing(total_s=60.0, setup_s=1.0, train_s=55.0, evaluate_s=4.0, samples_per_s=1_000.0),
        environment=Environment(host="node1", device="cpu", ranks=1, versions={"torch": "2"}, commit="a1"),
        started_at=STARTED_AT + number,
        finished_at=STARTED_AT + number + 60,
    )


def main() -> None:
    """Make the record below a folder; print the number of runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("home", type=Path)
    parser.add_argument("seeds", type=int)
    arguments = parser.parse_args()
    print(make_study(arguments.seeds, arguments.home, f"sqlite:///{arguments.home / 'mlflow.db'}"))


if __name__ == "__main__":
    main()
