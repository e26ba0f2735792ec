"""Metrics of predicted masks with several labels, from counts of pixels per image.

``segmentation`` has those of one label. Over labels they are means, of labels that some image of the set shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dashboards.statistics.contrasts import Estimate, Scale, combined_interval
from dashboards.statistics.metrics import metric_names, split_name
from dashboards.statistics.predictions import FloatArray
from dashboards.statistics.seeds import SeedKey
from dashboards.statistics.segmentation import (
    PixelCounts,
    check_counts,
    image_overlap,
    mean_influence,
    mean_of,
    pooled_overlap,
    segmentation_influence,
    share_influence,
)
from dashboards.statistics.uncertainty import Influence, PatientIndex, index_patients
from search_spaces.exceptions import unknown
from search_spaces.names import Kind

COUNTS = 4
"""tp, fp, fn, tn, in this order along the last axis."""

OF_ONE_LABEL = (
    "dice",
    "iou",
    "dice_image_mean",
    "dice_pooled",
    "dice_both_empty_is_1",
    "hd95",
    "nsd",
    "hd95_undefined",
    "shown_images",
    "empty_images",
    "false_positive_images",
    "false_positive_pixels",
)
"""Names of ``label_metrics``."""

DISTANCES = ("hd95", "nsd")
"""Metrics in the order of the last axis of ``distances``."""

_FALSE_POSITIVES = "false_positive_images"

SCALES = {
    "dice": Scale.LOGIT,
    "iou": Scale.LOGIT,
    "hd95": Scale.LOG,
    "nsd": Scale.LOGIT,
    _FALSE_POSITIVES: Scale.LOGIT,
}
"""Metrics that patients contribute to -> the scale on which their interval is symmetric."""

_NUMBERS_OF_IMAGES = ("hd95_undefined", "shown_images", "empty_images")


def counts_of_label(counts: FloatArray, label: int) -> PixelCounts:
    """The counts of one label.

    Args:
        counts: (N, L, 4); NaN in all four where an image says nothing of a label.
        label: Its number.

    Raises:
        ValueError: Another shape, or a count that is negative or not whole.
    """
    if counts.ndim != 3 or counts.shape[2] != COUNTS:
        raise ValueError(f"counts must have shape (N, L, {COUNTS}), got {counts.shape}")
    tp, fp, fn, tn = counts[:, label].T
    return check_counts(tp, fp, fn, tn)


def overlap_influence(
    metric: str, labels: Sequence[str], counts: FloatArray, patient: ArrayLike | PatientIndex
) -> Influence:
    """Dice or IoU with each patient's contribution: of one label, or the mean over the labels that some image shows.

    The value of a label is the mean over patients of the mean over their images that show it. A patient's contribution
    to the mean over labels is the mean of those to each, 0 for a label that no image of theirs shows.

    Args:
        metric: A name of ``metric_names("segmentation", labels)``.
        labels: Names of the L labels.
        counts: (N, L, 4).
        patient: (N,) patient ids, or their index.

    Raises:
        ValueError: Another metric, or arrays that do not fit together.
    """
    known = metric_names(Kind.SEGMENTATION, labels)
    if metric not in known:
        raise ValueError(unknown("metric", metric, known, "a segmentation task"))
    name, one = split_name(metric)
    index = patient if isinstance(patient, PatientIndex) else index_patients(patient)
    asked = tuple(labels) if one is None else (one,)
    each = {label: segmentation_influence(name, counts_of_label(counts, labels.index(label)), index) for label in asked}
    return _mean_of_defined(metric, each)


def mask_influence(
    name: str, labels: Sequence[str], counts: FloatArray, distances: FloatArray, patient: ArrayLike | PatientIndex
) -> Influence:
    """A metric with each patient's contribution: the mean over the labels that define it of ``label_influence``.

    Args:
        name: One of ``SCALES``.
        labels: Names of the L labels.
        counts: (N, L, 4).
        distances: (N, L, 2): HD95 and normalised surface Dice; NaN where undefined.
        patient: (N,) patient ids, or their index.

    Raises:
        ValueError: Another name, or arrays that do not fit together.
    """
    index = patient if isinstance(patient, PatientIndex) else index_patients(patient)
    each = {
        label: label_influence(name, counts_of_label(counts, k), distances[:, k], index)
        for k, label in enumerate(labels)
    }
    return _mean_of_defined(name, each)


def _mean_of_defined(metric: str, of_labels: Mapping[str, Influence]) -> Influence:
    each = {label: found for label, found in of_labels.items() if found.n_patients}
    ids = [found.patients for found in each.values()]
    patients: NDArray[Any] = np.unique(np.concatenate(ids)) if ids else np.empty(0)
    psi = np.zeros(len(patients))
    for found in each.values():
        psi[np.searchsorted(patients, found.patients)] += found.psi / len(each)
    return Influence(
        metric=metric,
        value=float(np.mean([found.value for found in each.values()])) if each else float("nan"),
        patients=patients,
        psi=psi,
        min_patients=min((found.n_patients for found in each.values()), default=0),
        classes=tuple(each),
        undefined=tuple(label for label in of_labels if label not in each),
    )


def guessed_counts(counts: FloatArray) -> FloatArray:
    """Counts of the guess that every known pixel is of every label: the best that one mask for all images does without
    looking, as a mask without pixels overlaps nothing.

    Args:
        counts: (N, L, 4) of any run; its truth alone is used.
    """
    tp, fp, fn, tn = np.moveaxis(counts, 2, 0)
    nothing = np.zeros_like(tp) + (tp - tp)  # NaN stays
    return np.stack([tp + fn, fp + tn, nothing, nothing], axis=2)


def mask_metrics(
    labels: Sequence[str], counts: FloatArray, distances: FloatArray, patient: ArrayLike | PatientIndex
) -> dict[str, float]:
    """All metrics of one run on one evaluation set.

    Args:
        labels: Names of the L labels.
        counts: (N, L, 4).
        distances: (N, L, 2): HD95 and normalised surface Dice; NaN where undefined.
        patient: (N,) patient ids, or their index.

    Returns:
        The names of ``OF_ONE_LABEL``, means over labels where one is defined (sums of numbers of images), and with
        several labels ``<name>.<label>``. NaN, never 0, where undefined.

    Raises:
        ValueError: Arrays that do not fit together.
    """
    index = patient if isinstance(patient, PatientIndex) else index_patients(patient)
    each = {label: label_metrics(counts_of_label(counts, k), distances[:, k], index) for k, label in enumerate(labels)}
    whole = {name: _over_labels(name, [found[name] for found in each.values()]) for name in OF_ONE_LABEL}
    if len(labels) == 1:
        return whole
    return whole | {f"{name}.{label}": value for label, found in each.items() for name, value in found.items()}


def _over_labels(name: str, values: Sequence[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    if name in _NUMBERS_OF_IMAGES:
        return float(sum(known))
    return float(np.mean(known)) if known else float("nan")


def label_metrics(counts: PixelCounts, distances: FloatArray, index: PatientIndex) -> dict[str, float]:
    """Numbers of one label.

    ``dice`` and ``iou``: mean over patients of the mean over their images that show the label; ``dice_image_mean`` over
    these images; ``dice_pooled`` of the pixels of all images together; ``dice_both_empty_is_1`` over all images, 1
    where truth and prediction are empty, 0 where only the truth is. ``hd95`` and ``nsd``: mean over patients of the
    mean over their images where it is defined, and ``hd95_undefined`` the images that show the label and have no HD95,
    which a mean cannot tell. ``false_positive_images``: share of images without the label on which it is predicted, and
    ``false_positive_pixels`` the mean number of predicted pixels on all of them.

    Args:
        counts: Of N images.
        distances: (N, 2) HD95 and normalised surface Dice.
        index: Patients of the images.
    """
    images = image_overlap("dice", counts)
    lenient = np.where(counts.empty, counts.fp == 0, images)[counts.known]
    with_intervals = {name: label_influence(name, counts, distances, index).value for name in SCALES}
    return with_intervals | {
        "dice_image_mean": mean_of(images[counts.lesion]),
        "dice_pooled": pooled_overlap("dice", counts),
        "dice_both_empty_is_1": mean_of(lenient),
        "hd95_undefined": float(np.isnan(distances[counts.lesion, 0]).sum()),
        "shown_images": float(counts.lesion.sum()),
        "empty_images": float(counts.empty.sum()),
        "false_positive_pixels": mean_of(counts.fp[counts.empty]),
    }


def label_influence(name: str, counts: PixelCounts, distances: FloatArray, index: PatientIndex) -> Influence:
    """A metric of one label with each patient's contribution.

    Args:
        name: One of ``SCALES``; see ``label_metrics``.
        counts: Of N images.
        distances: (N, 2) HD95 and normalised surface Dice.
        index: Patients of the images.

    Raises:
        ValueError: Another name.
    """
    if name in DISTANCES:
        return mean_influence(name, distances[:, DISTANCES.index(name)], index)
    if name == _FALSE_POSITIVES:
        return share_influence(name, np.where(counts.empty, counts.fp > 0, np.nan), index)
    return segmentation_influence(name, counts, index)


def mask_interval(name: str, runs: Mapping[SeedKey, Influence], *, level: float = 0.95) -> Estimate:
    """Mean over seeds with an interval over new seeds and new patients.

    Args:
        name: One of ``SCALES``.
        runs: Seed -> ``label_influence`` of that run, or its mean over labels.
        level: Nominal coverage.
    """
    return combined_interval(runs, level=level, scale=SCALES[name])
