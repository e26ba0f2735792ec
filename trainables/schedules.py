"""Learning rates over the steps of a trial, and what validation losses do: decay on a plateau, early stopping."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import asdict, dataclass
from typing import Any

from search_spaces.protocol import Protocol

DECAY_FACTOR = 0.1
"""``decay_factor`` if a protocol gives none; that of torch's MultiStepLR and ReduceLROnPlateau."""

THRESHOLD = 1e-4
"""``threshold`` if a protocol gives none; that of ReduceLROnPlateau."""

LEAST_CHANGE = 1e-8
"""Smaller changes of the learning rate are not made, as in ReduceLROnPlateau (its ``eps``)."""


def learning_rate(protocol: Protocol, step: int, steps: int) -> float:
    """Learning rate of optimiser step ``step`` (from 0) of ``steps``, before what a plateau makes of it.

    With w warm-up steps: lr (step + 1) / (w + 1) before step w, which would be 0 one step before the first and reaches
    the peak at step w (lr step / w where warm-up starts at zero); then constant, lr factor^n after n milestones, or
    lr (1 + cos(pi (step - w) / (steps - w))) / 2 (Loshchilov and Hutter 2017, eq. 5, one cycle).

    Args:
        protocol: The recipe, settled for its subset (``trainables.steps.settled``).
        step: From 0.
        steps: Of the whole trial.
    """
    assert protocol.warmup_steps != "hyperrule"
    warmup = round(protocol.warmup_fraction * steps) if protocol.warmup_steps is None else protocol.warmup_steps
    if step < warmup:
        share = step / warmup if protocol.warmup_start == "zero" else (step + 1) / (warmup + 1)
        return protocol.lr * share
    if protocol.schedule == "cosine":
        return protocol.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))
    if protocol.schedule == "multistep":
        assert isinstance(protocol.milestones, tuple)
        passed = bisect_right(protocol.milestones, step)
        return protocol.lr * _decay_factor(protocol) ** passed
    return protocol.lr


def _decay_factor(protocol: Protocol) -> float:
    return DECAY_FACTOR if protocol.decay_factor is None else protocol.decay_factor


@dataclass(slots=True)
class _Course:
    """What has become of the validation losses so far; all that a checkpoint keeps.

    Attributes:
        lr: Learning rate that the plateaus so far have left.
        best: Lowest loss, by more than the threshold, that the learning rate looks at.
        bad: Evaluations since it, or since the last decay.
        lowest: Lowest loss.
        waited: Evaluations since it.
        ended: Whether training is over.
    """

    lr: float
    best: float = math.inf
    bad: int = 0
    lowest: float = math.inf
    waited: int = 0
    ended: bool = False


class LossWatch:
    """Lowers the learning rate when the validation loss stops improving, and says when training is over.

    The decay is that of torch's ReduceLROnPlateau (mode min, relative threshold, no cooldown), whose rule is followed
    number by number; it knows no optimiser, so that warm-up and layer-wise rates stay what they are.

    Args:
        protocol: The recipe.
    """

    def __init__(self, protocol: Protocol) -> None:
        self._protocol = protocol
        self._course = _Course(protocol.lr)

    @property
    def scale(self) -> float:
        """What the schedule's learning rate is multiplied by."""
        return self._course.lr / self._protocol.lr

    @property
    def has_ended(self) -> bool:
        """Whether training is over before its budget is spent."""
        return self._course.ended

    def take(self, loss: float) -> None:
        """Take the validation loss of the next evaluation."""
        course, protocol = self._course, self._protocol
        if loss < course.lowest:
            course.lowest, course.waited = loss, 0
        else:
            course.waited += 1
        if protocol.schedule == "plateau":
            self._lower_on_plateau(loss)
        impatient = protocol.stop_patience is not None and course.waited > protocol.stop_patience
        course.ended = impatient or (protocol.min_lr is not None and course.lr < protocol.min_lr)

    def _lower_on_plateau(self, loss: float) -> None:
        course, protocol = self._course, self._protocol
        threshold = THRESHOLD if protocol.threshold is None else protocol.threshold
        if loss < course.best * (1 - threshold):
            course.best, course.bad = loss, 0
        else:
            course.bad += 1
        assert protocol.patience is not None
        if course.bad > protocol.patience:
            lower = course.lr * _decay_factor(protocol)
            course.lr = lower if course.lr - lower > LEAST_CHANGE else course.lr
            course.bad = 0

    def state_dict(self) -> dict[str, Any]:
        """All that a later attempt needs."""
        return asdict(self._course)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from ``state_dict()``."""
        self._course = _Course(**state)
