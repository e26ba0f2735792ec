"""Copies of images that an imported task holds: equal bytes, and near copies on both sides of an evaluation."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from search_spaces.names import Column, Split
from trainables.check_outcomes import Check, Outcome
from trainables.duplicates import identical_images
from trainables.image_hashes import Side, near_copies, remember_hashes
from trainables.library import TaskLibrary
from trainables.manifest import Manifest
from trainables.similar_images import LEAST_CORRELATION, Hashes

_REMEDY = "import with --drop-duplicates marks all but one as unused"


NOT_LOOKED_FOR = [
    Outcome(
        check=Check.EVALUATION_COPIES,
        found=None,
        warnings=("copies of images were not looked for: first all images must be readable",),
    ),
    Outcome(check=Check.OTHER_COPIES, found=None),
    Outcome(check=Check.NEAR_COPIES, found=None),
]


def find_copies(library: TaskLibrary, manifest: Manifest, hashes: Hashes, plain: NDArray[np.bool_]) -> list[Outcome]:
    """Copies among the images of a manifest, as sets of identical images and as images of test or external with a near
    copy, of other bytes, in train or val; remembers the hashes.

    Args:
        library: Where the task is.
        manifest: Its manifest; all images are readable.
        hashes: Of all images in the order of the rows, see ``trainables.similar_images``.
        plain: Images too plain to be compared.
    """
    identical = identical_images(manifest.table, library.byte_digests(manifest))
    spoiling = [c for c in identical if _spoils(c)]
    across = [c for c in identical if c[Column.SPLIT].nunique() > 1 and not _spoils(c)]
    inside = [c for c in identical if c[Column.SPLIT].nunique() == 1]
    return [
        Outcome(
            check=Check.EVALUATION_COPIES,
            found=len(spoiling),
            errors=tuple(f"identical images on both sides of an evaluation: {_ids(c)}; {_REMEDY}" for c in spoiling),
        ),
        Outcome(
            check=Check.OTHER_COPIES,
            found=len(across) + len(inside),
            warnings=tuple(
                f"{len(sets)} sets of identical images {where}, such as {_ids(sets[0])}; {_REMEDY}"
                for sets, where in ((across, "in train and val"), (inside, "inside a split"))
                if sets
            ),
        ),
        _near(manifest, _across_an_evaluation(library, manifest, hashes, plain)),
    ]


def _near(manifest: Manifest, alike: pd.DataFrame) -> Outcome:
    if not len(alike):
        return Outcome(check=Check.NEAR_COPIES, found=0)
    first = manifest.table.loc[alike[["row", "other_row"]].iloc[0].tolist()]
    count = int(alike["row"].nunique())
    text = (
        f"{count} images of test or external look like images of train or val (correlation of grey values at least "
        f"{LEAST_CORRELATION:g}), such as {_ids(first)}; if they are copies, mark one as unused in the split column"
    )
    return Outcome(check=Check.NEAR_COPIES, found=count, warnings=(text,))


def _across_an_evaluation(
    library: TaskLibrary, manifest: Manifest, hashes: Hashes, plain: NDArray[np.bool_]
) -> pd.DataFrame:
    """Pairs of a scored and a learnt image that are near copies without being identical."""
    known = remember_hashes(library, manifest, hashes, plain)
    splits = manifest.table[Column.SPLIT]
    scored, learnt = (
        Side(manifest, known, np.flatnonzero(splits.isin(names)))
        for names in ((Split.TEST, Split.EXTERNAL), (Split.TRAIN, Split.VAL))
    )
    pairs = near_copies(library, scored, learnt)
    return pairs[~pairs["identical"]]


def _spoils(copies: pd.DataFrame) -> bool:
    """Between train and val a copy flatters the selection only; in test or external it flatters the result."""
    return copies[Column.SPLIT].nunique() > 1 and bool(copies[Column.SPLIT].isin((Split.TEST, Split.EXTERNAL)).any())


def _ids(copies: pd.DataFrame) -> str:
    return ", ".join(f"{i} ({s})" for i, s in zip(copies[Column.IMAGE_ID], copies[Column.SPLIT], strict=True))
