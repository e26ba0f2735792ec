"""The images whose activations are kept: drawn once per task, the same for every trial of it.

An image is ranked by a hash of the seed and its keyed id, so the draw depends on neither the order of rows, nor the
scale, nor the amount; evaluation sets and validation never hold an image that is trained on
(``trainables.evaluation_sets``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from search_spaces.names import Column, Split
from search_spaces.representations import ProbeSpec
from search_spaces.trial import ResolvedTask
from trainables.task_data import LabelledSet, TaskData, shown_columns

Ids = Sequence[str]
"""Keyed hashes of image ids, 16 hexadecimal digits each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """The images of a task's probe.

    Attributes:
        parts: The images, set after set.
        ids: (N,) keyed hashes of their ids, in that order; those of predictions.
    """

    parts: tuple[LabelledSet, ...]
    ids: tuple[str, ...]

    @property
    def hash(self) -> str:
        """Equal for the same images in the same order."""
        return hashlib.sha256("".join(self.ids).encode()).hexdigest()[:16]

    @property
    def packed_ids(self) -> NDArray[np.uint8]:
        """(N, 8) bytes of the ids."""
        return np.frombuffer(bytes.fromhex("".join(self.ids)), dtype=np.uint8).reshape(-1, 8)


def draw_probe(spec: ProbeSpec, data: TaskData, task: ResolvedTask) -> Probe:
    """The probe of a task from the arrays of one of its trials.

    Args:
        spec: What is asked for; its sets are known to the task.
        data: Of any trial of the task.
        task: The task.
    """
    pools = {name: data.all_val if name == Split.VAL else data.sets[name] for name in spec.sets}
    ids = {name: list(shown_columns(pool, task, name)[0][Column.IMAGE_ID]) for name, pool in pools.items()}
    chosen = drawn_rows(spec, ids)
    return Probe(
        parts=tuple(pools[name].take(rows) for name, rows in chosen.items()),
        ids=tuple(ids[name][row] for name, rows in chosen.items() for row in rows),
    )


def drawn_rows(spec: ProbeSpec, ids: Mapping[str, Ids]) -> dict[str, NDArray[np.int64]]:
    """Set -> rows that are drawn from it, in the order of the draw; an image of two sets counts in the first.

    Args:
        spec: How many, and the seed.
        ids: Set -> keyed hashes of its images.
    """
    first: dict[str, tuple[str, int]] = {}
    for name, of_set in ids.items():
        for row, image in enumerate(of_set):
            first.setdefault(image, (name, row))
    ranked = sorted(first, key=_rank(spec.seed))[: spec.images]
    rows: dict[str, list[int]] = {name: [] for name in ids}
    for image in ranked:
        name, row = first[image]
        rows[name].append(row)
    return {name: np.array(found, dtype=np.int64) for name, found in rows.items() if found}


def _rank(seed: int) -> Callable[[str], bytes]:
    return lambda image: hashlib.sha256(f"probe:{seed}:{image}".encode()).digest()
