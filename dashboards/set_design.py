"""What an evaluation set allows to be said before any result is seen: its patients, subgroups and classes.

It depends on truth and patients alone, so it is the same for all trials of a task and worked out once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dashboards.prediction_sets import PredictionSet
from dashboards.statistics import (
    MACRO,
    MIN_TEST_PATIENTS,
    LabelCounts,
    PatientIndex,
    count_labels,
    frozen_class_set,
    index_patients,
)
from dashboards.statistics.class_sets import MIN_SHOWN_PATIENTS
from dashboards.statistics.subgroups import UNKNOWN_GROUP, group_values
from dashboards.style import plural
from search_spaces.names import Column, Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Some images of an evaluation set, and what can be scored on them.

    Attributes:
        rows: (n,) row numbers.
        index: Their patients.
        classes: Labels with enough positive and negative patients here and in the other part.
    """

    rows: NDArray[np.intp]
    index: PatientIndex
    classes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupDesign:
    """One subgroup.

    Attributes:
        column: Column of the manifest.
        name: Its value.
        inside, outside: Its images and all others; None where no class has enough patients.
        images, patients: Its size.
        positive, negative: Its patients with a positive and with a negative image of its best represented label;
            of masks ``negative`` is None, as an overlap needs no image without the label.
    """

    column: str
    name: str
    inside: Part | None
    outside: Part | None
    images: int
    patients: int
    positive: int
    negative: int | None

    @property
    def too_small(self) -> str:
        """What is said of it where no class has enough patients."""
        if self.negative is None:
            return f"insufficient data ({self.positive} with the label)"
        return f"insufficient data ({self.positive}+, {self.negative}−)"


@dataclass(frozen=True, slots=True, kw_only=True)
class SetDesign:
    """One evaluation set.

    Attributes:
        image: (N,) ids, to recognise the set again.
        patient: (N,) ids, likewise.
        y: Truth, to recognise it again.
        labels: Names of its columns, or of the classes.
        index: All patients.
        groups: Subgroups of every asked column that the set has.
        recorded: Subgroup column -> (N,) values that the groups are made of (``recorded_columns``).
        unrecorded: Asked columns that the set lacks, or that are blank for all of its images.
        classes: Labels that a macro average is the mean of: those with enough patients to be tested, if there are two.
        sizes: images, patients, the label with fewest positives: rarest_label, n_pos;
            and rarest_patients, of the classes above the fewest patients with a positive or with a negative image.
    """

    image: NDArray[np.str_]
    patient: NDArray[np.str_]
    y: NDArray[Any]
    labels: tuple[str, ...]
    index: PatientIndex
    groups: tuple[GroupDesign, ...]
    recorded: Mapping[str, NDArray[np.object_]]
    unrecorded: tuple[str, ...]
    classes: tuple[str, ...]
    sizes: dict[str, Any]

    def class_set(self, metric: str) -> tuple[str, ...] | None:
        """The labels that a metric runs over: ``classes`` if it is a macro average of several, else None for all."""
        return self.classes if metric in MACRO and len(self.labels) > 1 else None

    def fits(self, prediction: PredictionSet) -> bool:
        """Whether predictions are of this set, image by image and label by label."""
        return (
            self.labels == prediction.labels
            and _equal(self.image, prediction.image)
            and _equal(self.patient, prediction.patient)
            and (self.y is prediction.y or np.array_equal(self.y, prediction.y, equal_nan=self.y.dtype.kind == "f"))
        )


def _equal(a: NDArray[np.str_], b: NDArray[np.str_]) -> bool:
    return a is b or np.array_equal(a, b)


def design_of(prediction: PredictionSet, columns: Sequence[str]) -> SetDesign:
    """The design of the set that ``prediction`` is about.

    Args:
        prediction: Any trial's.
        columns: Subgroup columns to look for: ``site``, ``sex``, ``age_band``, or a group column (``g_`` may stay off).

    Raises:
        ValueError: Columns of different length, image ids that repeat, or a truth that the kind does not have.
    """
    _check_images(prediction)
    recorded = recorded_columns(prediction, columns)
    groups = []
    for column, raw in recorded.items():
        values = group_values(raw)
        groups += [_group_design(prediction, column, name, values == name) for name in sorted(set(values.tolist()))]
    positives = prediction.positives
    rarest = min(positives, key=lambda label: positives[label])
    index = index_patients(prediction.patient)
    classes = macro_classes(prediction)
    sizes = {
        "images": prediction.images,
        "patients": len(index.ids),
        "rarest_label": rarest,
        "n_pos": positives[rarest],
        "rarest_patients": _rarest_patients(prediction, classes),
    }
    return SetDesign(
        image=prediction.image,
        patient=prediction.patient,
        y=prediction.y,
        labels=prediction.labels,
        index=index,
        groups=tuple(groups),
        recorded=recorded,
        unrecorded=tuple(column for column in columns if column not in recorded),
        classes=classes,
        sizes=sizes,
    )


