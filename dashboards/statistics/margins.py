"""Tests against a margin: equivalent, not worse, worse than it.

The margin is set before results are seen, in units of the metric. Not significantly different is not the same as
equivalent: only these tests, whose null hypothesis is the difference, may say so.
"""

from __future__ import annotations

from scipy.special import stdtr

from dashboards.statistics.contrasts import Estimate


def equivalence_p(estimate: Estimate, delta: float) -> float:
    """p of two one-sided tests (Schuirmann 1987) that a contrast lies outside +-delta; small means equivalent.

    ``p < 0.05`` exactly when the 90 % interval lies inside +-delta. NaN where the contrast has no p itself.

    Args:
        estimate: The contrast, on the linear scale.
        delta: Margin, at least 0.

    Raises:
        ValueError: A negative margin.
    """
    above = noninferiority_p(estimate, delta)
    return max(above, one_sided_p(estimate, delta, below=True)) if above == above else above


def noninferiority_p(estimate: Estimate, delta: float, *, higher_is_better: bool = True) -> float:
    """One-sided p of "the contrast is worse by delta or more"; small means not inferior.

    ``p < 0.025`` exactly when the worse end of the 95 % interval lies within the margin. With ``delta`` 0 it is the
    one-sided test of superiority. NaN where the contrast has no p itself.

    Args:
        estimate: The contrast, on the linear scale.
        delta: Margin, at least 0.
        higher_is_better: False for losses.

    Raises:
        ValueError: A negative margin.
    """
    if delta < 0:
        raise ValueError(f"a margin is at least 0, got {delta}; the direction is given by higher_is_better")
    return one_sided_p(estimate, -delta if higher_is_better else delta, below=not higher_is_better)


def one_sided_p(estimate: Estimate, limit: float, *, below: bool) -> float:
    """p of "the contrast is at least ``limit``" (``below``), or at most; NaN where the contrast has no p itself.

    Args:
        estimate: The contrast, on the linear scale.
        limit: In units of the metric.
        below: Whether small p mean that the contrast lies below the limit; else above it.
    """
    if estimate.p != estimate.p:
        return float("nan")
    distance = (estimate.value - limit) / estimate.se
    return float(stdtr(estimate.df, distance if below else -distance))
