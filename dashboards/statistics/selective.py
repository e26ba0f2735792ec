"""Selective prediction: what a model is worth if it may abstain on the images of which it is least confident.

Images are accepted in descending confidence. Where confidences are equal, a risk is the expected one over the orders of
the tied images, so that it does not depend on the order of rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dashboards.statistics.bootstrap import BootstrapInterval, percentile_interval, weight_chunks
from dashboards.statistics.discrimination import image_correct, predicted_present
from dashboards.statistics.operating_points import called_positive
from dashboards.statistics.predictions import BoolArray, FloatArray, Predictions
from dashboards.statistics.subgroups import Subgroup
from dashboards.statistics.uncertainty import PatientIndex, index_patients

COVERAGES = (0.8, 0.9, 0.95)
"""Coverages at which the risk is reported."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RiskCoverage:
    """The risk-coverage curve of n images.

    Attributes:
        coverage: (n,) i/n for i = 1..n.
        risk: (n,) mean error of the i most confident images.
    """

    coverage: FloatArray
    risk: FloatArray

    @property
    def aurc(self) -> float:
        """Mean of the risks (Geifman & El-Yaniv 2017); NaN with fewer than two images."""
        return float(self.risk.mean()) if len(self.risk) > 1 else float("nan")

    @property
    def augrc(self) -> float:
        """Area under ``risk * coverage`` from (0, 0) on, by trapezoids (Traub et al. 2024).

        The average risk of an undetected failure; in [0, 1/2]. NaN with fewer than two images.
        """
        if len(self.risk) < 2:
            return float("nan")
        return float(np.trapezoid(np.r_[0.0, self.risk * self.coverage], np.r_[0.0, self.coverage]))


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectiveScores:
    """Selective prediction of one label, or of the class.

    Attributes:
        aurc: Area under the risk-coverage curve.
        e_aurc: AURC minus that of the best possible order of the same errors (Geifman et al. 2019); at least 0.
        augrc: Area under the generalised risk-coverage curve.
        risk_at: Coverage -> risk.
        n: Labelled images.
        undefined: Labelled images without a finite confidence. If there is one, all numbers are NaN.
    """

    aurc: float
    e_aurc: float
    augrc: float
    risk_at: dict[float, float]
    n: int
    undefined: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupCoverage:
    """Who is abstained on, at one confidence threshold for all.

    Attributes:
        group: Name of the subgroup.
        coverage: Share of its images that are accepted; NaN without a labelled image.
        risk: Mean error of those; NaN if none is.
        accepted: Their number.
        images: Its labelled images.
    """

    group: str
    coverage: float
    risk: float
    accepted: int
    images: int


def confidence_and_error(
    predictions: Predictions, label: str | None = None, threshold: float | None = None
) -> tuple[FloatArray, FloatArray]:
    """What images are ranked by, and whether the prediction is wrong.

    Softmax kinds: the log-odds of the predicted class, which rank as its probability but do not saturate into ties.
    Sigmoid kinds: the distance of the logit to the threshold.

    Args:
        predictions: N images.
        label: Needed for a multilabel task, and only there.
        threshold: Logit from which on a label is called present, frozen on validation; above 0 if not given.

    Returns:
        (N,) confidence, NaN where logits are not finite; (N,) error 1 or 0, NaN where masked. A labelled image without
        a prediction counts as an error, so that it is not mistaken for a masked one.

    Raises:
        ValueError: A label or a threshold that the kind does not take.
    """
    if not predictions.labelwise:
        if label is not None or threshold is not None:
            raise ValueError(
                f"a {predictions.kind} task is selected by its predicted class: give no label, no threshold"
            )
        return predictions.scores.max(axis=1), _errors(predictions.labelled[:, 0], image_correct(predictions)[:, 0])
    if (label is None and len(predictions.labels) > 1) or label not in (None, *predictions.labels):
        raise ValueError(f"label must be one of {predictions.labels}, got {label!r}")
    column = 0 if label is None else predictions.labels.index(label)
    z, truth = predictions.logits[:, column], predictions.truth[:, column]
    if threshold is None:
        threshold, called = 0.0, predicted_present(z)
    else:
        called = called_positive(z, threshold)
    return np.abs(z - threshold), _errors(predictions.labelled[:, column], called == truth)


def risk_coverage(confidence: ArrayLike, error: ArrayLike) -> RiskCoverage:
    """The curve.

    Args:
        confidence: (N,) higher means more certain.
        error: (N,) loss in [0, 1] of each prediction, NaN where masked.

    Returns:
        The curve over the images that are not masked; all risks NaN if one of them has no finite confidence.

    Raises:
        ValueError: Shapes that differ, or an error outside [0, 1].
    """
    certain, wrong = _checked(confidence, error)
    n = len(wrong)
    steps = np.arange(1, n + 1)
    if not n or not np.isfinite(certain).all():
        return RiskCoverage(coverage=steps / max(n, 1), risk=np.full(n, np.nan))
    order = np.argsort(-certain, kind="stable")
    _, tie, size = np.unique(-certain[order], return_inverse=True, return_counts=True)
    expected = (np.bincount(tie, wrong[order]) / size)[tie]
    return RiskCoverage(coverage=steps / n, risk=np.cumsum(expected) / steps)


def selective_scores(
    confidence: ArrayLike, error: ArrayLike, coverages: Sequence[float] = COVERAGES
) -> SelectiveScores:
    """All areas and the risks at fixed coverages. Arguments as in ``risk_coverage``; coverages in (0, 1]."""
    certain, wrong = _checked(confidence, error)
    curve = risk_coverage(certain, wrong)
    best = risk_coverage(-wrong, wrong).aurc
    undefined = int((~np.isfinite(certain)).sum())
    return SelectiveScores(
        aurc=curve.aurc,
        e_aurc=curve.aurc - best,
        augrc=curve.augrc,
        risk_at={c: _risk_at(curve, c) for c in coverages},
        n=len(wrong),
        undefined=undefined,
    )


