"""The options of ``tasks import``, and what importers are told by them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import typer

from search_spaces.exceptions import UserError
from search_spaces.names import Kind
from trainables.importers import BlankLabels, ImportOptions
from trainables.pixels import Colour
from trainables.places import place

_LISTS = ("label_columns", "classes", "group_columns")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportFlags:
    """What a user writes; the fields mean what those of ``ImportOptions`` of the same names mean."""

    name: Annotated[str, typer.Option(help="Name of the task.")]
    image_column: Annotated[str | None, typer.Option(help="Paths of the images.")] = None
    label_column: Annotated[str | None, typer.Option(help="One label per image, or several joined.")] = None
    label_separator: Annotated[str | None, typer.Option(help="Joins several labels in --label-column.")] = None
    label_columns: Annotated[str | None, typer.Option(help="a,b,c: a column of 0/1/blank/-1 per label.")] = None
    label_name: Annotated[str | None, typer.Option(help="Name of the label of a binary task.")] = None
    kind: Annotated[Kind | None, typer.Option(help="What one label is, if not as the labels suggest.")] = None
    classes: Annotated[str | None, typer.Option(help="a,b,c: all classes in order, or names for 0,1,2.")] = None
    positive: Annotated[str | None, typer.Option(help="The value that is 1 in a binary task.")] = None
    blank_labels: Annotated[BlankLabels, typer.Option(help="What an empty cell of --label-columns means.")] = (
        BlankLabels.UNKNOWN
    )
    patient_column: Annotated[str | None, typer.Option(help="What stays on one side of a split; none: no column.")] = (
        None
    )
    patient_pattern: Annotated[str | None, typer.Option(help="Regular expression: (patient) in an image's path.")] = (
        None
    )
    grouping: Annotated[str | None, typer.Option(help="What the patient column really is: lesion, smear, ...")] = None
    study_column: Annotated[str | None, typer.Option(help="Examination.")] = None
    site_column: Annotated[str | None, typer.Option(help="Hospital or other origin.")] = None
    split_column: Annotated[
        str | None, typer.Option(help="train, val, test, external or unused; none: split here.")
    ] = None
    sex_column: Annotated[str | None, typer.Option(help="F or M.")] = None
    age_column: Annotated[str | None, typer.Option(help="Years.")] = None
    group_columns: Annotated[str | None, typer.Option(help="a,b: further columns for subgroups and where.")] = None
    mask_column: Annotated[str | None, typer.Option(help="Paths of masks.")] = None
    frame_column: Annotated[str | None, typer.Option(help="Frame of a DICOM file or page of a TIFF, from 0.")] = None
    image_root: Annotated[str | None, typer.Option(help="Folder or URL of the images, if not the table's.")] = None
    colour: Annotated[Colour, typer.Option(help="What the images are.")] = Colour.AS_STORED
    window: Annotated[
        str | None, typer.Option(help="Centre,width of grey values for DICOM files; their own if not given.")
    ] = None
    quarantine: Annotated[
        Path | None,
        typer.Option(help="Read everything, set rows aside that cannot be used, and list them in this CSV file."),
    ] = None
    all_problems: Annotated[
        bool, typer.Option("--all", help="Name all rows that cannot be used, not only the first.")
    ] = False
    bit_depth: Annotated[
        int | None,
        typer.Option(help="Bits of 16-bit images, 8 to 16; else the fewest of 8, 10, 12, 14, 16 that hold all."),
    ] = None
    unopened: Annotated[
        bool, typer.Option("--unopened", help="Look for and open no image now (large or remote data); check does.")
    ] = False
    split: Annotated[str, typer.Option(help="Shares of train,val,test if the data set has no split.")] = "0.7,0.1,0.2"
    split_seed: Annotated[int, typer.Option(help="Draws that split.")] = 0

    def options(self, derived: Path) -> ImportOptions:
        """The same as importers want it.

        Args:
            derived: Folder for files that are made on import.

        Raises:
            UserError: Numbers or shares of another form, or a URL that cannot be opened.
        """
        given: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        given |= {name: _names(given[name]) for name in _LISTS}
        given |= {
            "image_root": None if self.image_root is None else place(self.image_root),
            "window": _window(self.window),
            "split": _shares(self.split),
        }
        return ImportOptions(**given, derived=derived)


def _names(written: str | None) -> tuple[str, ...]:
    """``a`` and ``b`` of ``a, b``."""
    return tuple(n.strip() for n in (written or "").split(",") if n.strip())


def _shares(written: str) -> tuple[float, float, float]:
    try:
        train, val, test = (float(part) for part in written.split(","))
    except ValueError:
        raise UserError(f"--split {written!r}: three shares expected, such as 0.7,0.1,0.2 (train,val,test)") from None
    return train, val, test


def _window(written: str | None) -> tuple[float, float] | None:
    """Centre and width of ``40,400``."""
    if written is None:
        return None
    try:
        centre, width = (float(part) for part in written.split(","))
    except ValueError:
        raise UserError(f"--window {written!r}: centre,width expected, such as 100,700") from None
    return centre, width
