"""The permutation null of gaps between subgroups, for many cells at once.

``fairness.group_gap`` recomputes the metric in every permuted group. Here a permuted group's metric is that of sums
over its patients: exact for means over images; for an AUC the placements of its images among all others', which is the
AUC within the group to first order. With 20 positive and 20 negative patients the part left out is under 2 % of the
variance. One matrix product then gives all permutations, and all cells of a set share them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dashboards.statistics.bootstrap import patient_sums
from dashboards.statistics.fairness import permuted_groups, strata_of
from dashboards.statistics.predictions import FloatArray
from dashboards.statistics.run_batches import RunBatch
from dashboards.statistics.subgroups import Subgroup
from dashboards.statistics.uncertainty import PatientIndex


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupPermutations:
    """Permuted groups of one attribute, shared by all runs of an evaluation set.

    Attributes:
        rows: (n,) images of the groups that take part.
        index: Their patients.
        members: For each group (permutations, P): 1 where the patient is in it.
    """

    rows: NDArray[np.intp]
    index: PatientIndex
    members: tuple[FloatArray, ...]


def permute_groups(
    truth: FloatArray,
    groups: Sequence[Subgroup],
    index: PatientIndex,
    rng: np.random.Generator,
    permutations: int = 1000,
) -> GroupPermutations:
    """Patients of the same pattern of labels exchange their groups.

    Args:
        truth: (N, L) of 1, 0 and NaN.
        groups: Groups without an image or a patient in common.
        index: Patients of the N images.
        rng: Source of the permutations.
        permutations: Their number.
    """
    rows = np.sort(np.concatenate([g.rows for g in groups]))
    patients, codes = np.unique(index.codes[rows], return_inverse=True)
    own = PatientIndex(ids=index.ids[patients], codes=codes.astype(np.intp))
    group_of = np.empty(len(patients), dtype=np.intp)
    for k, group in enumerate(groups):
        group_of[np.searchsorted(patients, np.unique(index.codes[group.rows]))] = k
    permuted = permuted_groups(group_of, strata_of(truth[rows], own), rng, permutations)
    members = tuple((permuted == k).astype(np.float32) for k in range(len(groups)))
    return GroupPermutations(rows=rows, index=own, members=members)


def null_of_auc(
    batch: RunBatch, labels: Sequence[str], permuted: GroupPermutations, cells: Sequence[Sequence[int]]
) -> FloatArray:
    """AUC of each label in permuted groups, mean over the runs of each cell.

    Args:
        batch: R runs on the whole evaluation set.
        labels: L labels that the groups define.
        permuted: G groups.
        cells: C times the positions of a cell's runs.

    Returns:
        (C, G, permutations, L); NaN where a permuted group lacks a side.
    """
    columns = [batch.first.labels.index(label) for label in labels]
    parts: list[tuple[FloatArray, PatientIndex]] = []
    for column in columns:
        parts += _sides_of_label(batch, column, permuted, cells)
    found = _ratios(parts, permuted)
    # Positives against all negatives, plus negatives against all positives, less the AUC.
    values = np.stack([positives.mean(axis=1) for positives, _ in parts[::2]])
    return np.moveaxis(found[::2] + found[1::2] - values[:, :, None, None], 0, 3)


def null_of_mean(values: FloatArray, permuted: GroupPermutations, cells: Sequence[Sequence[int]]) -> FloatArray:
    """Means over images in permuted groups, mean over the runs of each cell.

    Args:
        values: (R, N, K), NaN where an image does not count.
        permuted: G groups.
        cells: C times the positions of a cell's runs.

    Returns:
        (C, G, permutations, K).
    """
    means = _cell_means(values[:, permuted.rows], cells)
    parts = []
    for k in range(values.shape[2]):
        known = ~np.isnan(values[:, permuted.rows, k]).all(axis=0)
        own = PatientIndex(ids=permuted.index.ids, codes=permuted.index.codes[known])
        parts.append((means[:, known, k], own))
    return np.moveaxis(_ratios(parts, permuted), 0, 3)


def largest_gaps(values: FloatArray) -> FloatArray:
    """(..., permutations) largest differences between groups of the mean over labels: (..., G, permutations, L)."""
    return np.asarray(np.ptp(values.mean(axis=-1), axis=-2))


def _cell_means(values: FloatArray, cells: Sequence[Sequence[int]]) -> FloatArray:
    return np.stack([values[list(runs)].mean(axis=0) for runs in cells])


def _sides_of_label(
    batch: RunBatch, column: int, permuted: GroupPermutations, cells: Sequence[Sequence[int]]
) -> list[tuple[FloatArray, PatientIndex]]:
    """(C, n) placements of the positives, and those of the negatives, each with the patients of its images."""
    ranked = batch.ranked(column).within(permuted.rows, len(batch.truth))
    known = np.searchsorted(permuted.rows, ranked.rows)
    sides = zip(ranked.placements(), (ranked.positive, ~ranked.positive), strict=True)
    return [
        (_cell_means(placed, cells), PatientIndex(ids=permuted.index.ids, codes=permuted.index.codes[known[side]]))
        for placed, side in sides
    ]


def _ratios(parts: Sequence[tuple[FloatArray, PatientIndex]], permuted: GroupPermutations) -> FloatArray:
    """Means over a permuted group's images of each part's values.

    One product for all parts: it is the members, far more than the sums, that are read from memory.

    Args:
        parts: K times (C, n) values and the patients of their images.
        permuted: G groups.

    Returns:
        (K, C, G, permutations).
    """
    sums = [patient_sums(np.concatenate([values, np.ones((1, values.shape[1]))]).T, own) for values, own in parts]
    together = np.concatenate(sums, axis=1).astype(np.float32)
    found = np.stack([(members @ together).astype(np.float64) for members in permuted.members])
    of_parts = found.reshape(*found.shape[:2], len(parts), -1)  # (G, permutations, K, C + 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.moveaxis(of_parts[..., :-1] / of_parts[..., -1:], (2, 3), (0, 1)))
