"""Validation curves of trials: what ``history.parquet`` says, one row per evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from search_spaces.exceptions import DataError

_COLUMNS = ("step", "val", "seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """The evaluations of one trial, E of them.

    Attributes:
        steps: (E,) optimiser steps done, increasing.
        values: (E,) primary metric on validation; NaN where undefined.
        seconds: (E,) of training and validation since the trial began; NaN where not recorded.
    """

    steps: NDArray[np.float64]
    values: NDArray[np.float64]
    seconds: NDArray[np.float64]


def read_history(path: Path) -> History:
    """One ``history.parquet``.

    Raises:
        DataError: The file is not Parquet, has no evaluation, lacks step or val, or its steps do not increase.
    """
    try:
        present = pq.read_schema(path).names
        table = pq.read_table(path, columns=[name for name in _COLUMNS if name in present])
        columns = {name: np.array(table[name].to_pylist(), dtype=np.float64) for name in table.column_names}
        steps, values = columns["step"], columns["val"]
    except (pa.ArrowInvalid, OSError, KeyError, ValueError, TypeError) as error:
        raise DataError(f"{path.name} is not a history with the columns step and val: {error}") from error
    if not len(steps) or not (np.diff(steps) > 0).all() or not steps[0] >= 0:
        raise DataError(f"{path.name}: steps of evaluations must increase from 0 on, got {steps[:5].tolist()}")
    return History(steps=steps, values=values, seconds=columns.get("seconds", np.full(len(steps), np.nan)))
