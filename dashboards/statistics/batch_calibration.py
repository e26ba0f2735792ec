"""Calibration of many runs at once: errors with what chance gives, and slope and intercept.

The definitions are those of ``calibration_error`` and ``recalibration``; the fits are Newton's, for all runs together.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit

from dashboards.statistics.calibration_error import ECE_BINS
from dashboards.statistics.predictions import BoolArray, FloatArray, taken_along

NORMAL_FROM = 30
"""Images of a bin from which on a sum of simulated outcomes is drawn from the normal distribution of its variance."""
_DRAWS = 100
_ITERATIONS = 25
_FIRST_SLOPE = 3.0
"""Most, on standardised logits, that fits start from."""
_STEEPEST = 12.0
"""Slope, on standardised logits, beyond which a fit counts as separated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchCalibration:
    """Calibration of R runs; every field (R,), NaN where not estimable.

    Attributes:
        ece: Expected calibration error, 15 bins of equal width.
        null_median: Median of it for a perfectly calibrated model with these probabilities.
        ace: Adaptive calibration error, bins of equal mass.
        squared_l2: Debiased squared L2 error; may be negative.
        in_the_large: Mean probability minus prevalence.
        slope: Logistic recalibration slope; 1 is ideal, below 1 too extreme.
        intercept: Of that regression.
    """

    ece: FloatArray
    null_median: FloatArray
    ace: FloatArray
    squared_l2: FloatArray
    in_the_large: FloatArray
    slope: FloatArray
    intercept: FloatArray


def batch_calibration(
    y: FloatArray, z: FloatArray, rng: np.random.Generator | None, n_bins: int = ECE_BINS
) -> BatchCalibration:
    """All of it from pairs of outcome and logit.

    Args:
        y: (R, n) outcomes 0 and 1; of labelled images only.
        z: (R, n) logits; a run with one that is not finite is NaN throughout.
        rng: Source of the simulated outcomes; None for no ``null_median``, which takes most of the time.
        n_bins: Bins of both binned errors.
    """
    finite = np.isfinite(z).all(axis=1) & (z.shape[1] > 0)
    kept = np.where(finite[:, None], z, 0.0)
    p = np.asarray(expit(kept))
    bins = np.searchsorted(np.linspace(0.0, 1.0, n_bins + 1)[1:-1], p, side="left")
    slope, intercept = batch_slopes(y, kept)
    ace, squared_l2 = _equal_mass(y, p, n_bins)
    found = {
        "ece": np.abs(_bin_sums(bins, y - p, n_bins)).sum(axis=1) / max(z.shape[1], 1),
        "null_median": np.full(len(z), np.nan) if rng is None else _null_medians(p, bins, n_bins, rng),
        "ace": ace,
        "squared_l2": squared_l2,
        "in_the_large": (p - y).sum(axis=1) / max(z.shape[1], 1),
        "slope": slope,
        "intercept": intercept,
    }
    return BatchCalibration(**{name: np.where(finite, values, np.nan) for name, values in found.items()})


