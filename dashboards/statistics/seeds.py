"""How far a result would move with other seeds.

A plain list of seeds changes the subset and everything random in training together; the two are then confounded. A
study that crosses them (every subset seed with every init seed) lets the variance be split. All of it is conditional on
the pool of training images: at full data every seed trains on the same images, so only training noise is left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from scipy.stats import permutation_test

from dashboards.statistics.predictions import FloatArray
from search_spaces.amounts import Seed

SeedKey = int | str | tuple[int, int] | Seed
"""What pairs runs: a seed, or (subset seed, init seed)."""

_EXACT_SIGNS = 15
"""Pairs up to which every pattern of signs is tried."""

NO_SPREAD = 1e-12
"""Standard deviations below this are rounding, not variation."""


class SeedDesign(StrEnum):
    """What varies between the seeds of a result."""

    SINGLE = "one seed: nothing varies"
    CONFOUNDED = "subset and optimisation vary together"
    SUBSET = "only the subset varies"
    OPTIMISATION = "only initialisation and optimisation vary"
    CROSSED = "subset and optimisation vary separately"
    INCOMPLETE = "subset and optimisation are crossed incompletely"


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedSpread:
    """Mean of a result over seeds and the variance of that mean.

    Attributes:
        mean: The mean, by ``weights``.
        variance: Variance of the mean; NaN with one seed, 0 if all agree.
        df: Degrees of freedom of ``variance``; 0 with one seed.
        weights: Seed -> weight in the mean, sum 1.
        design: What varies between the seeds.
        subset_variance: Variance of one run due to the subset; None unless crossed.
        optimisation_variance: Variance of one run due to initialisation and optimisation; None unless crossed.
        residual_variance: Variance of one run due to their interaction; None unless crossed.
        levels: Numbers of subset seeds and of init seeds where they are crossed, else (1, 1).
    """

    mean: float
    variance: float
    df: float
    weights: dict[SeedKey, float]
    design: SeedDesign
    subset_variance: float | None = None
    optimisation_variance: float | None = None
    residual_variance: float | None = None
    levels: tuple[int, int] = (1, 1)


def seed_spread(values: Mapping[SeedKey, float]) -> SeedSpread:
    """Mean over seeds and its variance, by the design that the seeds form.

    Separate seeds: ``s^2 / S``. Crossed seeds: the two-way random-effects variance of the mean (below). An incomplete
    crossing: means per subset seed and per init seed, whichever varies more.

    Args:
        values: Seed -> result, all finite, at least one. For a contrast, the paired contrast of each seed.

    Raises:
        ValueError: There is no value.
    """
    if not values:
        raise ValueError("a spread over seeds needs at least one seed")
    design = seed_design(tuple(values))
    if design is SeedDesign.CROSSED:
        return _crossed(values)
    if design is SeedDesign.INCOMPLETE:
        return _incomplete(values)
    variance, df = _one_way(list(values.values()))
    weights = dict.fromkeys(values, 1.0 / len(values))
    return SeedSpread(mean=_mean(values, weights), variance=variance, df=df, weights=weights, design=design)


def sign_flip_p(differences: Sequence[float] | FloatArray) -> float:
    """Two-sided p of "the mean difference is 0" by flipping the signs of paired differences (Fisher 1935).

    Exact up to 2^15 sign patterns, beyond that 9,999 drawn ones (always the same). It assumes only that differences
    are symmetric about 0, and cannot fall below ``2 / 2^S``: 0.0625 with five seeds.

    Args:
        differences: (S,) one per paired seed.

    Returns:
        NaN with fewer than two finite differences.
    """
    finite = np.asarray([value for value in differences if np.isfinite(value)], dtype=float)
    if len(finite) < 2:
        return float("nan")
    found = permutation_test(
        (finite,),
        lambda sample, axis: np.mean(sample, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=2 ** len(finite) if len(finite) <= _EXACT_SIGNS else 9_999,
        rng=np.random.default_rng(0),
    )
    return float(found.pvalue)


def seed_design(keys: Sequence[SeedKey]) -> SeedDesign:
    """What varies between seeds, read off their subset and init parts."""
    levels = [_levels(key) for key in keys]
    subsets, inits = {s for s, _ in levels}, {i for _, i in levels}
    if len(keys) == 1:
        return SeedDesign.SINGLE
    if len(keys) == len(subsets) == len(inits):
        return SeedDesign.CONFOUNDED
    if len(inits) == 1:
        return SeedDesign.SUBSET
    if len(subsets) == 1:
        return SeedDesign.OPTIMISATION
    return SeedDesign.CROSSED if len(keys) == len(subsets) * len(inits) else SeedDesign.INCOMPLETE


def _levels(key: SeedKey) -> tuple[int | str, int | str]:
    if isinstance(key, Seed):
        return key.subset, key.init
    return key if isinstance(key, tuple) else (key, key)


def _one_way(values: Sequence[float] | FloatArray) -> tuple[float, float]:
    if len(values) < 2:
        return float("nan"), 0.0
    sd = float(np.std(values, ddof=1))
    return (0.0 if sd < NO_SPREAD else sd**2 / len(values)), float(len(values) - 1)


def _mean(values: Mapping[SeedKey, float], weights: Mapping[SeedKey, float]) -> float:
    return float(sum(weights[key] * value for key, value in values.items()))


def _crossed(values: Mapping[SeedKey, float]) -> SeedSpread:
    """Two-way random effects, one run per (subset, init).

    With S subsets and K inits the mean has variance ``(MS_subset + MS_init - MS_residual) / (SK)`` in expectation
    (Searle, Casella & McCulloch 1992, chapter 4); it is taken as no less than ``max(MS_subset, MS_init) / (SK)``.
    Degrees of freedom by Satterthwaite. Where neither main effect shows, the interaction alone is taken as the noise.
    """
    grid = _grid(values)
    s, k = grid.shape
    by_subset, by_init, mean = grid.mean(axis=1), grid.mean(axis=0), grid.mean()
    ms_subset = k * float(((by_subset - mean) ** 2).sum()) / (s - 1)
    ms_init = s * float(((by_init - mean) ** 2).sum()) / (k - 1)
    rest = grid - by_subset[:, None] - by_init + mean
    ms_rest = float((rest**2).sum()) / ((s - 1) * (k - 1))
    variance = max(ms_subset + ms_init - ms_rest, ms_subset, ms_init) / (s * k)
    noise = ms_subset**2 / (s - 1) + ms_init**2 / (k - 1)
    if not noise > 0:
        variance, noise = ms_rest / (s * k), ms_rest**2 / ((s - 1) * (k - 1))
    negligible = float(np.std(grid)) < NO_SPREAD
    return SeedSpread(
        mean=float(mean),
        variance=0.0 if negligible else variance,
        df=float(s * k - 1) if negligible else max(1.0, (variance * s * k) ** 2 / noise),
        weights=dict.fromkeys(values, 1.0 / len(values)),
        design=SeedDesign.CROSSED,
        subset_variance=max(0.0, (ms_subset - ms_rest) / k),
        optimisation_variance=max(0.0, (ms_init - ms_rest) / s),
        residual_variance=ms_rest,
        levels=(s, k),
    )


def _grid(values: Mapping[SeedKey, float]) -> FloatArray:
    by_level = {_levels(key): value for key, value in values.items()}
    subsets, inits = (sorted({level[axis] for level in by_level}, key=str) for axis in (0, 1))
    return np.array([[by_level[s, i] for i in inits] for s in subsets])


def _incomplete(values: Mapping[SeedKey, float]) -> SeedSpread:
    levels = {key: _levels(key) for key in values}
    subsets = {subset for subset, _ in levels.values()}
    sizes = {subset: sum(s == subset for s, _ in levels.values()) for subset in subsets}
    weights = {key: 1.0 / (len(subsets) * sizes[subset]) for key, (subset, _) in levels.items()}
    spreads = []
    for axis in (0, 1):
        names = {level[axis] for level in levels.values()}
        means = [np.mean([v for key, v in values.items() if levels[key][axis] == name]) for name in names]
        spreads.append(_one_way(np.array(means)))
    variance, df = max(spreads)
    return SeedSpread(
        mean=_mean(values, weights), variance=variance, df=df, weights=weights, design=SeedDesign.INCOMPLETE
    )
