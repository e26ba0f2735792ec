"""Figures for papers: the descriptions of ``dashboards.plots`` drawn with matplotlib, as SVG and PNG."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any, cast

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.layout_engine import LayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from dashboards.plots import PANELS_PER_ROW, AnyPlot, CurvePlot, IntervalPlot, MatrixPlot, PicturePlot, Row, Series
from dashboards.style import BAND, GRID, INK, MUTED, ZONE, LineStyle

PNG_DPI = 150
_PICTURE_WIDTH_IN = 3.0
_LEGEND_ENTRY_IN, _CHARACTER_IN = 0.7, 0.07
"""Room of an entry of a legend without its name, and of a character of the name."""
_RC: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.edgecolor": "#9aa0a6",
    "axes.labelcolor": INK,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "svg.fonttype": "none",
    "svg.hashsalt": "scalecurves",
}
_SHARES = LinearSegmentedColormap.from_list("done", ["#f6d5c4", "#eef4f9", "#c4e3d7"])


def render(plot: AnyPlot) -> tuple[bytes, bytes]:
    """The figure as (SVG, PNG). The same description always gives the same bytes."""
    with rc_context(cast("Any", _RC)):
        if isinstance(plot, CurvePlot):
            figure = _curves(plot)
        elif isinstance(plot, IntervalPlot):
            figure = _intervals(plot)
        elif isinstance(plot, PicturePlot):
            figure = _pictures(plot)
        else:
            figure = _matrix(plot)
        FigureCanvasAgg(figure)
        # Both files share one layout, which is most of the work. With a layout engine, or "none" in its place, each
        # would be drawn once more.
        cast("LayoutEngine", figure.get_layout_engine()).execute(figure)
        figure.set_layout_engine(None)
        return _bytes(figure, plot, "svg"), _bytes(figure, plot, "png")


def _bytes(figure: Figure, plot: AnyPlot, form: str) -> bytes:
    stream = io.BytesIO()
    about: dict[str, Any] = {"Title": plot.title}
    about |= {"Date": None, "Description": plot.alt} if form == "svg" else {"Software": None}
    figure.savefig(stream, format=form, dpi=PNG_DPI, metadata=about, facecolor="white")
    return stream.getvalue()


def _curves(plot: CurvePlot) -> Figure:
    columns = min(len(plot.panels), PANELS_PER_ROW)
    rows = math.ceil(len(plot.panels) / columns)
    figure = Figure(figsize=(max(3.4 * columns, 4.4), 2.9 * rows + 0.7), layout="constrained")
    axes = figure.subplots(rows, columns, sharey=True, squeeze=False).flat
    for axis, panel in zip(axes, plot.panels, strict=False):
        axis.set_title(panel.title)
        _curve_axis(axis, plot, panel.diagonal)
        for series in panel.series:
            _draw_series(axis, series, plot.styles[series.name], plot.line_width)
    for axis in list(axes)[len(plot.panels) :]:
        axis.set_visible(False)
    for i, axis in enumerate(figure.axes):
        if i % columns == 0:
            axis.set_ylabel(plot.y_label)
        if i + columns >= len(plot.panels):
            axis.set_xlabel(plot.x_label)
    _legend(figure, plot.styles)
    return figure


def _curve_axis(axis: Axes, plot: CurvePlot, diagonal: bool) -> None:
    if plot.x_log:
        axis.set_xscale("log")
    axis.set_xlim(*plot.x_range)
    axis.set_ylim(*plot.y_range)
    axis.grid(color=GRID, linewidth=0.7)
    axis.set_axisbelow(True)
    if plot.x_ticks:
        axis.xaxis.set_major_locator(FixedLocator([x for x, _ in plot.x_ticks]))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.set_xticklabels([text for _, text in plot.x_ticks])
    if plot.y_ticks:
        axis.yaxis.set_major_locator(FixedLocator([y for y, _ in plot.y_ticks]))
        axis.set_yticklabels([text for _, text in plot.y_ticks])
    if plot.diagonal and diagonal:
        axis.plot(plot.x_range, plot.x_range, color=MUTED, linewidth=0.8, linestyle=":")
    if plot.reference is not None and plot.y_range[0] < plot.reference < plot.y_range[1]:
        axis.axhline(plot.reference, color=MUTED, linewidth=0.8, linestyle=":")


def _draw_series(axis: Axes, series: Series, style: LineStyle, width: float) -> None:
    axis.scatter(series.dots_x, series.dots_y, s=6, color=style.colour, alpha=0.4, linewidths=0)
    if series.fit is not None:
        axis.plot(series.fit.x, series.fit.y, color=style.colour, linewidth=0.7, linestyle=(0, (4, 3)))
        x, y = series.fit.held_out
        axis.scatter([x], [y], s=55, facecolors="none", edgecolors=style.colour, linewidths=0.9, zorder=3)
    if not isinstance(series.hollow, bool):  # each point for itself
        face = ["white" if hollow else style.colour for hollow in series.hollow]
        marker = style.mpl_marker
        axis.scatter(series.x, series.y, s=28, c=face, edgecolors=style.colour, marker=marker, linewidths=1.2, zorder=3)
        return
    axis.errorbar(
        series.x,
        series.y,
        yerr=_bars(series.y, series.low, series.high) if any(map(math.isfinite, (*series.low, *series.high))) else None,
        xerr=_bars(series.x, series.x_low, series.x_high) if len(series.x_low) else None,
        color=style.colour,
        linestyle=style.mpl_dash if series.joined else "none",
        linewidth=0.75 * width,
        marker=style.mpl_marker if series.marked else "none",
        markersize=5,
        markerfacecolor="white" if series.hollow else style.colour,
        markeredgecolor=style.colour if series.hollow else "white",
        markeredgewidth=1.0 if series.hollow else 0.5,
        elinewidth=1.0,
        capsize=2,
    )


def _bars(y: Sequence[float], low: Sequence[float], high: Sequence[float]) -> list[list[float]]:
    return [
        [max(a - b, 0.0) if math.isfinite(b) else 0.0 for a, b in zip(y, low, strict=True)],
        [max(b - a, 0.0) if math.isfinite(b) else 0.0 for a, b in zip(y, high, strict=True)],
    ]


def _intervals(plot: IntervalPlot) -> Figure:
    sizes = [len(entries) for _, entries in plot.panels]
    figure = Figure(figsize=(7.2, 0.22 * sum(sizes) + 0.62 * len(sizes) + 0.3), layout="constrained")
    axes = figure.subplots(len(sizes), 1, squeeze=False, sharex=True, height_ratios=[s + 0.5 for s in sizes]).flat
    for axis, (title, entries) in zip(axes, plot.panels, strict=True):
        axis.set_title(title)
        if plot.x_log:
            axis.set_xscale("log")
        axis.set_xlim(*plot.x_range)
        axis.tick_params(labelbottom=True)
        if plot.x_ticks:
            axis.xaxis.set_major_locator(FixedLocator([x for x, _ in plot.x_ticks]))
            axis.xaxis.set_minor_locator(NullLocator())
            axis.set_xticklabels([text for _, text in plot.x_ticks])
        axis.grid(axis="x", color=GRID, linewidth=0.7)
        axis.set_axisbelow(True)
        if plot.zone is not None:
            axis.axvspan(-plot.zone, plot.zone, color=ZONE, linewidth=0)
            axis.axvline(0, color=MUTED, linewidth=0.8)
        _draw_rows(axis, entries, plot.styles)
    figure.axes[-1].set_xlabel(plot.x_label)
    return figure


def _draw_rows(axis: Axes, entries: Sequence[Row], styles: dict[str, LineStyle]) -> None:
    alike: dict[tuple[str, bool], list[tuple[int, Row]]] = {}
    for i, entry in enumerate(entries):
        known = math.isfinite(entry.value)
        if entry.band is not None and all(map(math.isfinite, entry.band)):
            low, high = entry.band
            axis.barh([i], [high - low], left=[low], height=0.72, color=BAND, linewidth=0, zorder=0.5)
        if known:
            _reference(axis, entry, i, styles[entry.name])
            alike.setdefault((entry.name, entry.filled), []).append((i, entry))
        axis.text(
            1.02,
            i,
            entry.note,
            transform=axis.get_yaxis_transform(),
            va="center",
            fontsize=8,
            color=INK if entry.filled and known else MUTED,
        )
    for (name, filled), rows in alike.items():
        _points(axis, rows, styles[name], filled)
    axis.set_yticks(range(len(entries)), [e.label for e in entries], fontsize=8)
    axis.set_ylim(len(entries) - 0.4, -0.6)


def _points(axis: Axes, rows: Sequence[tuple[int, Row]], style: LineStyle, filled: bool) -> None:
    """Points that look alike, with their intervals: one by one they would take most of the time of a long figure."""
    values = [entry.value for _, entry in rows]
    axis.errorbar(
        values,
        [i for i, _ in rows],
        xerr=_bars(values, [entry.low for _, entry in rows], [entry.high for _, entry in rows]),
        color=style.colour,
        linestyle="none",
        marker=style.mpl_marker,
        markersize=5.5,
        markerfacecolor=style.colour if filled else "white",
        markeredgecolor=style.colour,
        elinewidth=1.1,
        capsize=2,
    )


def _reference(axis: Axes, entry: Row, i: int, style: LineStyle) -> None:
    """The second position of a row, and heads where its interval has no end."""
    if math.isfinite(entry.reference):
        axis.plot([entry.value, entry.reference], [i, i], color=MUTED, linewidth=0.8, linestyle=":")
        axis.plot([entry.reference], [i], color=INK, marker="X", markersize=5.5, linestyle="none")
    heads = [(entry.low, "<", entry.open_low), (entry.high, ">", entry.open_high)]
    for x, marker, shown in heads:
        if shown and math.isfinite(x):
            axis.plot([x], [i], color=style.colour, marker=marker, markersize=6, linestyle="none", clip_on=False)


def _matrix(plot: MatrixPlot) -> Figure:
    rows, columns = len(plot.rows), len(plot.columns)
    figure = Figure(figsize=(max(1.8 + 0.75 * columns, 4.0), 0.32 * rows + 0.9), layout="constrained")
    axis = figure.subplots()
    axis.imshow(plot.share, cmap=_SHARES, vmin=0, vmax=1, aspect="auto")
    for r, line in enumerate(plot.text):
        for c, text in enumerate(line):
            axis.text(c, r, text, ha="center", va="center", fontsize=8)
    axis.set_xticks(range(columns), plot.columns, fontsize=8)
    axis.xaxis.tick_top()
    axis.set_yticks(range(rows), plot.rows, fontsize=8)
    axis.set_xticks([c - 0.5 for c in range(1, columns)], minor=True)
    axis.set_yticks([r - 0.5 for r in range(1, rows)], minor=True)
    axis.grid(which="minor", color="white", linewidth=2)
    axis.tick_params(which="both", length=0)
    for spine in axis.spines.values():
        spine.set_visible(False)
    start = 0
    for name, width in plot.groups:
        axis.annotate(
            name,
            (start + (width - 1) / 2, 1.0),
            xytext=(0, 20),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha="center",
            fontweight="bold",
        )
        start += width
    return figure


def _pictures(plot: PicturePlot) -> Figure:
    rows, columns = len(plot.rows), len(plot.columns)
    height = _PICTURE_WIDTH_IN * plot.aspect + 0.1
    figure = Figure(figsize=(1.4 + _PICTURE_WIDTH_IN * columns, height * rows + 0.4), layout="constrained")
    axis = figure.subplots()
    for r, line in enumerate(plot.pictures):
        for c, pixels in enumerate(line):
            extent = (c - 0.48, c + 0.48, r + 0.46, r - 0.46)
            axis.imshow(pixels, extent=extent, aspect="auto", interpolation="nearest")
    axis.set_xlim(-0.5, columns - 0.5)
    axis.set_ylim(rows - 0.5, -0.5)
    axis.set_xticks(range(columns), plot.columns)
    axis.xaxis.tick_top()
    axis.set_yticks(range(rows), plot.rows, fontsize=8)
    axis.tick_params(length=0)
    for spine in axis.spines.values():
        spine.set_visible(False)
    return figure


def _legend(figure: Figure, styles: dict[str, LineStyle]) -> None:
    handles = [
        Line2D(
            [],
            [],
            color=s.colour,
            linestyle=cast("Any", s.mpl_dash),
            linewidth=1.5,
            marker=s.mpl_marker,
            markersize=5,
            label=name,
        )
        for name, s in styles.items()
    ]
    widths = [_LEGEND_ENTRY_IN + _CHARACTER_IN * len(name) for name in styles]
    room = figure.get_figwidth()
    columns = len(widths) if sum(widths) <= room else max(1, int(room / max(widths)))
    figure.legend(handles=handles, loc="outside upper left", ncols=columns, frameon=False, handlelength=3.2)
