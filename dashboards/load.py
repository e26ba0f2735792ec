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
n_negative.<label>                                    those that are known not to have it (of other classes)
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
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import yaml

from dashboards import tracking
from dashboards.record_files import LazyHistories, LazyPredictions, LazyValidation, RecordFiles, SetFile
from dashboards.result_rows import IDENTITY, PARAMS, identity_of, result_row, results_frame
from dashboards.run_heads import study_heads
from dashboards.run_rows import RunRow, ended_runs
from dashboards.tracking import RecordArtifact, RecordTag
from search_spaces.exceptions import UserError
from search_spaces.ingested import IngestedStudy
from search_spaces.names import Split, State, Tag
from search_spaces.study import Study
from search_spaces.uris import hide_password

if TYPE_CHECKING:
    from mlflow import MlflowClient


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
    for run in ended_runs(uri, study, "FINISHED", State.COMPLETE, PARAMS):
        first.setdefault(run.tags[Tag.TRIAL_ID], run)
    frame = results_frame([result_row(run) for run in first.values()])
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
            {**identity_of(run), **failure, "step": int(step) if step else None, "done": tags[Tag.TRIAL_ID] in done}
        )
    columns = [*IDENTITY, "started_at", "search_id", "failure_class", "message", "step", "done"]
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
        raise UserError(f"the record of study {study!r} at {hide_password(source.uri)} has no parent run")
    files = RecordFiles(source.uri)
    with tempfile.TemporaryDirectory(prefix="scalecurves-study-") as fresh:
        path = files.path(parents[0].info.run_id, parents[0].info.artifact_uri, RecordArtifact.STUDY, Path(fresh))
        try:
            written = yaml.safe_load(path.read_text("utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise UserError(f"the study file of {study!r} in the record cannot be read: {error}") from error
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
        path = RecordFiles(source.uri).path(parents[0].info.run_id, parents[0].info.artifact_uri, wanted, Path(fresh))
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
        (row["trial_id"], name): SetFile(
            run_id=row["run_id"], artifact_uri=row["artifact_uri"], version=(row.get("set_hashes") or {}).get(name, "")
        )
        for row in rows
        if trial_ids is None or row["trial_id"] in trial_ids
        for name in row["sets"]
        if (sets is None or name in sets) and name not in row.get("reported", ())
    }
    return LazyPredictions(runs, uri)


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
        (str(row["trial_id"]), str(Split.VAL)): SetFile(
            run_id=row["run_id"], artifact_uri=row["artifact_uri"], version=row["val_hash"]
        )
        for row in kept
    }
    return LazyValidation(LazyPredictions(runs, _uri_of(results, tracking_uri)))


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


def _rows_with_files(results: pd.DataFrame, what: str) -> list[dict[str, Any]]:
    if missing := [c for c in ("trial_id", "run_id", "artifact_uri") if c not in results.columns]:
        raise UserError(f"{what} needs the frame of load_results; columns {missing} are missing")
    return [{str(k): v for k, v in row.items()} for row in results.to_dict("records")]


def _uri_of(results: pd.DataFrame, tracking_uri: str | None) -> str:
    return tracking.resolve_tracking_uri(tracking_uri or results.attrs.get("tracking_uri"))


def _open(study: str, tracking_uri: str | None) -> _Source:
    uri = tracking.resolve_tracking_uri(tracking_uri)
    client = tracking.connect(uri)
    experiment = tracking.find_experiment(client, study, uri)
    return _Source(client, experiment.experiment_id, uri)
