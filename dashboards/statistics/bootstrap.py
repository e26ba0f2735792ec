"""Cluster bootstrap: patients are drawn with replacement and bring all their images.

The closed forms of ``uncertainty`` are its first-order limit. It is kept as their check, and for intervals that need no
normal approximation. Draws of different runs made with the same weights are paired, so they combine linearly.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

from dashboards.statistics import discrimination, precision_recall
from dashboards.statistics.metrics import RANKING, Metric, check_metric, decompose, ece_parts
from dashboards.statistics.predictions import FloatArray, Predictions, check_predictions
from dashboards.statistics.uncertainty import PatientIndex, index_patients
from search_spaces.names import Kind

_CHUNK_DRAWS = 256
"""Draws at a time; bounds memory to this times the number of images."""

FLAGGED_SHARE = 0.01
NOT_ESTIMABLE_SHARE = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class BootstrapInterval:
    """A percentile interval.

    Attributes:
        low: Lower end; NaN if more than 5 % of the draws are undefined, or if no two differ.
        high: Upper end; NaN likewise.
        se: Standard deviation of the defined draws; NaN if more than 5 % are undefined.
        undefined_share: Share of draws without a value (a class was not drawn).
        flagged: Whether more than 1 % are undefined.
    """

    low: float
    high: float
    se: float
    undefined_share: float
    flagged: bool


def patient_weights(n_patients: int, n_draws: int, rng: np.random.Generator) -> FloatArray:
    """(n_draws, n_patients): how often each patient is drawn."""
    weights = np.empty((n_draws, n_patients))
    for draw in weights:  # counting whole numbers is 20 times faster than the generator's multinomial
        draw[:] = np.bincount(rng.integers(n_patients, size=n_patients), minlength=n_patients)
    return weights


def patient_sums(values: FloatArray, patient: PatientIndex) -> FloatArray:
    """Sums over each patient's images.

    What is a function of sums over images needs no weights of images: under weights (B, P) of patients the sums are
    ``weights @ patient_sums(values, patient)``, however many images there are.

    Args:
        values: (N, M).
        patient: Index of the N images.

    Returns:
        (P, M).

    Raises:
        ValueError: Another number of rows.
    """
    if len(values) != len(patient.codes):
        raise ValueError(f"values has {len(values)} rows, patient {len(patient.codes)}; give one row per image")
    members = csr_array(
        (np.ones(len(values)), (patient.codes, np.arange(len(values)))), shape=(len(patient.ids), len(values))
    )
    return np.asarray(members @ values)


def bootstrap_draws(
    metric: str,
    kind: Kind | str,
    labels: Sequence[str],
    y: ArrayLike,
    logits: ArrayLike,
    patient: ArrayLike | PatientIndex,
    weights: FloatArray,
    class_set: Sequence[str] | None = None,
) -> FloatArray:
    """A metric under weights of patients.

    Args:
        metric: A name of ``metric_names(kind, labels)``.
        kind: As in ``patient_influence``, like labels, y, logits and class_set.
        labels: See kind.
        y: See kind.
        logits: See kind.
        patient: (N,) patient ids, or their index.
        weights: (B, P) of ``patient_weights``, in the order of ``PatientIndex.ids``.
        class_set: See kind.

    Returns:
        (B,) values; NaN where a draw lacks a class that the labels of the whole set define.
    """
    predictions = check_predictions(kind, labels, y, logits, class_set)
    index = patient if isinstance(patient, PatientIndex) else index_patients(patient)
    if weights.ndim != 2 or weights.shape[1] != len(index.ids):
        raise ValueError(f"weights must have shape (B, {len(index.ids)}), one column per patient, got {weights.shape}")
    chunks = np.array_split(weights, max(1, -(-len(weights) // _CHUNK_DRAWS)))
    return np.concatenate([_weighted(metric, predictions, chunk[:, index.codes]) for chunk in chunks])


def percentile_interval(draws: FloatArray, level: float = 0.95) -> BootstrapInterval:
    """Percentile interval of (B,) draws, or of a linear combination of paired draws.

    Its ends are NaN where too many draws are undefined, or where all are equal: of one patient, or of patients who do
    not differ, a bootstrap knows nothing of others.
    """
    defined = draws[np.isfinite(draws)]
    undefined = 1.0 - len(defined) / len(draws)
    nan = float("nan")
    if undefined > NOT_ESTIMABLE_SHARE or len(defined) < 2:
        return BootstrapInterval(low=nan, high=nan, se=nan, undefined_share=undefined, flagged=True)
    if not np.ptp(defined) > 0:
        return BootstrapInterval(
            low=nan, high=nan, se=0.0, undefined_share=undefined, flagged=undefined > FLAGGED_SHARE
        )
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return BootstrapInterval(
        low=float(low),
        high=float(high),
        se=float(defined.std(ddof=1)),
        undefined_share=undefined,
        flagged=undefined > FLAGGED_SHARE,
    )


def weight_chunks(n_patients: int, n_draws: int, rng: np.random.Generator) -> Iterator[FloatArray]:
    """``patient_weights`` in parts of at most 256 draws, so that memory does not grow with their number."""
    for start in range(0, n_draws, _CHUNK_DRAWS):
        yield patient_weights(n_patients, min(_CHUNK_DRAWS, n_draws - start), rng)


def _weighted(metric: str, predictions: Predictions, weights: FloatArray) -> FloatArray:
    """(B,) values of a metric under (B, N) weights of images."""
    name, label = check_metric(metric, predictions)
    if name in RANKING:
        asked = predictions.class_set if label is None else (label,)
        classes = discrimination.defined_classes(predictions, asked)
        weighted = _weighted_auc if name in (Metric.AUC, Metric.AUC_MACRO) else _weighted_ap
        return _mean([weighted(predictions, k, weights) for k in predictions.columns(classes)], weights)
    if name is Metric.ECE:
        return _mean([part.weighted(weights) for part in ece_parts(predictions).values()], weights)
    if name is Metric.KAPPA:
        return _weighted_kappa(predictions, weights)
    parts = decompose(name, predictions).parts
    return _mean([_ratio(weights[:, p.rows] @ p.values, weights[:, p.rows].sum(axis=1)) for p in parts], weights)


def _mean(values: Sequence[FloatArray], weights: FloatArray) -> FloatArray:
    return np.asarray(np.mean(values, axis=0)) if values else np.full(len(weights), np.nan)


def _ratio(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    return np.divide(numerator, denominator, out=np.full_like(numerator, np.nan), where=denominator > 0)


def _weighted_auc(predictions: Predictions, column: int, weights: FloatArray) -> FloatArray:
    rows = np.flatnonzero(predictions.labelled[:, column])
    scores = predictions.scores[rows, column]
    if not len(rows) or not np.isfinite(scores).all():
        return np.full(len(weights), np.nan)
    rows = rows[np.argsort(scores, kind="stable")]
    ordered, truth = predictions.scores[rows, column], predictions.truth[rows, column]
    ties: NDArray[np.intp] = np.flatnonzero(np.r_[True, np.diff(ordered) > 0])
    positive = np.add.reduceat(weights[:, rows] * truth, ties, axis=1)
    negative = np.add.reduceat(weights[:, rows] * (1 - truth), ties, axis=1)
    below = np.cumsum(negative, axis=1) - negative / 2
    return _ratio((positive * below).sum(axis=1), positive.sum(axis=1) * negative.sum(axis=1))


def _weighted_ap(predictions: Predictions, column: int, weights: FloatArray) -> FloatArray:
    rows = np.flatnonzero(predictions.labelled[:, column])
    scores = predictions.scores[rows, column]
    if not np.isfinite(scores).all():
        return np.full(len(weights), np.nan)
    ranked = precision_recall.ranking(predictions.truth[rows, column] == 1, scores)
    return precision_recall.weighted_average_precision(ranked, weights[:, rows])


def _weighted_kappa(predictions: Predictions, weights: FloatArray) -> FloatArray:
    rows = np.flatnonzero(predictions.labelled[:, 0])
    truth, guess = predictions.truth[rows], discrimination.predicted(predictions)[rows]
    return discrimination.quadratic_kappa(np.einsum("bn,ni,nj->bij", weights[:, rows], truth, guess, optimize=True))
