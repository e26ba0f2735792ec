"""Command line for data sets: ``python -m orchestrator.tasks import|list|show|check|cache``."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from orchestrator.data_sets import available_hint, importer, print_available, print_known
from orchestrator.import_options import ImportFlags
from orchestrator.options import spread
from orchestrator.terminal import make_console, user_errors
from search_spaces.home import scalecurves_home
from search_spaces.names import Column, Split
from trainables.checks import CheckReport, check_task
from trainables.contact_sheet import write_contact_sheet
from trainables.duplicates import without_duplicates
from trainables.importers.derived_masks import forget_unused
from trainables.label_checks import import_warnings, label_counts
from trainables.library import IMPORT_HINT, TaskLibrary
from trainables.manifest import Manifest, group_column, group_names
from trainables.row_problems import refuse_other_file
from trainables.set_aside import set_rows_aside
from trainables.store_cache import (
    STORES,
    CachedStore,
    cached_stores,
    damaged_shards,
    delete_store,
    evict,
    parse_size,
    use_of,
)
from trainables.store_use import Use

app = typer.Typer(
    name="tasks",
    help="Import data sets as tasks, look at them, check them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
_DERIVED = "files"
_MOST_GROUP_VALUES = 12
_MOST_PROBLEMS = 100
_SECONDS_PER_DAY = 86400.0


@app.command("import")
@spread("flags", ImportFlags)
def import_(
    layout: Annotated[
        str,
        typer.Argument(
            metavar="FORMAT",
            help="csv (a table), folder (one subfolder per class), npz (MedMNIST), the name of a data set that is "
            "known (tasks list --available), or map (then the column map comes before the path).",
        ),
    ],
    paths: Annotated[
        list[str],
        typer.Argument(metavar="PATH", help="The table, folder or npz file, or a URL. Images stay where they are."),
    ],
    flags: ImportFlags,
    variant: Annotated[str | None, typer.Option(help="Which variant of a known data set.")] = None,
    drop_duplicates: Annotated[
        bool, typer.Option("--drop-duplicates", help="Mark all but one of identical images as unused (reads all).")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a task of that name.")] = False,
) -> None:
    """Make a task of a data set: find its columns, labels, patients and splits, and write its manifest."""
    console = make_console()
    with user_errors():
        if flags.quarantine is not None:
            refuse_other_file(flags.quarantine, paths)
        library = TaskLibrary(scalecurves_home())
        folder = library.folder(flags.name)  # an impossible name is refused before the work
        read = importer(layout, paths, variant, flags.options(folder / _DERIVED))
        manifest = read(lambda line: console.print(f"  {escape(line)}", highlight=False))
        if drop_duplicates:
            manifest = without_duplicates(manifest, library.byte_digests(manifest))
        manifest = library.save(manifest, overwrite=overwrite)
        forget_unused(folder / _DERIVED, manifest)
        _print_manifest(manifest, console)
        for warning in import_warnings(manifest):
            console.print(f"  [yellow]warning[/yellow]: {escape(warning)}", highlight=False)
        name = escape(flags.name)
        console.print(f"Imported as {name}. Next: python -m orchestrator.tasks check {name}")


@app.command("list")
def list_(
    available: Annotated[
        bool, typer.Option("--available", help="Data sets that can be imported by name: what each needs and holds.")
    ] = False,
) -> None:
    """All imported tasks, and how to see what can be imported by name."""
    console = make_console()
    with user_errors():
        if available:
            print_available(console)
            return
        library = TaskLibrary(scalecurves_home())
        table = Table("task", "kind", "labels", "images", "patients", "train", "val", "test", "external")
        for name in library.names():
            table.add_row(*_summary(library.load(name)))
        if table.row_count:
            console.print(table)
        else:
            console.print(f"No tasks in {escape(str(library.home))}. {IMPORT_HINT}", highlight=False)
            print_known(console)
        console.print(available_hint(), highlight=False)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="Name of a task, or folder of a manifest.")],
    contact_sheet: Annotated[
        Path | None,
        typer.Option("--contact-sheet", metavar="FILE", help="Also write a picture: some images of each split."),
    ] = None,
) -> None:
    """One task: labels with counts per split, patients, sites, groups."""
    console = make_console()
    with user_errors():
        manifest = TaskLibrary(scalecurves_home()).load(name)
        _print_manifest(manifest, console)
        if contact_sheet is not None:
            count = write_contact_sheet(manifest, contact_sheet)
            console.print(f"  {count} images in {escape(str(contact_sheet))}, patients' data", highlight=False)


@app.command()
def check(
    name: Annotated[str, typer.Argument(help="Name of a task, or folder of a manifest.")],
    quarantine: Annotated[
        Path | None,
        typer.Option(help="Take rows that cannot be used out of the task, and add them to this list (CSV)."),
    ] = None,
    all_problems: Annotated[
        bool, typer.Option("--all", help=f"Print all problems, not only the first {_MOST_PROBLEMS}.")
    ] = False,
) -> None:
    """Read every image of a task and list everything that is wrong; exit code 1 if anything must be put right."""
    console = make_console()
    with user_errors():
        library = TaskLibrary(scalecurves_home())
        if quarantine is not None:
            manifest = set_rows_aside(library, name, quarantine)
            console.print(f"{len(manifest)} rows stay; set aside: see {escape(str(quarantine))}", highlight=False)
        report = check_task(library, name)
    _print_report(name, report, None if all_problems else _MOST_PROBLEMS, console)
    if report.errors:
        raise typer.Exit(1)


@app.command()
def cache(
    prune: Annotated[
        float | None, typer.Option(metavar="DAYS", min=0, help="Delete stores not used for so many days.")
    ] = None,
    limit: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE", help="Delete those not used for longest until the rest takes at most 50GB, 80GiB."
        ),
    ] = None,
    without_locks: Annotated[
        bool,
        typer.Option(
            "--without-locks",
            help="Delete also where the file system has no locks, so that nobody can tell what is in use. Only when "
            "nothing runs.",
        ),
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read every byte and compare with the checksums; exit code 1 if damaged.")
    ] = False,
) -> None:
    """Image stores with their sizes. They are made again when needed, so deleting them loses nothing but time.

    What is in use stays. SCALECURVES_CACHE_LIMIT is the limit that is kept whenever a store is built.
    """
    console = make_console()
    with user_errors():
        home = scalecurves_home()
        stores, now = cached_stores(home), time.time()
        fate = {store.path: _fate(store, verify) for store in stores}
        for store in stores:
            if prune is not None and (now - store.last_used_s) / _SECONDS_PER_DAY >= prune:
                fate[store.path] = "deleted" if delete_store(store, without_locks) else _kept(store)
        if limit is not None:
            gone = evict(home, parse_size(limit, "--limit"), without_locks=without_locks)
            fate |= {store.path: "deleted" for store in gone}
            left = [store for store in stores if store not in gone and use_of(store) is not Use.FREE]
            fate |= {store.path: _kept(store) for store in left}
        _print_stores(stores, fate, now, home / STORES, console)
    if any(text.startswith("damaged") for text in fate.values()):
        raise typer.Exit(1)


def _fate(store: CachedStore, verify: bool) -> str:
    if not store.is_finished:
        return "unfinished" if store.path.is_dir() else "of an earlier version"
    if not verify:
        return ""
    damaged = damaged_shards(store.path)
    return f"damaged: {', '.join(damaged)}" if damaged else "whole"


def _kept(store: CachedStore) -> str:
    return "not known whether in use: no file locks (--without-locks)" if use_of(store) is Use.UNKNOWN else "in use"


def _print_stores(
    stores: Sequence[CachedStore], fate: Mapping[Path, str], now: float, folder: Path, console: Console
) -> None:
    table = Table("store", "MiB", "last used, days ago", "")
    for store in stores:
        idle_days = (now - store.last_used_s) / _SECONDS_PER_DAY
        table.add_row(store.path.name, f"{store.size_bytes / 2**20:.1f}", f"{idle_days:.1f}", fate[store.path])
    console.print(table if stores else f"No image stores in {escape(str(folder))}.")
    console.print(f"{sum(s.size_bytes for s in stores) / 2**20:.1f} MiB in {len(stores)} stores", highlight=False)


def _summary(manifest: Manifest) -> list[str]:
    counts = manifest.table[Column.SPLIT].value_counts()
    patients = str(manifest.table[Column.PATIENT_ID].nunique()) if manifest.patients_known else "not known"
    splits = [str(counts.get(s.value, 0)) for s in (Split.TRAIN, Split.VAL, Split.TEST, Split.EXTERNAL)]
    return [manifest.name, manifest.kind, str(len(manifest.labels)), str(len(manifest)), patients, *splits]


def _print_manifest(manifest: Manifest, console: Console) -> None:
    table = manifest.table
    console.print(f"[bold]{escape(manifest.name)}[/bold]  {manifest.kind}, {len(table)} images", highlight=False)
    console.print(f"  images in {escape(str(manifest.root))} (importer {manifest.importer})", highlight=False)
    if manifest.patients_known:
        console.print(f"  {table[Column.PATIENT_ID].nunique()} {escape(manifest.grouping)}s", highlight=False)
    for note in manifest.notes:
        console.print(f"  note: {escape(note)}", highlight=False)
    console.print(_split_table(manifest))
    if manifest.label_columns:
        console.print(_label_table(manifest))
    for name in group_names(table):
        console.print(f"  {escape(name)}: {escape(_group_text(group_column(table, name)))}", highlight=False)


def _split_table(manifest: Manifest) -> Table:
    shown = Table("split", "images", f"{manifest.grouping}s" if manifest.patients_known else "patients")
    for split in Split:
        rows = manifest.table[manifest.table[Column.SPLIT] == split]
        if len(rows):
            patients = str(rows[Column.PATIENT_ID].nunique()) if manifest.patients_known else "not known"
            shown.add_row(split.value, str(len(rows)), patients)
    return shown


def _label_table(manifest: Manifest) -> Table:
    """Positive images per label and split with prevalence, and images of uncertain or unknown label."""
    counts = label_counts(manifest)
    splits = list(dict.fromkeys(c.split for c in counts))
    shown = Table("label", *splits, "uncertain", "unknown")
    for label in manifest.labels:
        own = [c for c in counts if c.label == label]
        cells = [f"{c.positive_images} ({c.prevalence:.1%})" for c in own]
        odd = (sum(c.uncertain_images for c in own), sum(c.unknown_images for c in own))
        shown.add_row(escape(label), *cells, *map(str, odd))
    return shown


def _group_text(values: pd.Series[str]) -> str:
    counts = values.value_counts()
    shown = ", ".join(f"{value} {count}" for value, count in counts.head(_MOST_GROUP_VALUES).items())
    return shown + (f", ... ({len(counts)} values)" if len(counts) > _MOST_GROUP_VALUES else "")


def _print_report(name: str, report: CheckReport, most: int | None, console: Console) -> None:
    facts = Table(title=escape(name), show_header=False)
    for key, value in report.facts.items():
        facts.add_row(escape(key), escape(value))
    console.print(facts)
    problems = [("[red]error[/red]", e) for e in report.errors] + [
        ("[yellow]warning[/yellow]", w) for w in report.warnings
    ]
    if problems:
        table = Table("", "problem")
        for severity, text in problems[:most]:
            table.add_row(severity, escape(text))
        console.print(table)
    if most is not None and len(problems) > most:
        console.print(f"... and {len(problems) - most} more problems (--all shows them)")
    console.print(f"{len(report.errors)} errors, {len(report.warnings)} warnings", highlight=False)


if __name__ == "__main__":
    app()