def _check_images(prediction: PredictionSet) -> None:
    columns = {"image_id": prediction.image, "truth": prediction.y} | prediction.groups
    odd = [name for name, values in columns.items() if len(values) != len(prediction.patient)]
    if odd:
        raise ValueError(f"{', '.join(odd)} of another length than the {len(prediction.patient)} patient ids")
    if len(np.unique(prediction.image)) < len(prediction.image):
        raise ValueError("image ids repeat; each image may be there once")


def _rarest_patients(prediction: PredictionSet, classes: Sequence[str]) -> int:
    counts = _counts(prediction, np.ones(len(prediction.patient), dtype=bool))
    return min(min(c.positive_patients, c.negative_patients) for c in counts if c.label in classes)


def macro_classes(prediction: PredictionSet) -> tuple[str, ...]:
    """The labels that a macro average on a set runs over, in the record and in the report.

    They are frozen from the truth alone: one rare class would leave the mean over all of them without any test.

    Args:
        prediction: Any trial's.

    Returns:
        Those with 20 positive and 20 negative patients; if there are not two, those with 10; else all. Of masks
        patients with the label are enough.
    """
    counts = _counts(prediction, np.ones(len(prediction.patient), dtype=bool))
    for least in (MIN_TEST_PATIENTS, MIN_SHOWN_PATIENTS):
        classes = frozen_class_set(counts, least)
        if len(classes) > 1:
            return classes
    return tuple(prediction.labels)


def recorded_columns(prediction: PredictionSet, asked: Sequence[str]) -> dict[str, NDArray[np.object_]]:
    """Subgroup column, as it is asked for -> (N,) values, of those that the set has for one image at least.

    Args:
        prediction: Any trial's.
        asked: ``site``, ``sex``, ``age_band``, or a group column (``g_`` may stay off).
    """
    named = {name: _values(prediction, name) for name in asked}
    return {name: raw for name, raw in named.items() if raw is not None and (group_values(raw) != UNKNOWN_GROUP).any()}


def other_groups(used: PredictionSet, prediction: PredictionSet, asked: Sequence[str]) -> str:
    """In words: predictions of one set know patients under other subgroup values; empty if they do not.

    Args:
        used: Predictions whose values are used.
        prediction: Others, of the same images.
        asked: As in ``recorded_columns``.

    Raises:
        ValueError: A column of another length.
    """
    texts = []
    for name in asked:
        known, own = _values(used, name), _values(prediction, name)
        if known is own:
            continue  # a reader holds equal columns once
        here, there = (_texts(values, name, len(used.patient)) for values in (known, own))
        rows = np.flatnonzero(here != there)
        if len(rows):
            patients = plural(len(np.unique(used.patient[rows])), "patient")
            texts.append(f"{name} of {patients}, such as {there[rows[0]]} instead of {here[rows[0]]}")
    return "; ".join(texts)


def _values(prediction: PredictionSet, name: str) -> NDArray[np.object_] | None:
    """(N,) values of an asked column, as they were read; None if there is none."""
    plain = name.removeprefix(Column.GROUP_PREFIX)
    site = prediction.site if plain == Column.SITE else None
    return prediction.groups.get(plain) if site is None else site


def _texts(values: NDArray[np.object_] | None, name: str, n: int) -> NDArray[np.str_]:
    if values is not None and len(values) != n:
        raise ValueError(f"{name} of another length than the {n} patient ids")
    return np.full(n, UNKNOWN_GROUP) if values is None else group_values(values)


def _group_design(prediction: PredictionSet, column: str, name: str, inside: NDArray[np.bool_]) -> GroupDesign:
    counts, others = _counts(prediction, inside), _counts(prediction, ~inside)
    enough = frozen_class_set(counts)
    shared = tuple(label for label in enough if label in frozen_class_set(others))
    best = max(counts, key=lambda c: min(c.positive_patients, c.negative_patients))
    return GroupDesign(
        column=column,
        name=name,
        inside=_part(prediction, inside, shared or enough),
        outside=_part(prediction, ~inside, shared),
        images=int(inside.sum()),
        patients=len(np.unique(prediction.patient[inside])),
        positive=best.positive_patients,
        negative=None if prediction.is_masks else best.negative_patients,
    )


def _counts(prediction: PredictionSet, rows: NDArray[np.bool_]) -> tuple[LabelCounts, ...]:
    if not prediction.is_masks:
        return count_labels(prediction.kind, prediction.labels, prediction.y[rows], prediction.patient[rows])
    counts = count_labels(Kind.MULTILABEL, prediction.labels, prediction.y[rows], prediction.patient[rows])
    # An overlap is that of images with the label; it needs none without it.
    return tuple(replace(of, negative_patients=of.positive_patients) for of in counts)


def _part(prediction: PredictionSet, chosen: NDArray[np.bool_], classes: tuple[str, ...]) -> Part | None:
    if not classes:
        return None
    return Part(rows=np.flatnonzero(chosen), index=index_patients(prediction.patient[chosen]), classes=classes)
