"""The tidy tables behind every figure and sentence of a report, written beside it as CSV and Parquet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from dashboards.amounts import amount_ranks, mean_images
from dashboards.cell_tables import TaskView, cell_rows, view
from dashboards.contrast_tables import contrast_rows, decide
from dashboards.evidence import Evidence, task_estimates
from dashboards.further_tables import FurtherTables
from dashboards.planned import CELL_COLUMNS, CellName
from dashboards.robustness_tables import deficit_rows, shift_summary_rows, shifted_rows, subgroup_rows, with_holm
from dashboards.tuning_tables import tuning_table

_COUNTS = (
    "n_images",
    "n_patients",
    "n_forced_patients",
    "n_val_images",
    "n_val_patients",
    "pool_images",
    "pool_patients",
)
_POSITIVES = "n_positive."


_NO_TABLES = ("unreadable", "left_out", "further")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """All tables of a report. One without rows has no columns either.

    Attributes:
        cells: Each cell on each evaluation set: primary and secondary metrics with intervals.
        trial_values: Each trial's primary metric on each set.
        contrasts: Each source minus the baseline, with verdicts.
        in_domain_vs_shifted: Each cell on test and on another set.
        shift_summary: The loss on each shifted set, over all cells of the largest amount.
        subgroups: Each subgroup of each cell.
        deficits: Each subgroup against all other patients, over all cells of the largest amount.
        scales: Cells with model size and ladder.
        completeness: Planned, done, failed and missing trials of each cell.
        failures: Failed trials.
        data: Labelled images and patients of each amount.
        tuning: What the search of each cell chose.
        unreadable: Predictions that could not be used, one sentence each.
        left_out: "task, set" -> labels with too few patients to be part of a macro AUC.
        further: The tables of ``dashboards.further_tables``, by name.
    """

    cells: pd.DataFrame
    trial_values: pd.DataFrame
    contrasts: pd.DataFrame
    in_domain_vs_shifted: pd.DataFrame
    shift_summary: pd.DataFrame
    subgroups: pd.DataFrame
    deficits: pd.DataFrame
    scales: pd.DataFrame
    completeness: pd.DataFrame
    failures: pd.DataFrame
    data: pd.DataFrame
    tuning: pd.DataFrame
    unreadable: tuple[str, ...] = field(default=())
    left_out: dict[str, tuple[str, ...]] = field(default_factory=dict)
    further: dict[str, pd.DataFrame] = field(default_factory=dict)

    def named(self) -> dict[str, pd.DataFrame]:
        """File name without ending -> table."""
        return {
            name: getattr(self, name) for name in self.__dataclass_fields__ if name not in _NO_TABLES
        } | self.further

    def of(self, name: str) -> pd.DataFrame:
        """A table of ``dashboards.further_tables``; empty if there is none."""
        return self.further.get(name, pd.DataFrame())


def build_tables(evidence: Evidence) -> Tables:
    """Every table of a study. Cells that are not there yet are missing from them, and counted in ``completeness``."""
    completeness = completeness_table(evidence)
    failed = _failed_by_cell(completeness)
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in _PARTS}
    unreadable: list[str] = []
    left_out: dict[str, tuple[str, ...]] = {}
    further = FurtherTables(evidence, lambda task, amounts: primary_amounts(evidence, task, amounts))
    for estimates in task_estimates(evidence, further.watch):
        task = view(evidence, estimates)
        fractions = primary_fractions(evidence, task)
        rows["cells"] += cell_rows(evidence, task)
        rows["trial_values"] += _trial_rows(task)
        rows["contrasts"] += contrast_rows(evidence, task, fractions, failed)
        rows["in_domain_vs_shifted"] += shifted_rows(evidence, task)
        rows["shift_summary"] += shift_summary_rows(evidence, task)
        rows["subgroups"] += subgroup_rows(evidence, task)
        rows["deficits"] += deficit_rows(evidence, task)
        further.add_task(task, fractions)
        unreadable += estimates.unreadable
        left_out |= {f"{estimates.task}, {name}": labels for name, labels in estimates.left_out.items() if labels}
    frames = {name: pd.DataFrame(found) for name, found in rows.items()}
    frames["contrasts"] = decide(evidence, frames["contrasts"])
    frames["shift_summary"] = with_holm(frames["shift_summary"])
    frames["deficits"] = with_holm(frames["deficits"])
    return Tables(
        **frames,
        scales=_scales(frames["cells"]),
        completeness=completeness,
        failures=evidence.failures,
        data=data_table(evidence),
        tuning=tuning_table(evidence),
        unreadable=(*unreadable, *further.problems),
        left_out=left_out,
        further=further.frames(),
    )


_PARTS = ("cells", "trial_values", "contrasts", "in_domain_vs_shifted", "shift_summary", "subgroups", "deficits")


def primary_fractions(evidence: Evidence, task: TaskView) -> frozenset[str]:
    """Amounts of a task's primary family, see ``primary_amounts``."""
    return primary_amounts(evidence, task.estimates.task, {cell[2] for cell in task.cells})


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
    rank = _amount_rank(evidence, candidates)
    ordered = sorted(candidates, key=lambda label: rank[label])
    return frozenset([ordered[0], ordered[-1]])


