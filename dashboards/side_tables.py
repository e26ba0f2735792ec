"""Further tables that decide nothing: the papers' own tests, seed ensembles, ranks over tasks, fitted curves."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from typing import Any

import pandas as pd

from dashboards.cell_tables import TaskView, numbers
from dashboards.evidence import IN_DOMAIN, Evidence
from dashboards.pairing import pair
from dashboards.statistics import (
    combined_interval,
    fit_power_law,
    held_out_last_point,
    higher_is_better,
    rank_summary,
    unpaired_t_test,
    why_not_fit,
)
from dashboards.statistics.ranks import MIN_TASKS


def paper_rows(evidence: Evidence, task: TaskView) -> Iterator[dict[str, Any]]:
    """Each contrast as the papers tested it: seeds as independent samples, one fixed test set, Welch and Student."""
    better = higher_is_better(task.estimates.metric)
    for cell in task.cells:
        base = (cell[0], evidence.baseline, cell[2])
        if cell[1] == evidence.baseline or base not in task.cells:
            continue
        for set_name in task.estimates.sets:
            a, b = pair(task, (cell, base), set_name).runs
            for name, equal in (("Welch", False), ("Student", True)):
                test = unpaired_t_test(a, b, equal_variances=equal)
                yield {
                    **task.coordinates(cell),
                    "set": set_name,
                    "metric": task.estimates.metric,
                    "test": f"{name}'s t over seeds, unpaired",
                    "difference": test.difference,
                    "low": test.low,
                    "high": test.high,
                    "df": test.df,
                    "p_two_sided": test.p,
                    "p_one_sided": test.one_sided_p(higher_is_better=better),
                    "n_source": test.n_a,
                    "n_baseline": test.n_b,
                }


def ensemble_rows(evidence: Evidence, task: TaskView) -> Iterator[dict[str, Any]]:
    """The seed ensemble of each cell on each set: an interval over patients, conditional on its members."""
    for (cell, set_name), ensemble in task.estimates.ensembles.items():
        single = task.runs(cell, set_name)
        values = [run.value for run in single.values() if math.isfinite(run.value)]
        estimate = combined_interval({0: ensemble.influence}, level=1 - evidence.alpha)
        yield {
            **task.coordinates(cell),
            "set": set_name,
            "metric": task.estimates.metric,
            **{k: v for k, v in numbers(estimate).items() if k not in ("v_seed", "n_seeds")},
            "members": len(ensemble.members),
            "mean_of_single_seeds": sum(values) / len(values) if values else math.nan,
            "images": task.facts[cell]["images"],
        }


def rank_table(evidence: Evidence, cells: pd.DataFrame, fractions: Collection[str]) -> pd.DataFrame:
    """Mean ranks of sources over tasks at each scale and primary amount, where there are enough tasks for a test.

    Args:
        evidence: The study.
        cells: ``Tables.cells``.
        fractions: Amounts of the primary family of any task.
    """
    if cells.empty:
        return cells
    chosen = cells[cells["primary"] & (cells["set"] == IN_DOMAIN) & cells["data_fraction"].isin(fractions)]
    rows: list[dict[str, Any]] = []
    for (scale, fraction), part in chosen.groupby(["model_scale", "data_fraction"], sort=False):
        up = [1 if higher_is_better(str(metric)) else -1 for metric in part["metric"]]
        scores = part.assign(score=part["value"] * up).pivot(index="task", columns="pretraining_source", values="score")
        if len(scores.dropna()) < MIN_TASKS or scores.shape[1] < 2:
            continue
        found = rank_summary(scores, alpha=evidence.alpha)
        for source, rank in found.mean_ranks.items():
            alike = [other for group in found.groups() if source in group for other in group if other != source]
            rows.append(
                {
                    "model_scale": scale,
                    "data_fraction": fraction,
                    "pretraining_source": source,
                    "mean_rank": rank,
                    "tasks": found.n_tasks,
                    "tasks_left_out": ", ".join(found.left_out),
                    "friedman_p": found.p,
                    "iman_davenport_p": found.f_p,
                    "critical_difference": found.critical_difference,
                    "not_shown_to_differ_from": ", ".join(dict.fromkeys(alike)),
                }
            )
    return pd.DataFrame(rows)


def fit_table(cells: pd.DataFrame) -> pd.DataFrame:
    """A power law per curve of error against labelled images, where the amounts support one; never part of a verdict.

    Args:
        cells: ``Tables.cells``.
    """
    if cells.empty:
        return cells
    rows = []
    curve = ["task", "set", "model_scale", "pretraining_source", "metric"]
    for key, part in cells[cells["primary"]].groupby(curve, sort=False):
        up = higher_is_better(str(key[4]))
        points = part.dropna(subset=["value", "se", "images"]).sort_values("images")
        error = 1 - points["value"] if up else points["value"]
        usable = (error > 0) & (points["se"] > 0) & (points["images"] > 0)
        n, e, se = points["images"][usable], error[usable], points["se"][usable]
        if not len(n) or why_not_fit(n):
            continue
        law, held = fit_power_law(n, e, se), held_out_last_point(n, e, se)
        rows.append(
            dict(zip(curve, key, strict=True))
            | {
                "points": len(n),
                "images_from": float(n.iloc[0]),
                "images_to": float(n.iloc[-1]),
                "floor": law.floor,
                "scale": law.scale,
                "exponent": law.exponent,
                "identified": law.identified,
                "last_error": held.observed,
                "last_error_predicted": held.predicted,
                "last_error_by_last_seen": held.last_seen,
                "better_than_last_seen": held.better_than_last_seen,
            }
        )
    return pd.DataFrame(rows)
