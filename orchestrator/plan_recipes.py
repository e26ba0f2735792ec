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


def note_regimes(resolver: Resolver, cells: Iterable[Cell], data: PlanData, found: Findings) -> None:
    """Note the tasks whose amounts fall into different regimes of BiT-HyperRule.

    Args:
        resolver: Of the study.
        cells: That are planned.
        data: Their subsets.
        found: Takes the notes.
    """
    regimes: dict[str, dict[str, dict[str, int]]] = {}
    for cell in cells:
        drawn = data.size(cell.task, cell.data_fraction)
        if drawn is None or not resolver.protocol(cell).follows_hyperrule:
            continue
        name = regime_of(drawn.images).name
        regimes.setdefault(cell.task, {}).setdefault(name, {})[cell.data_fraction.label] = drawn.images
    for task, by_name in regimes.items():
        if len(by_name) < 2:
            continue
        parts = (f"{name} at {', '.join(f'{a} ({n:,})' for a, n in of.items())}" for name, of in by_name.items())
        found.notes.append(
            f"task {task!r}: BiT-HyperRule jumps inside its curve: {'; '.join(parts)} images. Steps, warm-up, decay "
            "and mixup change there with the labels; protocol.budget: {steps: N} compares at equal steps"
        )


def resolved_protocol(loaded: LoadedStudy) -> str:
    """YAML of the study's protocol with every value that its recipe gives; overrides of cells are not applied."""
    fields = {"protocol": loaded.study.protocol.model_dump(mode="json", exclude_none=True)}
    title = "# With the values of the recipe; overrides change single cells."
    return f"{title}\n{yaml.safe_dump(fields, sort_keys=False)}"


def resolved_facts(loaded: LoadedStudy) -> dict[str, Any]:
    """The same as part of a plan in JSON, beside the study as it was understood."""
    return {"resolved": loaded.text, "protocol": loaded.study.protocol.model_dump(mode="json", exclude_none=True)}
