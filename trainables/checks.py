"""What is wrong or doubtful about an imported task, all at once, with file and row."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas as pd

from search_spaces.exceptions import DataError
from search_spaces.names import Column, Kind
from trainables.check_memory import CheckSummary, remember_check
from trainables.check_outcomes import Check, Outcome
from trainables.copies import NOT_LOOKED_FOR, find_copies
from trainables.label_checks import check_labels
from trainables.library import TaskLibrary
from trainables.manifest import MASK_COLUMNS, Manifest
from trainables.release_counts import release_note
from trainables.row_checks import FAINT_SPAN, RowsRead, read_rows
from trainables.row_problems import BLANK_AGES_NOTE, OLDEST_YEARS, Reason, RowProblem, impossible_ages, in_words
from trainables.splits import patients_in_two_splits
from trainables.store_cache import cached_stores, damaged_shards

_MISSING_SHARE_WORTH_A_WARNING = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """What ``check_task`` found.

    Attributes:
        errors: Must be put right before training.
        warnings: Limit what results can say.
        facts: Name -> text, in the order to be read.
        outcomes: The same findings by check, with those that are passed.
    """

    errors: tuple[str, ...]
    warnings: tuple[str, ...]
    facts: dict[str, str]
    outcomes: tuple[Outcome, ...]


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
    images = _check_images(manifest, read)
    are_readable = not any(outcome.errors for outcome in images)
    outcomes = [
        *images,
        *_check_patients(manifest),
        *(find_copies(library, manifest, read.hashes, read.plain) if are_readable else NOT_LOOKED_FOR),
        _check_stores(library, manifest, are_readable),
        *check_labels(manifest),
        *_check_metadata(manifest),
    ]
    report = CheckReport(
        errors=tuple(error for outcome in outcomes for error in outcome.errors),
        warnings=tuple(warning for outcome in outcomes for warning in outcome.warnings),
        facts=_facts(manifest),
        outcomes=tuple(outcomes),
    )
    summary = CheckSummary(
        content_hash=_content_hash(library, manifest),
        errors=len(report.errors),
        warnings=len(report.warnings),
        checks={outcome.check.value: outcome.found for outcome in outcomes},
    )
    remember_check(library, manifest, summary)
    return report


def _content_hash(library: TaskLibrary, manifest: Manifest) -> str:
    try:
        return library.content_hash(manifest)
    except DataError:
        return ""  # files are missing, which the check reports


def _check_images(manifest: Manifest, read: RowsRead) -> list[Outcome]:
    of_images = {Reason.IMAGE_MISSING, Reason.IMAGE_UNREADABLE}
    outcomes = [_unreadable(Check.IMAGES, [p for p in read.problems if p.reason in of_images])]
    has_masks = manifest.kind is Kind.SEGMENTATION or any(column in manifest.table for column in MASK_COLUMNS)
    if has_masks:
        outcomes.append(_unreadable(Check.MASKS, [p for p in read.problems if p.reason not in of_images]))
    remedy = "for DICOM files give --window on import, for 16-bit images --bit-depth"
    blurred = "all but 0 count as the label: lossy compression or a smooth resize makes it wider than it was drawn"
    kinds = [
        (Check.CONSTANT, read.constant, "have one single value in all pixels", ""),
        (Check.FAINT, read.faint, f"use fewer than {FAINT_SPAN} of 256 values", f"; {remedy}"),
    ]
    if has_masks:
        kinds.append((Check.SHADED, read.shaded, "have a mask with values between 0 and its largest", f"; {blurred}"))
    ids = manifest.table[Column.IMAGE_ID]
    for check, rows, what, advice in kinds:
        texts = [f"{len(rows)} images {what}, such as {ids.iat[rows[0]]} (row {rows[0]}){advice}"] if rows else []
        outcomes.append(Outcome(check=check, found=len(rows), warnings=tuple(texts)))
    return outcomes


def _unreadable(check: Check, problems: Sequence[RowProblem]) -> Outcome:
    return Outcome(check=check, found=len({p.row for p in problems}), errors=tuple(p.detail for p in problems))


def _check_patients(manifest: Manifest) -> list[Outcome]:
    notes = tuple(note for note in manifest.notes if note.startswith("patients"))
    known = manifest.patients_known
    unknown = Outcome(check=Check.PATIENTS_KNOWN, found=0 if known else len(manifest), warnings=() if known else notes)
    overlap = patients_in_two_splits(manifest.table)
    errors = []
    if overlap:
        shown = "; ".join(f"{patient} ({', '.join(splits)})" for patient, splits in list(overlap.items())[:10])
        more = f"; ... ({len(overlap)} in all)" if len(overlap) > 10 else ""
        errors.append(
            f"{len(overlap)} {manifest.grouping}s have images in two splits: {shown}{more}. Correct the split column, "
            "or import with --split-column none for a split by patient"
        )
    found = len(overlap) if known or overlap else None  # an image of its own cannot be in two
    return [unknown, Outcome(check=Check.PATIENTS, found=found, errors=tuple(errors))]


def _check_stores(library: TaskLibrary, manifest: Manifest, files_are_there: bool) -> Outcome:
    if not files_are_there:
        return Outcome(check=Check.STORES, found=None)
    content = f"{library.content_hash(manifest)}-"
    own = [s.path for s in cached_stores(library.home) if s.is_finished and s.path.name.startswith(content)]
    damaged = [path for path in own if damaged_shards(path)]
    errors = tuple(f"image store {path} is damaged; delete it, and it is built again" for path in damaged)
    return Outcome(check=Check.STORES, found=len(damaged) if own else None, errors=errors)


def _check_metadata(manifest: Manifest) -> list[Outcome]:
    table = manifest.table
    warnings = tuple(
        f"{column} is missing for {share:.0%} of the images; subgroup results cover the rest only"
        for column, share in _missing_shares(table).items()
        if share > _MISSING_SHARE_WORTH_A_WARNING
    )
    return [_check_ages(manifest), Outcome(check=Check.METADATA, found=len(warnings), warnings=warnings)]


def _check_ages(manifest: Manifest) -> Outcome:
    """Importers leave impossible ages blank; a manifest that none made may still hold them."""
    if Column.AGE_YEARS not in manifest.table:
        return Outcome(check=Check.AGES, found=None)
    rows = impossible_ages(manifest.table[Column.AGE_YEARS])
    ids, ages = manifest.table[Column.IMAGE_ID], manifest.table[Column.AGE_YEARS].astype(float)
    blank = manifest.left_blank.get(Reason.AGE, 0)
    said = "; ".join(note for note in manifest.notes if note.startswith(BLANK_AGES_NOTE))
    named = f" ({said})" if said else ""
    left_blank = (
        f"{blank} ages outside 0 to {OLDEST_YEARS:g} years were left blank: those images have no age here{named}"
    )
    return Outcome(
        check=Check.AGES,
        found=len(rows) + blank,
        errors=tuple(
            f"age of image {ids.iat[row]} is {ages.iat[row]:g} years; 0 to {OLDEST_YEARS:g}, or blank, expected "
            f"(row {row})"
            for row in rows
        ),
        warnings=(left_blank,) if blank else (),
    )


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
    if manifest.left_blank:
        facts["cells left blank"] = in_words(dict(manifest.left_blank))
    if Column.MASK in table:
        facts["masks"] = str(int(table[Column.MASK].notna().sum()))
    for column, share in _missing_shares(table).items():
        facts[f"{column} missing"] = f"{share:.1%}"
    return facts


def _listed(names: Iterable[str], most: int = 12) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (f", ... ({len(names)} in all)" if len(names) > most else "")
