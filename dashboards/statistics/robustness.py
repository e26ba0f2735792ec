"""From the in-domain test to a shifted set: loss, retention, effective robustness.

The patients of the two sets are different people, so their variances add; seeds stay paired, because one run is scored
on both. Patients that the sets do share enter with their covariance (``patient_variance``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import linregress, norm

from dashboards.statistics.contrasts import Estimate, Runs, Scale, linear_contrast
from dashboards.statistics.metrics import higher_is_better
from dashboards.statistics.predictions import FloatArray
from dashboards.statistics.uncertainty import AucSides, Influence

MIN_LINE_MODELS = 3
"""Models that a line of expected performance needs at least."""

NO_LEVEL = "in-domain performance is not above the floor: no ratio"
NO_LINE = "the line is not estimable"
GIVEN_THE_LINE = "conditional on the fitted line"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbitLine:
    """Shifted against in-domain performance of models, on probit axes (Taori et al. 2020; Miller et al. 2021).

    ``probit(shifted) = intercept + slope * probit(in_domain)``.

    Attributes:
        intercept: NaN if not estimable.
        slope: NaN likewise.
        models: Models that it was fitted to.
        left_out: Models whose values are not inside (0, 1), on which a probit is undefined.
    """

    intercept: float
    slope: float
    models: int
    left_out: int

    def expected(self, in_domain: ArrayLike) -> FloatArray:
        """Performance on the shifted set that models of this in-domain performance have; NaN outside (0, 1)."""
        return np.asarray(norm.cdf(self.intercept + self.slope * norm.ppf(_inside(in_domain))))

    def gradient(self, in_domain: float) -> float:
        """Derivative of ``expected``; NaN outside (0, 1)."""
        q = norm.ppf(_inside(in_domain))
        return float(self.slope * norm.pdf(self.intercept + self.slope * q) / norm.pdf(q))


def mean_loss(metric: str, pairs: Sequence[tuple[Runs, Runs]], *, level: float = 0.95) -> Estimate:
    """Mean over pairs of first minus second, signed so that a positive number is worse performance in the second.

    Args:
        metric: Name of the metric; says which direction is worse.
        pairs: (in-domain, shifted) runs of one cell each, or any two sets of patients; paired by seed.
        level: Nominal coverage.

    Raises:
        ValueError: There is no pair.
    """
    if not pairs:
        raise ValueError("a mean loss needs at least one pair of runs")
    weight = (1.0 if higher_is_better(metric) else -1.0) / len(pairs)
    terms = [term for first, second in pairs for term in ((weight, first), (-weight, second))]
    return linear_contrast(terms, level=level)


def retention(in_domain: Runs, shifted: Runs, *, floor: float = 0.0, level: float = 0.95) -> Estimate:
    """``(shifted - floor) / (in_domain - floor)`` of the means over common seeds.

    A ratio needs a true zero: errors and scores have 0, an AUC its chance level 0.5. For errors (nll, brier) it is the
    factor by which they grow. The variance is that of the linearised ratio; the interval is symmetric in the logarithm.

    Args:
        in_domain: Seed -> metric in domain.
        shifted: Seed -> the same run's on the shifted set.
        floor: Value of a model that knows nothing, for metrics without a zero of their own.
        level: Nominal coverage.

    Returns:
        The ratio; NaN with a note if the in-domain mean is not above the floor. No p: compare the interval with 1.
    """
    below = linear_contrast([(1.0, in_domain), (0.0, shifted)], level=level).value - floor
    above = linear_contrast([(0.0, in_domain), (1.0, shifted)], level=level).value - floor
    if not below > 0:
        nothing = linear_contrast([(1.0, in_domain), (0.0, shifted)], level=level)
        nan = float("nan")
        return replace(nothing, value=nan, low=nan, high=nan, se=nan, df=nan, p=nan, notes=(*nothing.notes, NO_LEVEL))
    ratio = above / below
    moved = linear_contrast([(1.0 / below, shifted), (-ratio / below, in_domain)], level=level)
    scale = Scale.LOG if ratio > 0 else Scale.LINEAR
    found = replace(moved, value=ratio, p=float("nan"), scale=scale)
    low, high = found.interval(level)
    return replace(found, low=low, high=high)


def probit_line(in_domain: ArrayLike, shifted: ArrayLike) -> ProbitLine:
    """Least-squares line through models on probit axes.

    Args:
        in_domain: (K,) accuracy or AUC in (0, 1) of the models that define what is expected (the baselines).
        shifted: (K,) of the same models on the shifted set.

    Returns:
        The line; NaN with fewer than three usable models or if all have the same in-domain value.

    Raises:
        ValueError: Shapes that differ.
    """
    x, y = np.asarray(in_domain, dtype=np.float64), np.asarray(shifted, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"in_domain and shifted must both have shape (K,), got {x.shape} and {y.shape}")
    usable = (x > 0) & (x < 1) & (y > 0) & (y < 1)
    models, left_out = int(usable.sum()), int((~usable).sum())
    if models < MIN_LINE_MODELS or np.ptp(x[usable]) == 0:
        return ProbitLine(intercept=float("nan"), slope=float("nan"), models=models, left_out=left_out)
    fitted = linregress(norm.ppf(x[usable]), norm.ppf(y[usable]))
    return ProbitLine(intercept=float(fitted.intercept), slope=float(fitted.slope), models=models, left_out=left_out)


def effective_robustness(line: ProbitLine, in_domain: Runs, shifted: Runs, *, level: float = 0.95) -> Estimate:
    """Shifted performance minus what the line expects from the in-domain one (Taori et al. 2020, section 2).

    Each run's expectation is linearised at its own in-domain value, so patients of both sets and seeds enter the
    variance. The line is taken as given; its own uncertainty is not part of the interval.

    Args:
        line: Fitted to the baselines.
        in_domain: Seed -> accuracy or AUC in domain.
        shifted: Seed -> the same run's on the shifted set.
        level: Nominal coverage.
    """
    expected = {seed: _expected(line, influence) for seed, influence in in_domain.items()}
    found = linear_contrast([(1.0, shifted), (-1.0, expected)], level=level)
    return replace(found, notes=(*found.notes, GIVEN_THE_LINE if np.isfinite(line.slope) else NO_LINE))


def _expected(line: ProbitLine, influence: Influence) -> Influence:
    return scaled_influence(influence, float(line.expected(influence.value)), line.gradient(influence.value))


def scaled_influence(influence: Influence, value: float, slope: float) -> Influence:
    """A smooth function of a metric: its value, and its derivative as the factor of contributions (delta method)."""
    sides = influence.sides
    if sides is not None:
        sides = AucSides(
            positive=sides.positive * slope,
            negative=sides.negative * slope,
            n_positive=sides.n_positive,
            n_negative=sides.n_negative,
            auc=sides.auc,
        )
    return replace(influence, value=value, psi=influence.psi * slope, sides=sides)


def _inside(values: ArrayLike) -> FloatArray:
    x = np.asarray(values, dtype=np.float64)
    return np.where((x > 0) & (x < 1), x, np.nan)
