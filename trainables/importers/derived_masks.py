"""Masks that a data set does not hold as one image per image: drawn from run lengths, or put together."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image

from search_spaces.exceptions import DataError, UserError
from search_spaces.names import Column
from trainables.importers.map_parts import RunLengths
from trainables.manifest import Manifest
from trainables.pixels import FRAME_SEPARATOR, read_mask
from trainables.places import READERS
from trainables.row_problems import Reason, RowProblem
from trainables.written_whole import written_whole

if TYPE_CHECKING:
    from trainables.places import Place

_Bits = npt.NDArray[np.bool_]


def drawn_mask(cell: str, spec: RunLengths) -> _Bits:
    """The mask of a cell of run lengths, shape (height, width); several lists, joined with ``|``, are put together.

    Raises:
        DataError: Not pairs of whole numbers, or a run outside the mask.
    """
    mask = np.zeros(spec.height * spec.width, dtype=bool)
    for text in cell.split("|"):
        if text.strip() not in spec.none:
            for begin, end in _runs(text, spec):
                mask[begin:end] = True
    if spec.order == "rows":
        return mask.reshape(spec.height, spec.width)
    return mask.reshape(spec.width, spec.height).T


def _runs(text: str, spec: RunLengths) -> npt.NDArray[np.int64]:
    """First and last pixel (excluded) of every run, shape (runs, 2)."""
    try:
        numbers = np.array(text.split(), dtype=np.int64)
    except ValueError:
        raise DataError(f"run lengths {text[:40]!r} are not all whole numbers") from None
    if len(numbers) == 0 or len(numbers) % 2:
        raise DataError(f"run lengths {text[:40]!r} are no pairs of start and length")
    starts, lengths = numbers[0::2], numbers[1::2]
    if spec.start == "relative":
        begin = np.cumsum(starts) + np.concatenate([[0], np.cumsum(lengths)[:-1]])
    else:
        begin = starts - 1
    runs = np.stack([begin, begin + lengths], axis=1)
    pixels = spec.height * spec.width
    if lengths.min() < 0 or runs.min() < 0 or runs.max() > pixels:
        raise DataError(f"run lengths leave the mask of {spec.width} x {spec.height} pixels")
    return runs


def draw_masks(
    cells: pd.Series[Any], ids: pd.Series[Any], spec: RunLengths, folder: Path
) -> tuple[pd.Series[Any], list[RowProblem]]:
    """Masks of a column of run lengths as files; a blank cell is no mask.

    Returns:
        Paths under ``folder``, None where there is no mask; and cells that are no masks.
    """
    makers = [None if cell is None else (lambda c=cell: drawn_mask(c, spec)) for cell in cells]
    return _write_all(makers, ids, folder)


def merge_masks(
    paths: Sequence[pd.Series[Any]], ids: pd.Series[Any], root: Place, folder: Path
) -> tuple[pd.Series[Any], list[RowProblem]]:
    """Several masks of each image put together as one file; a pixel is set where any of them is not 0.

    Args:
        paths: One series of paths per part; a blank in any is no mask.
        ids: What names each image.
        root: Folder of the parts.
        folder: Where to write.

    Returns:
        Paths under ``folder``, None where there is no mask; and rows whose parts are missing, unreadable or of
        different sizes.
    """
    rows = list(zip(*paths, strict=True))
    makers = [
        None if any(part is None for part in row) else (lambda r=row: _merged([root / str(part) for part in r]))
        for row in rows
    ]
    return _write_all(makers, ids, folder)


def forget_unused(folder: Path, manifest: Manifest) -> None:
    """Delete what earlier imports made under ``folder`` and this manifest does not use."""
    if not folder.is_dir():
        return
    used = {str(manifest.mask_root)}
    if manifest.root == folder:
        used |= {str(folder / path.partition(FRAME_SEPARATOR)[0]) for path in manifest.table[Column.PATH].unique()}
    for entry in folder.iterdir():
        if str(entry) in used:
            continue
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _merged(files: Sequence[Place]) -> _Bits:
    parts = [read_mask(file) != 0 for file in files]
    if len({part.shape for part in parts}) > 1:
        sizes = ", ".join(f"{f.name} {p.shape[1]} x {p.shape[0]}" for f, p in zip(files, parts, strict=True))
        raise DataError(f"masks of one image are of different sizes: {sizes}")
    merged: _Bits = np.logical_or.reduce(parts)
    return merged


def _write_all(
    makers: Sequence[Callable[[], _Bits] | None], ids: pd.Series[Any], folder: Path
) -> tuple[pd.Series[Any], list[RowProblem]]:
    _make_folder(folder)

    def attempt(maker: Callable[[], _Bits] | None, image_id: str) -> str | DataError | None:
        if maker is None:
            return None
        try:
            mask = maker()
        except DataError as error:
            return error
        name = f"{hashlib.sha256(image_id.encode(errors='surrogateescape')).hexdigest()[:20]}.png"
        _write_png(mask, folder / name)
        return name

    with ThreadPoolExecutor(READERS) as pool:
        made = list(pool.map(attempt, makers, ids.astype(str)))
    problems = [
        RowProblem(row=row, reason=Reason.MASK_UNREADABLE, detail=f"mask of {ids.iat[row]}: {error}")
        for row, error in enumerate(made)
        if isinstance(error, DataError)
    ]
    names = [None if isinstance(name, DataError) else name for name in made]
    return pd.Series(names, index=ids.index, dtype=object), problems


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be made: {error}; set SCALECURVES_HOME to a writable folder") from error


def _write_png(mask: _Bits, file: Path) -> None:
    """Whole or not at all, 8 bits, 0 and 255."""
    try:
        with written_whole(file) as temporary:
            Image.fromarray(mask.astype(np.uint8) * 255).save(temporary, format="PNG")
    except OSError as error:
        raise UserError(f"mask {file} cannot be written: {error.strerror or error}") from error
