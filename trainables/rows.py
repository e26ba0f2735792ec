"""Choosing and grouping the rows of a manifest's table by its columns. Equality only; nothing is evaluated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from search_spaces.exceptions import UserError, unknown
from search_spaces.names import MISSING_CLASS, Column

UNKNOWN = "unknown"
"""Text of a missing value in groups and in ``where``."""

AGE_BANDS: tuple[tuple[float, str], ...] = ((40.0, "0-39"), (60.0, "40-59"), (80.0, "60-79"), (float("inf"), "80+"))
"""Upper limit (years, excluded) and name of each age band."""

CLASS_KEYS = ("label", "class", Column.Y)
"""Names under which ``where`` may speak of the class of a multiclass or ordinal manifest."""

_STANDARD_GROUPS = (Column.SEX, Column.AGE_BAND, Column.SITE)
_NOT_SELECTABLE = (Column.PATH, Column.FRAME, Column.WIDTH, Column.HEIGHT, Column.MASK)


def age_band(age_years: float | None) -> str:
    """``0-39``, ``40-59``, ``60-79`` or ``80+``; ``unknown`` if the age is missing or negative."""
    if age_years is None or pd.isna(age_years) or age_years < 0:
        return UNKNOWN
    return next(band for limit, band in AGE_BANDS if age_years < limit)


def group_names(table: pd.DataFrame) -> tuple[str, ...]:
    """Groups that this table can be split by, without the ``g_`` prefix: sex, age_band, site, then its own."""
    standard = [(Column.SEX, Column.SEX), (Column.AGE_BAND, Column.AGE_YEARS), (Column.SITE, Column.SITE)]
    present = [group for group, column in standard if column in table and table[column].notna().any()]
    return (*present, *_own_names(table))


def group_column(table: pd.DataFrame, name: str) -> pd.Series[str]:
    """The group of every row, as text, missing values as ``unknown``.

    ``sex``, ``age_band`` and ``site`` are groups of every manifest: all rows are ``unknown`` where the table has no
    such column.

    Args:
        table: A manifest's table.
        name: ``sex``, ``age_band``, ``site`` or a group column, with or without ``g_``.

    Raises:
        UserError: No such group column.
    """
    column = _group_source(table, name)
    if column is None:
        return pd.Series(UNKNOWN, index=table.index, name=name, dtype="str")
    if name == Column.AGE_BAND:
        return _as_text(table[column].map(age_band)).rename(name)
    return _as_text(table[column]).rename(name)


def _group_source(table: pd.DataFrame, name: str) -> str | None:
    """The table's column behind a group; None if a standard group is not recorded."""
    if name in _STANDARD_GROUPS:
        column = Column.AGE_YEARS if name == Column.AGE_BAND else name
        return column if column in table else None
    for candidate in (name, f"{Column.GROUP_PREFIX}{name}"):
        if candidate.startswith(Column.GROUP_PREFIX) and candidate in table:
            return candidate
    raise UserError(unknown("group", name, {*_STANDARD_GROUPS, *group_names(table)}))


def where_mask(table: pd.DataFrame, where: Mapping[str, Any], labels: Sequence[str] = ()) -> npt.NDArray[np.bool_]:
    """Which rows have the wanted values in every named column.

    Args:
        table: A manifest's table.
        where: Column -> value or list of values. Columns are those of the table (``g_`` may be left out),
            ``age_band``, a label's name (its value: 0, 1 or -1), or ``label`` (``class``, ``y``) for the class of a
            multiclass manifest. A missing value is written ``unknown``.
        labels: Names of the classes behind column ``y``.

    Returns:
        One bool per row, shape (rows,).

    Raises:
        UserError: An unknown column, an empty list, or a value that no row has.
    """
    chosen = np.ones(len(table), dtype=bool)
    for name, wanted in where.items():
        values = _selectable(table, name, labels)
        asked = {value_text(v): v for v in (wanted if isinstance(wanted, list | tuple | set) else [wanted])}
        if not asked:
            raise UserError(f"where.{name} is an empty list; name at least one value, such as {_some(values)}")
        present = set(values.unique())
        for text, value in asked.items():
            if text not in present:
                raise UserError(unknown("value", text, present, f"where.{name}") + _quote_hint(value))
        chosen &= values.isin(list(asked)).to_numpy(dtype=bool)
    return chosen


def value_text(value: Any) -> str:
    """One text per value, so that 1, 1.0 and "1" are the same, and true is "true"."""
    if value is None or (isinstance(value, float) and np.isnan(value)) or value is pd.NA:
        return UNKNOWN
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value).strip()


def _quote_hint(value: Any) -> str:
    """What to do where a word became a truth value on its way through YAML; empty for other values."""
    if not isinstance(value, bool | np.bool_):
        return ""
    return " YAML reads yes, no, on and off as true and false: put such a word in quotes."


def _some(values: pd.Series[str]) -> str:
    return ", ".join(sorted(values.unique())[:3])


def _selectable(table: pd.DataFrame, name: str, labels: Sequence[str]) -> pd.Series[str]:
    """The column that ``where`` means, as text."""
    if name in CLASS_KEYS and name not in _own_names(table) and Column.Y in table:
        classes = dict(enumerate(labels)) | {MISSING_CLASS: UNKNOWN}
        return table[Column.Y].map(classes).astype("str")
    if name == Column.AGE_BAND and Column.AGE_YEARS in table:
        return group_column(table, name)
    for column in (name, f"{Column.GROUP_PREFIX}{name}", f"{Column.LABEL_PREFIX}{name}"):
        if column in table and column not in _NOT_SELECTABLE:
            return _as_text(table[column])
    raise UserError(unknown("column", name, _selectable_names(table), "where"))


def _own_names(table: pd.DataFrame) -> list[str]:
    return [str(c).removeprefix(Column.GROUP_PREFIX) for c in table if str(c).startswith(Column.GROUP_PREFIX)]


def _selectable_names(table: pd.DataFrame) -> Iterable[str]:
    names = {str(c) for c in table if c not in _NOT_SELECTABLE and c != Column.Y}
    names = {n.removeprefix(Column.GROUP_PREFIX).removeprefix(Column.LABEL_PREFIX) for n in names}
    return names | ({"label"} if Column.Y in table else set()) | ({Column.AGE_BAND} & set(group_names(table)))


def texts(values: pd.Series[Any], missing: str | None = UNKNOWN) -> npt.NDArray[np.object_]:
    """``value_text`` of every row, shape (rows,); each different value is converted once."""
    codes, different = pd.factorize(values)
    is_text = isinstance(values.dtype, pd.StringDtype)
    known = [v.strip() for v in different.tolist()] if is_text else [value_text(v) for v in different]
    return np.array([*known, missing], dtype=object)[codes]  # a missing value has code -1: the last one


def _as_text(values: pd.Series[Any]) -> pd.Series[str]:
    return pd.Series(texts(values), index=values.index, name=values.name, dtype="str")
