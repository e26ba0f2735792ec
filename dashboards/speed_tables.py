"""Question 7, is a source faster: steps and device-hours to a share of what the baseline reaches on validation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from dashboards.cell_tables import TaskView
from dashboards.estimates import chance_of_set
from dashboards.evidence import CellKey, Evidence
from dashboards.exclusions import Exclusion, Why
from dashboards.histories import History
from dashboards.statistics import (
    MedianTime,
    Metric,
    Reached,
    SeedKey,
    area_over_log_steps,
    index_patients,
    median_time,
    threshold,
    time_ratio,
    time_to_threshold,
)
from dashboards.statistics.metrics import higher_is_better
from search_spaces.exceptions import ScalecurvesError

SHARES = (0.9, 0.95, 0.99)
"""Of the way from chance to the baseline's best validation result."""
HEADLINE_SHARE = 0.95
LEAST_COVERAGE = 0.9
"""Exact coverage of an interval from which on it may decide: from five seeds (0.9375), not from four (0.875)."""

NO_HISTORY = "not estimable: no validation curve"
NO_BASELINE = "not estimable: the baseline has no validation curve at this scale and amount"
NO_CHANCE = "not estimable: the metric's chance level is not known"
NOT_ABOVE = "not estimable: the baseline is no better than chance on validation"
NO_PAIR = "not estimable: no common seed"

_OF_THE_TRUTH = (Metric.ACCURACY, Metric.BALANCED_ACCURACY, Metric.NLL, Metric.DICE, Metric.IOU)
"""Metrics whose value by guessing follows from what validation shows."""

STEPS, HOURS = "steps", "device_hours"
_NAN = float("nan")


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskCurves:
    """Validation curves of one task.

    Attributes:
        curves: Cell -> seed -> curve.
        ranks: Cell -> seed -> devices that trained it.
        exclusions: Trials whose curve could not be read.
    """

    curves: dict[CellKey, dict[SeedKey, History]]
    ranks: dict[CellKey, dict[SeedKey, float]]
    exclusions: list[Exclusion]


def task_curves(evidence: Evidence, task: TaskView) -> TaskCurves:
    """Read the curves of every trial of a task that has one."""
    found = TaskCurves(curves={}, ranks={}, exclusions=[])
    ranks = _ranks(task.estimates.rows)
    for cell, trials in task.cells.items():
        for seed, trial_id in trials.items():
            if trial_id not in evidence.histories:
                continue
            try:
                history = evidence.histories[trial_id]
            except ScalecurvesError as error:
                found.exclusions.append(
                    Exclusion(
                        why=Why.NO_HISTORY, task=task.estimates.task, set="", trial_id=trial_id, detail=str(error)
                    )
                )
                continue
            found.curves.setdefault(cell, {})[seed] = history
            found.ranks.setdefault(cell, {})[seed] = ranks.get(trial_id, 1.0)
    return found


def _ranks(rows: pd.DataFrame) -> dict[str, float]:
    """Trial id -> devices that trained it, where that was recorded."""
    if "ranks" not in rows:
        return {}
    known = rows["ranks"].astype("Float64").dropna()
    return {str(trial_id): float(n) for trial_id, n in known.items()}


def chance_of(evidence: Evidence, task: TaskView) -> float:
    """Validation result of guessing: by definition, or from the labels of validation; NaN if it is not known."""
    metric = task.estimates.metric.partition(".")[0]
    known = {Metric.AUC: 0.5, Metric.AUC_MACRO: 0.5, Metric.KAPPA: 0.0}
    if metric in known:
        return known[Metric(metric)]
    trial = next((str(t) for t in task.estimates.rows.index if str(t) in evidence.validation), None)
    if trial is None:
        return _NAN
    try:
        validation = evidence.validation[trial]
    except ScalecurvesError:
        return _NAN
    if metric not in _OF_THE_TRUTH:
        return _NAN
    return chance_of_set(task.estimates.metric, validation, index_patients(validation.patient)).value


def speed_rows(
    evidence: Evidence, task: TaskView, curves: TaskCurves, primary_amounts: frozenset[str]
) -> Iterator[dict[str, Any]]:
    """Each cell's time to each threshold, and its ratio to the baseline's; in steps and in device-hours."""
    chance = chance_of(evidence, task)
    for cell, facts in task.facts.items():
        base = (cell[0], evidence.baseline, cell[2])
        best, why = _reference(task, curves, base, chance)
        for share in SHARES:
            for unit in (STEPS, HOURS):
                row = {
                    **task.coordinates(cell),
                    "unit": unit,
                    "share": share,
                    "primary": cell[2] in primary_amounts,
                    "metric": task.estimates.metric,
                    "chance": chance,
                    "baseline_best": best,
                    "threshold": threshold(best, chance, share) if not why else _NAN,
                    "images": facts["images"],
                }
                yield row | _times(evidence, task, curves, (cell, base), unit, row["threshold"], why)


def _reference(task: TaskView, curves: TaskCurves, base: CellKey, chance: float) -> tuple[float, str]:
    """The baseline's best validation value, mean over seeds, or why there is no threshold."""
    if base not in curves.curves:
        return _NAN, NO_BASELINE
    better = higher_is_better(task.estimates.metric)
    pick = np.nanmax if better else np.nanmin
    values = [float(pick(h.values)) for h in curves.curves[base].values() if not np.isnan(h.values).all()]
    if not values:
        return _NAN, NO_BASELINE
    best = float(np.mean(values))
    if np.isnan(chance):
        return best, NO_CHANCE
    return best, "" if (best > chance) == better and best != chance else NOT_ABOVE


