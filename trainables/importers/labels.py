"""From a user's label cells to label columns: what kind of task it is, its classes, and the values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from search_spaces.exceptions import UserError, unknown
from search_spaces.names import MISSING_CLASS, UNCERTAIN, Column, Kind
from trainables.importers.columns import PLACES, BadCellsError, each_text, required_column
from trainables.importers.options import BlankLabels, ImportOptions, Tell
from trainables.manifest import CLASS_KINDS, label_columns

_FLAGS = {"0": 0.0, "1": 1.0, "-1": float(UNCERTAIN), "false": 0.0, "true": 1.0}
_FLAGS_TEXT = "0, 1, blank (not known) or -1 (uncertain)"
_NEGATIVE_NAMES = frozenset(
    {"no", "none", "negative", "neg", "normal", "healthy", "benign", "control", "absent", "false", "0", "no finding"}
)
_LABEL_FORMS = "one column (--label-column), one with a separator (--label-separator ';') or several (--label-columns)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """Labels of all rows.

    Attributes:
        kind: What one label is.
        names: Labels, or classes in order.
        columns: ``y_<label>`` float32 with 0, 1, NaN, -1, or ``y`` int16 with -1 for unknown; no column for masks.
    """

    kind: Kind
    names: tuple[str, ...]
    columns: pd.DataFrame


def mask_labels(options: ImportOptions, rows: int) -> Labels:
    """Segmentation: the masks are the labels.

    Raises:
        UserError: Blanks were given a meaning.
    """
    _refuse_blank_labels(options, "masks")
    return Labels(
        kind=Kind.SEGMENTATION, names=options.classes or ("foreground",), columns=pd.DataFrame(index=range(rows))
    )


def labels_from_columns(table: pd.DataFrame, options: ImportOptions) -> Labels:
    """Labels from one column of 0/1 per label; with ``kind`` multiclass or ordinal, exactly one 1 per image.

    Raises:
        UserError: A column is missing, a cell is none of 0, 1, blank and -1, or the kind does not fit.
    """
    for column in options.label_columns:
        required_column(table, column, "--label-columns")
    values = {c: _flags(table[c], c) for c in options.label_columns}
    if options.blank_labels is BlankLabels.NEGATIVE:
        values = {c: v.fillna(0.0) for c, v in values.items()}
    if options.kind in CLASS_KINDS:
        return _one_hot_labels(Kind(options.kind), values)
    _only_kind(options, Kind.BINARY if len(options.label_columns) == 1 else Kind.MULTILABEL)
    for column, flags in values.items():
        _refuse_plus_minus_one(flags, column)
    if len(options.label_columns) == 1:
        name = options.label_name or options.label_columns[0]
        return flag_labels(Kind.BINARY, {name: values[options.label_columns[0]]})
    return flag_labels(Kind.MULTILABEL, values)


def labels_from_joined(cells: pd.Series[str], options: ImportOptions) -> Labels:
    """Multilabel from one column that joins the names of the labels present; an empty cell is not known.

    Raises:
        UserError: A name outside ``classes``, another kind was asked for, or blanks were given a meaning.
    """
    _refuse_blank_labels(options, "a column of joined names")
    _only_kind(options, Kind.MULTILABEL)
    parts = cells.map(lambda cell: _parts(cell, str(options.label_separator)))
    found = sorted({name for names in parts for name in names})
    if not found:
        raise UserError("the label column is empty in every row")
    classes = options.classes or tuple(found)
    rows = [i for i, names in enumerate(parts) if not set(names) <= set(classes)]
    if rows:
        strange = sorted(set(found) - set(classes))
        message = f"labels outside --classes: {', '.join(strange)} ({PLACES})"
        raise BadCellsError(message, str(cells.name), rows, ", ".join(classes))
    known = cells.notna()
    flags = {c: parts.map(lambda names, c=c: float(c in names)).where(known) for c in classes}
    return flag_labels(Kind.MULTILABEL, flags)


def labels_from_cells(cells: pd.Series[str], column: str, options: ImportOptions, tell: Tell) -> Labels:
    """Binary, multiclass or ordinal from one value per image; an empty cell is not known.

    Two different values make a binary task, more a multiclass one, unless ``kind`` says otherwise.

    Args:
        cells: Text or None.
        column: Name of the column, for messages and as label name of 0/1 values.
        options: ``kind``, ``classes``, ``positive``, ``label_name``.
        tell: Hears which value was taken as positive.

    Raises:
        UserError: Fewer than two values, more than two in a binary task, a value outside ``classes``, an ordinal task
            whose order is not known, or blanks were given a meaning.
    """
    _refuse_blank_labels(options, "one value per image")
    cells, classes = _named_classes(cells, options)
    found = _ordered(set(cells.dropna()))
    distinct = [f for f in found if f != str(UNCERTAIN)]
    if set(found) == {"1", str(UNCERTAIN)}:
        raise UserError(_plus_minus_one(column))
    if len(distinct) < 2 and not options.classes:
        raise UserError(f"label column {column!r} has only the value {', '.join(found) or '(blank)'}; two are needed")
    kind = options.kind or (Kind.BINARY if len(classes or distinct) == 2 else Kind.MULTICLASS)
    if kind is Kind.BINARY:
        return _binary(cells, column, classes or tuple(distinct), bool(classes), options, tell)
    if kind in CLASS_KINDS:
        return _classes(cells, kind, classes, column, distinct)
    raise UserError(f"--kind {kind} does not fit one label per image; {_LABEL_FORMS}")


def _binary(
    cells: pd.Series[str],
    column: str,
    values: tuple[str, ...],
    chosen: bool,
    options: ImportOptions,
    tell: Tell,
) -> Labels:
    if len(values) != 2:
        raise UserError(
            f"a binary label has two values, column {column!r} has {len(values)}: {', '.join(values[:10])}; "
            "use --kind multiclass, or --label-columns with 0/1 columns"
        )
    _refuse_outside(cells, (*values, str(UNCERTAIN)), column)
    positive = options.positive or _likely_positive(values, chosen)
    if positive not in values:
        raise UserError(unknown("value", positive, values, f"--positive (column {column!r})"))
    negative = next(v for v in values if v != positive)
    plain = {v.lower() for v in values} <= set(_FLAGS)
    name = options.label_name or (column if plain else positive)
    if not plain:
        tell(f"label {name!r}: 1 is {positive!r}, 0 is {negative!r} (--positive to change)")
    coded = {positive: 1.0, negative: 0.0, str(UNCERTAIN): float(UNCERTAIN)}
    return flag_labels(Kind.BINARY, {name: cells.map(coded)})


def _classes(cells: pd.Series[str], kind: Kind, classes: tuple[str, ...], column: str, found: Sequence[str]) -> Labels:
    if kind is Kind.ORDINAL and not classes and not all(_is_whole(v) for v in found):
        raise UserError(f"the order of {', '.join(found[:10])} is not known; give --classes from lowest to highest")
    names = classes or tuple(found)
    _refuse_outside(cells, (*names, str(UNCERTAIN)), column)
    codes = cells.map({name: i for i, name in enumerate(names)}).fillna(MISSING_CLASS).astype(np.int16)
    return Labels(kind=kind, names=names, columns=pd.DataFrame({Column.Y: codes}))


def _named_classes(cells: pd.Series[str], options: ImportOptions) -> tuple[pd.Series[str], tuple[str, ...]]:
    """Cells with whole numbers 0..n-1 replaced by their names, where ``classes`` gives names to numbers."""
    classes = options.classes
    found = {v for v in cells.dropna().unique() if v != str(UNCERTAIN)}
    numbers = {str(i): name for i, name in enumerate(classes)}
    if classes and found and not found & set(classes) and found <= set(numbers):
        cells = cells.map(numbers | {str(UNCERTAIN): str(UNCERTAIN)})
        return cells.astype(object).where(cells.notna(), None), classes
    return cells, classes


def _likely_positive(values: Sequence[str], chosen: bool) -> str:
    """The one that is not called normal, benign, no, 0 ...; the last of two where names do not tell."""
    telling = [v for v in values if v.lower() not in _NEGATIVE_NAMES]
    return telling[0] if len(telling) == 1 and not chosen else values[1]


def _refuse_outside(cells: pd.Series[str], allowed: Sequence[str], column: str) -> None:
    rows = np.flatnonzero((cells.notna() & ~cells.isin(allowed)).to_numpy(dtype=bool))
    if len(rows):
        strange = ", ".join(_ordered(set(cells.iloc[rows]))[:10])
        message = f"values of {column!r} outside the classes {', '.join(allowed[:-1])}: {strange} ({PLACES})"
        raise BadCellsError(message, str(cells.name), rows, ", ".join(allowed[:-1]))


def _flags(cells: pd.Series[str], column: str) -> pd.Series[float]:
    """Text to 0, 1, NaN and -1; also 1.0 and True.

    Raises:
        UserError: Another text.
    """
    values = each_text(cells, lambda text: _FLAGS.get(text.lower().removesuffix(".0"))).astype(float)
    rows = np.flatnonzero((cells.notna() & values.isna()).to_numpy(dtype=bool))
    if len(rows):
        strange = ", ".join(map(repr, _ordered(set(cells.iloc[rows]))[:5]))
        message = (
            f"label column {column!r} has {strange} ({PLACES}); allowed: {_FLAGS_TEXT}. "
            f"For names instead of 0/1 use --label-column {column}"
        )
        raise BadCellsError(message, column, rows, _FLAGS_TEXT)
    return values


def _refuse_plus_minus_one(flags: pd.Series[float], column: str) -> None:
    """-1 means uncertain: a column of 1 and -1 alone was most likely meant as 1 and 0."""
    if set(flags.dropna()) == {1.0, float(UNCERTAIN)} and flags.notna().all():
        raise UserError(_plus_minus_one(column))


def _plus_minus_one(column: str) -> str:
    return f"label column {column!r} has only 1 and -1; -1 means uncertain, write negatives as 0"


def _one_hot_labels(kind: Kind, flags: dict[str, pd.Series[float]]) -> Labels:
    """Classes from one 0/1 column per class; a row of blanks is not known.

    Raises:
        BadCellsError: A row with no 1, several, or an uncertain one.
    """
    table = pd.DataFrame(flags)
    known = table.notna().any(axis="columns")
    wrong = np.flatnonzero(known & ~((table == 1).sum(axis="columns").eq(1) & table.ne(UNCERTAIN).all(axis="columns")))
    if len(wrong):
        message = f"--kind {kind} needs exactly one 1 among {', '.join(flags)}, see {PLACES}"
        first, *others = flags
        raise BadCellsError(message, first, wrong, f"exactly one 1 among {', '.join(flags)}", also=others)
    codes = (table == 1).to_numpy().argmax(axis=1).astype(np.int16)
    return Labels(
        kind=kind, names=tuple(flags), columns=pd.DataFrame({Column.Y: np.where(known, codes, MISSING_CLASS)})
    )


def flag_labels(kind: Kind, flags: dict[str, pd.Series[float]]) -> Labels:
    """Labels from values that are already 0, 1, NaN and -1."""
    names = tuple(flags)
    columns = label_columns(kind, names)
    table = {column: flags[name].astype(np.float32) for column, name in zip(columns, names, strict=True)}
    return Labels(kind=kind, names=names, columns=pd.DataFrame(table))


def _only_kind(options: ImportOptions, kind: Kind) -> None:
    if options.kind not in (None, kind):
        raise UserError(f"--kind {options.kind} does not fit labels given like this, which is {kind}; {_LABEL_FORMS}")


def _refuse_blank_labels(options: ImportOptions, source: str) -> None:
    """Elsewhere than in columns of 0 and 1 a blank is not known, whatever the option says."""
    if options.blank_labels is BlankLabels.NEGATIVE:
        raise UserError(
            "--blank-labels negative applies to columns of 0 and 1 (--label-columns), or to several labels per image "
            f"in an npz file; here the labels are {source}"
        )


def _parts(cell: str | None, separator: str) -> tuple[str, ...]:
    return () if cell is None else tuple(p.strip() for p in cell.split(separator) if p.strip())


def _ordered(values: set[str]) -> list[str]:
    """Whole numbers by value, other texts by alphabet."""
    return sorted(values, key=lambda v: (0, int(v), "") if _is_whole(v) else (1, 0, v))


def _is_whole(value: str) -> bool:
    return value.removeprefix("-").isdigit()
