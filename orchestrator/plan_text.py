"""A plan in words: for the terminal and as JSON."""

from __future__ import annotations

from collections import Counter
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cluster.capacity import Shape
from orchestrator.plan import Plan
from orchestrator.plan_labels import label_rows, range_text
from orchestrator.plan_stages import stage_graph, stage_lines
from search_spaces.names import AXES
from search_spaces.tuning import Tuning


def plan_json(plan: Plan) -> dict[str, Any]:
    """The plan as plain data: counts, cells, exclusions with reasons, problems, images per task."""
    gangs = Counter(t.gang for t in plan.trials)
    return {
        "study": plan.study.name,
        "cells": len(plan.cells),
        "trials": len(plan.targets),
        "upstream_trials": len(plan.trials) - len(plan.targets),
        "stages": len(list(plan.stages())),
        "stage_graph": stage_graph(plan),
        "gangs": [{"trials": count, **gang.model_dump(mode="json")} for gang, count in gangs.items()],
        "axes": {axis: sorted({c.coordinates[axis] for c in plan.cells}) for axis in AXES},
        "exclusions": [{"cell": e.cell.label, "reason": e.reason} for e in plan.exclusions],
        "problems": list(plan.problems),
        "notes": list(plan.notes),
        "images": plan.images,
        "labels": label_rows(plan.subsets),
        "targets": [
            {
                "trial_id": None if t.trial.is_open else t.trial_id,
                **t.trial.cell.coordinates,
                "seed": t.trial.seed.label,
                **({"search_id": t.search_id} if t.search_id else {}),
            }
            for t in plan.targets
        ],
        **({"tuning": _tuning_json(plan, plan.study.tuning)} if plan.study.tuning else {}),
    }


def _tuning_json(plan: Plan, tuning: Tuning) -> dict[str, Any]:
    """Budget of the searches; the id of a target is null until its search has ended."""
    return {
        "cells": len(plan.searches),
        "proposals_per_cell": tuning.trials,
        "search_trials": len(plan.searches) * tuning.trials_per_cell,
        "sampler": tuning.sampler,
        "fields": list(tuning.space),
        "searches": [{"search_id": s.search_id, **s.cell.coordinates} for s in plan.searches],
    }


def print_plan(plan: Plan, console: Console) -> None:
    """Counts, tasks, stages, exclusions, notes and problems."""
    upstream = len(plan.trials) - len(plan.targets)
    extra = f" and {upstream} upstream trials" if upstream else ""
    console.print(f"[bold]{plan.study.name}[/]: {len(plan.cells)} cells, {len(plan.targets)} trials{extra}")
    if plan.study.tuning is not None:
        console.print(_tuning_line(plan, plan.study.tuning), markup=False, highlight=False)
    if plan.images:
        console.print(_task_table(plan))
    if plan.subsets:
        console.print(_label_table(plan))
    for line in stage_lines(plan):
        console.print(line, markup=False, highlight=False)
    gangs = Counter(Shape.of(t.gang, ()).label for t in plan.trials)
    if len(gangs) > 1:
        console.print("gangs: " + ", ".join(f"{count} trials on {label}" for label, count in gangs.items()))
    for reason, count in Counter(e.reason for e in plan.exclusions).items():
        console.print(f"excluded, {count} cells: {reason}", markup=False, style="yellow")
    for note in plan.notes:
        console.print(f"note: {note}", markup=False, style="yellow")
    for problem in plan.problems:
        console.print(f"problem: {problem}", markup=False, style="red")


def _tuning_line(plan: Plan, tuning: Tuning) -> str:
    seeds = len(tuning.search_seed)
    with_seeds = f", each with {seeds} seeds" if seeds > 1 else ""
    return (
        f"before them a search ({tuning.sampler}) over {', '.join(tuning.space)}: {tuning.trials} proposals in each of "
        f"{len(plan.searches)} cells{with_seeds}, {tuning.generation_size} at a time, so "
        f"{len(plan.searches) * tuning.trials_per_cell} search trials. Upstream trials are not tuned."
    )


def _label_table(plan: Plan) -> Table:
    """What the amounts are in images; ranges are over subset seeds. Validation is counted: it selects."""
    columns = ("task", "data_fraction", "training images", "patients", "of them forced", "validation", "labels in all")
    table = Table(*columns, box=None, pad_edge=False)
    names = ("images", "patients", "forced_patients", "val_images", "labelled_images")
    for row in label_rows(plan.subsets):
        table.add_row(escape(row["task"]), row["data_fraction"], *(range_text(row[name]) for name in names))
    return table


def _task_table(plan: Plan) -> Table:
    table = Table("task", "training images", "validation", "evaluation sets", box=None, pad_edge=False)
    for task, counts in plan.images.items():
        sets = ", ".join(f"{name} {n}" for name, n in counts.items() if name not in ("train", "val"))
        table.add_row(task, str(counts["train"]), str(counts["val"]), sets)
    return table
