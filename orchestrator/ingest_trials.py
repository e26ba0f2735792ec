"""From checked rows to trials, and from a trial to what its MLflow run says."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dashboards.evidence import IN_DOMAIN
from dashboards.prediction_sets import read_predictions
from dashboards.statistics import Metric
from dashboards.tracking import RecordMetric, RecordTag, metric_key
from orchestrator.entries import MAX_PARAM, MAX_TAG, Attempt, Entry, Point, set_tags, texts, user_name
from orchestrator.ingest_predictions import PredictionFiles, Truth
from orchestrator.ingest_problems import Problems
from orchestrator.ingest_rows import Row
from orchestrator.metrics import SetMetrics, score, score_file
from search_spaces.amounts import Amount, Seed
from search_spaces.exceptions import DataError
from search_spaces.identity import canonical, digest
from search_spaces.names import AXES, SCHEMA_VERSION, Artifact, FailureClass, Kind, Role, State, Tag
from trainables.predictions import write_predictions

_LARGEST_GAP = 0.005
"""A reported value may differ by this much from what the predictions give before it is named."""

_OF_TWO_CLASSES: Mapping[str, str] = {Metric.AUC_MACRO: Metric.AUC, Metric.AP_MACRO: Metric.AP}


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictionFile:
    """One file of predictions.

    Attributes:
        path: Where it lies.
        sha256: Of its bytes.
        truth: What it is about.
    """

    path: Path
    sha256: str
    truth: Truth


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedTrial:
    """One trial of others.

    Attributes:
        axes: Axis -> value.
        amount: Labelled training data.
        seed: Its seed.
        state: complete or failed.
        failure: Why it failed, if that is known.
        values: Evaluation set -> metric -> value, NaN if undefined.
        counts: What is known of its size and cost.
        ladder: Ladder of the scale; empty if not known.
        predictions: Evaluation set -> file.
        ids: What stands for the key of the ids in its predictions (``PredictionFiles.ids_of``); empty without any.
    """

    axes: dict[str, str]
    amount: Amount
    seed: Seed
    state: State
    failure: FailureClass | None = None
    values: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    counts: Mapping[str, float] = field(default_factory=dict)
    ladder: str = ""
    predictions: Mapping[str, PredictionFile] = field(default_factory=dict)
    ids: str = ""

    @property
    def cell_and_seed(self) -> tuple[str, ...]:
        """What at most one trial of a study may be."""
        return (*(self.axes[axis] for axis in AXES), self.seed.label)

    @property
    def name(self) -> str:
        """Name of its run."""
        label = self.seed.label
        return " · ".join([*(self.axes[axis] for axis in AXES), label if label.startswith("s") else f"s{label}"])

    @property
    def cell_id(self) -> str:
        """16 hexadecimal digits of the axes."""
        return digest(canonical({"ingested": SCHEMA_VERSION, "axes": self.axes}))

    @property
    def trial_id(self) -> str:
        """16 hexadecimal digits of everything that was reported: the same content is the same trial.

        The key of the ids belongs to it. If it changes, all predictions of the task are delivered anew, so that the
        patients of all trials stay comparable.
        """
        values = {s: {m: _or_none(v) for m, v in metrics.items()} for s, metrics in self.values.items()}
        content = {
            "ingested": SCHEMA_VERSION,
            "axes": self.axes,
            "seed": self.seed.label,
            "state": str(self.state),
            "failure": self.failure,
            "values": values,
            "counts": dict(self.counts),
            "ladder": self.ladder,
            "predictions": {name: file.sha256 for name, file in self.predictions.items()},
        }
        return digest(canonical(content | ({"ids": self.ids} if self.predictions else {})))

    @property
    def reported_sets(self) -> tuple[str, ...]:
        """Evaluation sets of which only numbers are known."""
        return tuple(name for name in self.values if name not in self.predictions)


def reported_trials(
    rows: Iterable[Row], base: Path, folder: Path | None, files: PredictionFiles, problems: Problems
) -> list[ReportedTrial]:
    """Group rows by trial and find their predictions.

    Args:
        rows: Checked rows.
        base: Folder that the paths in column ``predictions`` start from.
        folder: Where predictions without a path lie, by name of task, scale, source, amount, seed and set; None for
            nowhere.
        files: Reads them.
        problems: Where to complain of predictions.
    """
    grouped: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        grouped.setdefault(row.trial, []).append(row)
    read = [_trial(group, base, folder, files, problems) for group in grouped.values()]
    trials = [replace(trial, ids=files.ids_of(trial.axes["task"])) if trial.predictions else trial for trial in read]
    by_task: dict[str, list[ReportedTrial]] = {}
    for trial in trials:
        by_task.setdefault(trial.axes["task"], []).append(trial)
    return [_with_usual_names(trial, by_task[trial.axes["task"]]) for trial in trials]


def usual_name(metric: str, trials: Iterable[ReportedTrial]) -> str:
    """A metric's name for a task: of two classes, as its predictions say, the mean AUC (or AP) is the AUC (or AP).

    Args:
        metric: Its name.
        trials: All trials of the task.
    """
    kinds = {file.truth.kind for trial in trials for file in trial.predictions.values()}
    return _OF_TWO_CLASSES.get(metric, metric) if kinds == {Kind.BINARY} else metric


def _with_usual_names(trial: ReportedTrial, of_task: Sequence[ReportedTrial]) -> ReportedTrial:
    def named(metrics: Mapping[str, float]) -> dict[str, float]:
        return {usual_name(metric, of_task): value for metric, value in metrics.items()} | {
            metric: value for metric, value in metrics.items() if usual_name(metric, of_task) == metric
        }

    return replace(trial, values={name: named(metrics) for name, metrics in trial.values.items()})


def _trial(
    rows: list[Row], base: Path, folder: Path | None, files: PredictionFiles, problems: Problems
) -> ReportedTrial:
    first = rows[0]
    task, scale, source = first.axes
    values: dict[str, dict[str, float]] = {}
    found: dict[str, PredictionFile] = {}
    for row in rows:
        if row.metric and row.state is State.COMPLETE:
            values.setdefault(row.set, {})[row.metric] = row.value
        path = _predictions_path(row, base, folder)
        if path is not None and row.set not in found and row.state is State.COMPLETE:
            try:
                found[row.set] = _file(path, files, task)
            except DataError as error:
                problems.add(str(error), row.number)
    axes = {"model_scale": scale, "pretraining_source": source, "data_fraction": first.amount.label, "task": task}
    return ReportedTrial(
        axes=axes,
        amount=first.amount,
        seed=first.seed,
        state=first.state,
        failure=first.failure,
        values={name: values[name] for name in sorted(values, key=lambda name: (name != IN_DOMAIN, name))},
        counts=_implied(first.amount) | {name: n for row in rows for name, n in row.counts.items()},
        ladder=next((row.ladder for row in rows if row.ladder), ""),
        predictions=found,
    )


def _implied(amount: Amount) -> dict[str, float]:
    """What an amount in images or patients says by itself."""
    names = {"images": "n_images", "patients": "n_patients"}
    return {names[amount.kind]: amount.value} if amount.kind in names else {}


def _predictions_path(row: Row, base: Path, folder: Path | None) -> Path | None:
    if row.predictions:
        return base / Path(row.predictions).expanduser()
    if folder is None:
        return None
    path = folder / predictions_place(row)
    return path if path.is_file() else None


def predictions_place(row: Row) -> Path:
    """Where the predictions of a row lie in a folder: ``task/scale/source/amount/seed/set.parquet``."""
    return Path(*(part.replace("/", "_") for part in (*row.trial, f"{row.set}.parquet")))


def _file(path: Path, files: PredictionFiles, task: str) -> PredictionFile:
    truth = files.check(path, task)
    return PredictionFile(path=path, sha256=hashlib.sha256(path.read_bytes()).hexdigest(), truth=truth)


def entry_of(
    trial: ReportedTrial,
    *,
    study: str,
    primary: str,
    attempts: int,
    reported_at: float,
    files: PredictionFiles,
    staged: Path,
) -> tuple[Entry, list[str]]:
    """A trial as the record writes it, and values that its predictions contradict.

    Args:
        trial: The trial.
        study: Name of the study.
        primary: Primary metric of its task.
        attempts: Runs of this trial that ended before.
        reported_at: Unix seconds that stand for its time: those of the table.
        files: Reads predictions.
        staged: An empty folder for the files on their way.

    Raises:
        DataError: Predictions cannot be scored.
    """
    trial_id = trial.trial_id
    attempt = Attempt(
        trial_id=trial_id,
        attempt_id=f"{trial_id}-ingested{attempts}",
        state=trial.state,
        started_at=reported_at,
        finished_at=reported_at,
    )
    sets: list[SetMetrics] = []
    contradicted: list[str] = []
    artifacts: dict[str, Path] = {}
    kinds: set[str] = set()
    for name, file in trial.predictions.items():
        table = files.publishable(file.path, task=trial.axes["task"], set_name=name, trial_id=trial_id)
        path = write_predictions(table, staged, name)
        artifacts[f"{Artifact.PREDICTIONS}/{path.name}"] = path
        scores = score_file(path)
        sets.append(scores)
        contradicted += _contradicted(trial, scores, path)
        kinds.add(table.schema.metadata[b"kind"].decode())
    sets = [_with_reported(trial, name, sets) for name in dict.fromkeys([*trial.values, *trial.predictions])]
    tags = _tags(trial, attempt, study, primary, next(iter(kinds), None)) | set_tags(sets)
    points = [*_count_points(trial), *(Point(k, v) for s in sets for k, v in s.values.items())]
    params = texts(_coordinates(trial) | _amount(trial), MAX_PARAM)
    entry = Entry(attempt=attempt, tags=tags, params=params, points=tuple(points), files=artifacts)
    return entry, contradicted


def _contradicted(trial: ReportedTrial, scores: SetMetrics, path: Path) -> list[str]:
    """Values that the predictions do not give, macro averages over all classes included: others may leave none out."""
    reported = {metric_key(scores.name, m): v for m, v in trial.values.get(scores.name, {}).items()}
    differing = [key for key, value in reported.items() if _differ(value, scores.values.get(key))]
    if not differing:
        return []
    predictions = read_predictions(path)
    over_all = score(predictions, predictions.labels).values
    return [
        f"{trial.name}: {key} reported as {reported[key]:.4f}, the predictions give {scores.values[key]:.4f}"
        for key in differing
        if _differ(reported[key], over_all.get(key))
    ]


def _differ(reported: float, computed: float | None) -> bool:
    return computed is not None and math.isfinite(reported) and abs(reported - computed) > _LARGEST_GAP


def _with_reported(trial: ReportedTrial, name: str, scored: list[SetMetrics]) -> SetMetrics:
    """Metrics of one set: those of its predictions where there are any, then what else was reported."""
    own = next((s for s in scored if s.name == name), SetMetrics(name=name, values={}, undefined=()))
    reported = {metric_key(name, m): v for m, v in trial.values.get(name, {}).items()}
    others = {key: v for key, v in reported.items() if key not in own.values and key not in own.undefined}
    finite = {key: v for key, v in others.items() if math.isfinite(v)}
    missing = tuple(key for key in others if key not in finite)
    return SetMetrics(
        name=name, values={**own.values, **finite}, undefined=(*own.undefined, *missing), set_hash=own.set_hash
    )


def _coordinates(trial: ReportedTrial) -> dict[str, Any]:
    found: dict[str, Any] = {Tag.axis(axis): value for axis, value in trial.axes.items()}
    return found | {
        Tag.SEED: trial.seed.label,
        RecordTag.SEED_SUBSET: trial.seed.subset,
        RecordTag.SEED_INIT: trial.seed.init,
    }


def _amount(trial: ReportedTrial) -> dict[str, str]:
    return {"amount.kind": trial.amount.kind, "amount.value": f"{trial.amount.value:g}"}


def _tags(trial: ReportedTrial, attempt: Attempt, study: str, primary: str, kind: str | None) -> dict[str, str]:
    known = [file.truth.patients_known for file in trial.predictions.values()]
    failed = trial.state is State.FAILED
    tags: dict[str, Any] = {
        Tag.SCHEMA: SCHEMA_VERSION,
        Tag.STUDY: study,
        Tag.TRIAL_ID: attempt.trial_id,
        Tag.CELL_ID: trial.cell_id,
        Tag.ATTEMPT_ID: attempt.attempt_id,
        Tag.ROLE: Role.TARGET,
        Tag.STATE: trial.state,
        Tag.RUN_NAME: trial.name,
        RecordTag.KIND: kind,
        RecordTag.PRIMARY: primary,
        RecordTag.LADDER: trial.ladder or None,
        RecordTag.PATIENTS_KNOWN: all(known) if known else False,
        RecordTag.REPORTED: ",".join(trial.reported_sets) or None,
        Tag.FAILURE_CLASS: trial.failure if failed else None,
        Tag.FAILURE_MESSAGE: "reported as failed" if failed else None,
        "mlflow.source.type": "JOB",
        "mlflow.source.name": "scalecurves",
        "mlflow.user": user_name(),
    }
    return texts(tags | _coordinates(trial), MAX_TAG)


def _count_points(trial: ReportedTrial) -> list[Point]:
    names = {
        "n_images": RecordMetric.TRAIN_IMAGES,
        "n_patients": RecordMetric.TRAIN_PATIENTS,
        "parameters": RecordMetric.PARAMETERS,
        "gpu_seconds": RecordMetric.GPU_S,
    }
    return [Point(names[name], n) for name, n in trial.counts.items()]


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None
