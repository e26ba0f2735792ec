"""A CSV of others as a table of text: every cell as written, every row with its number in the file."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from orchestrator.ingest_problems import Problems
from search_spaces.exceptions import UserError

_SEPARATORS = (",", ";", "\t")
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass(frozen=True, slots=True, kw_only=True)
class CsvText:
    """What a CSV holds.

    Attributes:
        frame: Text in every cell, without outer blanks in the heading; the index is the row of the file, whose heading
            is row 1.
        blank: Rows without any text, left out.
    """

    frame: pd.DataFrame
    blank: int


def read_csv_text(path: Path, encoding: str | None, problems: Problems) -> CsvText:
    """Read a CSV with comma, semicolon or tab, whichever its heading has most of.

    Args:
        path: The file.
        encoding: Name of its encoding, as Python knows it; UTF-8, or UTF-16 with its byte order mark, if None.
        problems: Where to complain of rows with another number of fields than the heading.

    Raises:
        UserError: It is empty, is not text of that encoding, or has a quotation mark that does not end.
    """
    text = _decoded(path, encoding)
    heading = text.partition("\n")[0]
    separator = max(_SEPARATORS, key=heading.count)
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True))
    except csv.Error as error:
        raise UserError(f"{path.name} is no CSV: {error}. Is a quotation mark not closed?") from error
    if not rows or not any(cell.strip() for cell in rows[0]):
        raise UserError(f"{path.name} is empty, or its first row is blank: the heading must come first")
    columns = [name.strip() for name in rows[0]]
    numbered = [(number, row) for number, row in enumerate(rows[1:], 2) if any(cell.strip() for cell in row)]
    kept = [(number, _fitted(row, len(columns))) for number, row in numbered]
    for number, row in kept:
        if len(row) != len(columns):
            problems.add(_wrong_length(row, len(columns)), number)
    whole = [(number, row) for number, row in kept if len(row) == len(columns)]
    frame = pd.DataFrame(
        [row for _, row in whole], columns=columns, index=[number for number, _ in whole], dtype=object
    )
    return CsvText(frame=frame, blank=len(rows) - 1 - len(numbered))


def _decoded(path: Path, encoding: str | None) -> str:
    raw = path.read_bytes()
    used = encoding or ("UTF-16" if raw.startswith(_UTF_16) else "UTF-8")
    try:
        return raw.decode(used).removeprefix("\ufeff")
    except LookupError as error:
        raise UserError(f"--encoding {used!r} is not known to Python; such as cp1252, latin-1 or utf-16 are") from error
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        hint = "" if encoding else ". Save it as UTF-8, or say --encoding cp1252 (Excel, Western Europe) or another"
        raise UserError(f"{path.name} is no CSV in {used} (line {line}: {error.reason}){hint}") from error


def _fitted(row: Sequence[str], width: int) -> list[str]:
    """Without blank fields at the end that the heading has no column for: some programs end rows with a separator."""
    end = len(row)
    while end > width and not row[end - 1].strip():
        end -= 1
    return list(row[:end])


def _wrong_length(row: Sequence[str], width: int) -> str:
    if len(row) < width:
        return f"{len(row)} fields where the heading has {width}: is the file cut off?"
    return f"{len(row)} fields where the heading has {width}: a field that holds the separator needs quotation marks"
