"""What the search of each cell chose, and the sentences that go with it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from dashboards.evidence import Evidence
from dashboards.planned import CELL_COLUMNS
from dashboards.style import plural
from search_spaces.tuning import Dimension, Tuning

AT_EDGE = 0.05
"""Share of a range (on its own scale) that counts as its edge: beyond it there may be better values."""


def tuning_table(evidence: Evidence) -> pd.DataFrame:
    """One row per tuned cell with a final trial.

    Returns:
        The axes; ``search_trials`` and ``failed`` of its search; ``proposal`` (number of the chosen one); ``chosen``
        (its values, three significant digits); ``validation`` (primary metric of the chosen proposal at its best step,
        mean over search seeds) and ``validation_median`` over all proposals; ``at_edge`` (fields whose value lies in
        the outer 5 % of its range); ``tuned`` (the exact values as JSON). No column if nothing was tuned.
    """
    results = evidence.results
    if "search_id" not in results or not results["search_id"].notna().any():
        return pd.DataFrame()
    tuned = results[results["search_id"].notna()].drop_duplicates([*CELL_COLUMNS, "search_id"])
    return pd.DataFrame([_row(evidence, row) for row in tuned.to_dict("records")])


def _row(evidence: Evidence, final: Mapping[Any, Any]) -> dict[str, Any]:
    searches, failures = evidence.searches, evidence.search_failures
    done = searches[searches["search_id"] == final["search_id"]] if len(searches) else searches
    failed = failures[failures["search_id"] == final["search_id"]] if len(failures) else failures
    mine = done[done["search_number"] == final["search_number"]] if len(done) else done
    values = json.loads(str(final["tuned"]))
    tuning = evidence.study.tuning if evidence.study else None
    return {column: final[column] for column in CELL_COLUMNS} | {
        "search_trials": len(done) + len(failed),
        "failed": len(failed),
        "proposal": int(final["search_number"]),
        "chosen": ", ".join(f"{name} {_short(value)}" for name, value in values.items()),
        "validation": float(mine["best_value"].mean()) if len(mine) else math.nan,
        "validation_median": float(done["best_value"].median()) if len(done) else math.nan,
        "at_edge": ", ".join(_at_edge(tuning, values)),
        "tuned": str(final["tuned"]),
    }


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return f"[{', '.join(map(_short, value))}]" if isinstance(value, list) else str(value)


def _at_edge(tuning: Tuning | None, values: Mapping[str, Any]) -> list[str]:
    space = tuning.space if tuning else {}
    return [name for name, value in values.items() if name in space and _is_at_edge(space[name], value)]


def _is_at_edge(dimension: Dimension, value: float) -> bool:
    if dimension.choice is not None:
        return False
    low, high = dimension.ends
    if dimension.log is not None:
        low, high, value = math.log(low), math.log(high), math.log(value)
    place = (value - low) / (high - low)
    return not AT_EDGE <= place <= 1 - AT_EDGE


def tuning_intro(tuning: Tuning | None, table: pd.DataFrame) -> str:
    """What was searched, with which budget."""
    if tuning is None:
        return "The values of these cells were chosen by a search on validation."
    seeds = plural(len(tuning.search_seed), "search seed")
    return (
        f"Every cell had the same budget: {plural(tuning.trials, 'proposal')} ({tuning.sampler}) over "
        f"{', '.join(tuning.space)}, each trained with {seeds} that no final trial has, and compared by the best "
        f"validation value alone. {plural(len(table), 'cell')} below; no evaluation set was scored in the search."
    )


def tuning_caveats(table: pd.DataFrame) -> list[str]:
    """What tuned arms do to the reading of every interval; empty if nothing was tuned."""
    if table.empty:
        return []
    lines = [
        "Each cell's hyper-parameters were chosen once and are shared by its final trials: the spread over seeds, and "
        "so every interval, leaves out what another search would have chosen."
    ]
    edges = table[table["at_edge"] != ""]
    if len(edges):
        fields = sorted({name for names in edges["at_edge"] for name in names.split(", ")})
        lines.append(
            f"In {plural(len(edges), 'cell')} the chosen {', '.join(fields)} lies at the edge of its range; a wider "
            "range might have found better values."
        )
    return lines