def risk_at_coverage_interval(
    confidence: ArrayLike,
    error: ArrayLike,
    patient: ArrayLike | PatientIndex,
    coverage: float,
    rng: np.random.Generator,
    *,
    n_draws: int = 2000,
    level: float = 0.95,
) -> BootstrapInterval:
    """Interval of the risk at one coverage over patients; each draw of patients selects its own images.

    Args:
        confidence: As in ``risk_coverage``, like error.
        error: See confidence.
        patient: (N,) patient ids, or their index.
        coverage: In (0, 1].
        rng: Source of the draws.
        n_draws: Bootstrap draws.
        level: Nominal coverage of the interval.
    """
    index = patient if isinstance(patient, PatientIndex) else index_patients(patient)
    rows = np.flatnonzero(~np.isnan(np.asarray(error, dtype=np.float64)))
    certain, wrong = _checked(confidence, error)
    if not len(wrong) or not np.isfinite(certain).all():
        return percentile_interval(np.full(n_draws, np.nan), level)
    order = np.argsort(-certain, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(certain[order]) != 0])
    codes, losses = index.codes[rows][order], wrong[order]
    chunks = weight_chunks(len(index.ids), n_draws, rng)
    draws = [_weighted_risk(weights[:, codes], losses, starts, coverage) for weights in chunks]
    return percentile_interval(np.concatenate(draws), level)


def confidence_threshold(confidence: ArrayLike, coverage: float) -> float:
    """The confidence at which at least this share of images is accepted: those with at least this confidence.

    Args:
        confidence: (N,) of the set on which it is frozen; NaN if one is not finite or there is none.
        coverage: In (0, 1].
    """
    certain = np.asarray(confidence, dtype=np.float64)
    if not len(certain) or not np.isfinite(certain).all():
        return float("nan")
    return float(np.sort(certain)[::-1][_accepted(len(certain), coverage) - 1])


def coverage_by_group(
    confidence: ArrayLike, error: ArrayLike, groups: Sequence[Subgroup], threshold: float
) -> tuple[GroupCoverage, ...]:
    """Coverage and risk of each subgroup, accepting images with at least ``threshold`` (one for all).

    Args:
        confidence: (N,) as in ``risk_coverage``, like error.
        error: See confidence.
        groups: Their row numbers count images as the two arrays do.
        threshold: As ``confidence_threshold`` gives it; NaN gives NaN.
    """
    accepted, wrong = called_positive(confidence, threshold), np.asarray(error, dtype=np.float64)
    return tuple(_group_coverage(g.name, accepted[g.rows], wrong[g.rows]) for g in groups)


def _errors(labelled: BoolArray, correct: FloatArray | BoolArray) -> FloatArray:
    return np.where(labelled, correct != 1, np.nan)


def _group_coverage(name: str, accepted: FloatArray, wrong: FloatArray) -> GroupCoverage:
    known = ~np.isnan(wrong)
    accepted, wrong = accepted[known], wrong[known]
    defined = len(wrong) > 0 and not np.isnan(accepted).any()
    kept = wrong[accepted == 1]
    return GroupCoverage(
        group=name,
        coverage=float(accepted.mean()) if defined else float("nan"),
        risk=float(kept.mean()) if defined and len(kept) else float("nan"),
        accepted=len(kept),
        images=len(wrong),
    )


def _checked(confidence: ArrayLike, error: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Both without masked images."""
    certain, wrong = np.asarray(confidence, dtype=np.float64), np.asarray(error, dtype=np.float64)
    if certain.ndim != 1 or certain.shape != wrong.shape:
        raise ValueError(f"confidence and error must both have shape (N,), got {certain.shape} and {wrong.shape}")
    known = ~np.isnan(wrong)
    wrong = wrong[known]
    if len(wrong) and not (wrong.min() >= 0 and wrong.max() <= 1):
        raise ValueError(f"error must lie in [0, 1], got {wrong.min()} to {wrong.max()}")
    return certain[known], wrong


def _accepted(n: int, coverage: float) -> int:
    if not 0 < coverage <= 1:
        raise ValueError(f"coverage must lie in (0, 1], got {coverage}")
    return int(np.ceil(coverage * n - 1e-9))  # 0.95 * 20 must not become 20 by rounding


def _risk_at(curve: RiskCoverage, coverage: float) -> float:
    return float(curve.risk[_accepted(len(curve.risk), coverage) - 1]) if len(curve.risk) else float("nan")


def _weighted_risk(weights: FloatArray, losses: FloatArray, starts: NDArray[np.intp], coverage: float) -> FloatArray:
    """(B,) risk at a coverage under (B, n) whole-number weights of images in order of confidence."""
    sizes = np.add.reduceat(weights, starts, axis=1)
    lost = np.add.reduceat(weights * losses, starts, axis=1)
    down_to, lost_to = np.cumsum(sizes, axis=1), np.cumsum(lost, axis=1)
    wanted = np.ceil(coverage * down_to[:, -1] - 1e-9)
    last = np.argmax(down_to >= wanted[:, None], axis=1)[:, None]
    size, extra, through = (np.take_along_axis(x, last, axis=1)[:, 0] for x in (sizes, lost, lost_to))
    before = np.take_along_axis(down_to, last, axis=1)[:, 0] - size
    share = np.divide(wanted - before, size, out=np.zeros_like(size), where=size > 0)
    risk = through - extra + share * extra
    return np.asarray(np.divide(risk, wanted, out=np.full(len(risk), np.nan), where=wanted > 0))
