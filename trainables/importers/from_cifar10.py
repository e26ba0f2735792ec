"""Import of CIFAR-10 as its authors release it for Python: pickled batches, read without running what they say."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from search_spaces.exceptions import UserError
from trainables.importers.assemble import counts_to_expect
from trainables.importers.column_map import ColumnMap
from trainables.importers.from_npz import import_npz
from trainables.importers.options import ImportOptions, Tell, silent
from trainables.inert_pickle import read_inert
from trainables.manifest import Manifest
from trainables.places import is_file
from trainables.written_whole import written_whole

_SIDE = 32
_TRAIN = tuple(f"data_batch_{i}" for i in range(1, 6))
_TEST = "test_batch"
_META = "batches.meta"


def import_cifar10(column_map: ColumnMap, path: Path, options: ImportOptions, tell: Tell = silent) -> Manifest:
    """The manifest of CIFAR-10; the images are written once more, as an npz file under ``options.derived``.

    Args:
        column_map: What the whole set holds.
        path: Folder with the batches (``cifar-10-batches-py``) or its parent.
        options: ``derived``, ``split``, ``split_seed`` apply.
        tell: Hears what was decided.

    Raises:
        UserError: Batches are missing or are not what they should be.
    """
    folder = path if is_file(path / _TEST) else path / "cifar-10-batches-py"
    missing = [name for name in (*_TRAIN, _TEST, _META) if not is_file(folder / name)]
    if missing:
        raise UserError(f"{path} lacks {', '.join(missing)}. Needed: {column_map.about.needs}")
    if options.derived is None:
        raise UserError("the batches of CIFAR-10 are unpacked on import; give ImportOptions.derived")
    names = _class_names(folder / _META)
    parts = [_batch(folder / name, len(names)) for name in _TRAIN]
    images, labels = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    test_images, test_labels = _batch(folder / _TEST, len(names))
    arrays = {"train_images": images, "train_labels": labels, "test_images": test_images, "test_labels": test_labels}
    file = _written(arrays, options.derived)
    manifest = import_npz(file, replace(options, classes=names, patient_column=None, patient_pattern=None), tell)
    notes = (*column_map.about.notes, *manifest.notes)
    expected = counts_to_expect(column_map.expected.flat(), options.split_column)
    return replace(manifest, importer=f"map {column_map.name}", expected=expected, notes=notes)


def read_batch(file: Path) -> dict[Any, Any]:
    """What a pickled batch holds; a pickle can name any function to be called, and none is.

    Raises:
        UserError: It is damaged or no mapping.
    """
    batch = read_inert(file, encoding="bytes")
    if not isinstance(batch, dict):
        raise UserError(f"{file} is no batch of CIFAR-10: it holds a {type(batch).__name__}")
    return batch


def _class_names(file: Path) -> tuple[str, ...]:
    names = read_batch(file).get(b"label_names")
    if not isinstance(names, list) or not all(isinstance(name, bytes) for name in names):
        raise UserError(f"{file} has no names of classes")
    return tuple(name.decode() for name in names)


def _batch(file: Path, classes: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Images (n, 32, 32, 3) and labels (n,) of a batch; rows of it hold the red, green and blue plane in turn."""
    batch = read_batch(file)
    data, labels = np.asarray(batch.get(b"data")), batch.get(b"labels")
    fits = data.dtype == np.uint8 and data.shape[1:] == (3 * _SIDE * _SIDE,)
    if not fits or not isinstance(labels, list) or len(labels) != len(data):
        raise UserError(f"{file} does not hold images of 3 x {_SIDE} x {_SIDE} bytes with a label each")
    numbers = np.asarray(labels, dtype=np.int64)
    if len(numbers) and not 0 <= numbers.min() <= numbers.max() < classes:
        raise UserError(f"{file} has labels from {numbers.min()} to {numbers.max()}; 0 to {classes - 1} expected")
    return np.ascontiguousarray(data.reshape(-1, 3, _SIDE, _SIDE).transpose(0, 2, 3, 1)), numbers


def _written(arrays: dict[str, npt.NDArray[Any]], folder: Path) -> Path:
    """An npz file named by its content, written whole or not at all."""
    digest = hashlib.sha256()
    for name, array in arrays.items():
        digest.update(f"{name} {array.shape} {array.dtype}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    file = folder / f"cifar10-{digest.hexdigest()[:12]}.npz"
    if file.is_file():
        return file
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with written_whole(file) as temporary:
            np.savez(temporary, allow_pickle=False, **arrays)
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error}; set SCALECURVES_HOME to a folder with room") from error
    return file
