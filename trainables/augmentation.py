"""Random changes to training images and the fixed transform of evaluation, on whole batches, on their device.

Crop, flips and rotation are one affine map per sample, applied by one bilinear sampling. Where the stored image has
clearly more pixels than the output, the output is sampled on a finer grid and averaged, which keeps aliasing away
(the store's side is about 8/7 of the input as a rule, and then one sample per pixel is enough). Parameters are drawn
on the CPU whatever the device, so that a trial sees the same crops on every machine.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from search_spaces.protocol import Augmentation
from search_spaces.study import Normalisation

CROP_TRIES = 10
"""Draws of (area, ratio) until a box fits the image, as in torchvision's RandomResizedCrop."""

EVALUATION_CROP = 7 / 8
"""Side of the centre crop relative to the stored image: the ImageNet convention of 224 from 256."""

LUMINANCE = (0.2989, 0.587, 0.114)
"""Weights of R, G and B in the grey level that contrast turns around (ITU-R BT.601)."""


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


def draw(augmentation: Augmentation, batch: int, generator: torch.Generator) -> Draws:
    """Draw the parameters of a batch.

    The same amount is drawn whatever is switched on, so that one operator does not move the draws of another.

    Args:
        augmentation: The protocol's ranges.
        batch: Number of samples.
        generator: On the CPU.
    """
    u = torch.rand(batch, 2 * CROP_TRIES + 7, generator=generator, dtype=torch.float64)
    width, height = _crop_sides(augmentation, u[:, :CROP_TRIES], u[:, CROP_TRIES : 2 * CROP_TRIES])
    x, y, flip_x, flip_y, angle, brightness, contrast = u[:, 2 * CROP_TRIES :].unbind(1)
    return Draws(
        centre_x=width / 2 + x * (1 - width),
        centre_y=height / 2 + y * (1 - height),
        width=width,
        height=height,
        flip_x=torch.where(flip_x < augmentation.horizontal_flip, -1.0, 1.0),
        flip_y=torch.where(flip_y < augmentation.vertical_flip, -1.0, 1.0),
        angle=math.radians(augmentation.rotation_degrees) * (2 * angle - 1),
        brightness=1 + augmentation.brightness * (2 * brightness - 1),
        contrast=1 + augmentation.contrast * (2 * contrast - 1),
    )


def _crop_sides(augmentation: Augmentation, u_area: Tensor, u_ratio: Tensor) -> tuple[Tensor, Tensor]:
    """Width and height of the first box that fits; if none does, the largest of the ratio nearest to square."""
    if augmentation.crop_scale == (1.0, 1.0):
        whole = torch.ones(len(u_area), dtype=u_area.dtype)
        return whole, whole
    (low, high), (low_ratio, high_ratio) = augmentation.crop_scale, augmentation.crop_ratio
    area = low + (high - low) * u_area
    ratio = torch.exp(math.log(low_ratio) + (math.log(high_ratio) - math.log(low_ratio)) * u_ratio)
    width, height = torch.sqrt(area * ratio), torch.sqrt(area / ratio)
    fits = (width <= 1) & (height <= 1)
    first = fits.to(torch.uint8).argmax(1, keepdim=True)
    nearest = min(max(1.0, low_ratio), high_ratio)
    any_fits = fits.any(1)
    return (
        torch.where(any_fits, width.gather(1, first)[:, 0], min(1.0, nearest)),
        torch.where(any_fits, height.gather(1, first)[:, 0], min(1.0, 1 / nearest)),
    )


def affine_maps(draws: Draws) -> Tensor:
    """(B, 2, 3) maps from output to input coordinates, both from -1 to 1 between the outer edges of the image.

    A point of the output is flipped, stretched to the crop box, turned around the box's centre and moved there.
    """
    cos, sin = torch.cos(draws.angle), torch.sin(draws.angle)
    across, down = draws.flip_x * draws.width, draws.flip_y * draws.height
    row_x = torch.stack([cos * across, -sin * down, 2 * draws.centre_x - 1], 1)
    row_y = torch.stack([sin * across, cos * down, 2 * draws.centre_y - 1], 1)
    return torch.stack([row_x, row_y], 1)


