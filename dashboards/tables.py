"""The tidy tables behind every figure and sentence of a report, written beside it as CSV and Parquet."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from dashboards.amounts import amount_ranks, mean_images
from dashboards.best_tables import best_rows
from dashboards.cell_tables import TaskView, cell_rows, view
from dashboards.contrast_tables import PlannedSeeds, contrast_rows, decide
from dashboards.evidence import Evidence
from dashboards.exclusions import Exclusion, exclusion_table
from dashboards.further_tables import FurtherTables
from dashboards.label_tables import label_rows
from dashboards.planned import CELL_COLUMNS, CellName, planned_seeds
from dashboards.primary_family import absent_contrasts, absent_scale_effects, primary_amounts
from dashboards.reading import task_estimates
from dashboards.representation_tables import representation_tables
from dashboards.robustness_tables import deficit_rows, shift_summary_rows, shifted_rows, subgroup_rows, with_holm
from dashboards.side_tables import ensemble_rows, fit_table, paper_rows, rank_table
from dashboards.stage_tables import stage_table
from dashboards.tuning_tables import tuning_table
from dashboards.weight_tables import weight_rows
from dashboards.where_tables import decide_scales, reach_rows, scale_rows

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


_NO_TABLES = ("left_out", "further")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """All tables of a report. One without rows has no columns either.

    Attributes:
        cells: Each cell on each evaluation set: primary and secondary metrics with intervals.
        trial_values: Each trial's primary metric on each set.
        contrasts: Each source minus the baseline, with verdicts and grades.
        gates: Each gate of each task, source and set: how many contrasts pass it, and why the others do not.
        paper_tests: Each contrast as the papers tested it, for comparison.
        reach: Each curve: the amounts at which the source helps, and where it crosses the baseline's.
        scale_effects: How the benefit changes with scale, within ladders.
        best_sets: Each cell of a primary amount against the best of the others.
        label_savings: Each curve: the labels that the source saves.
        label_tests: The tests behind it, at each amount.
        ensembles: The seed ensemble of each cell.
        ranks: Mean ranks of sources over tasks, from five tasks on.
        curve_fits: Power laws, where amounts support them.
        in_domain_vs_shifted: Each cell on test and on another set.
        shift_summary: The loss on each shifted set, over all cells of the largest amount.
        subgroups: Each subgroup of each cell.
        deficits: Each subgroup against all other patients, over all cells of the largest amount.
        scales: Cells with model size and ladder.
        completeness: Planned, done, failed and missing trials of each cell.
        failures: Failed trials.
        data: Labelled images and patients of each amount.
        tuning: What the search of each cell chose.
        stages: How good the trials are that others start from.
        exclusions: Results that are not used, counted by reason.
        left_out: "task, set" -> labels with too few patients to be part of a macro AUC.
        further: The tables of ``dashboards.further_tables`` and ``dashboards.representation_tables``, by name.
    """

    cells: pd.DataFrame
    trial_values: pd.DataFrame
    contrasts: pd.DataFrame
    gates: pd.DataFrame
    paper_tests: pd.DataFrame
    reach: pd.DataFrame
    scale_effects: pd.DataFrame
    best_sets: pd.DataFrame
    label_savings: pd.DataFrame
    label_tests: pd.DataFrame
    ensembles: pd.DataFrame
    ranks: pd.DataFrame
    curve_fits: pd.DataFrame
    in_domain_vs_shifted: pd.DataFrame
    shift_summary: pd.DataFrame
    subgroups: pd.DataFrame
    deficits: pd.DataFrame
    scales: pd.DataFrame
    completeness: pd.DataFrame
    failures: pd.DataFrame
    data: pd.DataFrame
    tuning: pd.DataFrame
    stages: pd.DataFrame
    exclusions: pd.DataFrame
    left_out: dict[str, tuple[str, ...]] = field(default_factory=dict)
    further: dict[str, pd.DataFrame] = field(default_factory=dict)

    def named(self) -> dict[str, pd.DataFrame]:
        """File name without ending -> table."""
        return {
            name: getattr(self, name) for name in self.__dataclass_fields__ if name not in _NO_TABLES
        } | self.further

    def of(self, name: str) -> pd.DataFrame:
        """A table of ``further``; empty if there is none."""
        return self.further.get(name, pd.DataFrame())


def build_tables(evidence: Evidence) -> Tables:
    """Every table of a study. Cells that are not there yet are missing from them, and counted in ``completeness``."""
    planned = planned_seeds(evidence.plan, evidence.failures)
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in _PARTS}
    exclusions: list[Exclusion] = []
    left_out: dict[str, tuple[str, ...]] = {}
    fractions: set[str] = set()
    further = FurtherTables(evidence, lambda task, amounts: primary_amounts(evidence, task, amounts))
    for estimates in task_estimates(evidence, further.watch):
        task = view(evidence, estimates)
        primary = primary_fractions(evidence, task)
        _add_rows(rows, evidence, task, primary, planned, exclusions)
        further.add_task(task, primary)
        exclusions += estimates.exclusions
        left_out |= {f"{estimates.task}, {name}": labels for name, labels in estimates.left_out.items() if labels}
        fractions |= primary
    frames = {name: pd.DataFrame(found) for name, found in rows.items()}
    absent = len(absent_contrasts(evidence, frames["contrasts"]))
    frames["contrasts"], frames["gates"] = decide(evidence, frames["contrasts"], absent)
    absent = len(absent_scale_effects(evidence, frames["scale_effects"]))
    frames["scale_effects"] = decide_scales(evidence, frames["scale_effects"], absent)
    frames["shift_summary"] = with_holm(frames["shift_summary"])
    frames["deficits"] = with_holm(frames["deficits"])
    return Tables(
        **frames,
        ranks=rank_table(evidence, frames["cells"], fractions),
        curve_fits=fit_table(frames["cells"]),
        scales=_scales(frames["cells"]),
        completeness=completeness_table(evidence),
        failures=evidence.failures,
        data=data_table(evidence),
        tuning=tuning_table(evidence),
        stages=stage_table(evidence),
        exclusions=exclusion_table([*exclusions, *further.exclusions]),
        left_out=left_out,
        further=further.frames() | representation_tables(evidence, weight_rows),
    )


_PARTS = (
    "cells",
    "trial_values",
    "contrasts",
    "paper_tests",
    "reach",
    "scale_effects",
    "best_sets",
    "label_savings",
    "label_tests",
    "ensembles",
    "in_domain_vs_shifted",
    "shift_summary",
    "subgroups",
    "deficits",
)


def _add_rows(
    rows: dict[str, list[dict[str, Any]]],
    evidence: Evidence,
    task: TaskView,
    primary: frozenset[str],
    planned: PlannedSeeds,
    exclusions: list[Exclusion],
) -> None:
    """The rows of one task, whose estimates are in memory now."""
    rows["cells"] += cell_rows(evidence, task)
    rows["trial_values"] += _trial_rows(task)
    rows["contrasts"] += contrast_rows(evidence, task, primary, planned, exclusions)
    rows["paper_tests"] += paper_rows(evidence, task)
    rows["reach"] += reach_rows(evidence, task)
    rows["scale_effects"] += scale_rows(evidence, task, primary)
    rows["best_sets"] += best_rows(evidence, task, primary)
    for savings, tests in label_rows(evidence, task):
        rows["label_savings"].append(savings)
        rows["label_tests"] += tests
    rows["ensembles"] += ensemble_rows(evidence, task)
    rows["in_domain_vs_shifted"] += shifted_rows(evidence, task)
    rows["shift_summary"] += shift_summary_rows(evidence, task)
    rows["subgroups"] += subgroup_rows(evidence, task)
    rows["deficits"] += deficit_rows(evidence, task)


def primary_fractions(evidence: Evidence, task: TaskView) -> frozenset[str]:
    """Amounts of a task's primary family, see ``primary_amounts``."""
    return primary_amounts(evidence, task.estimates.task, {cell[2] for cell in task.cells})


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
