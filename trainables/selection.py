"""Validation while a trial trains: which step's weights count, and what the losses say about the learning rate."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from search_spaces.exceptions import DataError, DivergenceError
from search_spaces.protocol import Protocol
from trainables.augmentation import EvaluationTransform
from trainables.batches import ImageFeed, ImageSet
from trainables.evaluation import evaluation_batch_size, evaluation_crop, predict
from trainables.groups import Group, broadcast_object
from trainables.inputs import Inputs
from trainables.mask_losses import MaskLoss
from trainables.module_setup import Weights, snapshot
from trainables.schedules import LossWatch
from trainables.training_log import still_rising
from trainables.validation_metrics import is_better
from trainables.validation_scores import validation_scores


@dataclass(slots=True)
class Best:
    """The best evaluation so far; of all that is selected by the last step, the last.

    Attributes:
        step: Optimiser steps done.
        value: Of the primary metric.
        weights: State dict on the CPU; empty before the first evaluation, and where the last step counts.
        logits: (N, C) of the validation images, on rank 0; of masks what is kept of them.
        loss: Validation loss, where the protocol needs it.
    """

    step: int = 0
    value: float | None = None
    weights: Weights = field(default_factory=dict)
    logits: NDArray[Any] | None = None
    loss: float | None = None


class Selection:
    """Evaluates on validation images and keeps the best.

    Args:
        images: The images that select.
        inputs: What turns them into inputs.
        protocol: The recipe, settled for the training subset.
        primary: Validation metric.
        steps: Optimiser steps of the trial, for messages.
        group: The trial's ranks.
        mask_loss: Of training, where masks are learnt.

    Raises:
        DataError: A value that selects cannot be computed on these images.
    """

    def __init__(
        self,
        images: ImageSet,
        inputs: Inputs,
        protocol: Protocol,
        primary: str,
        steps: int,
        group: Group,
        mask_loss: MaskLoss | None = None,
    ) -> None:
        self._protocol, self._primary, self._steps, self._group = protocol, primary, steps, group
        self._watch = LossWatch(protocol) if protocol.needs_validation_loss else None
        self._feed: ImageFeed = inputs.feed(images)
        self._scores = validation_scores(images, mask_loss)
        crop = evaluation_crop(protocol, self._feed.masks is not None)
        self._transform = EvaluationTransform(inputs.size, *inputs.form, crop=crop)
        self.best = Best()
        self._require_selectable(inputs.facts.outputs)

    @property
    def rate_scale(self) -> float:
        """What plateaus of the validation loss have left of the schedule's learning rate, 0 to 1."""
        return 1.0 if self._watch is None else self._watch.scale

    @property
    def has_ended(self) -> bool:
        """Whether the validation loss has ended training before its budget is spent."""
        return self._watch is not None and self._watch.has_ended

    def evaluate(self, module: nn.Module, step: int) -> tuple[float | None, float | None]:
        """Validation value and loss of a module, which is selected if it is the best so far. Called by all ranks.

        Args:
            module: With the weights that count.
            step: Optimiser steps done.

        Raises:
            DivergenceError: An output is not finite; on all ranks.
        """
        batch_size = evaluation_batch_size(self._feed, self._protocol.ghost_batch_size)
        value: float | None = None
        loss: float | None = None
        logits: NDArray[Any] | None = None
        if len(self._feed):
            logits = predict(module, self._feed, self._transform, self._group, batch_size, self._scores.reduce)
            value, loss = self._shared_values(logits, step)
        last = self._protocol.select == "last"
        if last or self._is_better(value, loss):
            self.best = Best(step, value, {} if last else snapshot(module), logits, loss)
        if self._watch is not None and loss is not None:
            self._watch.take(loss)
        return value, loss

    def still_rising(self, history: list[dict[str, Any]]) -> bool | None:
        """By what selects, the primary metric or the validation loss: see ``training_log.still_rising``.

        Args:
            history: A row per evaluation.
        """
        by_loss = self._protocol.select == "best_val_loss"
        values = [row["val_loss" if by_loss else "val"] for row in history]
        return still_rising(values, "nll" if by_loss else self._primary)

    def state(self) -> dict[str, Any]:
        """All that a later attempt needs, as parts of a checkpoint."""
        logits = self.best.logits
        return {
            "best": {name: getattr(self.best, name) for name in ("step", "value", "weights", "loss")},
            "watch": None if self._watch is None else self._watch.state_dict(),
            "val_logits": None if logits is None else torch.from_numpy(logits),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from ``state()``, which may be among other parts."""
        if self._watch is not None:
            self._watch.load_state_dict(state["watch"])
        self.best = Best(**state["best"])
        if self._group.rank == 0 and state["val_logits"] is not None:
            self.best.logits = state["val_logits"].numpy()

    def _is_better(self, value: float | None, loss: float | None) -> bool:
        if self._protocol.select == "best_val_loss":
            return is_better("nll", loss, self.best.loss)
        return is_better(self._primary, value, self.best.value)

    def _shared_values(self, logits: NDArray[Any] | None, step: int) -> tuple[float | None, float | None]:
        """Validation value, and the loss where the protocol needs it; the same on all ranks."""
        finite, value, loss = True, None, None
        if logits is not None:
            finite = bool(np.isfinite(logits).all())
            value = self._scores.value(self._primary, logits) if finite else None
            if finite and self._watch is not None:
                loss = self._scores.loss(logits)
        finite, value, loss = broadcast_object(self._group, (finite, value, loss))
        if not finite:
            raise DivergenceError(f"validation outputs are not finite after step {step} of {self._steps}")
        return value, loss

    def _require_selectable(self, outputs: int) -> None:
        images = len(self._feed)
        if self._watch is not None and not self._scores.is_defined(None, outputs):
            raise DataError(
                f"none of the {images} validation images has a label, so there is no validation loss, by which the "
                "protocol selects, lowers the learning rate or stops; give validation images or another schedule"
            )
        if self._protocol.select != "best_val":
            return
        if not self._scores.is_defined(self._primary, outputs):
            raise DataError(
                f"{self._primary} is not defined on the {images} validation images (too few classes are labelled), so "
                "it cannot select weights; give more validation images or set protocol.select: last"
            )
