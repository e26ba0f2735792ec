"""A picture of pictures: some images of every label in every split. Made on request only: it shows patients' data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageOps

from search_spaces.exceptions import UserError
from search_spaces.names import Column, Split
from trainables.manifest import CLASS_KINDS, Manifest

TILE = 96
"""Side of an image in pixels."""
PER_ROW = 8
_TEXT_WIDTH, _GAP = 220, 4
_MOST_ROWS = 200


def write_contact_sheet(manifest: Manifest, file: Path, seed: int = 0) -> int:
    """Write the sheet, one row per split and label (class), images drawn at random.

    Args:
        manifest: Whose images are shown.
        file: A PNG or JPEG file; the suffix decides.
        seed: Draws the images.

    Returns:
        Number of images shown.

    Raises:
        UserError: Another suffix, or the file cannot be written.
        DataError: An image cannot be read.
    """
    if file.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise UserError(f"contact sheet {file}: the name has to end in .png, .jpg or .jpeg")
    rows = _rows(manifest, np.random.default_rng(seed))[:_MOST_ROWS]
    height, width = len(rows) * (TILE + _GAP) + _GAP, _TEXT_WIDTH + PER_ROW * (TILE + _GAP)
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    for line, (text, positions) in enumerate(rows):
        top = _GAP + line * (TILE + _GAP)
        draw.text((_GAP, top + TILE // 2 - 6), text, fill="black")
        for column, position in enumerate(positions.tolist()):
            tile = ImageOps.contain(Image.fromarray(manifest.pixels(position)), (TILE, TILE))
            sheet.paste(tile, (_TEXT_WIDTH + column * (TILE + _GAP), top))
    try:
        sheet.save(file)
    except OSError as error:
        raise UserError(f"contact sheet {file} cannot be written: {error}") from error
    return sum(len(positions) for _, positions in rows)


def _rows(manifest: Manifest, generator: np.random.Generator) -> list[tuple[str, NDArray[np.int64]]]:
    """What each row shows, and its images; splits and labels without images are left out."""
    rows = []
    splits = manifest.table[Column.SPLIT].to_numpy(dtype=object)
    for split in Split:
        for label, has in _of_label(manifest):
            positions = np.flatnonzero((splits == split) & has)
            if len(positions):
                shown = generator.permutation(positions)[:PER_ROW]
                rows.append((f"{split}  {label}  ({len(positions)})"[:36], np.sort(shown)))
    return rows


def _of_label(manifest: Manifest) -> list[tuple[str, NDArray[np.bool_]]]:
    if manifest.kind in CLASS_KINDS:
        y = manifest.table[Column.Y].to_numpy()
        return [(label, y == k) for k, label in enumerate(manifest.labels)]
    columns = manifest.label_columns
    if not columns:
        return [("", np.ones(len(manifest), dtype=bool))]
    values = manifest.table[list(columns)].to_numpy()
    named = [(label, values[:, k] == 1) for k, label in enumerate(manifest.labels)]
    return [*named, ("none of them", ~(values == 1).any(axis=1))]
