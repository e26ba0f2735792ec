"""One trial from its description to its folder in the storage. Runs in any process, with or without Ray.

``train`` is called on every rank of a trial; every collective is on the trial's group, and ``tell`` is called by all.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import nn

from search_spaces.exceptions import UserError, unknown
from search_spaces.failpoints import failpoint
from search_spaces.home import CACHE as CACHE_OF_HOME
from search_spaces.names import Artifact, State
from search_spaces.results import Timing, TrialResult
from search_spaces.trial import ResolvedTrial
from trainables.augmentation import EvaluationTransform
from trainables.batches import ImageFeed
from trainables.checkpoint import Checkpoints
from trainables.compiled import CACHE
from trainables.environment import borrowed_globals, environment
from trainables.evaluation import Reduce, evaluation_batch_size, evaluation_crop, predict
from trainables.fitting import FitResult, Stopped, Tell, fit
from trainables.freezing import freeze
from trainables.groups import Group, broadcast_object
from trainables.heads import fill_head
from trainables.kept_weights import kept_step, kept_thresholds, load_kept_weights
from trainables.mask_predictions import (
    THRESHOLDS_KEY,
    EvaluationRows,
    Steps,
    evaluation_values,
    frozen_thresholds,
    mask_table,
    thresholds_text,
    validation_values,
)
from trainables.models import BuiltModel
from trainables.module_setup import is_channels_last, prepare
from trainables.predictions import write_predictions
from trainables.probing import Probing
from trainables.representations import Representations
from trainables.sources import Receipt, initialise
from trainables.storage import Storage
from trainables.task_data import LabelledSet, TaskData, shown_columns
from trainables.tensor_files import system_errors
from trainables.trial_run import Tables, TrialRun

HISTORY_SCHEMA = pa.schema(
    [
        ("step", pa.int64()),
        ("loss", pa.float64()),
        ("val", pa.float64()),
        ("val_loss", pa.float64()),
        ("lr", pa.float64()),
        ("seconds", pa.float64()),
        ("step_losses", pa.list_(pa.float32())),
    ]
)
"""``history.parquet``, one row per evaluation: finished steps, mean training loss since the row before, validation
value of the primary metric (null where undefined), validation loss (null unless the protocol needs it), learning rate,
seconds since the trial began, loss of every step."""


def train(trial: ResolvedTrial, group: Group, tell: Tell) -> TrialResult | None:
    """Run one trial to its end and publish it; continues from a checkpoint if there is one.

    Args:
        trial: What to do.
        group: This rank's place among the trial's ranks.
        tell: Hands in the report of an evaluation (step, steps, loss, val, samples_per_s) and gives the order, the
            same on all ranks; called by all of them.

    Returns:
        The result on rank 0. None on other ranks, and on all ranks if ``tell`` answered stop: then a checkpoint is in
        the storage and nothing else.

    Raises:
        ScalecurvesError: A failure whose class decides what follows (user, data, divergence, memory, tracking).
    """
    with borrowed_globals(group.device):
        try:
            run = _Run(trial, group) if trial.protocol.trains else Probing(trial, group)
            failpoint("trial.start")
            return run.finish(tell)
        except Stopped:
            return None


def evaluate_only(
    trial: ResolvedTrial, weights: Path, sets: Sequence[str], destination: Path, group: Group
) -> dict[str, Path]:
    """Predictions of a finished trial on further evaluation sets, from its kept weights.

    Args:
        trial: The trial, with the sets among ``task.evaluate``.
        weights: Its ``weights.safetensors``.
        sets: Evaluation sets.
        destination: Folder for ``<set>.parquet``.
        group: This rank's place; all ranks call this.

    Returns:
        Set -> file on rank 0, empty elsewhere.

    Raises:
        UserError: The weights are another trial's or not those that the trial was scored with; an unknown set.
        DataError: The images or labels of a set cannot be used.
    """
    for name in sets:
        if name not in trial.task.evaluate:
            raise UserError(unknown("evaluation set", name, trial.task.evaluate, f"tasks.{trial.task.name}.evaluate"))
    with borrowed_globals(group.device):
        if not trial.protocol.trains:
            tables = Probing(trial, group).further(weights, sets)
            return {name: write_predictions(table, destination, name) for name, table in tables.items()}
        run = _Run(trial, group)
        built = run.build()
        built.module.load_state_dict(load_kept_weights(weights, trial))
        run.thresholds = kept_thresholds(weights)
        prepare(built.module, trial.scale.input_size, group.device)
        data = run.load_data()
        tables = run.score(built.module, data, sets)
    return {name: write_predictions(table, destination, name) for name, table in tables.items()}


def represent_only(trial: ResolvedTrial, weights: Path, destination: Path, group: Group) -> None:
    """Representations of a finished trial, from its kept weights and its initialisation made again.

    Args:
        trial: The trial, with what it is to keep in its workspace.
        weights: Its ``weights.safetensors``.
        destination: Folder for the files.
        group: A single process.

    Raises:
        UserError: The weights are another trial's or not those that the trial was scored with; its initial weights
            cannot be had any more.
        DataError: The images cannot be used.
    """
    with borrowed_globals(group.device):
        run = _Run(trial, group)
        data = run.load_data()
        keeper = Representations.of(trial, data, Storage(trial.workspace.storage), group)
        if keeper is None:
            raise ValueError("the trial keeps no representations, or this is not rank 0")
        built, _ = run.initialised()
        keeper.remember(built)
        built.module.load_state_dict(load_kept_weights(weights, trial))
        keeper.after_training(built, step=kept_step(weights))
        keeper.write(destination)


class _Run(TrialRun):
    """A trial whose network is trained."""

    def __init__(self, trial: ResolvedTrial, group: Group) -> None:
        super().__init__(trial, group)
        self.thresholds: Steps | None = None

    def finish(self, tell: Tell) -> TrialResult | None:
        trial, group = self.trial, self.group
        data = self.load_data()
        built, receipt = self.initialised()
        representations = Representations.of(trial, data, self.storage, group)
        if representations is not None:
            representations.before_training(built)
        checkpoints = Checkpoints(self.storage, trial.trial_id, trial.workspace.checkpoint_every_s, group)
        setup_s = time.perf_counter() - self.started
        fitted = fit(
            built.module,
            data.train,
            data.val,
            protocol=trial.protocol,
            normalise=trial.source.normalise,
            input_size=trial.scale.input_size,
            gflops=trial.scale.gflops,
            seed=trial.seed.init,
            primary=trial.task.primary,
            group=group,
            tell=tell,
            checkpoints=checkpoints,
            save_memory=trial.workspace.save_memory,
            resident_bytes=self.resident_bytes,
            compile_cache=Path(trial.workspace.home) / CACHE_OF_HOME / CACHE,
        )
        scoring = time.perf_counter()
        if trial.task.is_dense:
            found = frozen_thresholds(trial.protocol, fitted.val_logits, len(trial.task.labels))
            self.thresholds = broadcast_object(group, found)
        tables = self.score(built.module, data, list(trial.task.evaluate))
        if group.rank:
            return None
        tables |= self.validation(data, self._validated(fitted.val_logits))
        if representations is not None:
            representations.after_training(built, step=fitted.best_step, resumed_from=fitted.resumed_from)
        now = time.perf_counter()
        timing = Timing(
            total_s=now - self.started,
            setup_s=setup_s,
            train_s=fitted.train_s,
            evaluate_s=fitted.evaluate_s + now - scoring,
            samples_per_s=fitted.samples_per_s,
            earlier_s=fitted.earlier_s,
            **{f"{phase}_s": seconds for phase, seconds in fitted.phases.items()},
            utilisation=fitted.utilisation,
            memory_bytes=fitted.memory_bytes,
        )
        result = self._result(data, built, fitted, timing, checkpoints.failures)

        def write(folder: Path) -> None:
            pq.write_table(pa.Table.from_pylist(fitted.history, HISTORY_SCHEMA), folder / Artifact.HISTORY)
            if self.keeps_weights:
                self._save_weights(folder / Artifact.WEIGHTS, fitted, built)
            if representations is not None:
                representations.write(folder / Artifact.REPRESENTATIONS)

        self.publish(data, result, receipt, tables, write)
        checkpoints.delete()
        if representations is not None:
            representations.forget_initial()
        return result

    def initialised(self) -> tuple[BuiltModel, Receipt]:
        """The model as it is before its first step."""
        trial, built = self.trial, self.build()
        receipt = initialise(built, trial.source, self.upstream_weights, trial.seed.init)
        fill_head(built.module, built.head, trial.protocol.head_init, trial.seed.init)
        freeze(built.module, built.head, trial.protocol.freeze)
        return built, receipt

    def score(self, module: nn.Module, data: TaskData, sets: Sequence[str]) -> Tables:
        """Set -> predictions on rank 0; empty elsewhere. Called by all ranks."""
        tables = {}
        for name in sets:
            images = data.sets[name]
            kept = self._predicted(module, images)
            if kept is not None:
                tables[name] = self.scored(images, kept if self.thresholds is None else evaluation_values(kept), name)
        return tables

    def _validated(self, logits: NDArray[Any] | None) -> NDArray[Any] | None:
        """What is kept of the selected step's logits on validation; nothing is computed anew."""
        if logits is None or self.thresholds is None:
            return logits
        return validation_values(logits, self.thresholds)

    def table(
        self, images: LabelledSet, kept: NDArray[Any], name: str, shared_patients: tuple[int, bool] | None = None
    ) -> pa.Table:
        """Predictions, of masks once their thresholds are frozen."""
        if self.thresholds is None:
            return super().table(images, kept, name, shared_patients)
        frame, hash_of_set = shown_columns(images, self.trial.task, name)
        return mask_table(frame, kept, self.trial, name, self.thresholds, hash_of_set, shared_patients)

    def _predicted(self, module: nn.Module, images: LabelledSet) -> NDArray[Any] | None:
        """Logits, or counts and distances of masks, on rank 0."""
        trial, device = self.trial, self.group.device
        dtype = next(module.parameters()).dtype
        form = (trial.source.normalise, device, dtype, is_channels_last(module))
        feed = ImageFeed(images, device, dtype, self.resident_bytes)
        transform = EvaluationTransform(
            trial.scale.input_size,
            *form,
            trial.protocol.test_time_augmentation,
            evaluation_crop(trial.protocol, trial.task.is_dense),
        )
        batch_size = evaluation_batch_size(feed, trial.protocol.ghost_batch_size)
        return predict(module, feed, transform, self.group, batch_size, self._reduce(images))

    def _reduce(self, images: LabelledSet) -> Reduce | None:
        if images.masks is None or self.thresholds is None:
            return None
        return EvaluationRows(images.masks, self.thresholds, self.trial.task.nsd_tolerance)

    def _result(
        self, data: TaskData, built: BuiltModel, fitted: FitResult, timing: Timing, lost_checkpoints: int
    ) -> TrialResult:
        return TrialResult(
            trial=self.trial,
            state=State.COMPLETE,
            subset=data.subset,
            parameters=built.parameters,
            backbone_parameters=built.backbone_parameters,
            steps=fitted.steps,
            best_step=fitted.best_step,
            best_value=fitted.best_value,
            still_rising=fitted.still_rising,
            loss=fitted.history[-1]["loss"],
            timing=timing,
            environment=environment(self.group),
            started_at=self.started_at,
            finished_at=time.time(),
            resumed_from=fitted.resumed_from,
            extra=self._oddities(lost_checkpoints),
        )

    def _oddities(self, lost_checkpoints: int) -> dict[str, Any]:
        facts = {"lost_checkpoints": lost_checkpoints, "saved_memory": self.trial.workspace.save_memory}
        return {name: value for name, value in facts.items() if value}

    def _save_weights(self, path: Path, fitted: FitResult, built: BuiltModel) -> None:
        final = self.trial.workspace.keep_weights == "final"
        step = fitted.steps if final else fitted.best_step
        selected = not final or fitted.best_step == fitted.steps
        metadata = self.weights_metadata(built.head, step, selected, built.encoder)
        if self.thresholds is not None:
            metadata[THRESHOLDS_KEY] = thresholds_text(self.thresholds)
        with system_errors(path):
            save_file(dict(fitted.final if final else fitted.selected), path, metadata)
