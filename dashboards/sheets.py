"""Figures of plotly, put together from dictionaries: panels, their axes, and what is drawn in them."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import plotly.graph_objects as go

from dashboards.style import FONT_STACK, INK, MUTED

LEGEND_PX = 96
"""Room above the panels: legend and panel titles."""

_LEGEND: dict[str, Any] = {
    "orientation": "h",
    "x": 0,
    "xanchor": "left",
    "y": 1,
    "yref": "container",
    "yanchor": "top",
    "font": {"size": 13},
    "itemwidth": 44,
}
_HOVER: dict[str, Any] = {
    "bgcolor": "white",
    "bordercolor": MUTED,
    "font": {"color": INK, "size": 12},
    "align": "left",
}


@dataclass(slots=True)
class Sheet:
    """Traces and layout of a figure, as dictionaries.

    plotly checks them once, when the figure is made of them; adding to a figure piece by piece, it checks what is there
    already each time, which takes seconds for a figure of many panels.

    Attributes:
        panels: (left, right, bottom, top) of each, shares of the page.
        titles: Their titles.
        shared_y: Whether panels of one row have one vertical axis.
    """

    panels: Sequence[tuple[float, float, float, float]]
    titles: Sequence[str] = ()
    shared_y: bool = False
    traces: list[dict[str, Any]] = field(default_factory=list)
    shapes: list[dict[str, Any]] = field(default_factory=list)
    annotations: list[dict[str, Any]] = field(default_factory=list)
    axes: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for i, (left, right, bottom, top) in enumerate(self.panels):
            n = axis_number(i)
            self.axes[f"xaxis{n}"] = {"anchor": f"y{n}", "domain": [left, right]}
            self.axes[f"yaxis{n}"] = {"anchor": f"x{n}", "domain": [bottom, top]}
            first = next(k for k, panel in enumerate(self.panels) if panel[2:] == (bottom, top))
            if self.shared_y and first != i:
                self.axes[f"yaxis{n}"] |= {"matches": f"y{axis_number(first)}", "showticklabels": False}
        for (left, right, _, top), title in zip(self.panels, self.titles, strict=False):
            self.annotations.append(
                {"text": bold(title), "x": (left + right) / 2, "xanchor": "center", "xref": "paper"}
                | {"y": top, "yanchor": "bottom", "yref": "paper", "showarrow": False, "font": {"size": 16}}
            )

    def x_axis(self, panel: int) -> dict[str, Any]:
        """The horizontal axis of a panel."""
        return self.axes[f"xaxis{axis_number(panel)}"]

    def y_axis(self, panel: int) -> dict[str, Any]:
        """The vertical axis of a panel."""
        return self.axes[f"yaxis{axis_number(panel)}"]

    def add(self, panel: int, trace: dict[str, Any]) -> None:
        """A trace, drawn over those before it."""
        self.traces.append(
            {"type": "scatter"} | trace | {"xaxis": f"x{axis_number(panel)}", "yaxis": f"y{axis_number(panel)}"}
        )

    def add_across(self, panel: int, shape: dict[str, Any], *, of_x: bool) -> None:
        """A line or a zone through a panel: from bottom to top at an x, or from left to right at a y."""
        n = axis_number(panel)
        x, y = (f"x{n}", f"y{n} domain") if of_x else (f"x{n} domain", f"y{n}")
        self.shapes.append(({"y0": 0, "y1": 1} if of_x else {"x0": 0, "x1": 1}) | shape | {"xref": x, "yref": y})

    def figure(self, height: int, **layout: Any) -> go.Figure:
        """The figure; height in pixels."""
        common: dict[str, Any] = {
            "height": height,
            "autosize": True,
            "template": "none",
            "paper_bgcolor": "white",
            "plot_bgcolor": "white",
            "font": {"family": FONT_STACK, "size": 13, "color": INK},
            "margin": {"l": 64, "r": 16, "t": LEGEND_PX - 18, "b": 72},
            "legend": _LEGEND,
            "hoverlabel": _HOVER,
        }
        marks = {"shapes": self.shapes, "annotations": self.annotations}
        return go.Figure(data=self.traces, layout=common | self.axes | marks | layout)


def axis_number(panel: int) -> str:
    """As plotly numbers axes: nothing, 2, 3 and so on."""
    return "" if panel == 0 else str(panel + 1)


def rich(text: str) -> str:
    """Text for plotly, which would otherwise take tags in a user's names for its own."""
    return html.escape(text, quote=False).replace("\n", "<br>")


def bold(text: str) -> str:
    """The same in bold."""
    return f"<b>{rich(text)}</b>"
