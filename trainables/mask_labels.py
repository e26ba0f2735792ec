"""What the masks of a manifest say: which label each image shows, and the one plane that an image store keeps.

A mask of a manifest with one label is that label wherever it is not 0. With several labels the value k is the k-th of
them, from 1, and 0 is none. Pixels outside the valid area (the field of view of a fundus photograph) are not known:
they count neither in a loss nor in a score.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from search_spaces.exceptions import DataError, UserError
from search_spaces.names import Column
from trainables.manifest import Manifest
from trainables.pixels import image_size
from trainables.places import each_read, stamp
from trainables.row_checks import mask_size, mask_values

if TYPE_CHECKING:
    from trainables.library import TaskLibrary

IGNORED = 255
"""Value of a pixel that is not known, as in PASCAL VOC."""

MOST_LABELS = IGNORED - 1

PLANE_RULE = "planes-1"
"""Name of the rule of ``mask_plane``; part of a manifest's content hash, and changes when the rule does."""

_CACHE = "cache"
_SHOWN = 10


def mask_plane(manifest: Manifest, row: int, size: tuple[int, int]) -> NDArray[np.uint8] | None:
    """The labels of an image's pixels, (H, W) uint8: 0 none, k the k-th label from 1, ``IGNORED`` not known.

    Args:
        manifest: Of a segmentation task.
        row: Position in its table.
        size: Height and width of the image, which mask and valid area must have.

    Returns:
        None if the image has no mask.

    Raises:
        DataError: A mask is missing, unreadable, of another size, or has values that name no label.
    """
    mask = _of_size(manifest, row, Column.MASK, size)
    if mask is None:
        return None
    if strange := mask_values(mask, manifest.labels):
        name = manifest.table[Column.MASK].iat[row]
        raise DataError(f"mask {name} {strange} (manifest {manifest.name!r}, row {row})")
    plane: NDArray[np.uint8] = (mask if len(manifest.labels) > 1 else mask != 0).astype(np.uint8)
    valid = _of_size(manifest, row, Column.VALID_AREA, size)
    if valid is not None:
        plane[valid == 0] = IGNORED
    return plane


def _of_size(manifest: Manifest, row: int, column: str, size: tuple[int, int]) -> NDArray[np.int32] | None:
    mask = manifest.mask(row, column)
    if mask is not None and mask.shape != size:
        own, image = (str(manifest.table[c].iat[row]) for c in (column, Column.PATH))
        raise DataError(f"{mask_size(own, image, mask.shape, size)} (manifest {manifest.name!r}, row {row})")
    return mask


def mask_presence(library: TaskLibrary, manifest: Manifest) -> NDArray[np.float32]:
    """Which labels each image shows: (rows, labels) of 1, 0, and NaN where an image has no mask.

    Reads every mask once, at its full size, and remembers the answer until a file changes. So a plan finds masks that
    cannot be used before anything is trained.

    Args:
        library: Whose home remembers.
        manifest: Of a segmentation task.

    Raises:
        DataError: Masks cannot be used; lists the first ten.
        UserError: More labels than a byte can tell apart.
    """
    if len(manifest.labels) > MOST_LABELS:
        raise UserError(f"manifest {manifest.name!r} has {len(manifest.labels)} labels; masks can have {MOST_LABELS}")
    file = library.home / _CACHE / f"masks-{_state(manifest)}.npy"
    known = _remembered(file, (len(manifest), len(manifest.labels)))
    if known is not None:
        return known
    found = each_read(lambda row: _row_presence(manifest, row), range(len(manifest)))
    problems = [answer for answer in found if isinstance(answer, str)]
    if problems:
        raise DataError(_summary(manifest, problems))
    presence = np.stack([answer for answer in found if not isinstance(answer, str)])
    _remember(file, presence)
    return presence


def _row_presence(manifest: Manifest, row: int) -> NDArray[np.float32] | str:
    try:
        plane = mask_plane(manifest, row, _size(manifest, row))
    except DataError as error:
        return str(error)
    if plane is None:
        return np.full(len(manifest.labels), np.nan, dtype=np.float32)
    return np.array([(plane == k).any() for k in range(1, len(manifest.labels) + 1)], dtype=np.float32)


def _size(manifest: Manifest, row: int) -> tuple[int, int]:
    """Height and width of the row's image, from its header."""
    width, height = image_size(manifest.file(row), manifest.frame(row))
    return height, width


def _summary(manifest: Manifest, problems: Sequence[str]) -> str:
    shown = list(problems[:_SHOWN])
    if len(problems) > _SHOWN:
        shown.append(f"and {len(problems) - _SHOWN} more")
    return f"{len(problems)} of {len(manifest)} masks of {manifest.name!r} cannot be used:\n  " + "\n  ".join(shown)


def _state(manifest: Manifest) -> str:
    """Changes when the table, an image or a mask does, by size and time of the files."""
    files = [file for file, frame in manifest.sources(range(len(manifest))) if frame is None]
    columns = (Column.MASK, Column.VALID_AREA)
    masks = [manifest.mask_file(row, column) for column in columns for row in range(len(manifest))]
    wanted = [*files, *(file for file in masks if file is not None)]
    lines = [f"{file} {stamped}" for file, stamped in zip(wanted, each_read(stamp, wanted), strict=True)]
    lines += manifest.table[Column.IMAGE_ID].astype(str).tolist()  # the hash of the table does not see their order
    return hashlib.sha256("\n".join([PLANE_RULE, manifest.table_hash, *lines]).encode()).hexdigest()[:32]


def _remembered(file: Path, shape: tuple[int, int]) -> NDArray[np.float32] | None:
    try:
        known: NDArray[np.float32] = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return known if known.shape == shape and known.dtype == np.float32 else None


def _remember(file: Path, presence: NDArray[np.float32]) -> None:
    """Keep the answer. A home that cannot be written costs the next reader's time, no more."""
    partial = file.with_name(f".{uuid.uuid4().hex}.npy")
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(partial, presence, allow_pickle=False)
        partial.replace(file)
