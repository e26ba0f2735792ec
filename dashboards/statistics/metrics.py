"""The metrics by name: one definition of each number, for the record and for the report.

Every metric but those of ranks, ECE and kappa is a mean, over parts, of means over the images of a part: accuracy has
one part (all labelled images) per label, balanced accuracy one per class. ``decompose`` gives those parts;
``uncertainty`` and ``bootstrap`` reuse them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dashboards.statistics import calibration, discrimination, precision_recall
from dashboards.statistics.calibration_error import BinnedGaps, binned_gaps, outcome_pairs
from dashboards.statistics.predictions import FloatArray, Predictions, check_predictions
from search_spaces.exceptions import unknown
from search_spaces.names import Kind


class Metric(StrEnum):
    """Names of metrics; ``auc`` and ``ap`` of one label of several are written ``auc.<label>``, ``ap.<label>``."""

    AUC = "auc"
    AUC_MACRO = "auc_macro"
    AP = "ap"
    AP_MACRO = "ap_macro"
    ACCURACY = "accuracy"
    BALANCED_ACCURACY = "balanced_accuracy"
    KAPPA = "kappa"
    NLL = "nll"
    BRIER = "brier"
    ECE = "ece"
    DICE = "dice"
    IOU = "iou"


RANKING = (Metric.AUC, Metric.AUC_MACRO, Metric.AP, Metric.AP_MACRO)
"""Metrics that need positives and negatives of a label, and only the order of their scores."""

MACRO = (Metric.AUC_MACRO, Metric.AP_MACRO, Metric.BALANCED_ACCURACY)
"""Means over classes of what each has alone: one that is rare in a set would make all of the mean uncertain."""

_PER_LABEL = (Metric.AUC, Metric.AP)
_OVERLAPS = (Metric.DICE, Metric.IOU)
_LOWER_IS_BETTER = (Metric.NLL, Metric.BRIER, Metric.ECE)
_SHARED = (Metric.ACCURACY, Metric.BALANCED_ACCURACY, Metric.NLL, Metric.BRIER, Metric.ECE)
_BY_KIND: dict[Kind, tuple[Metric, ...]] = {
    Kind.BINARY: (Metric.AUC, Metric.AP, *_SHARED),
    Kind.MULTILABEL: (Metric.AUC_MACRO, Metric.AP_MACRO, *_SHARED),
    Kind.MULTICLASS: (Metric.AUC_MACRO, Metric.AP_MACRO, *_SHARED),
    Kind.ORDINAL: (Metric.AUC_MACRO, Metric.AP_MACRO, *_SHARED, Metric.KAPPA),
    Kind.SEGMENTATION: _OVERLAPS,
}
_IN_UNIT = (
    *(Metric.AUC, Metric.AUC_MACRO, Metric.AP, Metric.AP_MACRO, Metric.ACCURACY, Metric.BALANCED_ACCURACY),
    *(Metric.ECE, Metric.DICE, Metric.IOU),
)
_SPANS = {str(metric): 1.0 for metric in _IN_UNIT} | {str(Metric.KAPPA): 2.0, str(Metric.BRIER): 2.0}
"""Largest minus smallest possible value; of the others there is none."""
_IMAGE_VALUES = {
    Metric.ACCURACY: discrimination.image_correct,
    Metric.NLL: calibration.image_nll,
    Metric.BRIER: calibration.image_brier,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One of the means that a metric averages.

    Attributes:
        rows: (n,) row numbers of its images, at least one.
        values: (n,) value of each; NaN where logits are not finite.
    """

    rows: NDArray[np.intp]
    values: FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Decomposition:
    """A metric as the mean over parts of means over images.

    Attributes:
        parts: The parts, equally weighted; none if the metric is undefined.
        classes: Classes that they belong to.
        undefined: Classes left out because the labels do not define them.
    """

    parts: tuple[Part, ...]
    classes: tuple[str, ...]
    undefined: tuple[str, ...]

    @property
    def value(self) -> float:
        """The metric; NaN if there is no part."""
        return float(np.mean([part.values.mean() for part in self.parts])) if self.parts else float("nan")


