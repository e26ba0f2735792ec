"""A record of many finished runs, made in seconds: the raw material of ``benchmarks.record``.

A few trials are delivered by ``orchestrator.record.Record`` itself. The others are written as rows of MLflow's SQLite
tables, made of the same entries, and the rows of the delivered ones must equal those that would have been written.
"""

from __future__ import annotations

import argparse
import dataclasses
import sqlite3
import uuid
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from numpy.typing import NDArray

from dashboards import tracking
from orchestrator.delivery import spooled
from orchestrator.entries import Entry, failed_entry, read_entry
from orchestrator.plan import Plan, PlannedTrial, make_plan
from orchestrator.record import Record
from search_spaces.amounts import Amount
from search_spaces.files import load_study
from search_spaces.names import Artifact, State, Tag
from search_spaces.results import Environment, SubsetFacts, Timing, TrialResult
from search_spaces.study import Study
from search_spaces.trial import ResolvedTrial, Workspace
from trainables.library import TaskLibrary
from trainables.phantoms import PhantomSizes, make_phantoms
from trainables.storage import Storage

DELIVERED = 6
"""Trials of each task that the record itself delivers, to compare with."""

STARTED_AT = 1_700_000_000.0
_STEPS, _EVALUATIONS, _IMAGES = 300, 10, 60
_TABLES = {
    "runs": "run_uuid, name, source_type, source_name, entry_point_name, user_id, status, start_time, end_time, "
    "source_version, lifecycle_stage, artifact_uri, experiment_id, deleted_time",
    "tags": "run_uuid, key, value",
    "params": "run_uuid, key, value",
    "metrics": "run_uuid, key, value, timestamp, step, is_nan",
    "latest_metrics": "run_uuid, key, value, timestamp, step, is_nan",
}
Row = tuple[Any, ...]
Rows = dict[str, list[Row]]


def study_of(seeds: int) -> Study:
    """A study of 400 cells on phantom images: 10 scales, 2 sources, 10 amounts, 2 tasks."""
    widths = range(4, 14)
    return Study.model_validate(
        {
            "schema": 1,
            "name": "large_record",
            "axes": {
                "model_scale": [f"width{w}" for w in widths],
                "pretraining_source": ["random", "natural"],
                "data_fraction": [0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0],
                "task": ["chest", "skin"],
            },
            "seeds": seeds,
            "scales": {
                f"width{w}": {
                    "factory": "trainables.phantom_nets:phantom_net",
                    "arguments": {"width": w},
                    "input_size": 32,
                    "ladder": "phantom",
                }
                for w in widths
            },
            "sources": {"natural": {"trial": {"task": "textures", "seed": "same"}}},
            "tasks": {
                "textures": {"manifest": "natural_phantom", "primary": "auc_macro"},
                "chest": {
                    "manifest": "chest_phantom",
                    "primary": "auc_macro",
                    "evaluate": {"test": {}, "site_b": {"split": ["external"]}},
                },
                "skin": {"manifest": "skin_phantom", "primary": "auc_macro"},
            },
            "protocol": {"budget": {"steps": _STEPS}, "storage_size": 32, "evaluations": _EVALUATIONS},
        }
    )


def make_record(plan: Plan, home: Path, uri: str) -> int:
    """Finish every trial of a plan in an empty record.

    Args:
        plan: A plan without problems.
        home: Folder of the storage.
        uri: A SQLite tracking URI.

    Returns:
        The number of runs, without the parent.

    Raises:
        RuntimeError: Rows are not what the record itself writes.
    """
    storage = Storage(str(home / "storage" / plan.study.name))
    record = Record(plan.study, storage, uri)
    record.open()
    database = tracking.sqlite_file(uri)
    assert database is not None
    by_task: dict[str, list[PlannedTrial]] = {}
    for planned in plan.trials:
        by_task.setdefault(planned.trial.cell.task, []).append(planned)
    number = 0
    for trials in by_task.values():
        results = [_result(plan, planned, number + k) for k, planned in enumerate(trials)]
        number += len(results)
        with storage.staging() as folder:
            _write_folder(folder, results[0])
            template = results[0], read_entry(folder)
        sample = _spread(results)
        runs = {r.trial.trial_id: _delivered(record, storage, r) for r in sample}
        with closing(sqlite3.connect(database)) as connection:
            _require_equal(connection, record, [(entry_like(template, r), runs[r.trial.trial_id]) for r in sample])
            rest = [entry_like(template, r) for r in results if r.trial.trial_id not in runs]
            insert_rows(connection, (rows_of(record, entry, uuid.uuid4().hex) for entry in rest))
    record.close()
    return number


