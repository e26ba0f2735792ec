"""The cheapest cell within noise of the best: Hsu's multiple comparisons with the best.

Picking the largest of many test results flatters it. Here every cell is compared with the best of the others, all at
once, with one error level for the whole set of statements (Hsu 1984, Annals of Statistics 12:1136; Hsu 1996, Multiple
Comparisons, section 4.2, unequal variances and correlations).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Generic, TypeVar

import numpy as np

from dashboards.statistics.contrasts import MIN_TEST_PATIENTS, NO_COMMON_SEEDS, SEEDS_ONLY, Runs, common_seeds
from dashboards.statistics.joint import factor, joint_estimate
from dashboards.statistics.metrics import widest_difference
from dashboards.statistics.predictions import FloatArray

Name = TypeVar("Name", bound=Hashable)

_QUANTILE_DRAWS = 20_000
"""Draws of the multivariate t; its quantile near 2 then has a standard error of 0.014, its level one of 0.0015."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared(Generic[Name]):
    """One cell against the best of the others.

    Attributes:
        name: The cell.
        difference: Its mean minus the largest mean of the others (losses: their smallest minus its own).
        low: Lower end of the simultaneous interval of "true value minus the best of the others"; at most 0. With few
            seeds Student's t reaches beyond what two values of the metric can differ by (-1 of AUCs): the interval is
            cut there, which costs no coverage, as no true difference lies outside.
        high: Upper end, cut likewise; at least 0.
        may_be_best: Whether the upper end is above 0: the cell is not shown to be worse than the best.
        within_delta: Whether the lower end is above -delta: at most delta worse than the best.
    """

    name: Name
    difference: float
    low: float
    high: float
    may_be_best: bool
    within_delta: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BestSet(Generic[Name]):
    """The cells compared with the best.

    Attributes:
        compared: One entry per cell that could be compared, in the order given.
        level: Probability that all intervals hold together.
        left_out: Cell -> why it could not be compared.
        cheapest: The cell of least cost among those that may be the best or are within delta; None without costs.
        n_seeds: Seeds that all compared cells have; 0 if none were compared.
    """

    compared: tuple[Compared[Name], ...]
    level: float
    left_out: dict[Name, str]
    cheapest: Name | None
    n_seeds: int = 0

    @property
    def members(self) -> tuple[Name, ...]:
        """Cells that may be the best or are within delta of it."""
        return tuple(c.name for c in self.compared if c.may_be_best or c.within_delta)


def compare_with_best(
    cells: Mapping[Name, Runs],
    delta: float,
    *,
    level: float = 0.95,
    higher_is_better: bool = True,
    cost: Mapping[Name, float] | None = None,
    min_test_patients: int = MIN_TEST_PATIENTS,
) -> BestSet[Name]:
    """Which cells may be the best, and which are within delta of it.

    The true best is among ``members`` with at least the nominal probability. Differences are paired by seed, with the
    variances of ``contrast`` and the smallest of their degrees of freedom.

    Args:
        cells: Name -> runs; all on one evaluation set, trained on the same subsets. Cells with fewer patients of a
            class than ``min_test_patients`` are left out and named, and all if they have no seed in common.
        delta: Largest difference of no practical meaning, at least 0.
        level: Simultaneous level.
        higher_is_better: False for losses.
        cost: GPU-hours, parameters or latency of each cell; any unit, the least is sought.
        min_test_patients: See cells.

    Raises:
        ValueError: A negative delta, or a member without a cost.
    """
    if delta < 0:
        raise ValueError(f"delta is at least 0, got {delta}")
    usable, left_out = _usable(cells, min_test_patients)
    compared = _compare(usable, delta, level, higher_is_better) if len(usable) > 1 else ()
    n_seeds = len(next(iter(usable.values()))) if compared else 0
    found = BestSet(compared=compared, level=level, left_out=left_out, cheapest=None, n_seeds=n_seeds)
    if cost is None or not found.members:
        return found
    if missing := [name for name in found.members if name not in cost]:
        raise ValueError(f"no cost is given for {missing}; give one for every cell")
    cheapest = min(found.members, key=lambda name: cost[name])
    return replace(found, cheapest=cheapest)


