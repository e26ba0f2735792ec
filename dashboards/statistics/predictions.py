"""Labels and logits of one run on one evaluation set, checked once and seen in the forms that the metrics need."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import log_expit, logsumexp

from search_spaces.exceptions import unknown
from search_spaces.names import MISSING_CLASS, UNCERTAIN, Kind

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
Scalar = TypeVar("Scalar", bound=np.generic)

SCORED_KINDS = (Kind.BINARY, Kind.MULTILABEL, Kind.MULTICLASS, Kind.ORDINAL)
_LABELWISE = (Kind.BINARY, Kind.MULTILABEL)
_CACHED_VALUES = 2**15
"""Of 8 bytes: several such arrays lie in 1 MiB."""


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """What a run says and what is true, N images, L labels (classes). Made by ``check_predictions``.

    Attributes:
        kind: Kind of the task.
        labels: Names of the L labels, in the order of the columns.
        truth: (N, L); 1 where the label is present (multiclass: where it is the class), 0 where not, NaN where masked.
        logits: (N, L) before sigmoid (binary, multilabel) or softmax (multiclass, ordinal); NaN where not finite.
        class_set: The labels that macro averages run over, frozen before results are seen.
    """

    kind: Kind
    labels: tuple[str, ...]
    truth: FloatArray
    logits: FloatArray
    class_set: tuple[str, ...]

    @property
    def labelwise(self) -> bool:
        """Whether each label is a question of its own (sigmoid), and not one class of several (softmax)."""
        return self.kind in _LABELWISE

    @cached_property
    def labelled(self) -> BoolArray:
        """(N, L): where the truth is known."""
        return ~np.isnan(self.truth)

    @cached_property
    def scores(self) -> FloatArray:
        """(N, L): what images are ranked by for the AUC of each label.

        The logit of a sigmoid; for softmax the log-odds ``z_k - logsumexp(z_j, j != k)`` of the class probability. They
        rank as the probabilities do but do not saturate into ties, and unlike raw logits they do not move when a
        constant is added to all logits of an image.
        """
        return self.logits if self.labelwise else log_odds(self.logits)

    @cached_property
    def class_index(self) -> NDArray[np.intp]:
        """(N,): class of each image, -1 where it is not known. Only for softmax kinds."""
        return np.asarray(np.where(self.labelled[:, 0], np.argmax(np.nan_to_num(self.truth), axis=1), MISSING_CLASS))

    def columns(self, labels: Sequence[str]) -> list[int]:
        """Column numbers of labels."""
        return [self.labels.index(label) for label in labels]

    def at(self, rows: NDArray[np.intp]) -> Predictions:
        """The same of some images: (n,) row numbers."""
        return replace(self, truth=self.truth[rows], logits=self.logits[rows])


def check_predictions(
    kind: Kind | str,
    labels: Sequence[str],
    y: ArrayLike,
    logits: ArrayLike,
    class_set: Sequence[str] | None = None,
) -> Predictions:
    """Check shapes, kinds and label values, and bring all to float64.

    Args:
        kind: binary, multilabel, multiclass or ordinal.
        labels: Names of the L labels (classes); one for binary.
        y: Binary, multilabel: (N, L), or (N,) if L is 1, of 0, 1, and NaN or -1 (masked). Multiclass, ordinal: (N,)
            whole numbers into ``labels``, -1 masked.
        logits: (N, L), or (N,) if L is 1; before sigmoid or softmax. One that is not finite, on a
            labelled image, makes its metrics NaN.
        class_set: Labels of macro averages; all if not given.

    Raises:
        ValueError: An unknown kind or label, shapes that do not fit, or another label value.
    """
    names = tuple(labels)
    scored = _check_kind(kind, names)
    values = np.asarray(logits, dtype=np.float64)
    values = np.where(np.isfinite(values), values, np.nan)
    values = values[:, None] if values.ndim == 1 and len(names) == 1 else values
    if values.ndim != 2 or values.shape[1] != len(names):
        raise ValueError(f"logits must have shape (N, {len(names)}) for labels {names}, got {values.shape}")
    truth = _labelwise_truth(y, names) if scored in _LABELWISE else _class_truth(y, names)
    if len(truth) != len(values):
        raise ValueError(f"y has {len(truth)} rows, logits {len(values)}; give one row per image in both")
    averaged = names if class_set is None else tuple(class_set)
    for label in averaged:
        if label not in names:
            raise ValueError(unknown("label", label, names, "class_set"))
    return Predictions(kind=scored, labels=names, truth=truth, logits=values, class_set=averaged)


def ensemble_logits(kind: Kind | str, members: Sequence[ArrayLike]) -> FloatArray:
    """Logits of the mean probability of several runs (a seed ensemble), computed in log space.

    Args:
        kind: binary, multilabel, multiclass or ordinal.
        members: Logits of each run, all (N, L) with the same rows.

    Returns:
        (N, L): for sigmoid kinds the logit of the mean probability, for softmax kinds its logarithm.
    """
    stack = np.stack([np.asarray(m, dtype=np.float64) for m in members])
    if Kind(kind) in _LABELWISE:
        return np.asarray(logsumexp(log_expit(stack), axis=0) - logsumexp(log_expit(-stack), axis=0))
    log_p = stack - logsumexp(stack, axis=-1, keepdims=True)
    return np.asarray(logsumexp(log_p, axis=0) - np.log(len(stack)))


def _check_kind(kind: Kind | str, labels: tuple[str, ...]) -> Kind:
    if kind not in SCORED_KINDS:
        raise ValueError(unknown("kind", str(kind), [known.value for known in SCORED_KINDS]))
    if len(set(labels)) != len(labels):
        raise ValueError(f"labels must differ, got {labels}")
    least = {Kind.BINARY: 1, Kind.MULTILABEL: 1}.get(Kind(kind), 2)
    if len(labels) < least or (kind == Kind.BINARY and len(labels) != 1):
        raise ValueError(
            f"{kind} needs {'exactly' if kind == Kind.BINARY else 'at least'} {least} labels, got {labels}"
        )
    return Kind(kind)


def _labelwise_truth(y: ArrayLike, labels: tuple[str, ...]) -> FloatArray:
    truth = np.array(y, dtype=np.float64)
    truth = truth[:, None] if truth.ndim == 1 and len(labels) == 1 else truth
    if truth.ndim != 2 or truth.shape[1] != len(labels):
        raise ValueError(f"y must have shape (N, {len(labels)}) for labels {labels}, got {truth.shape}")
    truth[truth == UNCERTAIN] = np.nan
    bad = truth[~(np.isnan(truth) | (truth == 0) | (truth == 1))]
    if len(bad):
        raise ValueError(f"y may hold 0, 1, and NaN or {UNCERTAIN} (masked), got {np.unique(bad)[:5].tolist()}")
    return truth


def _class_truth(y: ArrayLike, labels: tuple[str, ...]) -> FloatArray:
    index = np.asarray(y)
    if index.ndim != 1 or not np.issubdtype(index.dtype, np.integer):
        raise ValueError(f"y must be whole numbers of shape (N,), got {index.dtype} of shape {index.shape}")
    if len(index) and (index.min() < MISSING_CLASS or index.max() >= len(labels)):
        raise ValueError(f"y must lie in {MISSING_CLASS}..{len(labels) - 1}, got {index.min()}..{index.max()}")
    truth: FloatArray = (index[:, None] == np.arange(len(labels))).astype(np.float64)
    truth[index == MISSING_CLASS] = np.nan
    return truth


def run_slices(runs: int, n: int) -> Iterator[slice]:
    """Slices of runs whose arrays (runs, n) lie in a core's own cache: steps over larger ones take twice as long.

    Args:
        runs: R.
        n: Values of each run.
    """
    step = max(1, _CACHED_VALUES // max(n, 1))
    return (slice(start, start + step) for start in range(0, runs, step))


def taken_along(values: NDArray[Scalar], places: NDArray[np.intp]) -> NDArray[Scalar]:
    """``take_along_axis`` of (R, N) values along the last axis, in a fraction of its time: places in the flat array."""
    found: NDArray[Scalar] = np.take(values, places + values.shape[1] * np.arange(len(values))[:, None])
    return found


def log_odds(logits: FloatArray) -> FloatArray:
    """(..., C): log p_k/(1 - p_k) of the softmax, exact where p_k is near 1 too; NaN where a logit is not finite.

    ``z_k - logsumexp(z_j, j != k)``: of the largest class over the others themselves, of every other class over all
    less its own share, which loses nothing, as the largest class remains.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        top = np.argmax(logits, axis=-1)[..., None]
        others = logits.copy()
        np.put_along_axis(others, top, -np.inf, axis=-1)
        shifted = logits - np.take_along_axis(logits, top, axis=-1)
        shares = np.exp(shifted)
        odds = shifted - np.log(shares.sum(axis=-1, keepdims=True) - shares)
        second = others.max(axis=-1, keepdims=True)
        rest = second + np.log(np.exp(others - second).sum(axis=-1, keepdims=True))
        np.put_along_axis(odds, top, np.take_along_axis(logits, top, axis=-1) - rest, axis=-1)
    return np.asarray(odds)