class Augment:
    """Turns stored images into a training batch.

    Args:
        augmentation: The protocol's ranges.
        input_size: Side s of the output.
        normalise: Input scaling of the weights.
        device: Of the images.
        dtype: Of the output.
        channels_last: Memory format of the output.
    """

    def __init__(
        self,
        augmentation: Augmentation,
        input_size: int,
        normalise: Normalisation,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        channels_last: bool = False,
    ) -> None:
        self._augmentation, self._size, self._dtype = augmentation, input_size, dtype
        self._format = torch.channels_last if channels_last else torch.contiguous_format
        # Turning leaves the image at its corners; a mirrored edge looks least like a finding there.
        self._padding = "reflection" if augmentation.rotation_degrees else "border"
        self._scale, self._shift = _pixel_scaling(normalise, device, dtype)
        self._luminance = torch.tensor(LUMINANCE, device=device, dtype=dtype).view(3, 1, 1)
        self._axes: dict[int, Tensor] = {}
        self._device = device

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Augmented, normalised images.

        Args:
            images: (B, S, S, 3) uint8 on the device.
            generator: On the CPU; draws the parameters.

        Returns:
            (B, 3, s, s).
        """
        draws = draw(self._augmentation, len(images), generator)
        factors = torch.stack([draws.brightness, draws.contrast], 1)
        packed = torch.cat([affine_maps(draws).flatten(1), factors], 1).to(self._dtype)
        packed = packed.to(self._device, non_blocking=True)
        pixels = self._sample(images.permute(0, 3, 1, 2).to(self._dtype), packed[:, :6])
        pixels = self._adjust(pixels, packed[:, 6:])
        return torch.addcmul(self._shift, pixels, self._scale).contiguous(memory_format=self._format)

    def _sample(self, pixels: Tensor, maps: Tensor) -> Tensor:
        finer = oversampling(pixels.shape[-1], self._size)
        axis = self._axis(finer * self._size)
        xx, xy, x0, yx, yy, y0 = (column[:, None, None] for column in maps.unbind(1))
        across, down = axis[None, None, :], axis[None, :, None]
        grid = torch.stack([xx * across + (xy * down + x0), yx * across + (yy * down + y0)], 3)
        out = F.grid_sample(pixels, grid, mode="bilinear", padding_mode=self._padding, align_corners=False)
        return out if finer == 1 else F.avg_pool2d(out, finer)

    def _adjust(self, pixels: Tensor, factors: Tensor) -> Tensor:
        """Brightness, then contrast, each cut to the range of a pixel, as in torchvision."""
        brightness, contrast = factors[:, 0, None, None, None], factors[:, 1, None, None, None]
        if self._augmentation.brightness:
            pixels = (pixels * brightness).clamp_(0, 255)
        if self._augmentation.contrast:
            grey = (pixels * self._luminance).sum(1, keepdim=True).mean((2, 3), keepdim=True)
            pixels = torch.lerp(grey, pixels, contrast).clamp_(0, 255)
        return pixels

    def _axis(self, points: int) -> Tensor:
        """Centres of ``points`` pixels between -1 and 1."""
        if points not in self._axes:
            index = torch.arange(points, device=self._device, dtype=self._dtype)
            self._axes[points] = (2 * index + 1) / points - 1
        return self._axes[points]


class EvaluationTransform:
    """The fixed transform of validation and test: centre crop, resized if it is larger than the input.

    The crop's side is 7/8 of the stored side, at least the input size; for a store of 8/7 of the input this is a plain
    crop.

    Args:
        input_size: Side s of the output; at most that of the images.
        normalise: Input scaling of the weights.
        device: Of the images.
        dtype: Of the output.
        channels_last: Memory format of the output.
    """

    def __init__(
        self,
        input_size: int,
        normalise: Normalisation,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        channels_last: bool = False,
    ) -> None:
        self._size, self._dtype = input_size, dtype
        self._format = torch.channels_last if channels_last else torch.contiguous_format
        self._scale, self._shift = _pixel_scaling(normalise, device, dtype)

    def __call__(self, images: Tensor) -> Tensor:
        """(B, 3, s, s) normalised images from (B, S, S, 3) uint8."""
        stored = images.shape[1]
        side = max(self._size, math.floor(EVALUATION_CROP * stored))
        start = (stored - side) // 2
        pixels = images[:, start : start + side, start : start + side].permute(0, 3, 1, 2).to(self._dtype)
        if side != self._size:
            size = (self._size, self._size)
            pixels = F.interpolate(pixels, size=size, mode="bilinear", antialias=True, align_corners=False)
        return torch.addcmul(self._shift, pixels, self._scale).contiguous(memory_format=self._format)


def oversampling(stored: int, size: int) -> int:
    """Samples per output pixel and direction, so that samples lie at most 1.25 stored pixels apart.

    Args:
        stored: Side of the stored image.
        size: Side of the output.
    """
    return max(1, math.ceil(stored / size / 1.25))


def _pixel_scaling(normalise: Normalisation, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(3, 1, 1) scale and shift with (pixel / 255 - mean) / std = scale * pixel + shift."""
    mean = torch.tensor(normalise.mean, dtype=torch.float64)
    std = torch.tensor(normalise.std, dtype=torch.float64)
    scale, shift = 1 / (255 * std), -mean / std
    return tuple(t.to(device, dtype).view(3, 1, 1) for t in (scale, shift))  # type: ignore[return-value]