def _spread(results: list[TrialResult]) -> list[TrialResult]:
    return [results[int(k)] for k in np.unique(np.linspace(0, len(results) - 1, DELIVERED).astype(int))]


def _result(plan: Plan, planned: PlannedTrial, number: int) -> TrialResult:
    """A complete attempt; the numbers differ between trials as those of real ones do."""
    assert plan.resolver is not None
    workspace = Workspace(home="/home/user/.scalecurves", storage="/home/user/storage")
    trial = plan.resolver.resolved(planned.trial, f"{planned.trial_id}-{uuid.uuid4().hex[:8]}", workspace)
    seconds = 5.0 + number % 7
    started = STARTED_AT + 10.0 * number
    images = plan.images[trial.task.name]
    return TrialResult(
        trial=trial,
        state=State.COMPLETE,
        subset=_subset(trial, images),
        parameters=planned.parameters,
        backbone_parameters=planned.parameters - 100,
        steps=_STEPS,
        best_step=_STEPS - _STEPS // _EVALUATIONS,
        best_value=0.6 + (number % 300) / 1000,
        still_rising=number % 3 == 0,
        loss=0.4,
        timing=Timing(total_s=seconds, setup_s=0.2, train_s=seconds - 1, evaluate_s=0.8, samples_per_s=2000.0 + number),
        environment=Environment(host="node1", device="cpu", ranks=1, versions={"torch": "2", "timm": "1"}, commit="a1"),
        started_at=started,
        finished_at=started + seconds,
    )


