"""The parts of a column map: tables, joins, derived columns, cells, images, masks, labels."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from search_spaces.models import StrictModel


def _pattern(written: str) -> str:
    try:
        re.compile(written)
    except re.error as error:
        raise ValueError(f"{written!r} is no regular expression: {error}") from error
    return written


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str | dict | int | float) else value


def _as_text(value: Any) -> Any:
    """YAML reads 0, 1 and no as numbers and truth values; tables hold text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int | float) else value


Text = Annotated[str, BeforeValidator(_as_text)]
Pattern = Annotated[str, BeforeValidator(_pattern)]
Texts = Annotated[tuple[Text, ...], BeforeValidator(_listed)]
Template = Annotated[str, Field(pattern=r"\S")]
"""``{column}`` stands for a cell, ``{column[:2]}`` for a part of it; a row with a blank cell has a blank result."""


class CsvFile(StrictModel):
    """One file of a table.

    Attributes:
        file: Path under the data set's folder, or a glob pattern; of several alternatives the first that exists.
        set: Columns that all its rows get, such as ``split: train``.
        optional: Whether the data set can be read without it.
    """

    file: Texts
    set: dict[str, Text] = {}
    optional: bool = False


def _csv_file(value: Any) -> Any:
    return {"file": value} if isinstance(value, str | list) else value


class TableSpec(StrictModel):
    """A table: the rows of CSV files, or one row per file of a folder. Exactly one of ``csv`` and ``files``.

    Attributes:
        csv: Files whose rows follow one another.
        header: Column names of CSV files that have none.
        separator: Between the cells; found in the first line if not given.
        files: Glob patterns; the table has a row per file with its path as column ``file``.
        pattern: Regular expression that a file's path must contain; its named groups become columns.
        text: Regular expression for the contents of each file; its named groups become columns, blank where it does
            not fit.
        optional: Whether there may be no such files.
    """

    csv: Annotated[tuple[Annotated[CsvFile, BeforeValidator(_csv_file)], ...], BeforeValidator(_listed)] = ()
    header: tuple[str, ...] = ()
    separator: str | None = None
    files: Texts = ()
    pattern: Pattern | None = None
    text: Pattern | None = None
    optional: bool = False

    @model_validator(mode="after")
    def _one_kind(self) -> TableSpec:
        if bool(self.csv) == bool(self.files):
            raise ValueError("a table needs either csv or files")
        if self.csv and (self.pattern or self.text):
            raise ValueError("pattern and text belong to files, not to csv")
        return self


class JoinSpec(StrictModel):
    """Columns of another table, found by keys.

    Attributes:
        table: Name of the table to look in; rows that find several different ones there cannot be used.
        keys: Key columns of the same names, or column of the rows so far -> column of ``table``.
        unmatched: What to do with rows that find nothing: leave the new columns blank, drop the row (which is
            counted and said), or refuse the import.
    """

    table: str
    keys: dict[str, str]
    unmatched: Literal["keep", "drop", "refuse"] = "keep"

    @field_validator("keys", mode="before")
    @classmethod
    def _same_names(cls, value: Any) -> Any:
        value = _listed(value) if isinstance(value, str) else value
        return {name: name for name in value} if isinstance(value, list | tuple) else value


class DeriveSpec(StrictModel):
    """A new column. Exactly one of ``pattern``, ``values``, ``matches`` and ``template``.

    Attributes:
        column: Its name.
        source: Column it is made of (YAML key ``from``).
        pattern: Regular expression with one group to be found in a cell; blank where it does not fit.
        values: Cell -> new cell.
        matches: Regular expression to be found in a cell -> new cell; the first that fits counts.
        other: What becomes of cells not in ``values`` or ``matches``.
        template: Text with cells of other columns put in.
    """

    column: str
    source: str | None = Field(default=None, alias="from")
    pattern: Pattern | None = None
    values: dict[Text, Text | None] = {}
    matches: dict[Pattern, Text | None] = {}
    other: Literal["keep", "blank", "refuse"] = "refuse"
    template: Template | None = None

    @field_validator("values", mode="before")
    @classmethod
    def _text_keys(cls, value: Any) -> Any:
        return {_as_text(k): v for k, v in value.items()} if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _one_way(self) -> DeriveSpec:
        if sum((self.pattern is not None, bool(self.values), bool(self.matches), self.template is not None)) != 1:
            raise ValueError(f"derived column {self.column!r} needs one of pattern, values, matches and template")
        if self.template is None and self.source is None:
            raise ValueError(f"derived column {self.column!r} needs 'from'")
        if self.pattern is not None and re.compile(self.pattern).groups != 1:
            raise ValueError(f"derived column {self.column!r}: the pattern needs exactly one group")
        return self


