"""Average precision: area under the precision-recall curve as a step function, without interpolation.

It depends on the prevalence (a model that knows nothing has the prevalence as its value), so it is never compared
between evaluation sets of different prevalence without saying so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dashboards.statistics.discrimination import defined_classes
from dashboards.statistics.predictions import BoolArray, FloatArray, Predictions


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """Images of one label from the highest score to the lowest.

    Attributes:
        order: (n,) positions of the images, highest score first.
        positive: (n,) 1 or 0 in that order.
        starts: (T,) where each group of equal scores begins.
    """

    order: NDArray[np.intp]
    positive: FloatArray
    starts: NDArray[np.intp]


def average_precision(y: ArrayLike, scores: ArrayLike) -> float:
    """``sum over thresholds of (gain in recall) * precision``, images of equal score entering together.

    Args:
        y: (N,) of 0, 1 and NaN (masked).
        scores: (N,) higher means more positive.

    Returns:
        A number in (0, 1]; NaN without a positive, without a negative (scikit-learn says 0 and 1), or if a labelled
        image has no finite score.
    """
    truth, values = np.asarray(y, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    known = ~np.isnan(truth)
    positive, values = truth[known] == 1, values[known]
    if positive.all() or not positive.any() or not np.isfinite(values).all():
        return float("nan")
    return float(weighted_average_precision(ranking(positive, values), np.ones((1, len(values))))[0])


def class_ap(predictions: Predictions, label: str) -> float:
    """Average precision of one label, ranked like its AUC."""
    column = predictions.labels.index(label)
    return average_precision(predictions.truth[:, column], predictions.scores[:, column])


def mean_ap(predictions: Predictions, labels: Sequence[str]) -> float:
    """Mean average precision of labels that are all defined; NaN if there are none or if one is not finite."""
    return float(np.mean([class_ap(predictions, label) for label in labels])) if labels else float("nan")


def ap_macro(predictions: Predictions) -> tuple[float, tuple[str, ...]]:
    """Mean over the classes of the class set that the labels define, and those that they do not; as ``auc_macro``."""
    defined = defined_classes(predictions, predictions.class_set)
    return mean_ap(predictions, defined), tuple(c for c in predictions.class_set if c not in defined)


def ranking(positive: BoolArray, scores: FloatArray) -> Ranking:
    """Order of (n,) finite scores and their groups of ties."""
    order = np.argsort(-scores, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(scores[order]) != 0])
    return Ranking(order=order, positive=positive[order].astype(np.float64), starts=starts)


def weighted_average_precision(ranked: Ranking, weights: FloatArray) -> FloatArray:
    """(B,) average precision under (B, n) non-negative weights of images; NaN where one side has none."""
    ordered = weights[:, ranked.order]
    gained = np.add.reduceat(ordered * ranked.positive, ranked.starts, axis=1)
    hits = np.cumsum(gained, axis=1)
    called = np.cumsum(np.add.reduceat(ordered, ranked.starts, axis=1), axis=1)
    precision = np.divide(hits, called, out=np.zeros_like(hits), where=called > 0)
    positives, everyone = hits[:, -1], called[:, -1]
    defined = (positives > 0) & (positives < everyone)
    total = (gained * precision).sum(axis=1)
    return np.asarray(np.divide(total, positives, out=np.full(len(weights), np.nan), where=defined))


def average_precision_derivative(positive: BoolArray, scores: FloatArray) -> FloatArray:
    """(n,): derivative of the average precision in the weight of each image, at equal weights; they sum to 0.

    With a_t positives in tie group t, T_t positives and N_t images down to it, and M positives in all,
    ``AP = sum_t a_t T_t / N_t / M``. An image of group g enters a_g, M, and T_t and N_t of every t from g on.
    """
    ranked = ranking(positive, scores)
    sizes = np.diff(np.r_[ranked.starts, len(scores)])
    gained = np.add.reduceat(ranked.positive, ranked.starts)
    hits, called, positives = np.cumsum(gained), np.cumsum(sizes), gained.sum()
    value = float((gained * hits / called).sum() / positives)
    from_here_on = np.cumsum((gained / called)[::-1])[::-1]
    lost = np.cumsum((gained * hits / called**2)[::-1])[::-1]
    own = hits / called + from_here_on - value
    in_order = ranked.positive * np.repeat(own, sizes) - np.repeat(lost, sizes)
    derivative = np.empty(len(scores))
    derivative[ranked.order] = in_order / positives
    return derivative
