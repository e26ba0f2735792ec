"""What all importers share: patients, splits, image files, and the manifest made of them."""

from __future__ import annotations

import os
import re
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from search_spaces.exceptions import DataError, UserError
from search_spaces.names import Column, Split
from trainables.importers.columns import each_text
from trainables.importers.labels import Labels
from trainables.importers.options import ImportOptions, Tell
from trainables.manifest import Manifest
from trainables.pixels import IMAGE_SUFFIXES, image_size, sixteen_bit_peak
from trainables.splits import assign_splits, patients_in_two_splits

_THREADS = min(32, 4 * (os.cpu_count() or 1))

USUAL_BIT_DEPTHS = (8, 10, 12, 14, 16)
"""What detectors deliver in 16-bit files."""

SPLIT_NAMES = {
    "train": Split.TRAIN, "training": Split.TRAIN,
    "val": Split.VAL, "valid": Split.VAL, "validation": Split.VAL, "dev": Split.VAL,
    "test": Split.TEST, "testing": Split.TEST,
    "external": Split.EXTERNAL, "unused": Split.UNUSED,
}  # fmt: skip
"""What data sets call their splits, in lower case."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What an importer read, before patients and splits are settled.

    Attributes:
        rows: ``image_id`` and ``path``, and whatever else of the manifest's columns is known.
        labels: Labels of the same rows.
        root: Folder of the images.
        importer: Name of the importer.
    """

    rows: pd.DataFrame
    labels: Labels
    root: Path
    importer: str


def assemble(found: Found, options: ImportOptions, tell: Tell) -> Manifest:
    """The manifest of what an importer found.

    Raises:
        UserError: Image ids repeat, the patient pattern fits a path not at all, or nothing is left to train on.
        DataError: Image or mask files are missing.
    """
    notes: list[str] = []

    def note(line: str) -> None:
        notes.append(line)
        tell(line)

    _refuse_repeated_images(found.rows)
    rows = pd.concat([found.rows, found.labels.columns], axis=1)
    rows, patients_known = _with_patients(rows, options, note)
    rows = _with_splits(rows, found.labels, options, note)
    bit_depth = options.bit_depth or USUAL_BIT_DEPTHS[-1]
    if options.unopened:
        note("imported without a look at the images: tasks check reads them")
    else:
        rows = _with_sizes(rows, found.root, tell)
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
    )


def split_of(names: pd.Series[str], where: str) -> pd.Series[str]:
    """The user's split names as ours.

    Raises:
        UserError: A name that is none of ``SPLIT_NAMES``, or a blank.
    """
    by_name = {name: split.value for name, split in SPLIT_NAMES.items()}
    known = each_text(names, lambda name: by_name.get(name.strip().lower()))
    if known.isna().any():
        strange = sorted({"(blank)" if v is None else str(v) for v in names[known.isna()]})
        raise UserError(f"{where} has {', '.join(strange[:10])}; known splits are {', '.join(SPLIT_NAMES)}")
    return known.astype("str")


def files_under(folder: Path) -> tuple[list[Path], Counter[str]]:
    """Image files under a folder, sorted, and the suffixes of other files; hidden files are passed over."""
    images: list[Path] = []
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


def _refuse_repeated_images(rows: pd.DataFrame) -> None:
    ids = rows[Column.IMAGE_ID]
    repeated = ids[ids.duplicated()].unique()
    if len(repeated):
        raise UserError(
            f"{len(repeated)} images stand in more than one row, such as {', '.join(map(repr, repeated[:3]))}; "
            "a manifest has one row per image (join several labels with a separator, see --label-separator)"
        )


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


def _with_sizes(rows: pd.DataFrame, root: Path, tell: Tell) -> pd.DataFrame:
    """Width and height from the headers; null where a header cannot be read.

    Raises:
        DataError: Image or mask files are missing; names the first and counts them.
    """
    _refuse_missing_files(rows, root)
    frames = rows[Column.FRAME].tolist() if Column.FRAME in rows else [None] * len(rows)
    with ThreadPoolExecutor(_THREADS) as pool:
        sizes = list(pool.map(lambda path, frame: _size_or_none(root / path, frame), rows[Column.PATH], frames))
    if unreadable := sum(size is None for size in sizes):
        tell(f"{unreadable} images cannot be read; tasks check lists them")
    width, height = ([None if s is None else s[i] for s in sizes] for i in (0, 1))
    return rows.assign(**{Column.WIDTH: pd.array(width, dtype="Int32"), Column.HEIGHT: pd.array(height, dtype="Int32")})


def _bit_depth(rows: pd.DataFrame, root: Path, options: ImportOptions, note: Tell) -> int:
    """The bits that 16-bit images use; 16 where there are none."""
    frames = rows[Column.FRAME].tolist() if Column.FRAME in rows else [None] * len(rows)
    with ThreadPoolExecutor(_THREADS) as pool:
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


def _peak_or_none(file: Path, frame: int | None) -> int | None:
    try:
        return sixteen_bit_peak(file, frame)
    except DataError:
        return None  # tasks check names it


def _refuse_missing_files(rows: pd.DataFrame, root: Path) -> None:
    for column in (Column.PATH, Column.MASK):
        if column not in rows or (column == Column.PATH and Column.FRAME in rows):
            continue
        positions = np.flatnonzero(rows[column].notna()).tolist()
        with ThreadPoolExecutor(_THREADS) as pool:
            there = list(pool.map(lambda p: (root / str(p)).is_file(), rows[column].iloc[positions]))
        missing = [row for row, exists in zip(positions, there, strict=True) if not exists]
        if missing:
            what = "images" if column == Column.PATH else "masks"
            first = root / str(rows[column].iat[missing[0]])
            raise DataError(
                f"{len(missing)} of {len(positions)} {what} are missing, the first: {first} (row {missing[0]}); "
                "paths are relative to the table's folder, --image-root gives another"
            )


def _size_or_none(path: Path, frame: int | None) -> tuple[int, int] | None:
    try:
        return image_size(path, frame)
    except DataError:
        return None  # the import goes on; tasks check reports every unreadable image


def _in_order(rows: pd.DataFrame, labels: Labels) -> pd.DataFrame:
    """Columns in the manifest's order, texts as strings, index 0..n-1."""
    order = [
        Column.IMAGE_ID, Column.PATH, Column.FRAME, Column.WIDTH, Column.HEIGHT, Column.PATIENT_ID, Column.STUDY_ID,
        Column.SITE, Column.SPLIT, *labels.columns.columns, Column.MASK, Column.SEX, Column.AGE_YEARS,
    ]  # fmt: skip
    groups = [c for c in rows if str(c).startswith(Column.GROUP_PREFIX)]
    table = rows[[c for c in order if c in rows] + groups].reset_index(drop=True)
    texts = {str(c): table[c].astype("str") for c in table if table[c].dtype == object}
    return table.assign(**texts)
