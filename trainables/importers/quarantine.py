"""Rows that cannot be used: refused, or set aside and listed if the user said so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from search_spaces.exceptions import DataError, UserError
from search_spaces.names import Column, Kind
from trainables.importers.found import Found
from trainables.manifest import MASK_COLUMNS
from trainables.pixels import image_size, refuse_cut_short, shown_size
from trainables.places import READERS
from trainables.row_checks import mask_size, of_mask, reason_of
from trainables.row_problems import (
    SHOWN_PROBLEMS,
    Reason,
    RowProblem,
    SetAside,
    counted,
    in_words,
    refusal,
    refuse_other_file,
    write_quarantine,
)

if TYPE_CHECKING:
    from trainables.dicom import Window
    from trainables.places import Place

    _Attempt = Callable[[Place, Any], tuple[int, int] | DataError]


_OF_CELLS = frozenset(
    {Reason.VALUE, Reason.REPEATED, Reason.PATH, Reason.CELLS, Reason.PATIENT, Reason.NO_MASK, Reason.JOIN}
)
"""Reasons that no file has a part in."""


class Quarantine:
    """Where unusable rows go: nowhere, which refuses the import, or to a list.

    Args:
        file: The list; None refuses.
        most: Problems that a refusal lists; None for all.

    Raises:
        UserError: The list would replace a file that is none.
    """

    def __init__(self, file: Path | None, most: int | None = SHOWN_PROBLEMS) -> None:
        if file is not None:
            refuse_other_file(file)
        self.file, self.most = file, most
        self._aside: list[SetAside] = []
        self._left_blank: list[SetAside] = []

    def usable(self, found: Found, problems: Sequence[RowProblem]) -> Found:
        """What was found, without the rows that have problems.

        Raises:
            UserError: There are problems of values or ids only, and no list to put rows on; or no row is left.
            DataError: There are problems of files, and no list.
        """
        if not problems and not found.misfits:
            return found
        named = [*found.misfits, *_named(found, sorted(problems, key=lambda p: p.row))]
        if self.file is None:
            of_cells = all(p.reason in _OF_CELLS for p in problems)
            raise (UserError if of_cells else DataError)(
                refusal(named, len(found.rows) + len(found.misfits), self.most)
            )
        self._aside += named
        rows = {p.row for p in problems}
        if len(rows) == len(found.rows):
            self.write()
            raise UserError(f"no row can be used; the reasons are in {self.file}")
        return found.without(rows)

    def list_blank(self, found: Found) -> None:
        """List the rows that stay with a cell left blank, too."""
        self._left_blank = _named(found, found.left_blank)

    @property
    def counts(self) -> dict[str, int]:
        """Reason -> rows set aside."""
        first: dict[str, SetAside] = {}
        for aside in self._aside:
            first.setdefault(aside.where, aside)
        numbered = [RowProblem(row=i, reason=a.problem.reason, detail="") for i, a in enumerate(first.values())]
        return counted(numbered)

    def in_words(self, rows_left: int) -> str:
        """What was set aside, for the manifest's notes."""
        total = sum(self.counts.values())
        return f"{total} of {total + rows_left} rows are set aside ({in_words(self.counts)}); list: {self.file}"

    def write(self) -> None:
        """Write the list, if there is to be one."""
        if self.file is not None:
            write_quarantine(self.file, [*self._aside, *self._left_blank])


def _named(found: Found, problems: Sequence[RowProblem]) -> list[SetAside]:
    return [
        SetAside(
            where=found.place_of(p.row),
            image_id=str(found.rows[Column.IMAGE_ID].iat[p.row]),
            path=str(found.rows[Column.PATH].iat[p.row]),
            problem=p,
        )
        for p in problems
    ]


def repeated_images(found: Found) -> list[RowProblem]:
    """Rows whose image stands in another row, too; of equal rows all but the first."""
    ids = found.rows[Column.IMAGE_ID]
    repeated = ids.duplicated(keep=False)
    if not repeated.any():
        return []
    whole = pd.concat([found.rows, found.labels.columns], axis=1)[repeated.to_numpy(dtype=bool)]
    equal = whole.astype(str).groupby(Column.IMAGE_ID, sort=False).transform("nunique").le(1).all(axis="columns")
    later = whole.duplicated(subset=[Column.IMAGE_ID])
    advice = (
        "A manifest has one row per image: several labels are joined with a separator (--label-separator), several "
        "frames of a file are told apart by --frame-column"
    )
    return [
        RowProblem(
            row=int(row),
            reason=Reason.REPEATED,
            detail=f"image {ids.iat[row]!r} stands in more than one row"
            + (", with the same content" if equal.loc[row] else ", with different content"),
            advice=advice,
        )
        for row in whole.index
        if not equal.loc[row] or later.loc[row]
    ]


