"""The tables of a column map: read, joined, with derived columns and the rows that were chosen. Every cell is text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from search_spaces.exceptions import UserError, unknown
from trainables.importers.column_map import ColumnMap
from trainables.importers.columns import PLACES, BadCellsError, places_of
from trainables.importers.map_parts import CombineSpec, CsvFile, DeriveSpec, JoinSpec, TableSpec
from trainables.importers.options import Tell
from trainables.importers.table_text import read_table
from trainables.places import below, files_like, os_errors
from trainables.row_problems import Reason, RowProblem, SetAside

if TYPE_CHECKING:
    from trainables.places import Place

WHERE = "(where)"
"""Column that says where a row stands: file and line."""

ROW = "(row)"
"""Column of row numbers, where rows are left out and problems must keep to theirs."""

_SEVERAL = "(several)"
_MISREAD_SHARE = 0.5
"""With a larger share of rows that find several, the keys of a join are at fault."""

FILE = "file"
"""Column of a table of files: the path under the data set's folder."""

_PLACEHOLDER = re.compile(r"\{([^{}\[\]]+)(?:\[(-?\d*):(-?\d*)\])?\}")


def read_tables(column_map: ColumnMap, root: Place, tell: Tell, misfits: list[SetAside]) -> dict[str, pd.DataFrame]:
    """All tables by name; ``misfits`` receives rows that do not fit their header.

    Raises:
        UserError: Files are missing (says all of them) or cannot be read.
    """
    tables: dict[str, pd.DataFrame] = {}
    missing: list[str] = []
    for name, spec in column_map.tables.items():
        if spec.files:
            tables[name] = _file_table(spec, root, missing)
        else:
            tables[name] = _csv_table(spec, root, tell, missing, misfits)
    if missing:
        raise UserError(
            f"{root} is not {column_map.title} as it is released; it lacks:\n  "
            + "\n  ".join(missing)
            + f"\nNeeded: {column_map.about.needs}"
        )
    return tables


def joined_rows(
    column_map: ColumnMap, tables: Mapping[str, pd.DataFrame], tell: Tell, problems: list[RowProblem]
) -> pd.DataFrame:
    """The rows of the first table with the columns of the others.

    Args:
        column_map: Which joins.
        tables: By name; the first has the column ``ROW``.
        tell: Hears what is left out.
        problems: Receives the rows whose key has several different rows in another table, by their cell ``ROW``.

    Raises:
        UserError: Columns are absent, most rows find several, or rows that must find a match do not.
    """
    rows = next(iter(tables.values()))
    for join in column_map.joins:
        of_files = bool(column_map.tables[join.table].files)
        rows = _joined(rows, tables[join.table], join, of_files, tell, problems)
    return rows


def derived(rows: pd.DataFrame, spec: DeriveSpec) -> pd.DataFrame:
    """The rows with one more column.

    Raises:
        UserError: A column is absent.
        BadCellsError: A cell is not among the values.
    """
    if spec.template is not None:
        return rows.assign(**{spec.column: filled(rows, spec.template)})
    source = str(spec.source)
    cells = column_of(rows, source, f"derive {spec.column!r}")
    if spec.pattern is not None:
        found = cells.astype("str").str.extract(spec.pattern, expand=False)
        return rows.assign(**{spec.column: _none_for_blank(found)})
    values = spec.values or _matched(cells, spec)
    return rows.assign(**{spec.column: replaced(cells, values, spec.other)})


def can_be_derived(rows: pd.DataFrame, spec: DeriveSpec) -> bool:
    """Whether the rows have the columns that a derived column is made of."""
    sources = [str(spec.source)] if spec.template is None else _names_in(spec.template)
    return all(name in rows for name in sources)


def _matched(cells: pd.Series[Any], spec: DeriveSpec) -> dict[str, str | None]:
    """Cell -> value of the first expression that is found in it."""
    known: dict[str, str | None] = {}
    for cell in cells.dropna().unique():
        fits = [value for pattern, value in spec.matches.items() if re.search(pattern, str(cell))]
        if fits:
            known[str(cell)] = fits[0]
    return known


