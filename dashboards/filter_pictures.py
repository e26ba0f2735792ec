"""Pictures of first filters, before training and after it: what Raghu et al. 2019 show of conv1."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dashboards.evidence import Evidence
from dashboards.plots import PicturePlot
from dashboards.representation_tables import Block, Run, blocks
from dashboards.statistics import filter_correlation
from dashboards.statistics.predictions import FloatArray
from dashboards.style import amount_text, file_key, number

BEFORE, AFTER = "before training", "after training"
_KERNEL_PX = 28
"""Side of a filter in the picture, about."""
_GAP_PX = 3

Pixels = NDArray[np.uint8]


def filter_pictures(evidence: Evidence) -> list[PicturePlot]:
    """A figure per task, scale and amount, a row per source, of the first seed that kept its filters."""
    plots = []
    for block in blocks(evidence):
        for fraction in dict.fromkeys(fraction for _, fraction in block.cells):
            runs = {source: run for source in _sources(block) if (run := _first(block, source, fraction)) is not None}
            if runs:
                plots.append(_plot(block, fraction, runs))
    return plots


def _sources(block: Block) -> list[str]:
    names = dict.fromkeys(source for source, _ in block.cells)
    return sorted(names, key=lambda source: source != block.baseline)


def _first(block: Block, source: str, fraction: str) -> Run | None:
    runs = block.cells.get((source, fraction), [])
    return next((run for run in runs if _both(run) is not None), None)


def _both(run: Run) -> tuple[FloatArray, FloatArray] | None:
    before, after = run.kept.initial.filters, run.kept.final.filters
    return None if before is None or after is None else (before, after)


def _plot(block: Block, fraction: str, runs: dict[str, Run]) -> PicturePlot:
    pictures: list[tuple[Pixels, ...]] = []
    rows: list[dict[str, Any]] = []
    for source, run in runs.items():
        filters = _both(run)
        assert filters is not None
        size = np.abs(filters).max(axis=(0, 2, 3, 4))
        pictures.append(tuple(mosaic(of, size) for of in filters))
        coordinates = block.coordinates | {"pretraining_source": source, "data_fraction": fraction}
        rows += _rows(coordinates | {"seed": run.seed.label}, *filters)
    table = pd.DataFrame(rows)
    means = table.groupby("pretraining_source", sort=False)["correlation"].mean()
    words = "; ".join(f"{source}: mean correlation with the start {number(value)}" for source, value in means.items())
    return PicturePlot(
        key=file_key("first_filters", block.task, block.scale, fraction),
        title=f"{block.task}, {block.scale}: first filters, {amount_text(fraction)}",
        caption=f"Weights of the first convolution, {BEFORE} and {AFTER}, filters in one order: red, green and blue "
        "are the weights that read these channels, grey is 0, and the largest weight of a filter at either moment sets "
        "its contrast. Of one seed each.",
        alt=f"First filters of {block.scale} on {block.task}, {amount_text(fraction)}, {BEFORE} and {AFTER}. {words}.",
        table=table,
        rows=tuple(runs),
        columns=(BEFORE, AFTER),
        pictures=tuple(pictures),
    )


def _rows(coordinates: dict[str, Any], before: FloatArray, after: FloatArray) -> Iterable[dict[str, Any]]:
    found = filter_correlation(before, after)
    sizes = [np.linalg.norm(of.reshape(len(of), -1), axis=1) for of in (before, after)]
    for n, (value, start, end) in enumerate(zip(found.values, *sizes, strict=True)):
        yield coordinates | {"filter": n, "correlation": float(value), "norm_before": float(start), "norm": float(end)}


def mosaic(filters: FloatArray, size: Sequence[float] | FloatArray) -> Pixels:
    """Filters side by side on white.

    Args:
        filters: (F, 3, H, W) weights.
        size: (F,) weight that is drawn in full colour; a filter whose size is 0 is grey.

    Returns:
        (h, w, 3) pixels, filters in rows, each weight as a square.
    """
    count, _, height, width = filters.shape
    scale = np.where(np.asarray(size) > 0, size, 1.0)[:, None, None, None]
    levels = np.clip(np.rint(127.5 * (1 + filters / scale)), 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
    zoom = max(1, round(_KERNEL_PX / max(height, width)))
    tiles = levels.repeat(zoom, axis=1).repeat(zoom, axis=2)
    across = min(count, 2 ** math.ceil(math.log2(math.sqrt(2 * count))))
    down = math.ceil(count / across)
    side_y, side_x = tiles.shape[1] + _GAP_PX, tiles.shape[2] + _GAP_PX
    pixels = np.full((down * side_y - _GAP_PX, across * side_x - _GAP_PX, 3), 255, np.uint8)
    for n, tile in enumerate(tiles):
        y, x = (n // across) * side_y, (n % across) * side_x
        pixels[y : y + tile.shape[0], x : x + tile.shape[1]] = tile
    return pixels