def repeated_ids(rows: pd.DataFrame, ids: pd.Series[str], column: str) -> list[RowProblem]:
    """Rows whose id of the image, in a column of its own beside the paths, stands for another file, too.

    The frames of one file may share its id; a file that stands in several rows is left to ``repeated_images``.

    Args:
        rows: The manifest's columns so far.
        ids: The user's ids, None where blank, one per row of ``rows``.
        column: Name of the user's column, for messages.
    """
    files = rows[Column.PATH].groupby(ids, sort=False).transform("nunique")  # NaN where the id is blank
    advice = (
        f"If {column!r} means something else than one image, such as an examination, rename the column or name its "
        "role (--study-column, --group-columns)"
    )
    problems = []
    for row in np.flatnonzero(files.gt(1).to_numpy(dtype=bool)).tolist():
        path = rows[Column.PATH].iat[row]
        detail = f"image {path!r} has the {column} {ids.iat[row]!r}, which {files.iat[row]:.0f} images have"
        problems.append(RowProblem(row=row, reason=Reason.REPEATED, detail=detail, advice=advice))
    return problems


def blank_masks(found: Found) -> list[RowProblem]:
    """Rows of a segmentation task without a mask, unless they have a problem already."""
    if found.labels.kind is not Kind.SEGMENTATION or Column.MASK not in found.rows:
        return []
    known = {p.row for p in found.problems}
    advice = (
        "An image that shows none of the labels needs a mask of zeros; one without a mask teaches and scores nothing"
    )
    return [
        RowProblem(
            row=row,
            reason=Reason.NO_MASK,
            detail=f"image {found.rows[Column.PATH].iat[row]} has no mask",
            advice=advice,
        )
        for row in np.flatnonzero(found.rows[Column.MASK].isna()).tolist()
        if row not in known
    ]


def header_problems(found: Found, window: Window | None = None) -> tuple[pd.DataFrame, list[RowProblem]]:
    """Width and height of every image from its header, and files that are missing, unreadable or do not fit.

    Args:
        found: What an importer read.
        window: Centre and width for DICOM files; their own if not given.

    Returns:
        Columns ``width`` and ``height`` in pixels (null where unknown), one row per row of ``found``; and problems.
    """
    rows = found.rows
    frames = rows[Column.FRAME].tolist() if Column.FRAME in rows else [None] * len(rows)
    files = [found.root / path for path in rows[Column.PATH]]
    sizes, problems = _sizes(files, frames, partial(_attempt, partial(shown_size, window=window)), mask=False)
    problems = [replace(p, advice=_where_looked(found)) if p.reason is Reason.IMAGE_MISSING else p for p in problems]
    for column in (c for c in MASK_COLUMNS if c in rows):
        problems += _mask_problems(found, column, sizes)
    width, height = ([None if s is None else s[i] for s in sizes] for i in (0, 1))
    table = pd.DataFrame(
        {Column.WIDTH: pd.array(width, dtype="Int32"), Column.HEIGHT: pd.array(height, dtype="Int32")}, rows.index
    )
    return table, problems


def _where_looked(found: Found) -> str:
    return f"Paths of images are relative to {found.root}; --image-root gives another folder"


def _mask_problems(found: Found, column: str, sizes: Sequence[tuple[int, int] | None]) -> list[RowProblem]:
    paths = found.rows[column]
    positions = np.flatnonzero(paths.notna()).tolist()
    root = found.mask_root or found.root
    files = [root / str(paths.iat[r]) for r in positions]
    mask_sizes, problems = _sizes(files, [None] * len(positions), partial(_attempt, image_size), mask=True)
    problems = [RowProblem(row=positions[p.row], reason=p.reason, detail=p.detail) for p in problems]
    for row, size in zip(positions, mask_sizes, strict=True):
        image = sizes[row]
        if size is not None and image is not None and size != image:
            text = mask_size(str(paths.iat[row]), str(found.rows[Column.PATH].iat[row]), size[::-1], image[::-1])
            problems.append(RowProblem(row=row, reason=Reason.MASK_SIZE, detail=text))
    return problems


def _sizes(
    files: Sequence[Place], frames: Sequence[Any], attempt: _Attempt, mask: bool
) -> tuple[list[tuple[int, int] | None], list[RowProblem]]:
    """Width and height of every file; None and a problem where there is none."""
    problems: list[RowProblem] = []
    sizes: list[tuple[int, int] | None] = []
    with ThreadPoolExecutor(READERS) as pool:
        for row, size in enumerate(pool.map(attempt, files, frames)):
            if isinstance(size, DataError):
                text = of_mask(size) if mask else str(size)
                problems.append(RowProblem(row=row, reason=reason_of(size, mask), detail=text))
                sizes.append(None)
            else:
                sizes.append(size)
    return sizes, problems


def _attempt(
    size_of: Callable[[Place, int | None], tuple[int, int]], file: Place, frame: Any
) -> tuple[int, int] | DataError:
    known = None if pd.isna(frame) else int(frame)
    try:
        size = size_of(file, known)
        refuse_cut_short(file, known)
        return size
    except DataError as error:
        return error
