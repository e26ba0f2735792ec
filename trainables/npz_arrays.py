"""Arrays of npz files, whose headers are looked at before anything is decompressed: zeros pack a thousandfold."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

from trainables.pixel_limit import refuse_too_large

if TYPE_CHECKING:
    from numpy.lib.npyio import NpzFile

    from trainables.places import Place

_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def read_array(arrays: NpzFile, name: str, file: Place) -> npt.NDArray[np.generic]:
    """An array of an opened npz file.

    Args:
        arrays: The file.
        name: The array: images along its first axis, or anything of fewer than three.
        file: Named by messages.

    Raises:
        DataError: One of its images has more pixels than the limit.
        KeyError: There is no such array.
        ValueError: It is no array of numbers.
    """
    shape = _shape(arrays, name)
    if len(shape) > 2:
        channels = 1 if len(shape) == 4 and shape[3] in (1, 3) else math.prod(shape[3:])
        refuse_too_large(shape[2] * channels, shape[1], f"{file}#{name}")
    array: npt.NDArray[np.generic] = arrays[name]
    return array


def _shape(arrays: NpzFile, name: str) -> tuple[int, ...]:
    members = arrays.zip.namelist() if arrays.zip is not None else []
    with arrays.zip.open(name if name in members else f"{name}.npy") as stream:  # type: ignore[union-attr]
        version = npy.read_magic(stream)
        if version not in _HEADERS:
            raise ValueError(f"its format {version} is not one of an array of numbers")
        shape: tuple[int, ...] = _HEADERS[version](stream)[0]
    return shape
