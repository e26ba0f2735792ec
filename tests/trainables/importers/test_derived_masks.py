from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces.exceptions import DataError
from trainables.importers.derived_masks import drawn_mask
from trainables.importers.map_parts import RunLengths


def encoded(mask, spec):
    """Run lengths of a mask, written the plain way: pixel after pixel."""
    flat = (mask.T if spec.order == "columns" else mask).ravel()
    runs, start = [], None
    for position, value in enumerate([*flat, False]):
        if value and start is None:
            start = position
        elif not value and start is not None:
            runs.append((start, position - start))
            start = None
    if not runs:
        return spec.none[0]
    if spec.start == "absolute":
        return " ".join(f"{start + 1} {length}" for start, length in runs)
    ends = [0, *(start + length for start, length in runs)]
    return " ".join(f"{start - end} {length}" for (start, length), end in zip(runs, ends, strict=False))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 6), st.integers(1, 6), st.sampled_from(["columns", "rows"]),
    st.sampled_from(["absolute", "relative"]), st.integers(0, 2**36 - 1),
)  # fmt: skip
def test_run_lengths_are_drawn_back(height, width, order, start, bits):
    mask = np.array([bits >> i & 1 for i in range(height * width)], dtype=bool).reshape(height, width)
    spec = RunLengths(column="c", height=height, width=width, order=order, start=start)
    np.testing.assert_array_equal(drawn_mask(encoded(mask, spec), spec), mask)


def test_several_lists_are_put_together():
    spec = RunLengths(column="c", height=2, width=3, order="rows", start="absolute")
    assert drawn_mask("1 1|6 1|-1", spec).astype(int).tolist() == [[1, 0, 0], [0, 0, 1]]


@pytest.mark.parametrize("cell", ["1", "1 2 3", "a 1", "6 2", "0 1", "2 -1", "", "9999999999999 1"])
def test_what_are_no_run_lengths(cell):
    with pytest.raises(DataError, match="run lengths"):
        drawn_mask(cell, RunLengths(column="c", height=2, width=3, order="rows", start="absolute"))
