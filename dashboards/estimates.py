"""One number of one run with its patients' contributions, whatever the kind of its predictions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dashboards.prediction_sets import PredictionSet
from dashboards.statistics import Influence, PatientIndex, chance_run, patient_influence
from dashboards.statistics.masks import guessed_counts, overlap_influence


def influence_of(
    metric: str,
    prediction: PredictionSet,
    index: PatientIndex,
    class_set: Sequence[str] | None = None,
    rows: NDArray[np.intp] | None = None,
) -> Influence:
    """A metric of a run on one evaluation set.

    Args:
        metric: A name of ``metric_names`` of its kind.
        prediction: The run's predictions.
        index: Patients of the rows.
        class_set: Labels that a macro average runs over; all if not given.
        rows: Row numbers to take; all if not given.

    Raises:
        ValueError: As ``patient_influence`` and ``overlap_influence``.
    """
    taken: Any = slice(None) if rows is None else rows
    if prediction.is_masks:
        return overlap_influence(metric, prediction.labels, prediction.logits[taken], index)
    of = prediction
    return patient_influence(metric, of.kind, of.labels, of.y[taken], of.logits[taken], index, class_set=class_set)


def chance_of_set(
    metric: str, prediction: PredictionSet, index: PatientIndex, class_set: Sequence[str] | None = None
) -> Influence:
    """The run on the same set that looks at no image: see ``chance_run`` and ``guessed_counts``.

    Args:
        metric: As for ``influence_of``, like all others.
        prediction: Any run's predictions; its truth alone is used.
        index: See metric.
        class_set: See metric.
    """
    if prediction.is_masks:
        return overlap_influence(metric, prediction.labels, guessed_counts(prediction.logits), index)
    of = prediction
    return chance_run(metric, of.kind, of.labels, of.y, index, class_set)
