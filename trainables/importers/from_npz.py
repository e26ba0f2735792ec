"""Import of an npz file in the layout of MedMNIST (J. Yang et al., Scientific Data 10, 41, 2023)."""

from __future__ import annotations

import zipfile
import zlib
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from search_spaces.exceptions import UserError
from search_spaces.names import Column
from trainables.importers.assemble import SPLIT_NAMES, Found, assemble
from trainables.importers.labels import Labels, labels_from_cells, labels_from_columns
from trainables.importers.options import ImportOptions, Tell, silent
from trainables.manifest import Manifest, checked_root
from trainables.npz_arrays import read_array
from trainables.pixels import FRAME_SEPARATOR
from trainables.places import is_file, open_bytes

if TYPE_CHECKING:
    from trainables.places import Place

_IMAGES, _LABELS = "images", "labels"
_LAYOUT = "train_images and train_labels (and val_*, test_*), or images and labels"


def import_npz(path: Place, options: ImportOptions, tell: Tell = silent) -> Manifest:
    """The manifest of an npz file; images stay in it.

    Arrays ``<split>_images`` (n, H, W) or (n, H, W, 3), uint8 or uint16, and ``<split>_labels`` (n,), (n, 1) or, for
    several labels per image, (n, k) of 0 and 1. The file's splits are kept; ``images`` and ``labels`` without a split
    are split here.

    Args:
        path: The file.
        options: ``classes`` names the labels 0..n-1 (or the k columns); ``kind``, ``label_name``, ``split`` apply.
        tell: Hears what was detected and decided.

    Raises:
        UserError: No npz file, arrays missing, or of shapes that do not fit.
        DataError: Images have more pixels than the limit.
    """
    arrays = _read(path)
    splits = [name.removesuffix(f"_{_IMAGES}") for name in arrays if name.endswith(f"_{_IMAGES}")]
    if strange := [s for s in splits if s.lower() not in SPLIT_NAMES]:
        raise UserError(f"{path}: arrays of unknown splits {', '.join(strange)}; known are {', '.join(SPLIT_NAMES)}")
    prefixes = [f"{s}_" for s in splits] or [""]
    parts = [_part(path, arrays, prefix) for prefix in prefixes]
    rows = pd.concat([rows for rows, _ in parts], ignore_index=True)
    if len({values.shape[1] for _, values in parts}) > 1:
        raise UserError(f"{path}: the splits have different numbers of labels per image")
    values = np.concatenate([values for _, values in parts])
    if splits:
        tell(f"split: arrays {', '.join(prefix + _IMAGES for prefix in prefixes)}")
    found = Found(
        rows=rows, labels=_labels(path, values, options, tell), root=checked_root(path.parent), importer="npz"
    )
    return assemble(found, options, tell)


def _read(path: Place) -> dict[str, npt.NDArray[np.generic]]:
    if not is_file(path):
        raise UserError(f"file {path} does not exist")
    try:
        with open_bytes(path) as stream:
            file = np.load(stream, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise UserError(f"{path} is no npz file; expected one with {_LAYOUT}")
            with file:
                return {name: read_array(file, name, path) for name in file.files if name.endswith((_IMAGES, _LABELS))}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path} cannot be read as npz: {error}; expected one with {_LAYOUT}") from error


def _part(
    path: Place, arrays: dict[str, npt.NDArray[np.generic]], prefix: str
) -> tuple[pd.DataFrame, npt.NDArray[np.generic]]:
    """Rows of one split, and its labels, shape (n, k)."""
    images_name, labels_name = prefix + _IMAGES, prefix + _LABELS
    if missing := [name for name in (images_name, labels_name) if name not in arrays]:
        raise UserError(f"{path} has no array {missing[0]!r}; it has {', '.join(arrays) or 'none'}; expected {_LAYOUT}")
    images, labels = arrays[images_name], arrays[labels_name]
    grey_or_rgb = images.ndim == 3 or (images.ndim == 4 and images.shape[3] in (1, 3))
    if not grey_or_rgb or images.dtype not in (np.uint8, np.uint16):
        raise UserError(
            f"{path}: {images_name} has shape {images.shape} of {images.dtype}; (n, H, W) or (n, H, W, 3) of uint8 or "
            "uint16 expected (volumes are not supported)"
        )
    if labels.ndim > 2 or len(labels) != len(images):
        raise UserError(f"{path}: {labels_name} has shape {labels.shape} for {len(images)} images")
    ids = [f"{prefix}{i:06d}" for i in range(len(images))]
    rows = pd.DataFrame(
        {
            Column.IMAGE_ID: ids,
            Column.PATH: f"{path.name}{FRAME_SEPARATOR}{images_name}",
            Column.FRAME: pd.array(range(len(images)), dtype="Int64"),
        }
    )
    if prefix:
        rows[Column.SPLIT] = SPLIT_NAMES[prefix[:-1].lower()].value
    return rows, labels.reshape(len(labels), -1)


def _labels(path: Place, values: npt.NDArray[np.generic], options: ImportOptions, tell: Tell) -> Labels:
    cells = pd.DataFrame(values).map(_text).astype(object)
    if values.shape[1] == 1:
        return labels_from_cells(cells[0], "label", options, tell)
    names = options.classes or tuple(f"label{i}" for i in range(values.shape[1]))
    if len(names) != values.shape[1]:
        raise UserError(f"{path} has {values.shape[1]} labels per image, --classes names {len(names)}")
    columns = ImportOptions(
        name=options.name, label_columns=names, kind=options.kind, blank_labels=options.blank_labels
    )
    return labels_from_columns(cells.set_axis(list(names), axis="columns"), columns)


def _text(value: object) -> str | None:
    text = str(value).removesuffix(".0")
    return None if text == "nan" else text
