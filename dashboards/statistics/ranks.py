"""Many sources on many tasks: mean ranks, Friedman's test, Nemenyi's critical difference (Demsar 2006).

Tasks are the sample here: a rank summary says that sources differ over tasks like these, nothing about one task.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from dashboards.statistics.predictions import FloatArray

MIN_TASKS = 5
"""Below this many tasks ranks are shown without a test."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankSummary:
    """Ranks of k sources on N tasks, 1 is best.

    Attributes:
        mean_ranks: Source -> mean rank, best first; ties share their mean rank.
        n_tasks: Tasks on which all sources have a result.
        left_out: Tasks on which some source has none.
        chi2: Friedman's statistic, corrected for ties, k - 1 degrees of freedom; NaN where not tested.
        p: Its p.
        f: Iman and Davenport's less conservative statistic, k - 1 and (k - 1)(N - 1) degrees of freedom.
        f_p: Its p.
        critical_difference: Mean ranks that differ by at least this differ at ``alpha`` (Nemenyi); NaN likewise.
        alpha: Family-wise level over all pairs.
    """

    mean_ranks: dict[str, float]
    n_tasks: int
    left_out: tuple[str, ...]
    chi2: float
    p: float
    f: float
    f_p: float
    critical_difference: float
    alpha: float

    def groups(self) -> tuple[tuple[str, ...], ...]:
        """Maximal sets of neighbours not shown to differ, the bars of a CD diagram; none if not tested."""
        if np.isnan(self.critical_difference):
            return ()
        names, ranks = list(self.mean_ranks), np.array(list(self.mean_ranks.values()))
        ends = [int(np.searchsorted(ranks, rank + self.critical_difference, side="left")) for rank in ranks]
        spans = [(i, end) for i, end in enumerate(ends) if end - i > 1 and (i == 0 or ends[i - 1] < end)]
        return tuple(tuple(names[i:end]) for i, end in spans)


def rank_summary(scores: pd.DataFrame, *, alpha: float = 0.05, higher_is_better: bool = True) -> RankSummary:
    """Ranks over tasks.

    Args:
        scores: One row per task (index), one column per source: mean results. Tasks with a missing cell are left out
            and named: a mean over different tasks compares nothing.
        alpha: Family-wise level.
        higher_is_better: False for losses.

    Raises:
        ValueError: A task or source occurs twice, or fewer than two sources.
    """
    if not scores.index.is_unique or not scores.columns.is_unique or scores.shape[1] < 2:
        raise ValueError(f"scores need one row per task and one column per source, at least two; got {scores.shape}")
    complete = scores.dropna()
    values = complete.to_numpy(dtype=np.float64)
    ranks = stats.rankdata(-values if higher_is_better else values, axis=1)
    means = pd.Series(ranks.mean(axis=0) if len(ranks) else np.nan, index=scores.columns).sort_values(kind="stable")
    n, k = values.shape
    chi2, f = friedman(ranks) if n >= MIN_TASKS else (float("nan"), float("nan"))
    return RankSummary(
        mean_ranks={str(name): float(rank) for name, rank in means.items()},
        n_tasks=n,
        left_out=tuple(str(task) for task in scores.index.difference(complete.index, sort=False)),
        chi2=chi2,
        p=float(stats.chi2.sf(chi2, k - 1)),
        f=f,
        f_p=float(stats.f.sf(f, k - 1, (k - 1) * (n - 1))) if n >= MIN_TASKS else float("nan"),
        critical_difference=critical_difference(n, k, alpha) if n >= MIN_TASKS else float("nan"),
        alpha=alpha,
    )


def friedman(ranks: FloatArray) -> tuple[float, float]:
    """Friedman's chi-squared and Iman and Davenport's F, of (N, k) ranks within tasks.

    ``chi2 = 12 N / (k (k + 1)) * sum((mean rank - (k + 1) / 2)^2)`` (Demsar 2006, section 3.2.2), divided by its tie
    correction ``1 - sum(t^3 - t) / (N (k^3 - k))``; ``F = (N - 1) chi2 / (N (k - 1) - chi2)``.

    Returns:
        (chi2, F): both NaN if all sources tie on all tasks; F is inf if all tasks agree.
    """
    n, k = ranks.shape
    ties = sum(float(((counts := np.unique(row, return_counts=True)[1]) ** 3 - counts).sum()) for row in ranks)
    correction = 1.0 - ties / (n * (k**3 - k))
    if correction <= 0:
        return float("nan"), float("nan")
    return friedman_of_means(ranks.mean(axis=0), n, correction)


def friedman_of_means(mean_ranks: FloatArray, n_tasks: int, correction: float = 1.0) -> tuple[float, float]:
    """``friedman`` of (k,) mean ranks over ``n_tasks`` tasks; ``correction`` is 1 without ties."""
    k = len(mean_ranks)
    chi2 = 12 * n_tasks / (k * (k + 1)) * float(((mean_ranks - (k + 1) / 2) ** 2).sum()) / correction
    room = n_tasks * (k - 1) - chi2
    return chi2, (n_tasks - 1) * chi2 / room if room > 1e-9 * chi2 else float("inf")


def critical_difference(n_tasks: int, n_sources: int, alpha: float = 0.05) -> float:
    """Nemenyi's ``q_alpha sqrt(k (k + 1) / (6 N))``, q the studentized range over sqrt(2) (Demsar 2006, table 5)."""
    q = float(stats.studentized_range.ppf(1 - alpha, n_sources, np.inf)) / np.sqrt(2)
    return float(q * np.sqrt(n_sources * (n_sources + 1) / (6 * n_tasks)))
