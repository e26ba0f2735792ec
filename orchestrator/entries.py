"""From one attempt's folder to what its MLflow run says: tags, params, metrics and files. Nothing here touches MLflow.

All is a function of the folder, timestamps included, so that a second delivery writes the same rows.
"""

from __future__ import annotations

import getpass
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from dashboards.prediction_sets import recorded_hash
from dashboards.tracking import UNKNOWN_HASH, RecordMetric, RecordTag, metric_key
from orchestrator.metrics import SetMetrics, score_folder
from orchestrator.redact import public_result, redact_json, redact_text
from search_spaces.exceptions import DataError
from search_spaces.hyperrule import regime_of
from search_spaces.names import SCHEMA_VERSION, Artifact, Role, Split, State, Tag
from search_spaces.results import TrialResult
from search_spaces.tuning import Proposal

MAX_CURVE_POINTS = 50
"""Points per curve in MLflow; history.parquet has all."""

MAX_TAG = 4000
MAX_PARAM = 500
"""Most characters of a tag and of a param."""


@dataclass(frozen=True, slots=True)
class Point:
    """One value of a metric.

    Attributes:
        key: Name.
        value: Finite.
        step: Optimiser step for curves, else 0.
    """

    key: str
    value: float
    step: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """What the record must know of an attempt to write it once.

    Attributes:
        trial_id: The trial.
        attempt_id: This try at it.
        state: complete or failed.
        started_at: Unix seconds.
        finished_at: Unix seconds.
    """

    trial_id: str
    attempt_id: str
    state: State
    started_at: float
    finished_at: float

    @classmethod
    def of(cls, result: TrialResult) -> Attempt:
        """The attempt of a ``trial.json``."""
        return cls(
            trial_id=result.trial.trial_id,
            attempt_id=result.trial.attempt_id,
            state=result.state,
            started_at=result.started_at,
            finished_at=result.finished_at,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One attempt, ready for MLflow.

    Attributes:
        attempt: Which one it is.
        tags: All tags, the state included.
        params: All params.
        points: All metric values.
        texts: Artifact path -> content, for files that are changed on the way.
        files: Artifact path -> file, for files that go as they are.
    """

    attempt: Attempt
    tags: dict[str, str]
    params: dict[str, str]
    points: tuple[Point, ...]
    texts: dict[str, str] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)

    @property
    def started_ms(self) -> int:
        """Start of the attempt, Unix milliseconds; timestamps of metrics are this plus their step."""
        return round(self.attempt.started_at * 1000)

    @property
    def finished_ms(self) -> int:
        """End of the attempt, Unix milliseconds."""
        return round(self.attempt.finished_at * 1000)


def read_entry(folder: Path) -> Entry:
    """The entry of a finished or failed attempt.

    Args:
        folder: Holds ``trial.json`` and, if complete, receipt, history and predictions.

    Raises:
        DataError: ``trial.json``, the history or a predictions file cannot be read.
    """
    result = read_result(folder / Artifact.TRIAL)
    if result.state is not State.COMPLETE:
        return failed_entry(result)
    sets = score_folder(folder / Artifact.PREDICTIONS)
    texts = {Artifact.TRIAL: _json(public_result(result))}
    if (folder / Artifact.RECEIPT).is_file():
        texts[Artifact.RECEIPT] = _json(redact_json(json.loads((folder / Artifact.RECEIPT).read_text("utf-8"))))
    predictions = sorted((folder / Artifact.PREDICTIONS).glob("*.parquet"))
    files = {f"{Artifact.PREDICTIONS}/{path.name}": path for path in predictions}
    curves: list[Point] = []
    if (folder / Artifact.HISTORY).is_file():
        files[Artifact.HISTORY] = folder / Artifact.HISTORY
        curves = _curves(folder / Artifact.HISTORY, result)
    return Entry(
        attempt=Attempt.of(result),
        tags=_tags(result) | set_tags(sets) | _validation_tags(files),
        params=_params(result),
        points=(*curves, *_summaries(result), *(Point(k, v) for s in sets for k, v in s.values.items())),
        texts=texts,
        files=files,
    )


def failed_entry(result: TrialResult) -> Entry:
    """The entry of a failed attempt, from its result alone."""
    return Entry(
        attempt=Attempt.of(result),
        tags=_tags(result),
        params=_params(result),
        points=tuple(_summaries(result)),
        texts={Artifact.TRIAL: _json(public_result(result))},
    )


def read_result(path: Path) -> TrialResult:
    """A ``trial.json``.

    Raises:
        DataError: It is missing or not one.
    """
    try:
        return TrialResult.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise DataError(f"{path} is not a trial's result: {error}") from error


def run_name(result: TrialResult) -> str:
    """Short text such as ``resnet20 · natural · 0.05 · ham10000 · s0``; a search trial adds its ``proposal 7``."""
    trial = result.trial
    seed = trial.seed.label
    tried = [f"proposal {trial.search.number}"] if trial.search and trial.role is Role.SEARCH else []
    return " · ".join([*trial.axes.values(), seed if seed.startswith("s") else f"s{seed}", *tried])


def _tags(result: TrialResult) -> dict[str, str]:
    trial, task = result.trial, result.trial.task
    tags: dict[str, Any] = {
        Tag.SCHEMA: SCHEMA_VERSION,
        Tag.STUDY: trial.study,
        Tag.TRIAL_ID: trial.trial_id,
        Tag.CELL_ID: trial.cell_id,
        Tag.ATTEMPT_ID: trial.attempt_id,
        Tag.ROLE: trial.role,
        Tag.STATE: result.state,
        Tag.SEED: trial.seed.label,
        RecordTag.SEED_SUBSET: trial.seed.subset,
        RecordTag.SEED_INIT: trial.seed.init,
        Tag.RUN_NAME: run_name(result),
        RecordTag.KIND: task.kind,
        RecordTag.PRIMARY: task.primary,
        RecordTag.MANIFEST_HASH: task.manifest_hash,
        RecordTag.LADDER: trial.scale.ladder,
        RecordTag.STILL_RISING: result.still_rising,
        "mlflow.source.type": "JOB",
        "mlflow.source.name": "scalecurves",
        "mlflow.user": user_name(),
    }
    tags |= {Tag.axis(axis): value for axis, value in trial.axes.items()}
    if result.subset is not None:
        tags[Tag.SUBSET_HASH] = result.subset.subset_hash
        tags[RecordTag.ORDER_HASH] = result.subset.order_hash
        tags[RecordTag.PATIENTS_KNOWN] = result.subset.patients_known
        if trial.protocol.follows_hyperrule:
            tags[RecordTag.REGIME] = regime_of(result.subset.images).name
    if not isinstance(trial.protocol.image_size, str):
        tags[RecordTag.IMAGE_SIZE] = "{}/{}".format(*trial.protocol.image_size)
    if trial.leakage is not None:
        tags[RecordTag.UPSTREAM_OVERLAP] = _json_line(trial.leakage.upstream_overlap)
        tags[RecordTag.NEAR_COPIES] = _json_line(trial.leakage.near_copies)
    return texts(tags | _search_tags(result) | _environment_tags(result) | _failure_tags(result), MAX_TAG)


def _json_line(facts: Mapping[str, Any]) -> str:
    return json.dumps(facts, separators=(",", ":"), sort_keys=True)


def _search_tags(result: TrialResult) -> dict[str, Any]:
    search = result.trial.search
    if search is None:
        return {}
    return {
        RecordTag.SEARCH: search.search_id,
        RecordTag.SEARCH_NUMBER: search.number,
        RecordTag.TUNED: Proposal.of(search.number, search.values).text,
    }


def _environment_tags(result: TrialResult) -> dict[str, Any]:
    where = result.environment
    if where is None:
        return {}
    facts = {"host": where.host, "device": where.device, "ranks": where.ranks, "commit": where.commit, **where.versions}
    commit = {"mlflow.source.git.commit": where.commit.rstrip("+")} if where.commit else {}
    return {RecordTag.environment(name): value for name, value in facts.items()} | commit


def _failure_tags(result: TrialResult) -> dict[str, Any]:
    failure = result.failure
    if failure is None:
        return {}
    message = redact_text(failure.public_message)
    return {
        Tag.FAILURE_CLASS: failure.failure_class,
        Tag.FAILURE_MESSAGE: message,
        Tag.NOTE: f"**{failure.failure_class}** failure\n\n{message}",
        RecordTag.FAILED_STEP: failure.step,
    }


def set_tags(sets: Sequence[SetMetrics]) -> dict[str, str]:
    """The tags that say what a trial was scored on."""
    names = {RecordTag.SETS: ",".join(s.name for s in sets)}
    names |= {RecordTag.set_hash(s.name): s.set_hash for s in sets if s.set_hash}
    undefined = [key for s in sets for key in s.undefined]
    return names | ({RecordTag.UNDEFINED: ",".join(undefined)[:MAX_TAG]} if undefined else {})


def _validation_tags(files: Mapping[str, Path]) -> dict[str, str]:
    """Says that validation predictions are there, and of what; older records have none."""
    path = files.get(f"{Artifact.PREDICTIONS}/{Split.VAL}.parquet")
    return {} if path is None else {RecordTag.VALIDATION_HASH: recorded_hash(path) or UNKNOWN_HASH}


def _params(result: TrialResult) -> dict[str, str]:
    trial = result.trial
    params: dict[str, Any] = {Tag.axis(axis): value for axis, value in trial.axes.items()}
    params |= {Tag.SEED: trial.seed.label, RecordTag.SEED_SUBSET: trial.seed.subset}
    params |= {RecordTag.SEED_INIT: trial.seed.init, "amount.kind": trial.amount.kind}
    params |= {"amount.value": f"{trial.amount.value:g}", "scale.factory": trial.scale.factory}
    params |= {"scale.input_size": trial.scale.input_size, "source.content": trial.source.content}
    params |= {"scale.gflops": trial.scale.gflops}
    params |= {"task.manifest": trial.task.manifest, "task.kind": trial.task.kind}
    params |= dict(_flat("protocol", trial.protocol.model_dump(mode="json")))
    return texts(params, MAX_PARAM)


def _flat(prefix: str, value: Any) -> Iterable[tuple[str, Any]]:
    """Nested mappings as dotted names; None stays out, a list is one value."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flat(f"{prefix}.{key}", item)
    elif isinstance(value, list):
        yield prefix, ", ".join(f"{item:g}" if isinstance(item, float) else str(item) for item in value)
    else:
        yield prefix, value


def texts(values: Mapping[str, Any], longest: int) -> dict[str, str]:
    """Values as text, without those that are None; booleans as JSON writes them."""
    return {
        key: (str(value).lower() if isinstance(value, bool) else str(value))[:longest]
        for key, value in values.items()
        if value is not None
    }


def _summaries(result: TrialResult) -> list[Point]:
    subset, timing = result.subset, result.timing
    values: dict[str, float | None] = {
        RecordMetric.PARAMETERS: result.parameters,
        RecordMetric.BACKBONE_PARAMETERS: result.backbone_parameters,
        RecordMetric.STEPS: result.steps,
        RecordMetric.VAL_BEST: result.best_value,
        RecordMetric.VAL_BEST_STEP: result.best_step,
    }
    if subset is not None:
        values |= {
            RecordMetric.TRAIN_IMAGES: subset.images,
            RecordMetric.TRAIN_PATIENTS: subset.patients,
            RecordMetric.FORCED_PATIENTS: subset.forced_patients,
            RecordMetric.POOL_IMAGES: subset.pool_images,
            RecordMetric.POOL_PATIENTS: subset.pool_patients,
            RecordMetric.VAL_IMAGES: subset.val_images,
            RecordMetric.VAL_PATIENTS: subset.val_patients,
        }
        for name, by_label in (("positives", subset.positives), ("negatives", subset.negatives)):
            values |= {metric_key("data", f"{name}.{label}"): count for label, count in by_label.items()}
    if timing is not None:
        values |= {
            RecordMetric.TOTAL_S: timing.total_s,
            RecordMetric.SETUP_S: timing.setup_s,
            RecordMetric.TRAIN_S: timing.train_s,
            RecordMetric.EVALUATE_S: timing.evaluate_s,
            RecordMetric.SAMPLES_PER_S: timing.samples_per_s,
            RecordMetric.EARLIER_S: timing.earlier_s,
            RecordMetric.LOAD_S: timing.load_s,
            RecordMetric.FORWARD_S: timing.forward_s,
            RecordMetric.BACKWARD_S: timing.backward_s,
            RecordMetric.UPDATE_S: timing.update_s,
            RecordMetric.WAIT_S: timing.wait_s,
            RecordMetric.UTILISATION: timing.utilisation,
            RecordMetric.MEMORY_MIB: timing.memory_bytes / 2**20,
        }
    return [Point(key, float(v)) for key, v in values.items() if v is not None and math.isfinite(v)]


def _curves(path: Path, result: TrialResult) -> list[Point]:
    """Training loss and the validation metric against the optimiser step, thinned."""
    try:
        table = pq.read_table(path)
        steps = [int(step) for step in table["step"].to_pylist()]
        columns = {RecordMetric.LOSS: "loss", metric_key("val", result.trial.task.primary): "val"}
        curves = {key: table[name].to_pylist() for key, name in columns.items()}
    except (pa.ArrowInvalid, OSError, KeyError, TypeError) as error:
        raise DataError(f"{path.name} is not a history with the columns step, loss and val: {error}") from error
    points = []
    for key, values in curves.items():
        known = [Point(key, float(v), s) for s, v in zip(steps, values, strict=True) if v is not None]
        points.extend(thin([p for p in known if math.isfinite(p.value)], result.best_step))
    return points


def thin(points: Sequence[Point], best_step: int | None, most: int = MAX_CURVE_POINTS) -> list[Point]:
    """At most ``most`` of the points (at least 3), evenly spaced, the first, last and that at ``best_step`` kept."""
    if len(points) <= most:
        return list(points)
    last = len(points) - 1
    kept = {round(k * last / (most - 2)) for k in range(most - 1)}
    kept |= {next((k for k, point in enumerate(points) if point.step == best_step), last)}
    return [points[k] for k in sorted(kept)]


def _json(value: Any) -> str:
    return json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity; they become null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def user_name() -> str:
    """Who writes the record."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no account of that number, as in many containers
        return "unknown"
