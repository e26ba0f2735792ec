"""The subgroups of one evaluation set, two-way intersections included, and what each allows to be said."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dashboards.blocks import SetRuns
from dashboards.set_design import SetDesign
from dashboards.statistics import (
    MIN_TEST_PATIENTS,
    Influence,
    LabelCounts,
    PatientIndex,
    count_labels,
    frozen_class_set,
    patient_influence,
)
from dashboards.statistics.class_sets import MIN_SHOWN_PATIENTS
from dashboards.statistics.fairness import no_null
from dashboards.statistics.group_null import GroupPermutations, permute_groups
from dashboards.statistics.metrics import Metric
from dashboards.statistics.predictions import FloatArray
from dashboards.statistics.run_batches import (
    auc_influences,
    batch_brier,
    batch_correct,
    batch_nll,
    is_auc,
    mean_influences,
)
from dashboards.statistics.subgroups import Subgroup, find_subgroups

PERMUTATIONS = 1000
_LEAST_PERMUTATIONS = 200
_MEMBER_VALUES = 20_000_000
"""Patients times permutations times groups of one attribute that are held."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupPart:
    """One subgroup or intersection.

    Attributes:
        group: Its images.
        index: Their patients.
        shown: Labels with enough patients to be shown.
        tested: Labels with enough to be tested.
        positive, negative: Patients with a positive and with a negative image of its best represented label.
        counts: Of every label, in the order of the columns.
    """

    group: Subgroup
    index: PatientIndex
    shown: tuple[str, ...]
    tested: tuple[str, ...]
    positive: int
    negative: int
    counts: tuple[LabelCounts, ...]

    @property
    def column(self) -> str:
        """``sex``; of an intersection ``sex & age_band``."""
        return " & ".join(self.group.columns)

    @property
    def value(self) -> str:
        """``F``; of an intersection ``F & 60-80``."""
        return " & ".join(self.group.values)

    @property
    def too_small(self) -> str:
        """What is said of it where no label has enough patients."""
        return f"insufficient data ({self.positive}+, {self.negative}−)"


@dataclass(frozen=True, kw_only=True)
class SetGroups:
    """All subgroups of one evaluation set.

    Attributes:
        design: The set.
        parts: Groups of single attributes first, then intersections.
        permuted: Attribute -> permutations of its tested groups, once they are asked for.
    """

    design: SetDesign
    parts: tuple[GroupPart, ...]
    permuted: dict[tuple[str, ...], GroupPermutations | str] = field(default_factory=dict)

    def of(self, size: int) -> list[GroupPart]:
        """Groups of so many attributes."""
        return [part for part in self.parts if len(part.group.columns) == size]

    def attributes(self) -> dict[str, list[GroupPart]]:
        """Single attribute -> its groups."""
        found: dict[str, list[GroupPart]] = {}
        for part in self.of(1):
            found.setdefault(part.column, []).append(part)
        return found

    def permutations(self, parts: Sequence[GroupPart], truth: FloatArray, task: str) -> GroupPermutations | str:
        """Permuted groups, the same for all trials of a task; text if they cannot be permuted."""
        key = tuple(part.group.name for part in parts)
        if key not in self.permuted:
            groups = [part.group for part in parts]
            why = no_null(groups, self.design.index)
            draws = _MEMBER_VALUES // (len(groups) * len(self.design.index.ids))
            n = max(_LEAST_PERMUTATIONS, min(PERMUTATIONS, draws))
            rng = random_generator("permutations", task, *key)
            self.permuted[key] = why or permute_groups(truth, groups, self.design.index, rng, n)
        return self.permuted[key]


def set_groups(runs: SetRuns, attributes: Mapping[str, NDArray[np.object_]]) -> SetGroups:
    """The subgroups of a set.

    Args:
        runs: Any runs on the set.
        attributes: Name -> (N,) values.
    """
    return SetGroups(design=runs.design, parts=tuple(_part(runs, group) for group in find_subgroups(dict(attributes))))


def _part(runs: SetRuns, group: Subgroup) -> GroupPart:
    index = runs.design.index
    patients, codes = np.unique(index.codes[group.rows], return_inverse=True)
    own = PatientIndex(ids=index.ids[patients], codes=codes.reshape(-1).astype(np.intp))
    labels = runs.batch.first.labels
    counts = count_labels("multilabel", labels, runs.batch.truth[group.rows], own)
    best = max(counts, key=lambda c: min(c.positive_patients, c.negative_patients))
    shown, tested = (frozen_class_set(counts, least) for least in (MIN_SHOWN_PATIENTS, MIN_TEST_PATIENTS))
    averaged = runs.batch.first.class_set
    return GroupPart(
        group=group,
        index=own,
        shown=tuple(label for label in shown if label in averaged),
        tested=tuple(label for label in tested if label in averaged),
        positive=best.positive_patients,
        negative=best.negative_patients,
        counts=counts,
    )


def group_influences(metric: str, runs: SetRuns, part: GroupPart | None, classes: Sequence[str]) -> list[Influence]:
    """The metric of every run in a subgroup.

    Args:
        metric: A name of ``metric_names``.
        runs: The runs.
        part: The subgroup; all images if None.
        classes: Labels that an AUC is averaged over.
    """
    rows = None if part is None else part.group.rows
    index = runs.design.index if part is None else part.index
    if is_auc(metric):
        return auc_influences(metric, runs.batch, classes, rows, index)
    values = image_values(metric, runs)
    if values is not None:
        return mean_influences(metric, values if rows is None else values[:, rows], index, _columns(runs, values))
    first, every = runs.batch.first, np.arange(len(index.codes)) if rows is None else rows
    y = first.truth if first.labelwise else first.class_index
    return [
        patient_influence(metric, first.kind, first.labels, y[every], logits[every], index, first.class_set)
        for logits in runs.batch.logits
    ]


def image_values(metric: str, runs: SetRuns) -> FloatArray | None:
    """(R, N, K) values whose mean over images, then columns, is the metric; None if it is no such mean."""
    found = {Metric.ACCURACY: batch_correct, Metric.NLL: batch_nll, Metric.BRIER: batch_brier}
    if metric not in found:
        return None
    values = found[Metric(metric)](runs.batch)
    first = runs.batch.first
    return values[:, :, first.columns(first.class_set)] if first.labelwise else values


def _columns(runs: SetRuns, values: FloatArray) -> tuple[str, ...]:
    return runs.batch.first.class_set if runs.batch.labelwise and values.shape[2] > 1 else ()


def random_generator(*parts: str) -> np.random.Generator:
    """A generator that follows from names alone, so that a report made again has the same numbers."""
    digest = hashlib.sha256("\\0".join(parts).encode()).digest()
    return np.random.Generator(np.random.Philox(int.from_bytes(digest[:8], "big")))
