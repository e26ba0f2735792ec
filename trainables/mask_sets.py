"""The masks of a set of images, beside its targets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from search_spaces.names import Column
from trainables.label_values import Columns
from trainables.manifest import Manifest

if TYPE_CHECKING:  # it imports torch, which a plan does without
    from trainables.prefetch import ImageArray


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskSet:
    """Masks of the images of a set.

    Attributes:
        planes: (M, S, S) uint8, read-only: labels of the pixels of all images of the manifest, see
            ``trainables.mask_labels.mask_plane``. S may be another side than that of the images.
        values: Of each label of the task, its value in ``planes``; 0 where the manifest has no such label.
        pixel_sizes: (N, 2) float64: height and width of a pixel of ``planes`` in pixels of the original image, one row
            per image of the set; NaN where the manifest does not know the size.
    """

    planes: ImageArray
    values: tuple[int, ...]
    pixel_sizes: NDArray[np.float64]

    def take(self, index: NDArray[np.int64]) -> MaskSet:
        """Those of these rows of the set."""
        return MaskSet(planes=self.planes, values=self.values, pixel_sizes=self.pixel_sizes[index])


def mask_set(planes: ImageArray, manifest: Manifest, columns: Columns, positions: NDArray[np.int64]) -> MaskSet:
    """The masks of these rows of a manifest.

    Args:
        planes: See ``MaskSet``.
        manifest: Of masks.
        columns: The task's label -> the manifest's, None where it has none.
        positions: (N,) rows of the manifest's table.
    """
    values = tuple(0 if other is None else manifest.labels.index(other) + 1 for other in columns.values())
    table, side = manifest.table.iloc[positions], planes.shape[1]
    sizes = [
        table[c].astype("Float64").to_numpy(np.float64, na_value=np.nan) if c in table else np.full(len(table), np.nan)
        for c in (Column.HEIGHT, Column.WIDTH)
    ]
    return MaskSet(planes=planes, values=values, pixel_sizes=np.stack(sizes, axis=1) / side)
