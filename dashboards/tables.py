"""The tidy tables behind every figure and sentence of a report, written beside it as CSV and Parquet."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import pandas as pd

from dashboards.amounts import amount_ranks, mean_images
from dashboards.contrast_tables import decide
from dashboards.evidence import Evidence
from dashboards.exclusions import exclusion_table
from dashboards.further_tables import NAMES, further_frames
from dashboards.over_tasks_tables import over_tasks_table
from dashboards.planned import CELL_COLUMNS, CellName
from dashboards.primary_family import absent_contrasts, absent_scale_effects
from dashboards.representation_tables import representation_tables
from dashboards.result_rows import LABEL_COUNTS
from dashboards.robustness_tables import with_holm
from dashboards.side_tables import fit_table, rank_table
from dashboards.source_tables import source_table
from dashboards.stage_tables import stage_table
from dashboards.study_rows import study_rows
from dashboards.task_rows import PARTS
from dashboards.tuning_tables import tuning_table
from dashboards.weight_tables import weight_rows
from dashboards.where_tables import decide_scales

_COUNTS = (
    "n_images",
    "n_patients",
    "n_forced_patients",
    "n_val_images",
    "n_val_patients",
    "pool_images",
    "pool_patients",
)


_NO_TABLES = ("left_out", "unrecorded", "further")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """All tables of a report. One without rows has no columns either.

    Attributes:
        cells: Each cell on each evaluation set: primary and secondary metrics with intervals.
        trial_values: Each trial's primary metric on each set.
        contrasts: Each source minus the baseline, with verdicts and grades.
        gates: Each gate of each task, source and set: how many contrasts pass it, and why the others do not.
        paper_tests: Each contrast as the papers tested it, for comparison.
        paired_values: Each in-domain result of the primary amounts beside the baseline's of the same seed.
        reach: Each curve: the amounts at which the source helps, and where it crosses the baseline's.
        scale_effects: How the benefit changes with scale, within ladders.
        best_sets: Each cell of a primary amount against the best of the others.
        label_savings: Each curve: the labels that the source saves.
        label_tests: The tests behind it, at each amount.
        ensembles: The seed ensemble of each cell.
        ranks: Mean ranks of sources over tasks, from five tasks on.
        over_tasks: Each source in one number over the tasks, from two on.
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
        sources: What is published of the weights that sources start from.
        exclusions: Results that are not used, counted by reason.
        left_out: "task, set" -> labels with too few patients to be part of a macro average.
        unrecorded: (task, set) -> subgroup columns of the study that are blank for all of its images.
        further: The tables of ``dashboards.further_tables`` and ``dashboards.representation_tables``, by name.
    """

    cells: pd.DataFrame
    trial_values: pd.DataFrame
    contrasts: pd.DataFrame
    gates: pd.DataFrame
    paper_tests: pd.DataFrame
    paired_values: pd.DataFrame
    reach: pd.DataFrame
    scale_effects: pd.DataFrame
    best_sets: pd.DataFrame
    label_savings: pd.DataFrame
    label_tests: pd.DataFrame
    ensembles: pd.DataFrame
    ranks: pd.DataFrame
    over_tasks: pd.DataFrame
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
    sources: pd.DataFrame
    exclusions: pd.DataFrame
    left_out: dict[str, tuple[str, ...]] = field(default_factory=dict)
    unrecorded: dict[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)
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
    tasks = study_rows(evidence)
    frames = {name: pd.DataFrame([row for task in tasks for row in task.rows[name]]) for name in PARTS}
    absent = len(absent_contrasts(evidence, frames["contrasts"]))
    frames["contrasts"], frames["gates"] = decide(evidence, frames["contrasts"], absent)
    absent = len(absent_scale_effects(evidence, frames["scale_effects"]))
    frames["scale_effects"] = decide_scales(evidence, frames["scale_effects"], absent)
    frames["shift_summary"] = with_holm(frames["shift_summary"])
    frames["deficits"] = with_holm(frames["deficits"])
    further = {name: [row for task in tasks for row in task.further[name]] for name in NAMES}
    exclusions = [e for task in tasks for e in task.exclusions] + [e for task in tasks for e in task.further_exclusions]
    return Tables(
        **frames,
        ranks=rank_table(evidence, frames["cells"], {amount for task in tasks for amount in task.primary_amounts}),
        over_tasks=over_tasks_table(evidence, frames["paired_values"]),
        curve_fits=fit_table(frames["cells"]),
        scales=_scales(frames["cells"]),
        completeness=completeness_table(evidence),
        failures=evidence.failures,
        data=data_table(evidence),
        tuning=tuning_table(evidence),
        stages=stage_table(evidence),
        sources=source_table(evidence),
        exclusions=exclusion_table(exclusions),
        left_out={name: labels for task in tasks for name, labels in task.left_out.items()},
        unrecorded={place: columns for task in tasks for place, columns in task.unrecorded.items()},
        further=further_frames(evidence, further) | representation_tables(evidence, weight_rows),
    )


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
    labels = [c for c in results.columns if str(c).startswith(LABEL_COUNTS)]
    rank = _amount_rank(evidence, results["data_fraction"].astype(str))
    rows = []
    for (task, fraction), part in results.groupby(["task", "data_fraction"], sort=False):
        means = part[[*counts, *labels]].mean()
        rows.append(
            {"task": task, "data_fraction": fraction, "rank": rank[str(fraction)], "trials": len(part)}
            | {c: means[c] for c in counts}
            | {"prevalence": ", ".join(f"{label} {100 * share:.1f} %" for label, share in _prevalence(means).items())}
        )
    table = pd.DataFrame(rows)
    order = {task: i for i, task in enumerate(dict.fromkeys(table["task"]))}
    table = table.sort_values(by=["task", "rank"], key=lambda c: c.map(order) if c.name == "task" else c)
    empty = ["rank", *(["prevalence"] if not table["prevalence"].any() else [])]
    return table.drop(columns=empty).reset_index(drop=True)


def _prevalence(means: pd.Series[float]) -> dict[str, float]:
    """Label -> share of the positive among the training images whose label is known, where both counts are recorded."""
    positive, negative = LABEL_COUNTS
    shares = {}
    for column in (str(c) for c in means.index if str(c).startswith(positive)):
        label = column.removeprefix(positive)
        known = means[column] + means.get(negative + label, float("nan"))
        if known > 0:
            shares[label] = float(means[column] / known)
    return shares
