"""One trial's metrics with intervals over patients, from its predictions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dashboards.cell_tables import numbers
from dashboards.prediction_sets import PredictionSet
from dashboards.set_design import design_of
from dashboards.statistics import Metric, combined_interval, metric_names, patient_influence


def trial_metrics(
    predictions: Mapping[tuple[str, str], PredictionSet], trial_id: str, metrics: tuple[str, ...], level: float
) -> list[dict[str, Any]]:
    """A row per evaluation set and metric that is defined for its kind.

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
        for metric in (m for m in dict.fromkeys(metrics) if m in metric_names(found.kind, found.labels)):
            classes = design.classes if metric == Metric.AUC_MACRO else None
            facts = (found.kind, found.labels, found.y, found.logits, design.index)
            estimate = combined_interval({"": patient_influence(metric, *facts, class_set=classes)}, level=level)
            row = {"set": name, "metric": metric, "images": len(found.patient), "notes": "; ".join(estimate.notes)}
            rows.append(row | numbers(estimate))
    return rows
