"""Figures of representations: layers from the image to the head, a line per source."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from dashboards.plots import (
    CurvePlot,
    IntervalPlot,
    Panel,
    Row,
    Series,
    finite,
    interval,
    ordered,
    padded,
    records,
    split,
)
from dashboards.representation_tables import CKA, OTHER_SEED
from dashboards.style import LineStyle, amount_text, file_key, number, source_groups, source_styles
from dashboards.weight_tables import BACKBONE, HEAD, OWN_START
from search_spaces.names import Moment

LINE_LENGTH, MOST_LINES = 36, 3
"""Characters of layers' names that find room below a panel."""

UNTRAINED = "two untrained networks"
PERMUTED = "images permuted"
_NULLS = {
    UNTRAINED: LineStyle(colour="#5f6368", dash="dot", symbol="star", mpl_dash=":", mpl_marker="*"),
    PERMUTED: LineStyle(
        colour="#9aa0a6", dash="longdashdot", symbol="triangle-down", mpl_dash=(0, (8, 2, 1, 2)), mpl_marker="v"
    ),
}


def drift_plots(drift: pd.DataFrame, pairs: pd.DataFrame, baseline: str) -> list[CurvePlot]:
    """Debiased CKA of each layer after training with itself before: a figure per task and scale, a panel per amount.

    Args:
        drift: ``Tables.of("representation_drift")``.
        pairs: ``Tables.of("representation_pairs")``, for the line of two untrained networks.
        baseline: Source that all are compared with.
    """
    plots = []
    for (task, scale), rows in split(drift[drift["measure"] == CKA], "task", "model_scale"):
        own = pairs[(pairs["task"] == task) & (pairs["model_scale"] == scale)] if len(pairs) else pairs
        for names, styles, suffix in _groups(rows, baseline):
            chosen = rows[rows["pretraining_source"].isin(names)]
            panels = tuple(
                Panel(
                    title=amount_text(str(fraction)),
                    series=(*_nulls(part, own, str(fraction), baseline), *_lines(part, names, "layer")),
                )
                for (fraction,), part in split(chosen, "data_fraction")
            )
            plots.append(
                _curves(
                    file_key("representation_drift", str(task), str(scale)) + suffix,
                    f"{task}, {scale}: how like its start each layer is after training",
                    "Debiased linear CKA of a layer's activations before and after training, mean over seeds; bars: "
                    f"interval over seeds. 1: unchanged up to rotation and scale. Dotted: two untrained networks of "
                    f"{baseline}; {PERMUTED}: the same networks, the images of one in another order. The mean over the "
                    "map of a first convolution, before any non-linearity, holds little but the image's mean colour.",
                    chosen,
                    panels,
                    styles | _NULLS,
                    "layer",
                    "debiased CKA with the start",
                )
            )
    return plots


def pair_plots(pairs: pd.DataFrame, baseline: str) -> list[CurvePlot]:
    """Debiased CKA between trained networks of different seeds, at the largest amount: of one source, and with the
    baseline.

    Args:
        pairs: ``Tables.of("representation_pairs")``.
        baseline: Source that all are compared with.
    """
    plots = []
    trained = pairs[(pairs["measure"] == CKA) & (pairs["moment"] == str(Moment.FINAL)) & (pairs["seeds"] == OTHER_SEED)]
    for (task, scale), rows in split(trained, "task", "model_scale"):
        fraction = str(rows["data_fraction"].iloc[-1])
        rows = rows[rows["data_fraction"] == fraction]
        own = pairs[(pairs["task"] == task) & (pairs["model_scale"] == scale)]
        for names, styles, suffix in _groups(rows, baseline):
            chosen = rows[rows["pretraining_source"].isin(names)]
            alike = chosen["pretraining_source"] == chosen["other_source"]
            panels = [
                Panel(
                    title=title,
                    series=(*_untrained(own, fraction, baseline), *_lines(part, names, "layer")),
                )
                for title, part in (
                    ("two networks of one source", chosen[alike]),
                    (f"a network and one of {baseline}", chosen[~alike]),
                )
                if len(part)
            ]
            plots.append(
                _curves(
                    file_key("representation_pairs", str(task), str(scale)) + suffix,
                    f"{task}, {scale}: how alike trained networks are, {amount_text(fraction)}",
                    "Debiased linear CKA between networks of different seeds after training, mean over pairs; bars: "
                    f"jackknife interval over seeds (from three). Dotted: two untrained networks of {baseline}.",
                    chosen,
                    tuple(panels),
                    styles | _NULLS,
                    "layer",
                    "debiased CKA between networks",
                )
            )
    return plots


