"""Distances between the outlines of two masks: the 95th percentile of Hausdorff's, and the normalised surface Dice.

The outline of a mask is its pixels with a neighbour (of four) outside the mask or the image. Distances are between
centres of pixels, in pixels of the original image, by scipy's exact Euclidean transform.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Distances = NDArray[np.float64]

UNDEFINED = float("nan")


def outline(mask: Mask) -> Mask:
    """The pixels of a mask that touch what is not of it, by an edge; (H, W)."""
    from scipy import ndimage  # slow to import, and needed for masks alone

    return np.asarray(mask & ~ndimage.binary_erosion(mask))


def outline_distances(a: Mask, b: Mask, spacing: tuple[float, float]) -> tuple[Distances, Distances]:
    """From each pixel of the outline of ``a`` to the outline of ``b``, and the other way round.

    Args:
        a: (H, W).
        b: (H, W).
        spacing: Height and width of a pixel.

    Returns:
        Empty where the outline is; infinite where only the other one is empty.
    """
    edges = outline(a), outline(b)
    return _to(edges[0], edges[1], spacing), _to(edges[1], edges[0], spacing)


def _to(source: Mask, target: Mask, spacing: tuple[float, float]) -> Distances:
    from scipy import ndimage

    if not target.any():
        return np.full(int(source.sum()), math.inf)
    return np.asarray(ndimage.distance_transform_edt(~target, sampling=spacing)[source])


def hd95(there: Distances, back: Distances) -> float:
    """The larger of the 95th percentiles (linear interpolation) of both directions; NaN if a mask is empty.

    As MONAI's ``compute_hausdorff_distance(percentile=95)``.

    Args:
        there: See ``outline_distances``.
        back: Likewise.
    """
    if not len(there) or not len(back):
        return UNDEFINED
    return float(max(np.percentile(there, 95), np.percentile(back, 95)))


def surface_dice(there: Distances, back: Distances, tolerance: float) -> float:
    """Share of both outlines that lies within the tolerance of the other (Nikolov et al. 2018), by pixels.

    As MONAI's ``compute_surface_dice`` without subvoxels. NaN if both masks are empty.

    Args:
        there: See ``outline_distances``.
        back: Likewise.
        tolerance: In the unit of the distances; counts as within.
    """
    total = len(there) + len(back)
    if not total:
        return UNDEFINED
    return float(((there <= tolerance).sum() + (back <= tolerance).sum()) / total)


def distance_scores(
    predicted: Mask, true: Mask, spacing: tuple[float, float], tolerance: float | None
) -> tuple[float, float]:
    """HD95 and normalised surface Dice of one label on one image.

    Both are NaN where the truth is empty or the size of the original image is not known. HD95 is NaN where nothing is
    predicted, as there is no distance to nothing; the surface Dice is then 0, as none of the outline is found. Without
    a tolerance it is NaN.

    Args:
        predicted: (H, W).
        true: (H, W).
        spacing: Height and width of a pixel in pixels of the original image.
        tolerance: In those.
    """
    if not true.any() or not np.isfinite(spacing).all():
        return UNDEFINED, UNDEFINED
    there, back = outline_distances(predicted, true, spacing)
    return hd95(there, back), UNDEFINED if tolerance is None else surface_dice(there, back, tolerance)
