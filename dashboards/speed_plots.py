"""Figure of question 7: validation against optimiser steps, with the mark and what was not reached."""

from __future__ import annotations

import math

import pandas as pd

from dashboards.plots import CurvePlot, Panel, Series, finite, ordered, padded, records, split
from dashboards.speed_tables import HEADLINE_SHARE, STEPS
from dashboards.style import (
    LineStyle,
    amount_text,
    count,
    file_key,
    metric_label,
    number,
    plural,
    source_groups,
    source_styles,
)


def convergence_plots(curves: pd.DataFrame, speed: pd.DataFrame, baseline: str) -> list[CurvePlot]:
    """Validation curves: a figure per task and primary amount, a panel per scale.

    Args:
        curves: ``Tables.of("convergence")``.
        speed: ``Tables.of("speed")``, for the times to the mark.
        baseline: Source that all are compared with.
    """
    plots = []
    marks = speed[(speed["share"] == HEADLINE_SHARE) & (speed["unit"] == STEPS)]
    for (task, fraction), rows in split(curves, "task", "data_fraction"):
        own = marks[(marks["task"] == task) & (marks["data_fraction"] == fraction)]
        sources = ordered(rows["pretraining_source"], baseline)
        for part, names in enumerate(source_groups(sources, baseline)):
            chosen = rows[rows["pretraining_source"].isin(names)]
            suffix = f"_{part + 1}" if part else ""
            if len(chosen):
                plots.append(_plot(str(task), str(fraction), chosen, own, source_styles(sources, baseline), suffix))
    return plots


def _plot(
    task: str, fraction: str, rows: pd.DataFrame, marks: pd.DataFrame, styles: dict[str, LineStyle], suffix: str
) -> CurvePlot:
    metric = str(rows["metric"].iloc[0])
    names = [n for n in styles if n in set(rows["pretraining_source"])]
    own = marks[marks["pretraining_source"].isin(names)]
    panels = tuple(
        Panel(title=str(scale), series=_series(part, own[own["model_scale"] == scale], names))
        for (scale,), part in split(rows, "model_scale")
    )
    words = "; ".join(_in_words(r) for r in records(own))
    low, high = float(rows["step"].min()), float(rows["step"].max())
    space = max(0.05 * math.log10(max(high / max(low, 1.0), 1.0)), 0.03)
    return CurvePlot(
        key=file_key("convergence", task, fraction) + suffix,
        title=f"{task}: validation while training, {amount_text(fraction)}",
        caption="Mean over seeds; bars: range over seeds. Filled point: the median step at which 95 % of the "
        "baseline's best (above chance) was reached and kept; its bar: the interval over seeds, from the last "
        "evaluation before to the first at the mark. Hollow point at the end: at least half of the seeds did not reach "
        "it within the budget.",
        alt=f"{metric_label(metric)} on validation against optimiser steps, {task}. {words}.",
        table=own,
        panels=panels,
        styles={n: styles[n] for n in names},
        x_label="optimiser steps",
        y_label=f"{metric_label(metric)} on validation",
        x_range=(max(low, 1.0) * 10**-space, high * 10**space),
        y_range=padded(finite([*rows["least"], *rows["most"], *own["threshold"]])),
        x_log=True,
        x_ticks=_ticks(low, high),
        line_width=1.6,
    )


def _ticks(low: float, high: float) -> tuple[tuple[float, str], ...]:
    """1, 2 and 5 times powers of ten; of wide ranges powers of ten alone."""
    decades = range(math.floor(math.log10(max(low, 1.0))), math.ceil(math.log10(max(high, 1.0))) + 1)
    factors = (1, 2, 5) if len(decades) < 5 else (1,)
    steps = [factor * 10.0**decade for decade in decades for factor in factors]
    return tuple((step, count(step)) for step in steps if low <= step <= high)


def _series(rows: pd.DataFrame, marks: pd.DataFrame, names: list[str]) -> tuple[Series, ...]:
    found = []
    for name in names:
        mine = rows[(rows["pretraining_source"] == name) & (rows["step"] > 0)].sort_values("step")
        found.append(
            Series(
                name=name,
                x=list(mine["step"]),
                y=list(mine["value"]),
                low=list(mine["least"]),
                high=list(mine["most"]),
                hover=[f"{name}, step {count(r['step'])}: {number(r['value'])}" for r in records(mine)],
                marked=False,
            )
        )
        if (mark := _mark(marks, name)) is not None:
            found.append(mark)
    return tuple(found)


def _mark(marks: pd.DataFrame, name: str) -> Series | None:
    rows = records(marks[marks["pretraining_source"] == name])[:1]
    if not rows or not math.isfinite(rows[0]["threshold"]) or not rows[0]["time_seeds"]:
        return None
    row = rows[0]
    late = math.isinf(row["time_median_high"])
    at = row["time_median_low"] if late else row["time_median_high"]
    high = row["time_high"] if math.isfinite(row["time_high"]) else at
    if not at > 0:
        return None
    return Series(
        name=name,
        x=[at],
        y=[row["threshold"]],
        low=[math.nan],
        high=[math.nan],
        x_low=[max(row["time_low"], 1.0)],
        x_high=[max(high, at)],
        hover=[f"{name}: {_in_words(row)}"],
        joined=False,
        hollow=late,
    )


def _in_words(row: dict[str, object]) -> str:
    source, scale = row["pretraining_source"], row["model_scale"]
    if row["note"] and not row["time_seeds"]:
        return f"{scale}, {source}: {row['note']}"
    low, high = float(str(row["time_median_low"])), float(str(row["time_median_high"]))
    when = (
        f"after more than {count(low)} steps" if math.isinf(high) else f"between {count(low)} and {count(high)} steps"
    )
    censored = int(str(row["time_censored"]))
    late = f", {plural(censored, 'seed')} not within the budget" if censored else ""
    return f"{scale}, {source}: reached {when}{late}"
