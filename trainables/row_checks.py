"""Reading every image and mask of a manifest, and what is wrong with each row."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from search_spaces.exceptions import DataError
from search_spaces.names import Column, Kind
from trainables.manifest import MASK_COLUMNS, Manifest
from trainables.places import READERS
from trainables.row_problems import Reason, RowProblem, SetAside
from trainables.similar_images import hash_images, small_grey

FAINT_SPAN = 32
"""Of 256 values; an image within fewer is hardly to be seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowsRead:
    """What reading all rows found.

    Attributes:
        problems: Of rows that cannot be used, in the order of the rows.
        constant: Rows whose image has one single value in all pixels.
        faint: Rows of other images whose values span less than ``FAINT_SPAN``.
        shaded: Rows whose mask of one label has values between 0 and its largest.
        hashes: (N,) uint64, what images look like (``trainables.similar_images``); 0 of those that cannot be read.
        plain: (N,) bool, images that look like too many others to be told apart by their hash.
    """

    problems: tuple[RowProblem, ...]
    constant: tuple[int, ...]
    faint: tuple[int, ...]
    shaded: tuple[int, ...]
    hashes: NDArray[np.uint64]
    plain: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """What one row showed; ``span`` is the widest of values of one channel, None if the image cannot be read."""

    problems: list[RowProblem]
    span: int | None
    hash: int
    plain: bool
    shaded: bool


def read_rows(manifest: Manifest) -> RowsRead:
    """Decode every image and mask.

    Finds missing and unreadable files, masks of another size than their image, and in a segmentation task images
    without a mask and masks with values that name no label.
    """
    with ThreadPoolExecutor(READERS) as pool:
        found = list(pool.map(lambda row: _read_row(manifest, row), range(len(manifest))))
    return RowsRead(
        problems=tuple(problem for row in found for problem in row.problems),
        constant=tuple(k for k, row in enumerate(found) if row.span == 0),
        faint=tuple(k for k, row in enumerate(found) if row.span is not None and 0 < row.span < FAINT_SPAN),
        shaded=tuple(k for k, row in enumerate(found) if row.shaded),
        hashes=np.array([row.hash for row in found], dtype=np.uint64),
        plain=np.array([row.plain for row in found], dtype=bool),
    )


def named(manifest: Manifest, problems: Sequence[RowProblem]) -> list[SetAside]:
    """The problems of a manifest's rows with what names them."""
    table = manifest.table
    return [
        SetAside(
            where=f"row {p.row}",
            image_id=str(table[Column.IMAGE_ID].iat[p.row]),
            path=str(table[Column.PATH].iat[p.row]),
            problem=p,
        )
        for p in problems
    ]


def reason_of(error: DataError, mask: bool) -> Reason:
    """Whether a file is missing or there and unreadable."""
    if "is missing" in str(error):
        return Reason.MASK_MISSING if mask else Reason.IMAGE_MISSING
    return Reason.MASK_UNREADABLE if mask else Reason.IMAGE_UNREADABLE


def of_mask(error: DataError) -> str:
    """The message about a mask that was read as an image."""
    return str(error).replace("image ", "mask ", 1)


def _read_row(manifest: Manifest, row: int) -> _Row:
    problems: list[RowProblem] = []
    shape: tuple[int, ...] | None = None
    span: int | None = None
    hashed, plain = 0, True
    try:
        pixels = manifest.pixels(row)
        shape, span = pixels.shape[:2], int(np.ptp(pixels, axis=(0, 1)).max())
        hashes, plains = hash_images(small_grey(pixels)[None])
        hashed, plain = int(hashes[0]), bool(plains[0])
    except DataError as error:
        problems.append(RowProblem(row=row, reason=reason_of(error, mask=False), detail=str(error)))
    shaded = False
    for column in MASK_COLUMNS:
        mask = _read_mask(manifest, row, column, shape)
        problems += [mask] if isinstance(mask, RowProblem) else []
        if isinstance(mask, np.ndarray) and column == Column.MASK and manifest.kind is Kind.SEGMENTATION:
            problems += _strange_values(manifest, row, mask)
            shaded = len(manifest.labels) == 1 and bool(((mask != 0) & (mask != mask.max())).any())
    lacks_mask = manifest.kind is Kind.SEGMENTATION and manifest.mask_file(row) is None
    if lacks_mask and not problems:
        path = manifest.table[Column.PATH].iat[row]
        problems.append(RowProblem(row=row, reason=Reason.NO_MASK, detail=f"image {path} has no mask (row {row})"))
    return _Row(problems=problems, span=span, hash=hashed, plain=plain, shaded=shaded)


def _read_mask(
    manifest: Manifest, row: int, column: str, shape: tuple[int, ...] | None
) -> NDArray[np.int32] | RowProblem | None:
    try:
        mask = manifest.mask(row, column)
    except DataError as error:
        return RowProblem(row=row, reason=reason_of(error, mask=True), detail=of_mask(error))
    if mask is None or shape is None or mask.shape == shape:
        return mask
    paths = str(manifest.table[column].iat[row]), str(manifest.table[Column.PATH].iat[row])
    return RowProblem(row=row, reason=Reason.MASK_SIZE, detail=f"{mask_size(*paths, mask.shape, shape)} (row {row})")


def _strange_values(manifest: Manifest, row: int, mask: NDArray[np.int32]) -> list[RowProblem]:
    strange = mask_values(mask, manifest.labels)
    if strange is None:
        return []
    detail = f"mask {manifest.table[Column.MASK].iat[row]} {strange} (row {row})"
    return [RowProblem(row=row, reason=Reason.VALUE, detail=detail)]


def mask_values(mask: NDArray[np.int32], labels: Sequence[str]) -> str | None:
    """In words: a mask has values that name no label. None if all do; of one label all values but 0 do."""
    if len(labels) == 1 or not mask.size or 0 <= mask.min() <= mask.max() <= len(labels):
        return None
    known = f"the labels {', '.join(labels)} are 1 to {len(labels)}, and 0 is none"
    return f"has values from {mask.min()} to {mask.max()}; {known}"


def mask_size(mask_path: str, image_path: str, mask_shape: Sequence[int], image_shape: Sequence[int]) -> str:
    """In words: a mask is not of its image's size. Shapes are (H, W)."""
    return (
        f"mask {mask_path} is {mask_shape[1]} x {mask_shape[0]}, its image {image_path} is "
        f"{image_shape[1]} x {image_shape[0]}"
    )
