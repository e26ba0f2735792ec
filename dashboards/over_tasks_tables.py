"""Sources over all tasks in one number each: interquartile mean of normalised scores, probability of improvement."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import pandas as pd

from dashboards.cell_tables import TaskView
from dashboards.evidence import IN_DOMAIN, Evidence
from dashboards.pairing import pair
from dashboards.statistics import higher_is_better, interquartile_mean, normalised_scores, paired_improvement

MIN_TASKS = 2
"""A number over one task is that task's own, which is in the table of cells."""

_PLACE = ["model_scale", "data_fraction", "pretraining_source"]


def pair_rows(evidence: Evidence, task: TaskView, primary: Collection[str]) -> Iterator[dict[str, Any]]:
    """The in-domain results behind the primary contrasts, seed by seed, with the baseline's of the same seed.

    Args:
        evidence: The study.
        task: The task.
        primary: Amounts of its primary family.
    """
    chance = task.estimates.chance.get(IN_DOMAIN)
    for cell in task.cells:
        base = (cell[0], evidence.baseline, cell[2])
        if cell[2] not in primary or base not in task.cells:
            continue
        ours, theirs = pair(task, (cell, base), IN_DOMAIN).runs
        for seed in (seed for seed in ours if seed in theirs):
            yield {
                **task.coordinates(cell),
                "seed": str(getattr(seed, "label", seed)),
                "metric": task.estimates.metric,
                "value": ours[seed].value,
                "baseline_value": theirs[seed].value,
                "chance": math.nan if chance is None else chance.value,
            }


def over_tasks_table(evidence: Evidence, pairs: pd.DataFrame) -> pd.DataFrame:
    """Each source at each scale and amount over the tasks that have it; no row where fewer than two have.

    Args:
        evidence: The study.
        pairs: Rows of ``pair_rows`` of all tasks.
    """
    if pairs.empty:
        return pairs
    best = np.where([higher_is_better(str(metric)) for metric in pairs["metric"]], 1.0, 0.0)
    usable = pairs.assign(best=best).dropna(subset=["value", "baseline_value", "chance"])
    usable = usable[usable["chance"] != usable["best"]]  # a set of one class: accuracy needs no image
    rows = []
    for place, part in usable.groupby(_PLACE, sort=False):
        tasks = [of_task for _, of_task in part.groupby("task", sort=False)]
        if len(tasks) < MIN_TASKS:
            continue
        ours, theirs = ([_normalised(of_task, column) for of_task in tasks] for column in ("value", "baseline_value"))
        mean = interquartile_mean(ours, np.random.default_rng(0), 1 - evidence.alpha)
        row = dict(zip(_PLACE, place, strict=True)) | {
            "interquartile_mean": mean.value,
            "interquartile_mean_low": mean.low,
            "interquartile_mean_high": mean.high,
        }
        if place[-1] != evidence.baseline:
            better = paired_improvement(ours, theirs, np.random.default_rng(0), 1 - evidence.alpha)
            row |= {
                "improvement": better.value,
                "improvement_low": better.low,
                "improvement_high": better.high,
            }
        rows.append(row | {"tasks": len(tasks), "seeds": len(part)})
    return pd.DataFrame(rows)


def _normalised(of_task: pd.DataFrame, column: str) -> np.ndarray:
    chance, best = (float(of_task[limit].iloc[0]) for limit in ("chance", "best"))
    return normalised_scores(of_task[column].to_numpy(dtype=np.float64), chance, best)
