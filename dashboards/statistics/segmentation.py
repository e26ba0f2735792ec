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


def patient_means(values: FloatArray, index: PatientIndex) -> tuple[NDArray[Any], FloatArray]:
    """Mean of each patient over their images with a value.

    Args:
        values: (N,); NaN where undefined.
        index: Patients of the images.

    Returns:
        (P,) sorted ids of the patients with an image that has one; (P,) their means.

    Raises:
        ValueError: Lengths differ.
    """
    if index.codes.shape != values.shape:
        raise ValueError(f"patient has {len(index.codes)} rows, the images {len(values)}; give one row per image")
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


def mean_influence(name: str, values: FloatArray, index: PatientIndex) -> Influence:
    """Mean over patients of the mean over their images with a value, with each patient's contribution.

    Args:
        name: Of the metric.
        values: (N,); NaN where undefined.
        index: Patients of the images.

    Raises:
        ValueError: Lengths differ.
    """
    ids, means = patient_means(values, index)
    value = mean_of(means)
    return Influence(
        metric=name, value=value, patients=ids, psi=(means - value) / max(1, len(means)), min_patients=len(means)
    )


def share_influence(name: str, hits: FloatArray, index: PatientIndex) -> Influence:
    """Share of images, with each patient's contribution; images of a patient with more of them weigh more.

    Args:
        name: Of the metric.
        hits: (N,) of 1, 0 and NaN (not of the denominator).
        index: Patients of the images.
    """
    rows = ~np.isnan(hits)
    value = mean_of(hits[rows])
    present, codes = np.unique(index.codes[rows], return_inverse=True)
    psi = np.bincount(codes, hits[rows] - value, len(present)) / max(1, int(rows.sum()))
    return Influence(metric=name, value=value, patients=index.ids[present], psi=psi, min_patients=len(present))


def segmentation_influence(metric: Metric | str, counts: PixelCounts, patient: ArrayLike | PatientIndex) -> Influence:
    """Patient-mean Dice or IoU with each patient's contribution, for intervals and contrasts like any other metric."""
    index = patient if isinstance(patient, PatientIndex) else index_patients(patient)
    return mean_influence(str(metric), image_overlap(metric, counts), index)


def mean_of(values: NDArray[Any]) -> float:
    """The mean; NaN of nothing."""
    return float(np.mean(values)) if len(values) else float("nan")


def _ratio(metric: Metric | str, tp: FloatArray, fp: FloatArray, fn: FloatArray) -> FloatArray:
    if metric not in OVERLAPS:
        raise ValueError(unknown("overlap", str(metric), [known.value for known in OVERLAPS]))
    hits = 2 * tp if metric == Metric.DICE else tp
    union = hits + fp + fn
    return np.asarray(np.divide(hits, union, out=np.full(len(tp), np.nan), where=union > 0))
