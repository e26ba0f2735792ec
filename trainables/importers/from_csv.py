"""Import of a table (CSV or TSV) that names images and labels."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from search_spaces.exceptions import UserError
from search_spaces.names import Column, Kind
from trainables.importers.assemble import Found, assemble, files_under, split_of
from trainables.importers.columns import each_text, find_column, lines_of, read_table, required_column
from trainables.importers.labels import Labels, labels_from_cells, labels_from_columns, labels_from_joined, mask_labels
from trainables.importers.options import NO_COLUMN, ImportOptions, Tell, silent
from trainables.manifest import Manifest, checked_root
from trainables.pixels import IMAGE_SUFFIXES

_SEX = {"f": "F", "female": "F", "woman": "F", "m": "M", "male": "M", "man": "M"}
_SEX_UNKNOWN = frozenset({"unknown", "u", "o", "other", "x", "-", "?"})
_DICOM_AGE = re.compile(r"(\d{1,3})([YMWD])")
_YEARS = {"Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}
_OLDEST_YEARS = 120.0
_UNUSUAL_PATH = re.compile(r"\\|//|(?:^|/)\.{1,2}(?:/|$)|./$")
"""Paths that ``_posix`` changes."""
_TAKEN_GROUPS = frozenset({Column.SEX, Column.AGE_BAND, Column.SITE, Column.SPLIT, Column.PATIENT_ID, "label"})


def import_csv(path: Path, options: ImportOptions, tell: Tell = silent) -> Manifest:
    """The manifest of a table with one row per image.

    Args:
        path: CSV or TSV file, first line the column names.
        options: Which columns mean what; those not given are looked for under their usual names.
        tell: Hears what was detected and decided.

    Raises:
        UserError: The table or the options do not fit; says what and where.
        DataError: Image files are missing.
    """
    table = read_table(path, tell)
    image = find_column(table, "image", options.image_column, tell)
    if image is None:
        raise UserError(
            f"no image column found in {path}; give --image-column, one of: {', '.join(map(str, table.columns))}"
        )
    rows, root = _image_paths(table[image], image, checked_root(options.image_root or path.parent), options, tell)
    columns: dict[str, pd.Series[Any]] = {**rows, **_texts(table, options, tell)}
    for name in options.group_columns:
        columns[f"{Column.GROUP_PREFIX}{_group_name(name)}"] = table[required_column(table, name, "--group-columns")]
    labels = _labels(table, options, has_mask=Column.MASK in columns, tell=tell)
    found = Found(rows=pd.DataFrame(columns), labels=labels, root=root, importer="csv")
    return assemble(found, options, tell)


def _texts(table: pd.DataFrame, options: ImportOptions, tell: Tell) -> dict[str, pd.Series[Any]]:
    """Manifest column -> cells, for every column of the manifest that the table has."""
    roles = {
        Column.PATIENT_ID: ("patient", NO_COLUMN if options.patient_pattern else options.patient_column),
        Column.STUDY_ID: ("study", options.study_column),
        Column.SITE: ("site", options.site_column),
        Column.SPLIT: ("split", options.split_column),
        Column.MASK: ("mask", options.mask_column),
        Column.SEX: ("sex", options.sex_column),
        Column.AGE_YEARS: ("age", options.age_column),
    }
    columns: dict[str, pd.Series[Any]] = {}
    for column, (role, given) in roles.items():
        source = find_column(table, role, given, tell)
        if source is None:
            continue
        cells = table[source]
        if column == Column.SPLIT:
            cells = split_of(cells, f"split column {source!r}")
        elif column == Column.SEX:
            cells = _sex(cells, source, tell)
        elif column == Column.AGE_YEARS:
            cells = _age_years(cells, source, tell)
        elif column == Column.MASK:
            cells = cells.map(lambda v: None if v is None else _posix(v))
        columns[column] = cells
    return columns


def _labels(table: pd.DataFrame, options: ImportOptions, has_mask: bool, tell: Tell) -> Labels:
    if options.kind is Kind.SEGMENTATION:
        if not has_mask:
            raise UserError("a segmentation task needs masks; give --mask-column")
        return mask_labels(options, len(table))
    if options.label_columns:
        return labels_from_columns(table, options)
    column = find_column(table, "label", options.label_column, tell)
    if column is None and has_mask and options.kind is None:
        tell("kind: segmentation (masks and no label column)")
        return mask_labels(options, len(table))
    if column is None:
        raise UserError(
            "no label column found; give --label-column or --label-columns, of: " + ", ".join(map(str, table.columns))
        )
    if options.label_separator:
        return labels_from_joined(table[column], options)
    _hint_at_separator(table[column], column, options, tell)
    return labels_from_cells(table[column], column, options, tell)


def _hint_at_separator(cells: pd.Series[str], column: str, options: ImportOptions, tell: Tell) -> None:
    joined = [sep for sep in (";", "|") if cells.dropna().str.contains(sep, regex=False).any()]
    if joined and not options.classes:
        tell(f"cells of {column!r} contain {joined[0]!r}: for several labels per image give --label-separator")


def _image_paths(
    cells: pd.Series[str], column: str, root: Path, options: ImportOptions, tell: Tell
) -> tuple[dict[str, pd.Series[str]], Path]:
    """``image_id`` and ``path`` of every row, and the folder that paths are relative to."""
    blank = np.flatnonzero(cells.isna())
    if len(blank):
        raise UserError(f"image column {column!r} is blank in {lines_of(blank)}")
    paths = cells.astype("str")
    unusual = paths.str.contains(_UNUSUAL_PATH)
    if unusual.any():
        paths = paths.mask(unusual, paths[unusual].map(_posix))
    absolute = paths.map(os.path.isabs)
    if absolute.all():
        if not paths.map(lambda p: Path(p).is_relative_to(root)).all():
            root = Path(os.path.commonpath(list(paths.map(os.path.dirname))))
        paths = paths.map(lambda p: Path(p).relative_to(root).as_posix())
    elif absolute.any():
        raise UserError(
            f"image column {column!r} mixes absolute and relative paths, see {lines_of([int(absolute.argmax())])}"
        )
    located = paths if options.unopened else _located(paths, root, tell)
    return {Column.IMAGE_ID: paths, Column.PATH: located}, root


def _posix(path: str) -> str:
    return os.path.normpath(path.replace("\\", "/"))


def _located(paths: pd.Series[str], root: Path, tell: Tell) -> pd.Series[str]:
    """Paths of the files, where the table names them without their suffix or without their subfolder."""
    if (root / str(paths.iat[0])).is_file():
        return paths
    bare = not paths.map(lambda p: Path(p).suffix.lower() in IMAGE_SUFFIXES).any()
    by_name: dict[str, str] = {}
    ambiguous: set[str] = set()
    for image in files_under(root)[0]:
        relative = image.relative_to(root)
        name = relative.stem if bare else relative.name
        ambiguous |= {name} & by_name.keys()
        by_name[name] = relative.as_posix()
    found = paths.map(lambda p: None if (name := Path(p).name) in ambiguous else by_name.get(name))
    if found.isna().any():
        return paths  # reported as missing, with the path that the table gives
    tell(f"image: files found by name under {root}, such as {found.iat[0]} for {paths.iat[0]}")
    return found


def _sex(cells: pd.Series[str], column: str, tell: Tell) -> pd.Series[str]:
    plain = each_text(cells, str.lower)
    sex = each_text(plain, _SEX.get)
    rows = np.flatnonzero((plain.notna() & sex.isna() & ~plain.isin(_SEX_UNKNOWN)).to_numpy(dtype=bool))
    if len(rows):
        strange = sorted(set(cells.iloc[rows]))[:5]
        raise UserError(
            f"sex column {column!r} has {', '.join(map(repr, strange))} ({lines_of(rows)}); "
            "allowed: F, M, female, male, unknown or blank. "
            f"For codes use --sex-column none and --group-columns {column}"
        )
    if unknown_sex := int((plain.isin(_SEX_UNKNOWN)).sum()):
        tell(f"sex: {unknown_sex} cells other than F and M are left blank")
    return sex.astype(object).where(sex.notna(), None)


def _age_years(cells: pd.Series[str], column: str, tell: Tell) -> pd.Series[float]:
    """Years as numbers; also DICOM ages (``063Y``, ``011M``); ages no human reaches are left blank, which is told."""
    years = each_text(cells, _years).astype(float)
    rows = np.flatnonzero((cells.notna() & years.isna()).to_numpy(dtype=bool))
    if len(rows):
        strange = sorted(set(cells.iloc[rows]))[:5]
        raise UserError(
            f"age column {column!r} has {', '.join(map(repr, strange))} ({lines_of(rows)}); "
            f"years expected, such as 63 or 063Y. For bands use --age-column none and --group-columns {column}"
        )
    impossible = (years < 0) | (years > _OLDEST_YEARS)
    if impossible.any():
        tell(f"age: {impossible.sum()} ages outside 0 to {_OLDEST_YEARS:g} years are left blank")
    return years.mask(impossible).astype(np.float32)


def _years(cell: str) -> float:
    if dicom := _DICOM_AGE.fullmatch(cell.upper()):
        return int(dicom.group(1)) * _YEARS[dicom.group(2)]
    try:
        return float(cell)
    except ValueError:
        return float("nan")


def _group_name(column: str) -> str:
    if column in _TAKEN_GROUPS:
        raise UserError(
            f"--group-columns: {column!r} is a name with its own meaning; use --{column.removesuffix('_id')}-column, "
            "or rename the column"
        )
    return column.removeprefix(Column.GROUP_PREFIX)
