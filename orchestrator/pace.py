"""How fast a run is, and how long it will still take."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.forecast import SecondsModel

LEAST_TRIALS = 3
"""Trials that must have ended before an error of the time left is given."""


@dataclass(frozen=True, slots=True)
class TimeLeft:
    """Expected seconds until a run ends.

    Attributes:
        seconds: Not negative.
        error_s: Two standard errors of it; None while too few trials have ended.
    """

    seconds: float
    error_s: float | None = None

    @property
    def text(self) -> str:
        """Short text: ``about 12 min 05 s left (+- 40 s)``."""
        error = "" if self.error_s is None else f" (± {duration(self.error_s)})"
        return f"about {duration(self.seconds)} left{error}"


def duration(seconds: float) -> str:
    """Short text: ``42 s``, ``3 min 05 s``, ``2 h 10 min``."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


class Pace:
    """Time left, from how long trials took so far: a constant and a part that grows with their work.

    Args:
        costs: Trial id -> expected work in any unit.
        clock: Seconds, never going back.
    """

    def __init__(self, costs: dict[str, float], clock: Callable[[], float] = time.monotonic) -> None:
        self._left = dict(costs)
        self._took: list[tuple[float, float]] = []
        self._clock = clock
        self._started = clock()

    def expect(self, costs: dict[str, float]) -> None:
        """Further trials with their expected work."""
        self._left |= costs

    def finished(self, trial_id: str, seconds: float | None = None) -> None:
        """A trial has ended.

        Args:
            trial_id: Its id.
            seconds: How long it ran; None if it says nothing about others, as after a failure.
        """
        cost = self._left.pop(trial_id, None)
        if cost is not None and seconds is not None:
            self._took.append((cost, seconds))

    def left(self) -> TimeLeft | None:
        """Time left with its error; None before the first trial has ended.

        Each of the n trials that are left differs from what the N that ended predict by their spread, and so does the
        prediction itself, by 1/sqrt(N) of it, alike for all: the variance of the sum is spread^2 (n + n^2/N).
        """
        if not self._left:
            return TimeLeft(0.0)
        if not self._took:
            return None
        took, left = list(self._took), list(self._left.values())  # copies: the driver's note asks from its own thread
        model = SecondsModel(took)
        at_a_time = max(sum(seconds for _, seconds in took) / max(self._clock() - self._started, 1e-9), 1e-9)
        seconds = sum(model.seconds(cost) for cost in left) / at_a_time
        if len(took) < LEAST_TRIALS:
            return TimeLeft(seconds)
        spread = math.sqrt(len(left) + len(left) ** 2 / len(took)) * model.spread_s
        return TimeLeft(seconds, 2 * spread / at_a_time)

    def per_minute(self) -> float | None:
        """Trials that ended per minute; None before the first."""
        return 60 * len(self._took) / max(self._clock() - self._started, 1e-9) if self._took else None
