"""How well scores separate labels: AUC, accuracy, top-k accuracy, quadratic kappa.

Undefined is NaN, never 0. Macro averages run over a class set that was frozen before results were seen; classes of it
that an evaluation set cannot define (no positive or no negative image) are left out and named.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp

from dashboards.statistics.predictions import BoolArray, FloatArray, Predictions


def auc(y: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve, P(s+ > s-) + P(s+ = s-)/2: the Mann-Whitney statistic (Hanley & McNeil 1982).

    Pairs are counted in whole numbers, so equal inputs in any order give equal bits.

    Args:
        y: (N,) of 0, 1 and NaN (masked).
        scores: (N,) higher means more positive; logits rather than probabilities, which saturate into ties.

    Returns:
        A number in [0, 1]; NaN without a positive, without a negative, or if a labelled image has no finite score.
    """
    truth, values = np.asarray(y, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    known = ~np.isnan(truth)
    positive, values = truth[known] == 1, values[known]
    if positive.all() or not positive.any() or not np.isfinite(values).all():
        return float("nan")
    above, below = values[positive], values[~positive]
    return float(_twice_below(above, below).sum() / (2 * len(above) * len(below)))


def auc_components(positive: BoolArray, scores: FloatArray) -> tuple[float, FloatArray, FloatArray]:
    """AUC and placement values of DeLong et al. 1988: how each image does against all of the other side.

    Args:
        positive: (N,), at least one True and one False.
        scores: (N,), finite.

    Returns:
        The AUC, with the bits of ``auc``; (m,) share of negatives below each positive; (n,) share of positives above
        each negative. Ties count half. Both have the AUC as their mean.
    """
    negative = ~positive
    m, n = int(np.count_nonzero(positive)), int(np.count_nonzero(negative))
    positives_below, negatives_below = twice_below_both(positive, scores)
    wins = negatives_below[positive]
    v10, v01 = wins / (2 * n), 1.0 - positives_below[negative] / (2 * m)
    return float(wins.sum() / (2 * m * n)), v10, v01


def class_auc(predictions: Predictions, label: str) -> float:
    """AUC of one label; for softmax kinds of the class against the rest, on the log-odds of its probability."""
    column = predictions.labels.index(label)
    return auc(predictions.truth[:, column], predictions.scores[:, column])


def mean_auc(predictions: Predictions, labels: Sequence[str]) -> float:
    """Mean AUC of labels that are all defined; NaN if there are none or if logits of one are not finite."""
    return float(np.mean([class_auc(predictions, label) for label in labels])) if labels else float("nan")


def defined_classes(predictions: Predictions, labels: Sequence[str]) -> tuple[str, ...]:
    """Those of the labels that have at least one positive and one negative image."""
    positives = np.nansum(predictions.truth, axis=0)
    negatives = predictions.labelled.sum(axis=0) - positives
    columns = predictions.columns(labels)
    return tuple(predictions.labels[k] for k in columns if positives[k] > 0 and negatives[k] > 0)


def auc_macro(predictions: Predictions) -> tuple[float, tuple[str, ...]]:
    """Mean AUC over the class set.

    Returns:
        The mean over the classes that the labels define (NaN if there are none, or if logits of one are not finite),
        and the classes of the class set that they leave undefined.
    """
    defined = defined_classes(predictions, predictions.class_set)
    return mean_auc(predictions, defined), tuple(c for c in predictions.class_set if c not in defined)


def predicted(predictions: Predictions) -> FloatArray:
    """(N, L): 1 where a label is predicted, else 0; NaN where logits are not finite.

    Sigmoid kinds: logit above 0 (probability above 1/2). Softmax kinds: the largest logit, the first of equal ones.
    """
    z = predictions.logits
    if predictions.labelwise:
        return predicted_present(z)
    chosen = np.argmax(z, axis=1)[:, None] == np.arange(z.shape[1])
    return np.where(np.isfinite(z).all(axis=1, keepdims=True), chosen, np.nan)


def predicted_present(logits: FloatArray) -> FloatArray:
    """1 where a label with a sigmoid is predicted, else 0; NaN where its logit is not finite; of any shape."""
    return np.where(np.isfinite(logits), logits > 0, np.nan)


def image_correct(predictions: Predictions) -> FloatArray:
    """1 where the prediction is right, 0 where wrong, NaN where masked: (N, L) for sigmoid kinds, else (N, 1)."""
    guess, truth = predicted(predictions), predictions.truth
    if predictions.labelwise:
        return np.where(np.isnan(guess + truth), np.nan, guess == truth)
    return np.asarray(np.sum(guess * truth, axis=1, keepdims=True))


def top_k_accuracy(predictions: Predictions, k: int) -> float:
    """Share of images whose class is among the ``k`` largest logits, of equal ones those of the first classes.

    ``k = 1`` is the accuracy. Only for softmax kinds.

    Args:
        predictions: N images of C classes.
        k: 1 to C; C gives 1.

    Returns:
        A number in [0, 1]; NaN without a labelled image, or if one has no finite prediction.

    Raises:
        ValueError: k is outside 1 to C, or labels do not exclude each other.
    """
    _needs_classes("top-k accuracy", predictions)
    if not 1 <= k <= len(predictions.labels):
        raise ValueError(f"k must lie in 1..{len(predictions.labels)}, got {k}")
    known = predictions.labelled[:, 0]
    z = predictions.logits[known]
    if not len(z) or not np.isfinite(z).all():
        return float("nan")
    return float(np.mean(ahead_of_truth(z, predictions.class_index[known]) < k))


def ahead_of_truth(logits: FloatArray, own: NDArray[np.intp]) -> NDArray[np.intp]:
    """(..., N) number of classes that come before the true one: of larger logit, or of equal logit and earlier.

    Args:
        logits: (..., N, C).
        own: (N,) number of each image's class.
    """
    true_logit = np.take_along_axis(logits, np.broadcast_to(own[:, None], (*logits.shape[:-1], 1)), axis=-1)
    ahead = (logits > true_logit) | ((logits == true_logit) & (np.arange(logits.shape[-1]) < own[:, None]))
    return np.asarray(ahead.sum(axis=-1))


def grade_auc(predictions: Predictions, grade: str) -> float:
    """AUC of "this grade or worse" against all lower grades; with grade "moderate", of referable disease.

    Images are ranked by the log-odds of the summed probability of the grades from ``grade`` on.

    Args:
        predictions: N images; classes in ascending order of severity.
        grade: One of the classes but the first.

    Returns:
        A number in [0, 1]; NaN under the conditions of ``auc``.

    Raises:
        ValueError: The first or no grade of the task, or labels do not exclude each other.
    """
    _needs_classes("the AUC of a grade", predictions)
    if grade not in predictions.labels[1:]:
        raise ValueError(f"grade must be one of {predictions.labels[1:]}, got {grade!r}")
    first = predictions.labels.index(grade)
    worse = np.where(predictions.labelled[:, 0], predictions.class_index >= first, np.nan)
    return auc(worse, grade_log_odds(predictions.logits, first))


def grade_log_odds(logits: FloatArray, first: int) -> FloatArray:
    """(...) log-odds of the summed probability of the grades from number ``first`` on; of logits (..., C)."""
    return np.asarray(logsumexp(logits[..., first:], axis=-1) - logsumexp(logits[..., :first], axis=-1))


def confusion(predictions: Predictions) -> FloatArray:
    """(C, C): number of images of each class (rows) by predicted class (columns). Only for softmax kinds.

    NaN throughout if a labelled image has no finite prediction.
    """
    known = predictions.labelled[:, 0]
    return np.asarray(predictions.truth[known].T @ predicted(predictions)[known])


def quadratic_kappa(counts: FloatArray) -> FloatArray:
    """Quadratically weighted kappa (Cohen 1968) of confusion matrices.

    Args:
        counts: (..., C, C) of non-negative weights.

    Returns:
        (...): at most 1; NaN where chance alone leaves no disagreement (one class throughout) or where all is empty.
    """
    classes = np.arange(counts.shape[-1])
    weight = (classes[:, None] - classes) ** 2
    total = counts.sum(axis=(-2, -1))
    observed = (weight * counts).sum(axis=(-2, -1))
    expected = np.einsum("ij,...i,...j->...", weight, counts.sum(axis=-1), counts.sum(axis=-2))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(expected > 0, 1.0 - observed * total / expected, np.nan)


def _needs_classes(what: str, predictions: Predictions) -> None:
    if predictions.labelwise:
        raise ValueError(f"{what} needs classes that exclude each other (multiclass, ordinal), got {predictions.kind}")


def _twice_below(values: FloatArray, others: FloatArray) -> NDArray[np.intp]:
    """For each value, twice the number of others below it plus the number equal to it."""
    ordered = np.sort(others)
    return np.searchsorted(ordered, values, side="left") + np.searchsorted(ordered, values, side="right")


def twice_below_both(positive: BoolArray, scores: FloatArray) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """For each score, twice the number of positives below it plus those equal to it, and the same of negatives.

    One sort serves both sides. Counts are whole numbers, so any number of labels at once gives the bits of each alone.

    Args:
        positive: (..., N).
        scores: (..., N), finite; each last axis is counted by itself.

    Returns:
        (..., N) and (..., N).
    """
    n = scores.shape[-1]
    rows = scores.reshape(-1, n)
    # Places in the flat arrays, as of ``taken_along``.
    order = np.argsort(rows, axis=-1) + n * np.arange(len(rows))[:, None]
    ordered = np.take(rows, order)
    tied = ordered[:, 1:] == ordered[:, :-1]
    below, others = twice_below_in_order(np.take(positive, order), tied if tied.any() else None)
    positives, negatives = np.empty(rows.size, dtype=np.intp), np.empty(rows.size, dtype=np.intp)
    positives[order], negatives[order] = below, others
    return positives.reshape(scores.shape), negatives.reshape(scores.shape)


def twice_below_in_order(positive: BoolArray, tied: BoolArray | None) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """``twice_below_both`` of scores that are sorted already.

    Args:
        positive: (R, N) whether each is of a positive, smallest score first.
        tied: (R, N - 1) whether it equals the next one; None if no two are equal.

    Returns:
        (R, N) and (R, N), in that order.
    """
    runs, n = positive.shape
    counted = np.zeros((runs, n + 1), dtype=np.intp)
    np.cumsum(positive, axis=-1, out=counted[:, 1:])
    place = np.arange(n)
    below = counted[:, :-1] + counted[:, 1:]
    others = 2 * place + 1 - below
    if tied is not None and tied.any():
        # Of thousands of scores a few are equal: only these are counted anew.
        run, at = np.divmod(np.flatnonzero(tied), n - 1)  # of one axis it takes a fraction of the time
        begins = np.flatnonzero(np.r_[True, (np.diff(at) != 1) | (np.diff(run) != 0)])
        ends = np.r_[begins[1:], len(at)] - 1
        run, first, beyond = run[begins], at[begins], at[ends] + 2
        sizes = beyond - first
        within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        where = np.repeat(run, sizes), np.repeat(first, sizes) + within
        of_tie = counted[run, first] + counted[run, beyond]
        below[where] = np.repeat(of_tie, sizes)
        others[where] = np.repeat(first + beyond - of_tie, sizes)
    return below, others
