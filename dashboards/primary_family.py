"""The primary family: which comparisons a study plans, and those of them that have no result at all."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import pandas as pd

from dashboards.amounts import amount_ranks, mean_images
from dashboards.evidence import IN_DOMAIN, Evidence
from dashboards.planned import CELL_COLUMNS, CellName
from search_spaces.ladders import ladder

ContrastName = tuple[str, ...]
"""(task, scale, source, amount, evaluation set)."""

ScaleEffectName = tuple[str, ...]
"""(task, ladder, source, amount, evaluation set)."""

_EFFECT_COLUMNS = ("task", "ladder", "pretraining_source", "data_fraction", "set")


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
    there = _names(contrasts, [*CELL_COLUMNS, "set"])
    return [
        (*cell, name)
        for cell in _primary_cells(evidence)
        for name in _primary_sets(evidence, cell[0], there)
        if (*cell, name) not in there
    ]


def absent_scale_effects(evidence: Evidence, effects: pd.DataFrame) -> list[ScaleEffectName]:
    """Planned differences of differences of the primary family without a row (``where_tables.scale_rows``).

    One is planned for each source, primary amount and primary set, and each ladder of which two scales or more are
    planned with the source and with the baseline.

    Args:
        evidence: The study.
        effects: Rows of ``where_tables.scale_rows``, or ``Tables.scale_effects``; may be empty.
    """
    there = _names(effects[effects["primary"]] if len(effects) else effects, _EFFECT_COLUMNS)
    rungs = _rungs(evidence)
    planned: dict[tuple[str, ...], set[float | str]] = {}
    for task, scale, source, amount in _primary_cells(evidence):
        if scale in rungs:
            ladder, size = rungs[scale]
            planned.setdefault((task, ladder, source, amount), set()).add(size)
    return [
        (*key, name)
        for key, sizes in planned.items()
        if len(sizes) > 1
        for name in _primary_sets(evidence, key[0], there)
        if (*key, name) not in there
    ]


def absent_groups(evidence: Evidence, harm: pd.DataFrame) -> int:
    """Planned tests for harm without a row: each group of a set that may be tested, of each comparison that is lost.

    Which groups a set has is seen in any of its comparisons; a set without one has no claim of harm either.

    Args:
        evidence: The study.
        harm: Rows of ``harm_tables.harm_rows`` of all tasks; may be empty.
    """
    if harm.empty:
        return 0
    there = _names(harm, [*CELL_COLUMNS, "set"])
    large = harm[harm["lost"] | harm["p_harmed_alone"].notna()]
    groups = _names(large, ["task", "set", "column", "group"])
    return sum(
        (*cell, name) not in there for cell in _primary_cells(evidence) for task, name, *_ in groups if task == cell[0]
    )


def _names(table: pd.DataFrame, columns: Sequence[str]) -> set[tuple[str, ...]]:
    """What the rows of a table are about, by these columns."""
    return set(table[list(columns)].astype(str).itertuples(index=False, name=None)) if len(table) else set()


def _primary_cells(evidence: Evidence) -> list[CellName]:
    """Planned cells at a primary amount that have a planned baseline to be compared with."""
    cells = _planned_cells(evidence)
    amounts: dict[str, set[str]] = {}
    for cell in cells:
        amounts.setdefault(cell[0], set()).add(cell[3])
    primary = {task: primary_amounts(evidence, task, labels) for task, labels in amounts.items()}
    known = set(cells)
    return [cell for cell in cells if _has_baseline(evidence, cell, known) and cell[3] in primary[cell[0]]]


def _rungs(evidence: Evidence) -> dict[str, tuple[str, float | str]]:
    """Scale -> its ladder, and its parameters where they are known, else its name; scales that stand alone lack.

    Scales that no trial has finished have only what the study file says of them.
    """
    found: dict[str, tuple[str, float | str]] = {}
    if (study := evidence.study) is not None:
        for name in evidence.plan.axis_values("model_scale"):
            scale = study.scale(name)
            if rung := ladder(scale.ladder, str(scale.factory), scale.arguments):
                found[name] = rung, name
    for row in evidence.results[["model_scale", "ladder", "parameters"]].to_dict("records"):
        if isinstance(row["ladder"], str) and row["ladder"] and row["parameters"] > 0:
            found[str(row["model_scale"])] = row["ladder"], float(row["parameters"])
    return found


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
