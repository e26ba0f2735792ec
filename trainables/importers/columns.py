"""Reading a user's table and finding its columns. Every cell is text; blanks are None."""

from __future__ import annotations

import csv
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pandas as pd

from search_spaces.exceptions import UserError, unknown
from trainables.importers.options import NO_COLUMN, Tell
from trainables.places import is_file, is_remote, os_errors
from trainables.row_problems import Reason, RowProblem

if TYPE_CHECKING:
    from trainables.places import Place

BLANKS = ("", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "<NA>")
"""Cells that hold nothing."""

USUAL_NAMES: Mapping[str, tuple[str, ...]] = {
    "image": ("image", "image_path", "img", "path", "filepath", "file_path", "filename", "file_name", "file",
              "image_index", "image_name", "image_file", "image_id"),
    "label": ("label", "labels", "class", "diagnosis", "dx", "target", "finding_labels", "findings", "finding"),
    "patient": ("patient_id", "patient", "patientid", "subject_id", "subject", "participant_id", "case_id"),
    "study": ("study_id", "study", "exam_id", "study_instance_uid", "accession_number"),
    "site": ("site", "hospital", "institution", "center", "centre", "site_id"),
    "split": ("split", "subset", "partition", "fold_name"),
    "sex": ("sex", "gender", "patient_sex", "patient_gender"),
    "age": ("age", "age_years", "patient_age", "age_approx", "age_at_diagnosis"),
    "mask": ("mask", "mask_path", "mask_file", "segmentation"),
}  # fmt: skip
"""Usual column names of each role, the most telling first; case, spaces and underscores do not matter."""


class BadCellsError(UserError):
    """Cells of one column that are not what the column must hold.

    Attributes:
        column: The column.
        rows: Positions of the rows.
        allowed: What a cell may hold.
        stand_in: What to read in their place to go on, until the rows are set aside.
    """

    def __init__(
        self, message: str, column: str, rows: np.ndarray | list[int], allowed: str, stand_in: str | None = None
    ) -> None:
        super().__init__(message)
        self.column = column
        self.rows = [int(row) for row in rows]
        self.allowed = allowed
        self.stand_in = stand_in


T = TypeVar("T")
_MISREAD_SHARE = 0.5
"""With more bad cells than this among those filled, the column is not what it was taken for."""


def collecting(read: Callable[[pd.DataFrame], T], table: pd.DataFrame, problems: list[RowProblem]) -> T:
    """What ``read`` makes of the table without the cells that it refuses; those become problems of their rows.

    Raises:
        UserError: What ``read`` raises other than ``BadCellsError``, or a column is bad throughout.
    """
    while True:
        try:
            return read(table)
        except BadCellsError as error:
            cells = table[error.column].astype(object)
            refused = cells.iloc[error.rows]
            filled = max(int(cells.notna().sum()), 1)
            if len(error.rows) > _MISREAD_SHARE * filled or refused.map(lambda v, e=error: v == e.stand_in).all():
                raise
            problems += [
                RowProblem(
                    row=row,
                    reason=Reason.VALUE,
                    detail=f"column {error.column!r} has {'a blank' if cell is None else repr(cell)}; "
                    f"allowed: {error.allowed}",
                    advice=str(error),
                )
                for row, cell in zip(error.rows, refused, strict=True)
            ]
            cells.iloc[error.rows] = error.stand_in
            table = table.assign(**{error.column: cells})


def once(tell: Tell) -> Tell:
    """A ``Tell`` that says each line once."""
    said: set[str] = set()

    def say(line: str) -> None:
        if line not in said:
            said.add(line)
            tell(line)

    return say


def refuse_absent(table: pd.DataFrame, wanted: Mapping[str, Sequence[str]]) -> None:
    """Nothing, if the table has all columns that were named.

    Args:
        table: The user's table.
        wanted: Option -> the columns it names.

    Raises:
        UserError: Columns are absent; says all of them at once.
    """
    known = [str(c) for c in table.columns]
    asked = [(flag, name) for flag, names in wanted.items() for name in names]
    absent = [unknown("column", name, known, flag) for flag, name in asked if name not in table]
    if len(absent) == 1:
        raise UserError(absent[0])
    if absent:
        raise UserError(f"{len(absent)} columns are absent:\n  " + "\n  ".join(absent))


_FLOATED_INTEGER = re.compile(r"-?\d+\.0+")


