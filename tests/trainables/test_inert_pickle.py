"""Arrays of pickles against numpy's own reading, and pickles that would have memory read that is not theirs."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from search_spaces.exceptions import UserError
from trainables.inert_pickle import array_tables, read_inert

_RECONSTRUCT, _EMPTY, _ = np.empty(0).__reduce__()
_DTYPE = np.dtype("f8").__reduce__()


class Calls:
    """Pickles as a call, and a state that what it gives is set to."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self._reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> Any:
        return self._reduced


def read(tmp_path: Path, content: Any, protocol: int = 4) -> Any:
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(content, protocol))
    return read_inert(path)


@pytest.mark.parametrize("protocol", range(3, 6))
@pytest.mark.parametrize("code", ["<f4", ">f8", "<i8", ">u2", "|u1", "|i1", "|b1", "<c8"])
def test_arrays_are_those_of_numpy(tmp_path: Path, code: str, protocol: int) -> None:
    rows = np.arange(24).reshape(2, 3, 4).astype(code)
    held = [rows, np.asfortranarray(rows), rows.transpose(1, 0, 2), rows[:0], rows[0, 0, 0], np.asarray(rows[1, 2, 3])]
    for expected, found in zip(held, read(tmp_path, held, protocol), strict=True):
        array = np.asarray(found)
        assert array.dtype == expected.dtype
        np.testing.assert_array_equal(array, expected)


POINTER = (0xDEADBEEF).to_bytes(8, "little")


@pytest.mark.parametrize(
    "attack",
    [
        Calls(np.ndarray, (1,), np.dtype("O"), POINTER),
        Calls(np.ndarray, (1,), Calls(np.dtype, "f8"), POINTER),
        Calls(_RECONSTRUCT, *_EMPTY, state=(1, (1,), Calls(np.dtype, "O"), False, POINTER)),
        Calls(_RECONSTRUCT, *_EMPTY, state=(1, (1,), Calls(np.dtype, "f8"), False, [object])),
        Calls(_RECONSTRUCT, *_EMPTY, state=(1, (1000,), Calls(np.dtype, "f8"), False, POINTER)),
        Calls(_RECONSTRUCT, *_EMPTY, state=(1, (-1,), Calls(np.dtype, "f8"), False, POINTER)),
        Calls(_RECONSTRUCT, np.memmap, (0,), b"b", state=(1, (1,), Calls(np.dtype, "f8"), False, POINTER)),
        Calls(np.empty(1).__reduce_ex__(5)[0], bytearray(POINTER), np.dtype("O"), (1,), "C"),
        Calls(np.float64(0).__reduce__()[0], np.dtype("O"), POINTER),
        Calls(np.float64(0).__reduce__()[0], Calls(np.dtype, "f8"), POINTER[:4]),
        Calls(*_DTYPE[:1], "f8", state=(3, "|", None, ("a",), {"a": (np.dtype("O"), 0)}, 8, 8, 63)),
        Calls(*_DTYPE[:1], "f8", state=(3, "|", (np.dtype("f8"), (9,)), None, None, 8, 8, 0)),
        Calls(*_DTYPE[:1], "f8", state=(3, "O", None, None, None, -1, -1, 63)),
        np.array([{}], dtype=object),
    ],
)
def test_what_would_make_an_array_of_other_than_its_bytes_is_refused(tmp_path: Path, attack: Any) -> None:
    with pytest.raises(UserError, match="is refused: it "):
        read(tmp_path, {"a": {"b": attack}})


def test_an_array_without_values_is_refused(tmp_path: Path) -> None:
    content = read(tmp_path, {"a": {"b": Calls(_RECONSTRUCT, *_EMPTY)}})
    with pytest.raises(UserError, match="without values"):
        list(array_tables(content))
