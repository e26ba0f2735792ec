"""A net whose training steps wait for a fixed time, as a program waits for a busy accelerator. Used by ``peers`` and
``chaos``: so a trial takes about as long on every side, however noisy the machine is.
"""

from __future__ import annotations

import hashlib
import math
import os
import time
import uuid
from pathlib import Path

from torch import Tensor, nn

from trainables.ladder_nets import CifarResNet

LOG = "SCALECURVES_PACED_LOG"
"""Names a folder in which forward passes in training are counted (``steps_of_attempts``)."""

ATTEMPTS_APART_S = 3.0
"""Ranks that begin a trial closer together belong to one attempt: fresh ranks take five seconds to come."""


class PacedNet(nn.Module):
    """A small residual network that sleeps before each forward pass in training.

    Args:
        num_classes: Outputs.
        step_s: Seconds to sleep.
    """

    def __init__(self, num_classes: int, step_s: float) -> None:
        super().__init__()
        self.net = CifarResNet(num_classes, depth=8, width=4)
        self._step_s = step_s
        log = os.environ.get(LOG, "")
        weights = self.net.conv1.weight.detach()
        self._file: Path | None = None
        if log and not weights.is_meta:
            # Drawn from the trial's seed, so equal in all its attempts and on all their ranks.
            trial = hashlib.sha256(weights.numpy().tobytes()).hexdigest()[:16]
            self._file = Path(log) / f"{trial}.{time.time_ns()}.{os.getpid()}.{uuid.uuid4().hex[:8]}"

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, num_classes)."""
        if self.training:
            time.sleep(self._step_s)
            if self._file is not None:
                with self._file.open("ab", buffering=0) as file:
                    file.write(b".")
        logits: Tensor = self.net(x)
        return logits


def paced(num_classes: int, step_s: float) -> PacedNet:
    """The factory."""
    return PacedNet(num_classes, step_s)


def steps_of_attempts(log: Path) -> dict[str, list[int]]:
    """Trial (by its initial weights) -> steps of each attempt at it that trained, earliest first.

    Args:
        log: Folder that the nets counted in.
    """
    files: dict[str, list[tuple[float, int]]] = {}
    for file in log.iterdir():
        trial, began, *_ = file.name.split(".")
        files.setdefault(trial, []).append((int(began) / 1e9, file.stat().st_size))
    return {trial: _attempts(sorted(begun)) for trial, begun in files.items()}


def _attempts(begun: list[tuple[float, int]]) -> list[int]:
    """Ranks of one attempt begin within moments of each other; the one that came furthest counts."""
    steps: list[int] = []
    last = -math.inf
    for at, count in begun:
        if at - last > ATTEMPTS_APART_S:
            steps.append(count)
        else:
            steps[-1] = max(steps[-1], count)
        last = at
    return steps


def repeated_steps(attempts: dict[str, list[int]], steps: int) -> float:
    """Most steps trained twice per interruption: of each trial the mean over its interruptions.

    Args:
        attempts: See ``steps_of_attempts``.
        steps: Of a whole trial.
    """
    return max(((sum(a) - steps) / (len(a) - 1) for a in attempts.values() if len(a) > 1), default=0.0)
