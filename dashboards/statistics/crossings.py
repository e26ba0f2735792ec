"""Where two curves cross: a point that is drawn, and the set of amounts at which the crossing may lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.stats import t as student_t

from dashboards.statistics.contrasts import Estimate, Term, linear_contrast
from dashboards.statistics.predictions import BoolArray, FloatArray

_STEPS = 200
"""Positions between two amounts at which the test is inverted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BenefitCrossing:
    """Where the difference of two curves changes its sign.

    Attributes:
        point: Amount of the first change of sign of the estimates, interpolated in the logarithm of the amount.
        low: Smallest amount at which a difference of 0 is not rejected.
        high: Largest such amount.
        left_censored: Whether ``low`` is the smallest amount tried: the crossing may lie below it.
        right_censored: Whether ``high`` is the largest.
    """

    point: float
    low: float
    high: float
    left_censored: bool
    right_censored: bool


def benefit_crossing(
    amounts: Sequence[float], terms: Sequence[Sequence[Term]], estimates: Sequence[Estimate], *, alpha: float = 0.05
) -> BenefitCrossing | None:
    """The crossing of two curves by test inversion; None if the estimates never change their sign.

    Between two amounts the difference is taken as linear in the logarithm of the amount, so the difference at a share w
    of the way is ``(1 - w) d1 + w d2``, one linear contrast. Positions at which it is not significantly different from
    0 at ``alpha`` (two-sided, the smaller degrees of freedom of the two ends) are the confidence set of a crossing, as
    in Fieller's theorem; ``low`` and ``high`` are its outer ends.

    Args:
        amounts: (K,) positive, increasing.
        terms: (K,) each the terms of ``linear_contrast`` that make the difference at the amount.
        estimates: (K,) those contrasts.
        alpha: Two-sided level.

    Raises:
        ValueError: Amounts that are not positive and increasing, or of another number than terms and estimates.
    """
    x = np.asarray(amounts, dtype=np.float64)
    if not len(x) == len(terms) == len(estimates) or (x <= 0).any() or (np.diff(x) <= 0).any():
        raise ValueError(f"give one contrast for each of positive, increasing amounts, got {x.tolist()}")
    usable = [i for i, estimate in enumerate(estimates) if np.isfinite(estimate.value)]
    values = np.array([estimates[i].value for i in usable])
    changes = np.flatnonzero(values[:-1] * values[1:] < 0)
    if not len(changes):
        return None
    log_x = np.log(x[usable])
    first = int(changes[0])
    share = values[first] / (values[first] - values[first + 1])
    point = float(np.exp(log_x[first] + share * (log_x[first + 1] - log_x[first])))
    places, open_ = [], []
    for left, right in pairwise(usable):
        w = np.linspace(0.0, 1.0, _STEPS + 1)
        places.append(np.log(x[left]) + w * (np.log(x[right]) - np.log(x[left])))
        open_.append(_not_rejected(w, (estimates[left], estimates[right]), (terms[left], terms[right]), alpha))
    position, possible = np.concatenate(places), np.concatenate(open_)
    if not possible.any():  # a steep change between two amounts: the crossing lies between them
        between = slice(first * (_STEPS + 1), (first + 1) * (_STEPS + 1))
        possible[between] = True
    low, high = position[possible].min(), position[possible].max()
    return BenefitCrossing(
        point=point,
        low=float(np.exp(low)),
        high=float(np.exp(high)),
        left_censored=bool(low <= position[0]),
        right_censored=bool(high >= position[-1]),
    )


def _not_rejected(
    w: FloatArray, ends: tuple[Estimate, Estimate], terms: tuple[Sequence[Term], Sequence[Term]], alpha: float
) -> BoolArray:
    """(len(w),) whether 0 is inside the interval at each share of the way; all are where there is no variance."""
    middle = linear_contrast([(0.5 * c, runs) for side in terms for c, runs in side])
    v1, v2 = ends[0].se ** 2, ends[1].se ** 2
    covariance = 2 * middle.se**2 - (v1 + v2) / 2
    df = min(ends[0].df, ends[1].df)
    variance = np.clip((1 - w) ** 2 * v1 + 2 * w * (1 - w) * covariance + w**2 * v2, 0.0, None)
    value = (1 - w) * ends[0].value + w * ends[1].value
    if not np.isfinite(variance).all() or not np.isfinite(df):
        return np.ones(len(w), dtype=bool)
    return np.asarray(np.abs(value) <= student_t.ppf(1 - alpha / 2, df) * np.sqrt(variance))
