"""Predictions of a block that are in memory, put together where they are of the same version of a set."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from dashboards.prediction_sets import PredictionSet
from dashboards.set_design import SetDesign
from dashboards.statistics.run_batches import RunBatch, make_batch

Seen = dict[tuple[str, str], tuple[PredictionSet, SetDesign]]
"""(trial_id, set) -> predictions and the design of the set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Trials of a block that were scored on the same version of a set, for the same labels."""

    name: str
    trials: tuple[str, ...]
    design: SetDesign
    runs: RunBatch


def put_together(seen: Seen) -> list[Batch]:
    """What is in memory, put together; predictions that cannot be are left to whoever needs them."""
    alike: dict[tuple[Any, ...], dict[str, tuple[PredictionSet, SetDesign]]] = {}
    for (trial_id, name), (prediction, design) in seen.items():
        alike.setdefault((name, id(design), prediction.kind, prediction.labels), {})[trial_id] = prediction, design
    found = []
    for (name, *_), trials in alike.items():
        first, design = next(iter(trials.values()))
        logits = [prediction.logits for prediction, _ in trials.values()]
        with suppress(ValueError):
            runs = make_batch(first.kind, first.labels, first.y, logits, design.index, design.classes)
            found.append(Batch(name=name, trials=tuple(trials), design=design, runs=runs))
    return found


def whole_sets(seen: Seen, batches: Sequence[Batch]) -> dict[str, RunBatch]:
    """Set -> the batch that holds all that was seen of it."""
    trials: dict[str, list[str]] = {}
    for trial_id, name in seen:
        trials.setdefault(name, []).append(trial_id)
    return {batch.name: batch.runs for batch in batches if list(batch.trials) == trials.get(batch.name)}