class CombineSpec(StrictModel):
    """Several rows become one, such as those of several readers or lesions of an image.

    Attributes:
        by: Columns that tell images apart.
        columns: Column -> how its cells are combined: ``any`` (the largest number), ``majority`` (1 if more than half
            are 1) or ``join`` (with ``|``). All others keep the first row's cell.
    """

    by: Texts
    columns: dict[str, Literal["any", "majority", "join"]] = {}


class CellSpec(StrictModel):
    """Cells of one column.

    Attributes:
        column: Its name; of several alternatives the first that the table has.
        values: Cell -> what to read in its place; null for blank.
        optional: Whether the table may lack the column.
    """

    column: Texts
    values: dict[Text, Text | None] = {}
    optional: bool = False

    @field_validator("values", mode="before")
    @classmethod
    def _text_keys(cls, value: Any) -> Any:
        return {_as_text(k): v for k, v in value.items()} if isinstance(value, dict) else value


def _cell(value: Any) -> Any:
    return {"column": value} if isinstance(value, str | list) else value


Cell = Annotated[CellSpec, BeforeValidator(_cell)]


class ImageSpec(StrictModel):
    """Where images are.

    Attributes:
        path: Template of the path under the data set's folder.
        id: Template of what names the image; its path if not given.
        frame: Column with the frame of a DICOM file or page of a TIFF file, from 0.
    """

    path: Template
    id: Template | None = None
    frame: str | None = None


class RunLengths(StrictModel):
    """Masks written as run lengths: pairs of start and length, several lists joined with ``|``.

    Attributes:
        column: Where they stand.
        height: Rows of the mask in pixels.
        width: Columns of the mask in pixels.
        order: Whether runs go down columns or along rows.
        start: ``absolute`` positions from 1, or ``relative`` to the end of the run before.
        none: Cells that mean an empty mask.
    """

    column: str
    height: int = Field(gt=0)
    width: int = Field(gt=0)
    order: Literal["columns", "rows"]
    start: Literal["absolute", "relative"]
    none: Texts = ("-1",)


class MaskSpec(StrictModel):
    """Where masks are. Exactly one of ``path``, ``merge`` and ``run_lengths``.

    Attributes:
        path: Template of the path; a blank cell is no mask.
        merge: Templates of several masks that are put together (a pixel counts where any of them is not 0).
        run_lengths: Masks in a column of text.
        optional: Whether files may be missing; their rows then have no mask.
    """

    path: Template | None = None
    merge: tuple[Template, ...] = ()
    run_lengths: RunLengths | None = None
    optional: bool = False

    @model_validator(mode="after")
    def _one_way(self) -> MaskSpec:
        if sum((self.path is not None, bool(self.merge), self.run_lengths is not None)) != 1:
            raise ValueError("masks need one of path, merge and run_lengths")
        return self


def _mask(value: Any) -> Any:
    return {"path": value} if isinstance(value, str) else value


Mask = Annotated[MaskSpec, BeforeValidator(_mask)]


class LabelSpec(StrictModel):
    """What the labels are; which fields apply depends on the kind.

    Attributes:
        flags: Label -> column of flags (multilabel; binary with one; one-hot classes of multiclass and ordinal).
        values: Cell of a flag column -> 1, 0, -1 (uncertain) or null (not known). ``1``, ``0`` and ``-1`` stand for
            themselves.
        blank: What an empty cell of a flag column means: not known, or 0.
        column: Column of classes, or of several labels in one cell.
        classes: Class -> cells that mean it, in order (multiclass, ordinal).
        positive: Name of the label -> cells that are 1 (binary).
        negative: Cells that are 0 (binary); a cell that is neither is refused.
        item: Regular expression that finds one label in a cell of several (multilabel).
        items: Label -> items that mean it (multilabel).
        none: Items that mean that none of the labels is there, or that say nothing of them.
        names: Names of what masks show (segmentation).
    """

    flags: dict[str, str] = {}
    values: dict[Text, int | None] = {}
    blank: Literal["unknown", "negative"] = "unknown"
    column: str | None = None
    classes: dict[Text, Texts] = {}
    positive: dict[str, Texts] = {}
    negative: Texts = ()
    item: Pattern | None = None
    items: dict[str, Texts] = {}
    none: Texts = ()
    names: Texts = ()

    @field_validator("flags", "items", mode="before")
    @classmethod
    def _themselves(cls, value: Any) -> Any:
        return {name: name for name in value} if isinstance(value, list) else value

    @field_validator("values", "classes", mode="before")
    @classmethod
    def _text_keys(cls, value: Any) -> Any:
        if isinstance(value, list):
            return {_as_text(v): v for v in value}
        return {_as_text(k): v for k, v in value.items()} if isinstance(value, dict) else value
