"""Where the images of a table lie."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from search_spaces.exceptions import DataError
from search_spaces.names import Column
from trainables.importers.assemble import files_under
from trainables.importers.columns import PLACES, BadCellsError
from trainables.importers.options import Tell
from trainables.pixels import IMAGE_SUFFIXES
from trainables.places import below, is_remote, place, stamp
from trainables.row_problems import Reason, RowProblem

if TYPE_CHECKING:
    from trainables.places import Place

_BLANK = "(blank)"
_UNUSUAL_PATH = re.compile(r"\\|//|(?:^|/)\.{1,2}(?:/|$)|./$")
"""Paths that ``posix`` changes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagePaths:
    """Paths of all rows.

    Attributes:
        columns: ``image_id`` and ``path``.
        root: What ``path`` is relative to.
        problems: Rows whose path is not used.
    """

    columns: dict[str, pd.Series[str]]
    root: Place
    problems: tuple[RowProblem, ...]


def image_paths(cells: pd.Series[str], root: Place, unopened: bool, note: Tell) -> ImagePaths:
    """Where the image of every row is.

    Args:
        cells: The user's paths.
        root: The folder that they are relative to, unless all are URLs or absolute paths that lie elsewhere.
        unopened: Whether to take the paths as they are, without a look.
        note: Hears of files that are found elsewhere than the table says.

    Raises:
        BadCellsError: Cells are blank.
    """
    blank = np.flatnonzero(cells.isna())
    if len(blank):
        message = f"image column {cells.name!r} is blank in {PLACES}"
        allowed = "the path of an image"
        raise BadCellsError(message, str(cells.name), blank, allowed, stand_in=_BLANK, reason=Reason.PATH)
    usable = cells != _BLANK
    numbered = pd.Series([f"{_BLANK} {row}" for row in range(len(cells))], index=cells.index, dtype=object)
    ids: pd.Series[Any] = cells.where(usable, numbered)
    if cells[usable].map(is_remote).all():
        # As paths, whose common part ends at a slash; the second slash of s3:// is lost on the way.
        common = os.path.commonpath(list(cells[usable])).replace(":/", "://", 1)
        ids = ids.mask(usable, cells.map(lambda url: str(url)[len(common) + 1 :]))
        return ImagePaths(columns={Column.IMAGE_ID: ids, Column.PATH: ids}, root=place(common), problems=())
    paths = cells[usable].astype("str")
    unusual = paths.str.contains(_UNUSUAL_PATH)
    if unusual.any():
        paths = paths.mask(unusual, paths[unusual].map(posix))
    paths, problems = _of_one_form(paths, str(cells.name), len(cells))
    if Path(str(paths.iat[0])).is_absolute():
        paths, root = _relative(paths, root)
    located = paths if unopened else _located(paths, root, note)
    columns = {Column.IMAGE_ID: _filled_in(ids, paths), Column.PATH: _filled_in(ids, located)}
    return ImagePaths(columns=columns, root=root, problems=tuple(problems))


def posix(path: str) -> str:
    """A path with slashes, without detours."""
    return os.path.normpath(path.replace("\\", "/"))


def _filled_in(ids: pd.Series[str], paths: pd.Series[str]) -> pd.Series[str]:
    return ids.astype(object).where(~ids.index.isin(paths.index), paths.reindex(ids.index)).astype("str")


def _of_one_form(paths: pd.Series[str], column: str, rows: int) -> tuple[pd.Series[str], list[RowProblem]]:
    """The absolute or the relative paths of ``rows`` rows, whichever are more, and the others as problems."""
    absolute = paths.map(os.path.isabs).astype(bool)
    most = bool(absolute.mean() > 0.5)
    one, other = ("absolute", "relative") if most else ("relative", "absolute")
    advice = f"image column {column!r} mixes absolute and relative paths; allowed: {one} ones, as in most of its rows"
    problems = [
        RowProblem(
            row=row,
            reason=Reason.PATH,
            detail=f"column {column!r} has the {other} path {path!r} among {one} ones",
            advice=advice,
        )
        for row, path in enumerate(paths.reindex(range(rows)))
        if isinstance(path, str) and Path(path).is_absolute() != most
    ]
    return paths[absolute == most], problems


def _relative(paths: pd.Series[str], root: Place) -> tuple[pd.Series[str], Place]:
    """Absolute paths as paths under ``root``, or under the folder that they share if one lies elsewhere."""
    folder = str(root)
    if not paths.map(lambda p: Path(p).is_relative_to(folder)).all():
        folder = os.path.commonpath(list(paths.map(os.path.dirname)))
        root = Path(folder)
    return paths.map(lambda p: Path(p).relative_to(folder).as_posix()), root


def _is_there(file: Place) -> bool:
    try:
        return stamp(file) is not None
    except DataError:
        return False  # such as a name too long for the file system; reported with its row


def _located(paths: pd.Series[str], root: Place, note: Tell) -> pd.Series[str]:
    """Paths of the files, where the table names them without their suffix or without their subfolder.

    A path with folders means that folder: it is found elsewhere only if all rows have moved alike. Others stay as they
    are and are reported as missing.
    """
    if _is_there(root / str(paths.iat[0])):
        return paths
    bare = not paths.map(lambda p: Path(p).suffix.lower() in IMAGE_SUFFIXES).any()
    files = [below(image, root) for image in files_under(root)[0]]
    keys = [str(Path(file).with_suffix("")) if bare else file for file in files]
    there = paths.map(_unique(zip(keys, files, strict=True)).get)
    by_name = _unique(zip((Path(key).name for key in keys), files, strict=True))
    moved = paths.map(lambda path: by_name.get(Path(path).name))
    if not paths.str.contains("/", regex=False).any():
        found = there.where(there.notna(), moved)
    elif there.isna().all() and moved.notna().all() and len(set(map(_move, paths, moved))) == 1:
        found = moved
    else:
        found = there
    if found.isna().all():
        return paths
    first = found.first_valid_index()
    note(f"image: {found.notna().sum()} files found by name, such as {found.at[first]} for {paths.at[first]}")
    return found.where(found.notna(), paths)


def _unique(files: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Name -> file, without names that several files have."""
    known: dict[str, str] = {}
    ambiguous: set[str] = set()
    for name, file in files:
        ambiguous |= {name} & known.keys()
        known[name] = file
    return {name: file for name, file in known.items() if name not in ambiguous}


def _move(given: str, found: Any) -> tuple[str, str]:
    """The folders that differ, without those that both paths end with."""
    before, after = given.split("/")[:-1], str(found).split("/")[:-1]
    while before and after and before[-1] == after[-1]:
        before.pop()
        after.pop()
    return "/".join(before), "/".join(after)
