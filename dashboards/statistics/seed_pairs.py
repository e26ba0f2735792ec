"""Statistics of pairs of runs, such as the similarity of networks of two seeds: means with intervals over seeds.

Pairs that share a seed are not independent, so the spread of the pairs says too little. A mean over pairs is a
U-statistic, and its variance is taken from leaving out one seed after the other (Arvesen 1969).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from scipy.stats import t

from dashboards.statistics.seeds import NO_SPREAD, SeedKey, seed_spread

S = TypeVar("S", bound=Hashable)
FEWEST_SEEDS = 3
"""With two seeds nothing is left when one of them is left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedInterval:
    """A mean and its interval over seeds; nothing else varies in it.

    Attributes:
        value: The mean; NaN without a value.
        low, high: Student's t interval; NaN where seeds are too few.
        seeds: Seeds in it.
        pairs: Values that it is the mean of.
    """

    value: float
    low: float
    high: float
    seeds: int
    pairs: int


def seed_interval(values: Mapping[SeedKey, float], level: float = 0.95) -> SeedInterval:
    """Mean over seeds (``seed_spread``) and its interval; values that are not finite are left out.

    Args:
        values: Seed -> value.
        level: Of the interval, in (0, 1).
    """
    known = {seed: value for seed, value in values.items() if np.isfinite(value)}
    if not known:
        return _unknown()
    spread = seed_spread(known)
    half = _half_width(spread.variance, spread.df, level)
    return SeedInterval(
        value=spread.mean, low=spread.mean - half, high=spread.mean + half, seeds=len(known), pairs=len(known)
    )


def pair_interval(values: Mapping[tuple[S, S], float], level: float = 0.95) -> SeedInterval:
    """Mean over pairs of different seeds and its jackknife interval.

    With S seeds, m the mean of all pairs and m_s that of the pairs without seed s, the variance of m is
    ``(S - 1) / S * sum_s (m_s - mean(m_s))^2`` with S - 1 degrees of freedom (Arvesen 1969; Efron & Stein 1981).

    Args:
        values: (seed of the first run, seed of the second) -> value; values that are not finite are left out.
        level: Of the interval, in (0, 1).
    """
    known = {pair: value for pair, value in values.items() if np.isfinite(value)}
    if not known:
        return _unknown()
    seeds = list(dict.fromkeys(seed for pair in known for seed in pair))
    mean = float(np.mean(list(known.values())))
    left = [[value for pair, value in known.items() if seed not in pair] for seed in seeds]
    half = float("nan")
    if len(seeds) >= FEWEST_SEEDS and all(left):
        without = np.array([np.mean(rest) for rest in left])
        variance = (len(seeds) - 1) / len(seeds) * float(((without - without.mean()) ** 2).sum())
        half = _half_width(variance, len(seeds) - 1, level)
    return SeedInterval(value=mean, low=mean - half, high=mean + half, seeds=len(seeds), pairs=len(known))


def _half_width(variance: float, df: float, level: float) -> float:
    if not df > 0 or not np.isfinite(variance):
        return float("nan")
    return 0.0 if variance < NO_SPREAD**2 else float(t.ppf(0.5 + level / 2, df) * np.sqrt(variance))


def _unknown() -> SeedInterval:
    nan = float("nan")
    return SeedInterval(value=nan, low=nan, high=nan, seeds=0, pairs=0)
