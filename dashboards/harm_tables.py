"""Question 5, whom does a source harm: differences to the baseline within subgroups, and gaps between them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from dashboards.blocks import Block, SetRuns
from dashboards.set_groups import GroupPart, SetGroups, group_influences, image_values
from dashboards.statistics import Influence, SeedKey, combined_interval, is_lost
from dashboards.statistics.fairness import FEW_GROUPS, equity_scaled_auc
from dashboards.statistics.families import adjust_p_values
from dashboards.statistics.group_null import GroupPermutations, largest_gaps, null_of_auc, null_of_mean
from dashboards.statistics.harm import GroupRuns, Harm, harm_by_group, harm_word
from dashboards.statistics.metrics import higher_is_better
from dashboards.statistics.predictions import FloatArray
from dashboards.statistics.run_batches import is_auc

NO_SHARED_CLASS = "no class has enough patients in all groups"
NO_NULL_FOR_METRIC = "no null: the metric is no mean over images"


def harm_rows(block: Block, runs: SetRuns, groups: SetGroups) -> Iterator[dict[str, Any]]:
    """Each source minus the baseline in each subgroup, with its word; intersections at the primary amounts.

    Holm's correction runs over the groups of one comparison that are large enough to be tested; ``decide_harm`` widens
    it to the study.
    """
    parts = [*groups.of(1), *(groups.of(2) if block.primary else [])]
    if block.baseline not in runs.positions() or not parts:
        return
    found = {part.group.name: runs.by_source(_influences(block, runs, part)) for part in parts if part.shown}
    large = {part.group.name for part in parts if part.tested}
    for source in block.sources():
        pairs = {name: block.pair(by_source, source) for name, by_source in found.items()}
        pairs = {name: pair for name, pair in pairs.items() if all(pair)}
        sides = {name: GroupRuns(source=a, baseline=b) for name, (a, b) in pairs.items()}
        judged = harm_by_group(
            block.metric, sides, delta=block.evidence.delta, alpha=block.evidence.alpha, tested=large
        )
        by_name = {harm.group: harm for harm in judged}
        for part in parts:
            if source in runs.positions():
                yield _harm_row(block, runs, part, source, by_name.get(part.group.name), pairs.get(part.group.name))


def _influences(block: Block, runs: SetRuns, part: GroupPart) -> list[Influence]:
    return group_influences(block.metric, runs, part, part.tested or part.shown)


def _harm_row(
    block: Block,
    runs: SetRuns,
    part: GroupPart,
    source: str,
    harm: Harm | None,
    pair: tuple[dict[SeedKey, Influence], dict[SeedKey, Influence]] | None,
) -> dict[str, Any]:
    estimate = harm.estimate if harm else None
    nan = float("nan")
    means = [float(np.mean([i.value for i in side.values()])) for side in pair] if pair else [nan, nan]
    return {
        **block.coordinates(source),
        "set": runs.name,
        "primary": block.primary,
        "metric": block.metric,
        "column": part.column,
        "group": part.value,
        "word": harm.word if harm else "insufficient data",
        "estimate": estimate.value if estimate else nan,
        "low": estimate.low if estimate else nan,
        "high": estimate.high if estimate else nan,
        "level": block.level,
        "p_harmed": harm.p_harmed if harm else nan,
        "p_beyond": harm.p_beyond if harm else nan,
        "p_excluded": harm.p_excluded if harm else nan,
        "p_harmed_alone": harm.p_harmed_alone if harm else nan,
        "p_beyond_alone": harm.p_beyond_alone if harm else nan,
        "lost": bool(part.tested) and (harm is None or is_lost(harm.estimate)),
        "source_value": means[0],
        "baseline_value": means[1],
        "n_seeds": estimate.n_seeds if estimate else 0,
        "group_patients": len(part.index.ids),
        "positive_patients": part.positive,
        "negative_patients": part.negative,
        "classes": ", ".join(part.tested or part.shown) if is_auc(block.metric) else "",
        "delta": block.evidence.delta,
        "images": block.images,
        "note": _harm_note(part, harm),
    }


def decide_harm(harm: pd.DataFrame, alpha: float, absent: int = 0) -> pd.DataFrame:
    """Words on harm at the primary amounts, with claims of harm adjusted over the study (Holm).

    Without it, a report on sources that harm nobody names a harmed group the more often, the more comparisons it has
    (``benchmarks.null_verdicts``). That harm is excluded needs no such family: it is claimed of a comparison only if it
    holds in all its groups, and a harm that the wider family hides still "cannot be excluded". The family is as large
    as it was planned: groups that are large enough and lost their results count in it with p = 1.

    Args:
        harm: Rows of ``harm_rows`` of all tasks.
        alpha: Two-sided error level of the family.
        absent: Planned tests of the family without a row (``primary_family.absent_groups``).
    """
    if harm.empty:
        return harm
    decided, primary = harm.copy(), harm["primary"].astype(bool)
    absent += int(harm.loc[primary, "lost"].sum())
    for name in ("p_harmed", "p_beyond"):
        decided.loc[primary, name] = adjust_p_values(harm.loc[primary, f"{name}_alone"], absent=absent)
    p = decided[primary][["p_harmed", "p_beyond", "p_excluded"]].to_numpy(float).tolist()
    decided.loc[primary, "word"] = [harm_word(h, b, e, alpha) for h, b, e in p]
    return decided


def _harm_note(part: GroupPart, harm: Harm | None) -> str:
    if not part.tested:
        return part.too_small
    return harm.note if harm else "no pair of trials"


def gap_rows(block: Block, runs: SetRuns, groups: SetGroups) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Of each cell and attribute the largest gap with its null; and the value of each group with its band of chance.

    p-values are adjusted by Holm over the attributes of a cell on one set.
    """
    gaps: list[dict[str, Any]] = []
    values: list[dict[str, Any]] = []
    for column, parts in groups.attributes().items():
        of_column = _column_gaps(block, runs, groups, column, parts)
        gaps += of_column[0]
        values += of_column[1]
    for source in runs.positions():
        own = [row for row in gaps if row["pretraining_source"] == source]
        for row, p in zip(own, adjust_p_values([row["p"] for row in own]), strict=True):
            row["p_holm"] = float(p)
    return gaps, values


