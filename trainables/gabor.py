"""Gabor filters in the first convolution, everything else random: the synthetic initialisation of Transfusion.

Raghu et al. 2019 fill conv1 with generated Gabor filters and find the effect of pretrained ones. Their ranges are not
published; the defaults of ``search_spaces.source_specs.GaborSpec`` are this project's.
"""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor, nn

from search_spaces.exceptions import UserError
from search_spaces.source_specs import GaborSpec, Range

LEAST_WAVELENGTH = 2.0
"""Pixels: shorter waves cannot be told from longer ones on the kernel's grid (Nyquist)."""


def apply_gabor(module: nn.Module, spec: GaborSpec, seed: int) -> str:
    """Fill the first convolution that reads the image, in place.

    Filter (x, y in pixels from the kernel's centre, Daugman 1985): exp(-(x'^2 + (aspect y')^2) / (2 s^2)) cos(2 pi x' /
    wavelength + phase), with x', y' turned by the orientation. Orientation is uniform in [0, pi), phase in [0, 2 pi),
    the others in the spec's ranges. Each filter is the same for all input channels, has mean 0, and the root mean
    square of the layer's own random weights, so that only its form differs from them. Its bias, if it has one, stays.

    Args:
        module: Model with fresh weights.
        spec: Ranges.
        seed: The trial's init seed. The global random state is neither used nor changed.

    Returns:
        Name of the tensor that was filled.

    Raises:
        UserError: The model has no convolution of 3x3 or larger that reads 3 channels.
    """
    found = first_convolution(module)
    if found is None:
        raise UserError(
            "transform gabor needs a convolution of 3x3 pixels or larger that reads the 3 channels of the image; "
            "this model has none"
        )
    name, layer = found
    generator = torch.Generator().manual_seed(_seed(seed))
    filters, side = layer.weight.shape[0], min(layer.weight.shape[2:])
    drawn = torch.rand(filters, 5, generator=generator, dtype=torch.float64)
    lengths = [_between(drawn[:, n], r) for n, r in enumerate((spec.wavelength, spec.envelope, spec.aspect))]
    wave = (lengths[0] * side).clamp(min=LEAST_WAVELENGTH)
    bank = _gabor(layer.weight.shape[2:], wave, lengths[1] * side, lengths[2], drawn[:, 3] * math.pi, drawn[:, 4])
    bank = bank - bank.mean(dim=(1, 2), keepdim=True)
    size = layer.weight.detach().double().square().mean().sqrt()
    bank = bank * (size / bank.square().mean(dim=(1, 2), keepdim=True).sqrt())
    with torch.no_grad():
        layer.weight.copy_(bank[:, None].expand(layer.weight.shape))
    return f"{name}.weight"


def first_convolution(module: nn.Module) -> tuple[str, nn.Conv2d] | None:
    """Name and layer of the first convolution that reads the image's 3 channels in windows of 3x3 or more, if any."""
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Conv2d) and layer.weight.shape[1] == 3 and min(layer.weight.shape[2:]) >= 3:
            return name, layer
    return None


def _gabor(
    shape: torch.Size, wave: Tensor, envelope: Tensor, aspect: Tensor, orientation: Tensor, phase: Tensor
) -> Tensor:
    """(N, h, w) filters; lengths in pixels, phase in turns."""
    ys, xs = (torch.arange(n, dtype=torch.float64) - (n - 1) / 2 for n in shape)
    y, x = torch.meshgrid(ys, xs, indexing="ij")
    wave, envelope, aspect, orientation, phase = (
        t[:, None, None] for t in (wave, envelope, aspect, orientation, phase)
    )
    along = x * orientation.cos() + y * orientation.sin()
    across = y * orientation.cos() - x * orientation.sin()
    bell = torch.exp(-(along.square() + (aspect * across).square()) / (2 * envelope.square()))
    return bell * torch.cos(2 * math.pi * (along / wave + phase))


def _between(unit: Tensor, limits: Range) -> Tensor:
    return limits[0] + (limits[1] - limits[0]) * unit


def _seed(seed: int) -> int:
    return int.from_bytes(hashlib.sha256(f"gabor:{seed}".encode()).digest()[:8], "big", signed=True)
