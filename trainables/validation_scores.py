"""What validation says of weights: by labels of images, or by labels of pixels."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from trainables.batches import ImageSet, masks_of
from trainables.evaluation import Reduce
from trainables.mask_losses import MaskLoss
from trainables.mask_scores import ValidationRows, as_rows, mask_loss_value, mask_value
from trainables.validation_metrics import validation_value


class ValidationScores(Protocol):
    """The numbers that select, lower the learning rate and stop."""

    @property
    def reduce(self) -> Reduce | None:
        """What is kept of a batch of logits; None for the logits themselves."""

    def value(self, metric: str, kept: NDArray[Any]) -> float | None:
        """The metric; None where it is not defined.

        Args:
            metric: The primary one.
            kept: What ``trainables.evaluation.predict`` gave.
        """

    def loss(self, kept: NDArray[Any]) -> float | None:
        """The validation loss; None where nothing is labelled."""

    def is_defined(self, metric: str | None, outputs: int) -> bool:
        """Whether the images define the metric, or for None the loss, whatever is predicted."""


class LabelScores:
    """Of labels of images.

    Args:
        targets: (N, L) floats with NaN, or (N,) classes with -1.
    """

    def __init__(self, targets: NDArray[Any]) -> None:
        self._targets = targets

    @property
    def reduce(self) -> Reduce | None:
        """None: logits are kept."""
        return None

    def value(self, metric: str, kept: NDArray[Any]) -> float | None:
        """See ``trainables.validation_metrics``."""
        return validation_value(metric, kept, self._targets)

    def loss(self, kept: NDArray[Any]) -> float | None:
        """Mean negative log-likelihood of the observed labels."""
        return validation_value("nll", kept, self._targets)

    def is_defined(self, metric: str | None, outputs: int) -> bool:
        """Whether some logits would have a value."""
        images = len(self._targets)
        return bool(images) and self.value(metric or "nll", np.zeros((images, outputs))) is not None


class MaskScores:
    """Of labels of pixels.

    Args:
        values: Value of each label in the planes of the masks.
        shown: (N, L) what the masks show: 1, 0, NaN unknown.
        loss: Of training.
    """

    def __init__(self, values: tuple[int, ...], shown: NDArray[Any], loss: MaskLoss) -> None:
        self._rows, self._shown, self._loss = ValidationRows(values, loss), shown, loss

    @property
    def reduce(self) -> Reduce | None:
        """Counts of pixels and sums of the loss."""
        return self._rows

    def value(self, metric: str, kept: NDArray[Any]) -> float | None:
        """See ``trainables.mask_scores.mask_value``."""
        return mask_value(metric, as_rows(kept))

    def loss(self, kept: NDArray[Any]) -> float | None:
        """The protocol's loss over all pixels together."""
        return mask_loss_value(self._loss, as_rows(kept))

    def is_defined(self, metric: str | None, outputs: int) -> bool:
        """Whether an image shows a label, or for the loss has a mask."""
        return bool((self._shown == 1).any() if metric else (~np.isnan(self._shown)).any())


def validation_scores(images: ImageSet, mask_loss: MaskLoss | None) -> ValidationScores:
    """The scores of a set.

    Args:
        images: The images that select.
        mask_loss: Of training, where masks are learnt.
    """
    masks, targets = masks_of(images), np.asarray(images.targets)
    if masks is None or mask_loss is None:
        return LabelScores(targets)
    return MaskScores(masks.values, targets, mask_loss)