def _column_gaps(
    block: Block, runs: SetRuns, groups: SetGroups, column: str, parts: Sequence[GroupPart]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    classes = _shared_classes(parts)
    tested = [part for part in parts if part.tested and classes]
    shown = [part for part in parts if classes and set(classes) <= set(part.shown)]
    influences = {part.value: runs.by_source(group_influences(block.metric, runs, part, classes)) for part in shown}
    overall = runs.by_source(group_influences(block.metric, runs, None, classes)) if classes else {}
    null, why = _null(block, runs, groups, parts, classes)
    gaps, values = [], []
    for position, source in enumerate(runs.positions()):
        own = null[position] if null is not None else None
        found = {name: by_source[source] for name, by_source in influences.items()}
        gaps.append(_gap_row(block, runs, column, source, tested, found, overall.get(source, {}), own, why))
        for part in parts:
            band = own[tested.index(part)] if own is not None and part in tested else None
            values.append(_value_row(block, runs, part, source, found.get(part.value), band, classes))
    return gaps, values


def _shared_classes(parts: Sequence[GroupPart]) -> tuple[str, ...]:
    """Labels with enough patients in every group that has any such label: only they make values that compare."""
    large = [part.tested for part in parts if part.tested]
    if len(large) < 2:
        return large[0] if large else ()
    return tuple(label for label in large[0] if all(label in tested for tested in large))


def _null(
    block: Block, runs: SetRuns, groups: SetGroups, parts: Sequence[GroupPart], classes: Sequence[str]
) -> tuple[FloatArray | None, str]:
    """(cells, groups, permutations, labels) under the null, or why there is none."""
    tested = [part for part in parts if part.tested]
    if len(tested) < 2:
        return None, FEW_GROUPS
    if not classes:
        return None, NO_SHARED_CLASS
    permuted = groups.permutations(tested, runs.batch.truth, block.task)
    if not isinstance(permuted, GroupPermutations):
        return None, permuted
    cells = list(runs.positions().values())
    if is_auc(block.metric):
        return null_of_auc(runs.batch, classes, permuted, cells), ""
    values = image_values(block.metric, runs)
    return (None, NO_NULL_FOR_METRIC) if values is None else (null_of_mean(values, permuted, cells), "")


def _gap_row(
    block: Block,
    runs: SetRuns,
    column: str,
    source: str,
    tested: Sequence[GroupPart],
    found: dict[str, dict[SeedKey, Influence]],
    overall: dict[SeedKey, Influence],
    null: FloatArray | None,
    why: str,
) -> dict[str, Any]:
    means = {part.value: float(np.mean([i.value for i in found[part.value].values()])) for part in tested}
    sign = 1.0 if higher_is_better(block.metric) else -1.0
    enough = len(means) > 1
    worst = min(means, key=lambda name: sign * means[name]) if enough else ""
    gap = float(np.ptp(list(means.values()))) if enough else float("nan")
    drawn = largest_gaps(null) if null is not None else np.full(1, np.nan)
    whole = float(np.mean([i.value for i in overall.values()])) if overall else float("nan")
    known = np.isfinite(gap) and np.isfinite(drawn).all()
    return {
        **block.coordinates(source),
        "set": runs.name,
        "primary": block.primary,
        "metric": block.metric,
        "column": column,
        "overall": whole,
        "worst_group": worst,
        "worst_value": means.get(worst, float("nan")),
        "gap": gap,
        "null_quantile": float(np.quantile(drawn, 0.95)),
        "p": float((1 + (drawn >= gap - 1e-12).sum()) / (1 + len(drawn))) if known else float("nan"),
        "equity_scaled_auc": equity_scaled_auc(whole, list(means.values()))
        if is_auc(block.metric) and enough
        else float("nan"),
        "groups": ", ".join(means),
        "n_seeds": len(overall),
        "images": block.images,
        "note": why,
    }


def _value_row(
    block: Block,
    runs: SetRuns,
    part: GroupPart,
    source: str,
    found: dict[SeedKey, Influence] | None,
    null: FloatArray | None,
    classes: Sequence[str],
) -> dict[str, Any]:
    estimate = combined_interval(found, level=block.level) if found else None
    nan = float("nan")
    band = np.quantile(null.mean(axis=-1), [0.025, 0.975]) if null is not None else (nan, nan)
    return {
        **block.coordinates(source),
        "set": runs.name,
        "column": part.column,
        "group": part.value,
        "metric": block.metric,
        "value": estimate.value if estimate else nan,
        "low": estimate.low if estimate else nan,
        "high": estimate.high if estimate else nan,
        "level": block.level,
        "null_low": float(band[0]),
        "null_high": float(band[1]),
        "n_seeds": estimate.n_seeds if estimate else 0,
        "group_patients": len(part.index.ids),
        "positive_patients": part.positive,
        "negative_patients": part.negative,
        "classes": ", ".join(classes) if is_auc(block.metric) else "",
        "sufficient": estimate is not None,
        "images": block.images,
        "note": "" if estimate else (part.too_small if not part.tested else NO_SHARED_CLASS),
    }
