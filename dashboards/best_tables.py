"""Which cells may be the best, and which is cheapest: Hsu's comparison with the best, per task, amount and set."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

from dashboards.cell_tables import TaskView
from dashboards.evidence import CellKey, Evidence
from dashboards.pairing import pair
from dashboards.statistics import BestSet, Compared, Runs, compare_with_best, higher_is_better

COSTS = ("parameters", "device_seconds")
"""What "cheap" may mean: parameters of the model; training seconds times ranks."""


def best_rows(evidence: Evidence, task: TaskView, fractions: Collection[str]) -> Iterator[dict[str, Any]]:
    """Every scale and source of one amount against the best of the others, at the amounts of the primary family.

    Args:
        evidence: The study.
        task: The task.
        fractions: Amounts to compare at.
    """
    for fraction in dict.fromkeys(cell[2] for cell in task.cells):
        cells = [cell for cell in task.cells if cell[2] == fraction]
        if fraction not in fractions or len(cells) < 2:
            continue
        for set_name in task.estimates.sets:
            paired = pair(task, cells, set_name)
            runs: dict[CellKey, Runs] = {c: r for c, r in zip(cells, paired.runs, strict=True) if r}
            if len(runs) > 1:
                yield from _compared(evidence, task, runs, set_name)


def _compared(
    evidence: Evidence, task: TaskView, runs: Mapping[CellKey, Runs], set_name: str
) -> Iterator[dict[str, Any]]:
    better = higher_is_better(task.estimates.metric)
    found = compare_with_best(runs, evidence.delta, level=1 - evidence.alpha, higher_is_better=better)
    by_cell = {of.name: of for of in found.compared}
    cheapest = {cost: _cheapest(task, found, cost, evidence.baseline) for cost in COSTS}
    for cell in runs:
        of = by_cell.get(cell)
        values = [run.value for run in runs[cell].values() if math.isfinite(run.value)]
        yield {
            **task.coordinates(cell),
            "set": set_name,
            "metric": task.estimates.metric,
            "value": float(np.mean(values)) if values else math.nan,
            **_difference(of),
            "level": found.level,
            "member": cell in found.members,
            **{cost: float(task.facts[cell][cost]) for cost in COSTS},
            **{f"cheapest_by_{cost}": cell == cheapest[cost] for cost in COSTS},
            "n_seeds": found.n_seeds if of else len(values),
            "delta": evidence.delta,
            "left_out": found.left_out.get(cell, ""),
        }


def _difference(of: Compared[CellKey] | None) -> dict[str, Any]:
    if of is None:
        nothing = dict.fromkeys(("difference", "low", "high"), math.nan)
        return nothing | {"may_be_best": False, "within_delta": False}
    return {
        "difference": of.difference,
        "low": of.low,
        "high": of.high,
        "may_be_best": of.may_be_best,
        "within_delta": of.within_delta,
    }


def _cheapest(task: TaskView, found: BestSet[CellKey], cost: str, baseline: str) -> CellKey | None:
    """The member of least cost, of equal ones the baseline, else the best; None if a member's cost is not known."""
    members = [of for of in found.compared if of.name in found.members]
    costs = {of.name: float(task.facts[of.name][cost]) for of in members}
    if not members or not all(math.isfinite(c) for c in costs.values()):
        return None
    return min(members, key=lambda of: (costs[of.name], of.name[1] != baseline, -of.difference)).name