def _usable(cells: Mapping[Name, Runs], min_test_patients: int) -> tuple[dict[Name, Runs], dict[Name, str]]:
    """Cells restricted to their common seeds, and the others with a reason."""
    left_out: dict[Name, str] = {}
    kept: dict[Name, Runs] = {}
    for name, runs in cells.items():
        known = [run.min_patients for run in runs.values() if not run.without_patients]
        fewest = min(known, default=min_test_patients)
        if not runs:
            left_out[name] = "no finished run"
        elif fewest < min_test_patients:
            left_out[name] = f"{fewest} patients of a class, fewer than {min_test_patients}"
        else:
            kept[name] = runs
    if not kept:
        return {}, left_out
    seeds, notes = common_seeds([(1.0, runs) for runs in kept.values()])
    if not seeds:
        return {}, left_out | dict.fromkeys(kept, notes[-1] if notes else NO_COMMON_SEEDS)
    if len(seeds) == 1 and any(run.without_patients for runs in kept.values() for run in runs.values()):
        return {}, left_out | dict.fromkeys(kept, f"{SEEDS_ONLY}, and one seed")
    return {name: {seed: runs[seed] for seed in seeds} for name, runs in kept.items()}, left_out


def _compare(
    cells: Mapping[Name, Runs], delta: float, level: float, higher_is_better: bool
) -> tuple[Compared[Name], ...]:
    joint = joint_estimate(list(cells.values()))
    names, everyone = list(cells), range(len(cells))
    means = joint.means if higher_is_better else -joint.means
    gap, se = means[:, None] - means, joint.se_of_differences
    critical = [_critical_value(se, joint.df, i, level) for i in everyone]
    widest = min(widest_difference(run.metric) for runs in cells.values() for run in runs.values())
    upper = [max(0.0, _least(gap[i] + critical[i] * se[i], i)) for i in everyone]
    possible = [i for i in everyone if upper[i] > 0 or gap[i].min() >= 0]
    lower = [
        min(0.0, min((gap[i, j] - critical[j] * se[i, j] for j in possible if j != i), default=0.0)) for i in everyone
    ]
    return tuple(
        Compared(
            name=names[i],
            difference=_least(gap[i], i),
            low=float(max(lower[i], -widest)),
            high=float(min(upper[i], widest)),
            may_be_best=i in possible,
            within_delta=bool(lower[i] > -delta),
        )
        for i in everyone
    )


def _critical_value(se: FloatArray, df: float, best: int, level: float) -> float:
    """One-sided simultaneous quantile of the differences of all cells to one.

    ``cov(i - b, k - b) = (var(i - b) + var(k - b) - var(i - k)) / 2``: the variances of pairs fix all correlations.
    """
    others = [k for k in range(len(se)) if k != best and se[k, best] > 0]
    if not others:
        return 0.0
    own = se[others, best]
    covariance = (own[:, None] ** 2 + own**2 - se[np.ix_(others, others)] ** 2) / 2
    return max_t_quantile(covariance / np.outer(own, own), df, level)


def max_t_quantile(correlation: FloatArray, df: float, level: float) -> float:
    """Quantile of the maximum of K variables with a multivariate t distribution.

    By draws from a generator of its own: the same input gives the same answer.

    Args:
        correlation: (K, K), positive semi-definite up to rounding.
        df: Degrees of freedom; inf for the normal.
        level: In (0, 1).
    """
    normal, scale = _draws(len(correlation), df)
    return float(np.quantile((normal @ factor(correlation).T).max(axis=1) / scale, level))


@lru_cache(maxsize=2)  # the cells of a set are compared one after the other, with the same draws
def _draws(k: int, df: float) -> tuple[FloatArray, FloatArray]:
    """(draws, K) standard normal variables, and (draws,) or () of what they are divided by."""
    rng = np.random.default_rng(0)
    normal = rng.standard_normal((_QUANTILE_DRAWS, k))
    return normal, np.sqrt(rng.chisquare(df, _QUANTILE_DRAWS) / df) if np.isfinite(df) else np.ones(())


def _least(row: FloatArray, own: int) -> float:
    return float(np.delete(row, own).min())
