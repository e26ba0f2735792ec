"""Import of a data set by a column map: what ``trainables.importers.column_map`` describes, done."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from search_spaces.exceptions import UserError
from search_spaces.names import Column, Split
from trainables.importers.assemble import Found, assemble, files_under
from trainables.importers.column_map import ColumnMap
from trainables.importers.columns import BadCellsError, collecting, once, refuse_absent
from trainables.importers.derived_masks import draw_masks, merge_masks
from trainables.importers.from_csv import ages_left_blank, column_cells, frame_numbers, tell_blank_ages
from trainables.importers.map_labels import map_labels
from trainables.importers.map_parts import CellSpec, DeriveSpec, MaskSpec
from trainables.importers.map_tables import (
    ROW,
    WHERE,
    can_be_derived,
    chosen_rows,
    column_of,
    combined,
    countable,
    derived,
    filled,
    image_numbers,
    joined_rows,
    needed_columns,
    read_tables,
    replaced,
)
from trainables.importers.options import ImportOptions, Tell, silent
from trainables.manifest import Manifest, checked_root
from trainables.pixels import Colour
from trainables.places import below, is_file
from trainables.row_problems import Reason, RowProblem, SetAside

if TYPE_CHECKING:
    from trainables.places import Place

_NOT_FOUND = "(not found)"


def import_map(column_map: ColumnMap, path: Place, options: ImportOptions, tell: Tell = silent) -> Manifest:
    """The manifest of a data set that lies in ``path`` as it was released.

    Args:
        column_map: What is where, and means what.
        path: The data set's folder or URL.
        options: ``split``, ``split_seed``, ``split_column`` (only ``none``), ``quarantine``, ``bit_depth``, ``derived``
            and ``patient_pattern`` apply; what they give in place of the map's own settings is taken.
        tell: Hears what was left out and decided.

    Raises:
        UserError: Files or columns are absent, or cells are none that the map knows.
        DataError: See ``trainables.importers.assemble.assemble``.
    """
    root = checked_root(path)
    notes: list[str] = []

    def note(line: str) -> None:
        notes.append(line)
        tell(line)

    reading = _Reading(column_map, root, options, once(note))
    found = reading.found()
    settings = replace(
        options,
        grouping=options.grouping or column_map.grouping,
        window=options.window or column_map.window,
        colour=column_map.colour if options.colour is Colour.AS_STORED else options.colour,
    )
    manifest = assemble(replace(found, notes=tuple(dict.fromkeys(notes))), settings, tell)
    return replace(manifest, notes=(*column_map.about.notes, *manifest.notes))


class _Reading:
    """Working state of ``import_map``."""

    def __init__(self, column_map: ColumnMap, root: Place, options: ImportOptions, tell: Tell) -> None:
        self._map, self._root, self._options, self._tell = column_map, root, options, tell
        self._problems: list[RowProblem] = []
        self._left_blank: list[RowProblem] = []
        self._misfits: list[SetAside] = []
        self._named: list[pd.Series[Any]] = []

    def found(self) -> Found:
        rows = self._rows()
        table = self._columns(rows)
        labels = collecting(lambda t: map_labels(self._map, t), rows, self._problems, rows[WHERE])
        masks, mask_root = self._masks(rows, table)
        self._tell_unnamed()
        return Found(
            rows=table.assign(**masks),
            labels=labels,
            root=self._root,
            importer=f"map {self._map.name}",
            where=rows[WHERE],
            problems=tuple(self._problems),
            mask_root=mask_root,
            expected=self._map.expected.flat(),
            left_blank=tuple(self._left_blank),
            misfits=tuple(self._misfits),
        )

    def _rows(self) -> pd.DataFrame:
        """One row per image, cells as text."""
        tables = read_tables(self._map, self._root, self._tell, self._misfits)
        first, rows = next(iter(tables.items()))
        later: list[DeriveSpec] = []
        for spec in self._map.derive:
            if can_be_derived(rows, spec):
                rows = collecting(partial(derived, spec=spec), rows, self._problems, rows[WHERE])
            else:
                later.append(spec)
        rows = self._after(rows, lambda t: joined_rows(self._map, {**tables, first: t}, self._tell, self._problems))
        if rows.empty:
            raise UserError(f"{self._root}: the tables of {self._map.title} have no row in common")
        for spec in later:
            rows = collecting(partial(derived, spec=spec), rows, self._problems, rows[WHERE])
        refuse_absent(rows.drop(columns=[WHERE]), {**needed_columns(self._map), **self._absent_roles(rows)})
        self._named += self._files_of(rows)
        rows = self._after(rows, lambda t: chosen_rows(t, self._map.where, self._tell))
        if self._map.combine is not None:
            rows = collecting(partial(countable, spec=self._map.combine), rows, self._problems, rows[WHERE])
            image = image_numbers(rows, self._map.combine)
            numbers = image.to_numpy(dtype=np.int64)
            self._problems = [
                replace(p, row=int(numbers[p.row]), detail=f"{p.detail} ({rows[WHERE].iat[p.row]})")
                for p in self._problems
            ]
            rows = combined(rows, image, self._map.combine, self._tell)
        return rows

    def _after(self, rows: pd.DataFrame, change: Callable[[pd.DataFrame], pd.DataFrame]) -> pd.DataFrame:
        """Rows after a change that leaves some out; problems keep to the rows they were found in."""
        numbered = change(rows.assign(**{ROW: range(len(rows))}))
        position = {old: new for new, old in enumerate(np.asarray(numbered.pop(ROW), dtype=np.int64).tolist())}
        self._problems = [replace(p, row=position[p.row]) for p in self._problems if p.row in position]
        return numbered

    def _roles(self) -> dict[str, CellSpec]:
        """The manifest's columns -> where their cells stand."""
        own = self._map
        roles = {
            Column.PATIENT_ID: own.patient, Column.STUDY_ID: own.study, Column.SITE: own.site,
            Column.SPLIT: own.split, Column.SEX: own.sex, Column.AGE_YEARS: own.age,
        }  # fmt: skip
        roles |= {f"{Column.GROUP_PREFIX}{name}": cell for name, cell in own.groups.items()}
        return {column: spec for column, spec in roles.items() if spec is not None}

    def _absent_roles(self, rows: pd.DataFrame) -> dict[str, tuple[str, ...]]:
        return {
            column: spec.column[:1]
            for column, spec in self._roles().items()
            if not spec.optional and _source(rows, spec) is None
        }

    def _columns(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The manifest's columns but labels and masks."""
        column_map, columns = self._map, {}
        image = column_map.image
        if image is None:
            raise UserError(f"column map {column_map.name!r} does not say where images are")
        paths = filled(rows, image.path)
        ids = paths if image.id is None else filled(rows, image.id)
        self._problems += [
            RowProblem(
                row=int(row), reason=Reason.IMAGE_MISSING, detail=f"no image is found for {_described(rows, int(row))}"
            )
            for row in rows.index[paths.isna()]
        ]
        stand_in = pd.Series([f"{_NOT_FOUND} {i}" for i in range(len(rows))], index=rows.index, dtype=object)
        columns[Column.IMAGE_ID] = ids.where(ids.notna(), stand_in)
        columns[Column.PATH] = paths.where(paths.notna(), stand_in)
        if image.frame is not None:
            frames = partial(_frames, name=image.frame)
            columns[Column.FRAME] = collecting(frames, rows, self._problems, rows[WHERE])
        for column, spec in self._roles().items():
            if _source(rows, spec) is not None:
                read = partial(self._cells, column=column, spec=spec)
                columns[column] = collecting(read, rows, self._problems, rows[WHERE])
        tell_blank_ages(self._left_blank, rows[WHERE], self._options, self._tell)
        if Column.SPLIT in columns and set(columns[Column.SPLIT]) == {Split.TRAIN.value}:
            self._tell("the official test set is not here: patients are split at random")
            del columns[Column.SPLIT]
        return pd.DataFrame(columns)

    def _cells(self, rows: pd.DataFrame, column: str, spec: CellSpec) -> pd.Series[Any]:
        source = str(_source(rows, spec))
        other = "refuse" if spec.values and column == Column.SPLIT else "keep"
        try:
            cells = replaced(rows[source], spec.values, other) if spec.values else rows[source]
            if column == Column.AGE_YEARS:
                self._left_blank = ages_left_blank(cells, source)
            return column_cells(cells, column, source, self._tell)
        except BadCellsError as error:
            if column == Column.SPLIT:
                error.stand_in = next(iter(spec.values), "unused")
            raise

    def _files_of(self, rows: pd.DataFrame) -> list[pd.Series[Any]]:
        """Paths of images and masks that rows name, those of rows that are left out later included."""
        image, specs = self._map.image, (self._map.mask, self._map.mask_second, self._map.valid_area)
        paths = [] if image is None else [image.path]
        for spec in (s for s in specs if s is not None):
            paths += [*spec.merge, *([spec.path] if spec.path else [])]
        return [filled(rows, path) for path in paths]

    def _tell_unnamed(self) -> None:
        """Say how many image files of the folder no row names; such as images without a line in the table of labels."""
        if self._options.unopened or not isinstance(self._root, Path):
            return  # a walk through a bucket costs a request per thousand files, or a folder each
        named = {os.path.normpath(path) for paths in self._named for path in paths.dropna().unique()}
        unnamed = sum(below(file, self._root) not in named for file in files_under(self._root)[0])
        if unnamed:
            self._tell(f"{unnamed} image files of the folder are named by no row and are not part of the task")

    def _masks(self, rows: pd.DataFrame, table: pd.DataFrame) -> tuple[dict[str, pd.Series[Any]], Place | None]:
        """Mask columns, and the folder of the masks if they were made here."""
        specs = {
            Column.MASK: self._map.mask, Column.MASK_SECOND: self._map.mask_second,
            Column.VALID_AREA: self._map.valid_area,
        }  # fmt: skip
        wanted = {column: spec for column, spec in specs.items() if spec is not None}
        if not any(spec.path is None for spec in wanted.values()):
            return {column: self._mask_paths(rows, spec) for column, spec in wanted.items()}, None
        folder = self._derived_folder(rows)
        made = {column: self._made_masks(rows, table, spec, folder) for column, spec in wanted.items()}
        return made, folder

    def _mask_paths(self, rows: pd.DataFrame, spec: MaskSpec) -> pd.Series[Any]:
        paths = filled(rows, str(spec.path))
        if not spec.optional:
            return paths
        return paths.map(lambda p: p if isinstance(p, str) and is_file(self._root / p) else None)

    def _made_masks(self, rows: pd.DataFrame, table: pd.DataFrame, spec: MaskSpec, folder: Path) -> pd.Series[Any]:
        ids = table[Column.IMAGE_ID]
        if spec.run_lengths is not None:
            cells = column_of(rows, spec.run_lengths.column, "mask.run_lengths")
            paths, problems = draw_masks(cells, ids, spec.run_lengths, folder)
        else:
            parts = [filled(rows, template) for template in (spec.merge or (str(spec.path),))]
            paths, problems = merge_masks(parts, ids, self._root, folder)
        self._problems += problems
        return paths

    def _derived_folder(self, rows: pd.DataFrame) -> Path:
        """A folder of its own for every content, so that an import that is refused changes no task."""
        if self._options.derived is None:
            raise UserError(
                f"{self._map.title} has masks that are made on import; ImportOptions.derived names a folder"
            )
        content = rows.drop(columns=[WHERE]).to_csv(index=False)
        digest = hashlib.sha256(f"{self._root}\n{self._map.model_dump_json()}\n{content}".encode(errors="replace"))
        return self._options.derived / f"masks-{digest.hexdigest()[:12]}"


def _source(rows: pd.DataFrame, spec: CellSpec) -> str | None:
    return next((name for name in spec.column if name in rows), None)


def _frames(rows: pd.DataFrame, name: str) -> pd.Series[Any]:
    return frame_numbers(column_of(rows, name, "image.frame"))


def _described(rows: pd.DataFrame, row: int) -> str:
    """The first cells of a row, to find it by."""
    cells = [f"{name} {rows[name].iat[row]}" for name in rows.columns if name != WHERE and rows[name].iat[row]]
    return ", ".join(cells[:3])
