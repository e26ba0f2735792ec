"""Error rates of subgroups at the threshold frozen on validation, calibration within them, AUCs across them.

Criteria of fairness conflict where prevalences differ: they stand side by side and are not merged.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from dashboards.blocks import NO_THRESHOLD, NO_VALIDATION, Block, SetRuns
from dashboards.set_groups import GroupPart, SetGroups
from dashboards.statistics import Estimate, combined_interval, insufficient_data
from dashboards.statistics.batch_calibration import BatchCalibration, batch_calibration
from dashboards.statistics.predictions import FloatArray
from dashboards.statistics.run_batches import mean_influences

_HEALTHY = re.compile(r"(no[ _-]?finding|normal|healthy|no[ _-]?(disease|dr|tumou?r|lesion))s?", re.IGNORECASE)
_NAN = float("nan")


def rate_rows(block: Block, runs: SetRuns, groups: SetGroups) -> Iterator[dict[str, Any]]:
    """Each label in each group of one attribute, at the amounts of the primary family.

    Groups with fewer than 10 positive or 10 negative patients of the label are listed with their numbers.
    """
    if not block.primary:
        return
    cells = {s: p for s, p in runs.positions().items() if all(runs.keys[r].trial_id in block.fitted(runs) for r in p)}
    for label in runs.batch.first.class_set:
        column = runs.batch.first.labels.index(label)
        for part in groups.of(1):
            if label not in part.shown:
                why = insufficient_data(part.counts[column])
                yield from (_unknown(block, runs, part, s, label, why) for s in runs.positions())
                continue
            yield from (
                _unknown(block, runs, part, s, label, NO_VALIDATION) for s in runs.positions() if s not in cells
            )
            if cells:
                yield from _group_rates(block, runs, part, label, column, cells)


def _group_rates(
    block: Block, runs: SetRuns, part: GroupPart, label: str, column: int, cells: dict[str, list[int]]
) -> Iterator[dict[str, Any]]:
    rows = part.group.rows
    truth, scores = runs.batch.truth[rows, column], runs.batch.scores[:, rows, column]
    called = block.called(runs, column)[:, rows]
    rates = {
        name: mean_influences("accuracy", called[..., None], part.index, counted=(truth == side)[:, None])
        for name, side in (("tpr", 1), ("fpr", 0))
    }
    known = ~np.isnan(truth)
    outcomes = np.broadcast_to(truth[known], (len(scores), int(known.sum())))
    order = runs.batch.ranked(column).within(rows, len(runs.batch.truth)).order
    calibration = batch_calibration(outcomes, scores[:, known], None, order=order)
    for source, positions in cells.items():
        found = {
            name: combined_interval({runs.keys[r].seed: influences[r] for r in positions}, level=block.level)
            for name, influences in rates.items()
        }
        yield _rate_row(block, runs, part, source, label, found, calibration, positions)


def _rate_row(
    block: Block,
    runs: SetRuns,
    part: GroupPart,
    source: str,
    label: str,
    rates: dict[str, Estimate],
    calibration: BatchCalibration,
    positions: Sequence[int],
) -> dict[str, Any]:
    healthy = bool(_HEALTHY.fullmatch(label))
    missed = rates["fpr"].value if healthy else 1.0 - rates["tpr"].value
    mean = {
        name: float(np.mean(getattr(calibration, name)[list(positions)]))
        for name in ("in_the_large", "slope", "intercept", "squared_l2")
    }
    return {
        **_place(block, runs, part, source, label),
        "tpr": rates["tpr"].value,
        "tpr_low": rates["tpr"].low,
        "tpr_high": rates["tpr"].high,
        "fpr": rates["fpr"].value,
        "fpr_low": rates["fpr"].low,
        "fpr_high": rates["fpr"].high,
        "level": block.level,
        "underdiagnosis": missed,
        "in_the_large": mean["in_the_large"],
        "slope": mean["slope"],
        "intercept": mean["intercept"],
        "debiased_l2": float(np.sqrt(np.maximum(0.0, mean["squared_l2"]))),
        "n_seeds": min(rate.n_seeds for rate in rates.values()),
        **_sizes(runs, part, label),
        "note": "" if all(rate.n_seeds for rate in rates.values()) else NO_THRESHOLD,
    }


def _unknown(block: Block, runs: SetRuns, part: GroupPart, source: str, label: str, note: str) -> dict[str, Any]:
    names = ("tpr", "tpr_low", "tpr_high", "fpr", "fpr_low", "fpr_high")
    rest = ("underdiagnosis", "in_the_large", "slope", "intercept", "debiased_l2")
    return {
        **_place(block, runs, part, source, label),
        **dict.fromkeys(names, _NAN),
        "level": block.level,
        **dict.fromkeys(rest, _NAN),
        "n_seeds": 0,
        **_sizes(runs, part, label),
        "note": note,
    }


def _sizes(runs: SetRuns, part: GroupPart, label: str) -> dict[str, int]:
    counts = part.counts[runs.batch.first.labels.index(label)]
    return {"positive_patients": counts.positive_patients, "negative_patients": counts.negative_patients}


def _place(block: Block, runs: SetRuns, part: GroupPart, source: str, label: str) -> dict[str, Any]:
    where = {"set": runs.name, "label": label, "column": part.column, "group": part.value}
    return {**block.coordinates(source), **where}


def odds_rows(rates: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Largest differences of error rates between the groups of an attribute, of each cell, set and label.

    Args:
        rates: Rows of ``rate_rows``.
    """
    keys = ("task", "model_scale", "pretraining_source", "data_fraction", "set", "label", "column")
    found: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rates:
        found.setdefault(tuple(row[k] for k in keys), []).append(row)
    for key, rows in found.items():
        shown = [row for row in rows if np.isfinite(row["tpr"]) and np.isfinite(row["fpr"])]
        gaps = {n: float(np.ptp([r[n] for r in shown])) if len(shown) > 1 else _NAN for n in ("tpr", "fpr")}
        missed = max(shown, key=lambda row: row["underdiagnosis"]) if len(shown) > 1 else None
        yield {
            **dict(zip(keys, key, strict=True)),
            "equal_opportunity_gap": gaps["tpr"],
            "fpr_gap": gaps["fpr"],
            "equalised_odds": float(np.maximum(gaps["tpr"], gaps["fpr"])),
            "most_underdiagnosed": missed["group"] if missed else "",
            "underdiagnosis": missed["underdiagnosis"] if missed else _NAN,
            "groups": ", ".join(str(row["group"]) for row in shown),
            "left_out": "; ".join(f"{row['group']}: {row['note']}" for row in rows if row not in shown),
        }


