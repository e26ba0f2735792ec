"""Interactive figures: the descriptions of ``dashboards.plots`` drawn with plotly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from dashboards.picture_figures import draw_pictures
from dashboards.plots import (
    PANELS_PER_ROW,
    AnyPlot,
    CurvePlot,
    FittedLine,
    IntervalPlot,
    MatrixPlot,
    PicturePlot,
    Row,
    Series,
)
from dashboards.sheets import LEGEND_PX, Sheet, axis_number, bold, rich
from dashboards.style import BAND, GRID, INK, MUTED, ZONE, LineStyle

_PANEL_HEIGHT_PX = 330
_ROW_HEIGHT_PX = 25
_PANEL_GAP_PX = 68
"""Between interval panels: tick labels and the next panel's title."""
_CELL_HEIGHT_PX = 34
_COLUMN_GAP = 0.035
"""Between panels that stand side by side, a share of the width."""

_SHARES = [[0.0, "#f6d5c4"], [0.499, "#fbeee6"], [0.5, "#eef4f9"], [0.999, "#d6e6f2"], [1.0, "#c4e3d7"]]
"""Nothing done to all done, light enough for black text."""


def draw(plot: AnyPlot) -> go.Figure:
    """The plotly figure of a description. Its width follows the page; its height is fixed, in pixels."""
    if isinstance(plot, CurvePlot):
        return _curves(plot)
    if isinstance(plot, IntervalPlot):
        return _intervals(plot)
    if isinstance(plot, PicturePlot):
        return draw_pictures(plot)
    return _matrix(plot)


