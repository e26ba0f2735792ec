"""Subgroups of an evaluation set: who is in them, and whether they are large enough to be shown or tested.

Only groups that occur; whoever's attribute is blank is in the group "unknown", never dropped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dashboards.statistics.class_sets import MIN_SHOWN_PATIENTS, LabelCounts

UNKNOWN_GROUP = "unknown"
"""Subgroup of images whose attribute is blank."""

MAX_INTERSECTION = 2
"""Attributes that are crossed at most; of three, few groups would be large enough."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subgroup:
    """Images with given attributes.

    Attributes:
        columns: Names of the attributes, one or two.
        values: Their values.
        rows: (n,) row numbers, ascending, at least one.
    """

    columns: tuple[str, ...]
    values: tuple[str, ...]
    rows: NDArray[np.intp]

    @property
    def name(self) -> str:
        """``sex=F``; of an intersection ``sex=F & age_band=60-80``."""
        return " & ".join(f"{column}={value}" for column, value in zip(self.columns, self.values, strict=True))


def group_values(raw: ArrayLike | Sequence[Any]) -> NDArray[np.str_]:
    """(N,) of text: the attribute's value, "unknown" where it is None, NaN or empty."""
    values = np.asarray(raw, dtype=object)
    return np.array([UNKNOWN_GROUP if _blank(value) else str(value) for value in values], dtype=np.str_)


def find_subgroups(
    attributes: Mapping[str, ArrayLike | Sequence[Any]], max_intersection: int = MAX_INTERSECTION
) -> tuple[Subgroup, ...]:
    """Groups of each attribute, then the intersections that occur, in order of attributes and values.

    Args:
        attributes: Name -> (N,) values; None, NaN and empty text are unknown. All of the same length.
        max_intersection: Attributes that are crossed at most: 1 or 2.

    Raises:
        ValueError: Lengths differ, or another number of attributes to cross.
    """
    if max_intersection not in (1, MAX_INTERSECTION):
        raise ValueError(f"max_intersection must be 1 or {MAX_INTERSECTION}, got {max_intersection}")
    known = {name: group_values(values) for name, values in attributes.items()}
    if len({len(values) for values in known.values()}) > 1:
        raise ValueError(f"attributes must have one value per image, got { ({n: len(v) for n, v in known.items()}) }")
    chosen = [columns for size in range(1, max_intersection + 1) for columns in combinations(known, size)]
    return tuple(group for columns in chosen for group in _observed(columns, [known[c] for c in columns]))


def insufficient_data(counts: LabelCounts, min_patients: int = MIN_SHOWN_PATIENTS) -> str:
    """``insufficient data (m+, n−)`` if a group is too small, with its positive and negative patients; else empty.

    Args:
        counts: Of the label in the group.
        min_patients: ``MIN_SHOWN_PATIENTS`` to be shown, ``MIN_TEST_PATIENTS`` to be tested.
    """
    if min(counts.positive_patients, counts.negative_patients) >= min_patients:
        return ""
    return f"insufficient data ({counts.positive_patients}+, {counts.negative_patients}−)"


def _observed(columns: tuple[str, ...], values: list[NDArray[np.str_]]) -> list[Subgroup]:
    if not len(values[0]):
        return []
    table = np.column_stack(values)
    found, codes = np.unique(table, axis=0, return_inverse=True)
    codes = codes.reshape(-1)
    return [
        Subgroup(columns=columns, values=tuple(str(v) for v in row), rows=np.flatnonzero(codes == k))
        for k, row in enumerate(found)
    ]


def _blank(value: Any) -> bool:
    return value is None or value == "" or value != value
