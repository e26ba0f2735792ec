"""Where a curve over amounts of labels first reaches a target: the point that is drawn, not the claim.

Reading a crossing off noisy curves finds savings where there are none: for two identical sources on a plateau its
median is about half of the labels. What is claimed comes from ``label_efficiency``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import ArrayLike


class Censoring(StrEnum):
    """On which side of the amounts tried a crossing lies."""

    NONE = "between two amounts"
    LEFT = "at most the smallest amount"
    RIGHT = "not reached at the largest amount"
    UNDEFINED = "no curve or no target"


@dataclass(frozen=True, slots=True, kw_only=True)
class Crossing:
    """A first crossing.

    Attributes:
        amount: In units of the amounts; an upper bound if censored on the left, a lower bound if on the right, NaN if
            undefined.
        censoring: Which of these.
    """

    amount: float
    censoring: Censoring


def crossing_amount(amounts: ArrayLike, curve: ArrayLike, target: float, *, higher_is_better: bool = True) -> Crossing:
    """Smallest amount at which the running best of a curve reaches a target, interpolated in the log of the amount.

    Args:
        amounts: (K,) labelled images, patients or fractions; positive, increasing.
        curve: (K,) mean results; NaN points are left out.
        target: Such as the baseline's mean result with all labels.
        higher_is_better: False for losses.

    Raises:
        ValueError: Amounts that are not positive and increasing, or of another length than the curve.
    """
    x, y = np.asarray(amounts, dtype=np.float64), np.asarray(curve, dtype=np.float64)
    if x.shape != y.shape or x.ndim != 1 or (x <= 0).any() or (np.diff(x) <= 0).any():
        raise ValueError(f"give (K,) positive increasing amounts and (K,) results, got {x.tolist()} and {y.tolist()}")
    known = np.isfinite(y)
    x, y = np.log(x[known]), (y[known] if higher_is_better else -y[known])
    goal = target if higher_is_better else -target
    if not len(y) or not np.isfinite(goal):
        return Crossing(amount=float("nan"), censoring=Censoring.UNDEFINED)
    best = np.maximum.accumulate(y)
    if best[0] >= goal:
        return Crossing(amount=float(np.exp(x[0])), censoring=Censoring.LEFT)
    if best[-1] < goal:
        return Crossing(amount=float(np.exp(x[-1])), censoring=Censoring.RIGHT)
    after = int(np.argmax(best >= goal))
    share = (goal - best[after - 1]) / (best[after] - best[after - 1])
    return Crossing(amount=float(np.exp(x[after - 1] + share * (x[after] - x[after - 1]))), censoring=Censoring.NONE)
