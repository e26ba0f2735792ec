"""Pickles of other software, read without importing or running any of it.

A pickle names classes and functions and calls them while it is read. Here only those that make plain containers are
real; those that make numpy arrays are replaced by ``trainables.pickled_arrays``. Everything else becomes an inert
record of its name and of what it was called with, in which arrays can be looked for.
"""

from __future__ import annotations

import builtins
import collections
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from search_spaces.exceptions import UserError
from trainables.pickled_arrays import FromBuffer, NumpyArrayType, NumpyDtype, PickledArray, Reconstructed, Scalar

_MOST_LEVELS = 12
_PLAIN = ("dict", "list", "tuple", "set", "frozenset", "int", "float", "bool", "complex", "str", "bytes", "bytearray")
_NUMPY_MODULES = ("numpy.core", "numpy._core")
"""The same functions under the names of numpy 1 and 2."""

_CALLABLE: dict[tuple[str, str], Any] = {
    **{("builtins", name): getattr(builtins, name) for name in _PLAIN},
    **{("__builtin__", name): getattr(builtins, name) for name in _PLAIN},
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("numpy", "ndarray"): NumpyArrayType,
    ("numpy", "dtype"): NumpyDtype,
    **{(f"{m}.multiarray", "_reconstruct"): Reconstructed for m in _NUMPY_MODULES},
    **{(f"{m}.multiarray", "scalar"): Scalar for m in _NUMPY_MODULES},
    **{(f"{m}.numeric", "_frombuffer"): FromBuffer for m in _NUMPY_MODULES},
}


class Inert:
    """An object of other software: what it was made from, nothing of what it does.

    Attributes:
        what: ``module.name`` of the class or function.
        arguments: It was called with these.
        state: It was given this.
    """

    what = ""

    def __new__(cls, *arguments: Any, **_: Any) -> Inert:  # noqa: D102 - what the class docstring says
        made = super().__new__(cls)
        made.arguments = arguments
        made.state = None
        return made

    def __init__(self, *arguments: Any, **_: Any) -> None:
        self.arguments: tuple[Any, ...]
        self.state: Any

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.arguments = (*self.arguments, {key: value})

    def append(self, value: Any) -> None:
        """What a list-like object is filled with."""
        self.arguments = (*self.arguments, value)

    def extend(self, values: Any) -> None:
        """Likewise, several at once."""
        self.arguments = (*self.arguments, *values)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        known = _CALLABLE.get((module, name))
        if known is not None:
            return known
        return type(name.rpartition(".")[2] or "Inert", (Inert,), {"what": f"{module}.{name}"})


def read_inert(path: str | Path, encoding: str = "ASCII") -> Any:
    """The content of a pickle; objects of other software as ``Inert``, arrays as ``PickledArray``.

    Args:
        path: The file.
        encoding: What texts of Python 2 are taken for; ``bytes`` leaves them as they are.

    Raises:
        UserError: The file is missing, damaged, no such pickle, or has arrays of other than plain numbers.
    """
    file = Path(path).expanduser()
    try:
        with file.open("rb") as stream:
            return _Unpickler(stream, encoding=encoding).load()
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror or error}") from error
    except UserError as error:
        raise UserError(f"{file} is refused: {error}") from error
    except Exception as error:
        raise UserError(
            f"{file} is damaged, cut off, or no pickle of arrays and plain containers: {type(error).__name__}: {error}"
        ) from error


def inside(value: Any) -> Iterator[Any]:
    """What an object holds directly: of a mapping its values, of an inert object its arguments and state."""
    if isinstance(value, Inert):
        yield from value.arguments
        yield value.state
    elif isinstance(value, Mapping):
        yield from value.values()
    elif isinstance(value, list | tuple):
        yield from value


def array_tables(value: Any, level: int = 0) -> Iterator[dict[str, dict[str, np.ndarray[Any, Any]]]]:
    """Every two-level table of arrays (module -> name -> array), which is how Haiku keeps parameters, in file order."""
    if level > _MOST_LEVELS:
        return
    table = _table(value)
    if table:
        yield table
        return
    for held in inside(value):
        yield from array_tables(held, level + 1)


def _table(value: Any) -> dict[str, dict[str, np.ndarray[Any, Any]]]:
    table: dict[str, dict[str, np.ndarray[Any, Any]]] = {}
    for module, entry in _entries(value):
        arrays = {name: array for name, leaf in _entries(entry) if (array := _array(leaf)) is not None}
        if not arrays:
            return {}
        table[module] = arrays
    return table


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    """Entries of a mapping with text keys, or of an inert object around one."""
    if isinstance(value, Inert):
        mappings = [held for held in inside(value) if isinstance(held, Mapping)]
        for mapping in mappings:
            # An object's own state may keep the mapping under an attribute.
            inner = [held for held in mapping.values() if isinstance(held, Mapping)]
            is_state = value.state is mapping and len(mapping) == len(inner) == 1
            yield from _entries(inner[0] if is_state else mapping)
    elif isinstance(value, Mapping):
        yield from ((key, held) for key, held in value.items() if isinstance(key, str))


def _array(leaf: Any) -> np.ndarray[Any, Any] | None:
    if isinstance(leaf, Inert) and len(leaf.arguments) >= 3:
        # Later versions of JAX: a function with numpy's own way of making an array as its arguments.
        make, arguments, state = leaf.arguments[:3]
        if make is Reconstructed and isinstance(arguments, tuple) and arguments:
            leaf = Reconstructed(*arguments)
            leaf.__setstate__(state)
    if isinstance(leaf, PickledArray) and leaf.values.dtype.kind in "fiu":
        return leaf.values
    return None
