"""Labels and splits of a task: their counts, and where they are too few."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from search_spaces.names import MISSING_CLASS, UNCERTAIN, Column, Split
from trainables.check_outcomes import Check, Outcome
from trainables.manifest import CLASS_KINDS, Manifest, label_columns

FEW_PATIENTS = 10
"""A label with fewer positive or negative patients than this in a split is near-empty."""

_LEARNING_SPLITS = (Split.TRAIN, Split.VAL, Split.TEST)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelCount:
    """Images and patients of one label in one split.

    A patient with positive and negative images counts as both. For classes, the images of all other classes are the
    negative ones.
    """

    label: str
    split: Split
    positive_images: int
    negative_images: int
    uncertain_images: int
    unknown_images: int
    positive_patients: int
    negative_patients: int

    @property
    def prevalence(self) -> float:
        """Positive images among positive and negative ones; NaN if there are none."""
        known = self.positive_images + self.negative_images
        return self.positive_images / known if known else float("nan")


def label_counts(manifest: Manifest) -> tuple[LabelCount, ...]:
    """Counts of every label in every split that has images; none for segmentation."""
    splits = manifest.table[Column.SPLIT]
    return tuple(
        _count(label, split, values[splits == split], manifest.table[Column.PATIENT_ID][splits == split])
        for label, values in _label_values(manifest)
        for split in Split
        if (splits == split).any()
    )


def check_labels(manifest: Manifest) -> list[Outcome]:
    """Splits without images, labels without images or with few patients, and images without a label."""
    few = _few_patients(manifest, FEW_PATIENTS)
    unlabelled = _unlabelled(manifest)
    without = f"{unlabelled} of {len(manifest)} images have no label at all; they are not trained on"
    return [
        *_empty(manifest),
        Outcome(check=Check.FEW_PATIENTS, found=len(few), warnings=few),
        Outcome(check=Check.UNLABELLED, found=unlabelled, warnings=(without,) if unlabelled else ()),
    ]


def import_warnings(manifest: Manifest) -> tuple[str, ...]:
    """What a study will fail at, in the words of the check: empty splits, labels without images or of one patient."""
    empty = [text for outcome in _empty(manifest) for text in outcome.errors]
    return (*empty, *_few_patients(manifest, 2))


def _empty(manifest: Manifest) -> list[Outcome]:
    splits = set(manifest.table[Column.SPLIT])
    learns = bool(splits & set(_LEARNING_SPLITS))
    empty = tuple(f"no images in split {s}" for s in _LEARNING_SPLITS if learns and s not in splits)
    remedy = "; a study can leave it out: tasks.NAME.labels lists the labels to learn"
    remedy = remedy if len(manifest.labels) > 2 else ""
    absent = tuple(
        f"label {count.label!r} has no {sign} image in {count.split}{remedy}"
        for count, sign, images, _ in _sides(manifest)
        if images == 0 and count.split in _LEARNING_SPLITS
    )
    return [
        Outcome(check=Check.SPLITS, found=len(empty), errors=empty),
        Outcome(check=Check.LABELS, found=len(absent), errors=absent),
    ]


def _few_patients(manifest: Manifest, least: int) -> tuple[str, ...]:
    """Labels with images of fewer patients than ``least``; of an external split those without any, too."""
    return tuple(
        f"label {count.label!r} has only {patients} {sign} {manifest.grouping}{'' if patients == 1 else 's'} "
        f"in {count.split}"
        for count, sign, images, patients in _sides(manifest)
        if patients < least and (images or count.split not in _LEARNING_SPLITS)
    )


def _sides(manifest: Manifest) -> Iterator[tuple[LabelCount, str, int, int]]:
    """Count, sign, images and patients of both signs of every label in every split in use."""
    for count in label_counts(manifest):
        if count.split is not Split.UNUSED:
            yield count, "positive", count.positive_images, count.positive_patients
            yield count, "negative", count.negative_images, count.negative_patients


def _count(label: str, split: Split, values: pd.Series[float], patients: pd.Series[str]) -> LabelCount:
    return LabelCount(
        label=label,
        split=split,
        positive_images=int((values == 1).sum()),
        negative_images=int((values == 0).sum()),
        uncertain_images=int((values == UNCERTAIN).sum()),
        unknown_images=int(values.isna().sum()),
        positive_patients=patients[values == 1].nunique(),
        negative_patients=patients[values == 0].nunique(),
    )


def _label_values(manifest: Manifest) -> Iterator[tuple[str, pd.Series[float]]]:
    """Label -> 0, 1, NaN and -1 of every row; a class against all others."""
    if manifest.kind in CLASS_KINDS:
        classes = manifest.table[Column.Y]
        for i, name in enumerate(manifest.labels):
            yield name, (classes == i).astype(float).mask(classes == MISSING_CLASS)
    else:
        for name, column in zip(manifest.labels, label_columns(manifest.kind, manifest.labels), strict=False):
            yield name, manifest.table[column].astype(float)


def _unlabelled(manifest: Manifest) -> int:
    values = [values.isna() for _, values in _label_values(manifest)]
    return int(np.logical_and.reduce(values).sum()) if values else 0