def _subset(trial: ResolvedTrial, images: dict[str, int]) -> SubsetFacts:
    share = trial.amount if isinstance(trial.amount, Amount) else Amount(kind="fraction", value=1.0)
    drawn = max(1, round(images["train"] * share.value))
    return SubsetFacts(
        subset_hash=f"{trial.seed.subset:016x}",
        order_hash=f"{trial.seed.subset:016x}",
        images=drawn,
        patients=drawn,
        forced_patients=0,
        positives=dict.fromkeys(trial.task.labels, drawn // 3),
        negatives=dict.fromkeys(trial.task.labels, drawn - drawn // 3),
        pool_images=images["train"],
        pool_patients=images["train"],
        val_images=images["val"],
        val_patients=images["val"],
        patients_known=True,
    )


def _write_folder(folder: Path, result: TrialResult) -> None:
    """The files that a complete attempt leaves, but weights and receipt."""
    (folder / Artifact.TRIAL).write_text(result.model_dump_json())
    steps = np.linspace(_STEPS / _EVALUATIONS, _STEPS, _EVALUATIONS).astype(int)
    history = {"step": steps, "loss": 1.5 / np.sqrt(steps), "val": 0.9 - 1 / np.sqrt(steps)}
    pq.write_table(pa.table(history), folder / Artifact.HISTORY)
    (folder / Artifact.PREDICTIONS).mkdir()
    for name in result.trial.task.evaluate:
        pq.write_table(_predictions(result.trial), folder / Artifact.PREDICTIONS / f"{name}.parquet")


def _predictions(trial: ResolvedTrial) -> pa.Table:
    generator = np.random.default_rng(0)
    labels = trial.task.labels
    columns: dict[str, Any] = {name: [f"{k:08x}" for k in range(_IMAGES)] for name in ("image_id", "patient_id")}
    truth: NDArray[Any]
    if trial.task.kind == "multilabel":
        truth = (generator.random((_IMAGES, len(labels))) < 0.4).astype(np.float32)
        columns |= {f"y_{label}": truth[:, k] for k, label in enumerate(labels)}
    else:
        drawn = np.arange(_IMAGES) % len(labels)
        truth = np.eye(len(labels))[drawn]
        columns["y"] = pa.array(drawn, pa.int16())
    logits = (truth + generator.normal(size=truth.shape)).astype(np.float32)
    columns |= {f"z_{label}": logits[:, k] for k, label in enumerate(labels)}
    meta = {"kind": trial.task.kind, "labels": _json(labels), "trial_id": trial.trial_id}
    return pa.table(columns).replace_schema_metadata(meta)


def _json(labels: Iterable[str]) -> str:
    import json

    return json.dumps(list(labels))


def _delivered(record: Record, storage: Storage, result: TrialResult) -> str:
    with storage.staging() as folder:
        _write_folder(folder, result)
        storage.publish(folder, result.trial.trial_id)
    return record.deliver(spooled(result))


def entry_like(template: tuple[TrialResult, Entry], result: TrialResult) -> Entry:
    """The entry of a result whose predictions and curves are the template's."""
    of_template, own, whole = failed_entry(template[0]), failed_entry(result), template[1]
    known = set(of_template.points)
    return dataclasses.replace(
        whole,
        attempt=own.attempt,
        tags=own.tags | {k: v for k, v in whole.tags.items() if k not in of_template.tags},
        params=own.params,
        points=(*own.points, *(p for p in whole.points if p not in known)),
    )


def rows_of(record: Record, entry: Entry, run_id: str) -> Rows:
    """What delivering an entry leaves in MLflow's tables."""
    root = tracking.artifact_root(record.uri, record.study.name)
    user = entry.tags["mlflow.user"]
    name = entry.tags[Tag.RUN_NAME]
    start, end = entry.started_ms, entry.finished_ms
    artifacts = f"{root}/{run_id}/artifacts"
    run = (run_id, name, "UNKNOWN", "", "", user, "FINISHED", start, end, "", "active", artifacts)
    tags = {**entry.tags, Tag.PARENT: record.parent_id, Tag.RUN_NAME: name}
    metrics = [(run_id, p.key, p.value, start + p.step, p.step, 0) for p in entry.points]
    latest = {row[1]: row for row in sorted(metrics, key=lambda row: row[4])}
    return {
        "runs": [(*run, int(record.experiment_id), None)],
        "tags": [(run_id, key, value) for key, value in tags.items()],
        "params": [(run_id, key, value) for key, value in entry.params.items()],
        "metrics": metrics,
        "latest_metrics": list(latest.values()),
    }


def _require_equal(connection: sqlite3.Connection, record: Record, delivered: list[tuple[Entry, str]]) -> None:
    for entry, run_id in delivered:
        for table, rows in rows_of(record, entry, run_id).items():
            query = f"select {_TABLES[table]} from {table} where run_uuid = ?"
            written = set(connection.execute(query, (run_id,)).fetchall())
            if written != set(rows):
                raise RuntimeError(f"{table} of run {run_id}: the record wrote otherwise: {written ^ set(rows)}")


def insert_rows(connection: sqlite3.Connection, entries: Iterator[Rows]) -> int:
    """Add runs to MLflow's tables; returns their number."""
    number = 0
    with connection:
        for rows in entries:
            number += 1
            for table, columns in _TABLES.items():
                places = ", ".join("?" * len(columns.split(",")))
                connection.executemany(f"insert into {table} ({columns}) values ({places})", rows[table])
    return number


def main() -> None:
    """Make images, study file and record below the folder of ``FILE``; print the numbers of runs and of targets."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, help="study file to write")
    parser.add_argument("seeds", type=int)
    arguments = parser.parse_args()
    home = arguments.file.parent
    library = TaskLibrary(home)
    make_phantoms(library, sizes=PhantomSizes(natural=(60, 20, 20), chest=(60, 20, 30, 30), skin=(60, 30, 30)))
    study = study_of(arguments.seeds).model_dump(mode="json", by_alias=True, exclude_unset=True)
    arguments.file.write_text(yaml.safe_dump(study, sort_keys=False))
    plan = make_plan(load_study(str(arguments.file)), library)
    print(make_record(plan, home, f"sqlite:///{home / 'mlflow.db'}"), len(plan.targets))


if __name__ == "__main__":
    main()
