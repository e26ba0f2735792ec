"""Figures of question 6: reliability before and after temperature with the histogram, and risk against coverage."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from dashboards.confidence_tables import COOLED, RAW
from dashboards.plots import CurvePlot, Panel, Series, finite, interval, ordered, padded, records, split
from dashboards.statistics.selective_influence import risk_name
from dashboards.style import LineStyle, amount_text, file_key, number, source_groups, source_styles

MAX_SCALES = 3
"""Scales of one reliability figure; each has a row of three panels."""
_RISKS = (0.8, 0.9, 0.95)


def reliability_plots(bins: pd.DataFrame, baseline: str) -> list[CurvePlot]:
    """Observed share against probability: a figure per task and primary amount, a row of panels per scale.

    Args:
        bins: ``Tables.of("reliability")``.
        baseline: Source that all are compared with.
    """
    plots = []
    for (task, fraction), rows in split(bins, "task", "data_fraction"):
        sources = ordered(rows["pretraining_source"], baseline)
        scales = list(dict.fromkeys(rows["model_scale"]))
        for part, names in enumerate(source_groups(sources, baseline)):
            for first in range(0, len(scales), MAX_SCALES):
                chosen = rows[
                    rows["pretraining_source"].isin(names)
                    & rows["model_scale"].isin(scales[first : first + MAX_SCALES])
                ]
                number_ = part * math.ceil(len(scales) / MAX_SCALES) + first // MAX_SCALES
                suffix = f"_{number_ + 1}" if number_ else ""
                if len(chosen):
                    styles = source_styles(sources, baseline)
                    plots.append(_reliability_plot(str(task), str(fraction), chosen, styles, suffix))
    return plots


def _reliability_plot(
    task: str, fraction: str, rows: pd.DataFrame, styles: dict[str, LineStyle], suffix: str
) -> CurvePlot:
    names = [n for n in styles if n in set(rows["pretraining_source"])]
    panels: list[Panel] = []
    for (scale,), part in split(rows, "model_scale"):
        for stage in (RAW, COOLED):
            of_stage = part[part["stage"] == stage]
            series = tuple(_reliability(of_stage, name) for name in names)
            panels.append(Panel(title=f"{scale}, {stage}", series=series))
        shares = tuple(_histogram(part, n) for n in names)
        panels.append(Panel(title=f"{scale}, share of images", series=shares, diagonal=False))
    missing = sorted(set(names) - set(rows[rows["stage"] == COOLED]["pretraining_source"]))
    absent = f" No temperature could be fitted for {', '.join(missing)}." if missing else ""
    words = "; ".join(
        _bins_in_words(part, scale, source)
        for (scale, source), part in split(rows, "model_scale", "pretraining_source")
    )
    return CurvePlot(
        key=file_key("reliability", task, fraction) + suffix,
        title=f"{task}: are the probabilities right? test, {amount_text(fraction)}",
        caption="Observed share against mean probability in ten bins of equal width, pooled over seeds; on the "
        "diagonal they agree. Bars: 95 % intervals over patients, seeds taken as they are. Temperatures are fitted on "
        "validation. Of classes that exclude each other the top label is judged. Third panel of a row: share of images "
        f"in each bin, as trained.{absent}",
        alt=f"Reliability of {task} on test. {words}.",
        table=rows,
        panels=tuple(panels),
        styles={n: styles[n] for n in names},
        x_label="mean probability",
        y_label="observed share, or share of images",
        x_range=(-0.02, 1.02),
        y_range=(-0.02, 1.02),
        x_log=False,
        diagonal=True,
        line_width=1.4,
    )


def _reliability(rows: pd.DataFrame, name: str) -> Series:
    mine = rows[rows["pretraining_source"] == name].sort_values("bin")
    return Series(
        name=name,
        x=list(mine["mean_probability"]),
        y=list(mine["observed"]),
        low=list(mine["observed_low"]),
        high=list(mine["observed_high"]),
        hover=[
            f"{name}: probability {number(r['mean_probability'])}\n"
            f"observed {interval(r['observed'], r['observed_low'], r['observed_high'])}\n"
            f"{100 * r['share_of_images']:.1f} % of images, {r['bin_patients']} patients"
            for r in records(mine)
        ],
    )


def _histogram(rows: pd.DataFrame, name: str) -> Series:
    mine = rows[(rows["pretraining_source"] == name) & (rows["stage"] == RAW)].sort_values("bin")
    nothing = [math.nan] * len(mine)
    return Series(
        name=name,
        x=list(mine["mean_probability"]),
        y=list(mine["share_of_images"]),
        low=nothing,
        high=nothing,
        hover=[f"{name}: {100 * r['share_of_images']:.1f} % of images" for r in records(mine)],
    )


def _bins_in_words(rows: pd.DataFrame, scale: Any, source: Any) -> str:
    raw = rows[rows["stage"] == RAW]
    if raw.empty:
        return f"{scale}, {source}: nothing"
    worst = max(records(raw), key=lambda row: abs(row["observed"] - row["mean_probability"]))
    return (
        f"{scale}, {source}: farthest from the diagonal at probability {number(worst['mean_probability'])}, "
        f"observed {number(worst['observed'])}"
    )


def risk_plots(curves: pd.DataFrame, risks: pd.DataFrame, baseline: str) -> list[CurvePlot]:
    """Error of the accepted images against coverage: a figure per task and primary amount, a panel per scale.

    Args:
        curves: ``Tables.of("risk_coverage")``.
        risks: ``Tables.of("selective")``, for the intervals at fixed coverage.
        baseline: Source that all are compared with.
    """
    plots = []
    for (task, fraction), rows in split(curves.dropna(subset=["risk"]), "task", "data_fraction"):
        own = risks[
            (risks["task"] == task) & (risks["data_fraction"] == fraction) & (risks["set"] == rows["set"].iloc[0])
        ]
        sources = ordered(rows["pretraining_source"], baseline)
        for part, names in enumerate(source_groups(sources, baseline)):
            chosen = rows[rows["pretraining_source"].isin(names)]
            suffix = f"_{part + 1}" if part else ""
            plots.append(_risk_plot(str(task), str(fraction), chosen, own, source_styles(sources, baseline), suffix))
    return plots


def _risk_plot(
    task: str, fraction: str, rows: pd.DataFrame, risks: pd.DataFrame, styles: dict[str, LineStyle], suffix: str
) -> CurvePlot:
    names = [n for n in styles if n in set(rows["pretraining_source"])]
    own = risks[risks["pretraining_source"].isin(names)]
    panels = tuple(
        Panel(
            title=str(scale),
            series=tuple(
                series
                for name in names
                for series in (_risk_line(part, name), _risk_points(own[own["model_scale"] == scale], name))
            ),
        )
        for (scale,), part in split(rows, "model_scale")
    )
    words = "; ".join(
        f"{r['model_scale']}, {r['pretraining_source']}: {number(r['error'])} of all images are wrong, "
        f"{number(r[risk_name(0.9)])} of the most confident 90 %"
        for r in records(own)
    )
    highs = [own[f"{risk_name(c)}_high"] for c in _RISKS]
    top = max(finite([*rows["risk"], *(v for column in highs for v in column)]), default=1.0)
    return CurvePlot(
        key=file_key("risk_coverage", task, fraction) + suffix,
        title=f"{task}: error if the least confident are left out, test, {amount_text(fraction)}",
        caption="Images are accepted in descending confidence; lines: mean over seeds. Points at 80, 90 and 95 % with "
        "95 % intervals over patients and seeds. The lower, and the steeper to the left, the better.",
        alt=f"Risk against coverage, {task} on test. {words}.",
        table=own,
        panels=panels,
        styles={n: styles[n] for n in names},
        x_label="coverage (share of images accepted)",
        y_label="error of accepted images",
        x_range=(0.0, 1.02),
        y_range=(padded([0.0, top])[0], padded([0.0, top])[1]),
        x_log=False,
        line_width=1.6,
    )


def _risk_line(rows: pd.DataFrame, name: str) -> Series:
    mine = rows[rows["pretraining_source"] == name].sort_values("coverage")
    nothing = [math.nan] * len(mine)
    return Series(
        name=name,
        x=list(mine["coverage"]),
        y=list(mine["risk"]),
        low=nothing,
        high=nothing,
        hover=[f"{name}: {100 * r['coverage']:.0f} % accepted, error {number(r['risk'])}" for r in records(mine)],
        marked=False,
    )


def _risk_points(rows: pd.DataFrame, name: str) -> Series:
    mine = records(rows[rows["pretraining_source"] == name])[:1]
    points = [(c, *(row[f"{risk_name(c)}{end}"] for end in ("", "_low", "_high"))) for row in mine for c in _RISKS]
    return Series(
        name=name,
        x=[p[0] for p in points],
        y=[p[1] for p in points],
        low=[p[2] for p in points],
        high=[p[3] for p in points],
        hover=[f"{name}: {100 * p[0]:.0f} % accepted, error {interval(p[1], p[2], p[3])}" for p in points],
        joined=False,
    )
