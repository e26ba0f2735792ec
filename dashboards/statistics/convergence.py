"""How soon training reaches a threshold: in steps or GPU-hours, with what was not observed said so.

A run is evaluated now and then, so the moment of reaching lies between two evaluations (interval-censored); a run that
does not reach it within its budget is later than the budget (right-censored). Neither is a number, and neither is
dropped: medians and their intervals are those of order statistics, which censoring at the end leaves valid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import binom

from dashboards.statistics.seeds import SeedKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """When a run reached a threshold, in the unit of its budget axis.

    Attributes:
        after: Last evaluation before it stayed above; 0 if the first one was.
        by: Evaluation by which it was reached; inf if it never was.
    """

    after: float
    by: float

    @property
    def censored(self) -> bool:
        """Whether it was not reached within the budget."""
        return bool(np.isinf(self.by))


@dataclass(frozen=True, slots=True, kw_only=True)
class MedianTime:
    """Median over seeds of the time to a threshold, or of a ratio of two such times.

    Attributes:
        low: Lower end of the interval.
        median_low: Lower bound of the median: from ``after`` of the runs.
        median_high: Upper bound: from ``by``; inf if half of the runs are censored.
        high: Upper end of the interval; inf if it is not observed.
        coverage: Exact coverage of the interval: with five seeds at most 0.9375, whatever is asked.
        n_seeds: Seeds.
        n_censored: Seeds whose run did not reach the threshold.
    """

    low: float
    median_low: float
    median_high: float
    high: float
    coverage: float
    n_seeds: int
    n_censored: int


def threshold(baseline: float, chance: float, share: float) -> float:
    """Threshold common to all sources: ``chance + share * (baseline - chance)``.

    Args:
        baseline: Best validation result of the baseline, mean over its seeds.
        chance: Result of guessing.
        share: Such as 0.9, 0.95 or 0.99; in (0, 1].

    Raises:
        ValueError: Another share.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share must lie in (0, 1], got {share}")
    return chance + share * (baseline - chance)


def time_to_threshold(
    spent: ArrayLike, values: ArrayLike, level: float, *, stay: int = 2, smooth: int = 1, higher_is_better: bool = True
) -> Reached:
    """First evaluation from which the validation metric stays at a threshold.

    Args:
        spent: (E,) budget at each evaluation, increasing and at least 0: steps, epochs or GPU-hours. Compare sources in
            steps and in GPU-hours; at small fractions epochs mislead.
        values: (E,) validation metric; NaN counts as below.
        level: The threshold.
        stay: Evaluations in a row that must reach it, so that one lucky evaluation does not count.
        smooth: Width of the running median over evaluations, odd; 1 for none.
        higher_is_better: False for losses.

    Raises:
        ValueError: Arrays that do not fit, a budget that does not increase, an even or non-positive width.
    """
    x, y = np.asarray(spent, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if x.shape != y.shape or x.ndim != 1 or not len(x) or (np.diff(x) <= 0).any() or x[0] < 0:
        raise ValueError(f"give (E,) increasing budgets of evaluations and (E,) values, got {x.shape} and {y.shape}")
    if stay < 1 or smooth < 1 or smooth % 2 == 0:
        raise ValueError(f"stay is at least 1 and smooth odd, got {stay} and {smooth}")
    smoothed = _running_median(y, smooth)
    above = smoothed >= level if higher_is_better else smoothed <= level
    for first in range(len(x) - stay + 1):
        if above[first : first + stay].all():
            return Reached(after=float(x[first - 1]) if first else 0.0, by=float(x[first]))
    return Reached(after=float(x[-1]), by=float("inf"))


def median_time(runs: Sequence[Reached], *, level: float = 0.95) -> MedianTime:
    """Median over seeds, with the interval of order statistics (exact for any distribution, sign-test inversion).

    Without ties and with a common budget the median is Kaplan and Meier's. Runs censored before the largest uncensored
    time (unequal budgets) count as later than all: the median is then an upper bound.

    Args:
        runs: One per seed.
        level: Coverage asked for.

    Raises:
        ValueError: No run.
    """
    return _median([r.after for r in runs], [r.by for r in runs], sum(r.censored for r in runs), level)


def time_ratio(
    source: Mapping[SeedKey, Reached], baseline: Mapping[SeedKey, Reached], *, level: float = 0.95
) -> MedianTime:
    """Median over common seeds of time of the source over time of the baseline; below 1 the source is faster.

    A ratio is known only within bounds: with the source censored its upper bound is inf, with the baseline censored its
    lower bound is 0; of one with both censored nothing is known.

    Args:
        source: Seed -> when it reached the threshold.
        baseline: Likewise.
        level: Coverage asked for.

    Raises:
        ValueError: No common seed.
    """
    common = [seed for seed in source if seed in baseline]
    if not common:
        raise ValueError(f"no common seed: {list(source)} of the source, {list(baseline)} of the baseline")
    low = [_ratio(source[s].after, baseline[s].by, 0.0) for s in common]
    high = [_ratio(source[s].by, baseline[s].after, float("inf")) for s in common]
    return _median(low, high, sum(source[s].censored or baseline[s].censored for s in common), level)


def area_over_log_steps(steps: ArrayLike, values: ArrayLike) -> float:
    """Mean height of a validation curve over the logarithm of the steps, in units of the metric.

    Args:
        steps: (E,) positive, increasing, at least two.
        values: (E,), finite.

    Raises:
        ValueError: Arrays that are not so.
    """
    x, y = np.asarray(steps, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if x.shape != y.shape or len(x) < 2 or x[0] <= 0 or (np.diff(x) <= 0).any() or not np.isfinite(y).all():
        raise ValueError(f"give at least two positive increasing steps and finite values, got {x.shape} and {y.shape}")
    logs = np.log(x)
    return float(np.trapezoid(y, logs) / (logs[-1] - logs[0]))


def _running_median(values: np.ndarray, width: int) -> np.ndarray:
    half = width // 2
    padded = np.pad(values, half, mode="edge")
    return np.asarray(np.median(np.lib.stride_tricks.sliding_window_view(padded, width), axis=1))


def _ratio(numerator: float, denominator: float, undefined: float) -> float:
    return numerator / denominator if denominator > 0 and not np.isinf(denominator) else undefined


def _median(low: Sequence[float], high: Sequence[float], n_censored: int, level: float) -> MedianTime:
    n = len(low)
    if not n:
        raise ValueError("a median needs at least one run")
    lower, upper = np.sort(low), np.sort(high)
    # Largest rank whose two outer tails leave at least the level; the outermost rank if none does.
    rank = max(1, int(binom.ppf((1 - level) / 2, n, 0.5)))
    while rank > 1 and 1 - 2 * binom.cdf(rank - 1, n, 0.5) < level:
        rank -= 1
    return MedianTime(
        low=float(lower[rank - 1]),
        median_low=_middle(lower),
        median_high=_middle(upper),
        high=float(upper[n - rank]),
        coverage=max(0.0, float(1 - 2 * binom.cdf(rank - 1, n, 0.5))),
        n_seeds=n,
        n_censored=n_censored,
    )


def _middle(ordered: np.ndarray) -> float:
    n = len(ordered)
    return float((ordered[(n - 1) // 2] + ordered[n // 2]) / 2)
