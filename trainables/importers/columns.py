"""Reading a user's table and finding its columns. Every cell is text; blanks are None."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from search_spaces.exceptions import UserError, unknown
from trainables.importers.options import NO_COLUMN, Tell
from trainables.row_problems import Reason, RowProblem

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
        message: What is wrong; ``{where}`` in it becomes the places of the rows.
        column: The column.
        rows: Positions of the rows.
        allowed: What a cell may hold.
        stand_in: What to read in their place to go on, until the rows are set aside.
        also: Further columns whose cells in these rows are not read, either.
        reason: What kind of problem they are of their rows.
    """

    def __init__(
        self,
        message: str,
        column: str,
        rows: np.ndarray | list[int],
        allowed: str,
        stand_in: str | None = None,
        also: Sequence[str] = (),
        reason: Reason = Reason.VALUE,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.column = column
        self.rows = [int(row) for row in rows]
        self.allowed = allowed
        self.stand_in = stand_in
        self.also = tuple(also)
        self.reason = reason

    def place(self, where: pd.Series[Any]) -> None:
        """Put the places of the rows into the message."""
        self.message = self.message.replace(PLACES, places_of(where, self.rows))
        self.args = (self.message,)


PLACES = "{where}"
"""In the message of a ``BadCellsError``: where the rows stand, which only the reader of the table knows."""

T = TypeVar("T")
_MISREAD_SHARE = 0.5
"""With more bad cells than this among those filled, the column is not what it was taken for."""


def collecting(
    read: Callable[[pd.DataFrame], T], table: pd.DataFrame, problems: list[RowProblem], where: pd.Series[Any]
) -> T:
    """What ``read`` makes of the table without the cells that it refuses; those become problems of their rows.

    Args:
        read: Takes the table.
        table: The user's table.
        problems: Receives the problems.
        where: Where each row stands, such as ``line 7``.

    Raises:
        UserError: What ``read`` raises other than ``BadCellsError``, or a column is bad throughout.
    """
    while True:
        try:
            return read(table)
        except BadCellsError as error:
            error.place(where)
            cells = table[error.column].astype(object)
            refused = cells.iloc[error.rows]
            filled = max(int(cells.notna().sum()), 1)
            if len(error.rows) > _MISREAD_SHARE * filled or refused.map(lambda v, e=error: v == e.stand_in).all():
                raise
            problems += [
                RowProblem(
                    row=row,
                    reason=error.reason,
                    detail=f"column {error.column!r} has {'a blank' if cell is None else repr(cell)}; "
                    f"allowed: {error.allowed}",
                    advice=str(error),
                )
                for row, cell in zip(error.rows, refused, strict=True)
            ]
            cells.iloc[error.rows] = error.stand_in
            unread = np.isin(np.arange(len(table)), error.rows)
            others = {name: table[name].astype(object).mask(unread, None) for name in error.also}
            table = table.assign(**{error.column: cells, **others})


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


def places_of(where: pd.Series[Any], rows: np.ndarray | list[int], most: int | None = 3) -> str:
    """Where rows stand in what was read: ``line 7``, ``lines 7, 9, 12, ... (40 in all)``; all if ``most`` is None."""
    places = [str(where.iat[int(row)]) for row in rows]
    shown = ", ".join(places[:most])
    if len(places) > 1 and all(place.startswith(_LINE) for place in places):
        shown = "lines " + ", ".join(place.removeprefix(_LINE) for place in places[:most])
    return shown if most is None or len(places) <= most else f"{shown}, ... ({len(places)} in all)"


_LINE = "line "


def _plain(name: object) -> str:
    return re.sub(r"[^a-z0-9]", "", str(name).lower())
