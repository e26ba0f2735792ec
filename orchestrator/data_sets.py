"""Which importer reads what a user names, and what is printed of the data sets that are known by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from search_spaces.exceptions import UserError, unknown
from trainables.importers import (
    ImportOptions,
    import_cifar10,
    import_csv,
    import_folder,
    import_map,
    import_medmnist,
    import_npz,
    shipped_map,
    shipped_names,
    user_map,
)
from trainables.importers.catalogue import variants
from trainables.importers.column_map import ColumnMap
from trainables.importers.options import NO_COLUMN, Tell
from trainables.manifest import Manifest
from trainables.places import place

if TYPE_CHECKING:
    from trainables.places import Place

_FORMATS: dict[str, Callable[[Place, ImportOptions, Tell], Manifest]] = {
    "csv": import_csv,
    "folder": import_folder,
    "npz": import_npz,
}
_MAP = "map"
_BLANK_VARIANT = "blank_negative"

_COMMON = ("name", "derived", "quarantine", "all_problems", "unopened", "colour", "split", "split_seed")
_LABELS = ("kind", "classes", "positive", "label_name")
_IMAGE_FILES = ("bit_depth", "window", "patient_pattern", "grouping")

_HEEDED: Mapping[str, frozenset[str]] = {
    "csv": frozenset(field.name for field in fields(ImportOptions)),
    "folder": frozenset((*_COMMON, *_LABELS, *_IMAGE_FILES)),
    "npz": frozenset((*_COMMON, *_LABELS, "blank_labels", "bit_depth")),
    "table": frozenset((*_COMMON, *_IMAGE_FILES)),
    "cifar10": frozenset(_COMMON),
}
"""Format, or reader of a column map -> the options that change what it imports."""

_SAYS = {
    "folder": "its folders say what classes and splits there are (for columns of a table use the format csv)",
    "npz": "its arrays say where everything is",
    "table": "its column map says where everything is",
    "cifar10": "its column map says where everything is",
}


def importer(layout: str, paths: list[str], variant: str | None, options: ImportOptions) -> Callable[[Tell], Manifest]:
    """What makes the manifest.

    Raises:
        UserError: Paths or options do not fit the format.
    """
    if layout not in (*_FORMATS, _MAP, *shipped_names()):
        known = (*_FORMATS, _MAP, *shipped_names())
        raise typer.BadParameter(unknown("format or data set", layout, known), param_hint="FORMAT")
    wanted = 2 if layout == _MAP else 1
    if len(paths) != wanted:
        what = "the column map and the data set's folder" if layout == _MAP else "one path"
        raise UserError(f"import {layout} needs {what}, got {len(paths)}: {', '.join(paths)}")
    found = place(paths[-1])
    if layout in _FORMATS:
        if variant is not None:
            raise UserError(f"--variant is of known data sets (tasks list --available), not of {layout}")
        _refuse_unheeded(layout, layout, options)
        return lambda tell: _FORMATS[layout](found, options, tell)
    column_map = user_map(Path(paths[0]), variant) if layout == _MAP else shipped_map(layout, variant)
    _refuse_unheeded(layout, column_map.reader, options)
    if column_map.reader == "npz":
        return lambda tell: import_medmnist(column_map, found, options, tell)
    if column_map.reader == "cifar10":
        if not isinstance(found, Path):
            raise UserError(f"{layout} is read from a folder of this machine, not from {found}")
        return lambda tell: import_cifar10(column_map, found, options, tell)
    return lambda tell: import_map(column_map, found, options, tell)


def _refuse_unheeded(layout: str, reader: str, options: ImportOptions) -> None:
    """Options that would change nothing; a split may be left for one that is drawn here, whatever the format."""
    given = {f.name for f in fields(options) if f.name not in _HEEDED[reader] and getattr(options, f.name) != f.default}
    if options.split_column == NO_COLUMN:
        given -= {"split_column"}
    if given:
        flags = ", ".join(f"--{field.replace('_', '-')}" for field in sorted(given))
        hint = _blank_hint(layout) if reader == "table" and "blank_labels" in given else ""
        raise UserError(
            f"{flags} do not apply to {layout}: {_SAYS[reader]}; --split-column none alone is allowed, and the split "
            f"is drawn by patient{hint}"
        )


def _blank_hint(layout: str) -> str:
    """How blanks become negatives where a column map says what a blank is."""
    has_variant = layout in shipped_names() and _BLANK_VARIANT in variants(layout)
    way = f"--variant {_BLANK_VARIANT}" if has_variant else "labels.blank: negative in a column map of your own"
    return f". For blanks that are negative: {way}, or in training alone blank: zero in the study's task"


def available_hint() -> str:
    """Where to read what the data sets are that can be imported by name."""
    return (
        f"{len(shipped_names())} data sets can be imported by name: python -m orchestrator.tasks list --available says "
        "what each needs, where it is obtained, its licence and the counts to expect"
    )


def print_known(console: Console) -> None:
    """A line per data set that can be imported by name."""
    table = Table("data set", "images", "title")
    for name in shipped_names():
        column_map = shipped_map(name)
        images = column_map.expected.images
        table.add_row(escape(name), "" if images is None else str(images), escape(column_map.title))
    console.print(table)


def print_available(console: Console) -> None:
    """Name, title, needs, origin, licence, counts and variants of every data set."""
    for name in shipped_names():
        column_map = shipped_map(name)
        console.print(f"[bold]{escape(name)}[/bold]  {escape(column_map.title)}", highlight=False)
        facts = Table.grid(padding=(0, 2))
        for key, value in _facts(column_map, variants(name)).items():
            facts.add_row(key, escape(value))
        console.print(Padding(facts, (0, 0, 1, 2)), highlight=False)
    console.print(
        "Import one with: python -m orchestrator.tasks import DATA_SET PATH --name NAME [--variant VARIANT]. "
        "A data set that is not here: docs/datasets.md",
        highlight=False,
    )


def _facts(column_map: ColumnMap, changed: dict[str, str]) -> dict[str, str]:
    about = column_map.about
    facts = {"kind": column_map.kind.value} if column_map.reader != "npz" else {}
    facts |= {"needs": about.needs, "obtained": about.obtained, "licence": about.licence}
    if counts := column_map.expected.flat():
        facts["counts"] = _counts_in_words(counts)
    if column_map.sets:
        facts["sets"] = "\n".join(
            f"{name}: {held.title} ({held.kind}, {' or '.join(_counts_in_words(e.flat()) for e in held.expected)})"
            for name, held in column_map.sets.items()
        )
    if about.notes:
        facts["notes"] = "\n".join(about.notes)
    if changed:
        facts["variants"] = "\n".join(_variant_in_words(column_map, *variant) for variant in changed.items())
    return facts


def _variant_in_words(column_map: ColumnMap, variant: str, title: str) -> str:
    """A variant with its counts where they are not those of the whole."""
    counts = shipped_map(column_map.name, variant).expected.flat()
    own = f" ({_counts_in_words(counts)})" if counts and counts != column_map.expected.flat() else ""
    return f"{variant}: {title}{own}"


def _counts_in_words(counts: Mapping[str, int]) -> str:
    return ", ".join(
        f"{count} {key.removeprefix('split.').replace('label.', 'with ')}" for key, count in counts.items()
    )