def distance_plots(distances: pd.DataFrame, baseline: str) -> list[CurvePlot]:
    """Relative distance of the weights from their start: a figure per task and scale, a panel per amount.

    Args:
        distances: ``Tables.of("weight_distance")``.
        baseline: Source that all are compared with.
    """
    plots = []
    inside = distances[~distances["part"].isin([HEAD, BACKBONE])]
    for (task, scale), rows in split(inside, "task", "model_scale"):
        for names, styles, suffix in _groups(rows, baseline):
            chosen = rows[rows["pretraining_source"].isin(names)]
            panels = tuple(
                Panel(title=amount_text(str(fraction)), series=_lines(part, names, "part"))
                for (fraction,), part in split(chosen, "data_fraction")
            )
            plots.append(
                _curves(
                    file_key("weight_distance", str(task), str(scale)) + suffix,
                    f"{task}, {scale}: how far the weights are from their start",
                    "|end - start| / |start| over all parameters of a part (L2), mean over seeds; bars: interval over "
                    "seeds. Running statistics of normalisation layers are no parameters; the head, which starts anew, "
                    "and the backbone as a whole are in the table below.",
                    chosen,
                    panels,
                    styles,
                    "part",
                    "relative distance",
                )
            )
    return plots


def filter_plots(filters: pd.DataFrame, baseline: str) -> list[IntervalPlot]:
    """Correlation of each first filter with its start: a figure per task, a panel per scale.

    Args:
        filters: ``Tables.of("filter_correlation")``.
        baseline: Source that all are compared with.
    """
    plots = []
    for (task,), rows in split(filters[filters["comparison"] == OWN_START], "task"):
        sources = ordered(rows["pretraining_source"], baseline)
        panels = tuple(
            (str(scale), tuple(_filter_row(row) for row in records(part)))
            for (scale,), part in split(rows, "model_scale")
        )
        low, high = padded(finite([*rows["value"], *rows["low"], *rows["high"], 0.0, 1.0]))
        plots.append(
            IntervalPlot(
                key=file_key("filter_correlation", str(task)),
                title=f"{task}: first filters after training against their start",
                caption="Mean Pearson correlation of each filter of the first convolution with itself before training; "
                "bars: interval over seeds. Cross: each filter with the starts of the others.",
                alt="; ".join(_in_words(row, "") for row in records(rows)),
                table=rows,
                panels=panels,
                styles=source_styles(sources, baseline),
                x_label="correlation",
                x_range=(low, high),
            )
        )
    return plots


def _filter_row(row: dict[str, object]) -> Row:
    return Row(
        label=f"{row['pretraining_source']}, {amount_text(str(row['data_fraction']))}",
        name=str(row["pretraining_source"]),
        value=_number(row, "value"),
        low=_number(row, "low"),
        high=_number(row, "high"),
        filled=True,
        note=f"{number(_number(row, 'value'))}, {row['n_seeds']} seeds",
        reference=_number(row, "null_mean"),
    )


def _groups(rows: pd.DataFrame, baseline: str) -> list[tuple[list[str], dict[str, LineStyle], str]]:
    """Sources of each figure with their styles and the end of its key."""
    sources = ordered(rows["pretraining_source"], baseline)
    styles = source_styles(sources, baseline)
    groups = source_groups(sources, baseline)
    return [(names, {n: styles[n] for n in names}, f"_{part + 1}" if part else "") for part, names in enumerate(groups)]