def _times(
    evidence: Evidence,
    task: TaskView,
    curves: TaskCurves,
    cells: tuple[CellKey, CellKey],
    unit: str,
    level: float,
    why: str,
) -> dict[str, Any]:
    cell, base = cells
    own = {} if why else _reached(task, curves, cell, unit, level)
    note = why or ("" if own else NO_HISTORY)
    time = median_time(list(own.values()), level=1 - evidence.alpha) if own else None
    ratio = None
    if own and cell != base:
        others = _reached(task, curves, base, unit, level)
        common = [s for s in own if s in others and not _differ(task, cell, base, s)]
        ratio = time_ratio({s: own[s] for s in common}, others, level=1 - evidence.alpha) if common else None
        note = "" if common else NO_PAIR
    return {**_median_columns("time", time), **_median_columns("ratio", ratio), "note": note}


def _differ(task: TaskView, cell: CellKey, base: CellKey, seed: SeedKey) -> bool:
    hashes = task.estimates.rows["subset_hash"]
    a, b = hashes[task.cells[cell][seed]], hashes[task.cells[base][seed]]
    return isinstance(a, str) and isinstance(b, str) and a != b


def _reached(task: TaskView, curves: TaskCurves, cell: CellKey, unit: str, level: float) -> dict[SeedKey, Reached]:
    better = higher_is_better(task.estimates.metric)
    found = {}
    for seed, history in curves.curves.get(cell, {}).items():
        spent = history.steps if unit == STEPS else history.seconds * curves.ranks[cell][seed] / 3600.0
        if np.isfinite(spent).all() and (np.diff(spent) > 0).all():
            stay = min(2, len(spent))
            found[seed] = time_to_threshold(spent, history.values, level, stay=stay, higher_is_better=better)
    return found


def _median_columns(name: str, found: MedianTime | None) -> dict[str, Any]:
    if found is None:
        numbers = dict.fromkeys(
            (f"{name}_{end}" for end in ("low", "median_low", "median_high", "high", "coverage")), _NAN
        )
        return numbers | {f"{name}_seeds": 0, f"{name}_censored": 0}
    return {
        f"{name}_low": found.low,
        f"{name}_median_low": found.median_low,
        f"{name}_median_high": found.median_high,
        f"{name}_high": found.high,
        f"{name}_coverage": found.coverage,
        f"{name}_seeds": found.n_seeds,
        f"{name}_censored": found.n_censored,
    }


def area_rows(evidence: Evidence, task: TaskView, curves: TaskCurves) -> Iterator[dict[str, Any]]:
    """Area under each validation curve over log steps, and the difference to the baseline over common seeds.

    The interval is over seeds alone: all of them share one validation set.
    """
    areas = {cell: _areas(of_cell) for cell, of_cell in curves.curves.items()}
    for cell, own in areas.items():
        base = areas.get((cell[0], evidence.baseline, cell[2]), {})
        common = [s for s in own if s in base] if cell[1] != evidence.baseline else []
        differences = np.array([own[s] - base[s] for s in common])
        low, high = _seed_interval(differences, 1 - evidence.alpha)
        yield {
            **task.coordinates(cell),
            "metric": task.estimates.metric,
            "area": float(np.mean(list(own.values()))) if own else _NAN,
            "difference": float(differences.mean()) if len(differences) else _NAN,
            "low": low,
            "high": high,
            "level": 1 - evidence.alpha,
            "n_seeds": len(own),
            "images": task.facts[cell]["images"],
        }


def _areas(histories: Mapping[SeedKey, History]) -> dict[SeedKey, float]:
    found = {}
    for seed, history in histories.items():
        kept = np.isfinite(history.values) & (history.steps > 0)
        if kept.sum() > 1:
            found[seed] = area_over_log_steps(history.steps[kept], history.values[kept])
    return found


def _seed_interval(values: np.ndarray, level: float) -> tuple[float, float]:
    n = len(values)
    if n < 2 or values.std() == 0:
        return _NAN, _NAN
    half = float(stdtrit(n - 1, (1 + level) / 2) * values.std(ddof=1) / np.sqrt(n))
    return float(values.mean()) - half, float(values.mean()) + half


def convergence_rows(task: TaskView, curves: TaskCurves, primary_amounts: frozenset[str]) -> Iterator[dict[str, Any]]:
    """Mean and range over seeds of the validation curve of each cell at the primary amounts, for the figure."""
    for cell, of_cell in curves.curves.items():
        if cell[2] not in primary_amounts:
            continue
        by_step: dict[float, list[float]] = {}
        for history in of_cell.values():
            for step, value in zip(history.steps, history.values, strict=True):
                by_step.setdefault(float(step), []).append(float(value))
        for step in sorted(by_step):
            values = np.array(by_step[step])
            known = values[np.isfinite(values)]
            if len(known):
                yield {
                    **task.coordinates(cell),
                    "metric": task.estimates.metric,
                    "step": step,
                    "value": float(known.mean()),
                    "least": float(known.min()),
                    "most": float(known.max()),
                    "n_seeds": len(known),
                    "images": task.facts[cell]["images"],
                }
