"""The one number of validation that selects weights. All other numbers are computed from the predictions later."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.exceptions import unknown

Array = NDArray[Any]


def is_better(metric: str, value: float | None, than: float | None) -> bool:
    """Whether a value beats another; an undefined value (None) beats nothing and loses to every defined one."""
    if value is None or than is None:
        return value is not None and than is None
    return value < than if metric == "nll" else value > than


def validation_value(metric: str, logits: Array, targets: Array) -> float | None:
    """The metric on the observed labels; None where it is not defined (a single class, nothing observed).

    Args:
        metric: auc, auc_macro, accuracy, balanced_accuracy, nll or kappa.
        logits: (N, L) or (N, K).
        targets: (N, L) floats in {0, 1} with NaN where masked, or (N,) classes with -1 where masked.

    Raises:
        KeyError: Another metric.
    """
    metrics = {"auc": _auc_macro, "auc_macro": _auc_macro, "accuracy": _accuracy, "nll": _nll}
    metrics |= {"balanced_accuracy": _balanced_accuracy, "kappa": _kappa}
    if metric not in metrics:
        raise KeyError(unknown("validation metric", metric, metrics))
    value = metrics[metric](np.asarray(logits, np.float64), np.asarray(targets))
    return None if np.isnan(value) else float(value)


def auc(scores: Array, positive: Array) -> float:
    """Area under the ROC curve from midranks (ties count one half); NaN if one of the classes is missing.

    Args:
        scores: (N,).
        positive: (N,) booleans.
    """
    m, n = int(positive.sum()), int((~positive).sum())
    if not m or not n:
        return float("nan")
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    midranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return float((midranks[positive].sum() - m * (m + 1) / 2) / (m * n))


def _auc_macro(logits: Array, targets: Array) -> float:
    """Mean over the labels (classes against the rest) for which it is defined."""
    if targets.ndim == 2:
        observed = ~np.isnan(targets)
        columns = [(logits[o, k], targets[o, k] == 1) for k, o in enumerate(observed.T)]
    else:
        odds = _log_odds(logits[targets >= 0])
        columns = [(odds[:, k], targets[targets >= 0] == k) for k in range(logits.shape[1])]
    values = [auc(scores, positive) for scores, positive in columns]
    defined = [value for value in values if not np.isnan(value)]
    return float(np.mean(defined)) if defined else float("nan")


def _log_odds(logits: Array) -> Array:
    """log p / (1 - p) of each class: orders images as the probability does and never saturates."""
    columns = range(logits.shape[1])
    return np.stack([logits[:, k] - _logsumexp(np.delete(logits, k, axis=1)) for k in columns], axis=1)


def _logsumexp(logits: Array) -> Array:
    top = logits.max(axis=1, keepdims=True, initial=-np.inf)
    return np.asarray((top + np.log(np.exp(logits - top).sum(axis=1, keepdims=True)))[:, 0])


def _classes(logits: Array, targets: Array) -> tuple[Array, Array]:
    """Predicted and true class of the observed images; a single label is cut at logit 0."""
    if targets.ndim == 2:
        observed = ~np.isnan(targets[:, 0])
        return (logits[observed, 0] > 0).astype(np.int64), targets[observed, 0].astype(np.int64)
    observed = targets >= 0
    return logits[observed].argmax(axis=1), targets[observed]


def _accuracy(logits: Array, targets: Array) -> float:
    predicted, true = _classes(logits, targets)
    return float((predicted == true).mean()) if len(true) else float("nan")


def _balanced_accuracy(logits: Array, targets: Array) -> float:
    """Mean recall of the classes that occur, of which there must be two."""
    predicted, true = _classes(logits, targets)
    occurring = np.unique(true)
    if len(occurring) < 2:
        return float("nan")
    return float(np.mean([(predicted[true == k] == k).mean() for k in occurring]))


def _nll(logits: Array, targets: Array) -> float:
    """Mean negative log-likelihood of the observed labels, in nats."""
    if targets.ndim == 2:
        observed = ~np.isnan(targets)
        signed = np.where(targets == 1, -logits, logits)[observed]
        return float(np.logaddexp(0, signed).mean()) if observed.any() else float("nan")
    observed = targets >= 0
    if not observed.any():
        return float("nan")
    z, y = logits[observed], targets[observed]
    return float((_logsumexp(z) - z[np.arange(len(y)), y]).mean())


def _kappa(logits: Array, targets: Array) -> float:
    """Cohen's kappa with quadratic weights (Cohen 1968) over ordered classes."""
    predicted, true = _classes(logits, targets)
    k = max(logits.shape[1], 2)
    table = np.zeros((k, k))
    np.add.at(table, (true, predicted), 1)
    weights = (np.arange(k)[:, None] - np.arange(k)) ** 2
    expected = np.outer(table.sum(1), table.sum(0)) / max(len(true), 1)
    by_chance = (weights * expected).sum()
    return float(1 - (weights * table).sum() / by_chance) if by_chance else float("nan")
