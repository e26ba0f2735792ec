"""Rows of an imported task that cannot be used, taken out of its manifest and listed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from search_spaces.exceptions import UserError
from search_spaces.names import Column
from trainables.library import TaskLibrary
from trainables.manifest import Manifest
from trainables.row_checks import named, read_rows
from trainables.row_problems import (
    BLANK_AGES_NOTE,
    OLDEST_YEARS,
    SHOWN_PROBLEMS,
    RowProblem,
    blank_ages,
    counted,
    in_words,
    refuse_other_file,
    write_quarantine,
)


def set_rows_aside(library: TaskLibrary, name: str, file: Path) -> Manifest:
    """Read every image and mask, take the rows out that cannot be used, and list them with their reasons.

    Rows with an impossible age stay, without it, and are listed.

    Args:
        library: Where the task is.
        name: Name of the task, not the folder of a manifest: the home may have another task of the manifest's name.
        file: The list (CSV); written even when nothing is wrong. What an earlier list has stays: the import may have
            listed rows there that the task no longer has.

    Returns:
        The manifest as it is now.

    Raises:
        UserError: No such task, a folder instead of one, no row is left, or the list is another file or cannot be
            written.
    """
    refuse_other_file(file)
    manifest = library.load(name)
    if name not in library.names():
        raise UserError(
            f"{name} is the folder of a manifest, whose rows are not set aside; "
            f"import it as a task first, or give the name of one of: {', '.join(library.names()) or 'none yet'}"
        )
    problems = read_rows(manifest).problems
    bad = sorted({p.row for p in problems})
    ages = _ages_left_blank(manifest, bad)
    write_quarantine(file, named(manifest, [*problems, *ages]), keep=True)
    if len(bad) == len(manifest):
        raise UserError(f"no row of task {manifest.name!r} can be used; the reasons are in {file}")
    if not bad and not ages:
        return manifest
    notes, table = list(manifest.notes), manifest.table
    if ages:
        years = table[Column.AGE_YEARS].copy()
        years.iloc[[p.row for p in ages]] = float("nan")
        table = table.assign(**{Column.AGE_YEARS: years})
        notes.append(f"{BLANK_AGES_NOTE} {_ages_in_words(manifest, ages)}; list: {file}")
    counts = counted(problems)
    if bad:
        notes.append(f"{len(bad)} of {len(manifest)} rows are set aside ({in_words(counts)}); list: {file}")
    smaller = replace(
        manifest,
        table=table.drop(index=bad).reset_index(drop=True),
        set_aside=dict(Counter(manifest.set_aside) + Counter(counts)),
        left_blank=dict(Counter(manifest.left_blank) + Counter(counted(ages))),
        notes=tuple(notes),
    )
    return library.save(smaller, overwrite=True)


def _ages_in_words(manifest: Manifest, ages: Sequence[RowProblem]) -> str:
    ids = manifest.table[Column.IMAGE_ID].astype(str)
    shown = ", ".join(str(ids.iat[p.row]) for p in ages[:SHOWN_PROBLEMS])
    more = ", ..." if len(ages) > SHOWN_PROBLEMS else ""
    return f"{len(ages)} ages outside 0 to {OLDEST_YEARS:g} years are left blank (images {shown}{more})"


def _ages_left_blank(manifest: Manifest, bad: Sequence[int]) -> list[RowProblem]:
    """Impossible ages of rows that stay."""
    if Column.AGE_YEARS not in manifest.table:
        return []
    years = manifest.table[Column.AGE_YEARS]
    return [p for p in blank_ages(years, years, Column.AGE_YEARS) if p.row not in set(bad)]
