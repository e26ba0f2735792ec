"""What a trial learns and selects by: labels of images, or labels of pixels."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from search_spaces.protocol import Protocol as Recipe
from trainables.batches import ImageSet, masks_of
from trainables.evaluation import Reduce
from trainables.mask_losses import make_mask_loss
from trainables.mask_scores import ValidationRows, as_rows, mask_loss_value, mask_value
from trainables.mixing import Mixture
from trainables.optimisation import make_loss
from trainables.validation_metrics import validation_value


class Objective(Protocol):
    """The loss of training, and what validation says of weights."""

    @property
    def reduce(self) -> Reduce | None:
        """What validation keeps of a batch of logits; None for the logits themselves."""

    def loss(self, logits: Tensor, targets: Tensor, mixture: Mixture | None = None) -> Tensor:
        """Of a ghost batch; a scalar."""

    def value(self, metric: str, kept: NDArray[Any]) -> float | None:
        """The metric on validation; None where it is not defined.

        Args:
            metric: The primary one.
            kept: What ``predict`` gave.
        """

    def validation_loss(self, kept: NDArray[Any]) -> float | None:
        """The loss that selects, lowers the learning rate and stops; None where nothing is labelled."""

    def is_defined(self, metric: str | None, outputs: int) -> bool:
        """Whether validation images define the metric, or for None the loss, whatever is predicted."""


class LabelObjective:
    """Labels of images.

    Args:
        train_set: Whose targets the loss is made for.
        val_set: Whose targets validation is compared with.
        recipe: The protocol.
        outputs: Number of logits.
        device: Of the logits.
    """

    reduce: Reduce | None = None

    def __init__(
        self, train_set: ImageSet, val_set: ImageSet, recipe: Recipe, outputs: int, device: torch.device
    ) -> None:
        self._loss = make_loss(np.asarray(train_set.targets), recipe, outputs, device)
        self._targets = np.asarray(val_set.targets)

    def loss(self, logits: Tensor, targets: Tensor, mixture: Mixture | None = None) -> Tensor:
        """See ``trainables.optimisation.make_loss``."""
        return self._loss(logits, targets, mixture)

    def value(self, metric: str, kept: NDArray[Any]) -> float | None:
        """See ``trainables.validation_metrics``."""
        return validation_value(metric, kept, self._targets)

    def validation_loss(self, kept: NDArray[Any]) -> float | None:
        """Mean negative log-likelihood of the observed labels."""
        return validation_value("nll", kept, self._targets)

    def is_defined(self, metric: str | None, outputs: int) -> bool:
        """Whether some logits would have a value."""
        images = len(self._targets)
        return bool(images) and self.value(metric or "nll", np.zeros((images, outputs))) is not None


class MaskObjective:
    """Labels of pixels.

    Args:
        train_set: With masks.
        val_set: With masks; its targets say what they show.
        recipe: The protocol.
        device: Of the logits.
    """

    def __init__(self, train_set: ImageSet, val_set: ImageSet, recipe: Recipe, device: torch.device) -> None:
        self._loss = make_mask_loss(train_set, recipe.loss, recipe.imbalance == "weights", device)
        masks = masks_of(val_set)
        assert masks is not None
        self.reduce: Reduce | None = ValidationRows(masks.values, self._loss)
        self._shown = np.asarray(val_set.targets)

    def loss(self, logits: Tensor, targets: Tensor, mixture: Mixture | None = None) -> Tensor:
        """See ``trainables.mask_losses``; targets are planes of labels."""
        return self._loss(logits, targets, mixture)

    def value(self, metric: str, kept: NDArray[Any]) -> float | None:
        """See ``trainables.mask_scores.mask_value``."""
        return mask_value(metric, as_rows(kept))

    def validation_loss(self, kept: NDArray[Any]) -> float | None:
        """The protocol's loss over all validation pixels together."""
        return mask_loss_value(self._loss, as_rows(kept))

    def is_defined(self, metric: str | None, outputs: int) -> bool:
        """Whether an image shows a label, or for the loss has a mask."""
        return bool((self._shown == 1).any() if metric else (~np.isnan(self._shown)).any())


def make_objective(
    train_set: ImageSet, val_set: ImageSet, recipe: Recipe, outputs: int, device: torch.device
) -> Objective:
    """The objective of a set: of pixels if it has masks.

    Args:
        train_set: The subset.
        val_set: The images that select.
        recipe: The protocol.
        outputs: Number of logits, of an image or a pixel.
        device: Of the logits.
    """
    if masks_of(train_set) is not None:
        return MaskObjective(train_set, val_set, recipe, device)
    return LabelObjective(train_set, val_set, recipe, outputs, device)
