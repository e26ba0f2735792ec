"""A net whose training steps wait for a fixed time, as a program waits for a busy accelerator. Used by ``peers``."""

from __future__ import annotations

import time

from torch import Tensor, nn

from trainables.ladder_nets import CifarResNet


class PacedNet(nn.Module):
    """A small residual network that sleeps before each forward pass in training.

    So a trial takes the same time on every side of a comparison, however busy or noisy the machine is.

    Args:
        num_classes: Outputs.
        step_s: Seconds to sleep.
    """

    def __init__(self, num_classes: int, step_s: float) -> None:
        super().__init__()
        self.net = CifarResNet(num_classes, depth=8, width=4)
        self._step_s = step_s

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, num_classes)."""
        if self.training:
            time.sleep(self._step_s)
        logits: Tensor = self.net(x)
        return logits


def paced(num_classes: int, step_s: float) -> PacedNet:
    """The factory."""
    return PacedNet(num_classes, step_s)
