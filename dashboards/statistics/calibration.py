"""Proper scores from logits in float64, per image and relative to a forecast that knows only the prevalence."""

from __future__ import annotations

import numpy as np
from scipy.special import expit, logsumexp, softmax

from dashboards.statistics.predictions import FloatArray, Predictions


def image_nll(predictions: Predictions) -> FloatArray:
    """Negative log-likelihood of each image's truth, in nats, without clipping.

    Returns:
        (N, L) for sigmoid kinds, ``log(1 + exp(-z))`` of a positive and ``log(1 + exp(z))`` of a negative; (N, 1) for
        softmax kinds, ``logsumexp(z) - z_y``. NaN where the truth is masked.
    """
    z = predictions.logits
    if predictions.labelwise:
        wrong = np.where(predictions.labelled, np.where(predictions.truth == 1, -z, z), np.nan)
        return np.maximum(wrong, 0.0) + np.log1p(np.exp(-np.abs(wrong)))  # logaddexp(0, .) warns on NaN
    true_logit = np.sum(np.where(predictions.truth == 1, z, 0.0), axis=1, keepdims=True)
    nll = logsumexp(z, axis=1, keepdims=True) - true_logit
    return np.where(predictions.labelled[:, :1], nll, np.nan)


def image_brier(predictions: Predictions) -> FloatArray:
    """Squared error of the probabilities of each image (Brier 1950).

    Returns:
        (N, L) for sigmoid kinds, ``(p - y)^2`` in [0, 1]; (N, 1) for softmax kinds, the sum over classes in [0, 2].
        NaN where the truth is masked.
    """
    if predictions.labelwise:
        return np.asarray((expit(predictions.logits) - predictions.truth) ** 2)
    error = softmax(predictions.logits, axis=1) - predictions.truth
    return np.asarray(np.sum(error**2, axis=1, keepdims=True))


def brier_skill(predictions: Predictions) -> dict[str, float]:
    """``1 - Brier / Brier of the set's own prevalence`` (Murphy 1973): 1 is perfect, 0 no better than the prevalence.

    Returns:
        Label -> skill, at most 1; softmax kinds: one, of all classes, under ``all``. NaN where the labels of the set do
        not vary, without a labelled image, or if a logit is not finite.
    """
    truth, scores = predictions.truth, image_brier(predictions)
    names = predictions.labels if predictions.labelwise else ("all",)
    groups = [[k] for k in range(len(predictions.labels))] if predictions.labelwise else [list(range(truth.shape[1]))]
    return {
        name: _skill(truth[:, columns], scores[:, k])
        for k, (name, columns) in enumerate(zip(names, groups, strict=True))
    }


def _skill(truth: FloatArray, scores: FloatArray) -> float:
    known = ~np.isnan(truth[:, 0])
    if not known.any():
        return float("nan")
    by_chance = float(truth[known].var(axis=0).sum())
    return 1.0 - float(scores[known].mean()) / by_chance if by_chance > 0 else float("nan")
