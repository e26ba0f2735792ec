"""How each metric but the AUC changes, to first order, with the weight of each of its images.

A metric is the mean over parts (labels, classes, sides). The derivatives of a part sum to 0 over its images, because
multiplying all weights by one number changes nothing. ``uncertainty`` sums them over the images of a patient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dashboards.statistics import discrimination, precision_recall
from dashboards.statistics.metrics import Metric, decompose, ece_parts
from dashboards.statistics.predictions import FloatArray, Predictions


@dataclass(frozen=True, slots=True, kw_only=True)
class PartDerivative:
    """One of the parts that a metric is the mean of.

    Attributes:
        rows: (n,) row numbers of its images, at least one.
        values: (n,) derivative in the weight of each image, at equal weights; NaN where the part's value is.
        groups: Row numbers of each group of images that the part cannot do without.
    """

    rows: NDArray[np.intp]
    values: FloatArray
    groups: tuple[NDArray[np.intp], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstOrder:
    """A metric to first order.

    Attributes:
        value: The metric; NaN if undefined.
        parts: Its parts, equally weighted; none if it is undefined.
        classes: Classes that they belong to.
        undefined: Classes left out because the labels do not define them.
    """

    value: float
    parts: tuple[PartDerivative, ...]
    classes: tuple[str, ...]
    undefined: tuple[str, ...]


def first_order(metric: Metric, predictions: Predictions, asked: Sequence[str]) -> FirstOrder:
    """Any metric but the AUC, whose contributions have an exact form in ``uncertainty``.

    Args:
        metric: One that the predictions have.
        predictions: N images.
        asked: Labels of an average precision; other metrics take the class set.
    """
    if metric in (Metric.AP, Metric.AP_MACRO):
        return _average_precision(predictions, asked)
    if metric is Metric.KAPPA:
        return _kappa(predictions)
    if metric is Metric.ECE:
        return _calibration_error(predictions)
    whole = decompose(metric, predictions)
    parts = tuple(_part(p.rows, (p.values - p.values.mean()) / len(p.values)) for p in whole.parts)
    return FirstOrder(value=whole.value, parts=parts, classes=whole.classes, undefined=whole.undefined)


def _part(rows: NDArray[np.intp], values: FloatArray) -> PartDerivative:
    return PartDerivative(rows=rows, values=values, groups=(rows,))


def _average_precision(predictions: Predictions, asked: Sequence[str]) -> FirstOrder:
    defined = discrimination.defined_classes(predictions, asked)
    return FirstOrder(
        value=precision_recall.mean_ap(predictions, defined),
        parts=tuple(_average_precision_part(predictions, k) for k in predictions.columns(defined)),
        classes=defined,
        undefined=tuple(label for label in asked if label not in defined),
    )


def _average_precision_part(predictions: Predictions, column: int) -> PartDerivative:
    rows = np.flatnonzero(predictions.labelled[:, column])
    positive, scores = predictions.truth[rows, column] == 1, predictions.scores[rows, column]
    values = np.full(len(rows), np.nan)
    if np.isfinite(scores).all():
        values = precision_recall.average_precision_derivative(positive, scores)
    return PartDerivative(rows=rows, values=values, groups=(rows[positive], rows[~positive]))


def _calibration_error(predictions: Predictions) -> FirstOrder:
    found = ece_parts(predictions)
    classes = tuple(found) if predictions.labelwise else predictions.labels
    return FirstOrder(
        value=float(np.mean([part.value for part in found.values()])) if found else float("nan"),
        parts=tuple(_part(part.rows, part.derivative()) for part in found.values()),
        classes=classes,
        undefined=tuple(label for label in predictions.class_set if label not in classes),
    )


def _kappa(predictions: Predictions) -> FirstOrder:
    counts = discrimination.confusion(predictions)
    value = float(discrimination.quadratic_kappa(counts))
    rows = np.flatnonzero(predictions.labelled[:, 0])
    values = np.full(len(rows), np.nan)
    if np.isfinite(value):
        guess = np.argmax(predictions.logits[rows], axis=1)
        values = _kappa_derivative(counts / counts.sum(), predictions.class_index[rows], guess) / len(rows)
    parts = (_part(rows, values),) if len(rows) else ()
    return FirstOrder(value=value, parts=parts, classes=predictions.labels, undefined=())


def _kappa_derivative(share: FloatArray, true_class: NDArray[np.intp], guess: NDArray[np.intp]) -> FloatArray:
    """(n,): derivative of ``kappa = 1 - q/e`` in the weight of each image, q observed and e expected disagreement."""
    classes = np.arange(len(share))
    weight = (classes[:, None] - classes) ** 2
    by_truth, by_guess = weight @ share.sum(axis=0), weight @ share.sum(axis=1)
    q, e = float((weight * share).sum()), float(share.sum(axis=1) @ by_truth)
    moved_q, moved_e = weight[true_class, guess] - q, by_truth[true_class] + by_guess[guess] - 2 * e
    return np.asarray(q * moved_e / e**2 - moved_q / e)
