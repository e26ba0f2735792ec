"""Power laws of error against labels, with the uncertainty of their exponent; shown, and never part of a verdict.

The form is ``pow3``: ``error(n) = floor + scale * n^-exponent`` (Mohr et al. 2022, LCDB; Hestness et al. 2017). Its
parameters are weakly identified: seven points with a noise of 0.005 leave the exponent between 0.36 and 0.54 for a
truth of 0.45, which is why a fit comes with a band of refitted curves and with the error on a point it has not seen.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import OptimizeResult, least_squares

from dashboards.statistics.predictions import FloatArray

MIN_POINTS = 5
MIN_DECADES = 1.5
"""Least points, and least range of amounts in powers of ten, for a fit."""

MAX_EXTRAPOLATION = 2.0
"""Curves are drawn up to this multiple of the largest amount."""

_MAX_EXPONENT = 2.0
_STARTS = 20
_BOUNDARY = 1e-3
"""Exponents this near their bounds, and falls below this share of the largest error, are not identified."""

_SMALLEST_FLOOR = 1e-6
"""Floor as a share of the smallest error below which there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerLaw:
    """A fitted ``floor + scale * n^-exponent``.

    Attributes:
        floor: Error with endless labels, at least 0.
        scale: Positive.
        exponent: In (0, 2].
        cost: Sum of soft-L1 losses at the fit.
        identified: Whether floor and exponent lie inside their bounds and the curve falls at all; else it is one of
            many that fit as well.
        largest: Largest amount of the data.
    """

    floor: float
    scale: float
    exponent: float
    cost: float
    identified: bool
    largest: float

    def predict(self, n: ArrayLike) -> FloatArray:
        """Errors at amounts of any shape.

        Raises:
            ValueError: An amount that is not positive, or above ``MAX_EXTRAPOLATION`` times the largest of the data.
        """
        amounts = np.asarray(n, dtype=np.float64)
        limit = MAX_EXTRAPOLATION * self.largest
        if not ((amounts > 0) & (amounts <= limit * (1 + 1e-9))).all():
            raise ValueError(f"a fit is drawn for amounts in (0, {limit:g}], got {amounts.min():g}..{amounts.max():g}")
        return np.asarray(self.floor + self.scale * amounts**-self.exponent)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """How a fit to all points but the last predicts the last.

    Attributes:
        observed: Error at the last point.
        predicted: By the fit to the others.
        last_seen: By taking the last of the others as it is: what a fit has to beat.
    """

    observed: float
    predicted: float
    last_seen: float

    @property
    def better_than_last_seen(self) -> bool:
        """Whether the fit came closer than the trivial prediction."""
        return abs(self.predicted - self.observed) < abs(self.last_seen - self.observed)


def why_not_fit(n: ArrayLike) -> str:
    """Why amounts do not support a fit, in words; empty if they do."""
    amounts = np.unique(np.asarray(n, dtype=np.float64))
    if len(amounts) < MIN_POINTS:
        return f"{len(amounts)} amounts, a fit needs {MIN_POINTS}"
    decades = float(np.log10(amounts[-1] / amounts[0]))
    return f"amounts span {decades:.2g} decades, a fit needs {MIN_DECADES:g}" if decades < MIN_DECADES else ""


def fit_power_law(n: ArrayLike, error: ArrayLike, se: ArrayLike | None = None, *, seed: int = 0) -> PowerLaw:
    """Fit by least squares on the logarithm of the error, from many starts.

    Residuals ``(log fit - log error) * error / se`` under the soft-L1 loss, parameters in logarithms, the best of 20
    starts, then tight tolerances: one start that stops early gives exponents that are wrong and look certain
    (Besiroglu et al. 2024 on Chinchilla).

    Args:
        n: (K,) labelled images or patients, positive; see ``why_not_fit``.
        error: (K,) in the units of a loss, positive: ``1 - AUC``, nll.
        se: (K,) standard error of each; all alike if not given.
        seed: Of the starts.

    Raises:
        ValueError: Amounts that do not support a fit, or values that are not positive.
    """
    amounts, values, weight = _checked(n, error, se)
    if reason := why_not_fit(amounts):
        raise ValueError(f"no fit: {reason}; draw the points")
    return _fit(amounts, values, weight, _starts(amounts, values, seed))


