"""Sensitivity, specificity and predictive values at a threshold that was frozen on validation; net benefit.

One threshold serves all subgroups and all evaluation sets. It is chosen once, on validation; choosing it on the set
that is reported would be leakage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dashboards.statistics.calibration_error import check_pairs
from dashboards.statistics.predictions import BoolArray, FloatArray
from dashboards.statistics.proportions import Proportion, proportion
from dashboards.statistics.uncertainty import PatientIndex, index_patients


class ThresholdRule(StrEnum):
    """How a threshold is chosen on validation."""

    SPECIFICITY = "specificity"
    SENSITIVITY = "sensitivity"
    YOUDEN = "youden"


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """A threshold and what it gave where it was chosen.

    Attributes:
        value: Images with a score of at least this are called positive; NaN if it cannot be chosen.
        rule: How it was chosen.
        target: The specificity or sensitivity asked for; None for Youden.
        sensitivity: On validation.
        specificity: On validation.
        n_positive: Positive validation images.
        n_negative: Negative validation images.
    """

    value: float
    rule: ThresholdRule
    target: float | None
    sensitivity: float
    specificity: float
    n_positive: int
    n_negative: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatingPoint:
    """What a threshold gives on an evaluation set. Predictive values depend on ``prevalence``, the other two do not.

    Attributes:
        threshold: The threshold.
        sensitivity: Share of positives that are called positive.
        specificity: Share of negatives that are called negative.
        ppv: Share of called positives that are positive.
        npv: Share of called negatives that are negative.
        prevalence: Share of positive images; NaN without an image.
        undefined: Labelled images that cannot be called: their score is not finite (all, if the threshold is not). If
            there is one, the rates are NaN.
    """

    threshold: float
    sensitivity: Proportion
    specificity: Proportion
    ppv: Proportion
    npv: Proportion
    prevalence: float
    undefined: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionCurve:
    """Net benefit per image, in units of true positives.

    Attributes:
        thresholds: (T,) probabilities at which one would act.
        model: (T,) of acting on the model; NaN if a probability is.
        treat_all: (T,) of acting on everyone. Acting on no one has 0.
        prevalence: Share of positive images.
        n: Labelled images.
    """

    thresholds: FloatArray
    model: FloatArray
    treat_all: FloatArray
    prevalence: float
    n: int


def choose_threshold(
    y: ArrayLike, scores: ArrayLike, rule: ThresholdRule | str, target: float | None = None
) -> Threshold:
    """The threshold of a rule on the validation set, among the scores that occur there.

    ``specificity``: the smallest with a specificity of at least ``target``, that is, the largest sensitivity that this
    specificity allows. ``sensitivity``: the largest with a sensitivity of at least ``target``. ``youden``: the largest
    sum of both (Youden 1950), of equal ones the largest threshold. Where no occurring score is specific enough, the
    next number above all of them.

    Args:
        y: (N,) of 0, 1 and NaN (masked).
        scores: (N,) logits or probabilities.
        rule: specificity, sensitivity or youden.
        target: In (0, 1]; None for youden.

    Returns:
        The threshold; its value is NaN without a positive, without a negative, or if a labelled image has no finite
        score.

    Raises:
        ValueError: An unknown rule, or a target that does not belong to it.
    """
    chosen = ThresholdRule(rule)
    wanted = _check_target(chosen, target)
    truth, values = np.asarray(y, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    known = ~np.isnan(truth)
    positive, values = truth[known] == 1, values[known]
    m, n = int(positive.sum()), int((~positive).sum())
    nan = float("nan")
    if not m or not n or not np.isfinite(values).all():
        return Threshold(
            value=nan, rule=chosen, target=target, sensitivity=nan, specificity=nan, n_positive=m, n_negative=n
        )
    candidates, hits, correct = _candidates(positive, values)
    k = _choice(chosen, wanted, hits, correct, m, n)
    return Threshold(
        value=float(candidates[k]),
        rule=chosen,
        target=target,
        sensitivity=float(hits[k] / m),
        specificity=float(correct[k] / n),
        n_positive=m,
        n_negative=n,
    )


def operating_point(
    y: ArrayLike,
    scores: ArrayLike,
    threshold: float,
    patient: ArrayLike | PatientIndex,
    rng: np.random.Generator,
    *,
    level: float = 0.95,
) -> OperatingPoint:
    """Sensitivity, specificity and predictive values at a frozen threshold, with intervals over patients.

    Args:
        y: (N,) of 0, 1 and NaN (masked).
        scores: (N,) on the scale on which the threshold was chosen.
        threshold: Images with at least this score are called positive; NaN gives NaN throughout.
        patient: (N,) patient ids, or their index.
        rng: Source of bootstrap draws, used where patients have several images.
        level: Nominal coverage.
    """
    truth, called = np.asarray(y, dtype=np.float64), called_positive(scores, threshold)
    index = patient if isinstance(patient, PatientIndex) else index_patients(patient)
    known = ~np.isnan(truth)
    undefined = int((known & np.isnan(called)).sum())
    usable = known & (undefined == 0)

    def share(of: BoolArray, hit: BoolArray) -> Proportion:
        return proportion(np.where(usable & of, hit, np.nan), index, rng, level=level)

    return OperatingPoint(
        threshold=threshold,
        sensitivity=share(truth == 1, called == 1),
        specificity=share(truth == 0, called == 0),
        ppv=share(called == 1, truth == 1),
        npv=share(called == 0, truth == 0),
        prevalence=float((truth[known] == 1).mean()) if known.any() else float("nan"),
        undefined=undefined,
    )


def called_positive(scores: ArrayLike, threshold: float) -> FloatArray:
    """(N,): 1 where the score is at least the threshold, else 0; NaN where either is not finite."""
    values = np.asarray(scores, dtype=np.float64)
    return np.where(np.isfinite(values) & np.isfinite(threshold), values >= threshold, np.nan)


def net_benefit(y: ArrayLike, p: ArrayLike, thresholds: Sequence[float] | FloatArray) -> DecisionCurve:
    """Decision curve: ``TP/N - FP/N * t/(1 - t)`` at each probability t (Vickers & Elkin 2006).

    Args:
        y: (N,) of 0, 1 and NaN (masked).
        p: (N,) probabilities; images with at least t are acted on.
        thresholds: Probabilities in [0, 1).

    Raises:
        ValueError: A threshold outside [0, 1), or values outside the ranges of ``check_pairs``.
    """
    outcome, probability = check_pairs(y, p)
    at = np.asarray(thresholds, dtype=np.float64)
    if not ((at >= 0) & (at < 1)).all():
        raise ValueError(f"thresholds of net benefit must lie in [0, 1), got {at.tolist()}")
    known = ~np.isnan(outcome)
    outcome, probability, odds = outcome[known], probability[known], at / (1 - at)
    if not len(outcome) or np.isnan(probability).any():
        nothing = np.full(len(at), np.nan)
        prevalence = float(outcome.mean()) if len(outcome) else float("nan")
        return DecisionCurve(thresholds=at, model=nothing, treat_all=nothing, prevalence=prevalence, n=len(outcome))
    prevalence = float(outcome.mean())
    order = np.sort(probability)
    acted = len(order) - np.searchsorted(order, at, side="left")
    sick = np.sort(probability[outcome == 1])
    hits = len(sick) - np.searchsorted(sick, at, side="left")
    return DecisionCurve(
        thresholds=at,
        model=(hits - (acted - hits) * odds) / len(order),
        treat_all=prevalence - (1 - prevalence) * odds,
        prevalence=prevalence,
        n=len(order),
    )


def _check_target(rule: ThresholdRule, target: float | None) -> float:
    """The target; of Youden, which has none, 0."""
    if rule is ThresholdRule.YOUDEN:
        if target is not None:
            raise ValueError(f"youden takes no target, got {target}")
        return 0.0
    if target is None or not 0 < target <= 1:
        raise ValueError(f"{rule} needs a target in (0, 1], got {target}")
    return target


def _candidates(positive: BoolArray, scores: FloatArray) -> tuple[FloatArray, NDArray[np.intp], NDArray[np.intp]]:
    """(T,) thresholds ascending, with the positives called positive and the negatives called negative at each."""
    found = np.unique(scores)
    candidates = np.r_[found, np.nextafter(found[-1], np.inf)]
    above, below = np.sort(scores[positive]), np.sort(scores[~positive])
    hits = len(above) - np.searchsorted(above, candidates, side="left")
    return candidates, np.asarray(hits), np.asarray(np.searchsorted(below, candidates, side="left"))


def _choice(
    rule: ThresholdRule, target: float, hits: NDArray[np.intp], correct: NDArray[np.intp], m: int, n: int
) -> int:
    if rule is ThresholdRule.SPECIFICITY:
        return int(np.argmax(correct / n >= target))
    if rule is ThresholdRule.SENSITIVITY:
        return int(np.flatnonzero(hits / m >= target)[-1])
    gain = hits * n + correct * m  # whole numbers, so that equal sums compare equal
    return int(np.flatnonzero(gain == gain.max())[-1])
