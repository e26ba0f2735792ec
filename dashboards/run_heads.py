"""What says where trials stand: the few facts of every run that commands need, without its params and metrics.

MLflow's search gives all params, tags and metrics of each run: 38 s and 1.3 GiB for 10,000 runs in SQLite, where these
facts take half a second and 30 MB. So a SQLite file is asked directly, read-only, as long as its tables are those known
here; every other record is searched. Both see the same: nothing is remembered between two calls.
"""

from __future__ import annotations

import sqlite3
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from dashboards import tracking
from dashboards.tracking import RecordMetric, RecordTag
from search_spaces.exceptions import TrackingError
from search_spaces.names import Role, Tag

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

T = TypeVar("T")

PAGE = 500
"""Runs searched at once: with all they hold, 5000 of them take a gigabyte."""

_BUSY_S = 30.0
_SHORT = 64
_TAGS = (
    Tag.TRIAL_ID,
    Tag.ATTEMPT_ID,
    Tag.STATE,
    Tag.FAILURE_CLASS,
    Tag.FAILURE_MESSAGE,
    RecordTag.FAILED_STEP,
    RecordTag.SETS,
    RecordTag.environment("host"),
    Tag.ROLE,
    Tag.SCHEMA,
    RecordTag.SEARCH,
    RecordTag.SEARCH_NUMBER,
    RecordTag.TUNED,
)
_METRICS = (RecordMetric.TOTAL_S, RecordMetric.EARLIER_S, RecordMetric.VAL_BEST, RecordMetric.PARAMETERS)
_SET_HASHES = RecordTag.set_hash("")
_NEEDED = {
    "experiments": {"experiment_id", "name", "lifecycle_stage"},
    "runs": {
        *("run_uuid", "name", "status", "start_time", "end_time", "artifact_uri"),
        *("experiment_id", "lifecycle_stage"),
    },
    "tags": {"run_uuid", "key", "value"},
    "params": {"run_uuid", "key", "value"},
    "latest_metrics": {"run_uuid", "key", "value", "is_nan"},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunHead:
    """A run without its params and metrics.

    Attributes:
        run_id: MLflow's id.
        name: Its name.
        status: ``RUNNING``, ``FINISHED``, ``FAILED`` or ``KILLED``.
        start_ms: Start, Unix milliseconds.
        end_ms: End; None while it runs.
        artifact_uri: Where its files lie.
        tags: Of the tags, those that say what it is, how it ended, where it ran and what it was scored on.
        metrics: Of the metrics, seconds, size of the network and the validation value that selected.
    """

    run_id: str
    name: str
    status: str
    start_ms: int
    end_ms: int | None
    artifact_uri: str
    tags: Mapping[str, str]
    metrics: Mapping[str, float]

    @property
    def seconds(self) -> float | None:
        """Wall clock of the trial, attempts that it continued included; None if it was not recorded."""
        total = self.metrics.get(RecordMetric.TOTAL_S)
        return None if total is None else total + self.metrics.get(RecordMetric.EARLIER_S, 0.0)

    @classmethod
    def of(cls, run: Run) -> RunHead:
        """The same of what MLflow's search gives."""
        tags = run.data.tags
        return cls(
            run_id=run.info.run_id,
            name=run.info.run_name,
            status=run.info.status,
            start_ms=run.info.start_time,
            end_ms=run.info.end_time,
            artifact_uri=run.info.artifact_uri,
            tags={k: v for k, v in tags.items() if k in _TAGS or k.startswith(_SET_HASHES)},
            metrics={k: v for k, v in run.data.metrics.items() if k in _METRICS},
        )


def study_heads(uri: str, study: str) -> list[RunHead]:
    """Heads of all active runs of a study, earliest first (start time, then run id); none if it has no record.

    Args:
        uri: As ``tracking.resolve_tracking_uri`` gives it.
        study: Name of the study.

    Raises:
        TrackingError: MLflow cannot be reached.
        UserError: It refuses the caller.
        OtherSchemaError: The record was written by a version of scalecurves whose records look different.
    """
    file = tracking.sqlite_file(uri)
    if file is not None and not file.is_file():
        return []
    if file is not None and (heads := _from_sqlite(file, "name", study)) is not None:
        return _of_this_schema(heads, study)
    with tracking.tracking(uri):
        client = tracking.connect(uri)
        experiment = client.get_experiment_by_name(study)
        return [] if experiment is None else _of_this_schema(_searched(client, experiment.experiment_id), study)


def _of_this_schema(heads: list[RunHead], study: str) -> list[RunHead]:
    parent = next((head for head in heads if head.tags.get(Tag.ROLE) == Role.STUDY), None)
    if parent is not None:
        tracking.require_schema(parent.tags, study)
    return heads


def experiment_heads(client: MlflowClient, uri: str, experiment_id: str) -> list[RunHead]:
    """The same of an experiment whose id is known, over an open connection.

    Raises:
        MlflowException: MLflow cannot be reached (``tracking.tracking`` turns it into one of ours).
        TrackingError: The SQLite file cannot be read.
    """
    file = tracking.sqlite_file(uri)
    heads = _from_sqlite(file, "experiment_id", int(experiment_id)) if file is not None else None
    return _searched(client, experiment_id) if heads is None else heads


def _searched(client: MlflowClient, experiment_id: str) -> list[RunHead]:
    pages = tracking.search_pages(client, experiment_id, page=PAGE)
    return _sorted([RunHead.of(run) for page in pages for run in page])


def _sorted(heads: list[RunHead]) -> list[RunHead]:
    return sorted(heads, key=lambda head: (head.start_ms, head.run_id))


def _from_sqlite(file: Path, column: str, value: Any) -> list[RunHead] | None:
    return read_tables(file, column, value, _read)


def read_tables(
    file: Path, column: str, value: Any, read: Callable[[sqlite3.Connection, Any], list[T]]
) -> list[T] | None:
    """What is read of one experiment in a SQLite file, from one state of the record.

    Args:
        file: The database; never written.
        column: ``name`` or ``experiment_id``.
        value: Of the experiment.
        read: Gets an open connection and the experiment's id.

    Returns:
        None if the tables are not as known here, or not exactly one experiment fits.

    Raises:
        TrackingError: The file cannot be read.
    """
    try:
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=_BUSY_S)) as connection:
            if not _is_known(connection):
                return None
            query = f"select experiment_id from experiments where {column} = ? and lifecycle_stage = 'active'"
            found = connection.execute(query, (value,)).fetchall()
            if len(found) != 1:
                return None  # none, deleted, or one in several workspaces: MLflow says which
            connection.execute("begin")  # one state of the record for all that is read
            return read(connection, found[0][0])
    except sqlite3.Error as error:
        raise TrackingError(f"the record in {file} cannot be read: {error}") from error


