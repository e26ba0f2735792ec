"""The tables beyond "does it help": harm, fairness, probabilities, abstention, shift, speed.

Blocks of trials are worked on while their predictions are in memory (``watch``), here or in another process; then their
rows are put together (``collect``), and whole tasks are worked on (``add_task``).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import pandas as pd

from dashboards.block_tables import BlockRows, BlockTables
from dashboards.cell_tables import TaskView
from dashboards.evidence import IN_DOMAIN, Evidence, SeenBlock
from dashboards.exchange import Exchange
from dashboards.exclusions import Exclusion
from dashboards.harm_tables import decide_harm
from dashboards.primary_family import absent_contrasts, absent_groups
from dashboards.rate_tables import odds_rows
from dashboards.shift_tables import robustness_rows
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
        exchange: Hands blocks to other processes; all are worked on here if not given.

    Attributes:
        rows: Name -> rows; those of ``group_odds`` follow from ``group_rates`` (``further_frames``).
        exclusions: Results that are not used here.
    """

    def __init__(self, evidence: Evidence, primary_amounts: PrimaryAmounts, exchange: Exchange | None = None) -> None:
        self._evidence, self._primary_amounts, self._exchange = evidence, primary_amounts, exchange
        self.rows: dict[str, list[dict[str, Any]]] = {name: [] for name in NAMES}
        self.exclusions: list[Exclusion] = []
        self._tables = BlockTables(evidence)
        self._blocks: list[BlockRows | str] = []
        self._amounts: dict[str, list[str]] = {}
        for row in evidence.results[["task", "data_fraction"]].astype(str).drop_duplicates().to_dict("records"):
            self._amounts.setdefault(row["task"], []).append(row["data_fraction"])

    def watch(self, seen: SeenBlock) -> None:
        """Work on one task, scale and amount, or hand it to a process that has nothing to do."""
        primary = self._primary_amounts(seen.task, self._amounts[seen.task])
        handed = self._exchange.hand((seen, primary)) if self._exchange else None
        self._blocks.append(self._tables.rows(seen, primary) if handed is None else handed)

    def collect(self, outdated: Collection[tuple[str, str, str]]) -> None:
        """Put the rows of all blocks together, in their order, once all were seen.

        Detection tells a set from the in-domain one: it goes with either of them.

        Args:
            outdated: Scales, amounts and sets whose rows are of versions of sets that are not used; they are dropped.
        """
        blocks = [self._made(block) for block in self._blocks]
        for name, rows in self.rows.items():
            of_blocks = [row for block in blocks for row in block.rows.get(name, ())]
            rows += [row for row in of_blocks if not outdated or not _sets_of(name, row) & set(outdated)]
        self.exclusions += [exclusion for block in blocks for exclusion in block.exclusions]

    def _made(self, block: BlockRows | str) -> BlockRows:
        if isinstance(block, BlockRows):
            return block
        assert self._exchange is not None  # it gave the name
        return self._exchange.collect(block, lambda payload: self._tables.rows(*payload))

    def add_task(self, task: TaskView, primary_amounts: frozenset[str]) -> None:
        """Work on the task as a whole, once all its blocks were seen."""
        self.rows["robustness"] += robustness_rows(self._evidence, task)
        curves = task_curves(self._evidence, task)
        self.rows["speed"] += speed_rows(self._evidence, task, curves, primary_amounts)
        self.rows["learning_area"] += area_rows(self._evidence, task, curves)
        self.rows["convergence"] += convergence_rows(task, curves, primary_amounts)
        self.exclusions += curves.exclusions


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
