"""Telling images of another distribution from those of the training distribution by a score of the model.

In-distribution is the positive class (Hendrycks & Gimpel 2017). Say which set is out-of-distribution, how far it is,
and whether its classes or only its images differ.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from dashboards.statistics.discrimination import auc
from dashboards.statistics.operating_points import ThresholdRule, choose_threshold
from dashboards.statistics.precision_recall import average_precision


@dataclass(frozen=True, slots=True, kw_only=True)
class OodDetection:
    """Detection of out-of-distribution images; all NaN if a set is empty or a score is not finite.

    Attributes:
        auroc: P(in-distribution image scores higher), ties count half.
        fpr_at_95_tpr: Least share of OOD images accepted when at least 95 % of the in-distribution ones are.
        aupr_in: Average precision with in-distribution positive; chance is ``n_in / (n_in + n_out)``.
        aupr_out: Average precision with OOD positive, ranked the other way; chance is ``n_out / (n_in + n_out)``.
        n_in: In-distribution images.
        n_out: OOD images.
    """

    auroc: float
    fpr_at_95_tpr: float
    aupr_in: float
    aupr_out: float
    n_in: int
    n_out: int


def detect_ood(scores_in: ArrayLike, scores_out: ArrayLike) -> OodDetection:
    """How well a score (confidence, energy, ...) tells the two sets apart.

    Args:
        scores_in: (N,) of in-distribution images; higher means more in-distribution.
        scores_out: (M,) of OOD images.
    """
    inside, outside = np.asarray(scores_in, dtype=np.float64), np.asarray(scores_out, dtype=np.float64)
    scores = np.r_[inside, outside]
    is_in = np.r_[np.ones(len(inside)), np.zeros(len(outside))]
    return OodDetection(
        auroc=auc(is_in, scores),
        fpr_at_95_tpr=1.0 - choose_threshold(is_in, scores, ThresholdRule.SENSITIVITY, 0.95).specificity,
        aupr_in=average_precision(is_in, scores),
        aupr_out=average_precision(1 - is_in, -scores),
        n_in=len(inside),
        n_out=len(outside),
    )