def _is_known(connection: sqlite3.Connection) -> bool:
    def columns(table: str) -> set[str]:
        return {row[1] for row in connection.execute(f"pragma table_info({table})")}

    return all(needed <= columns(table) for table, needed in _NEEDED.items())


def _read(connection: sqlite3.Connection, experiment_id: Any) -> list[RunHead]:
    active = "r.experiment_id = ? and r.lifecycle_stage = 'active'"
    places = ", ".join("?" * len(_TAGS))
    tags: dict[str, dict[str, str]] = defaultdict(dict)
    wanted = f"t.key in ({places}) or substr(t.key, 1, {len(_SET_HASHES)}) = ?"
    rows = connection.execute(
        f"select t.run_uuid, t.key, t.value from tags t join runs r using (run_uuid) where {active} and ({wanted})",
        (experiment_id, *_TAGS, _SET_HASHES),
    )
    for run_id, key, text in rows:
        # Thousands of runs share their keys and most values.
        tags[run_id][sys.intern(key)] = sys.intern(text) if len(text) < _SHORT else text
    metrics: dict[str, dict[str, float]] = defaultdict(dict)
    rows = connection.execute(
        "select m.run_uuid, m.key, m.value from latest_metrics m join runs r using (run_uuid) "
        f"where {active} and m.key in ({', '.join('?' * len(_METRICS))}) and not m.is_nan",
        (experiment_id, *_METRICS),
    )
    for run_id, key, value in rows:
        metrics[run_id][sys.intern(key)] = value
    rows = connection.execute(
        "select r.run_uuid, r.name, r.status, r.start_time, r.end_time, r.artifact_uri from runs r "
        f"where {active} order by r.start_time, r.run_uuid",
        (experiment_id,),
    )
    return [
        RunHead(
            run_id=run_id,
            name=name,
            status=status,
            start_ms=start_ms,
            end_ms=end_ms,
            artifact_uri=artifact_uri,
            tags=tags[run_id],
            metrics=metrics[run_id],
        )
        for run_id, name, status, start_ms, end_ms, artifact_uri in rows
    ]
