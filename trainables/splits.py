"""Splits into train, val and test: patients stay on one side, labels are spread evenly."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pandas as pd

from search_spaces.names import Column, Kind, Split
from trainables.manifest import CLASS_KINDS, label_columns

_NO_LABEL = -1
"""Stratum of patients without a positive label."""


def patient_strata(table: pd.DataFrame, kind: Kind, labels: tuple[str, ...]) -> pd.Series[int]:
    """The rarest label of each patient: the one that the fewest patients have.

    Args:
        table: With ``patient_id`` and the label columns.
        kind: What one label is.
        labels: Labels or classes.

    Returns:
        Patient id (sorted) -> position of the label in ``labels``; -1 for patients with none.
    """
    patients = table[Column.PATIENT_ID]
    if kind in CLASS_KINDS:
        classes = table[Column.Y]
        has = pd.DataFrame({i: classes == i for i in range(len(labels))})
    else:
        has = pd.DataFrame({i: table[c] == 1 for i, c in enumerate(label_columns(kind, labels))}, index=table.index)
    has_any = has.groupby(patients.to_numpy()).any() if len(has.columns) else pd.DataFrame(index=patients.unique())
    by_rarity = has_any.sum().sort_values(kind="stable").index
    strata = pd.Series(_NO_LABEL, index=has_any.index, dtype=int)
    for label in reversed(by_rarity):
        strata[has_any[label].astype(bool)] = int(label)
    return strata.sort_index()


def split_patients(
    strata: pd.Series[int], shares: Mapping[Split, float], generator: np.random.Generator
) -> pd.Series[str]:
    """Deal the patients of each stratum to the splits.

    Shares hold for patients, over all strata together to within one patient per split; what rounding takes from a split
    in one stratum it gets back in the next. A stratum with at least as many patients as splits gives each split at
    least one; one with fewer serves train first, then test.

    Args:
        strata: Patient id -> stratum.
        shares: Split -> share of the patients; shares are scaled to add up to 1.
        generator: Draws the order of patients.

    Returns:
        Patient id -> split.
    """
    splits = [s for s in (Split.TRAIN, Split.TEST, Split.VAL) if shares.get(s, 0) > 0]
    wanted = np.asarray([shares[s] for s in splits]) / sum(shares[s] for s in splits)
    owed = np.zeros(len(splits))
    dealt: dict[str, str] = {}
    sizes = strata.value_counts().sort_index().sort_values(kind="stable")
    for stratum in sizes.index:
        patients = generator.permutation(np.sort(strata.index[strata == stratum].to_numpy(dtype=object)))
        target = wanted * len(patients) + owed
        counts = _whole_counts(target, len(patients))
        owed = target - counts
        names = [s.value for s, count in zip(splits, counts, strict=True) for _ in range(count)]
        dealt.update(zip(patients.tolist(), names, strict=True))
    return pd.Series(dealt, dtype="str").reindex(strata.index)


def assign_splits(
    table: pd.DataFrame, kind: Kind, labels: tuple[str, ...], shares: Mapping[Split, float], seed: int
) -> pd.Series[str]:
    """The split of every row: patient-disjoint, stratified by each patient's rarest label if columns hold labels.

    Args:
        table: With ``patient_id`` and the label columns; its row order does not matter.
        kind: What one label is.
        labels: Labels or classes.
        shares: Split -> share of the patients.
        seed: The only source of randomness.
    """
    strata = patient_strata(table, kind, labels)
    by_patient = split_patients(strata, shares, np.random.default_rng(seed))
    return table[Column.PATIENT_ID].map(by_patient).astype("str")


def patients_in_two_splits(table: pd.DataFrame) -> dict[str, tuple[str, ...]]:
    """Patients whose images lie in more than one of train, val, test and external, with these splits."""
    used = [split for split in Split if split is not Split.UNUSED]
    codes, patients = pd.factorize(table[Column.PATIENT_ID])  # comparing texts takes many seconds of a million rows
    of_split = np.zeros((len(used), len(patients)), dtype=bool)
    for row, split in zip(of_split, used, strict=True):
        row[codes[(table[Column.SPLIT] == split).to_numpy(dtype=bool)]] = True
    several = {str(patients[k]): of_split[:, k] for k in np.flatnonzero(of_split.sum(axis=0) > 1).tolist()}
    return {
        patient: tuple(sorted(split.value for split, has in zip(used, several[patient], strict=True) if has))
        for patient in sorted(several)
    }


def _whole_counts(target: npt.NDArray[np.float64], total: int) -> npt.NDArray[np.int64]:
    """Whole numbers near ``target`` that add up to ``total``; at least one each, in order, as far as ``total`` goes.

    What is left after the minimum is dealt by largest remainder.
    """
    counts = (np.arange(len(target)) < total).astype(np.int64)
    left = total - int(counts.sum())
    if left == 0:
        return counts
    extra = np.maximum(target - counts, 0)
    extra *= left / extra.sum()
    whole = np.floor(extra).astype(np.int64)
    largest = np.argsort(whole - extra, kind="stable")[: left - int(whole.sum())]
    counts += whole
    counts[largest] += 1
    return counts