def read_table(
    path: Place, tell: Tell, header: Sequence[str] | None = None, separator: str | None = None
) -> pd.DataFrame:
    """A CSV or TSV file, packed or not, as text; blanks are None, spaces around cells are removed.

    Args:
        path: The file.
        tell: Hears of an unusual encoding.
        header: Names of the columns of a file that has none.
        separator: Between cells; the most frequent of comma, semicolon and tab in the first line if not given.

    Raises:
        UserError: The file is missing, empty, not text, or its rows are of different lengths.
    """
    if not is_file(path):
        raise UserError(f"table {path} does not exist" if not path.exists() else f"table {path} is no file")
    for encoding in ("utf-8-sig", "cp1252"):
        try:
            table = _read(path, encoding, header, separator)
        except UnicodeDecodeError:
            tell(f"{path.name} is not UTF-8; read as Windows-1252")
            continue
        except (pd.errors.EmptyDataError, pd.errors.ParserError, csv.Error, OSError, EOFError, zlib.error) as error:
            raise UserError(f"table {path} cannot be read: {error}") from error
        if table.empty:
            raise UserError(f"table {path} has no rows")
        return table
    raise UserError(f"table {path} is neither UTF-8 nor Windows-1252 text")


def _read(path: Place, encoding: str, header: Sequence[str] | None, separator: str | None) -> pd.DataFrame:
    if separator is None:
        with os_errors(path), _text(path) as stream:
            first = pd.read_csv(
                stream, sep="\0", nrows=1, header=None, dtype=str, encoding=encoding, quoting=csv.QUOTE_NONE
            )
        separator = max(",;\t", key=str(first.iat[0, 0]).count)
    with os_errors(path), _text(path) as stream:
        table = pd.read_csv(
            stream,
            sep=separator,
            dtype=str,
            encoding=encoding,
            keep_default_na=False,
            skipinitialspace=True,
            names=list(header) if header else None,
            header=None if header else 0,
        )
    if isinstance(table.index, pd.MultiIndex) or not table.index.equals(pd.RangeIndex(len(table))):
        raise csv.Error("its rows have more cells than its first line has names")
    return pd.DataFrame({str(c).strip(): cleaned(table[c]) for c in table.columns})


def _text(path: Place) -> AbstractContextManager[Any]:
    """What pandas reads: the path itself, whose suffix tells how it is packed, or a stream of a remote file."""
    if not is_remote(path):
        return nullcontext(str(path))
    import fsspec  # type: ignore[import-untyped]

    stream: AbstractContextManager[Any] = fsspec.open(str(path), "rb", compression="infer")
    return stream


def cleaned(values: pd.Series[str]) -> pd.Series[str]:
    """Stripped text, blanks None; whole numbers that became floats (``3.0`` in all cells) are whole again."""
    text = values.astype("str").str.strip()
    text = text.mask(text.isin(BLANKS))
    present = text.dropna()
    if len(present) and present.str.fullmatch(_FLOATED_INTEGER).all():
        text = text.str.replace(r"\.0+$", "", regex=True)
    return text.astype(object).where(text.notna(), None)


def each_text(cells: pd.Series[str], convert: Callable[[str], Any]) -> pd.Series[Any]:
    """``convert`` of every cell, called once per different text; blanks stay None. Tables have few different texts."""
    codes, different = pd.factorize(cells)
    converted = np.empty(len(different) + 1, dtype=object)
    converted[:-1] = [convert(text) for text in different]
    return pd.Series(converted[codes], index=cells.index, name=cells.name, dtype=object)  # a blank has code -1


def find_column(table: pd.DataFrame, role: str, given: str | None, tell: Tell) -> str | None:
    """The column of a role: the one given, else the first of its usual names.

    Args:
        table: The user's table.
        role: Key of ``USUAL_NAMES``.
        given: What the user named; ``none`` for no column.
        tell: Hears which column was detected.

    Raises:
        UserError: The column given does not exist.
    """
    if given == NO_COLUMN and NO_COLUMN not in table:
        return None
    if given is not None:
        return required_column(table, given, f"--{role}-column")
    found = usual_column(table, USUAL_NAMES[role])
    if found is not None:
        tell(f"{role}: column {found!r} (detected; --{role}-column NAME or none to change)")
    return found


def usual_column(table: pd.DataFrame, names: Sequence[str]) -> str | None:
    """The table's column of the first of these names that it has; case, spaces and underscores do not matter."""
    by_plain_name = {_plain(c): c for c in reversed([str(c) for c in table.columns])}
    return next((by_plain_name[_plain(n)] for n in names if _plain(n) in by_plain_name), None)


def required_column(table: pd.DataFrame, name: str, flag: str) -> str:
    """``name`` if the table has it.

    Raises:
        UserError: It has not; lists what it has.
    """
    if name not in table:
        raise UserError(unknown("column", name, [str(c) for c in table.columns], flag))
    return name


def lines_of(rows: np.ndarray | list[int], most: int = 3) -> str:
    """Where rows stand in the user's file: ``line 7``, ``lines 7, 9, 12, ... (40 in all)``."""
    rows = [int(r) for r in rows]
    shown = ", ".join(str(r + 2) for r in rows[:most])  # the first line holds the names, counting starts at 1
    more = f", ... ({len(rows)} in all)" if len(rows) > most else ""
    return f"line{'s' if len(rows) > 1 else ''} {shown}{more}"


def _plain(name: object) -> str:
    return re.sub(r"[^a-z0-9]", "", str(name).lower())
