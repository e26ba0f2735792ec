"""Training losses on their way from the device to the history, and the shape of the validation curve."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from search_spaces.exceptions import DivergenceError
from trainables.groups import Group, sum_over_ranks

LOSS_WINDOW = 20
"""Steps between two looks at the losses. Each look waits for the device, so a divergence is seen this late at most."""

RISING_DELTA = 0.002
"""Gain of the last third of the evaluations above which validation counts as still rising."""


class LossLog:
    """Losses of the steps since the last evaluation. They stay on the device until somebody looks.

    Args:
        group: The trial's ranks.
        steps: Optimiser steps of the trial, for the message.
    """

    def __init__(self, group: Group, steps: int) -> None:
        self._group, self._steps = group, steps
        self._pending: list[Tensor] = []
        self.values: list[float] = []

    def add(self, share: Tensor) -> None:
        """Take this rank's share of a step's mean loss."""
        self._pending.append(share)

    def look(self, step: int, notice: int = 0) -> int:
        """Sum the pending losses over ranks and bring them to the host. Called by all ranks.

        Args:
            step: Number of the last step added, from 1.
            notice: Severity of an order that one rank has heard; travels with the losses.

        Returns:
            The severity on all ranks.

        Raises:
            DivergenceError: One is not finite; on all ranks.
        """
        if not self._pending:
            return 0
        first = step - len(self._pending) + 1
        carried = torch.stack([*self._pending, torch.full_like(self._pending[0], notice)])
        losses: list[float] = sum_over_ranks(self._group, carried).tolist()
        heard = round(losses.pop())
        self._pending = []
        for offset, loss in enumerate(losses):
            if not math.isfinite(loss):
                raise DivergenceError(f"training loss is {loss} at step {first + offset} of {self._steps}")
        self.values += losses
        return heard

    def take(self) -> list[float]:
        """The losses since the last call."""
        taken, self.values = self.values, []
        return taken


def still_rising(values: list[float | None], metric: str, delta: float = RISING_DELTA) -> bool | None:
    """Whether the best of the last third of the evaluations beats the best of those before by more than ``delta``.

    Args:
        values: Validation values in order; undefined ones (None) are left out.
        metric: Says which direction is better.
        delta: Least gain.

    Returns:
        None with fewer than 3 values.
    """
    known = [value for value in values if value is not None]
    if len(known) < 3:
        return None
    sign = -1 if metric == "nll" else 1
    cut = len(known) - len(known) // 3
    return max(sign * v for v in known[cut:]) > max(sign * v for v in known[:cut]) + delta
