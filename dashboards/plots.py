"""What each figure of a report shows, free of any plotting library.

``dashboards.figures`` (plotly) and ``dashboards.static`` (matplotlib) draw these descriptions, so that the page and the
printed figures cannot disagree. Every description carries its alternative text, with the numbers, and its table.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dashboards.style import LineStyle, number

PANELS_PER_ROW = 3
"""Panels of a curve plot that stand side by side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedLine:
    """A curve fitted to the points of a series, within their range; drawn thin and dashed.

    Attributes:
        x, y: Positions along it.
        held_out: (x, y) where a fit to all points but the last puts the last one; drawn as a ring.
        hover: Text of the ring.
    """

    x: Sequence[float]
    y: Sequence[float]
    held_out: tuple[float, float]
    hover: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Points of one source in one panel; equal lengths throughout, NaN where there is no number.

    Attributes:
        name: Legend entry.
        x, y: Positions.
        low, high: Interval of y.
        hover: Text per point.
        joined: Whether a line may join the points.
        dots_x, dots_y: Single seeds, drawn small.
        x_low, x_high: Interval of x, if any.
        marked: Whether points have markers; a line alone if not.
        hollow: Whether the markers are hollow, all of them or each: what was not observed, or is outside a set.
        fit: A curve fitted to the points; None for none.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    hover: Sequence[str]
    joined: bool = True
    dots_x: Sequence[float] = ()
    dots_y: Sequence[float] = ()
    x_low: Sequence[float] = ()
    x_high: Sequence[float] = ()
    marked: bool = True
    hollow: bool | Sequence[bool] = False
    fit: FittedLine | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One of the small multiples of a figure; ``diagonal`` is whether the figure's diagonal, if any, is drawn in it."""

    title: str
    series: tuple[Series, ...]
    diagonal: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """What all figures share.

    Attributes:
        key: File name without ending; unique in a report.
        title: Heading.
        caption: What is seen, and what the marks mean.
        alt: The figure in words and numbers.
        table: The numbers behind it, tidy.
    """

    key: str
    title: str
    caption: str
    alt: str
    table: pd.DataFrame = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePlot(Figure):
    """Panels of lines with intervals over a common pair of axes.

    Attributes:
        x_ticks: (position, text with ``\\n`` between rows); empty for automatic ticks.
        y_ticks: Likewise.
        diagonal: Whether x = y is drawn.
        reference: Height of a dotted line (chance), if inside the range.
        line_width: Of the lines that join points, in pixels.
    """

    panels: tuple[Panel, ...]
    styles: dict[str, LineStyle]
    x_label: str
    y_label: str
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    x_log: bool
    x_ticks: tuple[tuple[float, str], ...] = ()
    y_ticks: tuple[tuple[float, str], ...] = ()
    diagonal: bool = False
    reference: float | None = None
    line_width: float = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of an interval plot.

    Attributes:
        label: Left of the axis; rows of one label share a line.
        name: Source; decides the style.
        value, low, high: Point and interval; NaN where not assessable.
        filled: Hollow if not (undecided, or outside the primary family).
        note: Right of the axis.
        reference: A second position, drawn as a cross and joined to the first by a thin line; NaN for none.
        open_low, open_high: Whether the interval has no end there, drawn as an arrow.
        band: What chance alone gives, drawn behind the point; None for no band.
    """

    label: str
    name: str
    value: float
    low: float
    high: float
    filled: bool
    note: str
    reference: float = math.nan
    open_low: bool = False
    open_high: bool = False
    band: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class IntervalPlot(Figure):
    """Rows of points with intervals: forests and dot plots.

    Attributes:
        panels: (title, rows from top to bottom).
        zone: Half-width of the zone of no practical meaning around zero, and a line at zero; None for neither.
        x_log: Whether the axis is logarithmic.
        x_ticks: (position, text); empty for automatic ticks.
    """

    panels: tuple[tuple[str, tuple[Row, ...]], ...]
    styles: dict[str, LineStyle]
    x_label: str
    x_range: tuple[float, float]
    zone: float | None = None
    x_log: bool = False
    x_ticks: tuple[tuple[float, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixPlot(Figure):
    """A table of shares with a text in each field.

    Attributes:
        rows, columns: Their names, from the top and from the left.
        share: (rows, columns) in [0, 1]; NaN where nothing is planned.
        text: (rows, columns).
        groups: (name, number of columns) above the columns, from the left.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    share: tuple[tuple[float, ...], ...]
    text: tuple[tuple[str, ...], ...]
    groups: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PicturePlot(Figure):
    """A grid of pictures of one size.

    Attributes:
        rows, columns: Their names, from the top and from the left.
        pictures: Per row and column (h, w, 3) pixels.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    pictures: tuple[tuple[NDArray[np.uint8], ...], ...] = field(repr=False)

    @property
    def aspect(self) -> float:
        """Height of a picture over its width."""
        height, width = self.pictures[0][0].shape[:2]
        return float(height / width)


AnyPlot = CurvePlot | IntervalPlot | MatrixPlot | PicturePlot


def interval(value: object, low: object, high: object, form: Callable[[float], str] = number) -> str:
    """``0.812 [0.790, 0.834]``."""
    numbers = [as_float(v) for v in (value, low, high)]
    if not all(math.isfinite(v) for v in numbers[1:]):
        return f"{form(numbers[0])} [no interval]"
    return f"{form(numbers[0])} [{form(numbers[1])}, {form(numbers[2])}]"


def interval_name(table: pd.DataFrame) -> str:
    """``95 % interval over patients and seeds``, from the table's columns ``level`` and ``n_patients``."""
    level = table["level"].dropna()
    if not len(level):
        return "interval"
    patients = table["n_patients"] > 0 if "n_patients" in table else pd.Series([True])
    over = "patients and seeds" if patients.all() else "seeds" if not patients.any() else "seeds, and patients if known"
    return f"{100 * float(level.iloc[0]):g} % interval over {over}"


def split(frame: pd.DataFrame, *by: str) -> list[tuple[tuple[Any, ...], pd.DataFrame]]:
    """Groups of equal values in the columns ``by``, in order of appearance."""
    return [(tuple(key), part) for key, part in frame.groupby(list(by), sort=False, observed=True, dropna=False)]


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as dictionaries."""
    names = [str(name) for name in frame.columns]
    # All columns at once: ``to_dict`` takes each out of the frame, which for a few rows is most of the time.
    return [dict(zip(names, row, strict=True)) for row in frame.to_numpy(dtype=object).tolist()]


def ordered(sources: Iterable[str], baseline: str) -> list[str]:
    """Sources in order of appearance, the baseline last: it is drawn on top."""
    names = list(dict.fromkeys(sources))
    return [n for n in names if n != baseline] + [n for n in names if n == baseline]


def as_float(value: object) -> float:
    """A number as float; NaN for everything else."""
    return float(value) if isinstance(value, int | float | np.number) else math.nan


def finite(values: Iterable[float]) -> list[float]:
    """The finite ones."""
    return [float(v) for v in values if v is not None and math.isfinite(v)]


def padded(values: Sequence[float], pad: float = 0.06) -> tuple[float, float]:
    """An axis range around values, with ``pad`` of their span on each side."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    space = pad * (high - low) or 0.05
    return low - space, high + space
