"""Recalibration: slope and intercept, temperature, shift of the prior.

All of it works on logits in float64. What is applied (temperature) is fitted on validation; what is measured (slope and
intercept) is measured on the evaluation set.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import expit, logsumexp, softmax
from statsmodels.api import Logit

from dashboards.statistics.calibration_error import check_pairs
from dashboards.statistics.predictions import BoolArray, FloatArray, Predictions

ONE_CLASS = "not estimable: one class only"
NO_IMAGE = "not estimable: no labelled image"
NOT_FINITE = "not estimable: a logit is not finite"
SEPARATED = "not estimable: the classes are separated"
NOT_INFORMATIVE = "not estimable: the logits do not point to the truth"
CONSTANT = "not estimable: all logits are equal"
NOT_CONVERGED = "not estimable: the fit did not converge"
_NOTHING_KNOWN = (NO_IMAGE, NOT_FINITE)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogisticCalibration:
    """Calibration of the probabilities of one label (Van Calster et al. 2019).

    Attributes:
        in_the_large: Mean probability minus prevalence; above 0 means too high on average.
        intercept_at_slope_1: Constant to add to all logits so that the mean probability is the prevalence; 0 is ideal.
        slope: Of the logistic regression of the outcome on the logit; 1 is ideal, below 1 means too extreme.
        intercept: Of that regression.
        n: Labelled images.
        n_positive: Positive ones.
        note: Why numbers are NaN; empty if none is.
    """

    in_the_large: float
    intercept_at_slope_1: float
    slope: float
    intercept: float
    n: int
    n_positive: int
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Temperature:
    """A temperature and what it does on the validation set where it was fitted.

    Attributes:
        name: The label; ``all`` for one temperature of a softmax.
        value: Logits are divided by it; NaN if not estimable.
        nll_before: Negative log-likelihood without it, in nats.
        nll_after: With it; NaN if not estimable.
        n: Labelled validation images.
        note: Why it is not estimable; empty if it is.
    """

    name: str
    value: float
    nll_before: float
    nll_after: float
    n: int
    note: str = ""


def logistic_calibration(y: ArrayLike, logit: ArrayLike) -> LogisticCalibration:
    """Calibration in the large, slope and intercept of one label.

    The slope has no maximum-likelihood value where a threshold separates the classes (Albert & Anderson 1984): NaN.

    Args:
        y: (N,) of 0, 1 and NaN (masked).
        logit: (N,) logits.

    Raises:
        ValueError: Shapes that differ, or another outcome.
    """
    truth, z = _check_logits(y, logit)
    n, n_positive = len(truth), int((truth == 1).sum())
    nan = float("nan")
    note = _not_estimable(truth, z)
    if note in _NOTHING_KNOWN:
        return LogisticCalibration(
            in_the_large=nan, intercept_at_slope_1=nan, slope=nan, intercept=nan, n=n, n_positive=n_positive, note=note
        )
    shift = _root(lambda a: float((expit(z + a) - truth).sum()), float(-z.max()), float(-z.min())) if not note else nan
    note = note or _slope_note(truth == 1, z)
    slope, intercept = (nan, nan) if note else _fit_line(truth, z)
    return LogisticCalibration(
        in_the_large=float(expit(z).mean() - truth.mean()),
        intercept_at_slope_1=shift,
        slope=slope,
        intercept=intercept,
        n=n,
        n_positive=n_positive,
        note=note or ("" if np.isfinite(slope) else NOT_CONVERGED),
    )


def fit_temperature(validation: Predictions) -> tuple[Temperature, ...]:
    """The temperatures that minimise the negative log-likelihood on validation (Guo et al. 2017).

    Softmax kinds have one, sigmoid kinds one per label. With ``b = 1/T`` the likelihood is convex in b; its slope
    changes sign at a finite b > 0 exactly if the logits point to the truth on average and not everywhere.

    Returns:
        One per label, or one in all. Not estimable: one class only, separated, not informative, a logit not finite.
    """
    if not validation.labelwise:
        return (_softmax_temperature(validation),)
    return tuple(
        _sigmoid_temperature(label, validation.truth[:, k], validation.logits[:, k])
        for k, label in enumerate(validation.labels)
    )


def apply_temperature(logits: ArrayLike, temperatures: Sequence[Temperature]) -> FloatArray:
    """Logits divided by their temperature; NaN where it is not estimable, so that no uncalibrated number passes as one.

    Args:
        logits: (N, L).
        temperatures: L of them in the order of the columns, or one for all.

    Raises:
        ValueError: Another number of temperatures.
    """
    z = np.asarray(logits, dtype=np.float64)
    if z.ndim != 2 or len(temperatures) not in (1, z.shape[1]):
        raise ValueError(f"logits of shape {z.shape} need one temperature or one per column, got {len(temperatures)}")
    return np.asarray(z / np.array([t.value for t in temperatures]))


def prior_corrected(predictions: Predictions, source: ArrayLike, target: ArrayLike) -> FloatArray:
    """Logits for a population with other shares of the labels and the same images given a label (Saerens et al. 2002).

    Sigmoid kinds: ``odds * [t / (1 - t)] / [s / (1 - s)]``; softmax kinds: ``p_k * t_k / s_k``, normalised.

    Args:
        predictions: N images, L labels.
        source: (L,) share of each label where the model was trained; softmax kinds: that sum to 1.
        target: (L,) share in the evaluated population, as declared, or as counted there (then say so).

    Returns:
        (N, L) logits; NaN for a label whose share is 0 or 1 (softmax: 0) in either population, or not known.

    Raises:
        ValueError: Not one share per label, or a share outside [0, 1].
    """
    s, t = (_check_shares(name, x, predictions.labels) for name, x in (("source", source), ("target", target)))
    with np.errstate(divide="ignore", invalid="ignore"):
        shift = np.log(t) - np.log(s)
        if predictions.labelwise:
            shift -= np.log1p(-t) - np.log1p(-s)
    return np.asarray(predictions.logits + np.where(np.isfinite(shift), shift, np.nan))


def _check_logits(y: ArrayLike, logit: ArrayLike) -> tuple[FloatArray, FloatArray]:
    truth, z = np.asarray(y, dtype=np.float64), np.asarray(logit, dtype=np.float64)
    check_pairs(truth, np.zeros(z.shape))
    known = ~np.isnan(truth)
    return truth[known], z[known]


def _not_estimable(truth: FloatArray, z: FloatArray) -> str:
    if not len(truth):
        return NO_IMAGE
    if not np.isfinite(z).all():
        return NOT_FINITE
    return ONE_CLASS if truth.min() == truth.max() else ""


def _slope_note(positive: BoolArray, z: FloatArray) -> str:
    if z.min() == z.max():
        return CONSTANT
    above, below = z[positive], z[~positive]
    return SEPARATED if above.min() >= below.max() or above.max() <= below.min() else ""


def _fit_line(truth: FloatArray, z: FloatArray) -> tuple[float, float]:
    """Slope and intercept, fitted on standardised logits so that large ones do not overflow."""
    centre, spread = z.mean(), z.std()
    design = np.column_stack([np.ones(len(z)), (z - centre) / spread])
    fitted = Logit(truth, design).fit(disp=0, maxiter=200, warn_convergence=False)
    if not fitted.mle_retvals["converged"]:
        return float("nan"), float("nan")
    slope = float(fitted.params[1] / spread)
    return slope, float(fitted.params[0] - slope * centre)


def _sigmoid_temperature(name: str, y: FloatArray, logit: FloatArray) -> Temperature:
    truth, z = _check_logits(y, logit)
    note = _not_estimable(truth, z)
    if note in _NOTHING_KNOWN:
        return _no_temperature(name, note, len(truth))
    signed = np.where(truth == 1, z, -z)

    def slope(b: float) -> float:
        return float(-(signed * expit(-b * signed)).sum())

    def nll(b: float) -> float:
        return float(np.logaddexp(0.0, -b * signed).mean())

    return _temperature(name, note, slope, nll, bool((signed < 0).any()), len(truth))


def _softmax_temperature(validation: Predictions) -> Temperature:
    known = validation.labelled[:, 0]
    z, true = validation.logits[known], validation.class_index[known]
    note = _not_estimable(true.astype(np.float64), z)
    if note in _NOTHING_KNOWN:
        return _no_temperature("all", note, len(z))
    behind = z - np.take_along_axis(z, true[:, None], axis=1)

    def slope(b: float) -> float:
        return float((softmax(b * behind, axis=1) * behind).sum())

    def nll(b: float) -> float:
        return float(logsumexp(b * behind, axis=1).mean())

    return _temperature("all", note, slope, nll, bool((behind > 0).any()), len(z))


def _temperature(
    name: str, note: str, slope: Callable[[float], float], nll: Callable[[float], float], errs: bool, n: int
) -> Temperature:
    note = note or ("" if errs else SEPARATED) or ("" if slope(0.0) < 0 else NOT_INFORMATIVE)
    if note:
        return replace(_no_temperature(name, note, n), nll_before=nll(1.0))
    high = 1.0
    while slope(high) <= 0:
        high *= 2.0
    b = _root(slope, 0.0, high)
    return Temperature(name=name, value=1.0 / b, nll_before=nll(1.0), nll_after=nll(b), n=n)


def _no_temperature(name: str, note: str, n: int) -> Temperature:
    nan = float("nan")
    return Temperature(name=name, value=nan, nll_before=nan, nll_after=nan, n=n, note=note)


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a rising function changes sign; the interval is widened until it does."""
    reach = 1.0
    while function(low) > 0:
        low, reach = low - reach, 2 * reach
    while function(high) < 0:
        high, reach = high + reach, 2 * reach
    return float(brentq(function, low, high, xtol=1e-14, rtol=1e-13))


def _check_shares(name: str, shares: ArrayLike, labels: tuple[str, ...]) -> FloatArray:
    values = np.asarray(shares, dtype=np.float64).reshape(-1)
    if len(values) != len(labels):
        raise ValueError(f"{name} must have one share for each of {labels}, got {len(values)}")
    known = values[~np.isnan(values)]
    if len(known) and not (known.min() >= 0 and known.max() <= 1):
        raise ValueError(f"{name} must hold shares in [0, 1], got {known.tolist()}")
    return values
