"""Figures with lines: metric against labelled images, against model size, and shifted set against test."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from dashboards.amounts import amount_positions
from dashboards.plots import (
    PANELS_PER_ROW,
    CurvePlot,
    FittedLine,
    Panel,
    Series,
    as_float,
    finite,
    interval,
    interval_name,
    ordered,
    padded,
    records,
    split,
)
from dashboards.statistics import PowerLaw
from dashboards.style import (
    LineStyle,
    amount_text,
    chance_level,
    count,
    direction,
    file_key,
    metric_label,
    number,
    plural,
    signed,
    size_text,
    source_groups,
    source_styles,
)

_X_LABELS = {True: "labelled training images", False: "amount of labelled training data"}
_X_CAPTIONS = {
    True: "labelled training images, logarithmic, with the share of the training set below",
    False: "amount of labelled training data as reported, logarithmic; the number of images is not known",
}


def scale_curves(
    cells: pd.DataFrame, trials: pd.DataFrame, baseline: str, fits: pd.DataFrame | None = None
) -> list[CurvePlot]:
    """Metric against labelled training images: a figure per task and evaluation set, a panel per scale.

    Args:
        cells: ``tables.cells``, primary metrics only.
        trials: ``tables.trial_values``, for the single seeds.
        baseline: Source that all are compared with.
        fits: ``tables.curve_fits``; those that are identified are drawn, within the range of the points.
    """
    plots = []
    for (task, set_name), of_set in split(cells.dropna(subset=["value"]), "task", "set"):
        seeds = trials[(trials["task"] == task) & (trials["set"] == set_name)]
        laws = _laws(fits, str(task), str(set_name))
        sources = ordered(of_set["pretraining_source"], baseline)
        for part, names in enumerate(source_groups(sources, baseline)):
            chosen = of_set[of_set["pretraining_source"].isin(names)]
            suffix = f"_{part + 1}" if part else ""
            plots.append(_curve_plot(task, set_name, chosen, seeds, laws, source_styles(sources, baseline), suffix))
    return plots


Laws = dict[tuple[str, str], dict[str, Any]]
"""(scale, source) -> row of ``tables.curve_fits``."""


def _laws(fits: pd.DataFrame | None, task: str, set_name: str) -> Laws:
    if fits is None or fits.empty:
        return {}
    chosen = fits[(fits["task"] == task) & (fits["set"] == set_name) & fits["identified"].astype(bool)]
    return {(str(row["model_scale"]), str(row["pretraining_source"])): row for row in records(chosen)}


def _curve_plot(
    task: str,
    set_name: str,
    cells: pd.DataFrame,
    seeds: pd.DataFrame,
    laws: Laws,
    styles: dict[str, LineStyle],
    suffix: str,
) -> CurvePlot:
    metric = str(cells["metric"].iloc[0])
    positions, in_images = amount_positions(cells)
    x_range = _log_range(positions)
    names = [n for n in styles if n in set(cells["pretraining_source"])]
    laws = {key: law for key, law in laws.items() if in_images and key[1] in names}
    shift = dict(zip(names, _dodge(len(names), x_range), strict=True))
    aside = 10 ** (0.006 * math.log10(x_range[1] / x_range[0]))
    panels = tuple(
        Panel(
            title=str(scale),
            series=tuple(
                _curve(of_scale, seeds, name, str(scale), positions, shift[name], aside, laws.get((str(scale), name)))
                for name in names
            ),
        )
        for (scale,), of_scale in split(cells, "model_scale")
    )
    y_range = _y_range(panels, metric)
    intervals = f"bars: {interval_name(cells)}; small dots: single seeds"
    return CurvePlot(
        key=file_key("scale_curves", task, set_name) + suffix,
        title=f"{task}: {metric_label(metric)} on {set_name}",
        caption=f"Horizontal axis: {_X_CAPTIONS[in_images]}; points of one amount are moved apart sideways so that "
        f"they can be read; {intervals}.{_FITTED if laws else ''}",
        alt=f"{metric_label(metric)} of {task} on {set_name} against {_X_LABELS[in_images]}. {_curves_in_words(cells)}",
        table=cells,
        panels=panels,
        styles={n: styles[n] for n in names},
        x_label=_X_LABELS[in_images],
        y_label=metric_label(metric),
        x_range=x_range,
        y_range=y_range,
        x_log=True,
        x_ticks=_amount_ticks(positions, in_images, x_range, len(panels)),
        reference=chance_level(metric),
    )


def _curve(
    cells: pd.DataFrame,
    seeds: pd.DataFrame,
    name: str,
    scale: str,
    positions: pd.Series[float],
    shift: float,
    aside: float,
    law: dict[str, Any] | None,
) -> Series:
    """``shift`` moves the points of a source, ``aside`` its single seeds, off the bar that would hide them."""
    mine = cells[cells["pretraining_source"] == name]
    mine = mine.assign(x=mine["data_fraction"].map(positions)).sort_values("x")
    own = seeds[(seeds["pretraining_source"] == name) & (seeds["model_scale"] == scale)]
    own = own.dropna(subset=["value"])
    return Series(
        name=name,
        x=[x * shift for x in mine["x"]],
        y=list(mine["value"]),
        low=list(mine["low"]),
        high=list(mine["high"]),
        hover=[_hover(row) for row in records(mine)],
        dots_x=[x * shift * aside for x in own["data_fraction"].map(positions)],
        dots_y=list(own["value"]),
        fit=None if law is None else _fitted(law, shift),
    )


_FITTED = (
    " Thin dashed lines: power laws of the error, fitted to the points of a curve and drawn between the first and the "
    "last; rings: where a fit to all other points puts the last one. They decide nothing."
)
_FIT_POINTS = 40


def _fitted(law: dict[str, Any], shift: float) -> FittedLine:
    """The power law of one curve between the amounts that it was fitted to, in the units of the metric."""
    low, high = float(law["images_from"]), float(law["images_to"])
    up = direction(str(law["metric"])) > 0
    fit = PowerLaw(
        floor=law["floor"],
        scale=law["scale"],
        exponent=law["exponent"],
        cost=math.nan,
        identified=True,
        largest=high,
    )
    at = np.clip(np.geomspace(low, high, _FIT_POINTS), low, high)  # rounding must not lead beyond the points
    errors = fit.predict(at)
    predicted, observed = (1 - law[k] if up else law[k] for k in ("last_error_predicted", "last_error"))
    return FittedLine(
        x=[float(n * shift) for n in at],
        y=[float(1 - e if up else e) for e in errors],
        held_out=(high * shift, float(predicted)),
        hover=f"{law['pretraining_source']} · {law['model_scale']}: a fit to all other points puts the last one at "
        f"{number(predicted)}; it is {number(observed)}",
    )


def _hover(row: dict[str, Any]) -> str:
    return (
        f"{row['pretraining_source']} · {row['model_scale']} · {amount_text(str(row['data_fraction']))}"
        f"{_in_images(row)}\n{interval(row['value'], row['low'], row['high'])}, "
        f"{plural(int(as_float(row['n_seeds'])), 'seed')}"
    )


def parameter_plots(scales: pd.DataFrame, baseline: str) -> list[CurvePlot]:
    """Metric against model size: a figure per task, a panel per amount; lines join scales of one ladder only.

    Args:
        scales: ``tables.scales``.
        baseline: Source that all are compared with.
    """
    plots = []
    for (task, set_name), of_set in split(scales.dropna(subset=["value", "parameters"]), "task", "set"):
        if of_set["model_scale"].nunique() < 2:
            continue
        sources = ordered(of_set["pretraining_source"], baseline)
        for part, names in enumerate(source_groups(sources, baseline)):
            chosen = of_set[of_set["pretraining_source"].isin(names)]
            suffix = f"_{part + 1}" if part else ""
            plots.append(_parameter_plot(task, set_name, chosen, source_styles(sources, baseline), suffix))
    return plots


def _parameter_plot(
    task: str, set_name: str, cells: pd.DataFrame, styles: dict[str, LineStyle], suffix: str
) -> CurvePlot:
    metric = str(cells["metric"].iloc[0])
    names = [n for n in styles if n in set(cells["pretraining_source"])]
    sizes = cells.groupby("model_scale", sort=False)["parameters"].mean().sort_values()
    x_range = _log_range(sizes)
    shift = dict(zip(names, _dodge(len(names), x_range), strict=True))
    panels = []
    for (fraction,), of_fraction in split(cells, "data_fraction"):
        series = [
            _ladder_series(part, name, shift[name])
            for name in names
            for _, part in split(of_fraction[of_fraction["pretraining_source"] == name], "rung")
        ]
        panels.append(Panel(title=amount_text(str(fraction)), series=tuple(series)))
    return CurvePlot(
        key=file_key("parameters", task, set_name) + suffix,
        title=f"{task}: {metric_label(metric)} on {set_name} against model size",
        caption="Lines join only scales of one ladder; scales of different families differ in more than their size, "
        "and a difference between them is no scale effect. "
        f"Bars: {interval_name(cells)}.",
        alt=f"{metric_label(metric)} of {task} on {set_name} against model parameters. {_curves_in_words(cells)}",
        table=cells,
        panels=tuple(panels),
        styles={n: styles[n] for n in names},
        x_label="model parameters",
        y_label=metric_label(metric),
        x_range=x_range,
        y_range=_y_range(panels, metric),
        x_log=True,
        x_ticks=_spaced([(float(p), f"{size_text(p)}\n{s}") for s, p in sizes.items()], x_range, len(panels)),
        reference=chance_level(metric),
    )


def _ladder_series(cells: pd.DataFrame, name: str, shift: float) -> Series:
    mine = cells.sort_values("parameters")
    return Series(
        name=name,
        x=[p * shift for p in mine["parameters"]],
        y=list(mine["value"]),
        low=list(mine["low"]),
        high=list(mine["high"]),
        hover=[_hover(row) for row in records(mine)],
        joined=len(mine) > 1,
    )


def shifted_plots(shifted: pd.DataFrame, baseline: str) -> list[CurvePlot]:
    """Shifted set against in-domain test: a figure per task and set, a panel per scale, a point per cell.

    Args:
        shifted: ``tables.in_domain_vs_shifted``.
        baseline: Source that all are compared with.
    """
    plots = []
    for (task, set_name), of_set in split(shifted.dropna(subset=["in_domain", "shifted"]), "task", "set"):
        sources = ordered(of_set["pretraining_source"], baseline)
        for part, names in enumerate(source_groups(sources, baseline)):
            chosen = of_set[of_set["pretraining_source"].isin(names)]
            suffix = f"_{part + 1}" if part else ""
            plots.append(_shifted_plot(task, set_name, chosen, source_styles(sources, baseline), suffix))
    return plots


def _shifted_plot(task: str, set_name: str, rows: pd.DataFrame, styles: dict[str, LineStyle], suffix: str) -> CurvePlot:
    metric = str(rows["metric"].iloc[0])
    names = [n for n in styles if n in set(rows["pretraining_source"])]
    panels = tuple(
        Panel(
            title=str(scale),
            series=tuple(_shifted_series(of_scale[of_scale["pretraining_source"] == n], n) for n in names),
        )
        for (scale,), of_scale in split(rows, "model_scale")
    )
    ends = [f"{side}{end}" for side in ("in_domain", "shifted") for end in ("", "_low", "_high")]
    both = padded(finite(value for column in ends for value in rows[column]))
    words = "; ".join(
        f"{r['model_scale']}, {r['pretraining_source']}, {amount_text(str(r['data_fraction']))}: "
        f"test {number(r['in_domain'])}, {set_name} {number(r['shifted'])}"
        for r in records(rows)
    )
    return CurvePlot(
        key=file_key("shifted", task, set_name) + suffix,
        title=f"{task}: {set_name} against test, {metric_label(metric)}",
        caption=f"One point per cell; a thin line joins the amounts of one source, small to large. On the diagonal "
        f"{set_name} is as easy as test. Bars: {interval_name(rows)}.",
        alt=f"{metric_label(metric)} of {task} on {set_name} against test. {words}.",
        table=rows,
        panels=panels,
        styles={n: styles[n] for n in names},
        x_label=f"{metric_label(metric)} on test",
        y_label=f"{metric_label(metric)} on {set_name}",
        x_range=both,
        y_range=both,
        x_log=False,
        diagonal=True,
        line_width=0.8,
    )


def _shifted_series(rows: pd.DataFrame, name: str) -> Series:
    mine = rows.sort_values("images", kind="stable")
    return Series(
        name=name,
        x=list(mine["in_domain"]),
        y=list(mine["shifted"]),
        low=list(mine["shifted_low"]),
        high=list(mine["shifted_high"]),
        x_low=list(mine["in_domain_low"]),
        x_high=list(mine["in_domain_high"]),
        hover=[
            f"{r['pretraining_source']} · {r['model_scale']} · {amount_text(str(r['data_fraction']))}\n"
            f"test {number(r['in_domain'])}, {r['set']} {number(r['shifted'])}\n"
            f"drop {interval(r['drop'], r['drop_low'], r['drop_high'], signed)}"
            for r in records(mine)
        ],
    )


def _in_images(row: dict[str, Any]) -> str:
    """`` (120 images)``; nothing if the number is not known."""
    images = as_float(row["images"])
    return f" ({count(images)} images)" if math.isfinite(images) else ""


def _amount_words(row: dict[str, Any]) -> str:
    images = as_float(row["images"])
    return f"{count(images)} images" if math.isfinite(images) else amount_text(str(row["data_fraction"]))


def _curves_in_words(cells: pd.DataFrame) -> str:
    lines = []
    for (scale, source), part in split(cells, "model_scale", "pretraining_source"):
        points = ", ".join(
            f"{number(r['value'])} at {_amount_words(r)}" for r in records(part.sort_values("images", kind="stable"))
        )
        lines.append(f"{scale}, {source}: {points}.")
    return " ".join(lines)


def _y_range(panels: Iterable[Panel], metric: str) -> tuple[float, float]:
    """All points, and intervals as far as they do not squeeze the points: at most half their span beyond them."""
    series = [s for p in panels for s in p.series]
    points = finite(v for s in series for part in (s.y, s.dots_y) for v in part)
    ends = finite(v for s in series for part in (s.low, s.high) for v in part)
    ends += finite(v for s in series if s.fit for v in (*s.fit.y, s.fit.held_out[1]))
    low, high = min(points, default=0.0), max(points, default=1.0)
    room = max((high - low) / 2, 0.05)
    low, high = padded([max(min([low, *ends]), low - room), min(max([high, *ends]), high + room)])
    return (low, high) if direction(metric) < 0 else (low, min(high, 1.02))


def _log_range(positions: pd.Series[float]) -> tuple[float, float]:
    low, high = float(positions.min()), float(positions.max())
    space = max(0.12 * math.log10(max(high / low, 1.0)), 0.08)
    return low * 10**-space, high * 10**space


def _dodge(n: int, x_range: tuple[float, float]) -> list[float]:
    """Factors that move points of n lines apart, symmetrical on a logarithmic axis."""
    step = 0.014 * math.log10(x_range[1] / x_range[0])
    return [float(10 ** (step * (i - (n - 1) / 2))) for i in range(n)]


def _amount_ticks(
    positions: pd.Series[float], in_images: bool, x_range: tuple[float, float], panels: int
) -> tuple[tuple[float, str], ...]:
    texts = {label: amount_text(str(label)) for label in positions.index}
    ticks = [(float(x), f"{count(x)}\n{texts[k]}" if in_images else texts[k]) for k, x in positions.items()]
    return _spaced(ticks, x_range, panels)


def _spaced(ticks: list[tuple[float, str]], x_range: tuple[float, float], panels: int) -> tuple[tuple[float, str], ...]:
    """Ticks that do not overlap, the largest first: what does not fit keeps its first row only, or goes.

    Widths are those of 12 px letters in panels of a page of 1100 px.
    """
    letter = 0.0075 * min(panels, PANELS_PER_ROW) * math.log10(x_range[1] / x_range[0])
    kept: list[tuple[float, str]] = []
    free = math.inf
    for x, text in sorted(ticks, reverse=True):
        for shown in (text, text.split("\n")[0]):
            half = letter * (max(len(row) for row in shown.split("\n")) + 1) / 2
            if math.log10(x) + half <= free:
                kept.append((x, shown))
                free = math.log10(x) - half
                break
    return tuple(reversed(kept))
