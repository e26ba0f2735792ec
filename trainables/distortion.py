"""Grid and elastic distortion: where each point of the output is looked up before crop and rotation.

Coordinates run from -1 to 1 between the outer edges of the image, as in ``torch.nn.functional.grid_sample`` without
aligned corners.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def distorted(values: Tensor, cells: Tensor) -> Tensor:
    """Where points lie along one axis after the cells of an even grid have got other widths.

    The output is cut into even cells; each shows the cell of the input that has the drawn width, linearly stretched.

    Args:
        values: (B, h, w) or (1, h, w) coordinates along that axis.
        cells: (B, cells) widths, summing to 1.

    Returns:
        (B, h, w) coordinates.
    """
    batch, count = cells.shape
    place = ((values.flatten(1) + 1) / 2 * count).expand(batch, -1)
    cell = place.floor().clamp(0, count - 1).long()
    edges = F.pad(cells.cumsum(1), (1, 0))
    found = edges.gather(1, cell) + (place - cell) * cells.gather(1, cell)
    return (2 * found - 1).view(batch, *values.shape[1:])


def elastic_displacement(noise: Tensor, deviation: float, smoothness: float) -> Tensor:
    """Smooth random displacements of the points of an image (Simard et al. 2003).

    Args:
        noise: (B, 2, s, s) uniform in [-1, 1].
        deviation: Standard deviation of the displacement in units of the side (inside the image; near its edge, where
            the noise is mirrored, up to twice the variance).
        smoothness: Standard deviation of the Gaussian in units of the side, at most 0.2.

    Returns:
        (B, 2, s, s) displacements across and down, in coordinates from -1 to 1.
    """
    side = noise.shape[-1]
    kernel = _gaussian(smoothness * side).to(noise)
    reach = len(kernel) // 2
    planes = F.pad(noise.flatten(0, 1)[:, None], (reach,) * 4, mode="reflect")
    smooth = F.conv2d(F.conv2d(planes, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))
    # The variance of a uniform number in [-1, 1] is 1/3; that of a weighted sum its product with the squared weights.
    of_smooth = float((kernel**2).sum()) / math.sqrt(3)
    return smooth.view_as(noise) * (2 * deviation / of_smooth)


def _gaussian(sigma: float) -> Tensor:
    """Weights of a Gaussian cut at four standard deviations, summing to 1 (torchvision's ElasticTransform)."""
    reach = math.floor(4 * sigma)
    at = torch.arange(-reach, reach + 1, dtype=torch.float64)
    weights = torch.exp(-0.5 * (at / sigma) ** 2)
    return weights / weights.sum()
