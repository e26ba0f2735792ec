"""What is wrong or doubtful about an imported task, all at once, with file and row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from search_spaces.names import MISSING_CLASS, UNCERTAIN, Column, Split
from trainables.check_memory import CheckSummary, remember_check
from trainables.copies import NOT_LOOKED_FOR, find_copies
from trainables.library import TaskLibrary
from trainables.manifest import CLASS_KINDS, Manifest, label_columns
from trainables.release_counts import release_note
from trainables.row_checks import FAINT_SPAN, RowsRead, read_rows
from trainables.row_problems import OLDEST_YEARS, in_words
from trainables.splits import patients_in_two_splits
from trainables.store_cache import cached_stores, damaged_shards

FEW_PATIENTS = 10
"""A label with fewer positive or negative patients than this in a split is near-empty."""

_LEARNING_SPLITS = (Split.TRAIN, Split.VAL, Split.TEST)
_MISSING_SHARE_WORTH_A_WARNING = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """What ``check_task`` found.

    Attributes:
        errors: Must be put right before training.
        warnings: Limit what results can say.
        facts: Name -> text, in the order to be read.
    """

    errors: tuple[str, ...]
    warnings: tuple[str, ...]
    facts: dict[str, str]


def check_task(library: TaskLibrary, name: str) -> CheckReport:
    """Read every image and mask of a task and look for everything that would spoil a study.

    Errors: missing or unreadable images and masks, masks of another size than their image or with values that name no
    label, patients in two splits, a test image that is also in another split, a split without images, a label without
    positives or negatives in one, an image store whose bytes are not those that were written.
    Warnings: near-empty labels, constant images, masks of one label in shades, other identical images, near copies
    across an evaluation, images without any label, much missing metadata, patients not known.

    Args:
        library: Where the task is.
        name: Name of the task, or folder of a manifest.

    Raises:
        UserError: No such task.
        DataError: The manifest is damaged, or a label value lies outside the classes.
    """
    manifest = library.load(name)
    read = read_rows(manifest)
    errors, warnings = _image_problems(manifest, read)
    copies = NOT_LOOKED_FOR if errors else find_copies(library, manifest, read.hashes, read.plain)
    for found_errors, found_warnings in (
        _leaks(manifest),
        (copies.errors, copies.warnings),
        _damaged_stores(library, manifest, files_are_there=not errors),
        _label_problems(manifest),
        _metadata(manifest),
    ):
        errors += found_errors
        warnings += found_warnings
    summary = CheckSummary(
        content_hash="" if copies is NOT_LOOKED_FOR else library.content_hash(manifest),
        errors=len(errors),
        warnings=len(warnings),
        identical_sets=copies.identical_sets,
        near_copies=copies.near_copies,
    )
    remember_check(library, manifest, summary)
    return CheckReport(errors=tuple(errors), warnings=tuple(warnings), facts=_facts(manifest))


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


def _image_problems(manifest: Manifest, read: RowsRead) -> tuple[list[str], list[str]]:
    remedy = "for DICOM files give --window on import, for 16-bit images --bit-depth"
    blurred = "all but 0 count as the label: lossy compression or a smooth resize makes it wider than it was drawn"
    kinds = (
        (read.constant, "have one single value in all pixels", ""),
        (read.faint, f"use fewer than {FAINT_SPAN} of 256 values", f"; {remedy}"),
        (read.shaded, "have a mask with values between 0 and its largest", f"; {blurred}"),
    )
    ids = manifest.table[Column.IMAGE_ID]
    warnings = [
        f"{len(rows)} images {what}, such as {ids.iat[rows[0]]} (row {rows[0]}){advice}"
        for rows, what, advice in kinds
        if rows
    ]
    return [problem.detail for problem in read.problems], warnings


def _leaks(manifest: Manifest) -> tuple[list[str], list[str]]:
    errors = []
    overlap = patients_in_two_splits(manifest.table)
    if overlap:
        shown = "; ".join(f"{patient} ({', '.join(splits)})" for patient, splits in list(overlap.items())[:10])
        more = f"; ... ({len(overlap)} in all)" if len(overlap) > 10 else ""
        errors.append(
            f"{len(overlap)} {manifest.grouping}s have images in two splits: {shown}{more}. Correct the split column, "
            "or import with --split-column none for a split by patient"
        )
    warnings = [] if manifest.patients_known else [note for note in manifest.notes if note.startswith("patients")]
    return errors, warnings


def _damaged_stores(library: TaskLibrary, manifest: Manifest, files_are_there: bool) -> tuple[list[str], list[str]]:
    if not files_are_there:
        return [], []
    content = f"{library.content_hash(manifest)}-"
    own = [s.path for s in cached_stores(library.home) if s.is_finished and s.path.name.startswith(content)]
    damaged = [path for path in own if damaged_shards(path)]
    return [f"image store {path} is damaged; delete it, and it is built again" for path in damaged], []


def _label_problems(manifest: Manifest) -> tuple[list[str], list[str]]:
    errors: list[str] = []
    warnings: list[str] = []
    splits = set(manifest.table[Column.SPLIT])
    if splits & set(_LEARNING_SPLITS):
        errors += [f"no images in split {s}" for s in _LEARNING_SPLITS if s not in splits]
    many = len(manifest.labels) > 2
    remedy = "; a study can leave it out: tasks.NAME.labels lists the labels to learn" if many else ""
    for count in label_counts(manifest):
        if count.split is Split.UNUSED:
            continue
        for sign, images, patients in (
            ("positive", count.positive_images, count.positive_patients),
            ("negative", count.negative_images, count.negative_patients),
        ):
            if images == 0 and count.split in _LEARNING_SPLITS:
                errors.append(f"label {count.label!r} has no {sign} image in {count.split}{remedy}")
            elif patients < FEW_PATIENTS:
                found = f"{patients} {sign} {manifest.grouping}{'' if patients == 1 else 's'}"
                warnings.append(f"label {count.label!r} has only {found} in {count.split}")
    return errors, warnings + _unlabelled(manifest)


def _unlabelled(manifest: Manifest) -> list[str]:
    values = [values.isna() for _, values in _label_values(manifest)]
    count = int(np.logical_and.reduce(values).sum()) if values else 0
    return [f"{count} of {len(manifest)} images have no label at all; they are not trained on"] if count else []


def _metadata(manifest: Manifest) -> tuple[list[str], list[str]]:
    shares = _missing_shares(manifest.table)
    return _impossible_ages(manifest.table), [
        f"{column} is missing for {share:.0%} of the images; subgroup results cover the rest only"
        for column, share in shares.items()
        if share > _MISSING_SHARE_WORTH_A_WARNING
    ]


def _impossible_ages(table: pd.DataFrame) -> list[str]:
    """Of manifests that no importer made; those leave such ages blank and say so."""
    if Column.AGE_YEARS not in table:
        return []
    ages = table[Column.AGE_YEARS].astype(float)
    rows = np.flatnonzero((ages < 0) | (ages > OLDEST_YEARS)).tolist()
    return [
        f"age of image {table[Column.IMAGE_ID].iat[row]} is {ages.iat[row]:g} years; 0 to {OLDEST_YEARS:g}, or blank, "
        f"expected (row {row})"
        for row in rows
    ]


def _missing_shares(table: pd.DataFrame) -> dict[str, float]:
    columns = [c for c in (Column.SEX, Column.AGE_YEARS, Column.SITE) if c in table]
    groups = [str(c) for c in table if str(c).startswith(Column.GROUP_PREFIX)]
    return {c.removeprefix(Column.GROUP_PREFIX): float(table[c].isna().mean()) for c in (*columns, *groups)}


def _facts(manifest: Manifest) -> dict[str, str]:
    table = manifest.table
    facts = {"kind": manifest.kind.value, "labels": _listed(manifest.labels), "images": str(len(table))}
    facts[f"{manifest.grouping}s" if manifest.patients_known else "patients"] = (
        str(table[Column.PATIENT_ID].nunique()) if manifest.patients_known else "not known"
    )
    if Column.WIDTH in table and table[Column.WIDTH].notna().any():
        facts["width"], facts["height"] = (
            f"{table[c].min()} to {table[c].max()} pixels" for c in (Column.WIDTH, Column.HEIGHT)
        )
    if (release := release_note(manifest)) is not None:
        facts["release"] = release
    if manifest.set_aside:
        facts["rows set aside"] = in_words(dict(manifest.set_aside))
    if Column.MASK in table:
        facts["masks"] = str(int(table[Column.MASK].notna().sum()))
    for column, share in _missing_shares(table).items():
        facts[f"{column} missing"] = f"{share:.1%}"
    return facts


def _listed(names: Iterable[str], most: int = 12) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (f", ... ({len(names)} in all)" if len(names) > most else "")
