"""Shifted set against test on probit axes, with the line through the baseline's runs."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from scipy.stats import norm

from dashboards.plots import CurvePlot, Panel, Series, finite, interval, interval_name, ordered, padded, records, split
from dashboards.style import (
    LineStyle,
    amount_text,
    file_key,
    metric_label,
    number,
    signed,
    source_groups,
    source_styles,
)

_TICKS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
_EDGE = 0.0005
"""Values nearer to 0 or 1 are drawn here: their probit is infinite."""
_LINE_POINTS = 24


def robustness_plots(shifted: pd.DataFrame, robustness: pd.DataFrame, baseline: str) -> list[CurvePlot]:
    """A figure per task and shifted set, a panel per scale, a point per cell.

    Args:
        shifted: ``Tables.in_domain_vs_shifted``.
        robustness: ``Tables.of("robustness")``.
        baseline: Source that all are compared with.
    """
    plots = []
    for (task, set_name), rows in split(shifted.dropna(subset=["in_domain", "shifted"]), "task", "set"):
        own = robustness[(robustness["task"] == task) & (robustness["set"] == set_name)]
        sources = ordered(rows["pretraining_source"], baseline)
        for part, names in enumerate(source_groups(sources, baseline)):
            chosen = rows[rows["pretraining_source"].isin(names)]
            suffix = f"_{part + 1}" if part else ""
            if len(chosen):
                styles = source_styles(sources, baseline)
                plots.append(_plot((str(task), str(set_name)), chosen, own, styles, baseline, suffix))
    return plots


def _plot(
    key: tuple[str, str],
    rows: pd.DataFrame,
    robustness: pd.DataFrame,
    styles: dict[str, LineStyle],
    baseline: str,
    suffix: str,
) -> CurvePlot:
    task, set_name = key
    metric = str(rows["metric"].iloc[0])
    names = [n for n in styles if n in set(rows["pretraining_source"])]
    own = robustness[robustness["pretraining_source"].isin(names)]
    ends = [f"{side}{end}" for side in ("in_domain", "shifted") for end in ("", "_low", "_high")]
    both = padded(finite(_probit(v) for column in ends for v in rows[column]))
    line = _line(own, baseline, both)
    panels = tuple(
        Panel(
            title=str(scale),
            series=(
                *([line] if line else []),
                *(_series(part[part["pretraining_source"] == n], n, not line or n != baseline) for n in names),
            ),
        )
        for (scale,), part in split(rows, "model_scale")
    )
    words = "; ".join(
        f"{r['model_scale']}, {r['pretraining_source']}, {amount_text(str(r['data_fraction']))}: test "
        f"{number(r['in_domain'])}, {set_name} {number(r['shifted'])}, effective robustness "
        f"{interval(r['effective_robustness'], r['effective_robustness_low'], r['effective_robustness_high'], signed)}"
        for r in records(own)
    )
    drawn = (
        f"The dashed line is fitted to {int(own['line_models'].max())} runs of {baseline}: a point above it does "
        "better on the shifted set than its test result would make one expect (effective robustness)."
        if line
        else f"No line: it needs three runs of {baseline} with different results."
    )
    ticks = tuple((_probit(t), f"{t:g}") for t in _TICKS if both[0] <= _probit(t) <= both[1])
    return CurvePlot(
        key=file_key("shifted", task, set_name) + suffix,
        title=f"{task}: {set_name} against test, {metric_label(metric)}",
        caption=f"Probit axes. One point per cell; a thin line joins the amounts of one source, small to large. On the "
        f"dotted diagonal {set_name} is as easy as test. {drawn} Bars: {interval_name(rows)}.",
        alt=f"{metric_label(metric)} of {task} on {set_name} against test. {words}.",
        table=own,
        panels=panels,
        styles={n: styles[n] for n in names},
        x_label=f"{metric_label(metric)} on test",
        y_label=f"{metric_label(metric)} on {set_name}",
        x_range=both,
        y_range=both,
        x_log=False,
        x_ticks=ticks,
        y_ticks=ticks,
        diagonal=True,
        line_width=0.8,
    )


def _probit(value: float) -> float:
    return float(norm.ppf(min(max(value, _EDGE), 1 - _EDGE))) if math.isfinite(value) else math.nan


def _line(rows: pd.DataFrame, baseline: str, span: tuple[float, float]) -> Series | None:
    known = rows.dropna(subset=["line_slope"])
    if known.empty:
        return None
    intercept, slope = float(known["line_intercept"].iloc[0]), float(known["line_slope"].iloc[0])
    x = np.linspace(*span, _LINE_POINTS)
    y = intercept + slope * x
    kept = (y >= span[0]) & (y <= span[1])
    nothing = [math.nan] * int(kept.sum())
    text = f"expected of {baseline}: probit = {number(intercept, 2)} + {number(slope, 2)} probit"
    return Series(
        name=baseline,
        x=list(x[kept]),
        y=list(y[kept]),
        low=nothing,
        high=nothing,
        hover=[text] * int(kept.sum()),
        marked=False,
    )


def _series(rows: pd.DataFrame, name: str, joined: bool) -> Series:
    mine = rows.sort_values("images")
    points = {c: [_probit(v) for v in mine[c]] for c in mine.columns if str(c).startswith(("in_domain", "shifted"))}
    return Series(
        name=name,
        x=points["in_domain"],
        y=points["shifted"],
        low=points["shifted_low"],
        high=points["shifted_high"],
        x_low=points["in_domain_low"],
        x_high=points["in_domain_high"],
        hover=[
            f"{r['pretraining_source']} · {r['model_scale']} · {amount_text(str(r['data_fraction']))}\n"
            f"test {number(r['in_domain'])}, {r['set']} {number(r['shifted'])}\n"
            f"drop {interval(r['drop'], r['drop_low'], r['drop_high'], signed)}"
            for r in records(mine)
        ],
        joined=joined and len(mine) > 1,
    )