def _lines(rows: pd.DataFrame, names: Sequence[str], at: str) -> tuple[Series, ...]:
    return tuple(
        _series(name, mine, at)
        for name in names
        if len(mine := rows[rows["pretraining_source"] == name].sort_values("depth"))
    )


def _series(name: str, rows: pd.DataFrame, at: str, column: str = "value", interval_of: bool = True) -> Series:
    nothing = [math.nan] * len(rows)
    return Series(
        name=name,
        x=[float(depth) for depth in rows["depth"]],
        y=list(rows[column]),
        low=list(rows["low"]) if interval_of else nothing,
        high=list(rows["high"]) if interval_of else nothing,
        hover=[f"{name}, {row[at]}: {number(_number(row, column))}" for row in records(rows)],
    )


def _nulls(drift: pd.DataFrame, pairs: pd.DataFrame, fraction: str, baseline: str) -> tuple[Series, ...]:
    """What the baseline gives with permuted images, and two untrained networks of it."""
    own = drift[drift["pretraining_source"] == baseline].sort_values("depth")
    permuted = (_series(PERMUTED, own, "layer", "null_mean", interval_of=False),) if len(own) else ()
    return (*_untrained(pairs, fraction, baseline), *permuted)


def _untrained(pairs: pd.DataFrame, fraction: str, baseline: str) -> tuple[Series, ...]:
    if pairs.empty:
        return ()
    chosen = pairs[
        (pairs["measure"] == CKA)
        & (pairs["moment"] == str(Moment.INITIAL))
        & (pairs["pretraining_source"] == baseline)
        & (pairs["other_source"] == baseline)
        & (pairs["data_fraction"] == fraction)
    ].sort_values("depth")
    return (_series(UNTRAINED, chosen, "layer", interval_of=False),) if len(chosen) else ()


def _curves(
    key: str,
    title: str,
    caption: str,
    rows: pd.DataFrame,
    panels: tuple[Panel, ...],
    styles: dict[str, LineStyle],
    at: str,
    y_label: str,
) -> CurvePlot:
    places = rows[[at, "depth"]].drop_duplicates().sort_values("depth")
    shared, texts = tick_texts([str(name) for name in places[at]])
    heights = [y for panel in panels for series in panel.series for y in (*series.y, *series.low, *series.high)]
    words = "; ".join(_in_words(row, str(row[at])) for row in records(rows))
    drawn = {series.name for panel in panels for series in panel.series}
    return CurvePlot(
        key=key,
        title=title,
        caption=caption,
        alt=f"{title}. {words}.",
        table=rows,
        panels=panels,
        styles={name: style for name, style in styles.items() if name in drawn},
        x_label=f"{at}{f' of {shared}' if shared else ''}, from the image to the head",
        y_label=y_label,
        x_range=padded([float(d) for d in places["depth"]]),
        y_range=padded(finite(heights)),
        x_log=False,
        x_ticks=tuple((float(depth), text) for depth, text in zip(places["depth"], texts, strict=True)),
        line_width=1.6,
    )


def tick_texts(names: Sequence[str]) -> tuple[str, list[str]]:
    """The module that all names begin with, and the rest of each; in several lines, by turns, where they are many."""
    first = names[0].split(".")
    alike = 0
    while all(name.split(".")[:alike] == first[:alike] and name.count(".") >= alike for name in names):
        alike += 1
    shared = first[: max(alike - 1, 0)] if len(names) > 1 else []
    short = [".".join(name.split(".")[len(shared) :]) for name in names]
    lines = min(MOST_LINES, math.ceil(sum(len(text) + 1 for text in short) / LINE_LENGTH))
    return ".".join(shared), ["\n" * (n % lines) + text for n, text in enumerate(short)]


def _in_words(row: dict[str, object], place: str) -> str:
    where = f"{row['model_scale']}, {row['pretraining_source']}, {amount_text(str(row['data_fraction']))}"
    value = interval(row["value"], row["low"], row["high"])
    return f"{where}{', ' + place if place else ''}: {value}"


def _number(row: dict[str, object], name: str) -> float:
    value = row[name]
    return float(value) if isinstance(value, int | float) else math.nan
