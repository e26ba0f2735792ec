"""Coefficients over a ladder of scales or amounts: questions that are linear in cells are one ``linear_contrast``."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from dashboards.statistics.contrasts import Runs, Term
from dashboards.statistics.predictions import FloatArray


def slope_coefficients(x: ArrayLike) -> FloatArray:
    """Coefficients that make ``linear_contrast`` the least-squares slope against ``x`` (K,), such as log10 parameters.

    Raises:
        ValueError: All x are equal, or one is not finite.
    """
    values = _finite(x)
    deviation = values - np.mean(values)
    if not np.ptp(values):
        raise ValueError(f"a slope needs at least two different x, got {values.tolist()}")
    return np.asarray(deviation / (deviation @ deviation))


def area_coefficients(amounts: ArrayLike) -> FloatArray:
    """Coefficients that make ``linear_contrast`` the mean height of a curve over the logarithm of the amounts.

    Trapezoidal rule on log amounts, divided by their range: (K,) weights, sum 1. Applied to source minus baseline it is
    the area between their curves as one mean benefit in units of the metric, fixed before results are seen.

    Args:
        amounts: (K,) labelled images or patients, positive, increasing, at least two.

    Raises:
        ValueError: Amounts that are not so.
    """
    n = _finite(amounts)
    if len(n) < 2 or n[0] <= 0 or (np.diff(n) <= 0).any():
        raise ValueError(f"amounts must be positive and increase, at least two, got {n.tolist()}")
    widths = np.diff(np.log(n))
    return np.asarray((np.r_[widths, 0.0] + np.r_[0.0, widths]) / (2.0 * widths.sum()))


def difference_terms(source: Sequence[Runs], baseline: Sequence[Runs], coefficients: ArrayLike) -> list[Term]:
    """Terms of ``sum(coefficient * (source - baseline))`` over the cells of a ladder.

    With ``slope_coefficients`` it is how the benefit grows with scale, with ``area_coefficients`` its mean over
    amounts, with (1, -1) the difference of differences. A claim about scale is a claim about this, not about a benefit
    that is significant here and not there.

    Args:
        source: K cells.
        baseline: K cells of the same scales and amounts.
        coefficients: (K,).

    Raises:
        ValueError: The three differ in length.
    """
    weights = np.asarray(coefficients, dtype=np.float64).tolist()
    if not len(source) == len(baseline) == len(weights):
        raise ValueError(
            f"a ladder needs one baseline and one coefficient per cell, got {len(source)} cells, "
            f"{len(baseline)} baselines, {len(weights)} coefficients"
        )
    pairs = zip(weights, source, baseline, strict=True)
    return [term for weight, a, b in pairs for term in ((weight, a), (-weight, b))]


def _finite(x: ArrayLike) -> FloatArray:
    values = np.asarray(x, dtype=np.float64)
    if values.ndim != 1 or not np.isfinite(values).all():
        raise ValueError(f"a ladder is one row of finite numbers, got {values.tolist()}")
    return values
