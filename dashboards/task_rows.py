"""The rows that one task adds to the tables, worked out while its estimates are in memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from dashboards.best_tables import best_rows
from dashboards.cell_tables import TaskView, cell_rows, view
from dashboards.contrast_tables import contrast_rows
from dashboards.evidence import Evidence
from dashboards.exchange import Exchange
from dashboards.exclusions import Exclusion
from dashboards.further_tables import FurtherTables
from dashboards.label_tables import label_rows
from dashboards.over_tasks_tables import pair_rows
from dashboards.planned import planned_seeds
from dashboards.primary_family import primary_amounts
from dashboards.reading import task_estimates
from dashboards.robustness_tables import deficit_rows, shift_summary_rows, shifted_rows, subgroup_rows
from dashboards.side_tables import ensemble_rows, paper_rows
from dashboards.where_tables import reach_rows, scale_rows

PARTS = (
    "cells",
    "trial_values",
    "contrasts",
    "paper_tests",
    "paired_values",
    "reach",
    "scale_effects",
    "best_sets",
    "label_savings",
    "label_tests",
    "ensembles",
    "in_domain_vs_shifted",
    "shift_summary",
    "subgroups",
    "deficits",
)
"""Tables of ``dashboards.tables`` that are rows of tasks one after the other."""


@dataclass(slots=True, kw_only=True)
class TaskRows:
    """What one task adds.

    Attributes:
        rows: Name of ``PARTS`` -> rows.
        further: Name of ``further_tables.NAMES`` -> rows.
        primary_amounts: Amounts of its primary family.
        exclusions: Results that are not used.
        further_exclusions: Those that further tables do not use.
        left_out: "task, set" -> labels with too few patients to be part of a macro average.
        unrecorded: (task, set) -> subgroup columns of the study that are blank for all of its images.
    """

    rows: dict[str, list[dict[str, Any]]]
    further: dict[str, list[dict[str, Any]]]
    primary_amounts: frozenset[str]
    exclusions: list[Exclusion]
    further_exclusions: list[Exclusion]
    left_out: dict[str, tuple[str, ...]] = field(default_factory=dict)
    unrecorded: dict[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)


def task_rows(evidence: Evidence, task: str, exchange: Exchange | None = None) -> TaskRows:
    """Read the predictions of a task and work out its rows.

    Args:
        evidence: The study.
        task: One of its tasks with results.
        exchange: Hands blocks of it to other processes; all are worked on here if not given.
    """

    def amounts_of(name: str, amounts: Iterable[str]) -> frozenset[str]:
        return primary_amounts(evidence, name, amounts)

    further = FurtherTables(evidence, amounts_of, exchange)
    (estimates,) = task_estimates(evidence, further.watch, only=(task,))
    seen = view(evidence, estimates)
    primary = amounts_of(task, {cell[2] for cell in seen.cells})
    exclusions: list[Exclusion] = []
    rows = _rows(evidence, seen, primary, exclusions)
    further.collect(estimates.outdated)
    further.add_task(seen, primary)
    return TaskRows(
        rows=rows,
        further=further.rows,
        primary_amounts=primary,
        exclusions=[*exclusions, *estimates.exclusions],
        further_exclusions=further.exclusions,
        left_out={f"{task}, {name}": labels for name, labels in estimates.left_out.items() if labels},
        unrecorded={(task, name): columns for name, columns in estimates.unrecorded.items() if columns},
    )


def _rows(
    evidence: Evidence, task: TaskView, primary: frozenset[str], exclusions: list[Exclusion]
) -> dict[str, list[dict[str, Any]]]:
    """Rows of ``PARTS``; exclusions are added."""
    planned = planned_seeds(evidence.plan, evidence.failures)
    labels = list(label_rows(evidence, task))
    return {
        "cells": list(cell_rows(evidence, task)),
        "trial_values": _trial_rows(task),
        "contrasts": list(contrast_rows(evidence, task, primary, planned, exclusions)),
        "paper_tests": list(paper_rows(evidence, task)),
        "paired_values": list(pair_rows(evidence, task, primary)),
        "reach": list(reach_rows(evidence, task)),
        "scale_effects": list(scale_rows(evidence, task, primary)),
        "best_sets": list(best_rows(evidence, task, primary)),
        "label_savings": [savings for savings, _ in labels],
        "label_tests": [test for _, tests in labels for test in tests],
        "ensembles": list(ensemble_rows(evidence, task)),
        "in_domain_vs_shifted": list(shifted_rows(evidence, task)),
        "shift_summary": list(shift_summary_rows(evidence, task)),
        "subgroups": list(subgroup_rows(evidence, task)),
        "deficits": list(deficit_rows(evidence, task)),
    }


def _trial_rows(task: TaskView) -> list[dict[str, Any]]:
    rows = []
    for cell, trials in task.cells.items():
        for seed, trial_id in trials.items():
            for set_name in task.estimates.sets:
                influence = task.estimates.values.get((trial_id, set_name, task.estimates.metric))
                if influence is not None:
                    row = task.coordinates(cell) | {"seed": str(getattr(seed, "label", seed)), "trial_id": trial_id}
                    rows.append(row | {"set": set_name, "metric": task.estimates.metric, "value": influence.value})
    return rows