def power_law_band(
    n: ArrayLike, draws: ArrayLike, at: ArrayLike, se: ArrayLike | None = None, *, level: float = 0.95, seed: int = 0
) -> tuple[FloatArray, FloatArray]:
    """Pointwise percentile band of fits to redrawn curves.

    Args:
        n: (K,) amounts.
        draws: (B, K) whole curves of errors, such as ``joint.draw_means``: points of one curve come from nested subsets
            and the same patients, so they are never redrawn one by one. Draws with an error that is not positive are
            left out.
        at: (M,) amounts to draw the band at.
        se: (K,) standard errors, the weights of every fit.
        level: Pointwise coverage.
        seed: Of the starts.

    Returns:
        (M,) lower and (M,) upper ends; NaN if fewer than 95 % of the draws could be fitted.

    Raises:
        ValueError: As ``fit_power_law`` and ``PowerLaw.predict``.
    """
    curves = np.asarray(draws, dtype=np.float64)
    usable = curves[(np.isfinite(curves) & (curves > 0)).all(axis=1)]
    if len(usable) < 0.95 * len(curves) or not len(usable):
        nothing = np.full(np.shape(at), np.nan)
        return nothing, nothing
    centre = fit_power_law(n, np.exp(np.mean(np.log(usable), axis=0)), se, seed=seed)
    amounts, _, weight = _checked(n, usable[0], se)
    start = [np.array([np.log(max(centre.floor, 1e-12)), np.log(centre.scale), centre.exponent])]
    lines = np.array([_fit(amounts, curve, weight, start).predict(at) for curve in usable])
    low, high = np.quantile(lines, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return np.asarray(low), np.asarray(high)


def held_out_last_point(n: ArrayLike, error: ArrayLike, se: ArrayLike | None = None, *, seed: int = 0) -> HeldOut:
    """Fit all points but the one with most labels, and predict it (Alabdulmohsin et al. 2022: extrapolation, not R^2).

    Raises:
        ValueError: Fewer than ``MIN_POINTS`` points, or values that are not positive.
    """
    amounts, values, weight = _checked(n, error, se)
    order = np.argsort(amounts)
    amounts, values, weight = amounts[order], values[order], weight[order]
    if len(amounts) < MIN_POINTS:
        raise ValueError(f"no held-out point: {len(amounts)} amounts, {MIN_POINTS} are needed")
    fit = _fit(amounts[:-1], values[:-1], weight[:-1], _starts(amounts[:-1], values[:-1], seed))
    predicted = fit.floor + fit.scale * float(amounts[-1]) ** -fit.exponent
    return HeldOut(observed=float(values[-1]), predicted=predicted, last_seen=float(values[-2]))


def _checked(n: ArrayLike, error: ArrayLike, se: ArrayLike | None) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Amounts, errors, and the weight of each residual in log error."""
    amounts, values = np.asarray(n, dtype=np.float64), np.asarray(error, dtype=np.float64)
    spread = np.asarray(se, dtype=np.float64) if se is not None else values
    if not amounts.shape == values.shape == spread.shape or amounts.ndim != 1:
        raise ValueError(f"give (K,) amounts, errors and standard errors, got {amounts.shape}, {values.shape}")
    for name, given in (("amounts", amounts), ("errors", values), ("standard errors", spread)):
        if not (np.isfinite(given) & (given > 0)).all():
            raise ValueError(f"{name} must be positive, got {given.tolist()}; fit 1 - AUC or a loss, not AUC")
    return amounts, values, values / spread


def _starts(n: FloatArray, error: FloatArray, seed: int) -> list[FloatArray]:
    """(log floor, log scale, exponent): exponents over their range, floors below the smallest error."""
    rng = np.random.default_rng(seed)
    exponents, shares = rng.uniform(0.05, 1.5, _STARTS), rng.uniform(0.01, 0.95, _STARTS)
    first = int(np.argmin(n))
    floors = shares * error.min()
    scales = np.maximum(error[first] - floors, 0.05 * error[first]) * n[first] ** exponents
    return [np.array(start) for start in zip(np.log(floors), np.log(scales), exponents, strict=True)]


def _fit(n: FloatArray, error: FloatArray, weight: FloatArray, starts: list[FloatArray]) -> PowerLaw:
    log_n, log_error = np.log(n), np.log(error)
    lowest = float(np.log(error.min() * _SMALLEST_FLOOR))
    low, high = np.array([lowest, -50.0, 1e-4]), np.array([float(log_error.max()), 50.0, _MAX_EXPONENT])

    def residuals(p: FloatArray) -> FloatArray:
        return np.asarray((np.logaddexp(p[0], p[1] - p[2] * log_n) - log_error) * weight)

    def slopes(p: FloatArray) -> FloatArray:
        share = np.exp(p[0] - np.logaddexp(p[0], p[1] - p[2] * log_n))
        return np.asarray(np.c_[share, 1 - share, -(1 - share) * log_n] * weight[:, None])

    def descend(start: FloatArray, tolerance: float) -> OptimizeResult:
        return least_squares(
            residuals,
            np.clip(start, low + 1e-9, high - 1e-9),
            jac=slopes,
            bounds=(low, high),
            loss="soft_l1",
            x_scale="jac",
            xtol=tolerance,
            ftol=tolerance,
            gtol=tolerance,
            max_nfev=300,
        )

    best = min((descend(start, 1e-8) for start in starts), key=lambda result: float(result.cost))
    best = descend(best.x, 1e-15)
    floor, scale, exponent = float(np.exp(best.x[0])), float(np.exp(best.x[1])), float(best.x[2])
    fallen = 1.0 - floor / error.max()
    inside = best.x[0] > lowest + 1.0 and _BOUNDARY < exponent < _MAX_EXPONENT - _BOUNDARY and fallen > _BOUNDARY
    return PowerLaw(
        floor=floor,
        scale=scale,
        exponent=exponent,
        cost=float(best.cost),
        identified=bool(inside),
        largest=float(n.max()),
    )
