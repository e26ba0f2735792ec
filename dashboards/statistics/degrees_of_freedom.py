"""How many degrees of freedom a variance has that is put together from unequal parts."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from dashboards.statistics.predictions import FloatArray

_LARGEST_FACTOR = 2.0


def satterthwaite(terms: Iterable[tuple[float, float]]) -> float:
    """Degrees of freedom of a sum of independent variance estimates.

    ``(sum C)^2 / sum(C^2 / df)`` (Satterthwaite 1946) with ``C = v (df + 2) / df``: ``(df + 2) / df`` is the second
    moment of a variance estimate over its squared mean. Without it an estimate on few degrees of freedom counts too
    little just when it came out small: in the worst normal case 95 % intervals of three seeds then cover 0.922, with it
    0.939 (``docs/statistics-decisions.md``). It is at most 2, its value for three seeds: two seeds would need 3 and
    cover 0.897 instead of 0.910, but nothing is stated on two seeds, and their interval would be of no use. One term
    keeps its own degrees of freedom.

    Args:
        terms: (variance, degrees of freedom) of each, variances at least 0.

    Returns:
        NaN if all variances are 0.
    """
    weighted = [(variance * min(_LARGEST_FACTOR, (df + 2.0) / df), df) for variance, df in terms]
    noise = sum(variance**2 / df for variance, df in weighted)
    return float(sum(variance for variance, _ in weighted) ** 2 / noise) if noise > 0 else float("nan")


def sample_df(values: FloatArray, n: int) -> float:
    """Degrees of freedom of ``sum(values^2)``, the values of n patients that sum to 0.

    ``3 (sum x^2)^2 / sum x^4 - 1``: Satterthwaite's for values that are normal, each with a variance of its own. It is
    n - 1 where all variances agree and fewer where a few patients carry the sum, as the positives of a rare class do.

    Args:
        values: (P,), 0 for patients who are not among the n.
        n: At least 2.

    Returns:
        In [1, n - 1].
    """
    square = values**2
    if not square.any():
        return float(n - 1)
    return float(np.clip(3.0 * square.sum() ** 2 / (square @ square) - 1.0, 1.0, n - 1))
