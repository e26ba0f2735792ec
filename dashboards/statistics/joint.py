"""Several cells at once: their means and the covariance of those means, seeds and patients together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from dashboards.statistics.contrasts import NO_COMMON_SEEDS, Runs, common_seeds, linear_contrast
from dashboards.statistics.predictions import FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class JointEstimate:
    """K cells over the seeds that all of them have.

    Attributes:
        means: (K,) means over those seeds.
        covariance: (K, K) of the means; that of a difference is as in ``contrast``. NaN where it is undefined.
        df: Smallest degrees of freedom of a difference; inf if no two cells differ in anything.
        n_seeds: Common seeds.
    """

    means: FloatArray
    covariance: FloatArray
    df: float
    n_seeds: int

    @property
    def se_of_differences(self) -> FloatArray:
        """(K, K) standard error of each difference of two means."""
        own = np.diag(self.covariance)
        return np.asarray(np.sqrt(np.clip(own[:, None] + own - 2 * self.covariance, 0.0, None)))


def joint_estimate(cells: Sequence[Runs]) -> JointEstimate:
    """Means and covariance of cells on one evaluation set.

    ``cov(i, j) = (var(i) + var(j) - var(i - j)) / 2`` from the variances of ``linear_contrast``.

    Raises:
        ValueError: No cell, or no seed that all cells have.
    """
    seeds, notes = common_seeds([(1.0, runs) for runs in cells])
    if not seeds:
        raise ValueError(f"{'; '.join(notes) or NO_COMMON_SEEDS}; a joint estimate needs seeds that all cells have")
    shared = [{seed: runs[seed] for seed in seeds} for runs in cells]
    alone = [linear_contrast([(1.0, runs)]) for runs in shared]
    covariance = np.diag([estimate.se**2 for estimate in alone])
    df = np.inf
    for i, j in combinations(range(len(cells)), 2):
        pair = linear_contrast([(1.0, shared[i]), (-1.0, shared[j])])
        covariance[i, j] = covariance[j, i] = (covariance[i, i] + covariance[j, j] - pair.se**2) / 2
        df = min(df, pair.df) if pair.se > 0 else df
    means = np.array([estimate.value for estimate in alone])
    return JointEstimate(means=means, covariance=covariance, df=df, n_seeds=len(seeds))


def draw_means(joint: JointEstimate, n_draws: int, rng: np.random.Generator) -> FloatArray:
    """(n_draws, K) plausible means: normal around the estimates with their covariance, so cells move together."""
    return np.asarray(joint.means + rng.standard_normal((n_draws, len(joint.means))) @ factor(joint.covariance).T)


def factor(covariance: FloatArray) -> FloatArray:
    """(K, K) ``root`` with ``root @ root.T`` the nearest positive semi-definite matrix to the covariance."""
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray(vectors * np.sqrt(np.clip(values, 0.0, None)))