def completeness_table(evidence: Evidence) -> pd.DataFrame:
    """Each cell of the plan (else of the record): planned, done, failed and missing seeds, and why it is excluded."""
    done, failed = _seeds_by_cell(evidence.results), _seeds_by_cell(evidence.failures)
    planned: dict[CellName, set[str]] = {cell: set(seeds) for cell, seeds in evidence.plan.trials.items()}
    if not planned:
        planned = {cell: done.get(cell, set()) | failed.get(cell, set()) for cell in {**done, **failed}}
    reasons = {cell: why for cell, why in evidence.plan.reasons.items() if cell not in planned}
    rank = _amount_rank(evidence, [cell[3] for cell in [*planned, *reasons]])
    rows = []
    for cell in [*planned, *reasons]:
        wanted, finished = planned.get(cell, set()), done.get(cell, set())
        broken = (failed.get(cell, set()) & wanted) - finished
        counts = {
            "planned": len(wanted),
            "done": len(finished & wanted),
            "failed": len(broken),
            "missing": len(wanted - finished - broken),
        }
        rest = {"reason": reasons.get(cell, ""), "rank": rank[cell[3]]}
        rows.append(dict(zip(CELL_COLUMNS, cell, strict=True)) | counts | rest)
    return pd.DataFrame(rows)


def _seeds_by_cell(rows: pd.DataFrame) -> dict[CellName, set[str]]:
    """Cell -> labels of its seeds."""
    seeds: dict[CellName, set[str]] = {}
    if {*CELL_COLUMNS, "seed"} <= set(rows.columns):
        for row in rows[[*CELL_COLUMNS, "seed"]].astype(str).to_dict("records"):
            seeds.setdefault(tuple(row[axis] for axis in CELL_COLUMNS), set()).add(row["seed"])
    return seeds


def _amount_rank(evidence: Evidence, labels: Iterable[str]) -> dict[str, float]:
    """Order of amounts: by the images they gave, else by their number; kinds of amount stay together."""
    return amount_ranks(labels, mean_images(evidence.results))


def _failed_by_cell(completeness: pd.DataFrame) -> Counter[CellName]:
    failed: Counter[CellName] = Counter()
    for row in completeness.to_dict("records"):
        failed[tuple(str(row[axis]) for axis in CELL_COLUMNS)] += int(row["failed"])
    return failed


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


def _scales(cells: pd.DataFrame) -> pd.DataFrame:
    """Primary metric with model size; ``rung`` is the ladder, or the scale itself where it stands alone."""
    if cells.empty:
        return cells
    primary = cells[cells["primary"]]
    return primary.assign(rung=primary["ladder"].where(primary["ladder"] != "", primary["model_scale"]))


def data_table(evidence: Evidence) -> pd.DataFrame:
    """Labelled images, patients, forced patients and prevalence of each task's amounts, means over trials."""
    results = evidence.results
    if results.empty:
        return pd.DataFrame()
    counts = [c for c in _COUNTS if c in results]
    positives = [c for c in results.columns if str(c).startswith(_POSITIVES)]
    rank = _amount_rank(evidence, results["data_fraction"].astype(str))
    rows = []
    for (task, fraction), part in results.groupby(["task", "data_fraction"], sort=False):
        means = part[[*counts, *positives]].mean()
        shares = {c.removeprefix(_POSITIVES): means[c] / means["n_images"] for c in positives if means[c] == means[c]}
        rows.append(
            {"task": task, "data_fraction": fraction, "rank": rank[str(fraction)], "trials": len(part)}
            | {c: means[c] for c in counts}
            | {"prevalence": ", ".join(f"{label} {100 * share:.1f} %" for label, share in shares.items())}
        )
    table = pd.DataFrame(rows)
    order = {task: i for i, task in enumerate(dict.fromkeys(table["task"]))}
    table = table.sort_values(by=["task", "rank"], key=lambda c: c.map(order) if c.name == "task" else c)
    empty = ["rank", *(["prevalence"] if not table["prevalence"].any() else [])]
    return table.drop(columns=empty).reset_index(drop=True)
