"""What is random in a training image: the parameters of every operator, drawn per sample.

Drawn on the CPU whatever the device, so that a trial sees the same crops on every machine. The same amount is drawn
whatever is switched on, so that one operator does not move the draws of another.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from search_spaces.protocol import Augmentation

TRIES = 10
"""Draws of (area, ratio) until a box fits the image, as in torchvision's RandomResizedCrop and RandomErasing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draws:
    """Parameters of one batch, each of shape (B,), float64, on the CPU. Lengths in units of the image's side.

    Attributes:
        centre_x: Of the crop box, from the left.
        centre_y: Of the crop box, from the top.
        width: Of the crop box.
        height: Of the crop box.
        flip_x: -1 for a left-right flip, else 1.
        flip_y: -1 for an up-down flip, else 1.
        angle: Radians, counter-clockwise as seen.
        brightness: Factor.
        contrast: Factor.
        saturation: Factor; None if off.
        hue: Share of a full turn; None if off.
        erased: (B, 4) left, top, right and bottom edge of what is erased in pixels of the output, right and bottom not
            included; all 0 for nothing; None if off.
        cells: (B, 2, cells) widths of the grid's cells across and heights down, each summing to 1; None if off.
    """

    centre_x: Tensor
    centre_y: Tensor
    width: Tensor
    height: Tensor
    flip_x: Tensor
    flip_y: Tensor
    angle: Tensor
    brightness: Tensor
    contrast: Tensor
    saturation: Tensor | None = None
    hue: Tensor | None = None
    erased: Tensor | None = None
    cells: Tensor | None = None


def draw(augmentation: Augmentation, batch: int, generator: torch.Generator, stored: int, size: int) -> Draws:
    """Draw the parameters of a batch.

    Args:
        augmentation: The protocol's ranges.
        batch: Number of samples.
        generator: On the CPU.
        stored: Side of the stored images in pixels.
        size: Side of the output in pixels.

    Raises:
        ValueError: A fixed crop is larger than the stored images.
    """
    u = torch.rand(batch, 2 * TRIES + 7, generator=generator, dtype=torch.float64)
    x, y, flip_x, flip_y, angle, brightness, contrast = u[:, 2 * TRIES :].unbind(1)
    if augmentation.crop == "fixed":
        width = height = torch.full((batch,), size / stored, dtype=torch.float64)
        centre_x, centre_y = (_whole_pixels(position, stored, size) + width / 2 for position in (x, y))
    else:
        width, height = _crop_sides(augmentation, u[:, :TRIES], u[:, TRIES : 2 * TRIES])
        centre_x, centre_y = width / 2 + x * (1 - width), height / 2 + y * (1 - height)
    return Draws(
        centre_x=centre_x,
        centre_y=centre_y,
        width=width,
        height=height,
        flip_x=torch.where(flip_x < augmentation.horizontal_flip, -1.0, 1.0),
        flip_y=torch.where(flip_y < augmentation.vertical_flip, -1.0, 1.0),
        angle=math.radians(augmentation.rotation_degrees) * (2 * angle - 1),
        brightness=1 + augmentation.brightness * (2 * brightness - 1),
        contrast=1 + augmentation.contrast * (2 * contrast - 1),
        **_later_draws(augmentation, batch, generator, size),
    )


def _later_draws(
    augmentation: Augmentation, batch: int, generator: torch.Generator, size: int
) -> dict[str, Tensor | None]:
    """Parameters of the operators that the first draw leaves out; nothing is drawn if all of them are off."""
    a = augmentation
    if not (a.saturation or a.hue or a.erasing or a.grid_distortion or a.elastic):
        return {}
    u = torch.rand(batch, 2 * TRIES + 5, generator=generator, dtype=torch.float64)
    saturation, hue, erase, x, y = u[:, 2 * TRIES :].unbind(1)
    cells = torch.rand(batch, 2, a.grid_cells, generator=generator, dtype=torch.float64)
    boxes = None
    if a.erasing:
        boxes = _erased(augmentation, u[:, :TRIES], u[:, TRIES : 2 * TRIES], x, y, size)
        boxes = boxes * (erase < a.erasing)[:, None]
    widths = 1 + a.grid_distortion * (2 * cells - 1)
    return {
        "saturation": 1 + a.saturation * (2 * saturation - 1) if a.saturation else None,
        "hue": a.hue * (2 * hue - 1) if a.hue else None,
        "erased": boxes,
        "cells": widths / widths.sum(2, keepdim=True) if a.grid_distortion else None,
    }


