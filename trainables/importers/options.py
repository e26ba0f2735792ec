"""What a user may say about a data set on import."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from search_spaces.exceptions import UserError
from search_spaces.names import Kind
from trainables.dicom import Window
from trainables.pixels import BIT_DEPTHS, Colour

if TYPE_CHECKING:
    from trainables.places import Place

Tell = Callable[[str], None]
"""Receives one line for the user at a time: what was detected, decided or odd."""

NO_COLUMN = "none"
"""Given instead of a column's name: the table has none, do not look for one."""


def silent(line: str) -> None:
    """A ``Tell`` that says nothing."""


class BlankLabels(StrEnum):
    """What an empty cell of a 0/1 column means."""

    UNKNOWN = "unknown"
    NEGATIVE = "negative"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOptions:
    """How to read a data set. A column not given is looked for under its usual names; ``none`` says there is none.

    Attributes:
        name: Name of the task.
        image_column: Paths of the images, relative to ``image_root``.
        label_column: One label (or class) per image, or several joined by ``label_separator``.
        label_separator: Makes a multilabel task of ``label_column``.
        label_columns: Columns of 0, 1, blank and -1; one makes a binary task, several a multilabel one.
        label_name: Name of the label of a binary task.
        kind: What one label is; follows from the labels if not given.
        classes: All classes in order; for whole-number labels 0..n-1 also their names.
        positive: The value of ``label_column`` that is 1 in a binary task.
        blank_labels: What an empty cell of ``label_columns`` means: not known, or 0 (findings written only if present).
        patient_column: What keeps images on one side of a split.
        patient_pattern: Regular expression with one group that finds the patient in an image's path.
        grouping: What the patient column really holds, such as lesion, smear or series.
        study_column: Examination of the image.
        site_column: Hospital, scanner or other origin.
        split_column: The official split: train, val, test, external or unused.
        sex_column: F or M.
        age_column: Age in years.
        group_columns: Further columns for subgroups and for ``where``.
        mask_column: Paths of masks, relative to ``image_root``.
        frame_column: Which frame of a DICOM file or page of a TIFF file, from 0.
        image_root: Folder or URL of the images; the table's folder if not given.
        bit_depth: Bits that 16-bit images use, 8 to 16; the fewest of 8, 10, 12, 14 and 16 that hold all of
            them if not given.
        colour: What the images are.
        window: Centre and width for DICOM files, in rescaled values (Hounsfield units in CT); their own if not given.
        quarantine: Where to list rows that cannot be used, which are then left out; they are refused if not given.
        all_problems: Whether a refusal lists all rows that cannot be used, not the first
            ``trainables.row_problems.SHOWN_PROBLEMS`` of them.
        derived: Folder for files that are made on import, such as masks drawn from run lengths.
        unopened: Neither look for nor open any image or mask: their sizes stay blank, 16-bit images count as
            ``bit_depth`` (or 16) bits, and ``tasks check`` finds what is missing.
        split: Shares of train, val and test where the data set has no split of its own.
        split_seed: Draws that split.
    """

    name: str
    image_column: str | None = None
    label_column: str | None = None
    label_separator: str | None = None
    label_columns: tuple[str, ...] = ()
    label_name: str | None = None
    kind: Kind | None = None
    classes: tuple[str, ...] = ()
    positive: str | None = None
    blank_labels: BlankLabels = BlankLabels.UNKNOWN
    patient_column: str | None = None
    patient_pattern: str | None = None
    grouping: str | None = None
    study_column: str | None = None
    site_column: str | None = None
    split_column: str | None = None
    sex_column: str | None = None
    age_column: str | None = None
    group_columns: tuple[str, ...] = ()
    mask_column: str | None = None
    frame_column: str | None = None
    image_root: Place | None = None
    bit_depth: int | None = None
    colour: Colour = Colour.AS_STORED
    window: Window | None = None
    quarantine: Path | None = None
    all_problems: bool = False
    derived: Path | None = None
    unopened: bool = False
    split: tuple[float, float, float] = (0.7, 0.1, 0.2)
    split_seed: int = 0

    def __post_init__(self) -> None:
        if self.bit_depth is not None and self.bit_depth not in BIT_DEPTHS:
            raise UserError(f"--bit-depth is 8 to 16, got {self.bit_depth}")
        if self.window is not None and not self.window[1] >= 1:
            raise UserError(f"--window needs a width of at least 1, got {self.window[1]:g}")
        if self.label_column and self.label_columns:
            raise UserError("give --label-column (one column) or --label-columns (a column per label), not both")
        if self.patient_column not in (None, NO_COLUMN) and self.patient_pattern:
            raise UserError("give --patient-column or --patient-pattern, not both")
        if self.patient_pattern and _groups(self.patient_pattern) != 1:
            raise UserError(f"--patient-pattern needs exactly one group in brackets, got {self.patient_pattern!r}")
        if len(set(self.classes)) != len(self.classes):
            raise UserError(f"--classes names a class twice: {', '.join(self.classes)}")
        if len(self.split) != 3 or min(self.split) < 0 or self.split[0] == 0 or abs(sum(self.split) - 1) > 1e-6:
            raise UserError(f"--split needs shares of train, val and test that add up to 1, got {list(self.split)}")

    @property
    def groups_patients(self) -> str:
        """What a patient id holds, in words."""
        return self.grouping or "patient"


def _groups(pattern: str) -> int:
    try:
        return re.compile(pattern).groups
    except re.error as error:
        raise UserError(f"--patient-pattern {pattern!r} is no regular expression: {error}") from error
