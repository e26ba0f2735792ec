"""Families of tests: what they are corrected for together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.stats import false_discovery_control

from dashboards.statistics.predictions import FloatArray

HOLM = "Holm, whole study"
EXPLORATORY = "Benjamini-Hochberg, exploratory"


def adjust_p_values(p_values: ArrayLike, method: Literal["holm", "fdr_bh"] = "holm", *, absent: int = 0) -> FloatArray:
    """p-values adjusted for a family: Holm (family-wise error) or Benjamini-Hochberg (false discovery rate).

    NaN (not tested) stays NaN and does not count as a member of the family: whether a contrast is tested follows from
    its patients and seeds, not from its result.

    Args:
        p_values: In [0, 1] or NaN; any shape.
        method: ``holm`` or ``fdr_bh``.
        absent: Members of the family that have no p though one was planned, at least 0; each counts with p = 1.

    Raises:
        ValueError: A p outside [0, 1].
    """
    raw = np.asarray(p_values, dtype=np.float64)
    known = ~np.isnan(raw)
    if ((raw[known] < 0) | (raw[known] > 1)).any():
        raise ValueError(f"p-values lie in [0, 1] or are NaN, got {raw[known].min()} to {raw[known].max()}")
    adjusted = np.full(raw.shape, np.nan)
    if known.any():
        family = np.append(raw[known], np.ones(absent))
        found = _holm(family) if method == "holm" else false_discovery_control(family, method="bh")
        adjusted[known] = found[: int(known.sum())]
    return adjusted


def _holm(p: FloatArray) -> FloatArray:
    """Holm's adjusted p of (m,) values; not statsmodels', which runs a garbage collection of 70 ms at each call."""
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return adjusted


def adjust_study(contrasts: pd.DataFrame, absent: int = 0, lost: Sequence[bool] | None = None) -> pd.DataFrame:
    """The table of contrasts with ``p_adjusted`` and ``correction``.

    The primary contrasts of the whole study are one family (Holm), whatever their task: seven tasks with a family each
    would be wrong somewhere in 30 % of studies. The others are exploratory: one family (Benjamini-Hochberg) per task
    and evaluation set.

    Args:
        contrasts: Columns ``p`` (NaN: not tested), ``primary`` (blank counts as False), ``task``, ``set``.
        absent: Planned primary contrasts without a row, at least 0. Each counts as a member of the family with p = 1:
            a family is as large as it was planned, whatever was lost of it.
        lost: Of each row, whether its results are to blame if it has no p (no common seed, an undefined metric): such
            a primary contrast counts as a member with p = 1, too, and stays without an adjusted p. Others without p
            leave the family: that their evaluation set is too small was known before any result.

    Raises:
        ValueError: Two primary rows are the same contrast (in all columns of ``KEY`` that the table has): counted
            twice, it would weigh on all others.
    """
    table = contrasts.assign(p_adjusted=float("nan"), correction="")
    primary = table["primary"].eq(True)
    _check_unique(table[primary])
    p = table.loc[primary, "p"].to_numpy(dtype=np.float64)
    blamed = np.zeros(len(table), dtype=bool) if lost is None else np.asarray(lost, dtype=bool)
    absent += int((np.isnan(p) & blamed[primary.to_numpy()]).sum())
    table.loc[primary, "p_adjusted"] = adjust_p_values(p, "holm", absent=absent)
    table.loc[primary, "correction"] = HOLM
    for _, rows in table[~primary].groupby(["task", "set"], sort=False, dropna=False):
        table.loc[rows.index, "p_adjusted"] = adjust_p_values(rows["p"], "fdr_bh")
        table.loc[rows.index, "correction"] = EXPLORATORY
    return table


KEY = ("task", "set", "model_scale", "pretraining_source", "data_fraction", "metric")
"""Columns that name a contrast."""


def _check_unique(primary: pd.DataFrame) -> None:
    columns = [name for name in KEY if name in primary]
    twice = primary[primary.duplicated(columns)] if len(columns) > 2 else primary.iloc[:0]
    if len(twice):
        first = {name: twice.iloc[0][name] for name in columns}
        raise ValueError(f"{len(twice)} primary contrasts occur twice, the first is {first}; give each once")
