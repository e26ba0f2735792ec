"""Brightness, contrast, saturation and hue of batches, each sample by its own factor, as torchvision does it to one.

Pixels are floats from 0 to 255, shape (B, 3, H, W); factors have shape (B,). Each operator cuts its result to the range
of a pixel.
"""

from __future__ import annotations

import torch
from torch import Tensor

LUMINANCE = (0.2989, 0.587, 0.114)
"""Weights of R, G and B in the grey level (ITU-R BT.601)."""


def adjust_brightness(pixels: Tensor, factors: Tensor) -> Tensor:
    """Pixels times the factor."""
    return (pixels * factors[:, None, None, None]).clamp_(0, 255)


def adjust_contrast(pixels: Tensor, factors: Tensor, luminance: Tensor) -> Tensor:
    """Distance from the image's mean grey level times the factor."""
    grey = (pixels * luminance).sum(1, keepdim=True).mean((2, 3), keepdim=True)
    return torch.lerp(grey, pixels, factors[:, None, None, None]).clamp_(0, 255)


def adjust_saturation(pixels: Tensor, factors: Tensor, luminance: Tensor) -> Tensor:
    """Distance from each pixel's own grey level times the factor."""
    grey = (pixels * luminance).sum(1, keepdim=True)
    return torch.lerp(grey, pixels, factors[:, None, None, None]).clamp_(0, 255)


def adjust_hue(pixels: Tensor, turns: Tensor) -> Tensor:
    """Hue turned by a share of the full circle; brightness and saturation (of HSV) stay.

    Formulas: hexagonal HSV of Smith 1978; the way back in one expression per channel,
    V - V S max(0, min(k, 4 - k, 1)) with k = (n + 6 H) mod 6 and n = 5, 3, 1 for R, G, B.
    """
    red, green, blue = pixels.unbind(1)
    value, low = pixels.amax(1), pixels.amin(1)
    chroma = value - low
    safe = torch.where(chroma == 0, 1.0, chroma)
    hue = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    hue = hue + 6 * turns[:, None, None]
    channels = []
    for n in (5, 3, 1):
        k = torch.remainder(n + hue, 6)
        channels.append(value - chroma * torch.minimum(k, 4 - k).clamp_(0, 1))
    return torch.stack(channels, 1).clamp_(0, 255)
