"""Grids of pictures drawn with plotly: pictures of a layout over plain axes, so that they stay sharp and small."""

from __future__ import annotations

import base64
import html
import io
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from PIL import Image

from dashboards.plots import PicturePlot
from dashboards.style import FONT_STACK, INK

_WIDTH_PX = 400
"""Room for a picture of a grid of two columns."""
_GAP_PX, _HEAD_PX = 14, 60


def draw_pictures(plot: PicturePlot) -> go.Figure:
    """The plotly figure of a grid. Its width follows the page; its height is fixed, in pixels."""
    images = [
        {"source": _data_uri(pixels), "x": c, "y": r, "sizex": 0.96, "sizey": 0.92, "xref": "x", "yref": "y"}
        | {"xanchor": "center", "yanchor": "middle", "sizing": "contain"}
        for r, line in enumerate(plot.pictures)
        for c, pixels in enumerate(line)
    ]
    rows, columns = len(plot.rows), len(plot.columns)
    layout: dict[str, Any] = {
        "height": round(rows * (_WIDTH_PX * plot.aspect + _GAP_PX)) + _HEAD_PX,
        "autosize": True,
        "template": "none",
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "font": {"family": FONT_STACK, "size": 13, "color": INK},
        "margin": {"l": 64, "r": 16, "t": 40, "b": 12},
        "xaxis": _axis(plot.columns) | {"range": [-0.5, columns - 0.5], "side": "top"},
        "yaxis": _axis(plot.rows) | {"range": [rows - 0.5, -0.5], "automargin": True},
        "images": images,
    }
    return go.Figure(layout=layout)


def _axis(names: tuple[str, ...]) -> dict[str, Any]:
    plain = {"showgrid": False, "zeroline": False, "fixedrange": True, "ticks": ""}
    texts = [html.escape(name, quote=False) for name in names]
    return plain | {"tickmode": "array", "tickvals": list(range(len(names))), "ticktext": texts}


def _data_uri(pixels: NDArray[np.uint8]) -> str:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
