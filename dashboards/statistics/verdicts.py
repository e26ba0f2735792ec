"""From an estimate to a word, and what is missing where there is none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.stats import norm

from dashboards.statistics.contrasts import Estimate

Verdict = Literal["helps, meaningfully", "helps", "no meaningful difference", "hurts", "undecided"]


def classify(
    estimate: Estimate, p_adjusted: float, delta: float, *, alpha: float = 0.05, higher_is_better: bool = True
) -> Verdict:
    """The verdict on a contrast "source minus baseline".

    In this order: the 90 % interval (``1 - 2 alpha``) lies inside +-delta: *no meaningful difference*, significant or
    not, for differences below delta were declared to be of no practical meaning. Adjusted p below alpha and the
    interval above delta: *helps, meaningfully*; above 0: *helps*; below 0: *hurts*. Else, or without a test:
    *undecided*.

    Args:
        estimate: The contrast.
        p_adjusted: Its p after correction for the family; NaN if it was not tested.
        delta: Smallest difference of practical meaning, in units of the metric.
        alpha: Error level.
        higher_is_better: False for nll and brier.
    """
    if np.isnan(p_adjusted) or not estimate.se > 0:
        return "undecided"
    inner_low, inner_high = estimate.interval(1 - 2 * alpha)
    if -delta < inner_low and inner_high < delta:
        return "no meaningful difference"
    low, high = (estimate.low, estimate.high) if higher_is_better else (-estimate.high, -estimate.low)
    if p_adjusted >= alpha or low <= 0 <= high:
        return "undecided"
    if high < 0:
        return "hurts"
    return "helps, meaningfully" if low > delta else "helps"


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """What more would decide an undecided contrast.

    Attributes:
        n_seeds: Least seeds in all, with the same patients; None if no number of seeds is enough or it is not known.
        n_patients: Least test patients in all, with the same seeds; None likewise.
        dominated_by: The larger source of variance.
    """

    n_seeds: int | None
    n_patients: int | None
    dominated_by: Literal["patients", "seeds"]


def what_is_missing(estimate: Estimate, delta: float, *, alpha: float = 0.05) -> Missing | None:
    """The smallest S' or P' with ``z * sqrt(V_case P/P' + V_seed S/S') < delta``; None if nothing is known.

    A planning figure: it takes today's variances for true, and holds on the condition that they stay. Without patient
    data it is about seeds alone.
    """
    v_case = 0.0 if estimate.seeds_only else estimate.v_case
    if not np.isfinite(v_case) or not estimate.se > 0 or delta <= 0:
        return None
    room = (delta / float(norm.ppf(1 - alpha / 2))) ** 2
    v_seed = 0.0 if np.isnan(estimate.v_seed) else estimate.v_seed
    return Missing(
        n_seeds=None if np.isnan(estimate.v_seed) else _needed(v_seed, estimate.n_seeds, room - v_case),
        n_patients=None if estimate.seeds_only else _needed(v_case, estimate.n_patients, room - v_seed),
        dominated_by="patients" if v_case >= v_seed and not estimate.seeds_only else "seeds",
    )


def _needed(variance: float, n: int, room: float) -> int | None:
    """Least count, not below today's, at which ``variance * n / count < room``."""
    return None if room <= 0 else max(n, int(np.floor(variance * n / room)) + 1)