def replaced(cells: pd.Series[Any], values: Mapping[str, str | None], other: str) -> pd.Series[Any]:
    """Cells with others in their place; blanks stay blank unless ``values`` names the empty text.

    Raises:
        BadCellsError: ``other`` is ``refuse``, and a cell is not among the values.
    """
    known = cells.isin(list(values))
    new = cells.map(lambda cell: values.get(cell) if isinstance(cell, str) else None)
    if "" in values:
        new = new.mask(cells.isna(), values[""])
    if other == "keep":
        new = new.where(known | cells.isna(), cells)
    elif other == "refuse":
        rows = np.flatnonzero((cells.notna() & ~known).to_numpy(dtype=bool))
        if len(rows):
            allowed = ", ".join(list(values)[:20])
            strange = ", ".join(sorted(set(cells.iloc[rows].astype(str)))[:5])
            message = f"column {cells.name!r} has {strange} ({PLACES}); known are {allowed}"
            raise BadCellsError(message, str(cells.name), rows, allowed)
    return _none_for_blank(new)


def chosen_rows(rows: pd.DataFrame, where: Mapping[str, Sequence[str]], tell: Tell) -> pd.DataFrame:
    """The rows with the wanted cells.

    Raises:
        UserError: A column is absent, or no row is left.
    """
    for name, wanted in where.items():
        kept = column_of(rows, name, "where").isin(list(wanted))
        if not kept.any():
            raise UserError(f"where: no row has {' or '.join(wanted)} in column {name!r}")
        if not kept.all():
            tell(f"{(~kept).sum()} of {len(kept)} rows are left out: {name} is not {' or '.join(wanted)}")
        rows = rows[kept].reset_index(drop=True)
    return rows


def image_numbers(rows: pd.DataFrame, spec: CombineSpec) -> pd.Series[int]:
    """Which image each row belongs to, numbered in the order of their first rows.

    Raises:
        UserError: A column is absent.
    """
    for name in (*spec.by, *spec.columns):
        column_of(rows, name, "combine")
    return rows.groupby(list(spec.by), sort=False, dropna=False).ngroup()


def countable(rows: pd.DataFrame, spec: CombineSpec) -> pd.DataFrame:
    """The rows, whose cells that are to be counted are numbers.

    Raises:
        UserError: A column is absent.
        BadCellsError: A cell is no number.
    """
    for name in (name for name, how in spec.columns.items() if how != "join"):
        cells = column_of(rows, name, "combine")
        odd = np.flatnonzero((cells.notna() & pd.to_numeric(cells, errors="coerce").isna()).to_numpy(dtype=bool))
        if len(odd):
            strange = ", ".join(map(repr, sorted(set(cells.iloc[odd]))[:5]))
            message = f"combine: column {name!r} has {strange} ({PLACES}), no number"
            raise BadCellsError(message, name, odd, "a number or blank")
    return rows


def combined(rows: pd.DataFrame, image: pd.Series[int], spec: CombineSpec, tell: Tell) -> pd.DataFrame:
    """One row per image.

    Args:
        rows: Several per image; ``countable``.
        image: ``image_numbers`` of them.
        spec: How cells are combined.
        tell: Hears how many rows became how many.
    """
    first = rows[~image.duplicated()]
    new = {name: _combined(rows, image, name, how).to_numpy() for name, how in spec.columns.items()}
    if len(first) < len(rows):
        tell(f"{len(rows)} rows are combined to {len(first)} images")
    return first.assign(**new).reset_index(drop=True)


def _combined(rows: pd.DataFrame, image: pd.Series[int], name: str, how: str) -> pd.Series[Any]:
    """The cells of a column by image number, in the order of the images."""
    if how == "join":
        joined: pd.Series[Any] = rows[name].groupby(image).agg(lambda c: "|".join(v for v in c if isinstance(v, str)))
        return _none_for_blank(joined.mask(joined == ""))
    numbers = pd.to_numeric(rows[name], errors="coerce")
    values = numbers.groupby(image)
    result = values.max() if how == "any" else (values.mean() > 0.5).astype(float).where(values.count() > 0)
    return result.map(lambda value: None if pd.isna(value) else f"{value:g}").astype(object)


