"""Where trials leave their files: any pyarrow file system, or a path.

Layout below the root::

    trials/<trial_id>/       trial.json, receipt.json, history.parquet, predictions/*.parquet, weights.safetensors,
                             representations/*
    attempts/<attempt_id>/   trial.json of a failed attempt, named failure.json once delivered
    checkpoints/<trial_id>.pt
    initial/<trial_id>.safetensors   representations before the first step of a trial that has not ended
    subsets/                 what trials were trained on, once each (trainables.subset_files)
    notes/                   what running drivers say of themselves, where memory ran out; disposable
    claims/                  which driver trains which trial; disposable
    tmp/                     everything that is being written

A folder of ``trials`` counts as published once it holds ``trial.json``. On a local file system the whole folder is
renamed into place; elsewhere ``trial.json`` is uploaded last and, on replacement and deletion, removed first.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.fs as pafs
from pydantic import ValidationError

from search_spaces.exceptions import UserError
from search_spaces.failpoints import failpoint
from search_spaces.names import Artifact, Moment, State
from search_spaces.results import TrialResult
from trainables.file_tree import TMP, FileTree, reaching

_TRIALS, _ATTEMPTS, _CHECKPOINTS, _NOTES, _CLAIMS = "trials", "attempts", "checkpoints", "notes", "claims"
_TMP, _SUBSETS, _INITIAL = "tmp", "subsets", "initial"
_FAILURE = "failure.json"
_ABANDONED_S = 86400.0
"""What has been half-written for so long will not be finished."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Undelivered:
    """A result that waits in the storage.

    Attributes:
        folder: Below the root, such as ``trials/0123456789abcdef``.
        key: The trial id of a complete trial, the attempt id of a failed attempt.
        state: complete or failed.
    """

    folder: str
    key: str
    state: State


def stays(name: str) -> bool:
    """Whether a file of a trial's folder stays in the storage when the trial is delivered; MLflow does not get it."""
    return name == Artifact.WEIGHTS or name.startswith(f"{Artifact.REPRESENTATIONS}/")


