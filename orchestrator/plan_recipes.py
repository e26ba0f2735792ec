"""What a plan says of named recipes: all values, and rules that jump inside a curve."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import yaml

from orchestrator.plan_data import Findings, PlanData
from search_spaces.expand import Cell
from search_spaces.files import LoadedStudy
from search_spaces.hyperrule import regime_of
from search_spaces.resolve import Resolver
from search_spaces.toolchain import missing_toolchain
from trainables.steps import warmup_problem


def note_regimes(resolver: Resolver, cells: Iterable[Cell], data: PlanData, found: Findings) -> None:
    """Note the tasks whose amounts fall into different regimes of BiT-HyperRule.

    Args:
        resolver: Of the study.
        cells: That are planned.
        data: Their subsets.
        found: Takes the notes.
    """
    regimes: dict[str, dict[str, dict[str, int]]] = {}
    ruled: set[str] = set()
    for cell in cells:
        drawn = data.size(cell.task, cell.data_fraction)
        if drawn is None or not resolver.protocol(cell).follows_hyperrule:
            continue
        name = regime_of(drawn.images).name
        if resolver.protocol(cell).budget.rule is not None:
            ruled.add(cell.task)
        regimes.setdefault(cell.task, {}).setdefault(name, {})[cell.data_fraction.label] = drawn.images
    for task, by_name in regimes.items():
        if len(by_name) < 2:
            continue
        parts = (f"{name} at {', '.join(f'{a} ({n:,})' for a, n in of.items())}" for name, of in by_name.items())
        changes = (
            "Steps, warm-up, decay and mixup change there with the labels; protocol.budget: {steps: N} with "
            "mixup_alpha: 0 compares at equal steps"
            if task in ruled
            else "Mixup changes there with the labels; mixup_alpha: 0 leaves it out"
        )
        found.notes.append(f"task {task!r}: BiT-HyperRule jumps inside its curve: {'; '.join(parts)} images. {changes}")


def refuse_warmup_alone(resolver: Resolver, cells: Iterable[Cell], data: PlanData, found: Findings) -> None:
    """A problem for every task and amount whose steps end before its warm-up does.

    Args:
        resolver: Of the study.
        cells: That are planned.
        data: Their subsets.
        found: Takes the problems.
    """
    said: dict[str, None] = {}
    for cell in cells:
        drawn = data.size(cell.task, cell.data_fraction)
        if drawn is None:
            continue
        protocol, gflops = resolver.protocol(cell), resolver.scale(cell).gflops
        if protocol.budget.flops is not None and gflops is None:
            continue  # a problem of its own
        problem = warmup_problem(protocol, drawn.images, gflops)
        if problem is not None:
            said[f"task {cell.task!r} at {cell.data_fraction.label}: {problem}"] = None
    found.problems.extend(said)


def refuse_without_compiler(resolver: Resolver, cells: Iterable[Cell], found: Findings) -> None:
    """A problem where a cell is to be compiled, and this machine has no compiler.

    Args:
        resolver: Of the study.
        cells: That are planned.
        found: Takes the problem.
    """
    if any(resolver.written_protocol(cell).compile for cell in cells) and (problem := missing_toolchain()):
        found.problem(problem)


def note_image_sizes(resolver: Resolver, cells: Iterable[Cell], found: Findings) -> None:
    """Note what BiT-HyperRule makes of the images of each task, and scales whose own size goes before.

    Args:
        resolver: Of the study.
        cells: That are planned.
        found: Takes the notes.
    """
    sizes: dict[str, dict[str, list[str]]] = {}
    kept: dict[str, int] = {}
    for cell in cells:
        if resolver.written_protocol(cell).image_size != "hyperrule":
            continue
        chosen = resolver.protocol(cell).image_size
        if isinstance(chosen, str):
            kept[cell.model_scale] = resolver.scale(cell).input_size
            continue
        scales = sizes.setdefault(cell.task, {}).setdefault("resized to {} and cropped to {} px".format(*chosen), [])
        if cell.model_scale not in scales:
            scales.append(cell.model_scale)
    for task, by_size in sizes.items():
        if len(by_size) == 1:
            found.notes.append(f"task {task!r}: by BiT-HyperRule its images are {next(iter(by_size))}")
            continue
        listed = "; ".join(f"{size} for {', '.join(scales)}" for size, scales in by_size.items())
        found.notes.append(
            f"task {task!r}: BiT-HyperRule jumps inside its curve over scales: images are {listed}. "
            "protocol.image_size: [resize, crop] gives all scales the same"
        )
    if kept:
        listed = ", ".join(f"{scale} ({size} px)" for scale, size in kept.items())
        found.notes.append(
            f"BiT-HyperRule does not choose the image size of {listed}, as scales write an input_size; leave it out, "
            "or write protocol.image_size"
        )


def resolved_protocol(loaded: LoadedStudy) -> str:
    """YAML of the study's protocol with every value that its recipe gives; overrides of cells are not applied."""
    fields = {"protocol": loaded.study.protocol.model_dump(mode="json", exclude_none=True)}
    title = "# With the values of the recipe; overrides change single cells."
    return f"{title}\n{yaml.safe_dump(fields, sort_keys=False)}"


def resolved_facts(loaded: LoadedStudy) -> dict[str, Any]:
    """The same as part of a plan in JSON, beside the study as it was understood."""
    return {"resolved": loaded.text, "protocol": loaded.study.protocol.model_dump(mode="json", exclude_none=True)}
