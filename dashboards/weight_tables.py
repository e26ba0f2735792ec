"""Tables of what changed in the weights themselves: first filters, and distances part by part."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from dashboards.representation_tables import Block, Cell, Run, mean_of_pairs, pairs_within, shown
from dashboards.statistics import SeedInterval, SeedKey, filter_correlation, seed_interval
from dashboards.statistics.predictions import FloatArray
from search_spaces.names import Moment

OWN_START = "with its own start"
OTHER_SEED = "with another seed, matched"
OTHER_SEED_BEFORE = "with another seed, matched, before training"
BACKBONE, HEAD = "whole backbone", "head"


def weight_rows(block: Block) -> dict[str, list[dict[str, Any]]]:
    """Rows of ``filter_correlation`` and ``weight_distance`` of one task and scale."""
    filters: list[dict[str, Any]] = []
    distances: list[dict[str, Any]] = []
    for cell, runs in block.cells.items():
        filters += _filter_rows(block, cell, runs)
        distances += _distance_rows(block, cell, runs)
    return {"filter_correlation": filters, "weight_distance": distances}


def _filter_rows(block: Block, cell: Cell, runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Filter i after training with filter i before; and with its best partner in the network of another seed."""
    known = [run for run in runs if run.kept.final.filters is not None and run.kept.initial.filters is not None]
    if not known:
        return []
    first = known[0].kept.final.filters
    facts = {"filters": 0 if first is None else len(first)}
    own: dict[SeedKey, float] = {
        run.seed: filter_correlation(_filters(run, Moment.INITIAL), _filters(run, Moment.FINAL)).mean for run in known
    }
    rows = [_row(block, cell, OWN_START, seed_interval(own, block.level), _filter_null(known[0])) | facts]
    for name, moment in ((OTHER_SEED, Moment.FINAL), (OTHER_SEED_BEFORE, Moment.INITIAL)):
        pairs = {
            (a.seed, b.seed): filter_correlation(_filters(a, moment), _filters(b, moment), match=True).mean
            for a, b in pairs_within(known)
        }
        if pairs:
            rows.append(_row(block, cell, name, mean_of_pairs(pairs, block.level), math.nan) | facts)
    return rows


def _filters(run: Run, moment: Moment) -> FloatArray:
    found = run.at(moment).filters
    assert found is not None
    return found


def _filter_null(run: Run) -> float:
    """Mean correlation of a filter with the start of each other one: what order alone gives. NaN with one filter."""
    before, after = _filters(run, Moment.INITIAL), _filters(run, Moment.FINAL)
    others = [filter_correlation(np.roll(before, shift, axis=0), after).mean for shift in range(1, len(before))]
    return float(np.mean(others)) if others else math.nan


def _row(block: Block, cell: Cell, comparison: str, interval: SeedInterval, null: float) -> dict[str, Any]:
    return (
        block.coordinates
        | {"pretraining_source": cell[0], "data_fraction": cell[1], "comparison": comparison}
        | shown(interval, block.level)
        | {"null_mean": null}
    )


def _distance_rows(block: Block, cell: Cell, runs: Sequence[Run]) -> list[dict[str, Any]]:
    """``|end - start| / |start|`` of every part's parameters together, and of the whole backbone."""
    sums = {run.seed: _part_sums(run.kept.weights) for run in runs if len(run.kept.weights)}
    if not sums:
        return []
    rows = []
    for depth, part in enumerate(next(iter(sums.values())).index):
        of_part = {seed: table.loc[part] for seed, table in sums.items() if part in table.index}
        relative: dict[SeedKey, float] = {
            seed: _ratio(row["squared_distance"], row["squared_start"]) for seed, row in of_part.items()
        }
        cosine = [_cosine(row) for row in of_part.values()]
        rows.append(
            block.coordinates
            | {"pretraining_source": cell[0], "data_fraction": cell[1], "part": str(part), "depth": depth}
            | shown(seed_interval(relative, block.level), block.level)
            | {
                "cosine": float(np.mean(cosine)),
                "numbers": int(next(iter(of_part.values()))["numbers"]),
                "trained_numbers": int(next(iter(of_part.values()))["trained_numbers"]),
            }
        )
    return rows


def _part_sums(weights: pd.DataFrame) -> pd.DataFrame:
    """Part -> its sums, bottom first; the whole backbone last."""
    table = weights.assign(trained_numbers=weights["numbers"].where(weights["trained"], 0))
    columns = ["numbers", "trained_numbers", "squared_distance", "squared_start", "squared_end", "product"]
    parts = table.groupby("part", sort=False)[columns].sum()
    whole = table.loc[table["part"] != HEAD, columns].sum().to_frame(BACKBONE).T
    return pd.concat([parts, whole])


def _ratio(distance: float, start: float) -> float:
    return math.sqrt(distance / start) if start > 0 else math.nan


def _cosine(row: pd.Series[float]) -> float:
    norms = math.sqrt(row["squared_start"] * row["squared_end"])
    return float(row["product"] / norms) if norms > 0 else math.nan
