"""What a column map may say: how the tables and files of a data set become a manifest. docs/datasets.md explains it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from search_spaces.models import StrictModel
from search_spaces.names import Kind, Split
from trainables.importers.map_parts import (
    Cell,
    CombineSpec,
    DeriveSpec,
    ImageSpec,
    JoinSpec,
    LabelSpec,
    Mask,
    TableSpec,
    Texts,
)
from trainables.pixels import Colour


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, dict) else value


class ExpectedCounts(StrictModel):
    """What the whole release holds. Leave out what is not known for certain.

    Attributes:
        images: Rows of the manifest.
        patients: Different patients (or what ``grouping`` says).
        splits: Split -> images.
        labels: Label -> positive images in all splits.
        split_labels: Split -> label -> positive images.
    """

    images: int | None = Field(default=None, gt=0)
    patients: int | None = Field(default=None, gt=0)
    splits: dict[Split, int] = {}
    labels: dict[str, int] = {}
    split_labels: dict[Split, dict[str, int]] = {}

    def flat(self) -> dict[str, int]:
        """As ``Manifest.expected`` has it."""
        counts = {"images": self.images, "patients": self.patients}
        counts |= {f"split.{split.value}": count for split, count in self.splits.items()}
        counts |= {f"label.{label}": count for label, count in self.labels.items()}
        for split, labels in self.split_labels.items():
            counts |= {f"label.{label}.{split.value}": count for label, count in labels.items()}
        return {name: count for name, count in counts.items() if count is not None}


class NpzSet(StrictModel):
    """One set of a release that is one npz file per set.

    Attributes:
        title: Its name and what it shows.
        kind: What one label is.
        classes: Names of the labels 0..n-1, or of the columns of a multilabel set.
        positive: The class that is 1 in a binary task; the last one if not given.
        notes: What a reader of results must know.
        expected: What each version of the file holds, the newest first.
    """

    title: str
    kind: Kind
    classes: Texts
    positive: str | None = None
    notes: tuple[str, ...] = ()
    expected: Annotated[tuple[ExpectedCounts, ...], BeforeValidator(_listed)] = ()


class About(StrictModel):
    """What a person must know before using a data set.

    Attributes:
        licence: Terms of use, in words.
        obtained: Where it is obtained.
        needs: What must lie in the folder that is imported.
        notes: What a reader of results must know.
        sources: Where the facts of this map were read.
    """

    licence: str
    obtained: str
    needs: str
    notes: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()


class ColumnMap(StrictModel):
    """A whole column map, one variant of it chosen.

    Attributes:
        schema_version: 1 (YAML key ``schema``).
        name: Short name of the data set.
        title: Its full name.
        about: Licence, origin, needs.
        reader: ``table`` reads what the rest of the map says; ``npz`` and ``cifar10`` read those formats.
        sets: Stem of an npz file -> what it holds.
        kind: What one label is.
        tables: Name -> table. The first holds the rows.
        joins: Columns of the other tables, one join after the other.
        derive: New columns, one after the other, each as soon as the columns it is made of are there: keys for the
            joins before them, others after them; all before rows are chosen.
        where: Column -> cells of rows to keep; others are left out, which is counted and said.
        combine: How several rows of an image become one.
        image: Where images are.
        labels: What the labels are.
        patient: What stays on one side of a split.
        grouping: What the patient column really holds, such as lesion.
        study: Examination.
        site: Hospital or other origin.
        sex: Sex; F, M, female and male stand for themselves.
        age: Age in years; DICOM ages such as 063Y stand for themselves.
        groups: Name -> further columns for subgroups and ``where``.
        split: Official split; without it patients are split at random.
        mask: The masks.
        mask_second: Masks of a second observer.
        valid_area: Masks of the pixels that count.
        window: Centre and width for DICOM files.
        colour: What the images are.
        expected: What the whole release holds.
    """

    schema_version: Literal[1] = Field(alias="schema")
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_]*$")
    title: str
    about: About
    reader: Literal["table", "npz", "cifar10"] = "table"
    sets: dict[str, NpzSet] = {}
    kind: Kind = Kind.MULTICLASS
    tables: dict[str, TableSpec] = {}
    joins: tuple[JoinSpec, ...] = ()
    derive: tuple[DeriveSpec, ...] = ()
    where: dict[str, Texts] = {}
    combine: CombineSpec | None = None
    image: ImageSpec | None = None
    labels: LabelSpec = LabelSpec()
    patient: Cell | None = None
    grouping: str | None = None
    study: Cell | None = None
    site: Cell | None = None
    sex: Cell | None = None
    age: Cell | None = None
    groups: dict[str, Cell] = {}
    split: Cell | None = None
    mask: Mask | None = None
    mask_second: Mask | None = None
    valid_area: Mask | None = None
    window: tuple[float, float] | None = None
    colour: Colour = Colour.AS_STORED
    expected: ExpectedCounts = ExpectedCounts()

    @model_validator(mode="after")
    def _complete(self) -> ColumnMap:
        if self.reader != "table":
            return self
        if not self.tables or self.image is None:
            raise ValueError("a map needs tables and image")
        for join in self.joins:
            if join.table not in self.tables:
                raise ValueError(f"joins: there is no table {join.table!r}; there are {', '.join(self.tables)}")
        self._check_labels()
        return self

    def _check_labels(self) -> None:
        labels = self.labels
        ways = {
            Kind.BINARY: bool(labels.flags) or bool(labels.column and labels.positive),
            Kind.MULTILABEL: bool(labels.flags) or bool(labels.column and labels.item and labels.items),
            Kind.MULTICLASS: bool(labels.flags) or bool(labels.column and labels.classes),
            Kind.ORDINAL: bool(labels.flags) or bool(labels.column and labels.classes),
            Kind.SEGMENTATION: bool(labels.names) and self.mask is not None,
        }
        wanted = {
            Kind.BINARY: "flags, or column with positive and negative",
            Kind.MULTILABEL: "flags, or column with item and items",
            Kind.MULTICLASS: "flags, or column with classes",
            Kind.ORDINAL: "flags, or column with classes",
            Kind.SEGMENTATION: "names, and the map a mask",
        }
        if not ways[self.kind]:
            raise ValueError(f"labels of a {self.kind} data set need {wanted[self.kind]}")
        if self.kind is Kind.BINARY and max(len(labels.flags), len(labels.positive)) > 1:
            raise ValueError("a binary data set has one label")
