"""Arrays of numbers out of pickles, made from their bytes alone.

What a pickle may call in place of numpy's own types and functions, which take object types, pointers and buffers of any
length. Here a type is a code of plain numbers, and an array is as many bytes as its shape says.
"""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import numpy.typing as npt

from search_spaces.exceptions import UserError

_CODE = re.compile(r"([<>|=]?)([biufc]\d{1,2})")
_ORDERS = ("<", ">", "|", "=")


class NumpyArrayType:
    """Stands for ``numpy.ndarray``, which is named in pickles and not called.

    Raises:
        UserError: It is called.
    """

    def __init__(self, *_: Any) -> None:
        raise UserError("it makes an array over memory of its own choice; only arrays of plain numbers are read")

    def __setstate__(self, state: Any) -> None:
        raise UserError("it gives a bare array a state; only arrays of plain numbers are read")


class NumpyDtype:
    """Stands for ``numpy.dtype``: whole, floating or complex numbers or truth values.

    Raises:
        UserError: Another type.
    """

    plain: np.dtype[Any] | None = None

    def __init__(self, code: Any, *_: Any) -> None:
        found = _CODE.fullmatch(_text(code))
        if found is None:
            raise UserError(f"it holds an array of type {code!r}; only plain numbers are read")
        try:
            self.plain = np.dtype(found[0])
        except TypeError:
            raise UserError(f"it holds an array of type {code!r}, which numpy does not know") from None

    def __setstate__(self, state: Any) -> None:
        """Take the byte order of numpy's state: version, order, then what only structured types have."""
        well_formed = isinstance(state, tuple) and len(state) >= 5 and state[2:5] == (None, None, None)
        if self.plain is None or not well_formed or (order := _text(state[1])) not in _ORDERS:
            raise UserError("it holds an array whose type has a state of more than a byte order")
        self.plain = self.plain.newbyteorder(order)  # type: ignore[arg-type]  # one of the four


class PickledArray:
    """An array as it is read; ``numpy.asarray`` takes it."""

    _values: npt.NDArray[Any] | None = None

    @property
    def values(self) -> npt.NDArray[Any]:
        """The array.

        Raises:
            UserError: It was never given any.
        """
        if self._values is None:
            raise UserError("it holds an array without values")
        return self._values

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.array(self.values, dtype=dtype, copy=copy)

    def __setstate__(self, state: Any) -> None:
        """Take numpy's state: version, shape, type, whether Fortran order, bytes.

        Raises:
            UserError: Another state, or other than as many bytes as shape and type say.
        """
        if not isinstance(state, tuple) or len(state) != 5:
            raise UserError("it holds an array with a state of another form than numpy's")
        _, shape, dtype, is_fortran, raw = state
        self._values = _plain_array(raw, dtype, shape, "F" if is_fortran else "C")


class Reconstructed(PickledArray):
    """Stands for ``_reconstruct``: an empty array that is then given a state."""

    def __init__(self, kind: Any, *_: Any) -> None:
        if kind is not NumpyArrayType:
            raise UserError("it holds an array of a class of its own; only plain arrays are read")


class FromBuffer(PickledArray):
    """Stands for ``_frombuffer`` of protocol 5: bytes, type, shape, order, and the axes' order of a transposed one."""

    def __init__(self, raw: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> None:
        values = _plain_array(raw, dtype, shape, "F" if _text(order) == "F" else "C")
        if axes is not None and sorted(axes) != list(range(values.ndim)):
            raise UserError(f"it holds an array of {values.ndim} axes in the order {axes!r}")
        self._values = values if axes is None else values.transpose(axes)


class Scalar(PickledArray):
    """Stands for ``scalar``: a type and the bytes of one number."""

    def __init__(self, dtype: Any, raw: Any = None) -> None:
        self._values = _plain_array(raw, dtype, (), "C")


def _text(written: Any) -> str:
    """Python 2 wrote bytes; what is neither is no text."""
    if isinstance(written, bytes):
        return written.decode("latin-1")
    return written if isinstance(written, str) else ""


def _plain_array(raw: Any, dtype: Any, shape: Any, order: Any) -> npt.NDArray[Any]:
    """A copy of the bytes.

    Raises:
        UserError: They are not bytes, or not as many as shape and type say.
    """
    if not isinstance(dtype, NumpyDtype) or dtype.plain is None:
        raise UserError("it holds an array without a type of plain numbers")
    sides = shape if isinstance(shape, tuple) else (shape,)
    if not all(type(side) is int and side >= 0 for side in sides):
        raise UserError(f"it holds an array of shape {shape!r}")
    if not isinstance(raw, bytes | bytearray):
        raise UserError(f"it holds an array whose values are a {type(raw).__name__}; bytes expected")
    if len(raw) != math.prod(sides) * dtype.plain.itemsize:
        raise UserError(f"it holds an array of shape {sides} and type {dtype.plain} in {len(raw)} bytes")
    flat = np.frombuffer(raw, dtype.plain) if len(raw) else np.empty(0, dtype.plain)
    return flat.reshape(sides, order=order).copy(order="K")
