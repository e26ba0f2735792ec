"""Figures that carry the verdict: labels saved, with the sides that have no bound, and cost against performance."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from dashboards.label_tables import SAVES
from dashboards.plots import (
    CurvePlot,
    IntervalPlot,
    Panel,
    Row,
    Series,
    as_float,
    finite,
    ordered,
    padded,
    records,
    split,
)
from dashboards.style import (
    LineStyle,
    amount_text,
    count,
    file_key,
    metric_label,
    number,
    plural,
    size_text,
    source_groups,
    source_styles,
)


def label_savings_plots(savings: pd.DataFrame, tests: pd.DataFrame, baseline: str) -> list[IntervalPlot]:
    """Labels that each source needs to be as good as the full baseline: a figure per task and set, a row per curve.

    Curves whose baseline has no result with all labels have nothing to be drawn; the table names them.

    Args:
        savings: ``tables.label_savings``.
        tests: ``tables.label_tests``, for the amounts on the axis.
        baseline: Source that all are compared with.
    """
    plots = []
    for (task, set_name), of_set in split(savings[savings["full_images"].notna()], "task", "set"):
        amounts = sorted({float(n) for n in tests.loc[tests["task"] == task, "images"]})
        sources = ordered(of_set["pretraining_source"], baseline)
        for part, names in enumerate(source_groups(sources, baseline)):
            chosen = of_set[of_set["pretraining_source"].isin(names)]
            suffix = f"_{part + 1}" if part else ""
            if not chosen.empty:
                styles = source_styles(sources, baseline)
                plots.append(_savings(task, set_name, chosen, amounts, styles, baseline, suffix))
    return plots


def _savings(
    task: str,
    set_name: str,
    rows: pd.DataFrame,
    amounts: list[float],
    styles: dict[str, LineStyle],
    baseline: str,
    suffix: str,
) -> IntervalPlot:
    ends = finite([*amounts, *rows["full_images"]])
    low, high = min(ends) / 1.6, max(ends) * 1.6
    panels = tuple(
        (str(scale), tuple(_savings_row(r, low, high) for r in records(part)))
        for (scale,), part in split(rows, "model_scale")
    )
    names = [n for n in styles if n in set(rows["pretraining_source"])]
    words = "; ".join(f"{r['pretraining_source']}, {r['model_scale']}: {_savings_words(r)}" for r in records(rows))
    delta = float(rows["delta"].iloc[0])
    return IntervalPlot(
        key=file_key("label_savings", task, set_name) + suffix,
        title=f"{task}: labels needed to be as good as {baseline} with all of them, on {set_name}",
        caption=f"Point: where the source's mean curve meets {baseline} with all labels (cross), interpolated; it is "
        "drawn and not claimed. Bar: amounts at which the two may meet, by tests at each amount; an arrow marks a side "
        f"without a bound. Filled: a saving is shown (as good within {number(delta, 3)}, and better than {baseline} "
        "with the same labels); hollow: not shown. Labels of validation are not in the picture; the table has them.",
        alt=f"Labels needed on {task}, {set_name}. {words}.",
        table=rows,
        panels=panels,
        styles={n: styles[n] for n in names},
        x_label="labelled training images",
        x_range=(low, high),
        x_log=True,
        x_ticks=tuple((n, count(n)) for n in amounts if n * 1.25 < _next(amounts, n)),
    )


def _next(amounts: list[float], n: float) -> float:
    """The next larger amount; infinite after the last."""
    return min((other for other in amounts if other > n), default=math.inf)


def _savings_row(r: dict[str, Any], axis_start: float, axis_end: float) -> Row:
    high = as_float(r["set_high"])
    open_high = bool(r["right_censored"]) or not math.isfinite(high)
    return Row(
        label=str(r["pretraining_source"]),
        name=str(r["pretraining_source"]),
        value=as_float(r["point"]),
        low=axis_start if r["left_censored"] else as_float(r["set_low"]),
        high=axis_end if open_high else high,
        filled=r["word"] == SAVES,
        note=_savings_note(r),
        reference=as_float(r["full_images"]),
        open_low=bool(r["left_censored"]),
        open_high=open_high,
    )


def _savings_note(r: dict[str, Any]) -> str:
    if r["word"] != SAVES:
        return str(r["word"])
    return f"saves {100 * as_float(r['share_saved']):.0f} % of images"


def _savings_words(r: dict[str, Any]) -> str:
    bound = " or fewer" if r["left_censored"] else ""
    end = "no upper end" if r["right_censored"] else f"{count(r['set_high'])} images"
    return f"{_savings_note(r)}, between {count(r['set_low'])} images{bound} and {end}, of {count(r['full_images'])}"


def best_set_plots(best: pd.DataFrame, baseline: str) -> list[CurvePlot]:
    """Performance against the size of the model: a figure per task and set, a panel per amount, the set filled.

    Args:
        best: ``tables.best_sets``.
        baseline: Source that all are compared with.
    """
    plots = []
    for (task, set_name), of_set in split(best.dropna(subset=["value", "parameters"]), "task", "set"):
        sources = ordered(of_set["pretraining_source"], baseline)
        for part, names in enumerate(source_groups(sources, baseline)):
            chosen = of_set[of_set["pretraining_source"].isin(names)]
            suffix = f"_{part + 1}" if part else ""
            if not chosen.empty and chosen["member"].any():
                plots.append(_best(task, set_name, chosen, source_styles(sources, baseline), suffix))
    return plots


def _best(task: str, set_name: str, rows: pd.DataFrame, styles: dict[str, LineStyle], suffix: str) -> CurvePlot:
    metric, delta = str(rows["metric"].iloc[0]), float(rows["delta"].iloc[0])
    names = [n for n in styles if n in set(rows["pretraining_source"])]
    sizes = sorted({float(v) for v in rows["parameters"]})
    x_range = (sizes[0] / 1.6, sizes[-1] * 1.6)
    panels = tuple(
        Panel(
            title=amount_text(str(fraction)),
            series=tuple(_best_series(part[part["pretraining_source"] == name], name) for name in names),
        )
        for (fraction,), part in split(rows, "data_fraction")
    )
    words = "; ".join(
        f"{amount_text(str(fraction))}: "
        + ", ".join(f"{r['model_scale']} {r['pretraining_source']} {number(r['value'])}" for r in records(part))
        for (fraction,), part in split(rows[rows["member"].astype(bool)], "data_fraction")
    )
    return CurvePlot(
        key=file_key("best_set", task, set_name) + suffix,
        title=f"{task}: cheapest within noise of the best, on {set_name}",
        caption="Filled: cells that may be the best or are within "
        f"{number(delta, 3)} of it (Hsu's comparison with the best, {100 * float(rows['level'].iloc[0]):g} % for all "
        "cells of a panel together); hollow: shown to be worse. The leftmost filled point is the answer.",
        alt=f"{metric_label(metric)} of {task} on {set_name} against model parameters. The set: {words}.",
        table=rows,
        panels=panels,
        styles={n: styles[n] for n in names},
        x_label="model parameters",
        y_label=metric_label(metric),
        x_range=x_range,
        y_range=padded(finite(rows["value"])),
        x_log=True,
        x_ticks=tuple((size, size_text(size)) for size in sizes) if len(sizes) < 6 else (),
    )


def _best_series(rows: pd.DataFrame, name: str) -> Series:
    nothing = [math.nan] * len(rows)
    return Series(
        name=name,
        x=list(rows["parameters"]),
        y=list(rows["value"]),
        low=nothing,
        high=nothing,
        hover=[
            f"{r['pretraining_source']} · {r['model_scale']}\n{number(r['value'])}, {size_text(r['parameters'])} "
            f"parameters\n{'may be the best or near it' if r['member'] else 'worse than the best'}, "
            f"{plural(int(r['n_seeds']), 'seed')}"
            for r in records(rows)
        ],
        joined=False,
        hollow=[not member for member in rows["member"].astype(bool)],
    )
