"""Interactive figures: the descriptions of ``dashboards.plots`` drawn with plotly."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

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
from dashboards.style import BAND, FONT_STACK, GRID, INK, MUTED, ZONE, LineStyle

_PANEL_HEIGHT_PX = 330
_ROW_HEIGHT_PX = 25
_PANEL_GAP_PX = 68
"""Between interval panels: tick labels and the next panel's title."""
_CELL_HEIGHT_PX = 34
_LEGEND_PX = 96
"""Room above the panels: legend and panel titles."""

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
    figure = make_subplots(
        rows=rows,
        cols=columns,
        shared_yaxes=True,
        subplot_titles=[_bold(p.title) for p in plot.panels],
        horizontal_spacing=0.035,
        vertical_spacing=0.3 / rows,
        x_title=None,
    )
    # A line without markers stands for its source in the legend only if nothing else does.
    marked = {series.name for panel in plot.panels for series in panel.series if series.marked}
    legend_seen: set[str] = set()
    for i, panel in enumerate(plot.panels):
        place = {"row": i // columns + 1, "col": i % columns + 1}
        _reference_lines(figure, plot, place, panel.diagonal)
        for series in panel.series:
            listed = series.name not in legend_seen and (series.marked or series.name not in marked)
            _draw_series(figure, series, plot.styles[series.name], place, plot.line_width, listed)
            if series.fit is not None:
                _draw_fit(figure, series.name, series.fit, plot.styles[series.name], place)
            legend_seen |= {series.name} if listed else set()
    _curve_axes(figure, plot, rows, columns)
    _layout(figure, height=_PANEL_HEIGHT_PX * rows + _LEGEND_PX)
    return figure


def _rich(text: str) -> str:
    """Text for plotly, which would otherwise take tags in a user's names for its own."""
    return html.escape(text, quote=False).replace("\n", "<br>")


def _bold(text: str) -> str:
    return f"<b>{_rich(text)}</b>"


def _reference_lines(figure: go.Figure, plot: CurvePlot, place: dict[str, int], diagonal: bool) -> None:
    if plot.diagonal and diagonal:
        low, high = plot.x_range
        line = {"color": MUTED, "width": 1, "dash": "dot"}
        trace = go.Scatter(x=[low, high], y=[low, high], mode="lines", line=line, showlegend=False, hoverinfo="skip")
        figure.add_trace(trace, **place)
    if plot.reference is not None and plot.y_range[0] < plot.reference < plot.y_range[1]:
        figure.add_hline(y=plot.reference, line={"color": MUTED, "width": 1, "dash": "dot"}, **place)


def _draw_series(
    figure: go.Figure,
    series: Series,
    style: LineStyle,
    place: dict[str, int],
    width: float,
    listed: bool,
) -> None:
    if len(series.dots_x):
        dots = go.Scatter(
            x=list(series.dots_x),
            y=list(series.dots_y),
            mode="markers",
            marker={"color": style.colour, "size": 4.5, "opacity": 0.5},
            legendgroup=_rich(series.name),
            showlegend=False,
            hoverinfo="skip",
        )
        figure.add_trace(dots, **place)
    trace = go.Scatter(
        x=list(series.x),
        y=list(series.y),
        name=_rich(series.name),
        legendgroup=_rich(series.name),
        showlegend=listed,
        mode="+".join(["lines"] * series.joined + ["markers"] * series.marked),
        line={"color": style.colour, "width": width, "dash": style.dash},
        marker=_marker(style, series.hollow),
        error_y=_bars(series.y, series.low, series.high, style.colour)
        if series.marked or _any_finite(series.low, series.high)
        else None,
        error_x=_bars(series.x, series.x_low, series.x_high, style.colour) if len(series.x_low) else None,
        hovertext=[_rich(text) for text in series.hover],
        hoverinfo="text",
    )
    figure.add_trace(trace, **place)


def _draw_fit(figure: go.Figure, name: str, fit: FittedLine, style: LineStyle, place: dict[str, int]) -> None:
    common = {"legendgroup": _rich(name), "showlegend": False}
    line = {"color": style.colour, "width": 1, "dash": "4px,3px"}
    figure.add_trace(
        go.Scatter(x=list(fit.x), y=list(fit.y), mode="lines", line=line, hoverinfo="skip", **common), **place
    )
    ring = go.Scatter(
        x=[fit.held_out[0]],
        y=[fit.held_out[1]],
        mode="markers",
        marker={"color": style.colour, "symbol": "circle-open", "size": 12, "line": {"width": 1.4}},
        hovertext=[_rich(fit.hover)],
        hoverinfo="text",
        **common,
    )
    figure.add_trace(ring, **place)


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


def _curve_axes(figure: go.Figure, plot: CurvePlot, rows: int, columns: int) -> None:
    x_range = [math.log10(v) for v in plot.x_range] if plot.x_log else list(plot.x_range)
    figure.update_xaxes(type="log" if plot.x_log else "linear", range=x_range, **_AXIS)
    figure.update_yaxes(range=list(plot.y_range), **_AXIS)
    if plot.x_ticks:
        texts = [_rich(text) for _, text in plot.x_ticks]
        staggered = any(text.startswith("\n") for _, text in plot.x_ticks)
        angle = 0 if staggered else None  # plotly takes texts in turns for overlapping, and would turn them
        figure.update_xaxes(tickmode="array", tickvals=[x for x, _ in plot.x_ticks], ticktext=texts, tickangle=angle)
    if plot.y_ticks:
        texts = [_rich(text) for _, text in plot.y_ticks]
        figure.update_yaxes(tickmode="array", tickvals=[y for y, _ in plot.y_ticks], ticktext=texts)
    last_row = [i for i in range(len(plot.panels)) if i + columns >= len(plot.panels)]
    for i in last_row:
        title = {"text": _rich(plot.x_label), "standoff": 8}
        figure.update_xaxes(title=title, row=i // columns + 1, col=i % columns + 1)
    for row in range(rows):
        figure.update_yaxes(title={"text": _rich(plot.y_label), "standoff": 6}, row=row + 1, col=1)


def _intervals(plot: IntervalPlot) -> go.Figure:
    sizes = [len(entries) for _, entries in plot.panels]
    height = sum(sizes) * _ROW_HEIGHT_PX + len(sizes) * _PANEL_GAP_PX
    figure = make_subplots(
        rows=len(sizes),
        cols=1,
        row_heights=[float(size) for size in sizes],
        subplot_titles=[_bold(title) for title, _ in plot.panels],
        vertical_spacing=_PANEL_GAP_PX / height if len(sizes) > 1 else 0.0,
    )
    notes: list[dict[str, Any]] = []
    for i, (_, entries) in enumerate(plot.panels):
        place = {"row": i + 1, "col": 1}
        _references(figure, entries, place)
        for name, style in plot.styles.items():
            _draw_rows(figure, entries, name, style, place)
        _zone(figure, plot, place)
        _bands(figure, entries, place)
        _row_axis(figure, entries, place)
        notes += _notes(entries, i)
    x_range = [math.log10(v) for v in plot.x_range] if plot.x_log else list(plot.x_range)
    figure.update_xaxes(type="log" if plot.x_log else "linear", range=x_range, **_AXIS)
    if plot.x_ticks:
        texts = [_rich(text) for _, text in plot.x_ticks]
        figure.update_xaxes(tickmode="array", tickvals=[x for x, _ in plot.x_ticks], ticktext=texts)
    figure.update_xaxes(title={"text": _rich(plot.x_label), "standoff": 8}, row=len(sizes), col=1)
    # One by one, plotly would check all notes again for each.
    figure.layout.annotations = [*figure.layout.annotations, *notes]
    _layout(figure, height=height + 90)
    figure.update_layout(showlegend=False, margin={"r": 190, "t": 34, "b": 56})
    return figure


def _zone(figure: go.Figure, plot: IntervalPlot, place: dict[str, int]) -> None:
    if plot.zone is None:
        return
    if plot.zone > 0:
        figure.add_vrect(x0=-plot.zone, x1=plot.zone, fillcolor=ZONE, line_width=0, layer="below", **place)
    figure.add_vline(x=0, line={"color": MUTED, "width": 1}, **place)


def _references(figure: go.Figure, entries: Sequence[Row], place: dict[str, int]) -> None:
    """Crosses at the references, each joined to its row's point."""
    known = [(i, e) for i, e in enumerate(entries) if math.isfinite(e.reference)]
    if not known:
        return
    x = [v for _, e in known for v in (e.value, e.reference, None)]
    y = [v for i, _ in known for v in (i, i, None)]
    line = {"color": MUTED, "width": 1, "dash": "dot"}
    figure.add_trace(go.Scatter(x=x, y=y, mode="lines", line=line, showlegend=False, hoverinfo="skip"), **place)
    cross = {"symbol": "x", "size": 8, "color": INK}
    figure.add_trace(
        go.Scatter(
            x=[e.reference for _, e in known],
            y=[i for i, _ in known],
            mode="markers",
            marker=cross,
            showlegend=False,
            hoverinfo="skip",
        ),
        **place,
    )


def _arrows(figure: go.Figure, mine: Sequence[tuple[int, Row]], style: LineStyle, place: dict[str, int]) -> None:
    """Heads at the ends of intervals that have none."""
    heads = [(e.low, i, "triangle-left") for i, e in mine if e.open_low and math.isfinite(e.low)]
    heads += [(e.high, i, "triangle-right") for i, e in mine if e.open_high and math.isfinite(e.high)]
    if heads:
        marker = {"symbol": [h[2] for h in heads], "size": 10, "color": style.colour}
        trace = go.Scatter(
            x=[h[0] for h in heads],
            y=[h[1] for h in heads],
            mode="markers",
            marker=marker,
            showlegend=False,
            hoverinfo="skip",
            cliponaxis=False,
        )
        figure.add_trace(trace, **place)


def _bands(figure: go.Figure, entries: Sequence[Row], place: dict[str, int]) -> None:
    """One trace of thick bars behind the points: many shapes would be slow to draw."""
    known = [(i, e.band) for i, e in enumerate(entries) if e.band is not None and all(map(math.isfinite, e.band))]
    if not known:
        return
    trace = go.Bar(
        base=[band[0] for _, band in known],
        x=[band[1] - band[0] for _, band in known],
        y=[i for i, _ in known],
        orientation="h",
        width=0.72,
        marker={"color": BAND, "line": {"width": 0}},
        hoverinfo="skip",
        showlegend=False,
        zorder=-1,
    )
    figure.add_trace(trace, **place)


def _draw_rows(figure: go.Figure, entries: Sequence[Row], name: str, style: LineStyle, place: dict[str, int]) -> None:
    mine = [(i, e) for i, e in enumerate(entries) if e.name == name and math.isfinite(e.value)]
    if not mine:
        return
    trace = go.Scatter(
        x=[e.value for _, e in mine],
        y=[i for i, _ in mine],
        name=_rich(name),
        mode="markers",
        marker={
            "color": [style.colour if e.filled else "white" for _, e in mine],
            "symbol": style.symbol,
            "size": 9,
            "line": {"color": style.colour, "width": 1.8},
        },
        error_x=_bars([e.value for _, e in mine], [e.low for _, e in mine], [e.high for _, e in mine], style.colour),
        hovertext=[_rich(f"{e.label}\n{e.note}") for _, e in mine],
        hoverinfo="text",
    )
    figure.add_trace(trace, **place)
    _arrows(figure, mine, style, place)


def _row_axis(figure: go.Figure, entries: Sequence[Row], place: dict[str, int]) -> None:
    figure.update_yaxes(
        tickmode="array",
        tickvals=list(range(len(entries))),
        ticktext=[_rich(e.label) for e in entries],
        range=[len(entries) - 0.4, -0.6],
        automargin=True,
        ticklabelstandoff=8,  # the head of an arrow at the edge does not touch the names
        showgrid=False,
        zeroline=False,
        tickfont={"size": 12},
        **place,
    )


def _notes(entries: Sequence[Row], panel: int) -> list[dict[str, Any]]:
    axis = "" if panel == 0 else str(panel + 1)
    place = {"x": 1.012, "xref": f"x{axis} domain", "yref": f"y{axis}", "xanchor": "left", "showarrow": False}
    return [
        place
        | {
            "y": i,
            "text": _rich(entry.note),
            "font": {"size": 12, "color": INK if entry.filled and math.isfinite(entry.value) else MUTED},
        }
        for i, entry in enumerate(entries)
    ]


def _matrix(plot: MatrixPlot) -> go.Figure:
    rows, columns = len(plot.rows), len(plot.columns)
    figure = go.Figure(
        go.Heatmap(
            z=[[None if math.isnan(v) else v for v in line] for line in plot.share],
            x=list(range(columns)),
            y=list(range(rows)),
            text=[list(line) for line in plot.text],
            texttemplate="%{text}",
            textfont={"size": 12, "color": INK},
            zmin=0,
            zmax=1,
            colorscale=_SHARES,
            showscale=False,
            xgap=2,
            ygap=2,
            hoverongaps=False,
            hoverinfo="skip",
        )
    )
    figure.update_xaxes(
        tickmode="array",
        tickvals=list(range(columns)),
        ticktext=[_rich(column) for column in plot.columns],
        side="top",
        **_PLAIN_AXIS,
    )
    figure.update_yaxes(
        tickmode="array",
        tickvals=list(range(rows)),
        ticktext=[_rich(row) for row in plot.rows],
        autorange="reversed",
        automargin=True,
        **_PLAIN_AXIS,
    )
    _group_titles(figure, plot)
    _layout(figure, height=rows * _CELL_HEIGHT_PX + 110)
    figure.update_layout(margin={"t": 78, "b": 12})
    return figure


def _group_titles(figure: go.Figure, plot: MatrixPlot) -> None:
    start = 0
    for name, width in plot.groups:
        figure.add_annotation(
            x=start + (width - 1) / 2,
            y=1,
            yref="paper",
            yshift=42,
            text=_bold(name),
            showarrow=False,
            font={"size": 13},
        )
        start += width
        if start < len(plot.columns):
            figure.add_vline(x=start - 0.5, line={"color": MUTED, "width": 1})


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


def _layout(figure: go.Figure, height: int) -> None:
    figure.update_layout(
        height=height,
        autosize=True,
        template="none",
        paper_bgcolor="white",
        plot_bgcolor="white",
        font={"family": FONT_STACK, "size": 13, "color": INK},
        margin={"l": 64, "r": 16, "t": _LEGEND_PX - 18, "b": 72},
        legend={
            "orientation": "h",
            "x": 0,
            "xanchor": "left",
            "y": 1,
            "yref": "container",
            "yanchor": "top",
            "font": {"size": 13},
            "itemwidth": 44,
        },
        hoverlabel={"bgcolor": "white", "bordercolor": MUTED, "font": {"color": INK, "size": 12}, "align": "left"},
    )
    figure.update_annotations(font_family=FONT_STACK)
