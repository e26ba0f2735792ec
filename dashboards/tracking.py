"""Where the record lies and how to reach it: the tracking URI, the MLflow client, the names inside a run.

The orchestrator writes with these names and ``dashboards.load`` reads with them; both connect through ``connect``.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlparse

from search_spaces.exceptions import OtherSchemaError, TrackingError, UserError, unknown
from search_spaces.home import scalecurves_home
from search_spaces.names import SCHEMA_VERSION, Role, Tag
from search_spaces.refusals import refusal_advice
from search_spaces.uris import hide_password

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

PAGE = 5000
"""Runs asked for at once; MLflow allows up to 50,000."""

UNKNOWN_HASH = "unknown"
"""Stands for a set whose predictions file does not say what it was."""

_ALLOWED = "sqlite:///path/to/mlflow.db, http(s)://server:port, postgresql://... or mysql://..."
_NOT_IN_KEYS = re.compile(r"[^\w .:-]")
_DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
_UNAVAILABLE = frozenset(
    {"TEMPORARILY_UNAVAILABLE", "INTERNAL_ERROR", "DEADLINE_EXCEEDED", "REQUEST_LIMIT_EXCEEDED", "RESOURCE_EXHAUSTED"}
    | {"ABORTED", "CANCELLED"}
)
_FORBIDDEN = frozenset({"PERMISSION_DENIED", "UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED"})


class RecordTag:
    """Tags of a trial's run beyond those of search_spaces.names.Tag."""

    ORDER_HASH = "sc.order_hash"
    SEED_SUBSET = "seed.subset"
    SEED_INIT = "seed.init"
    KIND = "sc.kind"
    PRIMARY = "sc.primary"
    LADDER = "sc.ladder"
    STILL_RISING = "sc.still_rising"
    SETS = "sc.sets"
    """Names of the evaluation sets, comma-separated."""
    UNDEFINED = "sc.undefined"
    """Metrics without a value (such as an AUC of one class), comma-separated; they are not logged."""
    FAILED_STEP = "sc.failed_step"
    PATIENTS_KNOWN = "sc.patients_known"
    UPSTREAM_OVERLAP = "sc.upstream_overlap"
    """JSON: evaluation set -> whether the source was trained on its images: no, possible, yes; null if not known."""
    NEAR_COPIES = "sc.near_copies"
    REGIME = "sc.regime"
    IMAGE_SIZE = "sc.image_size"
    """JSON: evaluation set -> images with a near copy in training or validation; null if nobody looked."""
    MANIFEST_HASH = "sc.manifest_hash"
    SEARCH = "sc.search"
    """Id of the search that a search trial belongs to, or that a final trial has its values from."""
    SEARCH_NUMBER = "sc.search_number"
    """Number of the proposal."""
    TUNED = "sc.tuned"
    """Its values: protocol field -> value, as JSON."""
    REPORTED = "sc.reported"
    """Of those sets, the ones whose metrics were taken from a table, without predictions; comma-separated."""
    ORIGIN = "sc.origin"
    """Of a parent run: ``INGESTED`` if its trials are others' results; absent if they were run here."""
    INGESTED = "ingested"
    VALIDATION_HASH = "sc.val_hash"
    """What the validation images were; only of runs that have predictions of them."""
    HEADLINE_PREFIX = "report."

    @staticmethod
    def set_hash(name: str) -> str:
        """The tag that says what an evaluation set was when the trial was scored on it."""
        return metric_key("sc.set_hash", name)

    @staticmethod
    def environment(name: str) -> str:
        """The tag of one fact about where an attempt ran (``device``, ``host``, ``commit``, ``ranks``, a package)."""
        return f"env.{name}"


class RecordMetric:
    """Metrics of a trial's run that are not ``<evaluation set>/<metric>``."""

    LOSS = "train/loss"
    VAL_BEST = "val/best"
    VAL_BEST_STEP = "val/best_step"
    TRAIN_IMAGES = "data/train_images"
    TRAIN_PATIENTS = "data/train_patients"
    FORCED_PATIENTS = "data/forced_patients"
    POOL_IMAGES = "data/pool_images"
    POOL_PATIENTS = "data/pool_patients"
    VAL_IMAGES = "data/val_images"
    VAL_PATIENTS = "data/val_patients"
    POSITIVES_PREFIX = "data/positives."
    NEGATIVES_PREFIX = "data/negatives."
    PARAMETERS = "sys/parameters"
    BACKBONE_PARAMETERS = "sys/backbone_parameters"
    SAMPLES_PER_S = "sys/samples_per_s"
    UTILISATION = "sys/utilisation"
    MEMORY_MIB = "sys/memory_mib"
    EARLIER_S = "time/earlier_s"
    GPU_S = "time/gpu_s"
    """GPU-seconds as others reported them."""
    LOAD_S = "time/load_s"
    FORWARD_S = "time/forward_s"
    BACKWARD_S = "time/backward_s"
    UPDATE_S = "time/update_s"
    WAIT_S = "time/wait_s"
    TOTAL_S = "time/total_s"
    SETUP_S = "time/setup_s"
    TRAIN_S = "time/train_s"
    EVALUATE_S = "time/evaluate_s"
    STEPS = "time/steps"


