"""One row of a table of others' results."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from dashboards.evidence import IN_DOMAIN
from orchestrator.ingest_problems import Problems
from orchestrator.ingest_values import parse_amount, parse_count, parse_seed, parse_status, parse_value, text_of
from search_spaces.amounts import Amount, Seed
from search_spaces.names import FailureClass, State

AXIS_COLUMNS = ("task", "model_scale", "pretraining_source")
COUNTS = ("n_images", "n_patients", "parameters", "gpu_seconds")

_TAKEN_SETS = ("train", "val", "time", "sys", "data")
_NOT_WHOLE = ("gpu_seconds",)

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One result as it was written.

    Attributes:
        number: Row of the table; the heading is row 1.
        axes: Task, model scale and pretraining source.
        amount: Labelled training data.
        seed: Of the trial.
        set: Evaluation set.
        metric: Name of the metric; empty if the row only names predictions.
        value: NaN if undefined.
        state: complete, failed or running.
        failure: Why it failed, if the table says so.
        counts: Optional numbers that the row has.
        ladder: Ladder of the scale; empty if not given.
        predictions: Path of the predictions as written; empty if not given.
    """

    number: int
    axes: tuple[str, ...]
    amount: Amount
    seed: Seed
    set: str
    metric: str
    value: float
    state: State
    failure: FailureClass | None
    counts: Mapping[str, float]
    ladder: str
    predictions: str

    @property
    def trial(self) -> tuple[str, ...]:
        """Task, scale, source, amount and seed: what makes two rows results of one trial."""
        return (*self.axes, self.amount.label, self.seed.label)


def parse_row(raw: Mapping[str, Any], number: int, problems: Problems) -> Row | None:
    """A row from its cells; None, and complaints, if it cannot be read.

    Args:
        raw: Column -> cell; at least the required columns.
        number: Of the row.
        problems: Where to complain.
    """
    complaints: list[str] = []

    def tried(parse: Callable[[], T]) -> T | None:
        try:
            return parse()
        except ValueError as error:
            complaints.append(str(error))
            return None

    complaints += _complaints(raw)
    state, failure = tried(lambda: parse_status(raw.get("status"))) or (State.RUNNING, None)
    amount = tried(lambda: parse_amount(raw["data_fraction"]))
    seed = tried(lambda: parse_seed(raw["seed"]))
    value = tried(lambda: parse_value(raw["value"])) if state is State.COMPLETE else math.nan
    counts = {name: tried(lambda name=name: _count(raw, name)) for name in COUNTS}  # type: ignore[misc]
    for complaint in complaints:
        problems.add(complaint, number)
    if complaints or amount is None or seed is None or value is None:
        return None
    return Row(
        number=number,
        axes=tuple(text_of(raw[column]) for column in AXIS_COLUMNS),
        amount=amount,
        seed=seed,
        set=text_of(raw.get("set")) or IN_DOMAIN,
        metric=text_of(raw["metric"]),
        value=value,
        state=state,
        failure=failure,
        counts={name: n for name, n in counts.items() if n is not None},
        ladder=text_of(raw.get("ladder")),
        predictions=text_of(raw.get("predictions")),
    )


def _complaints(raw: Mapping[str, Any]) -> list[str]:
    """What is wrong with the names in a row."""
    found = [f"{column} is blank" for column in AXIS_COLUMNS if not text_of(raw[column])]
    name = text_of(raw.get("set")) or IN_DOMAIN
    if not re.fullmatch(r"[A-Za-z0-9_]+", name) or name in _TAKEN_SETS:
        taken = ", ".join(_TAKEN_SETS)
        found.append(
            f"set {name!r}: letters, digits and _ only; {taken} are taken; the in-domain test set is called {IN_DOMAIN}"
        )
    if not text_of(raw["metric"]) and not text_of(raw.get("predictions")):
        found.append("metric is blank, and there are no predictions")
    return found


def _count(raw: Mapping[str, Any], name: str) -> float | None:
    return parse_count(name, raw.get(name), whole=name not in _NOT_WHOLE)
