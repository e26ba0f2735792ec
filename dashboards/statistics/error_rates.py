"""Error rates of subgroups at one threshold that was frozen on validation, and calibration within them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit

from dashboards.statistics.calibration_error import CalibrationError, assess_calibration
from dashboards.statistics.class_sets import MIN_SHOWN_PATIENTS, LabelCounts, count_labels
from dashboards.statistics.operating_points import OperatingPoint, operating_point
from dashboards.statistics.predictions import FloatArray
from dashboards.statistics.recalibration import LogisticCalibration, logistic_calibration
from dashboards.statistics.subgroups import Subgroup, insufficient_data
from dashboards.statistics.uncertainty import PatientIndex


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRates:
    """One subgroup at the threshold.

    Attributes:
        group: Its name.
        counts: Its images and patients.
        point: Sensitivity, specificity and predictive values; None if ``note`` says why.
        calibration: Slope, intercept and calibration in the large; None likewise.
        errors: Calibration errors with their null; None likewise.
        note: ``insufficient data (m+, n−)``, or empty.
    """

    group: str
    counts: LabelCounts
    point: OperatingPoint | None
    calibration: LogisticCalibration | None
    errors: CalibrationError | None
    note: str

    @property
    def true_positive_rate(self) -> float:
        """Sensitivity; NaN without a point."""
        return self.point.sensitivity.value if self.point else float("nan")

    @property
    def false_positive_rate(self) -> float:
        """1 - specificity; NaN without a point."""
        return 1.0 - self.point.specificity.value if self.point else float("nan")

    def underdiagnosis(self, *, label_means_healthy: bool) -> float:
        """Share of the ill who are called healthy (Seyyed-Kalantari et al. 2021).

        Args:
            label_means_healthy: True for a label such as "No Finding", whose false positives these are; False for a
                disease, whose false negatives they are.
        """
        return self.false_positive_rate if label_means_healthy else 1.0 - self.true_positive_rate


@dataclass(frozen=True, slots=True, kw_only=True)
class RateGaps:
    """Largest differences between the groups that are large enough; NaN with fewer than two of them.

    Attributes:
        equal_opportunity: Of the true-positive rate (Hardt et al. 2016).
        false_positive_rate: Of the false-positive rate.
        equalised_odds: The larger of the two.
        groups: Groups compared.
        left_out: ``group: insufficient data (m+, n−)`` of the others.
    """

    equal_opportunity: float
    false_positive_rate: float
    equalised_odds: float
    groups: tuple[str, ...]
    left_out: tuple[str, ...]


def group_rates(
    label: str,
    y: ArrayLike,
    logit: ArrayLike,
    threshold: float,
    groups: Sequence[Subgroup],
    index: PatientIndex,
    rng: np.random.Generator,
    *,
    min_patients: int = MIN_SHOWN_PATIENTS,
) -> tuple[GroupRates, ...]:
    """Every group at one threshold for all.

    Args:
        label: Name of the label.
        y: (N,) of 0, 1 and NaN (masked).
        logit: (N,) logits of that label.
        threshold: Logit from which on an image is called positive, frozen on validation.
        groups: From ``subgroups``; their rows count as those of y.
        index: Patients of the N images.
        rng: Source of bootstrap draws and of the calibration null.
        min_patients: Least positive and negative patients of a group to be shown.
    """
    truth, z = np.asarray(y, dtype=np.float64), np.asarray(logit, dtype=np.float64)
    return tuple(_rates_of(label, truth, z, threshold, group, index, rng, min_patients) for group in groups)


def rate_gaps(rates: Sequence[GroupRates]) -> RateGaps:
    """Largest differences of error rates between groups, of those that have a point."""
    shown = [rate for rate in rates if rate.point is not None]
    sensitivity = _gap([rate.true_positive_rate for rate in shown])
    alarms = _gap([rate.false_positive_rate for rate in shown])
    return RateGaps(
        equal_opportunity=sensitivity,
        false_positive_rate=alarms,
        equalised_odds=float(np.maximum(sensitivity, alarms)),
        groups=tuple(rate.group for rate in shown),
        left_out=tuple(f"{rate.group}: {rate.note}" for rate in rates if rate.point is None),
    )


def _rates_of(
    label: str,
    truth: FloatArray,
    z: FloatArray,
    threshold: float,
    group: Subgroup,
    index: PatientIndex,
    rng: np.random.Generator,
    min_patients: int,
) -> GroupRates:
    y, logit = truth[group.rows], z[group.rows]
    own = PatientIndex(ids=index.ids, codes=index.codes[group.rows])
    counts = count_labels("binary", [label], y, own)[0]
    note = insufficient_data(counts, min_patients)
    if note:
        return GroupRates(group=group.name, counts=counts, point=None, calibration=None, errors=None, note=note)
    finite = np.where(np.isfinite(logit), logit, np.nan)
    return GroupRates(
        group=group.name,
        counts=counts,
        point=operating_point(y, logit, threshold, own, rng),
        calibration=logistic_calibration(y, logit),
        errors=assess_calibration(y, np.asarray(expit(finite)), rng),
        note="",
    )


def _gap(values: Sequence[float]) -> float:
    return float(np.ptp(values)) if len(values) > 1 else float("nan")
