"""Reading the record: results, predictions, failures and the study file of a study, from MLflow. Nothing is written
there; artifacts of a remote server are kept below ``<home>/cache/record`` and may be deleted at any time.

The results frame has one row per done trial. Its columns:

====================================================  ==================================================================
trial_id, cell_id, attempt_id, run_id, name           ids; ``name`` is the run's
role                                                  ``target``, ``upstream`` or ``search``
model_scale, pretraining_source, data_fraction, task  axis values as text (``0.05``, ``patients=9``)
seed, seed_subset, seed_init                          seed's label; the two seeds as integers
amount_kind, amount_value                             ``fraction``, ``images``, ``patients`` or ``per_class``
kind, primary, ladder, sets                           of the task; of the scale (None if none); names of evaluation sets
n_images, n_patients                                  labelled training images and patients
n_forced_patients, pool_images, pool_patients         patients beyond the prefix; the whole training set
n_positive.<label>                                    labelled training images with the label (of the class)
n_val_images, n_val_patients                          labelled images used for selection, and their patients
patients_known                                        whether the manifest knows patients
subset_hash, order_hash, manifest_hash                pairing keys
upstream_overlap, near_copies                         evaluation set -> what the plan knew of images on both sides
regime                                                small, medium or large where a recipe follows BiT-HyperRule
image_size                                            resize/crop in pixels where the protocol says or a rule gives them
parameters, backbone_parameters, steps                of the model; optimiser steps
best_step, best_value, still_rising                   selection on validation; still_rising is None if not known
seconds, setup_s, train_s, evaluate_s, samples_per_s  wall clock
started_at, host, device, ranks, commit               Unix seconds; where it ran
reported, gpu_seconds                                 sets of which only numbers are known; of others' results
undefined, artifact_uri                               metrics without a value; where the files lie
val_hash                                              what its validation images were; None without predictions of them
search_id, search_number, tuned                       search, proposal and its values (JSON) of tuned trials, else None
``<set>/<metric>[.<label>]``                          metrics (NaN where a trial lacks them), counts included
====================================================  ==================================================================
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import yaml

from dashboards import tracking
from dashboards.histories import History, read_history
from dashboards.prediction_sets import PredictionReader, PredictionSet
from dashboards.run_heads import study_heads
from dashboards.run_rows import RunRow, ended_runs
from dashboards.tracking import RecordArtifact, RecordMetric, RecordTag
from search_spaces.exceptions import TrackingError, UserError
from search_spaces.home import scalecurves_home
from search_spaces.ingested import IngestedStudy
from search_spaces.names import AXES, Artifact, Split, State, Tag
from search_spaces.study import Study

if TYPE_CHECKING:
    from mlflow import MlflowClient

_PARAMS = ("amount.kind", "amount.value")

_FROM_METRICS = {
    "n_images": RecordMetric.TRAIN_IMAGES,
    "n_patients": RecordMetric.TRAIN_PATIENTS,
    "n_forced_patients": RecordMetric.FORCED_PATIENTS,
    "pool_images": RecordMetric.POOL_IMAGES,
    "pool_patients": RecordMetric.POOL_PATIENTS,
    "n_val_images": RecordMetric.VAL_IMAGES,
    "n_val_patients": RecordMetric.VAL_PATIENTS,
    "parameters": RecordMetric.PARAMETERS,
    "backbone_parameters": RecordMetric.BACKBONE_PARAMETERS,
    "steps": RecordMetric.STEPS,
    "best_step": RecordMetric.VAL_BEST_STEP,
    "best_value": RecordMetric.VAL_BEST,
    "seconds": RecordMetric.TOTAL_S,
    "setup_s": RecordMetric.SETUP_S,
    "train_s": RecordMetric.TRAIN_S,
    "evaluate_s": RecordMetric.EVALUATE_S,
    "samples_per_s": RecordMetric.SAMPLES_PER_S,
    "gpu_seconds": RecordMetric.GPU_S,
}
_COUNTS = (
    *(name for name in _FROM_METRICS if name.startswith(("n_", "pool_"))),
    *("parameters", "backbone_parameters", "steps", "best_step"),
)


@dataclass(frozen=True, slots=True)
class _Source:
    """An open record of one study."""

    client: MlflowClient
    experiment_id: str
    uri: str


def load_results(study: str, tracking_uri: str | None = None) -> pd.DataFrame:
    """One row per done trial of a study; columns as in the module's docstring.

    Args:
        study: Name of the study.
        tracking_uri: ``MLFLOW_TRACKING_URI`` if not given, else the SQLite file in the home folder.

    Raises:
        UserError: No record of that name (the message lists those there are), or a URI that is not supported.
        TrackingError: MLflow cannot be reached.
    """
    uri = tracking.resolve_tracking_uri(tracking_uri)
    first: dict[str, RunRow] = {}
    for run in ended_runs(uri, study, "FINISHED", State.COMPLETE, _PARAMS):
        first.setdefault(run.tags[Tag.TRIAL_ID], run)
    frame = _frame([_row(run) for run in first.values()])
    frame.attrs |= {"study": study, "tracking_uri": uri}
    return frame


def load_failures(study: str, tracking_uri: str | None = None) -> pd.DataFrame:
    """One row per failed attempt, earliest first.

    Returns:
        Columns trial_id, cell_id, attempt_id, run_id, name, role, the axes, seed, search_id, failure_class, message,
        step (None if it failed before training), started_at, and ``done``: whether a later attempt made the trial
        complete.

    Raises:
        UserError: As ``load_results``.
        TrackingError: As ``load_results``.
    """
    uri = tracking.resolve_tracking_uri(tracking_uri)
    failed = ended_runs(uri, study, "FAILED", State.FAILED)
    ends = [h for h in study_heads(uri, study) if h.status == "FINISHED"] if failed else []
    done = {h.tags.get(Tag.TRIAL_ID) for h in ends if h.tags.get(Tag.STATE) == State.COMPLETE}
    rows = []
    for run in failed:
        tags = run.tags
        step = tags.get(RecordTag.FAILED_STEP)
        failure = {"failure_class": tags.get(Tag.FAILURE_CLASS), "message": tags.get(Tag.FAILURE_MESSAGE, "")}
        rows.append(
            {**_identity(run), **failure, "step": int(step) if step else None, "done": tags[Tag.TRIAL_ID] in done}
        )
    columns = [*_IDENTITY, "started_at", "search_id", "failure_class", "message", "step", "done"]
    return pd.DataFrame(rows, columns=columns)


def load_study(study: str, tracking_uri: str | None = None) -> Study:
    """The study file as last run, from the parent run.

    Raises:
        UserError: As ``load_results``; or the parent run holds no study file that this version can read, or what is
            known of others' study (``load_ingested``).
        TrackingError: As ``load_results``.
    """
    written = _study_file(study, tracking_uri)
    if "ingested" in written:
        raise UserError(f"the record of study {study!r} holds results of others: there is no study file")
    return Study.parse(written, f"study file of {study!r} in the record")


def load_ingested(study: str, tracking_uri: str | None = None) -> IngestedStudy | None:
    """What is known of others' study; None if the study was run here.

    Raises:
        UserError: As ``load_results``; or it was written by another version.
        TrackingError: As ``load_results``.
    """
    written = _study_file(study, tracking_uri)
    if "ingested" not in written:
        return None
    return IngestedStudy.parse(written, f"study file of {study!r} in the record")


def _study_file(study: str, tracking_uri: str | None) -> dict[str, Any]:
    source = _open(study, tracking_uri)
    with tracking.tracking(source.uri):
        parents = tracking.find_parents(source.client, source.experiment_id)
    if not parents:
        raise UserError(f"the record of study {study!r} at {tracking.hide_password(source.uri)} has no parent run")
    files = _Files(source.uri)
    with tempfile.TemporaryDirectory(prefix="scalecurves-study-") as fresh:
        path = files.path(parents[0].info.run_id, parents[0].info.artifact_uri, RecordArtifact.STUDY, Path(fresh))
        written = yaml.safe_load(path.read_text("utf-8"))
    if not isinstance(written, dict):
        raise UserError(f"the study file of {study!r} in the record is no mapping")
    return written


def load_report_table(study: str, name: str, tracking_uri: str | None = None) -> pd.DataFrame:
    """A table of the report that was attached to the study last; empty if there is none.

    Args:
        study: Name of the study.
        name: Such as ``contrasts``.
        tracking_uri: As ``load_results``.

    Raises:
        UserError: As ``load_results``.
        TrackingError: As ``load_results``.
    """
    source = _open(study, tracking_uri)
    with tracking.tracking(source.uri):
        parents = tracking.find_parents(source.client, source.experiment_id)
        folder = f"{RecordArtifact.REPORT}/tables"
        wanted = f"{folder}/{name}.parquet"
        found = {item.path for p in parents[:1] for item in source.client.list_artifacts(p.info.run_id, folder)}
    if wanted not in found:
        return pd.DataFrame()
    with tempfile.TemporaryDirectory(prefix="scalecurves-table-") as fresh:
        path = _Files(source.uri).path(parents[0].info.run_id, parents[0].info.artifact_uri, wanted, Path(fresh))
        return pd.read_parquet(path)


def load_predictions(
    study: str | pd.DataFrame,
    trial_ids: Collection[str] | None = None,
    sets: Collection[str] | None = None,
    tracking_uri: str | None = None,
) -> LazyPredictions:
    """Predictions of done trials, (trial_id, evaluation set) -> PredictionSet.

    Args:
        study: A study's name, or (rows of) the frame that ``load_results`` gave.
        trial_ids: Only these trials; all if not given.
        sets: Only these evaluation sets; all if not given. A trial without one of them is left out.
        tracking_uri: As ``load_results``; that of the frame if a frame is given.

    Raises:
        UserError: As ``load_results``; or a frame without the columns trial_id, run_id, artifact_uri and sets.
        TrackingError: MLflow cannot be reached.
    """
    results = study if isinstance(study, pd.DataFrame) else load_results(study, tracking_uri)
    uri = tracking.resolve_tracking_uri(tracking_uri or results.attrs.get("tracking_uri"))
    if missing := [c for c in ("trial_id", "run_id", "artifact_uri", "sets") if c not in results.columns]:
        raise UserError(f"load_predictions needs the frame of load_results; columns {missing} are missing")
    rows = results.to_dict("records")
    runs = {
        (row["trial_id"], name): _SetFile(
            run_id=row["run_id"], artifact_uri=row["artifact_uri"], version=(row.get("set_hashes") or {}).get(name, "")
        )
        for row in rows
        if trial_ids is None or row["trial_id"] in trial_ids
        for name in row["sets"]
        if (sets is None or name in sets) and name not in row.get("reported", ())
    }
    return LazyPredictions(runs, uri)


@dataclass(frozen=True, slots=True, kw_only=True)
class _SetFile:
    """Where predictions lie; ``version`` tells apart what a set was when they were made."""

    run_id: str
    artifact_uri: str
    version: str


class LazyPredictions(Mapping[tuple[str, str], PredictionSet]):
    """(trial_id, evaluation set) -> predictions, read when asked for and not kept; ``dict(...)`` keeps them.

    What trials of a task have in common (ids, truth, groups) is held once, so a whole study costs its logits.

    Raises:
        TrackingError: On access: MLflow cannot be reached, or the file is gone.
        DataError: On access: the file is not a predictions file.
    """

    def __init__(self, runs: Mapping[tuple[str, str], _SetFile], uri: str) -> None:
        self._runs = dict(runs)
        self._files = _Files(uri)
        self._reader = PredictionReader()

    def __getitem__(self, key: tuple[str, str]) -> PredictionSet:
        at = self._runs[key]
        name = f"{Artifact.PREDICTIONS}/{key[1]}.parquet"
        return self._reader.read(self._files.path(at.run_id, at.artifact_uri, name, version=at.version))

    def __contains__(self, key: object) -> bool:
        return key in self._runs  # that of Mapping would read the file

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._runs)

    def __len__(self) -> int:
        return len(self._runs)


def load_validation(results: pd.DataFrame, tracking_uri: str | None = None) -> LazyValidation:
    """Validation predictions of done trials at their selected steps, trial_id -> PredictionSet.

    Thresholds and temperatures are fitted on them, nothing is tested. Records of earlier versions have none.

    Args:
        results: (Rows of) the frame that ``load_results`` gave.
        tracking_uri: That of the frame if not given.

    Raises:
        UserError: A frame without the columns trial_id, run_id and artifact_uri.
    """
    rows = _rows_with_files(results, "load_validation")
    kept = [row for row in rows if isinstance(row.get("val_hash"), str)]
    runs = {
        (str(row["trial_id"]), str(Split.VAL)): _SetFile(
            run_id=row["run_id"], artifact_uri=row["artifact_uri"], version=row["val_hash"]
        )
        for row in kept
    }
    return LazyValidation(LazyPredictions(runs, _uri_of(results, tracking_uri)))


class LazyValidation(Mapping[str, PredictionSet]):
    """trial_id -> validation predictions, read when asked for and not kept. Errors as of ``LazyPredictions``."""

    def __init__(self, predictions: LazyPredictions) -> None:
        self._predictions = predictions

    def __getitem__(self, trial_id: str) -> PredictionSet:
        return self._predictions[trial_id, Split.VAL]

    def __contains__(self, trial_id: object) -> bool:
        return (trial_id, Split.VAL) in self._predictions

    def __iter__(self) -> Iterator[str]:
        return (trial_id for trial_id, _ in self._predictions)

    def __len__(self) -> int:
        return len(self._predictions)


def load_histories(results: pd.DataFrame, tracking_uri: str | None = None) -> LazyHistories:
    """Validation curves of done trials, trial_id -> History; of those that took optimiser steps.

    Args:
        results: (Rows of) the frame that ``load_results`` gave.
        tracking_uri: That of the frame if not given.

    Raises:
        UserError: A frame without the columns trial_id, run_id and artifact_uri.
    """
    rows = [row for row in _rows_with_files(results, "load_histories") if _has_curve(row)]
    runs = {str(row["trial_id"]): (str(row["run_id"]), str(row["artifact_uri"])) for row in rows}
    return LazyHistories(runs, _uri_of(results, tracking_uri))


def _has_curve(row: Mapping[str, Any]) -> bool:
    """A linear probe and kNN train in no steps."""
    steps = row.get("steps")
    return bool(pd.isna(steps)) or steps != 0


class LazyHistories(Mapping[str, History]):
    """trial_id -> validation curve, read when asked for and not kept.

    Raises:
        TrackingError: On access: MLflow cannot be reached, or the trial has no history.
        DataError: On access: the file is not a history.
    """

    def __init__(self, runs: Mapping[str, tuple[str, str]], uri: str) -> None:
        self._runs = dict(runs)
        self._files = _Files(uri)

    def __getitem__(self, trial_id: str) -> History:
        run_id, artifact_uri = self._runs[trial_id]
        return read_history(self._files.path(run_id, artifact_uri, Artifact.HISTORY))

    def __contains__(self, trial_id: object) -> bool:
        return trial_id in self._runs  # that of Mapping would read the file

    def __iter__(self) -> Iterator[str]:
        return iter(self._runs)

    def __len__(self) -> int:
        return len(self._runs)


def _rows_with_files(results: pd.DataFrame, what: str) -> list[dict[str, Any]]:
    if missing := [c for c in ("trial_id", "run_id", "artifact_uri") if c not in results.columns]:
        raise UserError(f"{what} needs the frame of load_results; columns {missing} are missing")
    return [{str(k): v for k, v in row.items()} for row in results.to_dict("records")]


def _uri_of(results: pd.DataFrame, tracking_uri: str | None) -> str:
    return tracking.resolve_tracking_uri(tracking_uri or results.attrs.get("tracking_uri"))


class _Files:
    """Artifacts as local paths: in place where the artifact store is local, else downloaded once."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._client: MlflowClient | None = None

    def path(self, run_id: str, artifact_uri: str, name: str, cache: Path | None = None, version: str = "") -> Path:
        """The local path of a run's artifact.

        Args:
            run_id: The run.
            artifact_uri: Where its artifacts lie.
            name: Path below that.
            cache: Where downloads go; the home's cache if not given.
            version: Another one is downloaded again.
        """
        folder = None if self._uri.startswith("http") else tracking.local_folder(artifact_uri)
        if folder is not None:
            if not (folder / name).is_file():
                raise TrackingError(f"{folder / name} is gone although the record at {self._uri} names it")
            return folder / name
        cached = (cache or scalecurves_home() / "cache" / "record") / run_id / version / name
        if not cached.is_file():
            self._download(run_id, name, cached)
        return cached

    def _download(self, run_id: str, name: str, target: Path) -> None:
        self._client = self._client or tracking.connect(self._uri)
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            with tracking.tracking(self._uri):
                got = self._client.download_artifacts(run_id, name, folder)
            Path(got).replace(target)