def cross_rows(block: Block, runs: SetRuns, groups: SetGroups) -> Iterator[dict[str, Any]]:
    """Positives of one group against negatives of another: mean over seeds, then over the labels of both groups."""
    if not block.primary:
        return
    for column, parts in groups.attributes().items():
        shown = [part for part in parts if part.shown]
        if len(shown) < 2:
            continue
        labels = [c for c in runs.batch.first.class_set if all(c in part.shown for part in shown)]
        if not labels:
            continue
        of_labels = _crossed(runs, shown, labels)
        for source, positions in runs.positions().items():
            matrix = of_labels[:, positions].reshape(-1, len(shown), len(shown)).mean(axis=0)
            for a, positives in enumerate(shown):
                for b, negatives in enumerate(shown):
                    yield {
                        **block.coordinates(source),
                        "set": runs.name,
                        "column": column,
                        "positives_of": positives.value,
                        "negatives_of": negatives.value,
                        "auc": float(matrix[a, b]),
                        "classes": ", ".join(labels),
                    }


def _crossed(runs: SetRuns, parts: Sequence[GroupPart], labels: Sequence[str]) -> FloatArray:
    """(labels, R, G, G) AUC of positives against negatives of all pairs of groups, which share no image."""
    groups = np.full(len(runs.batch.truth), -1, dtype=np.intp)
    for number, part in enumerate(parts):
        groups[part.group.rows] = number
    ranked = [runs.batch.ranked(runs.batch.first.labels.index(label)) for label in labels]
    return np.stack([of_label.crossed(groups[of_label.rows], len(parts)) for of_label in ranked])
