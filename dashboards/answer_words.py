"""What the gates leave of an answer, and phrases that answers share."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from dashboards.answers import Number
from dashboards.evidence import IN_DOMAIN
from dashboards.plots import records
from dashboards.statistics.gates import seeds_gate
from dashboards.verdict.words import Held, held_of

CELL = ("task", "model_scale", "pretraining_source", "data_fraction")
Place = tuple[str, ...]
"""An evaluation set and the four axes of a cell."""
Rows = dict[Place, list[dict[str, Any]]]
"""The rows of a table by place."""


def by_place(table: pd.DataFrame) -> Rows:
    """The rows of each cell on each set, in their order: a table is gone through once for all answers, not for each."""
    found: Rows = {}
    for row in records(table):
        found.setdefault(place_of(row), []).append(row)
    return found


def place_of(row: dict[str, Any]) -> Place:
    """Where a row with the cell's axes, and ``set`` (in domain if it has none), belongs."""
    return str(row.get("set", IN_DOMAIN)), *(str(row[name]) for name in CELL)


def hold(contrasts: Rows, row: dict[str, Any], n_seeds: int) -> Held:
    """What holds an answer on a cell back: the gates of the same cell's contrast on the same set, and few seeds.

    Args:
        contrasts: ``Tables.contrasts`` by place.
        row: As of ``place_of``.
        n_seeds: Paired seeds behind the answer.
    """
    return held_of(contrasts.get(place_of(row), [])).behind(seeds_gate(n_seeds))


def cell_of(row: dict[str, Any]) -> dict[str, str]:
    """The fields of an answer that name a cell."""
    return {name: str(row[name]) for name in CELL}


def finite_number(value: Any) -> Number:
    """A number for an answer; None where it does not exist."""
    number = float(value)
    return number if math.isfinite(number) else None
