"""The tests that the papers used, for comparison with ours: seeds only, one fixed test set.

They answer a narrower question (other seeds, the same patients), and their 95 % intervals cover the expected result on
new patients in as little as 37 % of studies. Nothing is decided by them.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy import stats

from dashboards.statistics.contrasts import Runs
from dashboards.statistics.seeds import NO_SPREAD


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedTest:
    """A t-test over seeds. NaN where it is undefined.

    Attributes:
        difference: Mean of A minus mean of B.
        low: Lower end of the 95 % interval.
        high: Upper end.
        df: Degrees of freedom.
        p: Two-sided p.
        n_a: Seeds of A.
        n_b: Seeds of B.
    """

    difference: float
    low: float
    high: float
    df: float
    p: float
    n_a: int
    n_b: int

    def one_sided_p(self, *, higher_is_better: bool = True) -> float:
        """p of "A is not better than B"; t is symmetric, so it follows from the two-sided p and the sign."""
        better = self.difference > 0 if higher_is_better else self.difference < 0
        return self.p / 2 if better else 1 - self.p / 2


def unpaired_t_test(runs_a: Runs, runs_b: Runs, *, equal_variances: bool = False) -> SeedTest:
    """Two independent samples of seeds: Welch's test, or Student's with ``equal_variances``.

    The "independent two-sample t-test over ten runs" of transfer-learning papers (Hosseinzadeh Taher et al. 2021).
    Seeds need not be shared, and nothing is paired.

    Args:
        runs_a: Seed -> run of A; undefined runs are left out.
        runs_b: Likewise of B.
        equal_variances: Pool the two variances.

    Returns:
        All NaN but the counts with fewer than two seeds on a side; p and interval NaN if neither side varies.
    """
    a, b = (_defined(run.value for run in runs.values()) for runs in (runs_a, runs_b))
    nan = float("nan")
    if min(len(a), len(b)) < 2:
        return SeedTest(difference=nan, low=nan, high=nan, df=nan, p=nan, n_a=len(a), n_b=len(b))
    difference = float(np.mean(a) - np.mean(b))
    if max(np.ptp(a), np.ptp(b)) < NO_SPREAD:
        return SeedTest(difference=difference, low=nan, high=nan, df=nan, p=nan, n_a=len(a), n_b=len(b))
    with warnings.catch_warnings():  # one side alone may agree to rounding: its variance is then 0, as it should be
        warnings.filterwarnings("ignore", "Precision loss occurred", RuntimeWarning)
        found = stats.ttest_ind(a, b, equal_var=equal_variances)
    low, high = found.confidence_interval(0.95)
    return SeedTest(
        difference=difference,
        low=float(low),
        high=float(high),
        df=float(found.df),
        p=float(found.pvalue),
        n_a=len(a),
        n_b=len(b),
    )


def _defined(values: Iterable[float]) -> list[float]:
    return [value for value in values if np.isfinite(value)]
