"""Figures of question 5: per subgroup the difference to the baseline, and the value beside the band of chance."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from dashboards.plots import (
    IntervalPlot,
    Row,
    as_float,
    finite,
    interval,
    interval_name,
    ordered,
    padded,
    records,
    split,
)
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

MAX_ROWS = 60
"""Rows of one figure; groups of one attribute come first, then intersections, largest first."""

_SHORT = {
    "harmed, more than delta": "harmed, > delta",
    "harmed": "harmed",
    "harm cannot be excluded": "not excluded",
    "no harm beyond delta": "no harm",
    "insufficient data": "insufficient data",
}


def harm_plots(harm: pd.DataFrame, baseline: str) -> list[IntervalPlot]:
    """Source minus baseline in each subgroup: a figure per task, set and primary amount, a panel per scale and source.

    Args:
        harm: ``Tables.of("harm")``.
        baseline: Source that all are compared with.
    """
    plots = []
    primary = harm[harm["primary"].astype(bool)]
    for (task, set_name, fraction), rows in split(primary, "task", "set", "data_fraction"):
        if rows["estimate"].notna().any():
            styles = source_styles(ordered(rows["pretraining_source"], baseline), baseline)
            plots.append(_harm_plot((str(task), str(set_name), str(fraction)), rows, styles, baseline))
    return plots


def _harm_plot(
    key: tuple[str, str, str], rows: pd.DataFrame, styles: dict[str, LineStyle], baseline: str
) -> IntervalPlot:
    task, set_name, fraction = key
    metric, delta = str(rows["metric"].iloc[0]), float(rows["delta"].iloc[0])
    parts = split(rows, "model_scale", "pretraining_source")
    share = max(MAX_ROWS // len(parts), 4)
    panels, left_out = [], 0
    for (scale, source), part in parts:
        chosen = _chosen(part, share)
        left_out += len(part) - len(chosen)
        panels.append((f"{scale} · {source}", tuple(_harm_row(row) for row in records(chosen))))
    words = "; ".join(
        f"{r['pretraining_source']}, {r['model_scale']}, {r['column']} {r['group']}: "
        f"{interval(r['estimate'], r['low'], r['high'], signed)}, {r['word']}"
        for r in records(rows[rows["estimate"].notna()].head(MAX_ROWS))
    )
    rest = f" {left_out} further groups are in the table." if left_out else ""
    return IntervalPlot(
        key=file_key("harm", task, set_name, fraction),
        title=f"{task}: difference to {baseline} by subgroup on {set_name}, {amount_text(fraction)}",
        caption=f"Bars: {interval_name(rows)}, not adjusted; the words follow from Holm's p over all tested groups of "
        f"a comparison. Grey zone: {number(delta, 3)}. Filled: decided. Numbers of positive and negative patients "
        f"stand with each group; below 20 of either nothing is tested.{rest}",
        alt=f"Difference of {metric_label(metric)} to {baseline} by subgroup, {task} on {set_name}. {words}.",
        table=rows,
        panels=tuple(panels),
        styles={n: s for n, s in styles.items() if n in set(rows["pretraining_source"])},
        x_label=f"difference of {metric_label(metric)} (source − {baseline})",
        x_range=padded(finite([*rows["estimate"], *rows["low"], *rows["high"], -delta, delta, 0.0])),
        zone=delta,
    )


def _chosen(part: pd.DataFrame, most: int) -> pd.DataFrame:
    crossed = part["column"].str.contains(" & ", regex=False)
    smallest = part[["positive_patients", "negative_patients"]].min(axis=1)
    order = part.assign(_crossed=crossed, _size=-smallest).sort_values(["_crossed", "_size"], kind="stable")
    kept = order.index[:most]
    return part.loc[[i for i in part.index if i in set(kept)]]


def _harm_row(r: dict[str, Any]) -> Row:
    known = math.isfinite(as_float(r["estimate"]))
    word = _SHORT[str(r["word"])]
    return Row(
        label=f"{r['column']} {r['group']} ({r['positive_patients']}+, {r['negative_patients']}−)",
        name=str(r["pretraining_source"]),
        value=as_float(r["estimate"]),
        low=as_float(r["low"]),
        high=as_float(r["high"]),
        filled=word.startswith("harmed") or word == "no harm",
        note=f"{signed(as_float(r['estimate']))}  {word}" if known else word,
    )


def value_plots(values: pd.DataFrame, gaps: pd.DataFrame, baseline: str) -> list[IntervalPlot]:
    """Metric per subgroup beside what chance gives, at the largest amount: a figure per task, set and attribute.

    Args:
        values: ``Tables.of("group_values")``.
        gaps: ``Tables.of("group_gaps")``.
        baseline: Source that all are compared with.
    """
    plots = []
    for (task, set_name, column), of_column in split(values, "task", "set", "column"):
        largest = of_column.sort_values("images")["data_fraction"].iloc[-1]
        rows = of_column[of_column["data_fraction"] == largest]
        sources = ordered(rows["pretraining_source"], baseline)
        for part, names in enumerate(source_groups(sources, baseline)):
            chosen = rows[rows["pretraining_source"].isin(names)]
            if chosen["value"].notna().any():
                suffix = f"_{part + 1}" if part else ""
                key = file_key("subgroups", str(task), str(set_name), str(column)) + suffix
                plots.append(_value_plot(key, chosen, _of(gaps, chosen), source_styles(sources, baseline)))
    return plots


def _of(gaps: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    first = rows.iloc[0]
    if gaps.empty:
        return gaps
    same = pd.Series(True, index=gaps.index)
    for name in ("task", "set", "column", "data_fraction"):
        same &= gaps[name] == first[name]
    return gaps[same & gaps["pretraining_source"].isin(set(rows["pretraining_source"]))]


def _value_plot(key: str, rows: pd.DataFrame, gaps: pd.DataFrame, styles: dict[str, LineStyle]) -> IntervalPlot:
    first = rows.iloc[0]
    metric, column = str(first["metric"]), str(first["column"])
    names = [n for n in styles if n in set(rows["pretraining_source"])]
    ranked = rows.assign(_rank=rows["pretraining_source"].map({n: i for i, n in enumerate(names)}))
    panels = tuple(
        (str(scale), tuple(_value_row(r) for r in records(part.sort_values(["group", "_rank"]))))
        for (scale,), part in split(ranked, "model_scale")
    )
    words = "; ".join(
        f"{column} {r['group']}, {r['model_scale']}, {r['pretraining_source']}: "
        + (interval(r["value"], r["low"], r["high"]) if r["sufficient"] else str(r["note"]))
        for r in records(rows)
    )
    found = "; ".join(
        f"{r['model_scale']}, {r['pretraining_source']}: gap {number(r['gap'])}, 95 % of chance gaps are below "
        f"{number(r['null_quantile'])}, Holm p {number(r['p_holm'])}"
        for r in records(gaps)
        if math.isfinite(r["gap"]) and math.isfinite(r["null_quantile"])
    )
    return IntervalPlot(
        key=key,
        title=f"{first['task']}: {metric_label(metric)} by {column} on {first['set']}",
        caption=f"Largest amount ({amount_text(str(first['data_fraction']))}). Grey band: where 95 % of groups of this "
        "size lie if patients of the same labels exchange their groups. Positive and negative patients stand with "
        f"each group; a group needs 10 of each to be shown and 20 to be tested. {f'Gaps: {found}.' if found else ''}",
        alt=f"{metric_label(metric)} of {first['task']} by {column}. {words}.",
        table=rows,
        panels=panels,
        styles={n: styles[n] for n in names},
        x_label=metric_label(metric),
        x_range=padded(finite([*rows["value"], *rows["low"], *rows["high"], *rows["null_low"], *rows["null_high"]])),
    )


def _value_row(r: dict[str, Any]) -> Row:
    return Row(
        label=f"{r['group']} ({r['positive_patients']}+, {r['negative_patients']}−) · {r['pretraining_source']}",
        name=str(r["pretraining_source"]),
        value=as_float(r["value"]),
        low=as_float(r["low"]),
        high=as_float(r["high"]),
        filled=True,
        note=number(as_float(r["value"])) if r["sufficient"] else str(r["note"]),
        band=(as_float(r["null_low"]), as_float(r["null_high"])) if math.isfinite(as_float(r["null_low"])) else None,
    )
