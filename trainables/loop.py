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
from search_spaces.names import Artifact, State
from search_spaces.results import Timing, TrialResult
from search_spaces.trial import ResolvedTrial
from trainables.augmentation import EvaluationTransform
from trainables.batches import ImageFeed
from trainables.checkpoint import Checkpoints
from trainables.environment import borrowed_globals, environment
from trainables.evaluation import LEAST_BATCH_SIZE, predict
from trainables.fitting import FitResult, Stopped, Tell, fit
from trainables.freezing import freeze
from trainables.groups import Group
from trainables.heads import fill_head
from trainables.models import BuiltModel
from trainables.module_setup import is_channels_last, prepare
from trainables.predictions import write_predictions
from trainables.probing import Probing
from trainables.sources import initialise
from trainables.task_data import LabelledSet, TaskData
from trainables.trial_run import Tables, TrialRun, load_kept_weights

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
            return _run(trial, group).finish(tell)
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
        tables = _run(trial, group).further(weights, sets)
    return {name: write_predictions(table, destination, name) for name, table in tables.items()}


def _run(trial: ResolvedTrial, group: Group) -> _Training | Probing:
    return _Training(trial, group) if trial.protocol.trains else Probing(trial, group)


class _Training(TrialRun):
    """A trial that trains its network, on one rank."""

    def finish(self, tell: Tell) -> TrialResult | None:
        """Train, score, publish."""
        trial, group = self.trial, self.group
        failpoint("trial.start")
        data = self.load_data()
        built = self.build()
        receipt = initialise(built, trial.source, self.upstream_weights, trial.seed.init)
        fill_head(built.module, built.head, trial.protocol.head_init, trial.seed.init)
        freeze(built.module, built.head, trial.protocol.freeze)
        checkpoints = Checkpoints(self.storage, trial.trial_id, trial.workspace.checkpoint_every_s, group)
        setup_s = time.perf_counter() - self.started
        fitted = fit(
            built.module,
            data.train,
            data.val,
            protocol=trial.protocol,
            normalise=trial.source.normalise,
            input_size=trial.scale.input_size,
            seed=trial.seed.init,
            primary=trial.task.primary,
            group=group,
            tell=tell,
            checkpoints=checkpoints,
            save_memory=trial.workspace.save_memory,
            resident_bytes=self.resident_bytes,
        )
        scoring = time.perf_counter()
        tables = self.score(built.module, data, list(trial.task.evaluate))
        if group.rank:
            return None
        tables |= self.validation(data, fitted.val_logits)
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
        self.publish(data, result, receipt, tables, lambda folder: self._write(folder, fitted, built))
        checkpoints.delete()
        return result

    def further(self, weights: Path, sets: Sequence[str]) -> Tables:
        """Predictions on further sets from kept weights; on rank 0, empty elsewhere."""
        built = self.build()
        built.module.load_state_dict(load_kept_weights(weights, self.trial))
        prepare(built.module, self.trial.scale.input_size, self.group.device)
        return self.score(built.module, self.load_data(), sets)

    def score(self, module: nn.Module, data: TaskData, sets: Sequence[str]) -> Tables:
        """Set -> predictions on rank 0; empty elsewhere. Called by all ranks."""
        tables = {}
        for name in sets:
            logits = self._logits(module, data.sets[name])
            if logits is not None:
                tables[name] = self.scored(data.sets[name], logits, name)
        return tables

    def _logits(self, module: nn.Module, images: LabelledSet) -> NDArray[Any] | None:
        trial, device = self.trial, self.group.device
        dtype = next(module.parameters()).dtype
        form = (trial.source.normalise, device, dtype, is_channels_last(module))
        transform = EvaluationTransform(
            trial.scale.input_size, *form, trial.protocol.test_time_augmentation, trial.protocol.evaluation_crop
        )
        batch_size = max(LEAST_BATCH_SIZE, trial.protocol.ghost_batch_size)
        feed = ImageFeed(images, device, dtype, self.resident_bytes)
        return predict(module, feed, transform, self.group, batch_size)

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

    def _write(self, folder: Path, fitted: FitResult, built: BuiltModel) -> None:
        pq.write_table(pa.Table.from_pylist(fitted.history, HISTORY_SCHEMA), folder / Artifact.HISTORY)
        if not self.keeps_weights:
            return
        final = self.trial.workspace.keep_weights == "final"
        step = fitted.steps if final else fitted.best_step
        metadata = self.weights_metadata(built.head, step, not final or fitted.best_step == fitted.steps)
        save_file(dict(fitted.final if final else fitted.selected), folder / Artifact.WEIGHTS, metadata)
