"""Figures with one row per comparison or group, and the completeness matrix."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pandas as pd

from dashboards.plots import (
    IntervalPlot,
    MatrixPlot,
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
from dashboards.statistics.class_sets import MIN_SHOWN_PATIENTS
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


def forest_plots(contrasts: pd.DataFrame, baseline: str) -> list[IntervalPlot]:
    """Difference to the baseline: a figure per task and evaluation set, a panel per scale.

    Args:
        contrasts: ``tables.contrasts``.
        baseline: Source that all are compared with.
    """
    plots = []
    for (task, set_name), of_set in split(contrasts.dropna(subset=["estimate"]), "task", "set"):
        sources = ordered(of_set["pretraining_source"], baseline)
        for part, names in enumerate(source_groups(sources, baseline)):
            chosen = of_set[of_set["pretraining_source"].isin(names)]
            suffix = f"_{part + 1}" if part else ""
            if not chosen.empty:
                plots.append(_forest(task, set_name, chosen, source_styles(sources, baseline), baseline, suffix))
    return plots


def _forest(
    task: str, set_name: str, rows: pd.DataFrame, styles: dict[str, LineStyle], baseline: str, suffix: str
) -> IntervalPlot:
    metric, delta = str(rows["metric"].iloc[0]), float(rows["delta"].iloc[0])
    panels = tuple(
        (str(scale), tuple(_forest_row(r) for r in records(of_scale.sort_values(["images", "order"]))))
        for (scale,), of_scale in split(rows, "model_scale")
    )
    words = "; ".join(
        f"{r['pretraining_source']} at {amount_text(str(r['data_fraction']))}, {r['model_scale']}: "
        f"{interval(r['estimate'], r['low'], r['high'], signed)}, {r['verdict']}"
        for r in records(rows)
    )
    spread = padded(finite([*rows["estimate"], *rows["low"], *rows["high"], -delta, delta, 0.0]))
    names = [n for n in styles if n in set(rows["pretraining_source"])]
    return IntervalPlot(
        key=file_key("contrasts", task, set_name) + suffix,
        title=f"{task}: difference to {baseline} on {set_name}",
        caption=f"Bars: {interval_name(rows)}, not adjusted. Grey zone: differences below "
        f"{number(delta, 3)}, of no practical meaning. Filled: decided; hollow: undecided. "
        "A star marks the primary family, whose verdicts use Holm's p over the whole study; the others are "
        "exploratory.",
        alt=f"Difference of {metric_label(metric)} to {baseline}, {task} on {set_name}. {words}.",
        table=rows,
        panels=panels,
        styles={n: styles[n] for n in names},
        x_label=f"difference of {metric_label(metric)} (source − {baseline})",
        x_range=spread,
        zone=delta,
    )


def _forest_row(r: dict[str, Any]) -> Row:
    return Row(
        label=f"{amount_text(str(r['data_fraction']))} · {r['pretraining_source']}{' ★' if r['primary'] else ''}",
        name=str(r["pretraining_source"]),
        value=as_float(r["estimate"]),
        low=as_float(r["low"]),
        high=as_float(r["high"]),
        filled=r["verdict"] != "undecided",
        note=f"{signed(as_float(r['estimate']))}  {r['verdict']}",
    )


def subgroup_plots(subgroups: pd.DataFrame, baseline: str) -> list[IntervalPlot]:
    """Metric per subgroup at the largest amount: a figure per task, set and column, a panel per scale.

    Args:
        subgroups: ``tables.subgroups``.
        baseline: Source that all are compared with.
    """
    plots = []
    for (task, set_name, column), of_group in split(subgroups, "task", "set", "column"):
        largest = of_group.sort_values("images", kind="stable")["data_fraction"].iloc[-1]
        at_largest = of_group[of_group["data_fraction"] == largest]
        sources = ordered(at_largest["pretraining_source"], baseline)
        for part, names in enumerate(source_groups(sources, baseline)):
            chosen = at_largest[at_largest["pretraining_source"].isin(names)]
            suffix = f"_{part + 1}" if part else ""
            if chosen["value"].notna().any():
                styles = source_styles(sources, baseline)
                plots.append(_subgroup_plot(file_key("subgroups", task, set_name, column) + suffix, chosen, styles))
    return plots


def _subgroup_plot(key: str, rows: pd.DataFrame, styles: dict[str, LineStyle]) -> IntervalPlot:
    first = rows.iloc[0]
    metric, column = str(first["metric"]), str(first["column"])
    names = [n for n in styles if n in set(rows["pretraining_source"])]
    ordered = rows.assign(rank=rows["pretraining_source"].map({n: i for i, n in enumerate(names)}))
    panels = tuple(
        (str(scale), tuple(_subgroup_row(r) for r in records(part.sort_values(["group", "rank"]))))
        for (scale,), part in split(ordered, "model_scale")
    )
    words = "; ".join(
        f"{column} {r['group']}, {r['model_scale']}, {r['pretraining_source']}: "
        + (interval(r["value"], r["low"], r["high"]) if r["sufficient"] else str(r["note"]))
        for r in records(rows)
    )
    return IntervalPlot(
        key=key,
        title=f"{first['task']}: {metric_label(metric)} by {column} on {first['set']}",
        caption=f"Largest amount ({amount_text(str(first['data_fraction']))}). A group is shown from {_needed(rows)} "
        "on; smaller ones are named, never blank. Each group has its own interval: groups of different size must not "
        "be compared by eye alone. Exploratory.",
        alt=f"{metric_label(metric)} of {first['task']} by {column}. {words}.",
        table=rows,
        panels=panels,
        styles={n: styles[n] for n in names},
        x_label=metric_label(metric),
        x_range=padded(finite([*rows["value"], *rows["low"], *rows["high"]])),
    )


def _needed(rows: pd.DataFrame) -> str:
    """Patients that a group needs: of masks there are no negative ones."""
    if rows["negative_patients"].isna().all():
        return f"{MIN_SHOWN_PATIENTS} patients with the label"
    return f"{MIN_SHOWN_PATIENTS} positive and {MIN_SHOWN_PATIENTS} negative patients"


def _subgroup_row(r: dict[str, Any]) -> Row:
    return Row(
        label=f"{r['group']} · {r['pretraining_source']}",
        name=str(r["pretraining_source"]),
        value=as_float(r["value"]),
        low=as_float(r["low"]),
        high=as_float(r["high"]),
        filled=True,
        note=number(as_float(r["value"])) if r["sufficient"] else str(r["note"]),
    )


def completeness_plot(completeness: pd.DataFrame) -> MatrixPlot | None:
    """Done, failed and missing trials of each cell; None if nothing was planned and nothing was run.

    Args:
        completeness: ``tables.completeness``.
    """
    if completeness.empty:
        return None
    pairs = list(zip(completeness["task"], completeness["data_fraction"], strict=True))
    table = completeness.assign(
        row=completeness["model_scale"] + " · " + completeness["pretraining_source"],
        column=pd.Series(pairs, index=completeness.index, dtype=object),
    )
    rows, columns = list(dict.fromkeys(table["row"])), sorted(set(table["column"]), key=_column_order(table))
    fields = {(r["row"], r["column"]): r for r in records(table)}
    share = tuple(tuple(_share(fields.get((r, c))) for c in columns) for r in rows)
    text = tuple(tuple(_field_text(fields.get((r, c))) for c in columns) for r in rows)
    planned, done, failed = (int(completeness[c].sum()) for c in ("planned", "done", "failed"))
    tasks = list(dict.fromkeys(task for task, _ in columns))
    return MatrixPlot(
        key="completeness",
        title="Trials done, of those planned",
        caption="Each field: finished of planned seeds; ✕ counts seeds that failed. Failed trials are not missing at "
        "random: a verdict that leans on such a cell says so.",
        alt=f"{done} of {planned} planned trials are done, {failed} failed, {planned - done - failed} are missing.",
        table=completeness,
        rows=tuple(rows),
        columns=tuple(amount_text(fraction) for _, fraction in columns),
        share=share,
        text=text,
        groups=tuple((task, sum(1 for t, _ in columns if t == task)) for task in tasks),
    )


def _column_order(table: pd.DataFrame) -> Callable[[tuple[str, str]], tuple[int, float]]:
    tasks = {t: i for i, t in enumerate(dict.fromkeys(table["task"]))}
    rank = table.groupby("column", sort=False)["rank"].first().to_dict()
    return lambda column: (tasks[column[0]], rank[column])


def _share(entry: dict[str, Any] | None) -> float:
    if entry is None or not as_float(entry["planned"]):
        return math.nan
    return as_float(entry["done"]) / as_float(entry["planned"])


def _field_text(entry: dict[str, Any] | None) -> str:
    if entry is None:
        return ""
    if not entry["planned"]:
        return "excluded" if entry["reason"] else ""
    failed = f" {entry['failed']}✕" if entry["failed"] else ""
    return f"{entry['done']}/{entry['planned']}{failed}"
