"""What every way to run a trial has in common: images, model, predictions, and how a result is published."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
from numpy.typing import NDArray

from search_spaces.exceptions import DataError, TrackingError, UserError
from search_spaces.names import Artifact, Role, Split
from search_spaces.results import TrialResult
from search_spaces.trial import ResolvedTrial
from trainables.groups import Group
from trainables.library import TaskLibrary
from trainables.loading import names_of
from trainables.models import BuiltModel, build_model
from trainables.predictions import predictions_table, write_predictions
from trainables.sources import Receipt
from trainables.storage import Storage
from trainables.subset_files import keep_subset
from trainables.task_data import LabelledSet, TaskData, load_task_data, shown_columns
from trainables.unet import EncoderNames

Tables = dict[str, pa.Table]
"""Set -> predictions."""


class TrialRun:
    """One trial on one rank.

    Args:
        trial: What to do.
        group: This rank's place among the trial's ranks.
    """

    def __init__(self, trial: ResolvedTrial, group: Group) -> None:
        self.trial, self.group = trial, group
        self.started_at, self.started = time.time(), time.perf_counter()
        self.storage = Storage(trial.workspace.storage)
        self.resident_bytes = round(trial.workspace.device_cache_gib * 2**30)

    def build(self) -> BuiltModel:
        """The model with fresh weights."""
        trial, outputs = self.trial, len(self.trial.task.labels)
        paths = trial.workspace.import_paths
        return build_model(trial.scale, outputs, trial.seed.init, paths, dense=trial.task.is_dense)

    def load_data(self) -> TaskData:
        """The trial's images and labels.

        Raises:
            DataError: Training, validation or an evaluation set holds no image.
        """
        data = load_task_data(self.trial, TaskLibrary(Path(self.trial.workspace.home)))
        for name, images in data.sets.items():
            if not len(images.positions):
                raise DataError(f"evaluation set {name!r} of task {self.trial.task.name!r} holds no image")
        return data

    def upstream_weights(self, trial_id: str) -> Path:
        """Local path of the kept weights of a trial that this one starts from.

        Raises:
            UserError: They are not in the storage.
        """
        try:
            return self.storage.fetch(trial_id, Artifact.WEIGHTS)
        except FileNotFoundError as error:
            raise UserError(
                f"source {self.trial.source.name!r} starts from trial {trial_id}, whose weights are not in the "
                f"storage: {error}; run that trial again"
            ) from None

    def scored(self, images: LabelledSet, kept: NDArray[Any], name: str) -> pa.Table:
        """Predictions on an evaluation set."""
        return self.table(images, kept, name, (images.shared_patients, images.same_ids))

    def validation(self, data: TaskData, kept: NDArray[Any] | None) -> Tables:
        """Validation predictions of what was selected, on which thresholds and temperatures may be fitted.

        Trials that are scored on no evaluation set need none.
        """
        if kept is None or not self.trial.task.evaluate:
            return {}
        return {Split.VAL: self.table(data.val, kept, Split.VAL)}

    def table(
        self, images: LabelledSet, kept: NDArray[Any], name: str, shared_patients: tuple[int, bool] | None = None
    ) -> pa.Table:
        """Predictions on a set.

        Args:
            images: The set.
            kept: (N, K) logits, or what else a trial of this kind keeps of an image.
            name: Of the set.
            shared_patients: Patients that it shares with training, and whether their ids can be compared.
        """
        frame, hash_of_set = shown_columns(images, self.trial.task, name)
        return predictions_table(frame, kept, self.trial, name, hash_of_set, shared_patients)

    @property
    def keeps_weights(self) -> bool:
        """Whether weights stay in the storage."""
        return self.trial.workspace.keep_weights != "none" or self.trial.role is Role.UPSTREAM

    def weights_metadata(
        self, head: tuple[str, ...], step: int, selected: bool, encoder: EncoderNames | None = None
    ) -> dict[str, str]:
        """What ``weights.safetensors`` says about itself.

        Args:
            head: Names of its tensors that are the head.
            step: Optimiser step that they are of.
            selected: Whether the trial is scored with them.
            encoder: Of a U-Net.
        """
        trial = self.trial
        return {
            **names_of(head, encoder),
            "trial_id": trial.trial_id,
            "labels": json.dumps(list(trial.task.labels)),
            "normalise": trial.source.normalise.model_dump_json(),
            "input_size": str(trial.scale.input_size),
            "step": str(step),
            "selected": json.dumps(selected),
        }

    def publish(
        self, data: TaskData, result: TrialResult, receipt: Receipt, tables: Tables, write: Callable[[Path], None]
    ) -> None:
        """Make the result durable, and what was drawn for it, once for all trials that use it.

        Args:
            data: Of the trial.
            result: What becomes ``trial.json``.
            receipt: Of its initial weights.
            tables: Predictions.
            write: Writes what else there is into a folder.

        Raises:
            TrackingError: The storage cannot be written.
        """
        try:
            for drawn in data.drawn:
                keep_subset(self.storage, drawn)
        except (OSError, pa.ArrowException) as error:
            raise TrackingError(f"the subset cannot be written to storage {self.storage.label}: {error}") from error
        try:
            with self.storage.staging() as folder:
                for name, table in tables.items():
                    write_predictions(table, folder / Artifact.PREDICTIONS, name)
                (folder / Artifact.RECEIPT).write_text(receipt.model_dump_json(indent=2), encoding="utf-8")
                write(folder)
                (folder / Artifact.TRIAL).write_text(result.model_dump_json(indent=2), encoding="utf-8")
                self.storage.publish(folder, self.trial.trial_id)
        except (OSError, pa.ArrowException) as error:
            raise TrackingError(f"the result cannot be written to storage {self.storage.label}: {error}") from error
