"""What all importers share: patients, splits, image files, and the manifest made of them."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from search_spaces.exceptions import DataError, UserError
from search_spaces.names import Column, Kind, Split
from trainables.importers.columns import BadCellsError, each_text
from trainables.importers.found import Found as Found
from trainables.importers.labels import Labels
from trainables.importers.options import NO_COLUMN, ImportOptions, Tell
from trainables.importers.quarantine import Quarantine, blank_masks, header_problems, repeated_images
from trainables.manifest import MASK_COLUMNS, Manifest
from trainables.pixels import IMAGE_SUFFIXES, sixteen_bit_peak
from trainables.places import READERS, files_like
from trainables.row_checks import read_rows
from trainables.row_problems import SHOWN_PROBLEMS, Reason, RowProblem, counted
from trainables.splits import assign_splits, patients_in_two_splits

if TYPE_CHECKING:
    from trainables.places import Place


_MISREAD_SHARE = 0.5
"""A patient pattern that does not fit more of the paths than this is at fault itself."""

USUAL_BIT_DEPTHS = (8, 10, 12, 14, 16)
"""What detectors deliver in 16-bit files."""

SPLIT_NAMES = {
    "train": Split.TRAIN, "training": Split.TRAIN,
    "val": Split.VAL, "valid": Split.VAL, "validation": Split.VAL, "dev": Split.VAL,
    "test": Split.TEST, "testing": Split.TEST,
    "external": Split.EXTERNAL, "unused": Split.UNUSED,
}  # fmt: skip
"""What data sets call their splits, in lower case."""


def assemble(found: Found, options: ImportOptions, tell: Tell) -> Manifest:
    """The manifest of what an importer found.

    Raises:
        UserError: The patient pattern fits most paths not at all, or nothing is left to train on.
        DataError: Rows cannot be used (files missing or unreadable, image ids repeated, cells with other values than
            allowed, masks of another size or none in a segmentation task), and ``options.quarantine`` is not given;
            lists the first of them, or all if ``options.all_problems``, and counts the others.
    """
    aside = Quarantine(options.quarantine, None if options.all_problems else SHOWN_PROBLEMS)
    if options.split_column == NO_COLUMN and Column.SPLIT in found.rows:
        found = _without_split(found, tell)
    if options.patient_pattern:
        found = _with_patients_of_paths(found, options.patient_pattern)
    if options.unopened:
        found = aside.usable(found, [*found.problems, *blank_masks(found), *repeated_images(found)])
        return _settled(_manifest(found, options, tell), found, aside, tell)
    sizes, problems = header_problems(found, options.window)
    without_file = {p.row for p in found.problems if p.reason in (Reason.IMAGE_MISSING, Reason.PATH)}
    problems = [p for p in problems if p.row not in without_file]
    problems = [*found.problems, *blank_masks(found), *repeated_images(found), *problems]
    found = aside.usable(replace(found, rows=pd.concat([found.rows, sizes], axis=1)), problems)
    manifest = _manifest(found, options, tell)
    if options.quarantine is None:
        return manifest
    sound = aside.usable(found, read_rows(manifest).problems)
    if len(sound.rows) < len(found.rows):
        manifest = _manifest(sound, options, tell)
    return _settled(manifest, sound, aside, tell)


def _without_split(found: Found, tell: Tell) -> Found:
    """The same as if the data set had no split of its own; the counts of its release do not hold by split."""
    line = "the data set's own split is not taken (--split-column none)"
    tell(line)
    rows = found.rows.drop(columns=[Column.SPLIT])
    return replace(found, rows=rows, expected=counts_to_expect(found.expected, NO_COLUMN), notes=(*found.notes, line))


def counts_to_expect(released: Mapping[str, int], split_column: str | None) -> dict[str, int]:
    """What ``Manifest.expected`` may hold: without the counts by split where the split is not that of the release."""
    by_split = {
        name
        for name in released
        if name.startswith("split.") or (name.count(".") > 1 and name.rpartition(".")[2] in set(Split))
    }
    return {name: n for name, n in released.items() if split_column != NO_COLUMN or name not in by_split}


def _settled(manifest: Manifest, found: Found, aside: Quarantine, tell: Tell) -> Manifest:
    """The manifest of what was found, with a note of what was set aside and its list written."""
    aside.list_blank(found)
    aside.write()
    if not aside.counts:
        return manifest
    tell(aside.in_words(len(manifest)))
    notes = (*manifest.notes, aside.in_words(len(manifest)))
    return replace(manifest, set_aside=aside.counts, notes=notes)


def _manifest(found: Found, options: ImportOptions, tell: Tell) -> Manifest:
    """The manifest of rows that can all be used."""
    notes = list(found.notes)

    def note(line: str) -> None:
        notes.append(line)
        tell(line)

    rows = pd.concat([found.rows, found.labels.columns], axis=1)
    rows, patients_known = _with_patients(rows, options, note)
    rows = _with_splits(rows, found.labels, options, note)
    bit_depth = options.bit_depth or USUAL_BIT_DEPTHS[-1]
    if options.unopened:
        note("imported without a look at the images: tasks check reads them")
    else:
        bit_depth = _bit_depth(rows, found.root, options, note)
    return Manifest(
        name=options.name,
        kind=found.labels.kind,
        labels=found.labels.names,
        table=_in_order(rows, found.labels),
        root=found.root,
        importer=found.importer,
        patients_known=patients_known,
        grouping=options.groups_patients if patients_known else "image",
        bit_depth=bit_depth,
        notes=tuple(notes),
        mask_root=found.mask_root,
        colour=options.colour,
        window=options.window,
        expected=found.expected,
        left_blank=counted(found.left_blank),
    )


def split_of(names: pd.Series[str], where: str, column: str) -> pd.Series[str]:
    """The user's split names as ours.

    Raises:
        BadCellsError: A name that is none of ``SPLIT_NAMES``, or a blank.
    """
    by_name = {name: split.value for name, split in SPLIT_NAMES.items()}
    known = each_text(names, lambda name: by_name.get(name.strip().lower()))
    if known.isna().any():
        allowed = ", ".join(SPLIT_NAMES)
        strange = sorted({"(blank)" if v is None else str(v) for v in names[known.isna()]})
        message = f"{where} has {', '.join(strange[:10])}; known splits are {allowed}"
        raise BadCellsError(message, column, np.flatnonzero(known.isna()), allowed, stand_in=Split.UNUSED.value)
    return known.astype("str")


def files_under(folder: Place) -> tuple[list[Place], Counter[str]]:
    """Image files under a folder, sorted, and the suffixes of other files; hidden files are passed over."""
    if not isinstance(folder, Path):
        found = [file for file in files_like(folder, "**/*") if not file.name.startswith(".")]
        known = [f for f in found if f.suffix.lower() in IMAGE_SUFFIXES]
        return known, Counter(f.suffix or f.name for f in found if f.suffix.lower() not in IMAGE_SUFFIXES)
    images: list[Place] = []
    others: Counter[str] = Counter()
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        for file in sorted(f for f in files if not f.startswith(".")):
            path = Path(parent, file)
            if path.suffix.lower() in IMAGE_SUFFIXES:
                images.append(path)
            else:
                others[path.suffix or file] += 1
    return images, others


def _with_patients(rows: pd.DataFrame, options: ImportOptions, note: Tell) -> tuple[pd.DataFrame, bool]:
    if Column.PATIENT_ID not in rows:
        note("patients are not known: every image counts as its own, so a split can leak between images of one patient")
        return rows.assign(**{Column.PATIENT_ID: rows[Column.IMAGE_ID]}), False
    blank = rows[Column.PATIENT_ID].isna()
    if blank.all():
        raise UserError("the patient column is empty in every row; give another, or --patient-column none")
    if blank.any():
        note(f"{blank.sum()} images have no {options.groups_patients}; each counts as its own")
    if options.groups_patients != "patient":
        grouping = options.groups_patients
        note(f"patient_id holds the {grouping}, not the patient: one patient may be on both sides of a split")
    patients = rows[Column.PATIENT_ID].where(~blank, rows[Column.IMAGE_ID])
    return rows.assign(**{Column.PATIENT_ID: patients.astype("str")}), True


def _with_patients_of_paths(found: Found, pattern: str) -> Found:
    """Patients by the pattern; paths that it does not fit are problems of their rows.

    Raises:
        UserError: It does not fit most of the paths, so that the pattern is at fault.
    """
    paths = found.rows[Column.PATH].astype(str).tolist()
    matches = [re.search(pattern, path) for path in paths]
    patients = [match.group(1) if match else None for match in matches]
    failed = [row for row, patient in enumerate(patients) if patient is None]
    what = f"--patient-pattern {pattern!r} does not fit"
    if len(failed) > _MISREAD_SHARE * len(paths):
        raise UserError(f"{what} {len(failed)} of {len(paths)} paths, such as {paths[failed[0]]!r}")
    unusable = {p.row for p in found.problems}
    problems = [
        RowProblem(row=row, reason=Reason.PATIENT, detail=f"{what} path {paths[row]!r}")
        for row in failed
        if row not in unusable
    ]
    rows = found.rows.assign(**{Column.PATIENT_ID: pd.Series(patients, index=found.rows.index, dtype=object)})
    return replace(found, rows=rows, problems=(*found.problems, *problems))


def _with_splits(rows: pd.DataFrame, labels: Labels, options: ImportOptions, note: Tell) -> pd.DataFrame:
    shares = dict(zip((Split.TRAIN, Split.VAL, Split.TEST), options.split, strict=True))

    def drawn(of: pd.DataFrame, shares: dict[Split, float]) -> pd.Series[str]:
        return assign_splits(of, labels.kind, labels.names, shares, options.split_seed)

    unit = options.groups_patients if rows[Column.PATIENT_ID].duplicated().any() else "image"
    if Column.SPLIT not in rows:
        parts = ", ".join(f"{s} {share:.0%}" for s, share in shares.items())
        masks = labels.kind is Kind.SEGMENTATION
        strata = "not stratified (masks are not looked at)" if masks else "stratified by the rarest label"
        note(f"split drawn here by {unit} ({parts}, seed {options.split_seed}), {strata}")
        return rows.assign(**{Column.SPLIT: drawn(rows, shares)})
    split = rows[Column.SPLIT].copy()
    if overlap := patients_in_two_splits(rows):
        patient, splits = next(iter(overlap.items()))
        note(
            f"{len(overlap)} {options.groups_patients}s are in two splits of the data set, such as {patient!r} "
            f"({', '.join(splits)}); tasks check refuses this, and import with --split-column none splits by "
            f"{options.groups_patients} instead"
        )
    if (split == Split.TRAIN).any() and not (split == Split.VAL).any():
        train = rows[split == Split.TRAIN]
        share = shares[Split.VAL] / (shares[Split.TRAIN] + shares[Split.VAL])
        if share > 0:
            split[train.index] = drawn(train, {Split.TRAIN: 1 - share, Split.VAL: share})
            note(f"the data set's split has no val: {share:.1%} of the train {unit}s drawn (seed {options.split_seed})")
    return rows.assign(**{Column.SPLIT: split})


def _bit_depth(rows: pd.DataFrame, root: Place, options: ImportOptions, note: Tell) -> int:
    """The bits that 16-bit images use; 16 where there are none."""
    frames = rows[Column.FRAME].tolist() if Column.FRAME in rows else [None] * len(rows)
    with ThreadPoolExecutor(READERS) as pool:
        peaks = list(pool.map(lambda path, frame: _peak_or_none(root / path, frame), rows[Column.PATH], frames))
    known = [peak for peak in peaks if peak is not None]
    if not known:
        return USUAL_BIT_DEPTHS[-1]
    if options.bit_depth is not None:
        if max(known) >= 2**options.bit_depth:
            raise UserError(f"--bit-depth {options.bit_depth} does not hold the largest value, {max(known)}")
        return options.bit_depth
    needed = next(bits for bits in USUAL_BIT_DEPTHS if max(known) < 2**bits)
    if needed < USUAL_BIT_DEPTHS[-1]:
        note(
            f"{len(known)} 16-bit images have values up to {max(known)}: taken as {needed} bits, so {2**needed - 1} "
            "becomes white (--bit-depth says otherwise)"
        )
    return needed


def _peak_or_none(file: Place, frame: int | None) -> int | None:
    try:
        return sixteen_bit_peak(file, frame)
    except DataError:
        return None  # tasks check names it


def _in_order(rows: pd.DataFrame, labels: Labels) -> pd.DataFrame:
    """Columns in the manifest's order, texts as strings, index 0..n-1."""
    order = [
        Column.IMAGE_ID, Column.PATH, Column.FRAME, Column.WIDTH, Column.HEIGHT, Column.PATIENT_ID, Column.STUDY_ID,
        Column.SITE, Column.SPLIT, *labels.columns.columns, *MASK_COLUMNS, Column.SEX, Column.AGE_YEARS,
    ]  # fmt: skip
    groups = [c for c in rows if str(c).startswith(Column.GROUP_PREFIX)]
    table = rows[[c for c in order if c in rows] + groups].reset_index(drop=True)
    texts = {str(c): table[c].astype("str") for c in table if table[c].dtype == object}
    return table.assign(**texts)
