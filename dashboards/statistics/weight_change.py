"""How far weights are from where they started, and how alike first-layer filters are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import linear_sum_assignment

from dashboards.statistics.predictions import FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightChange:
    """One tensor before and after.

    Attributes:
        relative_l2: ``|after - before| / |before|``; NaN where the first is all 0.
        cosine: Of the angle between the two as vectors; NaN where one is all 0.
        parameters: Number of weights; 0 if they could not be compared.
        note: Why they could not; empty if they could.
    """

    relative_l2: float
    cosine: float
    parameters: int
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterCorrelation:
    """Filters of two first layers.

    Attributes:
        values: (F,) Pearson correlation of each filter of the first with its partner, in [-1, 1]; NaN if one of
            the two is constant.
        partner: (F,) its number in the second; -1 where it has none.
        mean: Mean over the filters that have a value; NaN if none has.
        constant: Filters without a value because one of the pair is constant.
    """

    values: FloatArray
    partner: np.ndarray
    mean: float
    constant: int


def weight_changes(before: Mapping[str, ArrayLike], after: Mapping[str, ArrayLike]) -> dict[str, WeightChange]:
    """Distance layer by layer.

    Args:
        before: Name -> tensor of any shape.
        after: The same later.

    Returns:
        Name -> change, for every name of either; NaN with a note where only one has it, where the shapes differ or
        where a weight is not finite.
    """
    return {name: _change(before.get(name), after.get(name)) for name in dict.fromkeys([*before, *after])}


def filter_correlation(one: ArrayLike, other: ArrayLike, *, match: bool = False) -> FilterCorrelation:
    """Correlation of the first convolution's filters, each flattened (Raghu et al. 2019, section 5).

    Args:
        one: (F, C, H, W) weights.
        other: (G, C, H, W) weights. Before and after training of one network, F = G and filter i belongs to filter i.
        match: Between networks, whose filters have no common order: pairs each filter of ``one`` with another of
            ``other`` so that the sum of the correlations is largest (Hungarian method). Chance then gives more than 0.

    Raises:
        ValueError: Shapes that do not fit.
    """
    a, b = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    if a.ndim != 4 or b.ndim != 4 or a.shape[1:] != b.shape[1:] or (not match and len(a) != len(b)):
        raise ValueError(
            f"filters must be (F, C, H, W) of equal C, H, W, and F unless matched; got {a.shape}, {b.shape}"
        )
    table = _standardised(a) @ _standardised(b).T
    partner = np.arange(len(a))
    if match:
        partner = np.full(len(a), -1)
        rows, columns = linear_sum_assignment(np.nan_to_num(table), maximize=True)
        partner[rows] = columns
    paired = partner >= 0
    values = np.full(len(a), np.nan)
    values[paired] = table[np.flatnonzero(paired), partner[paired]]
    known = values[np.isfinite(values)]
    return FilterCorrelation(
        values=values,
        partner=partner,
        mean=float(known.mean()) if len(known) else float("nan"),
        constant=int(np.isnan(values[paired]).sum()),
    )


def _change(before: ArrayLike | None, after: ArrayLike | None) -> WeightChange:
    if before is None or after is None:
        return _unknown("only one of the two has this tensor")
    a, b = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    if a.shape != b.shape:
        return _unknown(f"shapes {a.shape} and {b.shape}")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return _unknown("a weight is not finite")
    a, b = a.reshape(-1), b.reshape(-1)
    start, end = float(np.linalg.norm(a)), float(np.linalg.norm(b))
    return WeightChange(
        relative_l2=float(np.linalg.norm(b - a)) / start if start > 0 else float("nan"),
        cosine=float(a @ b) / (start * end) if start > 0 and end > 0 else float("nan"),
        parameters=a.size,
    )


def _unknown(note: str) -> WeightChange:
    return WeightChange(relative_l2=float("nan"), cosine=float("nan"), parameters=0, note=note)


def _standardised(filters: FloatArray) -> FloatArray:
    """(F, K) rows of mean 0 and norm 1; NaN where a filter is constant."""
    flat = filters.reshape(len(filters), -1)
    centred = flat - flat.mean(axis=1, keepdims=True)
    norm = np.linalg.norm(centred, axis=1, keepdims=True)
    constant = norm <= 1e-12 * np.linalg.norm(flat, axis=1, keepdims=True)
    return np.where(constant, np.nan, centred / np.where(constant, 1.0, norm))
