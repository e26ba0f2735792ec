"""Calibration of many runs at once: errors with what chance gives, and slope and intercept.

The definitions are those of ``calibration_error`` and ``recalibration``; the fits are Newton's, for all runs together.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from dashboards.statistics.calibration_error import ECE_BINS
from dashboards.statistics.predictions import BoolArray, FloatArray, run_slices, taken_along

NORMAL_FROM = 30
"""Images of a bin from which on a sum of simulated outcomes is drawn from the normal distribution of its variance."""
_DRAWS = 100
_ITERATIONS = 25
_LAST_STEP = 1e-4
"""A fit ends with a step that is smaller, on standardised logits. Steps shrink to their square, which is left: 1e-8."""
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
    y: FloatArray,
    z: FloatArray,
    rng: np.random.Generator | None,
    n_bins: int = ECE_BINS,
    *,
    order: NDArray[np.intp] | None = None,
    line: tuple[FloatArray, FloatArray] | None = None,
) -> BatchCalibration:
    """All of it from pairs of outcome and logit.

    Args:
        y: (R, n) outcomes 0 and 1; of labelled images only.
        z: (R, n) logits; a run with one that is not finite is NaN throughout.
        rng: Source of the simulated outcomes; None for no ``null_median``.
        n_bins: Bins of both binned errors.
        order: (R, n) places of the logits from the smallest to the largest, where they are known: sorting and fitting
            take most of the time.
        line: (R,) slopes and (R,) intercepts, where they are known.
    """
    parts = [
        _calibration(
            y[at],
            z[at],
            rng,
            n_bins,
            None if order is None else order[at],
            None if line is None else (line[0][at], line[1][at]),
        )
        for at in run_slices(*z.shape)
    ]
    names = [field.name for field in fields(BatchCalibration)]
    return BatchCalibration(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


def _calibration(
    y: FloatArray,
    z: FloatArray,
    rng: np.random.Generator | None,
    n_bins: int,
    order: NDArray[np.intp] | None,
    line: tuple[FloatArray, FloatArray] | None,
) -> BatchCalibration:
    """``batch_calibration`` of a few runs."""
    finite = np.isfinite(z).all(axis=1) & (z.shape[1] > 0)
    kept = z if finite.all() else np.where(finite[:, None], z, 0.0)
    if order is None:
        order = np.argsort(kept, axis=1)  # of equal logits the order does not matter
    kept, outcome = taken_along(kept, order), taken_along(y, order)
    p = np.asarray(expit(kept))
    n = max(z.shape[1], 1)
    bounds = _equal_width(p, n_bins)
    ace, squared_l2 = _equal_mass(outcome, p, n_bins)
    slope, intercept = batch_slopes(outcome, kept) if line is None else line
    found = {
        "ece": np.abs(_segment_sums(outcome - p, bounds)).sum(axis=1) / n,
        "null_median": np.full(len(z), np.nan) if rng is None else _null_medians(p, bounds, rng),
        "ace": ace,
        "squared_l2": squared_l2,
        "in_the_large": (p - outcome).sum(axis=1) / n,
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
    centre = z.mean(axis=1, keepdims=True)
    x = z - centre
    spread = np.sqrt(np.vecdot(x, x) / n)[:, None]
    usable = (spread[:, 0] > 0) & (y.min(axis=1) < y.max(axis=1)) & ~_separated(y == 1, z)
    x /= np.where(spread > 0, spread, 1.0)
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
    of_left, x_of_left = (y, x) if chosen.all() else (y[left], x[left])
    for _ in range(_ITERATIONS):
        if not len(left):
            break
        step = _newton_step(of_left, x_of_left, a[left], b[left])
        size = np.maximum(np.abs(step).max(axis=0), 1e-300)
        step = step * np.minimum(1.0, 4.0 / size)  # far from the optimum a full step may overshoot
        a[left] += step[0]
        b[left] += step[1]
        moving = size >= _LAST_STEP
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
    p = b[:, None] * x
    p += a[:, None]
    expit(p, out=p)
    residual = y - p
    weight = np.maximum(p * (1 - p), 1e-12)
    g0, g1 = residual.sum(axis=1), np.vecdot(residual, x)
    h00, h01 = weight.sum(axis=1), np.vecdot(weight, x)
    weight *= x
    h11 = np.vecdot(weight, x)
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


def _equal_width(p: FloatArray, n_bins: int) -> NDArray[np.intp]:
    """(R, n_bins + 1) where bins of (R, n) ascending probabilities begin, and the end; upper edges are part of them."""
    edges = np.linspace(0.0, 1.0, n_bins + 1)[1:-1]
    bounds = np.zeros((len(p), n_bins + 1), dtype=np.intp)
    for of_run, ascending in zip(bounds, p, strict=True):
        of_run[1:-1] = np.searchsorted(ascending, edges, side="right")
    bounds[:, -1] = p.shape[1]
    return bounds


def _segment_sums(values: FloatArray, bounds: NDArray[np.intp]) -> FloatArray:
    """(R, n_bins) sums of (R, n) values between (R, n_bins + 1) or (n_bins + 1,) bounds."""
    running = np.zeros((len(values), values.shape[1] + 1))
    np.cumsum(values, axis=1, out=running[:, 1:])
    at = np.broadcast_to(bounds, (len(values), bounds.shape[-1]))
    return np.asarray(np.diff(taken_along(running, at), axis=1))


def _null_medians(p: FloatArray, bounds: NDArray[np.intp], rng: np.random.Generator) -> FloatArray:
    """(R,) median ECE if every outcome were drawn with its own probability.

    Sums over bins of many images are drawn as normal with their exact variance; images of small bins one by one.

    Args:
        p: (R, n) ascending.
        bounds: (R, n_bins + 1) of the bins.
        rng: Source of the draws.
    """
    variance, sizes = np.maximum(_segment_sums(p * (1 - p), bounds), 0.0), np.diff(bounds, axis=1)
    many = sizes >= NORMAL_FROM
    gaps = rng.standard_normal((_DRAWS, *sizes.shape)) * np.sqrt(np.where(many, variance, 0.0))
    place = np.repeat(np.arange(sizes.size), sizes.ravel())  # the bin of every image of every run
    few = np.flatnonzero(~many.ravel()[place])
    if len(few):
        own, place = p.ravel()[few], place[few]
        drawn = (rng.random((_DRAWS, len(own))) < own) - own
        starts = np.flatnonzero(np.diff(place, prepend=-1) > 0)
        gaps.reshape(_DRAWS, -1)[:, place[starts]] = np.add.reduceat(drawn, starts, axis=1)
    return np.asarray(np.median(np.abs(gaps).sum(axis=2), axis=0) / max(p.shape[1], 1))


def _equal_mass(y: FloatArray, p: FloatArray, n_bins: int) -> tuple[FloatArray, FloatArray]:
    """(R,) adaptive calibration error and debiased squared L2 error; outcomes of equal probabilities are averaged.

    Args:
        y: (R, n) outcomes, in the order of the probabilities.
        p: (R, n) ascending.
        n_bins: Their number.
    """
    runs, n = p.shape
    if n == 0:
        return np.full(runs, np.nan), np.full(runs, np.nan)
    new = np.diff(p, axis=1, prepend=-1.0) > 0
    if not new.all():
        tie = (np.cumsum(new.ravel()) - 1).reshape(runs, n)
        y = (np.bincount(tie.ravel(), y.ravel()) / np.bincount(tie.ravel()))[tie]
    sizes = np.array([len(part) for part in np.array_split(np.arange(n), n_bins)])
    bounds = np.concatenate([[0], np.cumsum(sizes)])
    gap = _segment_sums(y - p, bounds)
    ace = np.abs(gap).sum(axis=1) / n
    kept = sizes > 1
    if not kept.any():
        return ace, np.full(runs, np.nan)
    share = _segment_sums(y, bounds)[:, kept] / sizes[kept]
    squared = (gap[:, kept] / sizes[kept]) ** 2 - share * (1 - share) / (sizes[kept] - 1)
    return ace, (sizes[kept] * squared).sum(axis=1) / sizes.sum()
