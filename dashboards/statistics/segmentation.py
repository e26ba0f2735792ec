"""Overlap of masks, from pixel counts per image: one class at a time.

Images with an empty truth have no Dice: a lesion cannot be found where there is none. They are counted apart, by their
false positives, so that these cost something. Dice and IoU are means over patients of means over the patient's images;
the mean over images and the pooled value are given beside them, because published numbers differ in which they mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dashboards.statistics.metrics import Metric
from dashboards.statistics.predictions import BoolArray, FloatArray
from dashboards.statistics.proportions import Proportion, proportion
from dashboards.statistics.uncertainty import Influence, PatientIndex, index_patients
from search_spaces.exceptions import unknown

OVERLAPS = (Metric.DICE, Metric.IOU)


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelCounts:
    """Pixels of N images, made by ``check_counts``; NaN in all four of a masked image.

    Attributes:
        tp: (N,) predicted and true.
        fp: (N,) predicted, not true.
        fn: (N,) true, not predicted.
        tn: (N,) neither.
    """

    tp: FloatArray
    fp: FloatArray
    fn: FloatArray
    tn: FloatArray

    @property
    def known(self) -> BoolArray:
        """(N,): images that are not masked."""
        return ~np.isnan(self.tp)

    @property
    def lesion(self) -> BoolArray:
        """(N,): known images with at least one true pixel."""
        return np.asarray(self.tp + self.fn > 0)

    @property
    def empty(self) -> BoolArray:
        """(N,): known images without a true pixel."""
        return np.asarray(self.tp + self.fn == 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """One overlap measure in its readings; each in [0, 1], NaN if undefined.

    Attributes:
        patient_mean: Mean over patients of the mean over their images with a lesion. The primary value.
        image_mean: Mean over images with a lesion.
        pooled: Of the pixels of all images together, those without a lesion included.
        both_empty_is_1: Mean over all images, 1 where truth and prediction are both empty, 0 where only truth is.
    """

    patient_mean: float
    image_mean: float
    pooled: float
    both_empty_is_1: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentationScores:
    """One class on one evaluation set.

    Attributes:
        dice: Dice coefficient, ``2 TP / (2 TP + FP + FN)``.
        iou: Intersection over union, ``TP / (TP + FP + FN)``.
        false_positive_images: Share of images without a lesion on which one is predicted.
        lesion_images: Images with a lesion.
        lesion_patients: Patients with such an image.
        empty_images: Images without.
        masked_images: Images whose truth is not known, or whose counts are missing.
    """

    dice: Overlap
    iou: Overlap
    false_positive_images: Proportion
    lesion_images: int
    lesion_patients: int
    empty_images: int
    masked_images: int


def check_counts(tp: ArrayLike, fp: ArrayLike, fn: ArrayLike, tn: ArrayLike) -> PixelCounts:
    """Pixel counts as float64; an image with a NaN in any of the four is masked.

    Args:
        tp: (N,) whole numbers of at least 0, or NaN; like the others.
        fp: See tp.
        fn: See tp.
        tn: See tp.

    Raises:
        ValueError: Shapes that differ, or a count that is negative or not whole.
    """
    columns = [np.asarray(c, dtype=np.float64) for c in (tp, fp, fn, tn)]
    if len({c.shape for c in columns}) != 1 or columns[0].ndim != 1:
        raise ValueError(f"tp, fp, fn and tn must all have shape (N,), got {[c.shape for c in columns]}")
    for name, column in zip(("tp", "fp", "fn", "tn"), columns, strict=True):
        finite = column[~np.isnan(column)]
        if not (np.isfinite(finite).all() and (finite >= 0).all() and (finite == np.round(finite)).all()):
            raise ValueError(f"{name} must hold whole numbers of at least 0, or NaN (masked); got {finite.min()}")
    masked = np.isnan(np.sum(columns, axis=0))
    tp_, fp_, fn_, tn_ = (np.where(masked, np.nan, c) for c in columns)
    return PixelCounts(tp=tp_, fp=fp_, fn=fn_, tn=tn_)


def image_overlap(metric: Metric | str, counts: PixelCounts) -> FloatArray:
    """(N,) Dice or IoU of each image; NaN where it is masked or its truth is empty.

    Raises:
        ValueError: Another metric.
    """
    return np.where(counts.lesion, _ratio(metric, counts.tp, counts.fp, counts.fn), np.nan)


def patient_overlap(
    metric: Metric | str, counts: PixelCounts, patient: ArrayLike | PatientIndex
) -> tuple[NDArray[Any], FloatArray]:
    """Mean Dice or IoU of each patient with a lesion.

    Returns:
        (P,) sorted ids of the patients with an image that has one; (P,) the mean over those images.
    """
    index = patient if isinstance(patient, PatientIndex) else index_patients(patient)
    if index.codes.shape != counts.tp.shape:
        raise ValueError(f"patient has {len(index.codes)} rows, the counts {len(counts.tp)}; give one row per image")
    values = image_overlap(metric, counts)
    rows = ~np.isnan(values)
    present, codes = np.unique(index.codes[rows], return_inverse=True)
    means = np.bincount(codes, values[rows], len(present)) / np.maximum(np.bincount(codes, minlength=len(present)), 1)
    return index.ids[present], means


def pooled_overlap(metric: Metric | str, counts: PixelCounts) -> float:
    """Dice or IoU of the pixels of all known images together; NaN if nothing is true or predicted.

    Raises:
        ValueError: Another metric.
    """
    totals = (np.array([column[counts.known].sum()]) for column in (counts.tp, counts.fp, counts.fn))
    return float(_ratio(metric, *totals)[0])


def segmentation_scores(
    counts: PixelCounts, patient: ArrayLike | PatientIndex, rng: np.random.Generator
) -> SegmentationScores:
    """All numbers of one class.

    Args:
        counts: Pixels of N images.
        patient: (N,) patient ids, or their index.
        rng: Source of bootstrap draws for the interval of the false-positive share.
    """
    index = patient if isinstance(patient, PatientIndex) else index_patients(patient)
    alarms = np.where(counts.empty, counts.fp > 0, np.nan)
    return SegmentationScores(
        dice=_overlap(Metric.DICE, counts, index),
        iou=_overlap(Metric.IOU, counts, index),
        false_positive_images=proportion(alarms, index, rng),
        lesion_images=int(counts.lesion.sum()),
        lesion_patients=len(np.unique(index.codes[counts.lesion])),
        empty_images=int(counts.empty.sum()),
        masked_images=int((~counts.known).sum()),
    )


def segmentation_influence(metric: Metric | str, counts: PixelCounts, patient: ArrayLike | PatientIndex) -> Influence:
    """Patient-mean Dice or IoU with each patient's contribution, for intervals and contrasts like any other metric."""
    ids, means = patient_overlap(metric, counts, patient)
    value = float(means.mean()) if len(means) else float("nan")
    return Influence(
        metric=str(metric),
        value=value,
        patients=ids,
        psi=(means - value) / max(1, len(means)),
        min_patients=len(means),
    )


def _overlap(metric: Metric, counts: PixelCounts, index: PatientIndex) -> Overlap:
    images = image_overlap(metric, counts)
    lenient = np.where(counts.empty, counts.fp == 0, images)[counts.known]
    return Overlap(
        patient_mean=_mean(patient_overlap(metric, counts, index)[1]),
        image_mean=_mean(images[counts.lesion]),
        pooled=pooled_overlap(metric, counts),
        both_empty_is_1=_mean(lenient),
    )


def _ratio(metric: Metric | str, tp: FloatArray, fp: FloatArray, fn: FloatArray) -> FloatArray:
    if metric not in OVERLAPS:
        raise ValueError(unknown("overlap", str(metric), [known.value for known in OVERLAPS]))
    hits = 2 * tp if metric == Metric.DICE else tp
    union = hits + fp + fn
    return np.asarray(np.divide(hits, union, out=np.full(len(tp), np.nan), where=union > 0))


def _mean(values: FloatArray) -> float:
    return float(values.mean()) if len(values) else float("nan")