def _curves(plot: CurvePlot) -> go.Figure:
    columns = min(len(plot.panels), PANELS_PER_ROW)
    rows = math.ceil(len(plot.panels) / columns)
    width, gap = (1 - _COLUMN_GAP * (columns - 1)) / columns, 0.3 / rows if rows > 1 else 0.0
    height = (1 - gap * (rows - 1)) / rows
    places = []
    for i in range(len(plot.panels)):
        left, bottom = (i % columns) * (width + _COLUMN_GAP), (rows - 1 - i // columns) * (height + gap)
        places.append((left, min(left + width, 1.0), bottom, min(bottom + height, 1.0)))
    sheet = Sheet(places, [panel.title for panel in plot.panels], shared_y=True)
    # A line without markers stands for its source in the legend only if nothing else does.
    marked = {series.name for panel in plot.panels for series in panel.series if series.marked}
    legend_seen: set[str] = set()
    for i, panel in enumerate(plot.panels):
        _reference_lines(sheet, plot, i, panel.diagonal)
        for series in panel.series:
            listed = series.name not in legend_seen and (series.marked or series.name not in marked)
            _draw_series(sheet, series, plot.styles[series.name], i, plot.line_width, listed)
            if series.fit is not None:
                _draw_fit(sheet, series.name, series.fit, plot.styles[series.name], i)
            legend_seen |= {series.name} if listed else set()
    _curve_axes(sheet, plot, columns)
    return sheet.figure(_PANEL_HEIGHT_PX * rows + LEGEND_PX)


def _reference_lines(sheet: Sheet, plot: CurvePlot, panel: int, diagonal: bool) -> None:
    line = {"color": MUTED, "width": 1, "dash": "dot"}
    if plot.diagonal and diagonal:
        ends = list(plot.x_range)
        sheet.add(
            panel, {"x": ends, "y": ends, "mode": "lines", "line": line, "showlegend": False, "hoverinfo": "skip"}
        )
    if plot.reference is not None and plot.y_range[0] < plot.reference < plot.y_range[1]:
        sheet.add_across(panel, {"type": "line", "y0": plot.reference, "y1": plot.reference, "line": line}, of_x=False)


def _draw_series(sheet: Sheet, series: Series, style: LineStyle, panel: int, width: float, listed: bool) -> None:
    if len(series.dots_x):
        dots = {
            "x": list(series.dots_x),
            "y": list(series.dots_y),
            "mode": "markers",
            "marker": {"color": style.colour, "size": 4.5, "opacity": 0.5},
            "legendgroup": rich(series.name),
            "showlegend": False,
            "hoverinfo": "skip",
        }
        sheet.add(panel, dots)
    trace = {
        "x": list(series.x),
        "y": list(series.y),
        "name": rich(series.name),
        "legendgroup": rich(series.name),
        "showlegend": listed,
        "mode": "+".join(["lines"] * series.joined + ["markers"] * series.marked),
        "line": {"color": style.colour, "width": width, "dash": style.dash},
        "marker": _marker(style, series.hollow),
        "hovertext": [rich(text) for text in series.hover],
        "hoverinfo": "text",
    }
    if series.marked or _any_finite(series.low, series.high):
        trace["error_y"] = _bars(series.y, series.low, series.high, style.colour)
    if len(series.x_low):
        trace["error_x"] = _bars(series.x, series.x_low, series.x_high, style.colour)
    sheet.add(panel, trace)


def _draw_fit(sheet: Sheet, name: str, fit: FittedLine, style: LineStyle, panel: int) -> None:
    common = {"legendgroup": rich(name), "showlegend": False}
    line = {"color": style.colour, "width": 1, "dash": "4px,3px"}
    sheet.add(panel, common | {"x": list(fit.x), "y": list(fit.y), "mode": "lines", "line": line, "hoverinfo": "skip"})
    ring = {
        "x": [fit.held_out[0]],
        "y": [fit.held_out[1]],
        "mode": "markers",
        "marker": {"color": style.colour, "symbol": "circle-open", "size": 12, "line": {"width": 1.4}},
        "hovertext": [rich(fit.hover)],
        "hoverinfo": "text",
    }
    sheet.add(panel, common | ring)


def _any_finite(*values: Sequence[float]) -> bool:
    """Bars without a length would still be drawn as a stroke."""
    return any(math.isfinite(v) for part in values for v in part)


def _marker(style: LineStyle, hollow: bool | Sequence[bool]) -> dict[str, Any]:
    if isinstance(hollow, bool):
        edge = {"color": style.colour, "width": 1.8} if hollow else {"color": "white", "width": 0.7}
        return {"color": "white" if hollow else style.colour, "symbol": style.symbol, "size": 8, "line": edge}
    colours = ["white" if point else style.colour for point in hollow]
    return {"color": colours, "symbol": style.symbol, "size": 9, "line": {"color": style.colour, "width": 1.8}}


def _bars(y: Sequence[float], low: Sequence[float], high: Sequence[float], colour: str) -> dict[str, Any]:
    return {
        "type": "data",
        "symmetric": False,
        "array": [_distance(a, b) for a, b in zip(y, high, strict=True)],
        "arrayminus": [_distance(b, a) for a, b in zip(y, low, strict=True)],
        "color": colour,
        "thickness": 1.3,
        "width": 3,
    }


def _distance(a: float, b: float) -> float | None:
    return b - a if math.isfinite(b - a) else None


def _curve_axes(sheet: Sheet, plot: CurvePlot, columns: int) -> None:
    horizontal = _AXIS | _scale(plot.x_range, plot.x_log) | _ticks(plot.x_ticks)
    if any(text.startswith("\n") for _, text in plot.x_ticks):
        horizontal["tickangle"] = 0  # plotly takes texts in turns for overlapping, and would turn them
    vertical = _AXIS | {"range": list(plot.y_range)} | _ticks(plot.y_ticks)
    for i in range(len(plot.panels)):
        sheet.x_axis(i).update(horizontal)
        sheet.y_axis(i).update(vertical)
        if i + columns >= len(plot.panels):
            sheet.x_axis(i)["title"] = {"text": rich(plot.x_label), "standoff": 8}
        if i % columns == 0:
            sheet.y_axis(i)["title"] = {"text": rich(plot.y_label), "standoff": 6}


def _scale(ends: tuple[float, float], log: bool) -> dict[str, Any]:
    shown = [math.log10(v) for v in ends] if log else list(ends)
    return {"type": "log" if log else "linear", "range": shown}


def _ticks(ticks: Sequence[tuple[float, str]]) -> dict[str, Any]:
    """Those of an axis; plotly's own if none are given."""
    if not ticks:
        return {}
    return {"tickmode": "array", "tickvals": [at for at, _ in ticks], "ticktext": [rich(text) for _, text in ticks]}


def _intervals(plot: IntervalPlot) -> go.Figure:
    sizes = [len(entries) for _, entries in plot.panels]
    height = sum(sizes) * _ROW_HEIGHT_PX + len(sizes) * _PANEL_GAP_PX
    gap = _PANEL_GAP_PX / height if len(sizes) > 1 else 0.0
    share = (1 - gap * (len(sizes) - 1)) / sum(sizes)
    places, top = [], 1.0
    for size in sizes:
        places.append((0.0, 1.0, max(top - share * size, 0.0), top))
        top -= share * size + gap
    sheet = Sheet(places, [title for title, _ in plot.panels])
    for i, (_, entries) in enumerate(plot.panels):
        _references(sheet, entries, i)
        for name, style in plot.styles.items():
            _draw_rows(sheet, entries, name, style, i)
        _zone(sheet, plot, i)
        _bands(sheet, entries, i)
        sheet.x_axis(i).update(_AXIS | _scale(plot.x_range, plot.x_log) | _ticks(plot.x_ticks))
        _row_axis(sheet, entries, i)
        sheet.annotations += _notes(entries, i)
    sheet.x_axis(len(sizes) - 1)["title"] = {"text": rich(plot.x_label), "standoff": 8}
    return sheet.figure(height + 90, showlegend=False, margin={"l": 64, "r": 190, "t": 34, "b": 56})


def _zone(sheet: Sheet, plot: IntervalPlot, panel: int) -> None:
    if plot.zone is None:
        return
    if plot.zone > 0:
        zone = {"type": "rect", "x0": -plot.zone, "x1": plot.zone, "fillcolor": ZONE, "line": {"width": 0}}
        sheet.add_across(panel, zone | {"layer": "below"}, of_x=True)
    line = {"color": MUTED, "width": 1}
    sheet.add_across(panel, {"type": "line", "x0": 0, "x1": 0, "line": line}, of_x=True)


def _references(sheet: Sheet, entries: Sequence[Row], panel: int) -> None:
    """Crosses at the references, each joined to its row's point."""
    known = [(i, e) for i, e in enumerate(entries) if math.isfinite(e.reference)]
    if not known:
        return
    silent = {"showlegend": False, "hoverinfo": "skip"}
    joins = {
        "x": [v for _, e in known for v in (e.value, e.reference, None)],
        "y": [v for i, _ in known for v in (i, i, None)],
        "mode": "lines",
        "line": {"color": MUTED, "width": 1, "dash": "dot"},
    }
    crosses = {
        "x": [e.reference for _, e in known],
        "y": [i for i, _ in known],
        "mode": "markers",
        "marker": {"symbol": "x", "size": 8, "color": INK},
    }
    sheet.add(panel, joins | silent)
    sheet.add(panel, crosses | silent)


def _arrows(sheet: Sheet, mine: Sequence[tuple[int, Row]], style: LineStyle, panel: int) -> None:
    """Heads at the ends of intervals that have none."""
    heads = [(e.low, i, "triangle-left") for i, e in mine if e.open_low and math.isfinite(e.low)]
    heads += [(e.high, i, "triangle-right") for i, e in mine if e.open_high and math.isfinite(e.high)]
    if heads:
        trace = {
            "x": [h[0] for h in heads],
            "y": [h[1] for h in heads],
            "mode": "markers",
            "marker": {"symbol": [h[2] for h in heads], "size": 10, "color": style.colour},
            "showlegend": False,
            "hoverinfo": "skip",
            "cliponaxis": False,
        }
        sheet.add(panel, trace)


def _bands(sheet: Sheet, entries: Sequence[Row], panel: int) -> None:
    """One trace of thick bars behind the points: many shapes would be slow to draw."""
    known = [(i, e.band) for i, e in enumerate(entries) if e.band is not None and all(map(math.isfinite, e.band))]
    if not known:
        return
    trace = {
        "type": "bar",
        "base": [band[0] for _, band in known],
        "x": [band[1] - band[0] for _, band in known],
        "y": [i for i, _ in known],
        "orientation": "h",
        "width": 0.72,
        "marker": {"color": BAND, "line": {"width": 0}},
        "hoverinfo": "skip",
        "showlegend": False,
        "zorder": -1,
    }
    sheet.add(panel, trace)


def _draw_rows(sheet: Sheet, entries: Sequence[Row], name: str, style: LineStyle, panel: int) -> None:
    mine = [(i, e) for i, e in enumerate(entries) if e.name == name and math.isfinite(e.value)]
    if not mine:
        return
    trace = {
        "x": [e.value for _, e in mine],
        "y": [i for i, _ in mine],
        "name": rich(name),
        "mode": "markers",
        "marker": {
            "color": [style.colour if e.filled else "white" for _, e in mine],
            "symbol": style.symbol,
            "size": 9,
            "line": {"color": style.colour, "width": 1.8},
        },
        "error_x": _bars([e.value for _, e in mine], [e.low for _, e in mine], [e.high for _, e in mine], style.colour),
        "hovertext": [rich(f"{e.label}\n{e.note}") for _, e in mine],
        "hoverinfo": "text",
    }
    sheet.add(panel, trace)
    _arrows(sheet, mine, style, panel)


def _row_axis(sheet: Sheet, entries: Sequence[Row], panel: int) -> None:
    sheet.y_axis(panel).update(
        tickmode="array",
        tickvals=list(range(len(entries))),
        ticktext=[rich(e.label) for e in entries],
        range=[len(entries) - 0.4, -0.6],
        automargin=True,
        ticklabelstandoff=8,  # the head of an arrow at the edge does not touch the names
        showgrid=False,
        zeroline=False,
        tickfont={"size": 12},
    )


def _notes(entries: Sequence[Row], panel: int) -> list[dict[str, Any]]:
    n = axis_number(panel)
    place = {"x": 1.012, "xref": f"x{n} domain", "yref": f"y{n}", "xanchor": "left", "showarrow": False}
    return [
        place
        | {
            "y": i,
            "text": rich(entry.note),
            "font": {"size": 12, "color": INK if entry.filled and math.isfinite(entry.value) else MUTED},
        }
        for i, entry in enumerate(entries)
    ]


def _matrix(plot: MatrixPlot) -> go.Figure:
    rows, columns = len(plot.rows), len(plot.columns)
    sheet = Sheet([(0.0, 1.0, 0.0, 1.0)])
    matrix = {
        "type": "heatmap",
        "z": [[None if math.isnan(v) else v for v in line] for line in plot.share],
        "x": list(range(columns)),
        "y": list(range(rows)),
        "text": [list(line) for line in plot.text],
        "texttemplate": "%{text}",
        "textfont": {"size": 12, "color": INK},
        "zmin": 0,
        "zmax": 1,
        "colorscale": _SHARES,
        "showscale": False,
        "xgap": 2,
        "ygap": 2,
        "hoverongaps": False,
        "hoverinfo": "skip",
    }
    sheet.add(0, matrix)
    sheet.x_axis(0).update(_PLAIN_AXIS | _ticks(list(enumerate(plot.columns))) | {"side": "top"})
    sheet.y_axis(0).update(
        _PLAIN_AXIS | _ticks(list(enumerate(plot.rows))) | {"autorange": "reversed", "automargin": True}
    )
    _group_titles(sheet, plot)
    return sheet.figure(rows * _CELL_HEIGHT_PX + 110, margin={"l": 64, "r": 16, "t": 78, "b": 12})


def _group_titles(sheet: Sheet, plot: MatrixPlot) -> None:
    start = 0
    for name, width in plot.groups:
        place = {"x": start + (width - 1) / 2, "y": 1, "yref": "paper", "yshift": 42, "showarrow": False}
        sheet.annotations.append(place | {"text": bold(name), "font": {"size": 13}})
        start += width
        if start < len(plot.columns):
            line = {"type": "line", "x0": start - 0.5, "x1": start - 0.5, "line": {"color": MUTED, "width": 1}}
            sheet.add_across(0, line, of_x=True)


_PLAIN_AXIS: dict[str, Any] = {"showgrid": False, "zeroline": False, "fixedrange": True, "ticks": ""}
_AXIS: dict[str, Any] = {
    "gridcolor": GRID,
    "linecolor": "#9aa0a6",
    "showline": True,
    "zeroline": False,
    "ticks": "outside",
    "tickcolor": "#9aa0a6",
    "tickfont": {"size": 12},
}
