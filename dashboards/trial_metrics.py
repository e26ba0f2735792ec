"""One trial's metrics with intervals over patients, from its predictions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dashboards.cell_tables import numbers
from dashboards.estimates import influence_of
from dashboards.prediction_sets import PredictionSet
from dashboards.set_design import SetDesign, design_of
from dashboards.statistics import Estimate, combined_interval, metric_names
from dashboards.statistics.masks import SCALES, mask_influence, mask_interval


def trial_metrics(
    predictions: Mapping[tuple[str, str], PredictionSet], trial_id: str, metrics: tuple[str, ...], level: float
) -> list[dict[str, Any]]:
    """A row per evaluation set and metric that is defined for its kind; of masks all that patients contribute to.

    Args:
        predictions: (trial_id, evaluation set) -> predictions.
        trial_id: The trial.
        metrics: Names.
        level: Of the intervals, which are over patients alone: there is one run.

    Returns:
        Rows with ``set``, ``metric``, ``value``, ``low``, ``high``, ``level``, ``n_patients``, ``images``, ``notes``.
    """
    rows = []
    for trial, name in predictions:
        if trial != trial_id:
            continue
        found = predictions[trial, name]
        design = design_of(found, ())
        known = SCALES if found.is_masks else metric_names(found.kind, found.labels)
        for metric in (m for m in dict.fromkeys(metrics) if m in known):
            estimate = _estimate(metric, found, design, level)
            row = {"set": name, "metric": metric, "images": len(found.patient), "notes": "; ".join(estimate.notes)}
            rows.append(row | numbers(estimate))
    return rows


def _estimate(metric: str, found: PredictionSet, design: SetDesign, level: float) -> Estimate:
    if found.is_masks:
        influence = mask_influence(metric, found.labels, found.logits, found.known_distances, design.index)
        return mask_interval(metric, {"": influence}, level=level)
    classes = design.class_set(metric)
    return combined_interval({"": influence_of(metric, found, design.index, classes)}, level=level)
