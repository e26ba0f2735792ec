"""Whether a source harms a subgroup, compared with the baseline on the same patients (levelling down).

A narrower gap through a worse best group is no improvement, so each group is judged on its own difference.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from dashboards.statistics.contrasts import MIN_TEST_PATIENTS, Estimate, Runs, contrast, is_lost
from dashboards.statistics.families import adjust_p_values
from dashboards.statistics.margins import one_sided_p
from dashboards.statistics.metrics import higher_is_better

HARM_DELTA = 0.01
"""Differences up to this are no harm, in units of the metric, unless the study says otherwise."""

HarmWord = Literal[
    "harmed, more than delta", "harmed", "harm cannot be excluded", "no harm beyond delta", "insufficient data"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRuns:
    """Both sides of one subgroup on one evaluation set.

    Attributes:
        source: Seed -> metric in the group, with the source.
        baseline: The same with the baseline.
    """

    source: Runs
    baseline: Runs


@dataclass(frozen=True, slots=True, kw_only=True)
class Harm:
    """The judgement on one subgroup.

    Attributes:
        group: Its name.
        word: The judgement.
        estimate: Source minus baseline, in the metric's own direction, with its unadjusted interval.
        p_harmed: Of "no worse than the baseline", one-sided, Holm-adjusted over the eligible groups; NaN if not tested.
        p_beyond: Of "worse by at most delta", likewise.
        p_excluded: Of "worse by at least delta", likewise.
        p_harmed_alone: ``p_harmed`` before the adjustment, for families of several comparisons.
        p_beyond_alone: ``p_beyond`` before the adjustment.
        note: Why it was not tested; empty if it was.
    """

    group: str
    word: HarmWord
    estimate: Estimate
    p_harmed: float
    p_beyond: float
    p_excluded: float
    p_harmed_alone: float
    p_beyond_alone: float
    note: str


def harm_by_group(
    metric: str,
    groups: Mapping[str, GroupRuns],
    *,
    delta: float = HARM_DELTA,
    alpha: float = 0.05,
    min_patients: int = MIN_TEST_PATIENTS,
    tested: Collection[str] | None = None,
) -> tuple[Harm, ...]:
    """Harm of every group of one evaluation set, in domain or shifted.

    With the Holm-adjusted interval of "source minus baseline" (positive is better), in this order: upper end below
    -delta: *harmed, more than delta*; upper end below 0: *harmed*; lower end below -delta: *harm cannot be excluded*;
    else *no harm beyond delta*. An end of the two-sided ``1 - alpha`` interval lies beyond a limit exactly if the
    one-sided p of that limit is below ``alpha / 2``, so Holm's correction is applied to these p, for each limit over
    the eligible groups. Eligible groups whose results are lost (no common seed, an undefined metric) count as members
    with p = 1.

    Args:
        metric: Name of the metric; says which direction is worse.
        groups: Name -> runs of both sides, paired by seed.
        delta: At least 0, in units of the metric.
        alpha: Two-sided error level of each of the three families.
        min_patients: Least patients per class for a group to be tested.
        tested: Groups that may be tested at all; the others have an estimate only. All if None. For metrics whose runs
            do not count patients by class, such as accuracy and NLL.

    Raises:
        ValueError: delta is negative.
    """
    if delta < 0:
        raise ValueError(f"delta must be at least 0, got {delta}")
    names = list(groups)
    found = [contrast(g.source, g.baseline, level=1 - alpha, min_test_patients=min_patients) for g in groups.values()]
    sign = 1.0 if higher_is_better(metric) else -1.0

    def eligible(name: str) -> bool:
        return tested is None or name in tested

    def p_of(name: str, estimate: Estimate, limit: float, below: bool) -> float:
        return one_sided_p(estimate, limit, below=below) if eligible(name) else float("nan")

    harmed, beyond, excluded = (
        [p_of(name, estimate, sign * limit, below == (sign > 0)) for name, estimate in zip(names, found, strict=True)]
        for limit, below in ((0.0, True), (-delta, True), (-delta, False))
    )
    lost = sum(eligible(name) and is_lost(estimate, min_patients) for name, estimate in zip(names, found, strict=True))
    adjusted = zip(*(adjust_p_values(p, absent=lost).tolist() for p in (harmed, beyond, excluded)), strict=True)
    return tuple(
        _judged(name, estimate, p, alone, alpha)
        for name, estimate, p, alone in zip(names, found, adjusted, zip(harmed, beyond, strict=True), strict=True)
    )


def harm_word(p_harmed: float, p_beyond: float, p_excluded: float, alpha: float) -> HarmWord:
    """The judgement that follows from the three p-values (see ``Harm``); NaN is "insufficient data".

    Args:
        p_harmed: Adjusted.
        p_beyond: Adjusted.
        p_excluded: Adjusted.
        alpha: Two-sided error level of each of the three families.
    """
    if np.isnan(p_harmed):
        return "insufficient data"
    if p_beyond < alpha / 2:
        return "harmed, more than delta"
    if p_harmed < alpha / 2:
        return "harmed"
    return "no harm beyond delta" if p_excluded < alpha / 2 else "harm cannot be excluded"


def worst_case(harms: Sequence[Harm]) -> HarmWord:
    """The gravest word of all groups that were tested; "insufficient data" if none was."""
    order: tuple[HarmWord, ...] = (
        "harmed, more than delta",
        "harmed",
        "harm cannot be excluded",
        "no harm beyond delta",
    )
    words = {harm.word for harm in harms}
    return next((word for word in order if word in words), "insufficient data")


def _judged(
    name: str, estimate: Estimate, p: tuple[float, float, float], alone: tuple[float, float], alpha: float
) -> Harm:
    harmed, beyond, excluded = p
    word = harm_word(harmed, beyond, excluded, alpha)
    note = ("; ".join(estimate.notes) or "not tested") if word == "insufficient data" else ""
    return Harm(
        group=name,
        word=word,
        estimate=estimate,
        p_harmed=harmed,
        p_beyond=beyond,
        p_excluded=excluded,
        p_harmed_alone=alone[0],
        p_beyond_alone=alone[1],
        note=note,
    )