class RecordArtifact:
    """Artifact paths of the parent run."""

    STUDY = "study/study.yaml"
    STUDY_VERSIONS = "study/versions"
    PLAN = "plan.json"
    REPORT = "report"
    READS = "reads"
    """Folder; one file per report that read test results, only ever added to."""
    DATA = "data"
    """Folder of data cards, ``<task>.json`` and ``<task>.md``."""


def resolve_tracking_uri(given: str | None = None, home: Path | None = None) -> str:
    """The MLflow tracking URI to use, absolute.

    Args:
        given: The argument; else ``MLFLOW_TRACKING_URI``, else ``sqlite:///<home>/mlflow.db``.
        home: ``SCALECURVES_HOME`` if not given.

    Raises:
        UserError: A folder or ``file:`` URI (MLflow no longer writes those), or a scheme that is not supported.
    """
    default = f"sqlite:///{(home or scalecurves_home()) / 'mlflow.db'}"
    uri = given or os.environ.get("MLFLOW_TRACKING_URI") or default
    scheme = uri.split("://", 1)[0].split("+", 1)[0] if "://" in uri else ""
    if scheme == "sqlite":
        return _absolute_sqlite(uri)
    if scheme in ("http", "https", *_DATABASES):
        return uri
    suffix = uri.removeprefix("file://").removeprefix("file:")
    hint = f" For a file on this machine write sqlite:///{Path(suffix).absolute() / 'mlflow.db'}" if suffix else ""
    raise UserError(f"tracking URI {uri!r} is not supported by MLflow 3.13 and later; use {_ALLOWED}.{hint}")


def _absolute_sqlite(uri: str) -> str:
    head, _, query = uri.partition("?")
    driver, _, path = head.partition(":///")
    if not path or path == ":memory:":
        raise UserError(f"tracking URI {uri!r}: the record needs a file; use sqlite:///path/to/mlflow.db")
    return f"{driver}:///{Path(path).expanduser().absolute()}" + (f"?{query}" if query else "")


def sqlite_file(uri: str) -> Path | None:
    """The database file of a SQLite tracking URI; None for every other."""
    if not uri.startswith("sqlite"):
        return None
    return Path(uri.partition(":///")[2].partition("?")[0])


def artifact_root(uri: str, study: str) -> str | None:
    """Where a new study's artifacts go: beside a SQLite file, under the home for other databases, else the server's."""
    if uri.startswith("http"):
        return None
    database = sqlite_file(uri)
    return str((database.parent if database else scalecurves_home()) / "mlartifacts" / study)


