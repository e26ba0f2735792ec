"""The tables beyond "does it help": harm, fairness, probabilities, abstention, shift, speed.

Blocks of trials are worked on while their predictions are in memory (``watch``), whole tasks afterwards (``add_task``).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import pandas as pd

from dashboards.blocks import Block, SetRuns, group_columns, make_block
from dashboards.cell_tables import TaskView
from dashboards.confidence_tables import probability_contrast_rows, probability_rows, stages
from dashboards.evidence import IN_DOMAIN, Evidence, SeenBlock
from dashboards.exclusions import Exclusion
from dashboards.harm_tables import decide_harm, gap_rows, harm_rows
from dashboards.measure_tables import measure_rows
from dashboards.overlap_tables import overlap_contrast_rows, overlap_rows
from dashboards.primary_family import absent_contrasts, absent_groups
from dashboards.rate_tables import cross_rows, odds_rows, rate_rows
from dashboards.reliability_tables import reliability_rows
from dashboards.selective_tables import (
    coverage_rows,
    curve_rows,
    selective_contrast_rows,
    selective_influences,
    selective_rows,
)
from dashboards.set_groups import SetGroups, set_groups
from dashboards.shift_tables import detection_rows, robustness_rows
from dashboards.speed_tables import area_rows, convergence_rows, speed_rows, task_curves
from dashboards.statistics import MIN_TEST_PATIENTS
from dashboards.statistics.families import adjust_p_values, adjust_study

PrimaryAmounts = Callable[[str, Iterable[str]], frozenset[str]]
"""(task, labels of its amounts) -> those of the primary family."""

NAMES = (
    "measures",
    "harm",
    "group_gaps",
    "group_values",
    "group_rates",
    "group_odds",
    "cross_group_auc",
    "probabilities",
    "probability_contrasts",
    "reliability",
    "selective",
    "selective_contrasts",
    "risk_coverage",
    "group_coverage",
    "robustness",
    "ood_detection",
    "speed",
    "learning_area",
    "convergence",
    "overlap",
    "overlap_contrasts",
)
"""File names of the tables."""


class FurtherTables:
    """Collects the rows of a task.

    Args:
        evidence: The study.
        primary_amounts: Amounts of a task's primary family.

    Attributes:
        rows: Name -> rows; those of ``group_odds`` follow from ``group_rates`` (``further_frames``).
        exclusions: Results that are not used here.
    """

    def __init__(self, evidence: Evidence, primary_amounts: PrimaryAmounts) -> None:
        self._evidence, self._primary_amounts = evidence, primary_amounts
        self.rows: dict[str, list[dict[str, Any]]] = {name: [] for name in NAMES}
        self._groups: dict[int, SetGroups] = {}
        self._amounts: dict[str, list[str]] = {}
        for row in evidence.results[["task", "data_fraction"]].astype(str).drop_duplicates().to_dict("records"):
            self._amounts.setdefault(row["task"], []).append(row["data_fraction"])
        self.exclusions: list[Exclusion] = []

    def watch(self, seen: SeenBlock) -> None:
        """Work on one task, scale and amount. Of masks no probabilities are kept, which most tables are about."""
        primary = self._primary_amounts(seen.task, self._amounts[seen.task])
        block = make_block(seen, self._evidence, primary)
        if seen.is_masks:
            self.rows["overlap"] += overlap_rows(seen, block.level)
            self.rows["overlap_contrasts"] += overlap_contrast_rows(seen, block)
            return
        for runs in block.sets.values():
            self.rows["measures"] += measure_rows(block, runs)
            self._add_groups(block, runs)
            self._add_confidence(block, runs)
        self.rows["ood_detection"] += detection_rows(block)
        self.exclusions += block.exclusions

    def forget(self, outdated: Collection[tuple[str, str, str]]) -> None:
        """Drop what was made of versions of sets that are not used: rows of these scales, amounts and sets.

        Detection tells a set from the in-domain one: it goes with either of them.
        """
        for name, rows in self.rows.items() if outdated else ():
            self.rows[name] = [row for row in rows if not _sets_of(name, row) & set(outdated)]

    def add_task(self, task: TaskView, primary_amounts: frozenset[str]) -> None:
        """Work on the task as a whole, once all its blocks were seen."""
        self.rows["robustness"] += robustness_rows(self._evidence, task)
        curves = task_curves(self._evidence, task)
        self.rows["speed"] += speed_rows(self._evidence, task, curves, primary_amounts)
        self.rows["learning_area"] += area_rows(self._evidence, task, curves)
        self.rows["convergence"] += convergence_rows(task, curves, primary_amounts)
        self.exclusions += curves.exclusions

    def _add_groups(self, block: Block, runs: SetRuns) -> None:
        attributes = group_columns(runs, self._evidence)
        if not attributes:
            return
        groups = self._groups.get(id(runs.design))
        if groups is None:
            groups = self._groups[id(runs.design)] = set_groups(runs, attributes)
        self.rows["harm"] += harm_rows(block, runs, groups)
        if block.primary:
            gaps, values = gap_rows(block, runs, groups)
            self.rows["group_gaps"] += gaps
            self.rows["group_values"] += values
        self.rows["group_rates"] += rate_rows(block, runs, groups)
        self.rows["cross_group_auc"] += cross_rows(block, runs, groups)
        self.rows["group_coverage"] += coverage_rows(block, runs, groups)

    def _add_confidence(self, block: Block, runs: SetRuns) -> None:
        staged = stages(block, runs)
        self.rows["probabilities"] += probability_rows(block, runs, staged)
        self.rows["probability_contrasts"] += probability_contrast_rows(block, runs, staged)
        found = selective_influences(runs)
        self.rows["selective"] += selective_rows(block, runs, found)
        self.rows["selective_contrasts"] += selective_contrast_rows(block, runs, found)
        if runs.name == IN_DOMAIN and block.primary:
            self.rows["reliability"] += reliability_rows(block, runs, staged)
            self.rows["risk_coverage"] += curve_rows(block, runs)


def _sets_of(table: str, row: Mapping[str, Any]) -> set[tuple[str, str, str]]:
    """(scale, amount, evaluation set) that a row is about; rows without a set are about the in-domain one."""
    names = {str(row.get("set", IN_DOMAIN))} | ({IN_DOMAIN} if table == "ood_detection" else set())
    return {(str(row["model_scale"]), str(row["data_fraction"]), name) for name in names}


def further_frames(evidence: Evidence, rows: dict[str, list[dict[str, Any]]]) -> dict[str, pd.DataFrame]:
    """Every table; one without rows has no columns either.

    Args:
        evidence: The study.
        rows: Name -> rows of all tasks.
    """
    found = {name: pd.DataFrame(of_table) for name, of_table in rows.items()}
    found["harm"] = decide_harm(found["harm"], evidence.alpha, absent_groups(evidence, found["harm"]))
    found["group_odds"] = pd.DataFrame(odds_rows(rows["group_rates"]))
    if len(found["probability_contrasts"]):
        found["probability_contrasts"] = _adjusted_by_stage(evidence, found["probability_contrasts"])
    for name in ("selective_contrasts", "overlap_contrasts"):
        if len(found[name]):
            found[name] = adjust_study(found[name])
    if len(found["robustness"]):
        others = found["robustness"]["pretraining_source"] != evidence.baseline
        p = found["robustness"]["p"].where(others)
        found["robustness"]["p_adjusted"] = adjust_p_values(p, "fdr_bh")
    return found


def _adjusted_by_stage(evidence: Evidence, table: pd.DataFrame) -> pd.DataFrame:
    """Holm over the primary differences of the whole study; each other score and stage is a family of its own."""
    primary = table[table["primary"].astype(bool)]
    parts = [_adjusted_primary(evidence, primary)] if len(primary) else []
    rest = table[~table["primary"].astype(bool)]
    parts += [adjust_study(part) for _, part in rest.groupby(["metric", "stage"], sort=False)]
    return pd.concat(parts).loc[table.index]


def _adjusted_primary(evidence: Evidence, primary: pd.DataFrame) -> pd.DataFrame:
    """The family is as large as planned, of tasks that have probabilities (``primary_family``)."""
    tasks = set(primary["task"])
    absent = [name for name in absent_contrasts(evidence, primary) if name[0] in tasks and name[-1] == IN_DOMAIN]
    too_few = (primary["n_seeds"] > 0) & (primary["min_patients"] < MIN_TEST_PATIENTS)
    return adjust_study(primary, len(absent), list(primary["p"].isna() & ~too_few))