def batch_slopes(y: FloatArray, z: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Slopes and intercepts of logistic regressions of outcomes on logits, all runs together.

    Args:
        y: (R, n) of 0 and 1.
        z: (R, n), finite.

    Returns:
        (R,) slopes, (R,) intercepts; NaN where there is one class only, the logits are constant or separate the
        classes, or the fit does not converge.
    """
    runs, n = z.shape
    if n < 2:
        return np.full(runs, np.nan), np.full(runs, np.nan)
    centre, spread = z.mean(axis=1, keepdims=True), z.std(axis=1, keepdims=True)
    usable = (spread[:, 0] > 0) & (y.min(axis=1) < y.max(axis=1)) & ~_separated(y == 1, z)
    x = np.where(usable[:, None], (z - centre) / np.where(spread > 0, spread, 1.0), 0.0)
    a, b = _normal_start(y, x)
    settled = _descend(y, x, a, b, usable)
    again = usable & ~settled  # from a flat part of the likelihood a fit may not come back
    a[again], b[again] = logit(y[again].mean(axis=1)), 0.0
    settled |= _descend(y, x, a, b, again)
    good = usable & settled & (np.abs(b) < _STEEPEST * 10)
    slope = np.where(good, b / np.where(spread[:, 0] > 0, spread[:, 0], 1.0), np.nan)
    return slope, np.where(good, a - slope * centre[:, 0], np.nan)


def _descend(y: FloatArray, x: FloatArray, a: FloatArray, b: FloatArray, chosen: BoolArray) -> BoolArray:
    """Newton's method for the chosen runs: changes intercepts and slopes in place; (R,) which of them settled."""
    settled = np.zeros(len(y), dtype=bool)
    left = np.flatnonzero(chosen)
    of_left, x_of_left = y[left], x[left]
    for _ in range(_ITERATIONS):
        if not len(left):
            break
        step = _newton_step(of_left, x_of_left, a[left], b[left])
        size = np.maximum(np.abs(step).max(axis=0), 1e-300)
        step = step * np.minimum(1.0, 4.0 / size)  # far from the optimum a full step may overshoot
        a[left] += step[0]
        b[left] += step[1]
        moving = size >= 1e-6  # steps shrink to their square: what is left is of the order of rounding
        settled[left[~moving]] = True
        if not moving.all():  # the few that take many steps do not hold up the others
            left, of_left, x_of_left = left[moving], of_left[moving], x_of_left[moving]
    return settled


def _normal_start(y: FloatArray, x: FloatArray) -> tuple[FloatArray, FloatArray]:
    """(R,) intercept and slope of classes that are normal with one variance, x standardised: near the optimum."""
    n = x.shape[1]
    share = np.clip(y.mean(axis=1), 1e-12, 1 - 1e-12)  # runs of one class are not fitted
    of_positives = np.vecdot(y, x) / (n * share)
    of_negatives = -share / (1 - share) * of_positives  # the mean of x is 0
    apart = of_positives - of_negatives
    within = np.maximum(1 - share * (1 - share) * apart**2, 0.1)
    b = np.clip(apart / within, -_FIRST_SLOPE, _FIRST_SLOPE)
    return logit(share) - b * (of_positives + of_negatives) / 2, b


def _newton_step(y: FloatArray, x: FloatArray, a: FloatArray, b: FloatArray) -> FloatArray:
    """(2, R) step of intercept and slope."""
    p = expit(a[:, None] + b[:, None] * x)
    residual, weight = y - p, np.maximum(p * (1 - p), 1e-12)
    weighted = weight * x
    g0, g1 = residual.sum(axis=1), np.vecdot(residual, x)
    h00, h01, h11 = weight.sum(axis=1), weighted.sum(axis=1), np.vecdot(weighted, x)
    determinant = h00 * h11 - h01**2
    determinant = np.where(determinant > 0, determinant, np.inf)
    return np.stack([(h11 * g0 - h01 * g1) / determinant, (h00 * g1 - h01 * g0) / determinant])


def _separated(positive: BoolArray, z: FloatArray) -> BoolArray:
    """(R,): whether a threshold separates the classes (Albert & Anderson 1984)."""
    lowest = np.where(positive, z, np.inf).min(axis=1)
    highest = np.where(positive, z, -np.inf).max(axis=1)
    return np.asarray(
        (lowest >= np.where(positive, -np.inf, z).max(axis=1)) | (highest <= np.where(positive, np.inf, z).min(axis=1))
    )


def _bin_sums(bins: np.ndarray, values: FloatArray, n_bins: int) -> FloatArray:
    """(R, n_bins) sums of (R, n) values."""
    runs = len(bins)
    flat = (bins + n_bins * np.arange(runs)[:, None]).ravel()
    return np.asarray(np.bincount(flat, values.ravel(), runs * n_bins).reshape(runs, n_bins), dtype=np.float64)


def _null_medians(p: FloatArray, bins: np.ndarray, n_bins: int, rng: np.random.Generator) -> FloatArray:
    """(R,) median ECE if every outcome were drawn with its own probability.

    Sums over bins of many images are drawn as normal with their exact variance; images of small bins one by one.
    """
    runs, n = p.shape
    variance, sizes = _bin_sums(bins, p * (1 - p), n_bins), _bin_sums(bins, np.ones_like(p), n_bins)
    many = sizes >= NORMAL_FROM
    gaps = rng.standard_normal((_DRAWS, runs, n_bins)) * np.sqrt(np.where(many, variance, 0.0))
    few = ~taken_along(many, bins)
    run, image = np.nonzero(few)
    if len(run):
        own = p[run, image]
        drawn = (rng.random((_DRAWS, len(own))) < own) - own
        place = run * n_bins + bins[run, image]
        order = np.argsort(place, kind="stable")
        starts = np.flatnonzero(np.r_[True, np.diff(place[order]) > 0])
        flat = gaps.reshape(_DRAWS, runs * n_bins)
        flat[:, place[order][starts]] = np.add.reduceat(drawn[:, order], starts, axis=1)
    return np.asarray(np.median(np.abs(gaps).sum(axis=2), axis=0) / max(n, 1))


def _equal_mass(y: FloatArray, p: FloatArray, n_bins: int) -> tuple[FloatArray, FloatArray]:
    """(R,) adaptive calibration error and debiased squared L2 error; outcomes of equal probabilities are averaged."""
    runs, n = p.shape
    if n == 0:
        return np.full(runs, np.nan), np.full(runs, np.nan)
    order = np.argsort(p, axis=1)  # of equal probabilities the order does not matter
    ordered, outcome = taken_along(p, order), taken_along(y, order)
    new = np.diff(ordered, axis=1, prepend=-1.0) > 0
    if not new.all():
        tie = (np.cumsum(new.ravel()) - 1).reshape(runs, n)
        outcome = (np.bincount(tie.ravel(), outcome.ravel()) / np.bincount(tie.ravel()))[tie]
    sizes = np.array([len(part) for part in np.array_split(np.arange(n), n_bins)])
    bins = np.broadcast_to(np.repeat(np.arange(n_bins), sizes), (runs, n))
    gap = _bin_sums(bins, outcome - ordered, n_bins)
    ace = np.abs(gap).sum(axis=1) / n
    kept = sizes > 1
    if not kept.any():
        return ace, np.full(runs, np.nan)
    share = _bin_sums(bins, outcome, n_bins)[:, kept] / sizes[kept]
    squared = (gap[:, kept] / sizes[kept]) ** 2 - share * (1 - share) / (sizes[kept] - 1)
    return ace, (sizes[kept] * squared).sum(axis=1) / sizes.sum()