def _whole_pixels(u: Tensor, stored: int, size: int) -> Tensor:
    """Left edge of a box of ``size`` pixels, equally likely at every pixel, in units of the side."""
    if size > stored:
        raise ValueError(f"a fixed crop of {size} px does not fit stored images of {stored} px")
    return torch.floor(u * (stored - size + 1)).clamp(max=stored - size) / stored


def _crop_sides(augmentation: Augmentation, u_area: Tensor, u_ratio: Tensor) -> tuple[Tensor, Tensor]:
    """Width and height of the first box that fits; if none does, the largest of the ratio nearest to square."""
    if augmentation.crop_scale == (1.0, 1.0):
        whole = torch.ones(len(u_area), dtype=u_area.dtype)
        return whole, whole
    (low, high), (low_ratio, high_ratio) = augmentation.crop_scale, augmentation.crop_ratio
    area = low + (high - low) * u_area
    ratio = _log_uniform(u_ratio, low_ratio, high_ratio)
    width, height = torch.sqrt(area * ratio), torch.sqrt(area / ratio)
    fits = (width <= 1) & (height <= 1)
    first = fits.to(torch.uint8).argmax(1, keepdim=True)
    nearest = min(max(1.0, low_ratio), high_ratio)
    any_fits = fits.any(1)
    return (
        torch.where(any_fits, width.gather(1, first)[:, 0], min(1.0, nearest)),
        torch.where(any_fits, height.gather(1, first)[:, 0], min(1.0, 1 / nearest)),
    )


def _erased(augmentation: Augmentation, u_area: Tensor, u_ratio: Tensor, x: Tensor, y: Tensor, size: int) -> Tensor:
    """(B, 4) edges of the first box that is smaller than the image, as in torchvision's RandomErasing; 0 if none is."""
    low, high = augmentation.erasing_scale
    area = (low + (high - low) * u_area) * size * size
    ratio = _log_uniform(u_ratio, *augmentation.erasing_ratio)
    heights, widths = torch.round(torch.sqrt(area * ratio)), torch.round(torch.sqrt(area / ratio))
    fits = (heights < size) & (widths < size)
    first = fits.to(torch.uint8).argmax(1, keepdim=True)
    height, width = heights.gather(1, first)[:, 0], widths.gather(1, first)[:, 0]
    left = torch.floor(x * (size - width + 1)).clamp(max=size - 1)
    top = torch.floor(y * (size - height + 1)).clamp(max=size - 1)
    return torch.stack([left, top, left + width, top + height], 1) * fits.any(1, keepdim=True)


def _log_uniform(u: Tensor, low: float, high: float) -> Tensor:
    return torch.exp(math.log(low) + (math.log(high) - math.log(low)) * u)


def affine_maps(draws: Draws) -> Tensor:
    """(B, 2, 3) maps from output to input coordinates, both from -1 to 1 between the outer edges of the image.

    A point of the output is flipped, stretched to the crop box, turned around the box's centre and moved there.
    """
    cos, sin = torch.cos(draws.angle), torch.sin(draws.angle)
    across, down = draws.flip_x * draws.width, draws.flip_y * draws.height
    row_x = torch.stack([cos * across, -sin * down, 2 * draws.centre_x - 1], 1)
    row_y = torch.stack([sin * across, cos * down, 2 * draws.centre_y - 1], 1)
    return torch.stack([row_x, row_y], 1)
