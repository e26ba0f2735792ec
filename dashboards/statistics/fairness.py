"""Differences between subgroups: the worst one, the largest gap and what chance gives, ES-AUC and cross-group AUCs.

The largest gap between groups is biased upwards: equal groups differ by chance, the more of them the more. It is read
beside its permutation null, in which patients of the same labels exchange their groups. Criteria at a threshold are in
``error_rates``. They conflict where prevalences differ, so they are reported side by side and not merged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dashboards.statistics.bootstrap import bootstrap_draws
from dashboards.statistics.class_sets import MIN_SHOWN_PATIENTS, LabelCounts, count_labels
from dashboards.statistics.contrasts import MIN_TEST_PATIENTS
from dashboards.statistics.discrimination import auc
from dashboards.statistics.metrics import RANKING, Metric, check_metric, higher_is_better, metric_value
from dashboards.statistics.predictions import BoolArray, FloatArray, Predictions
from dashboards.statistics.seeds import SeedKey
from dashboards.statistics.subgroups import Subgroup, insufficient_data
from dashboards.statistics.uncertainty import PatientIndex

PERMUTATIONS = 1000

OVERLAPPING = "no null: an image is in two of the groups"
SPREAD_PATIENTS = "no null: images of one patient are in different groups"
FEW_GROUPS = "fewer than two groups are large enough"
OTHER_SET = "left out: predictions of another evaluation set"
NOT_FINITE = "left out: the metric is undefined"


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupValue:
    """A metric in one subgroup.

    Attributes:
        group: Its name.
        value: Mean over runs; NaN if ``note`` says why.
        gap_to_overall: How much worse than on all images, in units of the metric; negative if better.
        counts: In the group, of the label that decides whether it is large enough.
        note: ``insufficient data (m+, n−)``, or empty.
    """

    group: str
    value: float
    gap_to_overall: float
    counts: LabelCounts
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupGap:
    """The groups of one attribute (or intersection).

    Attributes:
        metric: Name of the metric.
        overall: Its mean over runs on all images.
        values: Every group, those too small to be shown included.
        worst: Name of the worst group among those large enough to be tested; empty if there are fewer than two.
        gap: Best minus worst of these; NaN likewise.
        null_quantile: 95 % quantile of the gap when groups mean nothing; NaN if there is no null.
        p_value: ``(1 + permutations with a gap as large) / (1 + permutations)``; NaN likewise.
        permutations: Their number.
        runs: Runs that were averaged.
        left_out: Run -> why it was not.
        note: Why there is no gap or no null; empty if there are both.
    """

    metric: str
    overall: float
    values: tuple[GroupValue, ...]
    worst: str
    gap: float
    null_quantile: float
    p_value: float
    permutations: int
    runs: int
    left_out: dict[SeedKey, str]
    note: str


def group_gap(
    metric: str,
    runs: Mapping[SeedKey, Predictions],
    groups: Sequence[Subgroup],
    index: PatientIndex,
    rng: np.random.Generator,
    *,
    permutations: int = PERMUTATIONS,
    min_shown: int = MIN_SHOWN_PATIENTS,
    min_tested: int = MIN_TEST_PATIENTS,
) -> GroupGap:
    """A metric in each group of an attribute, the largest gap, and whether chance explains it.

    The null: patients with the same pattern of labels (positive or negative images of each label) exchange their
    groups, so every permuted group keeps its numbers of positive and negative patients. A pattern that one patient
    alone has stays where it is: with many labels the test loses power, not its level. Only groups large enough to be
    tested take part. Adjust the p-values of several attributes by Holm.

    Args:
        metric: A name of ``metric_names``.
        runs: Seed -> predictions on the same images; the metric is averaged over them.
        groups: Groups of one attribute or one intersection, from ``find_subgroups``.
        index: Patients of the N images.
        rng: Source of the permutations.
        permutations: Their number; 0 for no null.
        min_shown: Least positive and negative patients for a group to be shown.
        min_tested: Least for it to take part in the gap.

    Raises:
        ValueError: There is no run, or the first one has another number of images than ``index``.
    """
    used, left_out = _usable(metric, runs, index)
    first = next(iter(runs.values()))
    overall = _mean([metric_value(metric, run) for run in used.values()])
    values = tuple(_group_value(metric, used, first, g, index, overall, min_shown) for g in groups)
    tested = [
        (g, v)
        for g, v in zip(groups, values, strict=True)
        if not insufficient_data(v.counts, min_tested) and np.isfinite(v.value)
    ]
    sign = 1.0 if higher_is_better(metric) else -1.0
    worst = min(tested, key=lambda pair: sign * pair[1].value)[1].group if len(tested) > 1 else ""
    gap = float(np.ptp([v.value for _, v in tested])) if len(tested) > 1 else float("nan")
    note = FEW_GROUPS if len(tested) < 2 else no_null([g for g, _ in tested], index)
    null = np.full(1, np.nan)
    if not note and permutations:
        null = _null_gaps(metric, used, [g for g, _ in tested], index, rng, permutations)
    return GroupGap(
        metric=metric,
        overall=overall,
        values=values,
        worst=worst,
        gap=gap,
        null_quantile=float(np.quantile(null, 0.95)),
        p_value=_p_value(gap, null),
        permutations=0 if np.isnan(null).all() else len(null),
        runs=len(used),
        left_out=left_out,
        note=note,
    )


def cross_group_auc(y: ArrayLike, scores: ArrayLike, groups: Sequence[Subgroup]) -> FloatArray:
    """(G, G): AUC of the positives of one group (row) against the negatives of another (column).

    The diagonal are the AUCs within groups, which do not see that one group's scores are shifted as a whole; the rest
    does (Kallus & Zhou 2019, xAUC).

    Args:
        y: (N,) of 0, 1 and NaN (masked).
        scores: (N,) higher means more positive.
        groups: G groups; their rows count as those of y.

    Returns:
        Values in [0, 1]; NaN where a group has no positive or no negative, or a score is not finite.
    """
    truth, values = np.asarray(y, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    positive = [values[g.rows[truth[g.rows] == 1]] for g in groups]
    negative = [values[g.rows[truth[g.rows] == 0]] for g in groups]
    return np.array([[auc(np.r_[np.ones(len(a)), np.zeros(len(b))], np.r_[a, b]) for b in negative] for a in positive])


def equity_scaled_auc(overall: float, of_groups: Sequence[float]) -> float:
    """``AUC / (1 + sum over groups |AUC - AUC_g|)`` (Luo et al. 2024, ES-AUC); NaN if one is, or without a group.

    Leave groups that are too small out beforehand, and name them: the sum grows with the number of groups.
    """
    values = np.asarray(of_groups, dtype=np.float64)
    return float(overall / (1.0 + np.abs(overall - values).sum())) if len(values) else float("nan")


def _usable(
    metric: str, runs: Mapping[SeedKey, Predictions], index: PatientIndex
) -> tuple[dict[SeedKey, Predictions], dict[SeedKey, str]]:
    if not runs:
        raise ValueError("subgroup gaps need at least one run")
    first = next(iter(runs.values()))
    if len(first.truth) != len(index.codes):
        raise ValueError(f"the predictions have {len(first.truth)} images, the patient index {len(index.codes)}")
    left_out = {
        seed: OTHER_SET if not _same_set(first, run) else NOT_FINITE
        for seed, run in runs.items()
        if not _same_set(first, run) or not np.isfinite(metric_value(metric, run))
    }
    return {seed: run for seed, run in runs.items() if seed not in left_out}, left_out


def _same_set(a: Predictions, b: Predictions) -> bool:
    same = (a.kind, a.labels, a.class_set) == (b.kind, b.labels, b.class_set)
    return same and np.array_equal(a.truth, b.truth, equal_nan=True)


def _group_value(
    metric: str,
    runs: Mapping[SeedKey, Predictions],
    first: Predictions,
    group: Subgroup,
    index: PatientIndex,
    overall: float,
    min_shown: int,
) -> GroupValue:
    counts = _scarcest(metric, first, group, index)
    note = insufficient_data(counts, min_shown)
    value = float("nan") if note else _mean([metric_value(metric, run.at(group.rows)) for run in runs.values()])
    sign = 1.0 if higher_is_better(metric) else -1.0
    return GroupValue(group=group.name, value=value, gap_to_overall=sign * (overall - value), counts=counts, note=note)


def _scarcest(metric: str, predictions: Predictions, group: Subgroup, index: PatientIndex) -> LabelCounts:
    """Counts of the label that decides whether a group is large enough.

    Of the labels that the metric is about the one with fewest patients on a side; for an accuracy or score over classes
    that exclude each other, which needs no class in particular, the one with most.
    """
    name, label = check_metric(metric, predictions)
    asked = predictions.class_set if label is None or name not in RANKING else (label,)
    own = PatientIndex(ids=index.ids, codes=index.codes[group.rows])
    counts = count_labels("multilabel", predictions.labels, predictions.truth[group.rows], own)
    needs_all = predictions.labelwise or name in (*RANKING, Metric.BALANCED_ACCURACY)
    decides = min if needs_all else max
    return decides((c for c in counts if c.label in asked), key=lambda c: min(c.positive_patients, c.negative_patients))


def no_null(groups: Sequence[Subgroup], index: PatientIndex) -> str:
    """Why groups cannot be permuted over patients; empty if they can."""
    rows = np.concatenate([g.rows for g in groups])
    if len(np.unique(rows)) < len(rows):
        return OVERLAPPING
    of_patients = np.concatenate([np.unique(index.codes[g.rows]) for g in groups])
    return SPREAD_PATIENTS if len(np.unique(of_patients)) < len(of_patients) else ""


def _null_gaps(
    metric: str,
    runs: Mapping[SeedKey, Predictions],
    groups: Sequence[Subgroup],
    index: PatientIndex,
    rng: np.random.Generator,
    permutations: int,
) -> FloatArray:
    """(permutations,) largest gaps. A permuted group is a weight of 1 on its patients: one definition serves both."""
    rows = np.sort(np.concatenate([g.rows for g in groups]))
    patients, codes = np.unique(index.codes[rows], return_inverse=True)
    own = PatientIndex(ids=index.ids[patients], codes=codes.astype(np.intp))
    group_of = np.empty(len(patients), dtype=np.intp)
    for k, group in enumerate(groups):
        group_of[np.searchsorted(patients, np.unique(index.codes[group.rows]))] = k
    first = next(iter(runs.values()))
    permuted = permuted_groups(group_of, strata_of(first.truth[rows], own), rng, permutations)
    values = np.zeros((len(groups), permutations))
    for run in runs.values():
        part = run.at(rows)
        for k in range(len(groups)):
            values[k] += _under_weights(metric, part, own, permuted == k)
    return np.asarray(np.ptp(values / len(runs), axis=0))


def _under_weights(metric: str, part: Predictions, index: PatientIndex, members: BoolArray) -> FloatArray:
    y = part.truth if part.labelwise else part.class_index
    weights = members.astype(np.float64)
    return bootstrap_draws(metric, part.kind, part.labels, y, part.logits, index, weights, part.class_set)


def strata_of(truth: FloatArray, index: PatientIndex) -> NDArray[np.intp]:
    """(P,) number of each patient's pattern of labels."""
    n = len(index.ids)
    pattern = [np.bincount(index.codes, column == side, n) > 0 for column in truth.T for side in (0, 1)]
    return np.unique(np.column_stack(pattern), axis=0, return_inverse=True)[1].reshape(-1).astype(np.intp)


def permuted_groups(
    group_of: NDArray[np.intp], strata: NDArray[np.intp], rng: np.random.Generator, permutations: int
) -> NDArray[np.intp]:
    """(permutations, P) groups, exchanged within strata."""
    found = np.tile(group_of, (permutations, 1))
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        found[:, members] = rng.permuted(found[:, members], axis=1)
    return found


def _p_value(gap: float, null: FloatArray) -> float:
    if np.isnan(gap) or np.isnan(null).any():
        return float("nan")
    return float((1 + (null >= gap - 1e-12).sum()) / (1 + len(null)))


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else float("nan")
