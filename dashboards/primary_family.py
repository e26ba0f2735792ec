"""The primary family: which comparisons a study plans, and those of them that have no result at all."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import pandas as pd

from dashboards.amounts import amount_ranks, mean_images
from dashboards.evidence import IN_DOMAIN, Evidence
from dashboards.planned import CELL_COLUMNS, CellName

ContrastName = tuple[str, ...]
"""(task, scale, source, amount, evaluation set)."""


def primary_amounts(evidence: Evidence, task: str, amounts: Iterable[str]) -> frozenset[str]:
    """Amounts of the primary family: the study's, else the smallest and the largest that are planned for the task.

    Args:
        evidence: The study.
        task: Name of the task.
        amounts: Labels of the amounts that were run, where nothing is planned.
    """
    given = evidence.statistics.primary_fractions
    if given is not None:
        return frozenset(amount.label for amount in given)
    planned = {cell[3] for cell in evidence.plan.trials if cell[0] == task}
    candidates = planned or set(amounts)
    rank = amount_ranks(candidates, mean_images(evidence.results))
    ordered = sorted(candidates, key=lambda label: rank[label])
    return frozenset([ordered[0], ordered[-1]])


def absent_contrasts(evidence: Evidence, contrasts: pd.DataFrame) -> list[ContrastName]:
    """Planned comparisons of the primary family without a row: all trials of a side failed, or none was run yet.

    Without a plan, what was tried counts as planned: cells with a result or a failure.

    Args:
        evidence: The study.
        contrasts: Rows of ``contrast_tables.contrast_rows``, or ``Tables.contrasts``; may be empty.
    """
    cells = _planned_cells(evidence)
    amounts: dict[str, set[str]] = {}
    for cell in cells:
        amounts.setdefault(cell[0], set()).add(cell[3])
    primary = {task: primary_amounts(evidence, task, labels) for task, labels in amounts.items()}
    known = set(cells)
    columns = [*CELL_COLUMNS, "set"]
    there = set(contrasts[columns].astype(str).itertuples(index=False, name=None)) if len(contrasts) else set()
    sets = {task: _primary_sets(evidence, task, there) for task in amounts}
    return [
        (*cell, name)
        for cell in cells
        if _has_baseline(evidence, cell, known) and cell[3] in primary[cell[0]]
        for name in sets[cell[0]]
        if (*cell, name) not in there
    ]


def _planned_cells(evidence: Evidence) -> list[CellName]:
    if evidence.plan.trials:
        return list(evidence.plan.trials)
    tables = [t for t in (evidence.results, evidence.failures) if set(CELL_COLUMNS) <= set(t.columns)]
    rows = [row for table in tables for row in table[list(CELL_COLUMNS)].astype(str).itertuples(index=False, name=None)]
    return list(dict.fromkeys(rows))


def _has_baseline(evidence: Evidence, cell: CellName, known: Collection[CellName]) -> bool:
    task, scale, source, amount = cell
    return source != evidence.baseline and (task, scale, evidence.baseline, amount) in known


def _primary_sets(evidence: Evidence, task: str, there: Collection[ContrastName]) -> list[str]:
    """Primary evaluation sets that the task has: by the study file, else the in-domain test and those with a result."""
    study = evidence.study
    if study is not None and task in study.tasks:
        own = {IN_DOMAIN, *study.tasks[task].evaluate}
    else:
        own = {IN_DOMAIN} | {name[-1] for name in there if name[0] == task}
    return [name for name in evidence.primary_sets if name in own]