def filled(rows: pd.DataFrame, template: str) -> pd.Series[Any]:
    """A template with each row's cells put in; None where a cell is blank.

    Raises:
        UserError: A column is absent.
    """
    result: pd.Series[Any] | None = None
    position = 0
    for match in _PLACEHOLDER.finditer(template):
        cells = column_of(rows, match.group(1), f"template {template!r}").astype("str")
        if match.group(2) is not None:
            start, stop = (int(part) if part else None for part in match.group(2, 3))
            cells = cells.str.slice(start, stop)
        text = template[position : match.start()]
        result = text + cells if result is None else result + text + cells
        position = match.end()
    if result is None:
        return pd.Series(template, index=rows.index, dtype=object)
    return _none_for_blank(result + template[position:])


def needed_columns(column_map: ColumnMap) -> dict[str, tuple[str, ...]]:
    """Where in the map -> columns that the rows must have; of alternatives the first if the rows have none."""
    labels, needed = column_map.labels, {"where": tuple(column_map.where)}
    needed["labels"] = (*labels.flags.values(), *((labels.column,) if labels.column else ()))
    if column_map.combine is not None:
        needed["combine"] = (*column_map.combine.by, *column_map.combine.columns)
    if column_map.image is not None:
        needed["image"] = (*_names_in(column_map.image.path), *_names_in(column_map.image.id or ""))
    for mask in (column_map.mask, column_map.mask_second, column_map.valid_area):
        for template in (*((mask.path or "",) if mask else ()), *(mask.merge if mask else ())):
            needed["mask"] = (*needed.get("mask", ()), *_names_in(template))
    return needed


def _names_in(template: str) -> list[str]:
    return [match.group(1) for match in _PLACEHOLDER.finditer(template)]


def column_of(rows: pd.DataFrame, name: str, where: str) -> pd.Series[Any]:
    """A column.

    Raises:
        UserError: It is absent; says what there is.
    """
    if name not in rows:
        raise UserError(unknown("column", name, [str(c) for c in rows.columns if c not in (WHERE, ROW)], where))
    return rows[name]


def _csv_table(spec: TableSpec, root: Place, tell: Tell, missing: list[str], misfits: list[SetAside]) -> pd.DataFrame:
    parts: list[pd.DataFrame] = []
    for entry in spec.csv:
        found = _found_files(entry, root)
        if not found and not (entry.optional or spec.optional):
            missing.append(" or ".join(entry.file))
        for file in found:
            part = read_table(file, tell, spec.header or None, spec.separator)
            named = pd.Series([f"{file.name} line {line}" for line in part.lines], dtype=object)
            parts.append(part.cells.assign(**entry.set, **{WHERE: named}))
            misfits += [
                m.aside(f"{file.name} line {m.line}", None, len(misfits) + k) for k, m in enumerate(part.misfits)
            ]
    if not parts:
        return pd.DataFrame({WHERE: []}, dtype=object)
    table = pd.concat(parts, ignore_index=True)
    return pd.DataFrame({c: _none_for_blank(table[c]) for c in table})


def _found_files(entry: CsvFile, root: Place) -> list[Place]:
    for pattern in entry.file:
        found = files_like(root, pattern)
        if found:
            return found
    return []


def _file_table(spec: TableSpec, root: Place, missing: list[str]) -> pd.DataFrame:
    found = sorted({below(f, root): f for p in spec.files for f in files_like(root, p)}.items())
    rows: list[dict[str, str | None]] = []
    for path, file in found:
        named = re.search(spec.pattern, path) if spec.pattern is not None else None
        if spec.pattern is not None and named is None:
            continue
        row: dict[str, str | None] = {FILE: path, WHERE: path, **(named.groupdict() if named else {})}
        if spec.text is not None:
            told = re.search(spec.text, _contents(file))
            row |= told.groupdict() if told else dict.fromkeys(re.compile(spec.text).groupindex)
        rows.append(row)
    if not rows and not spec.optional:
        missing.append(" or ".join(spec.files) + (f" (named like {spec.pattern})" if spec.pattern else ""))
    names = [FILE, WHERE, *(n for p in (spec.pattern, spec.text) if p is not None for n in re.compile(p).groupindex)]
    return pd.DataFrame(rows, columns=names, dtype=object)


def _contents(file: Place) -> str:
    try:
        with os_errors(file):
            return file.read_bytes().decode("utf-8-sig", errors="replace")
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror or error}") from error


