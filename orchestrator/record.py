"""The record of one study in MLflow: one parent run, one child run per attempt. The only writer.

A finished attempt is first a folder in the storage (the spool), then a child run. A delivery can be broken off anywhere
and repeated: the run is found again by its attempt id, every row is a function of the folder, and the run counts only
once it is FINISHED with ``sc.state=complete``, which is written last.
"""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from dashboards import tracking
from dashboards.run_heads import RunHead, experiment_heads, study_heads
from dashboards.tracking import RecordArtifact, RecordTag
from orchestrator.delivery import added_tags, batches, metric_rows, set_rows, split_tags, spooled, write_files
from orchestrator.entries import Entry, read_entry
from orchestrator.experiment import ensure_experiment, ensure_parent, log_study
from orchestrator.metrics import score_file
from orchestrator.notes import study_note
from orchestrator.record_states import Delivery, KnownRun, KnownRuns, TrialState, trial_states
from search_spaces.exceptions import DataError, TrackingError
from search_spaces.failpoints import failpoint
from search_spaces.ingested import IngestedStudy
from search_spaces.names import Artifact, State, Tag
from search_spaces.results import TrialResult
from search_spaces.study import Study
from trainables.storage import Storage, Undelivered, stays

T = TypeVar("T")

RETRY_PAUSES_S = (0.2, 1.0)
"""Pauses between tries of one call; after the last try the attempt stays in the spool."""


