"""Rows of an imported task that cannot be used, taken out of its manifest and listed."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

from search_spaces.exceptions import UserError
from trainables.library import TaskLibrary
from trainables.manifest import Manifest
from trainables.row_checks import named, read_rows
from trainables.row_problems import counted, in_words, write_quarantine


def set_rows_aside(library: TaskLibrary, name: str, file: Path) -> Manifest:
    """Read every image and mask, take the rows out that cannot be used, and list them with their reasons.

    Args:
        library: Where the task is.
        name: Name of the task, not the folder of a manifest: the home may have another task of the manifest's name.
        file: The list (CSV); written even when nothing is wrong.

    Returns:
        The manifest as it is now.

    Raises:
        UserError: No such task, a folder instead of one, no row is left, or a file cannot be written.
    """
    manifest = library.load(name)
    if name not in library.names():
        raise UserError(
            f"{name} is the folder of a manifest, whose rows are not set aside; "
            f"import it as a task first, or give the name of one of: {', '.join(library.names()) or 'none yet'}"
        )
    problems = read_rows(manifest).problems
    write_quarantine(file, named(manifest, problems))
    if not problems:
        return manifest
    counts = counted(problems)
    bad = sorted({p.row for p in problems})
    if len(bad) == len(manifest):
        raise UserError(f"no row of task {manifest.name!r} can be used; the reasons are in {file}")
    note = f"{len(bad)} of {len(manifest)} rows are set aside ({in_words(counts)}); list: {file}"
    smaller = replace(
        manifest,
        table=manifest.table.drop(index=bad).reset_index(drop=True),
        set_aside=dict(Counter(manifest.set_aside) + Counter(counts)),
        notes=(*manifest.notes, note),
    )
    return library.save(smaller, overwrite=True)