def _open(study: str, tracking_uri: str | None) -> _Source:
    uri = tracking.resolve_tracking_uri(tracking_uri)
    client = tracking.connect(uri)
    experiment = tracking.find_experiment(client, study, uri)
    return _Source(client, experiment.experiment_id, uri)


_IDENTITY = ("trial_id", "cell_id", "attempt_id", "run_id", "name", "role", *AXES, "seed", "seed_subset", "seed_init")
_COLUMNS = (
    *_IDENTITY,
    "started_at",
    *("amount_kind", "amount_value", "kind", "primary", "ladder", "sets", "set_hashes"),
    *_FROM_METRICS,
    *("patients_known", "subset_hash", "order_hash", "manifest_hash", "still_rising"),
    *("upstream_overlap", "near_copies", "regime", "image_size"),
    *("host", "device", "ranks", "commit", "reported", "undefined", "artifact_uri", "val_hash"),
    *("search_id", "search_number", "tuned"),
)


def _frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Fixed columns first, then metrics by name; counts are whole numbers with <NA>, flags True, False or None."""
    metrics = sorted({key for row in rows for key in row if "/" in key or key.startswith("n_positive.")})
    frame = pd.DataFrame(rows, columns=[*_COLUMNS, *metrics])
    frame[list(_COUNTS)] = frame[list(_COUNTS)].astype("Int64")
    frame[["still_rising", "patients_known"]] = frame[["still_rising", "patients_known"]].astype(object)
    for name in (*_FROM_METRICS, *metrics):
        if name not in _COUNTS:
            frame[name] = frame[name].astype(float)
    return frame


def _row(run: RunRow) -> dict[str, Any]:
    tags, params = run.tags, run.params
    sets, undefined = tracking.tag_list(tags, RecordTag.SETS), tracking.tag_list(tags, RecordTag.UNDEFINED)
    ranks = tags.get(RecordTag.environment("ranks"))
    return {
        **_identity(run),
        "amount_kind": params.get("amount.kind"),
        "amount_value": float(params.get("amount.value", "nan")),
        "kind": tags.get(RecordTag.KIND),
        "primary": tags.get(RecordTag.PRIMARY),
        "ladder": tags.get(RecordTag.LADDER),
        "sets": sets,
        "set_hashes": {name: tags.get(RecordTag.set_hash(name), "") for name in sets},
        **{column: run.metrics.get(key) for column, key in _FROM_METRICS.items()},
        **_positives(run.metrics),
        "patients_known": _flag(tags.get(RecordTag.PATIENTS_KNOWN)),
        "subset_hash": tags.get(Tag.SUBSET_HASH),
        "order_hash": tags.get(RecordTag.ORDER_HASH),
        "manifest_hash": tags.get(RecordTag.MANIFEST_HASH),
        "upstream_overlap": tracking.tag_mapping(tags, RecordTag.UPSTREAM_OVERLAP),
        "regime": tags.get(RecordTag.REGIME),
        "image_size": tags.get(RecordTag.IMAGE_SIZE),
        "near_copies": tracking.tag_mapping(tags, RecordTag.NEAR_COPIES),
        "still_rising": _flag(tags.get(RecordTag.STILL_RISING)),
        "host": tags.get(RecordTag.environment("host")),
        "device": tags.get(RecordTag.environment("device")),
        "ranks": int(ranks) if ranks else None,
        "commit": tags.get(RecordTag.environment("commit")),
        "reported": tracking.tag_list(tags, RecordTag.REPORTED),
        "undefined": undefined,
        "artifact_uri": run.artifact_uri,
        "val_hash": tags.get(RecordTag.VALIDATION_HASH),
        "search_number": int(number) if (number := tags.get(RecordTag.SEARCH_NUMBER)) else None,
        "tuned": tags.get(RecordTag.TUNED),
        **{k: v for k, v in run.metrics.items() if k.split("/", 1)[0] in sets and k not in undefined},
    }


def _positives(metrics: Mapping[str, float]) -> dict[str, float]:
    prefix = RecordMetric.POSITIVES_PREFIX
    return {f"n_positive.{key.removeprefix(prefix)}": n for key, n in metrics.items() if key.startswith(prefix)}


def _identity(run: RunRow) -> dict[str, Any]:
    tags = run.tags
    return {
        "trial_id": tags[Tag.TRIAL_ID],
        "cell_id": tags.get(Tag.CELL_ID),
        "attempt_id": tags.get(Tag.ATTEMPT_ID),
        "run_id": run.run_id,
        "name": run.name,
        "role": tags.get(Tag.ROLE),
        **{axis: tags.get(Tag.axis(axis)) for axis in AXES},
        "seed": tags.get(Tag.SEED),
        "seed_subset": int(tags.get(RecordTag.SEED_SUBSET, -1)),
        "seed_init": int(tags.get(RecordTag.SEED_INIT, -1)),
        "started_at": run.start_ms / 1000,
        "search_id": tags.get(RecordTag.SEARCH),
    }


def _flag(text: str | None) -> bool | None:
    return None if text is None else text == "true"