class Record:
    """Writes one study's record. Methods may be called from several threads, after ``open``.

    Args:
        study: The study, or what is known of others'; its name is the MLflow experiment's.
        storage: The spool.
        tracking_uri: Where MLflow is; ``MLFLOW_TRACKING_URI`` if not given, else a SQLite file in the home folder.
        retry_pauses_s: Seconds between tries of a call that found MLflow away.

    Attributes:
        uri: The tracking URI in use, absolute.
        experiment_id: MLflow's id of the study's experiment; empty before ``open``.
        parent_id: Run id of the parent run; empty before ``open``.

    Raises:
        UserError: A tracking URI that MLflow no longer supports.
    """

    def __init__(
        self,
        study: Study | IngestedStudy,
        storage: Storage,
        tracking_uri: str | None = None,
        *,
        retry_pauses_s: Sequence[float] = RETRY_PAUSES_S,
    ) -> None:
        self.study = study
        self.uri = tracking.resolve_tracking_uri(tracking_uri)
        self.experiment_id = ""
        self.parent_id = ""
        self._storage = storage
        self._pauses_s = tuple(retry_pauses_s)
        self._lock = threading.RLock()
        self._client: Any = None
        self._known = KnownRuns()
        self._unsure: set[str] = set()
        """Attempts whose run may exist although it was never answered."""

    @property
    def storage(self) -> Storage:
        """The study's files."""
        return self._storage

    def open(self, *, runs: bool = True) -> None:
        """Connect, create experiment and parent run if they are not there, and store the study file.

        Args:
            runs: Show the parent run as running, until ``close``.

        Raises:
            TrackingError: MLflow cannot be reached: what is done is then not known, and nothing should start.
            UserError: The experiment was deleted in MLflow, or access is refused.
        """
        with self._lock:
            self._retrying(lambda: self._open(runs))

    def states(self, trial_ids: Iterable[str] | None = None) -> dict[str, TrialState]:
        """Where trials stand, by one paged search.

        Args:
            trial_ids: The trials asked for; those without a run are missing. All that have a run if not given.
        """
        with self._lock:
            return trial_states(self._retrying(self._children), trial_ids)

    def look(self, trial_ids: Iterable[str] | None = None) -> dict[str, TrialState]:
        """As ``states``, without writing anything: a study that has no record yet has only missing trials.

        Raises:
            TrackingError: MLflow cannot be reached.
            OtherSchemaError: As ``attempts``.
        """
        return trial_states(self.attempts(), trial_ids)

    def attempts(self) -> list[RunHead]:
        """All delivered attempts, earliest first, without writing anything.

        Raises:
            TrackingError: MLflow cannot be reached.
            OtherSchemaError: The record was written by a version of scalecurves whose records look different.
        """
        return _children(self._again(lambda: study_heads(self.uri, self.study.name)))

    def deliver(self, item: Undelivered) -> str:
        """Deliver one attempt from the spool as a child run and mark it delivered; a second time changes nothing.

        Returns:
            The id of its run (of the run that counts, if another driver delivered it meanwhile).

        Raises:
            TrackingError: MLflow or the storage stayed away; the attempt waits in the spool.
            DataError: The folder is not one that a trial leaves, or there is none.
        """
        with ExitStack() as until_delivered:
            try:
                entry = read_entry(until_delivered.enter_context(self._fetched(item)))
            except (FileNotFoundError, DataError):
                if self._is_spooled(item):
                    raise
                return self._delivered_elsewhere(item)
            run_id = self._deliver(entry)
        failpoint("record.after_done")
        with self._storage_errors():
            self._storage.mark_delivered(item)
        return run_id

    def add(self, entry: Entry) -> str:
        """Write an attempt that never was in the spool, such as a result of others; a second time changes nothing.

        Returns:
            The id of its run.

        Raises:
            TrackingError: MLflow stayed away.
        """
        return self._deliver(entry)

    def supersede(self, run_id: str) -> None:
        """Mark a run as replaced by a later result of the same cell and seed; it stays, but no reader counts it.

        Raises:
            TrackingError: MLflow stayed away.
        """
        self._retrying(lambda: self._client.set_tag(run_id, Tag.STATE, State.SUPERSEDED))

    def deliver_all(self) -> Delivery:
        """Deliver what the spool holds of this study; what MLflow does not take now waits for the next time."""
        damaged: list[str] = []
        items = self._spool(damaged)
        delivered = 0
        for position, item in enumerate(items):
            try:
                self.deliver(item)
                delivered += 1
            except DataError as error:
                damaged.append(f"{item.folder}: {error}")
            except TrackingError as error:
                waiting = len(items) - position
                return Delivery(delivered=delivered, waiting=waiting, outage=error, damaged=tuple(damaged))
        return Delivery(delivered=delivered, damaged=tuple(damaged))

    def deliver_earlier(self) -> Delivery:
        """Deliver what earlier runs left in the storage, before anything is made of what is recorded.

        Raises:
            TrackingError: The record does not take it: what seems to be missing is not.
        """
        spool = self.deliver_all()
        if spool.outage is not None:
            raise TrackingError(
                f"{spool.waiting} attempts of earlier runs wait in the storage, and the record does not take them: "
                f"{spool.outage}. Nothing was done, nothing is lost; the same command goes on when it does"
            ) from spool.outage
        return spool

    def _spool(self, damaged: list[str]) -> list[Undelivered]:
        """This study's attempts in the spool; those that cannot be read are added to ``damaged``."""
        items = []
        with self._storage_errors():
            for item, result in self._storage.results(self._storage.undelivered()):
                if isinstance(result, ValidationError):
                    damaged.append(f"{item.folder}: {result}")
                elif result.trial.study == self.study.name:
                    items.append(item)
        return items

    def failed(self, result: TrialResult) -> str:
        """Record a failed attempt: durable in the spool first, then as a FAILED run. Returns the run's id.

        Raises:
            TrackingError: MLflow or the storage stayed away.
        """
        self.spool_failure(result)
        return self.deliver(spooled(result))

    def spool_failure(self, result: TrialResult) -> None:
        """Make a failed attempt durable, to be delivered later.

        Raises:
            TrackingError: The storage stayed away.
        """
        with self._storage_errors():
            self._storage.publish_failure(result)

    def add_predictions(self, run_id: str, path: Path) -> None:
        """Add a further evaluation set to a finished trial's run: its predictions, metrics and name.

        Args:
            run_id: The run that counts (``states``).
            path: ``<evaluation set>.parquet``.

        Raises:
            TrackingError: MLflow stayed away.
            DataError: The file is not a predictions file.
        """
        scores = score_file(path)
        scored_ms = path.stat().st_mtime_ns // 1_000_000

        def add() -> None:
            run = self._client.get_run(run_id)
            self._put_files(run_id, run.info.artifact_uri, {}, {f"{Artifact.PREDICTIONS}/{path.name}": path})
            for batch in batches(set_rows(scores, scored_ms), {}, added_tags(run.data.tags, scores)):
                self._client.log_batch(run_id, **batch)

        with self._lock:
            self._retrying(add)

    def set_plan(self, plan: str) -> None:
        """Store the plan (JSON text) on the parent run."""
        self._retrying(lambda: self._client.log_text(self.parent_id, plan, RecordArtifact.PLAN))

    def set_data_cards(self, cards: Mapping[str, tuple[str, str]]) -> None:
        """Store the data card of each task, as JSON and as Markdown, under ``data/`` of the parent run."""

        def put() -> None:
            for task, (as_json, as_markdown) in cards.items():
                for text, suffix in ((as_json, "json"), (as_markdown, "md")):
                    self._client.log_text(self.parent_id, text, f"{RecordArtifact.DATA}/{task}.{suffix}")

        self._retrying(put)

    def set_progress(self, counts: Mapping[str, int]) -> None:
        """Rewrite the parent run's note with the number of target trials per state."""
        note = study_note(self.study, counts)
        self._retrying(lambda: self._client.set_tag(self.parent_id, Tag.NOTE, note))

    def attach_report(self, folder: Path, headline: Mapping[str, str] | None = None) -> None:
        """Log a report's files under ``report/`` of the parent run.

        Args:
            folder: The report.
            headline: Findings in a few words each, kept as tags ``report.<name>``.
        """
        tags = {RecordTag.HEADLINE_PREFIX + name: text for name, text in (headline or {}).items()}

        def attach() -> None:
            self._client.log_artifacts(self.parent_id, str(folder), RecordArtifact.REPORT)
            for batch in batches((), {}, tags):
                self._client.log_batch(self.parent_id, **batch)

        self._retrying(attach)

    def add_read(self, name: str, entry: str) -> None:
        """Add one entry to the ledger of reads of test results; there is no way to change or remove one.

        Args:
            name: File name, different for each.
            entry: One JSON object.
        """
        path = f"{RecordArtifact.READS}/{name}"
        self._retrying(lambda: self._client.log_text(self.parent_id, entry + "\n", path))

    def close(self, *, finished: bool = True) -> None:
        """Set the parent run's status: FINISHED, or KILLED if the sweep was broken off."""
        status = "FINISHED" if finished else "KILLED"
        self._retrying(lambda: self._client.set_terminated(self.parent_id, status))

    def _open(self, runs: bool) -> None:
        if self._client is None:
            self._client = tracking.connect(self.uri, create=True)
        self.experiment_id = ensure_experiment(self._client, self.uri, self.study)
        self.parent_id = ensure_parent(self._client, self.experiment_id, self.study)
        log_study(self._client, self.parent_id, self.study)
        if runs:
            self._client.update_run(self.parent_id, status="RUNNING")
        self._children()

    def _children(self) -> list[RunHead]:
        """All attempts in MLflow, earliest first; they replace what was remembered (runs may have been deleted)."""
        children = _children(experiment_heads(self._client, self.uri, self.experiment_id))
        # Of two runs of one attempt (two drivers at once) the one that ended is taken.
        self._known = KnownRuns(sorted(map(KnownRun.of, children), key=lambda k: k.terminated))
        return children

    @contextmanager
    def _fetched(self, item: Undelivered) -> Iterator[Path]:
        """A local folder with an attempt's files, but for what stays in the storage."""
        storage = self._storage
        with self._storage_errors():
            names = [name for name in storage.files(item) if name != Artifact.TRIAL and not stays(name)]
            for name in names:
                storage.fetch_from(item.folder, name)
            folder = storage.fetch_from(item.folder, Artifact.TRIAL).parent
        try:
            yield folder
        finally:
            if not storage.is_local:
                shutil.rmtree(folder)

    @contextmanager
    def _storage_errors(self) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, TrackingError):
            raise
        except OSError as error:
            raise TrackingError(f"storage {self._storage.label} cannot be reached: {error}") from error

    def _is_spooled(self, item: Undelivered) -> bool:
        with self._storage_errors():
            return Artifact.TRIAL in self._storage.files(item)

    def _delivered_elsewhere(self, item: Undelivered) -> str:
        """The run of an attempt that left the spool between listing and fetching: another driver delivered it."""
        with self._lock:
            self._retrying(self._children)
        for known in sorted(self._known, key=lambda k: (k.start_ms, k.run_id)):
            complete = item.state is State.COMPLETE and known.complete and known.trial_id == item.key
            if complete or (item.state is State.FAILED and known.terminated and known.attempt_id == item.key):
                return known.run_id
        where = f"neither in storage {self._storage.label} nor in MLflow"
        raise DataError(f"{item.folder} is {where}; the trial must run again")

    def _deliver(self, entry: Entry) -> str:
        with self._lock:
            return self._retrying(lambda: self._write(entry))

    def _write(self, entry: Entry) -> str:
        run = self._run_of(entry)
        if not run.terminated:
            failpoint("record.run_created")
            self._put_files(run.run_id, run.artifact_uri, entry.texts, entry.files)
            failpoint("record.mid_delivery")
            for batch in batches(metric_rows(entry), entry.params, split_tags(entry)[1]):
                self._client.log_batch(run.run_id, **batch)
            failpoint("record.before_done")
            complete = entry.attempt.state is State.COMPLETE
            self._client.set_terminated(run.run_id, "FINISHED" if complete else "FAILED", entry.finished_ms)
            self._known.put(dataclasses.replace(run, terminated=True, complete=complete))
        self._supersede(run.trial_id)
        return run.run_id

    def _run_of(self, entry: Entry) -> KnownRun:
        """The run of this attempt: remembered, else found (if an earlier try may have made it), else new."""
        attempt = entry.attempt.attempt_id
        known = self._known.get(attempt)
        if known is None and attempt in self._unsure:
            found = tracking.search_all(self._client, self.experiment_id, f"tags.`{Tag.ATTEMPT_ID}` = '{attempt}'")
            known = KnownRun.of(RunHead.of(found[0])) if found else None
        if known is None:
            self._unsure.add(attempt)
            tags = {**split_tags(entry)[0], Tag.PARENT: self.parent_id}
            run = self._client.create_run(self.experiment_id, entry.started_ms, tags, entry.tags[Tag.RUN_NAME])
            known = KnownRun.of(RunHead.of(run))
        self._known.put(known)
        self._unsure.discard(attempt)
        return known

    def _put_files(self, run_id: str, uri: str, texts: Mapping[str, str], files: Mapping[str, Path]) -> None:
        """Write straight into a local artifact folder, which is what MLflow would do more slowly; else upload."""
        folder = None if self.uri.startswith("http") else tracking.local_folder(uri)
        if folder is not None:
            write_files(folder, texts, files)
            return
        with tempfile.TemporaryDirectory(prefix="scalecurves-upload-") as staged:
            write_files(Path(staged), texts, files)
            self._client.log_artifacts(run_id, staged)

    def _supersede(self, trial_id: str) -> None:
        """Of several complete runs of one trial the earliest counts; the others are tagged."""
        for run in self._known.complete(trial_id)[1:]:
            self._client.set_tag(run.run_id, Tag.STATE, State.SUPERSEDED)
            self._known.put(dataclasses.replace(run, complete=False))

    def _retrying(self, action: Callable[[], T]) -> T:
        def attempt() -> T:
            with tracking.tracking(self.uri):
                return action()

        return self._again(attempt)

    def _again(self, action: Callable[[], T]) -> T:
        """What an action gives that raises our errors, tried again while the record is away."""
        for pause_s in self._pauses_s:
            try:
                return action()
            except TrackingError:
                time.sleep(pause_s)
        return action()


def _children(runs: Iterable[RunHead]) -> list[RunHead]:
    return [run for run in runs if run.tags.get(Tag.TRIAL_ID)]