def _joined(
    rows: pd.DataFrame, other: pd.DataFrame, join: JoinSpec, of_files: bool, tell: Tell, problems: list[RowProblem]
) -> pd.DataFrame:
    place = f"join with {join.table!r}"
    left = [column_of(rows, name, place).name for name in join.keys]
    right = [column_of(other, name, place).name for name in join.keys.values()]
    fresh = [c for c in other.columns if c not in right and c not in rows]
    keyed = other.dropna(subset=right)[[*right, *fresh, WHERE]].set_axis([*left, *fresh, WHERE], axis="columns")
    single = _one_per_key(keyed, left, join.table, tell)
    merged = rows.merge(single.assign(**{"(found)": True}), on=left, how="left", validate="many_to_one")
    lost = merged.pop("(found)").isna()
    problems += _ambiguous(merged.pop(_SEVERAL), rows, join, of_files)
    if lost.any() and join.unmatched == "refuse":
        first = int(lost.argmax())
        key = ", ".join(str(rows[name].iat[first]) for name in left)
        raise UserError(f"{place}: {lost.sum()} rows find nothing, the first: {key} ({rows[WHERE].iat[first]})")
    if lost.any() and join.unmatched == "drop":
        tell(f"{lost.sum()} of {len(lost)} rows are left out: they are not in table {join.table!r}")
        merged = merged[~lost].reset_index(drop=True)
    return pd.DataFrame({c: merged[c] if c == ROW else _none_for_blank(merged[c]) for c in merged})


def _one_per_key(keyed: pd.DataFrame, keys: list[Any], table: str, tell: Tell) -> pd.DataFrame:
    """The first row of each key; where rows of a key differ, column ``_SEVERAL`` says where they stand."""
    repeated = keyed[keyed.duplicated(subset=keys, keep=False)]
    different = repeated.drop_duplicates(subset=[c for c in keyed.columns if c != WHERE])
    if len(different) < len(repeated):
        tell(f"{len(repeated) - len(different)} rows of table {table!r} are left out: they repeat others")
    first = keyed.drop_duplicates(subset=keys).drop(columns=[WHERE])
    several = different[different.duplicated(subset=keys, keep=False)]
    if several.empty:
        return first.assign(**{_SEVERAL: None})
    places = several.groupby(keys, sort=False)[WHERE].agg(lambda where: places_of(where, list(range(len(where)))))
    return first.merge(places.rename(_SEVERAL).reset_index(), on=keys, how="left")


def _ambiguous(several: pd.Series[Any], rows: pd.DataFrame, join: JoinSpec, of_files: bool) -> list[RowProblem]:
    """Problems of the rows whose key has several rows in the other table, by their cell ``ROW``.

    Args:
        several: Where these stand, blank for rows that find at most one.
        rows: What was joined.
        join: By which keys.
        of_files: Whether the other table has a row per file.

    Raises:
        UserError: Most rows find several, so that the keys are at fault.
    """
    found = np.flatnonzero(several.notna().to_numpy(dtype=bool)).tolist()
    keys = {row: ", ".join(str(rows[name].iat[row]) for name in join.keys) for row in found}
    if of_files:
        case = "files are there twice"
        way_out = "keep one copy of each in the folder, or name keys that tell them apart"
    else:
        case = f"table {join.table!r} may have several rows for one key"
        way_out = "combine its rows, or name the keys that tell them apart"
    if len(found) > _MISREAD_SHARE * len(rows):
        raise UserError(
            f"join with {join.table!r}: {len(found)} of {len(rows)} rows find several there, such as {keys[found[0]]} "
            f"({several.iat[found[0]]}); {way_out}"
        )
    numbers = np.asarray(rows[ROW], dtype=np.int64)
    return [
        RowProblem(
            row=int(numbers[row]),
            reason=Reason.JOIN,
            detail=f"table {join.table!r} has several rows for {keys[row]}: {several.iat[row]}",
            advice=f"If {case}, {way_out}",
        )
        for row in found
    ]


def _none_for_blank(cells: pd.Series[Any]) -> pd.Series[Any]:
    text = cells.astype(object)
    return text.where(text.notna(), None)