def metric_names(kind: Kind | str, labels: Sequence[str]) -> tuple[str, ...]:
    """Names of all metrics of a task, ``auc.<label>`` and ``ap.<label>`` of each label included; of masks ``dice`` and
    ``iou`` likewise, which patients contribute to (``masks.mask_metrics`` has all numbers).

    Raises:
        ValueError: No such kind.
    """
    if kind not in _BY_KIND:
        raise ValueError(unknown("kind", str(kind), [known.value for known in _BY_KIND]))
    is_masks = kind == Kind.SEGMENTATION
    whole_only = kind == Kind.BINARY or (is_masks and len(labels) == 1)
    by_label = _OVERLAPS if is_masks else _PER_LABEL
    per_label = () if whole_only else tuple(f"{name}.{label}" for name in by_label for label in labels)
    return (*(metric.value for metric in _BY_KIND[Kind(kind)]), *per_label)


def higher_is_better(metric: str) -> bool:
    """Whether a larger value of a metric is the better one (not so for nll, brier and ece)."""
    return split_name(metric)[0] not in _LOWER_IS_BETTER


def split_name(metric: str) -> tuple[Metric, str | None]:
    """A metric's name without and with its label: ``auc.mel`` -> (Metric.AUC, "mel").

    Raises:
        ValueError: No such metric.
    """
    name, _, label = metric.partition(".")
    if name not in set(Metric):
        raise ValueError(unknown("metric", metric, [known.value for known in Metric]))
    return Metric(name), label or None


def check_metric(metric: str, predictions: Predictions) -> tuple[Metric, str | None]:
    """Name and label of a metric that the predictions have; the label of a binary task's ``auc`` and ``ap`` is added.

    Raises:
        ValueError: The kind has no such metric, or no such label.
    """
    known = metric_names(predictions.kind, predictions.labels)
    if metric not in known:
        raise ValueError(unknown("metric", metric, known, f"a {predictions.kind} task"))
    name, label = split_name(metric)
    return name, predictions.labels[0] if name in _PER_LABEL and label is None else label


def compute_metrics(
    kind: Kind | str,
    labels: Sequence[str],
    y: ArrayLike,
    logits: ArrayLike,
    class_set: Sequence[str] | None = None,
) -> dict[str, float]:
    """All metrics of one run on one evaluation set.

    ``auc`` (binary) or ``auc_macro`` and ``auc.<label>`` (one-vs-rest where classes exclude each other, ranked by the
    log-odds of the softmax probability), average precision likewise (``ap``, ``ap_macro``, ``ap.<label>``),
    ``accuracy``, ``balanced_accuracy`` (mean of sensitivity and specificity, or mean recall of the classes that occur),
    ``nll`` in nats, ``brier`` (in [0, 1], for softmax in [0, 2]), ``ece`` with 15 bins of equal width (of the label's
    probability, for softmax of the top label's), and for ordinal tasks ``kappa`` with quadratic weights. Multilabel
    metrics are means over labels: the macro AUC and AP and the balanced accuracy, also of classes, over the class set,
    all others over all labels.

    Args:
        kind: binary, multilabel, multiclass or ordinal.
        labels: Names of the L labels (classes); one for binary.
        y: Binary, multilabel: (N, L) of 0, 1, and NaN (masked). Multiclass, ordinal: (N,) of class numbers, -1 masked.
        logits: (N, L) before sigmoid or softmax.
        class_set: Labels that macro averages run over, frozen before results are seen; all if not given.

    Returns:
        Metric name -> value, NaN (never 0) where it is undefined.

    Raises:
        ValueError: Arrays that do not fit together, or an unknown kind or label.
    """
    averaged = check_predictions(kind, labels, y, logits, class_set)
    whole = replace(averaged, class_set=averaged.labels)
    names = metric_names(whole.kind, whole.labels)
    return {name: metric_value(name, averaged if name in MACRO else whole) for name in names}


