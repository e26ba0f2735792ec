"""What an importer hands over: rows and labels, before patients and splits are settled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from trainables.importers.labels import Labels
from trainables.row_problems import RowProblem, SetAside

if TYPE_CHECKING:
    from trainables.places import Place


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What an importer read, before patients and splits are settled.

    Attributes:
        rows: ``image_id`` and ``path``, and whatever else of the manifest's columns is known.
        labels: Labels of the same rows.
        root: Folder or URL of the images.
        importer: Name of the importer.
        where: Where each row stands in what was read, such as ``line 7``; ``row 5`` if not given.
        problems: Rows whose cells are not what they must be; row numbers are positions in ``rows``.
        mask_root: Folder of the masks, if not that of the images.
        expected: See ``Manifest.expected``.
        notes: What was left blank or out on reading.
        left_blank: Rows that stay with a cell left blank.
        misfits: Rows of the table that are not in ``rows``, as their cells do not fit its header.
    """

    rows: pd.DataFrame
    labels: Labels
    root: Place
    importer: str
    where: pd.Series[Any] | None = None
    problems: tuple[RowProblem, ...] = ()
    mask_root: Place | None = None
    expected: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    left_blank: tuple[RowProblem, ...] = ()
    misfits: tuple[SetAside, ...] = ()

    def place_of(self, row: int) -> str:
        """Where a row stands in what was read."""
        return f"row {row}" if self.where is None else str(self.where.iat[row])

    def without(self, rows: set[int]) -> Found:
        """The same without some rows, without their problems and without misfits."""
        keep = ~np.isin(np.arange(len(self.rows)), list(rows))
        position = np.cumsum(keep) - 1
        return replace(
            self,
            rows=self.rows[keep].reset_index(drop=True),
            labels=replace(self.labels, columns=self.labels.columns[keep].reset_index(drop=True)),
            where=None if self.where is None else self.where[keep].reset_index(drop=True),
            problems=(),
            misfits=(),
            left_blank=tuple(replace(p, row=int(position[p.row])) for p in self.left_blank if keep[p.row]),
        )
