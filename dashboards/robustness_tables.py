"""Away from the average test patient: shifted evaluation sets and subgroups.

Both compare disjoint patients, whose variances add, while seeds stay paired. Both are exploratory.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from dashboards.cell_tables import TaskView, named_interval
from dashboards.evidence import IN_DOMAIN, CellKey, Evidence, GroupEstimate
from dashboards.statistics import (
    Estimate,
    Influence,
    SeedKey,
    adjust_p_values,
    combined_interval,
    mean_loss,
)

Pair = tuple[dict[SeedKey, Influence], dict[SeedKey, Influence]]


def shifted_rows(evidence: Evidence, task: TaskView) -> Iterator[dict[str, Any]]:
    """Each cell on the in-domain test and on each other set, and the loss from one to the other."""
    for cell, facts in task.facts.items():
        for set_name in _other_sets(task):
            inside, outside = task.shifted_runs(cell, set_name)
            if not inside or not outside:
                continue
            near, far = (combined_interval(runs, level=1 - evidence.alpha) for runs in (inside, outside))
            yield {
                **task.coordinates(cell),
                "set": set_name,
                "metric": task.estimates.metric,
                **named_interval("in_domain", near),
                **named_interval("shifted", far),
                **_tested("drop", _mean_difference(evidence, task, [(inside, outside)])),
                "classes": ", ".join(task.estimates.shared_classes.get(set_name, ())),
                "images": facts["images"],
            }


def shift_summary_rows(evidence: Evidence, task: TaskView) -> Iterator[dict[str, Any]]:
    """The loss on each shifted set, averaged over scales and sources at the largest amount."""
    cells = _largest_cells(task)
    for set_name in _other_sets(task):
        pairs = [task.shifted_runs(cell, set_name) for cell in cells]
        pairs = [pair for pair in pairs if all(pair)]
        if pairs:
            yield {
                "task": task.estimates.task,
                "set": set_name,
                "metric": task.estimates.metric,
                "data_fraction": cells[0][2],
                "cells": len(pairs),
                **_tested("drop", _mean_difference(evidence, task, pairs)),
                "classes": ", ".join(task.estimates.shared_classes.get(set_name, ())),
            }


def subgroup_rows(evidence: Evidence, task: TaskView) -> Iterator[dict[str, Any]]:
    """Each subgroup of each cell: the metric inside it, and how far it stays behind all other patients."""
    for cell, facts in task.facts.items():
        for set_name, column, group in _groups(task):
            found = _group_estimates(task, cell, set_name, column, group)
            if not found:
                continue
            design = next(iter(found.values())).design
            inside = {seed: g.inside for seed, g in found.items() if g.inside is not None}
            pair = _sides(found)
            own = combined_interval(inside, level=1 - evidence.alpha) if inside else None
            gap = _mean_difference(evidence, task, [(pair[1], pair[0])]) if all(pair) else None
            yield {
                **task.coordinates(cell),
                "set": set_name,
                "column": column,
                "group": group,
                "metric": task.estimates.metric,
                "value": own.value if own else float("nan"),
                "low": own.low if own else float("nan"),
                "high": own.high if own else float("nan"),
                "n_seeds": own.n_seeds if own else 0,
                **_tested("deficit", gap),
                "group_images": design.images,
                "group_patients": design.patients,
                "positive_patients": design.positive,
                "negative_patients": float("nan") if design.negative is None else design.negative,
                "classes": ", ".join(design.inside.classes) if design.inside else "",
                "sufficient": own is not None,
                "note": "" if own else design.too_small,
                "images": facts["images"],
            }


def deficit_rows(evidence: Evidence, task: TaskView) -> Iterator[dict[str, Any]]:
    """How far each subgroup stays behind all other patients, averaged over scales and sources at the largest amount.

    Of the two groups of a column one row is given, the worse one's: the other says the same with the opposite sign.
    """
    rows = list(_all_deficits(evidence, task))
    for row in rows:
        of_column = [r for r in rows if (r["set"], r["column"]) == (row["set"], row["column"])]
        if len(of_column) != 2 or row is max(of_column, key=lambda r: r["deficit"]):
            yield row


def _all_deficits(evidence: Evidence, task: TaskView) -> Iterator[dict[str, Any]]:
    cells = _largest_cells(task)
    for set_name, column, group in _groups(task):
        pairs = [_sides(_group_estimates(task, cell, set_name, column, group)) for cell in cells]
        pairs = [(outside, inside) for inside, outside in pairs if inside and outside]
        if pairs:
            yield {
                "task": task.estimates.task,
                "set": set_name,
                "column": column,
                "group": group,
                "metric": task.estimates.metric,
                "data_fraction": cells[0][2],
                "cells": len(pairs),
                **_tested("deficit", _mean_difference(evidence, task, pairs)),
            }


def with_holm(table: pd.DataFrame) -> pd.DataFrame:
    """The table with Holm's p over its rows."""
    return table if table.empty else table.assign(p_holm=adjust_p_values(table["p"], "holm"))


def _mean_difference(evidence: Evidence, task: TaskView, pairs: list[Pair]) -> Estimate:
    return mean_loss(task.estimates.metric, pairs, level=1 - evidence.alpha)


def _other_sets(task: TaskView) -> list[str]:
    return [name for name in task.estimates.sets if name != IN_DOMAIN]


def _largest_cells(task: TaskView) -> list[CellKey]:
    largest = max(task.facts, key=lambda cell: task.facts[cell]["amount_rank"])[2]
    return [cell for cell in task.cells if cell[2] == largest]


def _groups(task: TaskView) -> list[tuple[str, str, str]]:
    """(set, column, group) in order; every trial of a task has the same."""
    return sorted({key[1:] for key in task.estimates.groups}, key=lambda key: (key[0] != IN_DOMAIN, *key))


def _group_estimates(
    task: TaskView, cell: CellKey, set_name: str, column: str, group: str
) -> dict[SeedKey, GroupEstimate]:
    groups = task.estimates.groups
    found = {seed: groups.get((trial, set_name, column, group)) for seed, trial in task.cells[cell].items()}
    return {seed: estimate for seed, estimate in found.items() if estimate is not None}


def _sides(found: dict[SeedKey, GroupEstimate]) -> Pair:
    both = {s: (g.inside, g.outside) for s, g in found.items() if g.inside is not None and g.outside is not None}
    return {s: pair[0] for s, pair in both.items()}, {s: pair[1] for s, pair in both.items()}


def _tested(name: str, estimate: Estimate | None) -> dict[str, Any]:
    if estimate is None:
        nothing = dict.fromkeys((name, f"{name}_low", f"{name}_high", "level", "p"), float("nan"))
        return nothing | {"n_seeds": 0, "n_patients": 0, "notes": ""}
    return {
        **named_interval(name, estimate),
        "level": estimate.level,
        "p": estimate.p,
        "n_seeds": estimate.n_seeds,
        "n_patients": estimate.n_patients,
        "notes": "; ".join(estimate.notes),
    }