def connect(uri: str, *, create: bool = False) -> MlflowClient:
    """An MLflow client without telemetry, printed URLs and progress bars, on an initialised database.

    Args:
        uri: As ``resolve_tracking_uri`` returns it.
        create: Create and initialise a SQLite file that is not there (some seconds; safe with several processes).

    Raises:
        UserError: No such SQLite file and ``create`` is False.
        TrackingError: The database or server cannot be reached.
    """
    for name in ("MLFLOW_DISABLE_TELEMETRY", "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"):
        os.environ.setdefault(name, "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # MLflow's own seven retries of two minutes would hold the writer for a quarter of an hour per call.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    database = sqlite_file(uri)
    if database is not None and not create and not database.is_file():
        raise UserError(f"no record at {uri}: {database} does not exist; run a study first or give --tracking-uri")
    from mlflow import MlflowClient

    if database is None:
        return MlflowClient(uri)
    from filelock import FileLock

    database.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(database.parent, os.W_OK):
        with _quiet(), tracking(uri):
            return MlflowClient(uri)
    with FileLock(f"{database}.lock"), _quiet(), tracking(uri):
        return MlflowClient(uri)


@contextmanager
def _quiet() -> Iterator[None]:
    """No alembic chatter while a schema is created; warnings still show."""
    loggers = [logging.getLogger(name) for name in ("alembic", "mlflow.store.db.utils")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def tracking(uri: str) -> Iterator[None]:
    """Turn MLflow's and the network's errors into ours.

    Raises:
        TrackingError: The server, database or artifact store is away or overloaded; trying again may help.
        UserError: It refuses the caller.
    """
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code in _UNAVAILABLE:
            raise TrackingError(hide_password(f"MLflow at {uri} cannot be reached: {error}")) from error
        if error.error_code in _FORBIDDEN:
            said = f"MLflow at {uri} refuses access ({error.error_code}): {error}"
            raise UserError(f"{hide_password(said)}; {refusal_advice(said)}") from error
        raise
    except OSError as error:
        raise TrackingError(hide_password(f"MLflow at {uri} cannot be reached: {error}")) from error


def search_all(client: MlflowClient, experiment_id: str, filter_string: str = "") -> list[Run]:
    """All active runs of an experiment that match, earliest first (start time, then run id)."""
    runs = [run for page in search_pages(client, experiment_id, filter_string) for run in page]
    return sorted(runs, key=lambda run: (run.info.start_time, run.info.run_id))


def search_pages(
    client: MlflowClient, experiment_id: str, filter_string: str = "", page: int = PAGE
) -> Iterator[list[Run]]:
    """The same in pages of so many runs, in MLflow's order."""
    token = None
    while True:
        found = client.search_runs([experiment_id], filter_string, max_results=page, page_token=token)
        yield list(found)
        token = found.token
        if not token:
            return


def find_parents(client: MlflowClient, experiment_id: str) -> list[Run]:
    """The parent runs of a study, earliest first; the first one counts.

    Raises:
        OtherSchemaError: The record was written by a version of scalecurves whose records look different.
    """
    parents = search_all(client, experiment_id, f"tags.`{Tag.ROLE}` = '{Role.STUDY}'")
    for parent in parents[:1]:
        require_schema(parent.data.tags, parent.data.tags.get(Tag.STUDY, ""))
    return parents


def require_schema(parent_tags: Mapping[str, str], study: str) -> None:
    """Refuse a record that this version can neither read nor write.

    Args:
        parent_tags: Of the earliest parent run of the study.
        study: Its name, for the message.

    Raises:
        OtherSchemaError: It has another schema, or none.
    """
    written = parent_tags.get(Tag.SCHEMA, "none")
    if written != str(SCHEMA_VERSION):
        raise OtherSchemaError(
            f"the record of study {study!r} has schema {written}, this version reads and "
            f"writes schema {SCHEMA_VERSION}: use the version that wrote it (CHANGELOG.md), or give the study another "
            "name"
        )


def find_experiment(client: MlflowClient, study: str, uri: str) -> Any:
    """The MLflow experiment of a study.

    Raises:
        UserError: There is none; the message names those that exist.
        TrackingError: MLflow is away.
    """
    with tracking(uri):
        experiment = client.get_experiment_by_name(study)
        if experiment is not None and experiment.lifecycle_stage == "active":
            return experiment
        names = sorted(e.name for e in client.search_experiments() if e.name != "Default")
    raise UserError(unknown("study", study, names, f"the record at {hide_password(uri)}"))


def local_folder(artifact_uri: str) -> Path | None:
    """The folder behind a run's artifact URI if it is on this machine's file systems, else None."""
    parsed = urlparse(artifact_uri)
    if parsed.scheme == "file" and parsed.netloc in ("", "localhost"):
        return Path(unquote(parsed.path))
    return Path(artifact_uri) if parsed.scheme == "" else None


def metric_key(prefix: str, name: str) -> str:
    """``<prefix>/<name>`` in the characters that MLflow allows; others become ``_``.

    The name keeps letters of every alphabet, digits and ``_ - . : space``; a slash in a label becomes ``_`` too, since
    MLflow reads it as a level.
    """
    return f"{prefix}/{_NOT_IN_KEYS.sub('_', name)}"[:250]


def tag_mapping(tags: Mapping[str, str], name: str) -> dict[str, Any]:
    """The mapping in a tag that holds a JSON object; empty if there is none that can be read."""
    try:
        value = json.loads(tags.get(name, "{}"))
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def tag_list(tags: Mapping[str, str], name: str) -> list[str]:
    """The values of a comma-separated tag."""
    return [value for value in tags.get(name, "").split(",") if value]
