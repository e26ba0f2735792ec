"""What all importers share: patients, splits, image files, and the manifest made of them."""

from __future__ import annotations

import os
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from search_spaces.exceptions import DataError, UserError
from search_spaces.names import Column, Split
from trainables.importers.columns import BadCellsError, each_text
from trainables.importers.found import Found as Found
from trainables.importers.labels import Labels
from trainables.importers.options import ImportOptions, Tell
from trainables.importers.quarantine import Quarantine, header_problems, repeated_images
from trainables.manifest import MASK_COLUMNS, Manifest
from trainables.pixels import IMAGE_SUFFIXES, sixteen_bit_peak
from trainables.places import READERS, files_like
from trainables.row_checks import read_rows
from trainables.row_problems import SHOWN_PROBLEMS, Reason, counted
from trainables.splits import assign_splits, patients_in_two_splits

if TYPE_CHECKING:
    from trainables.places import Place


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
        UserError: The patient pattern fits a path not at all, or nothing is left to train on.
        DataError: Rows cannot be used (files missing or unreadable, image ids repeated, cells with other values than
            allowed, masks of another size), and ``options.quarantine`` is not given; lists the first of them, or all if
            ``options.all_problems``, and counts the others.
    """
    aside = Quarantine(options.quarantine, None if options.all_problems else SHOWN_PROBLEMS)
    if options.unopened:
        found = aside.usable(found, [*found.problems, *repeated_images(found)])
        return _settled(_manifest(found, options, tell), found, aside, tell)
    sizes, problems = header_problems(found, options.window)
    without_file = {p.row for p in found.problems if p.reason is Reason.IMAGE_MISSING}
    problems = [p for p in problems if p.row not in without_file]
    problems = [*found.problems, *repeated_images(found), *problems]
    found = aside.usable(replace(found, rows=pd.concat([found.rows, sizes], axis=1)), problems)
    manifest = _manifest(found, options, tell)
    if options.quarantine is None:
        return manifest
    sound = aside.usable(found, read_rows(manifest).problems)
    if len(sound.rows) < len(found.rows):
        manifest = _manifest(sound, options, tell)
    return _settled(manifest, sound, aside, tell)


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
    if options.patient_pattern:
        rows = rows.assign(**{Column.PATIENT_ID: _patients_in_paths(rows[Column.PATH], options.patient_pattern)})
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


def _patients_in_paths(paths: pd.Series[str], pattern: str) -> pd.Series[str]:
    matches = [re.search(pattern, str(path)) for path in paths]
    failed = [str(path) for path, match in zip(paths, matches, strict=True) if match is None]
    if failed:
        raise UserError(f"--patient-pattern {pattern!r} does not fit {len(failed)} paths, such as {failed[0]!r}")
    return pd.Series([match.group(1) for match in matches if match], index=paths.index, dtype="str")


def _with_splits(rows: pd.DataFrame, labels: Labels, options: ImportOptions, note: Tell) -> pd.DataFrame:
    shares = dict(zip((Split.TRAIN, Split.VAL, Split.TEST), options.split, strict=True))

    def drawn(of: pd.DataFrame, shares: dict[Split, float]) -> pd.Series[str]:
        return assign_splits(of, labels.kind, labels.names, shares, options.split_seed)

    unit = options.groups_patients if rows[Column.PATIENT_ID].duplicated().any() else "image"
    if Column.SPLIT not in rows:
        parts = ", ".join(f"{s} {share:.0%}" for s, share in shares.items())
        note(f"split drawn here by {unit} ({parts}, seed {options.split_seed}), stratified by the rarest label")
        return rows.assign(**{Column.SPLIT: drawn(rows, shares)})
    split = rows[Column.SPLIT].copy()
    if overlap := patients_in_two_splits(rows):
        patient, splits = next(iter(overlap.items()))
        note(
            f"{len(overlap)} {options.groups_patients}s are in two splits of the data set, such as {patient!r} "
            f"({', '.join(splits)}); tasks check refuses this"
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
