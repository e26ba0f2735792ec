"""Reading a tidy table of others' results: one row per trial, evaluation set and metric.

Every problem is found before anything is written, and all are told at once.
"""

from __future__ import annotations

import difflib
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from dashboards.evidence import IN_DOMAIN
from orchestrator.ingest_csv import read_csv_text
from orchestrator.ingest_problems import Problems
from orchestrator.ingest_rows import AXIS_COLUMNS, COUNTS, Row, parse_row
from orchestrator.ingest_values import bounds, known_metric, metric_name, text_of
from search_spaces.exceptions import UserError, unknown
from search_spaces.names import State

REQUIRED = (*AXIS_COLUMNS, "data_fraction", "seed", "metric", "value")
OPTIONAL = ("set", *COUNTS, "ladder", "status", "predictions")
_COLUMNS = (*REQUIRED, *OPTIONAL)

_DECIMAL_COMMA = re.compile(r"[-+]?\d+,\d+(e[-+]?\d+)?\s*%?", re.IGNORECASE)
_NUMBERS = ("data_fraction", "value", *COUNTS)

_OFTEN_CALLED = {
    "task": ("dataset", "target"),
    "model_scale": ("arch", "architecture", "model", "backbone", "network"),
    "pretraining_source": ("source", "pretraining", "pretrain", "pretrained", "init", "weights"),
    "data_fraction": ("fraction", "shots", "label_fraction", "percent"),
    "seed": ("run", "repeat", "trial"),
    "metric": ("measure", "metric_name"),
    "value": ("score", "result", "metric_value"),
    "set": ("split", "evaluation_set", "test_set"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplicates:
    """Rows that repeat a trial, set and metric; the last finished one is kept.

    Attributes:
        rows: Rows left out.
        differing: Those of them with another value than the one that is kept.
        telling: Columns that mean nothing here and in which such rows differ: they may tell why there are several.
    """

    rows: int = 0
    differing: int = 0
    telling: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """What a table says, once per trial, set and metric.

    Attributes:
        rows: Finished and failed rows, in the order of the table.
        read: Data rows of the file.
        duplicates: What was repeated.
        blank: Rows without any text, left out.
        unfinished: Rows of trials that have not ended, left out.
        undefined: Finished rows whose value is blank or NaN.
        ignored: Columns that mean nothing here.
        renamed: Metric as written -> as read, where they differ.
        unknown_metrics: Metrics that are recorded but that reports do not know -> rows.
    """

    rows: tuple[Row, ...]
    read: int
    duplicates: Duplicates = field(default_factory=Duplicates)
    blank: int = 0
    unfinished: int = 0
    undefined: int = 0
    ignored: tuple[str, ...] = ()
    renamed: Mapping[str, str] = field(default_factory=dict)
    unknown_metrics: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """How a table is written.

    Attributes:
        renames: Column (or metric) as written -> as it is called here.
        scale: Factor of all values of bounded metrics, such as 0.01 for percent; None for none.
        only_metric: What all values are, if the table has no column ``metric``.
        encoding: Of a CSV; UTF-8 (or UTF-16 with its mark) if None.
        decimal_comma: Whether ``0,85`` means 0.85.
    """

    renames: Mapping[str, str] = field(default_factory=dict)
    scale: float | None = None
    only_metric: str | None = None
    encoding: str | None = None
    decimal_comma: bool = False


def read_table(path: Path, written: Written) -> Table:
    """Read and check a table.

    Args:
        path: CSV (comma, semicolon or tab) or Parquet.
        written: How it is written.

    Raises:
        UserError: Anything is wrong; names all of it.
    """
    problems = Problems()
    raw, blank = _read(path, written.encoding, problems)
    frame = _rename(raw, written.renames)
    if "metric" not in frame and written.only_metric is not None:
        frame = frame.assign(metric=written.only_metric)
    _check_columns(frame, written.renames, problems)
    problems.raise_if_any(path.name)
    if written.decimal_comma:
        frame = _with_points(frame)
    named = [text_of(m) for m in frame["metric"]]
    frame = frame.assign(metric=[metric_name(written.renames.get(m, m)) for m in named])
    parsed = [row for number, cells in _records(frame) if (row := parse_row(cells, number, problems))]
    parsed = _scaled(parsed, written.scale, problems)
    ended = [row for row in parsed if row.state is not State.RUNNING]
    rows, dropped = _keep_last_finished(ended)
    _check_trials(rows, problems)
    problems.raise_if_any(path.name)
    if not rows:
        raise UserError(f"{path.name} has no finished or failed row ({len(frame)} rows read)")
    ignored = [str(c) for c in frame if c not in _COLUMNS]
    renamed = {a: b for a, b in zip(named, frame["metric"], strict=True) if a != b}
    strange = Counter(row.metric for row in rows if row.metric and known_metric(row.metric) is None)
    return Table(
        rows=tuple(rows),
        read=len(frame),
        duplicates=_counted(dropped, frame[ignored]),
        blank=blank,
        unfinished=len(parsed) - len(ended),
        undefined=sum(row.state is State.COMPLETE and bool(row.metric) and math.isnan(row.value) for row in rows),
        ignored=tuple(ignored),
        renamed=renamed,
        unknown_metrics=dict(strange),
    )


def _read(path: Path, encoding: str | None, problems: Problems) -> tuple[pd.DataFrame, int]:
    """The table with the number of its row as index, and how many blank rows were left out."""
    if not path.is_file():
        raise UserError(f"{path} is no file (current folder: {Path.cwd()})")
    if path.suffix.lower() not in (".parquet", ".pq"):
        read = read_csv_text(path, encoding, problems)
        return read.frame, read.blank
    try:
        frame: pd.DataFrame = pq.read_table(path).to_pandas()
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path.name} is neither CSV nor Parquet: {error}") from error
    return frame.set_axis(range(2, len(frame) + 2)), 0


def _with_points(frame: pd.DataFrame) -> pd.DataFrame:
    """Decimal commas as points in columns of numbers; what is written otherwise stays, to be refused if it is wrong."""

    def point(cell: Any) -> Any:
        return cell.replace(",", ".") if isinstance(cell, str) and _DECIMAL_COMMA.fullmatch(cell.strip()) else cell

    return frame.assign(**{name: frame[name].map(point) for name in _NUMBERS if name in frame})


def _rename(frame: pd.DataFrame, renames: Mapping[str, str]) -> pd.DataFrame:
    """Columns under the names that they have here, whether in capitals or with blanks around."""
    named = frame.rename(columns=lambda c: str(c).strip())
    named = named.rename(columns={old: new for old, new in renames.items() if old in named})
    usual = {c: str(c).lower().replace(" ", "_") for c in named if c not in _COLUMNS}
    free = Counter(name for name in usual.values() if name in _COLUMNS and name not in named)
    return named.rename(columns={c: name for c, name in usual.items() if free[name] == 1})


def _check_columns(frame: pd.DataFrame, renames: Mapping[str, str], problems: Problems) -> None:
    twice = [c for c, n in Counter(map(str, frame.columns)).items() if n > 1 and c in _COLUMNS]
    for column in twice:
        problems.add(f"column {column!r} is there more than once (after --map)")
    for old, new in renames.items():
        if new not in _COLUMNS and known_metric(metric_name(new)) is None:
            problems.add(f"--map {old}={new}: " + unknown("column or metric", new, _COLUMNS))
    free = [str(c) for c in frame if c not in _COLUMNS]
    missing = [column for column in REQUIRED if column not in frame]
    wide = [c for c in free if known_metric(metric_name(c)) is not None] if {"metric", "value"} <= set(missing) else []
    for column in missing:
        near = None if wide and column in ("metric", "value") else _near(column, free)
        hint = f"; perhaps --map {near}={column}" if near else ""
        problems.add(f"column {column!r} is missing{hint}")
    if wide:
        listed = ", ".join(wide)
        problems.add(f"a column per metric ({listed}): give a row per metric, in columns metric and value")
    if missing:
        problems.add(f"columns that are there: {', '.join(map(str, frame))}")
    for column in free:
        meant = "set" if column.lower() in _OFTEN_CALLED["set"] else _almost(column, frame)
        if meant is not None and meant not in frame:
            problems.add(f"unknown column {column!r}. Did you mean {meant!r}? Say --map {column}={meant}, or drop it")


def _almost(column: str, frame: pd.DataFrame) -> str | None:
    found = difflib.get_close_matches(column, [c for c in OPTIONAL if c not in frame], n=1, cutoff=0.75)
    return found[0] if found else None


def _near(column: str, free: Sequence[str]) -> str | None:
    by_lower = {name.lower(): name for name in free}
    for name in _OFTEN_CALLED.get(column, ()):
        if name in by_lower:
            return by_lower[name]
    found = difflib.get_close_matches(column, by_lower, n=1, cutoff=0.5)
    return by_lower[found[0]] if found else None


def _records(frame: pd.DataFrame) -> Iterable[tuple[int, dict[str, Any]]]:
    """Rows with their numbers in the file."""
    known = frame[[c for c in _COLUMNS if c in frame]]
    for number, raw in zip(frame.index, known.to_dict("records"), strict=True):
        yield int(number), {str(key): value for key, value in raw.items()}


def _scaled(rows: Sequence[Row], factor: float | None, problems: Problems) -> list[Row]:
    """Rows with bounded metrics times the factor; complains of values that no such metric has."""
    rows = [_times(row, factor) for row in rows]
    for metric in dict.fromkeys(row.metric for row in rows):
        known = known_metric(metric)
        if known is not None:
            _check_range(metric, [r for r in rows if r.metric == metric], bounds(known), factor, problems)
    return rows


def _times(row: Row, factor: float | None) -> Row:
    known = known_metric(row.metric)
    if factor is None or known is None or not math.isfinite(bounds(known)[1]):
        return row
    return replace(row, value=row.value * factor)


def _check_range(
    metric: str, rows: Sequence[Row], limits: tuple[float, float], factor: float | None, problems: Problems
) -> None:
    """Complain of values outside the limits; of most of them being percent once, with what to say."""
    low, high = limits
    finite = [row for row in rows if math.isfinite(row.value)]
    outside = [row for row in finite if not low <= row.value <= high]
    above = [row for row in outside if 2 * high < row.value <= 100 * high]
    if factor is None and above and 2 * len(above) >= len(finite) and len(above) == len(outside):
        inside = len(finite) - len(above)
        mixed = f"; but {inside} are not: bring all to one scale first" if inside else ": say --scale 0.01"
        shown = f"{above[0].value:g} in row {above[0].number}"
        problems.add(f"{len(above)} values of {metric} look like percent, such as {shown}{mixed}")
        return
    for row in outside:
        problems.add(f"{metric} lies in [{low:g}, {high:g}], got {row.value:g}", row.number)


def _keep_last_finished(rows: Sequence[Row]) -> tuple[list[Row], list[tuple[Row, Row | None]]]:
    """One row per trial, set and metric: the last finished, else the last; a finished trial has no failed rows.

    Returns:
        The rows that are kept; each row that is not, with the one in its place (None for a failure that was mended).
    """
    kept: dict[tuple[Any, ...], Row] = {}
    finished = {row.trial for row in rows if row.state is State.COMPLETE}
    dropped: list[tuple[tuple[Any, ...], Row]] = []
    for row in rows:
        key = (row.trial, row.set, row.metric) if row.trial in finished else (row.trial,)
        if row.trial in finished and row.state is State.FAILED:
            dropped.append((key, row))
            continue
        if key in kept:
            dropped.append((key, kept.pop(key)))
        kept[key] = row
    ordered = sorted(kept.values(), key=lambda row: row.number)
    return ordered, [(row, kept.get(key)) for key, row in dropped]


def _counted(dropped: Sequence[tuple[Row, Row | None]], ignored: pd.DataFrame) -> Duplicates:
    repeated = [(old, new) for old, new in dropped if old.state is State.COMPLETE and new is not None]
    telling = [
        str(name)
        for name, cells in ignored.items()
        if any(text_of(cells[old.number]) != text_of(cells[new.number]) for old, new in repeated)
    ]
    differing = sum(not _same(old.value, new.value) for old, new in repeated)
    return Duplicates(rows=len(dropped), differing=differing, telling=tuple(telling))


def _same(a: float, b: float) -> bool:
    return a == b or (math.isnan(a) and math.isnan(b))


def _check_trials(rows: Sequence[Row], problems: Problems) -> None:
    """What rows of one trial or one scale must agree in, and sets that contrasts need."""
    facts: dict[tuple[Any, ...], tuple[Any, int]] = {}

    def agree(row: Row, what: str, owner: tuple[Any, ...], value: Any) -> None:
        known, first = facts.setdefault((what, *owner), (value, row.number))
        if known != value:
            shown = " and ".join(f"{v:g}" if isinstance(v, float) else repr(v) for v in (known, value))
            problems.add(f"{what} of {' · '.join(owner)} is {shown} (first in row {first}); give one", row.number)

    for row in rows:
        for name, number in row.counts.items():
            agree(row, name, row.trial, number)
        if row.ladder:
            agree(row, "ladder", (row.axes[1],), row.ladder)
        if row.predictions:
            agree(row, "predictions", (*row.trial, row.set), row.predictions)
    tested = {row.axes[0] for row in rows if row.set == IN_DOMAIN}
    for task in dict.fromkeys(row.axes[0] for row in rows if row.state is State.COMPLETE):
        if task not in tested:
            sets = ", ".join(sorted({row.set for row in rows if row.axes[0] == task}))
            problems.add(f"task {task!r} has no row of the set {IN_DOMAIN!r} (only {sets}): name the in-domain one so")
