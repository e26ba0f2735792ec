"""Files of the record by trial, read when they are asked for: predictions on evaluation sets and validation, curves."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dashboards import tracking
from dashboards.histories import History, read_history
from dashboards.prediction_sets import PredictionReader, PredictionSet
from search_spaces.exceptions import TrackingError
from search_spaces.home import scalecurves_home
from search_spaces.names import Artifact, Split

if TYPE_CHECKING:
    from mlflow import MlflowClient


class RecordFiles:
    """Artifacts as local paths: in place where the artifact store is local, else downloaded once."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._client: MlflowClient | None = None

    def __reduce__(self) -> tuple[type[RecordFiles], tuple[str]]:
        return RecordFiles, (self._uri,)  # another process connects by itself

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


@dataclass(frozen=True, slots=True, kw_only=True)
class SetFile:
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

    def __init__(self, runs: Mapping[tuple[str, str], SetFile], uri: str) -> None:
        self._runs = dict(runs)
        self._files = RecordFiles(uri)
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


class LazyHistories(Mapping[str, History]):
    """trial_id -> validation curve, read when asked for and not kept.

    Raises:
        TrackingError: On access: MLflow cannot be reached, or the trial has no history.
        DataError: On access: the file is not a history.
    """

    def __init__(self, runs: Mapping[str, tuple[str, str]], uri: str) -> None:
        self._runs = dict(runs)
        self._files = RecordFiles(uri)

    def __getitem__(self, trial_id: str) -> History:
        run_id, artifact_uri = self._runs[trial_id]
        return read_history(self._files.path(run_id, artifact_uri, Artifact.HISTORY))

    def __contains__(self, trial_id: object) -> bool:
        return trial_id in self._runs  # that of Mapping would read the file

    def __iter__(self) -> Iterator[str]:
        return iter(self._runs)

    def __len__(self) -> int:
        return len(self._runs)
