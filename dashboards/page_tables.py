"""Tables of the page: what is the same in every row is said once, what is for files only is left out."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from dashboards.page_text import escaped
from dashboards.style import count, number

TABLE_ROWS = 150
"""Rows of a table on the page; the files beside it hold all."""

_P_COLUMNS = (
    *("p", "p_adjusted", "p_holm", "p_equivalent", "p_not_worse", "p_two_sided", "p_one_sided", "area_p"),
    *("friedman_p", "iman_davenport_p", "p_harmed", "p_beyond", "p_excluded", "p_harmed_alone", "p_beyond_alone"),
)
_FILE_ONLY = frozenset(
    {"se", "df", "v_case", "v_seed", "level", "order", "rank", "cap", "rung", "rarest_label", "inner_low", "inner_high"}
    | {"seed_design", "share_patients", "share_seeds", "share_subset", "share_initialisation", "share_interaction"}
    | {"needed_seeds", "needed_patients", "wording", "reasons", "holds_at_chance"}
)
"""Columns of the files that the page leaves out."""


def rows_text(table: pd.DataFrame) -> str:
    """``Table of 12 rows``."""
    return f"Table of {len(table)} row{'s' if len(table) != 1 else ''}"


def html_table(table: pd.DataFrame, title: str) -> str:
    """The table without what is the same in every row, which is said above it, and without columns for files only.

    Args:
        table: The first ``TABLE_ROWS`` of its rows are shown.
        title: For readers of a screen.
    """
    shown = table.head(TABLE_ROWS).drop(columns=[c for c in table.columns if c in _FILE_ONLY])
    same = {str(c): shown[c].iloc[0] for c in shown if len(shown) > 1 and shown[c].nunique(dropna=False) == 1}
    shown = shown.drop(columns=list(same))
    common = " · ".join(
        f"{_column_title(k)}: {text}" for k, v in same.items() if (text := _value(v, k)) not in ("", "–")
    )
    head = "".join(_heading(str(name), shown[name]) for name in shown.columns)
    columns = [[_cell(value, str(name)) for value in shown[name]] for name in shown.columns]
    body = "".join(f"<tr>{''.join(row)}</tr>" for row in zip(*columns, strict=True))
    more = (
        f"{len(table) - len(shown)} further rows are in the tables beside this page." if len(table) > len(shown) else ""
    )
    return (
        (f'<p class="note">{escaped(common)}</p>' if common else "")
        + f'<div class="scroll" tabindex="0" role="region" aria-label="{escaped(title)}"><table>'
        + f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        + (f'<p class="note">{more}</p>' if more else "")
    )


def _heading(name: str, column: pd.Series[Any]) -> str:
    numeric = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
    return f'<th scope="col"{" class=n" if numeric else ""}>{escaped(_column_title(name))}</th>'


def _column_title(name: str) -> str:
    return name.replace("_", " ")


def _cell(value: object, column: str) -> str:
    is_number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    return f"<td{' class=n' if is_number else ''}>{escaped(_value(value, column))}</td>"


def _value(value: object, column: str) -> str:
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, int | float | np.number):
        return _number(float(value), column)
    return "–" if value is None or value is pd.NA or value is pd.NaT else str(value)


def _number(value: float, column: str) -> str:
    if not math.isfinite(value):
        return "–"
    if column in _P_COLUMNS:
        return "<0.001" if value < 0.001 else number(value, 3)
    if value == round(value) and abs(value) < 1e15:
        return count(value) if abs(value) >= 1 else "0"
    return number(value, 4) if abs(value) < 10 else number(value, 1)