def widest_difference(metric: str) -> float:
    """The largest difference that two values of a metric can have; inf if there is none, or the name is not known.

    Values lie in [0, 1], of kappa in [-1, 1], of Brier in [0, 2] (a softmax's is summed over its classes); the NLL has
    no upper end.
    """
    return _SPANS.get(metric.partition(".")[0], float("inf"))


def metric_value(metric: str, predictions: Predictions) -> float:
    """One metric by name; NaN where it is undefined.

    Raises:
        ValueError: The kind has no such metric, or no such label.
    """
    name, label = check_metric(metric, predictions)
    if label is not None:
        per_label = discrimination.class_auc if name is Metric.AUC else precision_recall.class_ap
        return per_label(predictions, label)
    if name is Metric.AUC_MACRO:
        return discrimination.auc_macro(predictions)[0]
    if name is Metric.AP_MACRO:
        return precision_recall.ap_macro(predictions)[0]
    if name is Metric.ECE:
        parts = ece_parts(predictions)
        return float(np.mean([part.value for part in parts.values()])) if parts else float("nan")
    if name is Metric.KAPPA:
        return float(discrimination.quadratic_kappa(discrimination.confusion(predictions)))
    return decompose(name, predictions).value


def ece_parts(predictions: Predictions) -> dict[str, BinnedGaps]:
    """What the ECE is the mean of: the gaps of each label of the class set that is labelled anywhere.

    Softmax kinds have one part, of the top label, under the name ``top_label``.
    """
    if not predictions.labelwise:
        found = {"top_label": binned_gaps(*outcome_pairs(predictions))}
    else:
        found = {label: binned_gaps(*outcome_pairs(predictions, label)) for label in predictions.class_set}
    return {label: gaps for label, gaps in found.items() if len(gaps.rows)}


def decompose(metric: Metric, predictions: Predictions) -> Decomposition:
    """The parts of accuracy, balanced_accuracy, nll or brier."""
    if metric is Metric.BALANCED_ACCURACY:
        return _sides(predictions) if predictions.labelwise else _recalls(predictions)
    values = _IMAGE_VALUES[metric](predictions)
    if not predictions.labelwise:
        rows = np.flatnonzero(predictions.labelled[:, 0])
        parts = (Part(rows=rows, values=values[rows, 0]),) if len(rows) else ()
        return Decomposition(parts=parts, classes=predictions.labels, undefined=())
    defined = [
        label for label in predictions.class_set if predictions.labelled[:, predictions.labels.index(label)].any()
    ]
    columns = predictions.columns(defined)
    rows_of = {k: np.flatnonzero(predictions.labelled[:, k]) for k in columns}
    return _decomposition(predictions, defined, (Part(rows=r, values=values[r, k]) for k, r in rows_of.items()))


def _sides(predictions: Predictions) -> Decomposition:
    """Sensitivity and specificity of each label that has positives and negatives."""
    correct = discrimination.image_correct(predictions)
    defined = discrimination.defined_classes(predictions, predictions.class_set)
    sides = [
        (k, np.flatnonzero(predictions.truth[:, k] == side)) for k in predictions.columns(defined) for side in (1, 0)
    ]
    return _decomposition(predictions, defined, (Part(rows=rows, values=correct[rows, k]) for k, rows in sides))


def _recalls(predictions: Predictions) -> Decomposition:
    """Recall of each class of the class set that occurs; no part if fewer than two do."""
    correct = discrimination.image_correct(predictions)[:, 0]
    rows_of = {c: np.flatnonzero(predictions.truth[:, predictions.labels.index(c)] == 1) for c in predictions.class_set}
    defined = [label for label, rows in rows_of.items() if len(rows)]
    parts = [Part(rows=rows_of[label], values=correct[rows_of[label]]) for label in defined]
    return _decomposition(predictions, defined, parts if len(parts) > 1 else ())


def _decomposition(predictions: Predictions, defined: Sequence[str], parts: Iterable[Part]) -> Decomposition:
    missing = tuple(label for label in predictions.class_set if label not in defined)
    return Decomposition(parts=tuple(parts), classes=tuple(defined), undefined=missing)
