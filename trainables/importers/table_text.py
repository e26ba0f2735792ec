"""A user's CSV or TSV file: its rows as text, the lines they stand in, and rows whose cells do not fit the header."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import lzma
import sys
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

import pandas as pd

from search_spaces.exceptions import UserError
from trainables.importers.columns import cleaned
from trainables.importers.options import Tell
from trainables.places import is_file, is_remote, os_errors
from trainables.row_problems import Reason, RowProblem, SetAside

if TYPE_CHECKING:
    from trainables.places import Place

_MISREAD_SHARE = 0.5
"""With more rows than this of another length than the header, the table is not what it was taken for."""

_SHOWN_CELLS = 80
_CHUNK_BYTES = 2**22
_UNPACK: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}


@dataclass(frozen=True, slots=True, kw_only=True)
class Misfit:
    """A row with more or fewer cells than the header has names.

    Attributes:
        line: Where it starts in the file, from 1.
        cells: Its cells.
        names: How many were expected.
    """

    line: int
    cells: tuple[str, ...]
    names: int

    def aside(self, where: str, column: int | None, number: int) -> SetAside:
        """What the list of rows set aside has of it.

        Args:
            where: Where it stands, in words.
            column: Position of the image's path among the cells, if known.
            number: Tells it apart from other such rows.
        """
        held, text = len(self.cells), ",".join(self.cells)
        path = self.cells[column].strip() if column is not None and column < held else ""
        shown = text if len(text) <= _SHOWN_CELLS else f"{text[:_SHOWN_CELLS]}..."
        detail = f"{held} cells, but the first line has {self.names} names"
        what = "cut off, or a separator is missing" if held < self.names else "a cell with a separator needs quotes"
        problem = RowProblem(row=-number - 1, reason=Reason.CELLS, detail=f"{detail} ({what}): {shown!r}")
        return SetAside(where=where, image_id=path, path=path, problem=problem)


@dataclass(frozen=True, slots=True, kw_only=True)
class TableText:
    """What a file holds.

    Attributes:
        cells: Text; blanks are None, spaces around cells are removed. Without the misfits.
        lines: Where each row starts in the file, from 1.
        misfits: Rows that do not fit the header.
    """

    cells: pd.DataFrame
    lines: Sequence[int]
    misfits: tuple[Misfit, ...]


def read_table(path: Place, tell: Tell, header: Sequence[str] | None = None, separator: str | None = None) -> TableText:
    """A CSV or TSV file, packed or not.

    Args:
        path: The file.
        tell: Hears of an unusual encoding.
        header: Names of the columns of a file that has none.
        separator: Between cells; the most frequent of comma, semicolon and tab in the first line if not given.

    Raises:
        UserError: The file is missing, empty or not text, a column's name repeats, a quote is not closed, or most of
            its rows are of another length than the header.
    """
    if not is_file(path):
        raise UserError(f"table {path} does not exist" if not path.exists() else f"table {path} is no file")
    for encoding in ("utf-8-sig", "cp1252"):
        try:
            table = _read(path, encoding, header, separator)
        except UnicodeDecodeError:
            tell(f"{path.name} is not UTF-8; read as Windows-1252")
            continue
        except (csv.Error, OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile) as error:
            raise UserError(f"table {path} cannot be read: {error}") from error
        if table.cells.empty and not table.misfits:
            raise UserError(f"table {path} has no rows")
        return table
    raise UserError(f"table {path} is neither UTF-8 nor Windows-1252 text")


def _read(path: Place, encoding: str, header: Sequence[str] | None, separator: str | None) -> TableText:
    if separator is None:
        with _text(path, encoding) as stream:
            first = next((line for line in stream if line.strip()), "")
        separator = max(",;\t", key=first.count)
    with _text(path, encoding) as stream:
        rows = _rows(stream, separator)
        names = _names(header if header else next(rows, (0, []))[1])
        plain = _plain(path, encoding, names, separator, has_names=header is None)
        if plain is not None:
            return plain
        lines, kept, misfits = _sorted_out(rows, len(names))
    if len(misfits) > _MISREAD_SHARE * (len(kept) + len(misfits)):
        than = "more" if len(misfits[0].cells) > len(names) else "fewer"
        raise csv.Error(
            f"its rows have {than} cells than its first line has names ({len(misfits)} rows; line {misfits[0].line} "
            f"has {len(misfits[0].cells)}, the first line {len(names)})"
        )
    columns = zip(*kept, strict=True) if kept else [()] * len(names)
    cells = {name: cleaned(pd.Series(column, dtype=object)) for name, column in zip(names, columns, strict=True)}
    return TableText(cells=pd.DataFrame(cells), lines=lines, misfits=tuple(misfits))


def _plain(path: Place, encoding: str, names: list[str], separator: str, *, has_names: bool) -> TableText | None:
    """The table by pandas, faster and in less memory; None unless all rows fit, each in a line of its own."""
    try:
        with _bytes(path) as stream:
            table = pd.read_csv(
                stream,
                sep=separator,
                dtype=str,
                encoding=encoding,
                keep_default_na=False,
                skipinitialspace=True,
                names=names,
                header=0 if has_names else None,
            )
    except (pd.errors.ParserError, pd.errors.EmptyDataError):
        return None
    named = int(has_names)
    one_line_each = isinstance(table.index, pd.RangeIndex) and _lines(path) == len(table) + named
    # A cell that a row lacks is no text, unlike a blank one.
    if not one_line_each or table.empty or table.iloc[:, -1].isna().any():
        return None
    for name in names:  # one after the other: a second copy of the table would be the most memory of an import
        table[name] = cleaned(table[name])
    return TableText(cells=table, lines=range(1 + named, len(table) + 1 + named), misfits=())


def _lines(path: Place) -> int:
    """Lines of a file, the last one with or without an end."""
    ends, last = 0, b"\n"
    with _bytes(path) as stream:
        while part := stream.read(_CHUNK_BYTES):
            ends, last = ends + part.count(b"\n"), part[-1:]
    return ends + (last != b"\n")


def _names(cells: Sequence[str]) -> list[str]:
    """Names of the columns; those without one are numbered."""
    if not cells:
        raise csv.Error("it is empty")
    names = [cell.strip() or f"Unnamed: {k}" for k, cell in enumerate(cells)]
    if repeated := list(dict.fromkeys(name for name in names if names.count(name) > 1)):
        raise csv.Error(f"its first line names columns twice: {', '.join(repeated)}; each needs a name of its own")
    return names


def _sorted_out(rows: Iterable[tuple[int, list[str]]], names: int) -> tuple[list[int], list[list[str]], list[Misfit]]:
    """Lines and cells of the rows that fit, and the others."""
    lines: list[int] = []
    kept: list[list[str]] = []
    misfits: list[Misfit] = []
    for line, cells in rows:
        if len(cells) == names:
            lines.append(line)
            kept.append(cells)
        else:
            misfits.append(Misfit(line=line, cells=tuple(cells), names=names))
    return lines, kept, misfits


def _rows(stream: IO[str], separator: str) -> Iterator[tuple[int, list[str]]]:
    """Line and cells of every row; blank lines are passed over.

    Raises:
        csv.Error: A quote is not closed.
    """
    csv.field_size_limit(sys.maxsize)  # masks as run lengths are longer than the usual limit
    record: list[str] = []

    def remembered() -> Iterator[str]:
        for line in stream:
            record.append(line)
            yield line

    reader = csv.reader(remembered(), delimiter=separator, skipinitialspace=True)
    line = 1
    for cells in reader:
        if record and len(record) > 1:
            _refuse_open_quote(record, separator, line)
        if len(cells) > 1 or any(cell.strip() for cell in cells):
            yield line, cells
        record.clear()
        line = reader.line_num + 1


def _refuse_open_quote(record: Sequence[str], separator: str, line: int) -> None:
    """The lenient reader takes the rest of the file for one cell."""
    try:
        list(csv.reader(record, delimiter=separator, skipinitialspace=True, strict=True))
    except csv.Error as error:
        if "unexpected end of data" in str(error):
            raise csv.Error(f"the quote that is opened in line {line} is never closed") from error


@contextmanager
def _text(path: Place, encoding: str) -> Iterator[IO[str]]:
    """The file as text, unpacked as its suffix says; ends of lines as they are."""
    with _bytes(path) as stream, io.TextIOWrapper(stream, encoding=encoding, newline="") as text:
        yield text


@contextmanager
def _bytes(path: Place) -> Iterator[Any]:
    if is_remote(path):
        import fsspec  # type: ignore[import-untyped]

        with os_errors(path), fsspec.open(str(path), "rb", compression="infer") as stream:
            yield stream
        return
    if path.suffix.lower() == ".zip":
        with zipfile.ZipFile(str(path)) as packed:
            names = packed.namelist()
            if len(names) != 1:
                raise zipfile.BadZipFile(f"{len(names)} files in it; a packed table is alone")
            with packed.open(names[0]) as stream:
                yield stream
        return
    with _UNPACK.get(path.suffix.lower(), open)(str(path), "rb") as stream:
        yield stream
