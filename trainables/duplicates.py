"""Images that a data set holds more than once, byte for byte."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd

from search_spaces.names import Column, Split
from trainables.manifest import Manifest

_KEPT_FIRST = (Split.TEST, Split.EXTERNAL, Split.VAL, Split.TRAIN)
"""Which copy stays: evaluation sets stay as the data set defines them, training gives way."""


def identical_images(table: pd.DataFrame, digests: pd.DataFrame) -> tuple[pd.DataFrame, ...]:
    """Sets of two or more images in use that have the same bytes.

    Args:
        table: A manifest's table.
        digests: ``TaskLibrary.byte_digests`` of the same manifest.

    Returns:
        ``image_id`` and ``split`` of each set, index as in ``table``, sets in the order of their first image.
    """
    rows = table[[Column.IMAGE_ID, Column.SPLIT]].assign(sha256=digests["sha256"].to_numpy())
    rows = rows[rows[Column.SPLIT] != Split.UNUSED]
    repeated = rows[rows["sha256"].duplicated(keep=False)]
    return tuple(copies.drop(columns="sha256") for _, copies in repeated.groupby("sha256", sort=False))


def without_duplicates(manifest: Manifest, digests: pd.DataFrame) -> Manifest:
    """All copies but one marked as unused: a copy in test stays before one in external, val or train.

    Args:
        manifest: Any manifest.
        digests: ``TaskLibrary.byte_digests`` of it.
    """
    rank = {split.value: i for i, split in enumerate(_KEPT_FIRST)}
    dropped: list[int] = []
    for copies in identical_images(manifest.table, digests):
        dropped += copies[Column.SPLIT].map(rank).sort_values(kind="stable").index[1:].tolist()
    if not dropped:
        return manifest
    split = manifest.table[Column.SPLIT].copy()
    split.loc[dropped] = Split.UNUSED.value
    note = f"{len(dropped)} copies of identical images are marked as unused"
    return replace(manifest, table=manifest.table.assign(**{Column.SPLIT: split}), notes=(*manifest.notes, note))
