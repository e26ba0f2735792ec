"""The labels of a column map."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pandas as pd

from search_spaces.names import UNCERTAIN, Column, Kind
from trainables.importers.column_map import ColumnMap
from trainables.importers.columns import PLACES, BadCellsError
from trainables.importers.labels import Labels, flag_labels, labels_from_columns, mask_labels
from trainables.importers.map_parts import LabelSpec
from trainables.importers.map_tables import column_of, replaced
from trainables.importers.options import BlankLabels, ImportOptions
from trainables.manifest import CLASS_KINDS

_FLOAT_ZERO = re.compile(r"\.0+$")


def map_labels(column_map: ColumnMap, rows: pd.DataFrame) -> Labels:
    """The labels of all rows.

    Raises:
        UserError: A column is absent.
        BadCellsError: Cells that are no labels.
    """
    spec, kind = column_map.labels, column_map.kind
    if kind is Kind.SEGMENTATION:
        return mask_labels(ImportOptions(name=column_map.name, classes=spec.names), len(rows))
    if spec.flags:
        return _from_flags(spec, kind, rows)
    if kind is Kind.MULTILABEL:
        return _from_items(spec, rows)
    if kind in CLASS_KINDS:
        return _from_classes(spec, kind, rows)
    return _from_positive(spec, rows)


def _from_flags(spec: LabelSpec, kind: Kind, rows: pd.DataFrame) -> Labels:
    cells: dict[str, pd.Series[Any]] = {}
    known = {str(k): None if v is None else str(v) for k, v in spec.values.items()}
    for label, column in spec.flags.items():
        flags = column_of(rows, column, f"labels, flag of {label!r}")
        plain = flags.map(lambda v: _FLOAT_ZERO.sub("", v) if isinstance(v, str) else None)
        cells[label] = replaced(plain.rename(column), known, "keep")
    options = ImportOptions(
        name="map", label_columns=tuple(spec.flags), kind=kind, blank_labels=BlankLabels(spec.blank)
    )
    try:
        return labels_from_columns(pd.DataFrame(cells), options)
    except BadCellsError as error:
        error.column = spec.flags[error.column]
        error.also = tuple(spec.flags[label] for label in error.also)
        raise


def _from_classes(spec: LabelSpec, kind: Kind, rows: pd.DataFrame) -> Labels:
    codes = {cell: str(i) for i, cells in enumerate(spec.classes.values()) for cell in cells}
    cells = replaced(column_of(rows, str(spec.column), "labels"), codes, "refuse")
    numbers = pd.to_numeric(cells, errors="coerce").fillna(UNCERTAIN).astype(np.int16)
    return Labels(kind=kind, names=tuple(spec.classes), columns=pd.DataFrame({Column.Y: numbers}))


def _from_positive(spec: LabelSpec, rows: pd.DataFrame) -> Labels:
    (name, positive), *_ = spec.positive.items()
    known = dict.fromkeys(positive, "1") | dict.fromkeys(spec.negative, "0")
    cells = replaced(column_of(rows, str(spec.column), "labels"), known, "refuse")
    return flag_labels(Kind.BINARY, {name: pd.to_numeric(cells, errors="coerce")})


def _from_items(spec: LabelSpec, rows: pd.DataFrame) -> Labels:
    """Several labels in one cell; a blank cell is not known, and an item that no label names is refused."""
    cells = column_of(rows, str(spec.column), "labels")
    codes, distinct = pd.factorize(cells)  # cells repeat: a million rows have few different ones
    found = [set(re.findall(str(spec.item), str(cell))) for cell in distinct]
    meant = {item for items in spec.items.values() for item in items} | set(spec.none)
    strange = [bool(items - meant) for items in found]
    if any(strange) and spec.none != ("*",):
        rows_of = np.flatnonzero((codes >= 0) & np.array([*strange, False])[codes])
        odd = ", ".join(sorted(set().union(*found) - meant)[:10])
        message = f"column {spec.column!r} has items that no label names: {odd} ({PLACES})"
        raise BadCellsError(message, str(spec.column), rows_of, ", ".join(sorted(meant)))
    flags: dict[str, pd.Series[float]] = {}
    for label, items in spec.items.items():
        values = np.array([*(float(bool(f & set(items))) for f in found), np.nan])
        flags[label] = pd.Series(values[codes], index=cells.index)
    return flag_labels(Kind.MULTILABEL, flags)
