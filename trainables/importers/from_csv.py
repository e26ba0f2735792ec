"""Import of a table (CSV or TSV) that names images and labels."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from search_spaces.exceptions import DataError, UserError
from search_spaces.names import Column, Kind
from trainables.importers.assemble import Found, assemble, split_of
from trainables.importers.columns import (
    PLACES,
    USUAL_NAMES,
    BadCellsError,
    collecting,
    each_text,
    find_column,
    once,
    places_of,
    refuse_absent,
    required_column,
    usual_column,
)
from trainables.importers.image_paths import image_paths, posix
from trainables.importers.labels import Labels, labels_from_cells, labels_from_columns, labels_from_joined, mask_labels
from trainables.importers.options import NO_COLUMN, BlankLabels, ImportOptions, Tell, silent
from trainables.importers.quarantine import repeated_ids
from trainables.importers.table_text import TableText, read_table
from trainables.manifest import Manifest, checked_root
from trainables.row_problems import (
    BLANK_AGES_NOTE,
    OLDEST_YEARS,
    SHOWN_PROBLEMS,
    RowProblem,
    blank_ages,
    impossible_ages,
)

if TYPE_CHECKING:
    from trainables.places import Place

_SEX = {"f": "F", "female": "F", "woman": "F", "m": "M", "male": "M", "man": "M"}
_SEX_UNKNOWN = frozenset({"unknown", "u", "o", "other", "x", "-", "?"})
_SEX_ALLOWED = "F, M, female, male, unknown or blank"
_DICOM_AGE = re.compile(r"(\d{1,3})([YMWD])")
_YEARS = {"Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}
_ANY_LABEL = "\0label"
_TAKEN_GROUPS = frozenset({Column.SEX, Column.AGE_BAND, Column.SITE, Column.SPLIT, Column.PATIENT_ID, "label"})


def import_csv(path: Place, options: ImportOptions, tell: Tell = silent) -> Manifest:
    """The manifest of a table with one row per image.

    Args:
        path: CSV or TSV file, first line the column names.
        options: Which columns mean what; those not given are looked for under their usual names.
        tell: Hears what was detected and decided.

    Raises:
        UserError: The table or the options do not fit; says what and where, and which rows would not do either.
        DataError: Image files are missing.
    """
    tell = once(tell)
    read = read_table(path, tell)
    try:
        refuse_absent(read.cells, _named_columns(options))
    except UserError as error:
        raise UserError(f"{error}{_rows_beside(read, path, options)}") from None
    return _of_table(read, path, options, tell)


def _rows_beside(read: TableText, path: Place, options: ImportOptions) -> str:
    """What is wrong with rows of a table that lacks columns, as far as it can be seen without these; else empty."""
    there = set(read.cells.columns)
    roles = [role for role in (*USUAL_NAMES, "frame") if role not in ("image", "label")]
    given = {f"{role}_column": getattr(options, f"{role}_column") for role in roles}
    absent: dict[str, Any] = {
        option: None if option == "frame_column" else NO_COLUMN
        for option, name in given.items()
        if name not in (None, NO_COLUMN, *there)
    }
    cells, without = read.cells, options
    labels = tuple(name for name in options.label_columns if name in there)
    if options.label_column not in (None, *there) or (options.label_columns and not labels):
        cells = cells.assign(**{_ANY_LABEL: [str(n % 2) for n in range(len(cells))]})
        own: dict[str, Any] = {"classes": (), "positive": None, "label_separator": None, "kind": None}
        own["blank_labels"] = BlankLabels.UNKNOWN
        without = replace(options, label_column=_ANY_LABEL, label_columns=(), **own)
    without = replace(
        without,
        label_columns=labels,
        group_columns=tuple(name for name in options.group_columns if name in there),
        quarantine=None,
        **absent,
    )
    try:
        _of_table(replace(read, cells=cells), path, without, silent)
    except DataError as error:
        return f"\nWithout them: {error}"
    except UserError:
        pass
    return ""


def _of_table(read: TableText, path: Place, options: ImportOptions, tell: Tell) -> Manifest:
    """The manifest of a table that has all columns that the user named."""
    table, where = read.cells, pd.Series([f"line {line}" for line in read.lines], dtype=object)
    image = find_column(table, "image", options.image_column, tell)
    if image is None:
        raise UserError(
            f"no image column found in {path}; give --image-column, one of: {', '.join(map(str, table.columns))}"
        )
    problems: list[RowProblem] = []
    notes: list[str] = []
    left_blank: list[RowProblem] = []

    def note(line: str) -> None:
        notes.append(line)
        tell(line)

    root = checked_root(options.image_root or path.parent)
    found_paths = collecting(lambda t: image_paths(t[image], root, options.unopened, note), table, problems, where)
    rows, root = found_paths.columns, found_paths.root
    problems += found_paths.problems
    columns: dict[str, pd.Series[Any]] = {**rows, **_texts(table, where, options, tell, note, problems, left_blank)}
    if options.frame_column:
        columns |= collecting(lambda t: _frames(t[options.frame_column], rows[Column.PATH]), table, problems, where)
    for name in options.group_columns:
        columns[f"{Column.GROUP_PREFIX}{_group_name(name)}"] = table[required_column(table, name, "--group-columns")]
    if (ids := _id_column(table, image, options)) is not None:
        problems += repeated_ids(pd.DataFrame(columns), table[ids], ids)
    has_mask = Column.MASK in columns
    labels = collecting(lambda t: _labels(t, options, has_mask=has_mask, tell=tell), table, problems, where)
    position = list(table.columns).index(image)
    found = Found(
        rows=pd.DataFrame(columns),
        labels=labels,
        root=root,
        importer="csv",
        where=where,
        problems=tuple(problems),
        notes=tuple(dict.fromkeys(notes)),
        left_blank=tuple(left_blank),
        misfits=tuple(m.aside(f"line {m.line}", position, k) for k, m in enumerate(read.misfits)),
    )
    return assemble(found, options, tell)


def _named_columns(options: ImportOptions) -> dict[str, tuple[str, ...]]:
    """Option -> the columns that the user named."""
    roles = {role: getattr(options, f"{role}_column") for role in (*USUAL_NAMES, "frame")}
    single = {f"--{role}-column": (name,) for role, name in roles.items() if name not in (None, NO_COLUMN)}
    return {**single, "--label-columns": options.label_columns, "--group-columns": options.group_columns}


def _id_column(table: pd.DataFrame, image: str, options: ImportOptions) -> str | None:
    """A column of image ids beside that of the paths, unless the user gave it another meaning."""
    named = {name for names in _named_columns(options).values() for name in names}
    others = table.drop(columns=[name for name in {image, *named} if name in table])
    return usual_column(others, (Column.IMAGE_ID,))


def _texts(
    table: pd.DataFrame,
    where: pd.Series[str],
    options: ImportOptions,
    tell: Tell,
    note: Tell,
    problems: list[RowProblem],
    left_blank: list[RowProblem],
) -> dict[str, pd.Series[Any]]:
    """Manifest column -> cells, for every column of the manifest that the table has; fills the lists."""
    roles = {
        Column.PATIENT_ID: ("patient", NO_COLUMN if options.patient_pattern else options.patient_column),
        Column.STUDY_ID: ("study", options.study_column),
        Column.SITE: ("site", options.site_column),
        Column.SPLIT: ("split", options.split_column),
        Column.MASK: ("mask", options.mask_column),
        Column.SEX: ("sex", options.sex_column),
        Column.AGE_YEARS: ("age", options.age_column),
    }
    columns: dict[str, pd.Series[Any]] = {}
    for column, (role, given) in roles.items():
        source = find_column(table, role, given, tell)
        if source is not None:
            read = partial(_role_cells, column=column, source=source, tell=note)
            columns[column] = collecting(read, table, problems, where)
        if source is not None and column == Column.AGE_YEARS:
            left_blank += ages_left_blank(table[source], source)
            tell_blank_ages(left_blank, where, options, note)
    return columns


def _role_cells(table: pd.DataFrame, column: str, source: str, tell: Tell) -> pd.Series[Any]:
    return column_cells(table[source], column, source, tell)


def column_cells(cells: pd.Series[str], column: str, source: str, tell: Tell) -> pd.Series[Any]:
    """The cells of one of the manifest's columns, as it holds them.

    Args:
        cells: Text or None.
        column: The manifest's column.
        source: Name of the user's column, for messages.
        tell: Hears of what was left blank.

    Raises:
        BadCellsError: A cell is none that the column may hold.
    """
    if column == Column.SPLIT:
        return split_of(cells, f"split column {source!r}", source)
    if column == Column.SEX:
        return _sex(cells, source, tell)
    if column == Column.AGE_YEARS:
        return _age_years(cells, source)
    if column == Column.MASK:
        return cells.map(lambda v: None if v is None else posix(v))
    return cells


def _labels(table: pd.DataFrame, options: ImportOptions, has_mask: bool, tell: Tell) -> Labels:
    if options.kind is Kind.SEGMENTATION:
        if not has_mask:
            raise UserError("a segmentation task needs masks; give --mask-column")
        return mask_labels(options, len(table))
    if options.label_columns:
        return labels_from_columns(table, options)
    column = find_column(table, "label", options.label_column, tell)
    if column is None and has_mask and options.kind is None:
        tell("kind: segmentation (masks and no label column)")
        return mask_labels(options, len(table))
    if column is None:
        raise UserError(
            "no label column found; give --label-column or --label-columns, of: " + ", ".join(map(str, table.columns))
        )
    if options.label_separator:
        return labels_from_joined(table[column], options)
    _hint_at_separator(table[column], column, options, tell)
    return labels_from_cells(table[column], column, options, tell)


def _hint_at_separator(cells: pd.Series[str], column: str, options: ImportOptions, tell: Tell) -> None:
    joined = [sep for sep in (";", "|") if cells.dropna().str.contains(sep, regex=False).any()]
    if joined and not options.classes:
        tell(f"cells of {column!r} contain {joined[0]!r}: for several labels per image give --label-separator")


def _frames(cells: pd.Series[str], paths: pd.Series[str]) -> dict[str, pd.Series[Any]]:
    """``frame`` of every row, and an ``image_id`` that tells the frames of a file apart.

    Raises:
        BadCellsError: A cell is no whole number from 0.
    """
    frames = frame_numbers(cells)
    return {Column.FRAME: frames, Column.IMAGE_ID: paths + "#" + frames.astype(str)}


def frame_numbers(cells: pd.Series[str]) -> pd.Series[Any]:
    """Frames as whole numbers.

    Raises:
        BadCellsError: A cell is no whole number from 0.
    """
    numbers = pd.to_numeric(cells, errors="coerce")
    rows = np.flatnonzero(numbers.isna() | (numbers < 0) | (numbers % 1 != 0))
    if len(rows):
        column = str(cells.name)
        message = f"frame column {column!r} has other than whole numbers from 0 ({PLACES})"
        raise BadCellsError(message, column, rows, "whole numbers from 0", stand_in="0")
    return numbers.astype("Int64")


def _sex(cells: pd.Series[str], column: str, tell: Tell) -> pd.Series[str]:
    plain = each_text(cells, str.lower)
    sex = each_text(plain, _SEX.get)
    rows = np.flatnonzero((plain.notna() & sex.isna() & ~plain.isin(_SEX_UNKNOWN)).to_numpy(dtype=bool))
    if len(rows):
        strange = sorted(set(cells.iloc[rows]))[:5]
        message = (
            f"sex column {column!r} has {', '.join(map(repr, strange))} ({PLACES}); "
            f"allowed: {_SEX_ALLOWED}. For codes use --sex-column none and --group-columns {column}"
        )
        raise BadCellsError(message, column, rows, _SEX_ALLOWED)
    if unknown_sex := int((plain.isin(_SEX_UNKNOWN)).sum()):
        tell(f"sex: {unknown_sex} cells other than F and M are left blank")
    return sex.astype(object).where(sex.notna(), None)


def _age_years(cells: pd.Series[str], column: str) -> pd.Series[float]:
    """Years as numbers; also DICOM ages (``063Y``, ``011M``); ages no human reaches are left blank."""
    years = each_text(cells, _years).astype(float)
    rows = np.flatnonzero((cells.notna() & years.isna()).to_numpy(dtype=bool))
    if len(rows):
        strange = sorted(set(cells.iloc[rows]))[:5]
        message = (
            f"age column {column!r} has {', '.join(map(repr, strange))} ({PLACES}); "
            f"years expected, such as 63 or 063Y. For bands use --age-column none and --group-columns {column}"
        )
        raise BadCellsError(message, column, rows, "years, such as 63 or 063Y")
    years.iloc[impossible_ages(years)] = np.nan
    return years.astype(np.float32)


def tell_blank_ages(found: Sequence[RowProblem], where: pd.Series[Any], options: ImportOptions, tell: Tell) -> None:
    """Say how many ages are left blank and where: the first ``SHOWN_PROBLEMS``, or all if the user asked for all."""
    if not found:
        return
    most = None if options.all_problems else SHOWN_PROBLEMS
    rows = [p.row for p in found]
    more = "" if most is None or len(rows) <= most else "; --all names all, --quarantine FILE lists all of them"
    tell(
        f"{BLANK_AGES_NOTE} {len(rows)} ages outside 0 to {OLDEST_YEARS:g} years are left blank "
        f"({places_of(where, rows, most)}){more}"
    )


def ages_left_blank(cells: pd.Series[str], source: str) -> list[RowProblem]:
    """The rows whose age ``column_cells`` leaves blank because it is impossible.

    Args:
        cells: Text or None.
        source: Name of the user's column.
    """
    return blank_ages(each_text(cells, _years).astype(float), cells, source)


def _years(cell: str) -> float:
    if dicom := _DICOM_AGE.fullmatch(cell.upper()):
        return int(dicom.group(1)) * _YEARS[dicom.group(2)]
    try:
        return float(cell)
    except ValueError:
        return float("nan")


def _group_name(column: str) -> str:
    if column in _TAKEN_GROUPS:
        raise UserError(
            f"--group-columns: {column!r} is a name with its own meaning; use --{column.removesuffix('_id')}-column, "
            "or rename the column"
        )
    return column.removeprefix(Column.GROUP_PREFIX)
