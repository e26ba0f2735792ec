"""Rows of a table that cannot be used, all of them, with their reasons: found, told, and set aside."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from search_spaces.exceptions import UserError
from trainables.written_whole import written_whole

OLDEST_YEARS = 120.0
"""No human is older."""

BLANK_AGES_NOTE = "age:"
"""How the note of a manifest begins that says where ages were left blank."""

SHOWN_PROBLEMS = 20
"""Rows that a message lists unless it is to list all; the rest is counted."""

QUARANTINE_COLUMNS = ("where", "image_id", "path", "reason", "detail")


class Reason(StrEnum):
    """Why a row cannot be used; of ``AGE``, why one of its cells is not."""

    IMAGE_MISSING = "image missing"
    IMAGE_UNREADABLE = "image unreadable"
    MASK_MISSING = "mask missing"
    MASK_UNREADABLE = "mask unreadable"
    MASK_SIZE = "mask of another size"
    NO_MASK = "no mask"
    REPEATED = "image id repeated"
    VALUE = "value not allowed"
    PATH = "no usable path"
    CELLS = "other number of cells"
    PATIENT = "no patient in the path"
    JOIN = "several rows in a joined table"
    AGE = "impossible age left blank"


@dataclass(frozen=True, slots=True, kw_only=True)
class RowProblem:
    """One reason why one row cannot be used.

    Attributes:
        row: Position in the table, from 0.
        reason: Its kind.
        detail: One sentence, with the file or the value.
        advice: What may be meant instead, for all rows of this kind; empty if there is nothing to say.
    """

    row: int
    reason: Reason
    detail: str
    advice: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetAside:
    """A problem of a row with what names it, as the quarantine list has it.

    Attributes:
        where: Where the row stood: line of a table, or row of a manifest.
        image_id: The row's image.
        path: Its file.
        problem: Why.
    """

    where: str
    image_id: str
    path: str
    problem: RowProblem


def impossible_ages(years: pd.Series[Any]) -> list[int]:
    """Positions of ages below 0 or above ``OLDEST_YEARS``; blank ones are possible."""
    ages = years.astype(float)
    return np.flatnonzero(((ages < 0) | (ages > OLDEST_YEARS)).to_numpy(dtype=bool)).tolist()


def blank_ages(years: pd.Series[Any], cells: pd.Series[Any], column: str) -> list[RowProblem]:
    """The rows whose impossible age is left blank, with what stood there.

    Args:
        years: Ages in years.
        cells: The same as they were written.
        column: Name of their column.
    """
    expected = f"0 to {OLDEST_YEARS:g} years expected; the row stays"
    return [
        RowProblem(row=row, reason=Reason.AGE, detail=f"column {column!r} has {str(cells.iat[row])!r}, {expected}")
        for row in impossible_ages(years)
    ]


def counted(problems: Iterable[RowProblem]) -> dict[str, int]:
    """Reason -> number of rows, the most frequent first; a row with two reasons counts for its first."""
    first: dict[int, Reason] = {}
    for problem in problems:
        first.setdefault(problem.row, problem.reason)
    return {reason.value: count for reason, count in Counter(first.values()).most_common()}


def in_words(counts: dict[str, int]) -> str:
    """``3 image missing, 1 mask of another size``."""
    return ", ".join(f"{count} {reason}" for reason, count in counts.items())


def listed(found: Sequence[SetAside], most: int = SHOWN_PROBLEMS) -> str:
    """One line per problem, for a message."""
    lines = [f"  {f.where}: {f.problem.detail}" for f in found[:most]]
    if len(found) > most:
        lines.append(f"  ... and {len(found) - most} more (--all shows them)")
    return "\n".join(lines)


def refusal(found: Sequence[SetAside], rows: int, most: int | None = SHOWN_PROBLEMS) -> str:
    """Why a table is not imported: the first ``most`` problems (all if None), the number of others, and what to do."""
    counts = counted(f.problem for f in found)
    advice = dict.fromkeys(f.problem.advice for f in found if f.problem.advice)
    return "\n".join(
        [
            f"{sum(counts.values())} of {rows} rows cannot be used ({in_words(counts)}):",
            listed(found, len(found) if most is None else most),
            *advice,
            "Correct them, or give --quarantine FILE: it reads every image, sets such rows aside and lists them there",
        ]
    )


def refuse_other_file(file: Path, tables: Iterable[str | Path] = ()) -> None:
    """Nothing, if a list of rows set aside may be written to ``file``: it is absent, empty or an earlier list.

    Args:
        file: The list to be.
        tables: What is being read, which stays whatever it looks like.

    Raises:
        UserError: It is something else, which writing would destroy.
    """
    if not file.exists():
        return
    if any(file.resolve() == Path(table).resolve() for table in tables):
        raise UserError(f"--quarantine {file} is the table that is read; give the list a file of its own")
    if not _is_list(file):
        raise UserError(
            f"--quarantine {file} is there and is no list of rows set aside; it is left as it is. Allowed: a new file, "
            f"or an earlier list (first line {','.join(QUARANTINE_COLUMNS)})"
        )


def _is_list(file: Path) -> bool:
    """Whether a file is empty or an earlier list."""
    head = ",".join(QUARANTINE_COLUMNS).encode()
    try:
        with file.open("rb") as stream:
            return stream.read(len(head) + 1).rstrip() in (b"", head)
    except OSError:
        return False


def _lines_of_list(file: Path) -> list[tuple[str, ...]]:
    """The lines of an earlier list, without its first."""
    if not file.exists():
        return []
    with file.open(newline="", encoding="utf-8", errors="surrogateescape") as stream:
        return [tuple(line) for line in csv.reader(stream)][1:]


def write_quarantine(file: Path, found: Sequence[SetAside], keep: bool = False) -> None:
    """Write the list of rows set aside, and of rows with a cell left blank, as CSV, whole or not at all.

    An empty list leaves only the names of the columns.

    Args:
        file: Where to.
        found: What to list.
        keep: Whether what an earlier list has stays, above.

    Raises:
        UserError: The file cannot be written, or is there and is no such list.
    """
    refuse_other_file(file)
    fresh = [(f.where, f.image_id, f.path, f.problem.reason.value, f.problem.detail) for f in found]
    try:
        lines = dict.fromkeys([*(_lines_of_list(file) if keep else []), *fresh])
        file.parent.mkdir(parents=True, exist_ok=True)
        with (
            written_whole(file) as temporary,
            temporary.open("w", newline="", encoding="utf-8", errors="surrogateescape") as stream,
        ):
            writer = csv.writer(stream)
            writer.writerow(QUARANTINE_COLUMNS)
            writer.writerows(lines)
    except OSError as error:
        raise UserError(f"quarantine list {file} cannot be written: {error.strerror or error}") from error
