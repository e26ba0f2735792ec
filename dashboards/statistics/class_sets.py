"""How many images and patients each label has, and which labels are worth averaging over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from dashboards.statistics.predictions import check_predictions
from dashboards.statistics.uncertainty import PatientIndex, index_patients
from search_spaces.names import Kind

MIN_SHOWN_PATIENTS = 10
"""A class is shown with at least this many positive and this many negative patients."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelCounts:
    """Images and patients of one label (class) on one evaluation set.

    Attributes:
        label: Its name.
        images: Images where it is known.
        masked_images: Images where it is not.
        positive_images: Images where it is present.
        patients: Patients with an image where it is known.
        positive_patients: Patients with a positive image.
        negative_patients: Patients with a negative image; a patient may be both.
    """

    label: str
    images: int
    masked_images: int
    positive_images: int
    patients: int
    positive_patients: int
    negative_patients: int

    @property
    def prevalence(self) -> float:
        """Share of positive images; NaN if none is known."""
        return self.positive_images / self.images if self.images else float("nan")


def count_labels(
    kind: Kind | str, labels: Sequence[str], y: ArrayLike, patient: ArrayLike | PatientIndex
) -> tuple[LabelCounts, ...]:
    """Counts of every label. Arguments as in ``patient_influence``."""
    truth = check_predictions(kind, labels, y, np.zeros((len(np.asarray(y)), len(labels)))).truth
    index = patient if isinstance(patient, PatientIndex) else index_patients(patient)
    return tuple(
        LabelCounts(
            label=label,
            images=int((~np.isnan(column)).sum()),
            masked_images=int(np.isnan(column).sum()),
            positive_images=int((column == 1).sum()),
            patients=len(np.unique(index.codes[~np.isnan(column)])),
            positive_patients=len(np.unique(index.codes[column == 1])),
            negative_patients=len(np.unique(index.codes[column == 0])),
        )
        for label, column in zip(labels, truth.T, strict=True)
    )


def frozen_class_set(counts: Sequence[LabelCounts], min_patients: int = MIN_SHOWN_PATIENTS) -> tuple[str, ...]:
    """Labels with at least ``min_patients`` positive and as many negative patients.

    It depends on labels only, never on results; freeze it per evaluation set and write it in the report.
    """
    return tuple(c.label for c in counts if min(c.positive_patients, c.negative_patients) >= min_patients)