class Storage(FileTree):
    """The folders of the record's files.

    Args:
        place: A path, ``file://`` or any URI that pyarrow or fsspec knows.
        filesystem: Use this file system, with ``place`` as a path on it (for tests and unusual stores).

    Raises:
        UserError: No file system for this URI.
        StorageError: It cannot be opened now.
    """

    def __init__(self, place: str | Path, filesystem: pafs.FileSystem | None = None) -> None:
        super().__init__(place, filesystem)
        self._cache: tempfile.TemporaryDirectory[str] | None = None

    def check_writable(self) -> None:
        """Write and delete one small file.

        Raises:
            UserError: The storage cannot be written; the message holds the path and the reason.
        """
        probe = f"{TMP}/probe-{uuid.uuid4().hex}"
        try:
            self._write(probe, b"")
            self.fs.delete_file(self._path(probe))
        except (OSError, pa.ArrowException) as error:
            why = f"storage {self.label} cannot be written: {error}" if self.is_local else str(error)
            raise UserError(f"{why}. Give a writable path or URI with --storage") from error

    @property
    def is_new(self) -> bool:
        """Whether no trial has ever got as far as its subset here."""
        return not self._files(_SUBSETS)

    @contextlib.contextmanager
    def staging(self) -> Iterator[Path]:
        """A fresh local folder to prepare results in, on the storage's disk if that is local; removed at the end."""
        if self.is_local:
            folder = Path(self._path(TMP)) / uuid.uuid4().hex
            folder.mkdir(parents=True)
        else:
            folder = Path(tempfile.mkdtemp(prefix="scalecurves-"))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def publish(self, local_dir: Path, trial_id: str) -> None:
        """Move (or upload) the files of a complete trial into place, replacing older ones.

        Args:
            local_dir: Holds at least ``trial.json``. Gone afterwards if it could be moved.
            trial_id: The trial.

        Raises:
            FileNotFoundError: No ``trial.json``.
            OSError: The storage cannot be written; nothing half-written counts as published.
        """
        if not (local_dir / Artifact.TRIAL).is_file():
            raise FileNotFoundError(f"{local_dir} holds no {Artifact.TRIAL}; nothing to publish")
        if self.is_local:
            self._publish_by_rename(local_dir, Path(self._path(f"{_TRIALS}/{trial_id}")))
        else:
            self._publish_by_upload(local_dir, f"{_TRIALS}/{trial_id}")

    def publish_failure(self, result: TrialResult) -> None:
        """Write ``trial.json`` of a failed attempt."""
        folder = f"{_ATTEMPTS}/{result.trial.attempt_id}"
        self._write(f"{folder}/{Artifact.TRIAL}", result.model_dump_json(indent=2).encode())

    def undelivered(self) -> list[Undelivered]:
        """Everything published and not yet marked delivered, sorted by folder."""
        return [
            Undelivered(folder=f"{parent}/{name}", key=name, state=state)
            for parent, state in ((_ATTEMPTS, State.FAILED), (_TRIALS, State.COMPLETE))
            for name in self._names(parent)
            if self._exists(f"{parent}/{name}/{Artifact.TRIAL}")
        ]

    def result(self, item: Undelivered) -> TrialResult:
        """The ``trial.json`` of an undelivered item."""
        return TrialResult.model_validate_json(self.fetch_from(item.folder, Artifact.TRIAL).read_bytes())

    def results(self, items: Iterable[Undelivered]) -> Iterator[tuple[Undelivered, TrialResult | ValidationError]]:
        """Each item with its ``trial.json``, or with why that cannot be read: it is damaged, or of another version.

        What other processes have delivered since it was listed is left out.
        """
        for item in items:
            try:
                yield item, self.result(item)
            except FileNotFoundError:
                continue
            except ValidationError as error:
                yield item, error

    def files(self, item: Undelivered) -> list[str]:
        """Names of the files in an item's folder (``predictions/test.parquet`` and so on), sorted."""
        return sorted(self._files(item.folder))

    def fetch(self, trial_id: str, name: str) -> Path:
        """A local path of a trial's file; the file itself if the storage is local, else a copy kept until exit.

        Raises:
            FileNotFoundError: No such file.
        """
        return self.fetch_from(f"{_TRIALS}/{trial_id}", name)

    def fetch_from(self, folder: str, name: str) -> Path:
        """The same as ``fetch`` for any folder below the root.

        Raises:
            FileNotFoundError: No such file.
        """
        where = f"{folder}/{name}"
        if not self._exists(where):
            raise FileNotFoundError(f"{where} is not in storage {self.label}")
        if self.is_local:
            return Path(self._path(where))
        if self._cache is None:
            self._cache = tempfile.TemporaryDirectory(prefix="scalecurves-fetched-")
        local = Path(self._cache.name) / PurePosixPath(where)
        local.parent.mkdir(parents=True, exist_ok=True)
        partial = local.with_name(f"{local.name}.{uuid.uuid4().hex}")
        self._download(where, partial)
        return partial.replace(local)

    def mark_delivered(self, key: str | Undelivered) -> None:
        """Delete a complete trial's files except weights and representations; a failed attempt keeps ``failure.json``.

        Args:
            key: A trial id, or an item of ``undelivered()``.
        """
        folder = key.folder if isinstance(key, Undelivered) else f"{_TRIALS}/{key}"
        if folder.startswith(f"{_ATTEMPTS}/"):
            self._move(f"{folder}/{Artifact.TRIAL}", f"{folder}/{_FAILURE}")
            return
        names = [name for name in self._files(folder) if not stays(name)]
        # trial.json first: what has lost a file must not look published.
        for name in sorted(names, key=lambda name: name != Artifact.TRIAL):
            self._delete(f"{folder}/{name}")
        self._delete_folder(f"{folder}/{Artifact.PREDICTIONS}")
        if not self._files(folder):
            self._delete_folder(folder)

    def is_published(self, trial_id: str) -> bool:
        """Whether the trial's complete result is here, waiting for delivery."""
        return self._exists(f"{_TRIALS}/{trial_id}/{Artifact.TRIAL}")

    def has_weights(self, trial_id: str) -> bool:
        """Whether the trial's weights are here."""
        return self._exists(f"{_TRIALS}/{trial_id}/{Artifact.WEIGHTS}")

    def has_representations(self, trial_id: str) -> bool:
        """Whether the trial's representations are here."""
        return self._exists(f"{_TRIALS}/{trial_id}/{Artifact.REPRESENTATIONS}/{Moment.FINAL.file_name}")

    def put_representations(self, trial_id: str, local_dir: Path) -> None:
        """Upload the representations of a complete trial, ``final`` last: with it they count as there."""
        names = sorted((path.name for path in local_dir.iterdir()), key=lambda name: name == Moment.FINAL.file_name)
        for name in names:
            self._upload(local_dir / name, f"{_TRIALS}/{trial_id}/{Artifact.REPRESENTATIONS}/{name}")

    def representations(self) -> dict[str, int]:
        """Trial id -> bytes of the representations that are here."""
        found: dict[str, int] = {}
        for path, size in self._sizes(_TRIALS).items():
            trial_id, folder, *rest = (*path.split("/"), "")
            if rest and folder == Artifact.REPRESENTATIONS:
                found[trial_id] = found.get(trial_id, 0) + size
        return found

    def delete_representations(self, trial_id: str) -> None:
        """Delete the representations of a trial, if any; those of a result that waits for delivery stay."""
        if not self.is_published(trial_id):
            folder = f"{_TRIALS}/{trial_id}"
            self._delete_folder(f"{folder}/{Artifact.REPRESENTATIONS}")
            if not self._files(folder):
                self._delete_folder(folder)

    def put_initial(self, trial_id: str, data: bytes) -> None:
        """Keep the representations of a trial before its first step until it has ended."""
        self._write(f"{_INITIAL}/{trial_id}.safetensors", data)

    def get_initial(self, trial_id: str) -> bytes | None:
        """What ``put_initial`` kept; None if nothing."""
        return self._read(f"{_INITIAL}/{trial_id}.safetensors")

    def delete_initial(self, trial_id: str) -> None:
        """Delete what ``put_initial`` kept, if anything."""
        self._delete(f"{_INITIAL}/{trial_id}.safetensors")

    def initials(self) -> dict[str, int]:
        """Trial id -> bytes of what ``put_initial`` kept."""
        return {name.removesuffix(".safetensors"): size for name, size in self._sizes(_INITIAL).items()}

    def put_checkpoint(self, trial_id: str, data: bytes | memoryview) -> None:
        """Replace the checkpoint of a trial."""
        self._write(f"{_CHECKPOINTS}/{trial_id}.pt", data, lambda: failpoint("checkpoint.mid_write"))
        failpoint("checkpoint.written")

    def get_checkpoint(self, trial_id: str) -> bytes | None:
        """The checkpoint of a trial; None if there is none."""
        return self._read(f"{_CHECKPOINTS}/{trial_id}.pt")

    def has_checkpoint(self, trial_id: str) -> bool:
        """Whether there is a checkpoint of a trial."""
        return self._exists(f"{_CHECKPOINTS}/{trial_id}.pt")

    def delete_checkpoint(self, trial_id: str) -> None:
        """Delete the checkpoint of a trial, if any."""
        self._delete(f"{_CHECKPOINTS}/{trial_id}.pt")

    def failures(self, trial_id: str) -> list[TrialResult]:
        """Failed attempts at a trial, earliest first, delivered or not: their details stay out of MLflow.

        Those that cannot be read, damaged or of another version, are left out.
        """
        found = []
        for attempt in self._names(_ATTEMPTS):
            if attempt.startswith(trial_id):
                with contextlib.suppress(ValidationError):
                    found += self._failure(f"{_ATTEMPTS}/{attempt}")
        return sorted(found, key=lambda result: result.started_at)

    def _failure(self, folder: str) -> list[TrialResult]:
        for name in (Artifact.TRIAL, _FAILURE):  # in this order: whoever delivers it gives it the second name
            with contextlib.suppress(FileNotFoundError):
                return [TrialResult.model_validate_json(self.fetch_from(folder, name).read_bytes())]
        return []

    def put_subset(self, name: str, make: Callable[[], bytes]) -> None:
        """Keep a file of a subset; what is there stays, as content follows from names.

        Raises:
            OSError: The storage cannot be written.
        """
        where = f"{_SUBSETS}/{name}"
        if not self._exists(where):
            self._write(where, make())

    def put_note(self, name: str, text: str) -> None:
        """Replace a note: small, disposable text that other processes may read."""
        self._write(f"{_NOTES}/{name}", text.encode())

    @reaching
    def notes(self, prefix: str = "") -> dict[str, str]:
        """Name -> text of the notes whose names start like this."""
        texts = {}
        for name in sorted(self._files(_NOTES)):
            if name.startswith(prefix):
                with (
                    contextlib.suppress(FileNotFoundError),
                    self.fs.open_input_stream(self._path(f"{_NOTES}/{name}")) as file,
                ):
                    texts[name] = file.read().decode()
        return texts

    def delete_note(self, name: str) -> None:
        """Delete a note, if it is there."""
        self._delete(f"{_NOTES}/{name}")

    def create_claim(self, name: str, text: str) -> bool:
        """Make a claim that does not exist yet; False if it does.

        Exclusive on a local file system (NFS included). Elsewhere two that ask within milliseconds may both get it.
        """
        where = f"{_CLAIMS}/{name}"
        if self.is_local:
            return self._link_new(where, text.encode())
        if self._exists(where):
            return False
        self._write(where, text.encode())
        return True

    def replace_claim(self, name: str, text: str) -> None:
        """Overwrite a claim, or make it."""
        self._write(f"{_CLAIMS}/{name}", text.encode())

    @reaching
    def claim(self, name: str) -> str | None:
        """The text of a claim; None if there is none."""
        try:
            with self.fs.open_input_stream(self._path(f"{_CLAIMS}/{name}")) as file:
                return str(file.read().decode())
        except FileNotFoundError:
            return None

    def delete_claims(self) -> None:
        """Delete all claims."""
        self._delete_folder(_CLAIMS)

    def delete_claim(self, name: str) -> None:
        """Delete a claim, if it is there."""
        with contextlib.suppress(FileNotFoundError):  # another driver may have been faster
            self._delete(f"{_CLAIMS}/{name}")

    def weights(self) -> dict[str, int]:
        """Trial id -> bytes of the weights that are here."""
        return self._folders_with(_TRIALS, Artifact.WEIGHTS)

    def delete_weights(self, trial_id: str) -> None:
        """Delete the weights of a trial, if any; those of a result that waits for delivery stay."""
        if not self.is_published(trial_id):
            folder = f"{_TRIALS}/{trial_id}"
            self._delete(f"{folder}/{Artifact.WEIGHTS}")
            if not self._files(folder):
                self._delete_folder(folder)

    def checkpoints(self) -> dict[str, int]:
        """Trial id -> bytes of the checkpoint that is here."""
        return {name.removesuffix(".pt"): size for name, size in self._sizes(_CHECKPOINTS).items()}

    def delivered_failures(self) -> dict[str, int]:
        """Attempt id -> bytes of the details kept of a failed attempt that MLflow has."""
        waiting = self._folders_with(_ATTEMPTS, Artifact.TRIAL)
        return {i: size for i, size in self._folders_with(_ATTEMPTS, _FAILURE).items() if i not in waiting}

    def delete_delivered_failure(self, attempt_id: str) -> None:
        """Delete the details of a failed attempt, if MLflow has it."""
        if not self._exists(f"{_ATTEMPTS}/{attempt_id}/{Artifact.TRIAL}"):
            self._delete_folder(f"{_ATTEMPTS}/{attempt_id}")

    def tmp(self, older_than_s: float = _ABANDONED_S) -> dict[str, int]:
        """Name -> bytes of what crashed processes left half-written."""
        inside = self._sizes(TMP)
        return {
            name: sum(size for path, size in inside.items() if path.split("/")[0] == name)
            for name, _ in self._abandoned(older_than_s)
        }

    @reaching
    def clean_tmp(self, older_than_s: float = _ABANDONED_S) -> int:
        """Delete what crashed processes left half-written; returns the number of entries deleted."""
        abandoned = self._abandoned(older_than_s)
        for name, is_folder in abandoned:
            (self._delete_folder if is_folder else self._delete)(f"{TMP}/{name}")
        return len(abandoned)

    def _abandoned(self, older_than_s: float) -> list[tuple[str, bool]]:
        """Names of old entries of tmp, and whether each is a folder."""
        horizon = time.time() - older_than_s
        entries = self.fs.get_file_info(pafs.FileSelector(self._path(TMP), allow_not_found=True))
        return [
            (PurePosixPath(entry.path).name, entry.type == pafs.FileType.Directory)
            for entry in entries
            if entry.mtime is not None and entry.mtime.timestamp() < horizon
        ]

    @reaching
    def _read(self, where: str) -> bytes | None:
        if not self._exists(where):
            return None
        with self.fs.open_input_stream(self._path(where)) as stream:
            return bytes(stream.read())

    def _folders_with(self, parent: str, file: str) -> dict[str, int]:
        """Name of each folder that holds this file -> bytes of it."""
        paths = {PurePosixPath(path): size for path, size in self._sizes(parent).items()}
        return {str(path.parent): size for path, size in paths.items() if path.name == file and len(path.parts) == 2}

    def _publish_by_rename(self, source: Path, target: Path) -> None:
        tmp = Path(self._path(TMP))
        tmp.mkdir(parents=True, exist_ok=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        ready, old = tmp / uuid.uuid4().hex, tmp / uuid.uuid4().hex
        try:
            source.rename(ready)
        except OSError:  # another file system
            shutil.copytree(source, ready)
        failpoint("publish.before_move")
        for attempt in range(5):
            with contextlib.suppress(FileNotFoundError):  # nothing to replace, or another process was faster
                target.rename(old)
            try:
                ready.rename(target)
                break
            except OSError:  # another process published between the two renames
                shutil.rmtree(old, ignore_errors=True)
                if attempt == 4:
                    raise
        failpoint("publish.after_move")
        shutil.rmtree(old, ignore_errors=True)

    def _publish_by_upload(self, source: Path, folder: str) -> None:
        names = [path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()]
        self._delete(f"{folder}/{Artifact.TRIAL}")
        for stale in set(self._files(folder)) - set(names):
            self._delete(f"{folder}/{stale}")
        for name in sorted(names, key=lambda name: name == Artifact.TRIAL):
            self._upload(source / name, f"{folder}/{name}")
