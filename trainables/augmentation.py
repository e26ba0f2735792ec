"""Random changes to training images and the fixed transforms of evaluation, on whole batches, on their device.

Crop, flips, rotation and distortions are one map per sample, applied by one bilinear sampling. Where the stored image
has clearly more pixels than the output, the output is sampled on a finer grid and averaged, which keeps aliasing away
(the store's side is about 8/7 of the input as a rule, and then one sample per pixel is enough). Order: crop, flips and
rotation, grid distortion, elastic displacement, brightness, contrast, saturation, hue, input scaling, erasing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from search_spaces.protocol import Augmentation
from search_spaces.study import Normalisation
from trainables.augmentation_draws import Draws, affine_maps, draw
from trainables.colour import LUMINANCE, adjust_brightness, adjust_contrast, adjust_hue, adjust_saturation
from trainables.distortion import distorted, elastic_displacement
from trainables.mixing import inside_boxes

EVALUATION_CROP = 7 / 8
"""Side of the centre crop relative to the stored image: the ImageNet convention of 224 from 256."""

TestTime = Literal["none", "flip", "ten_crop"]


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
        # What leaves the image at its edges is mirrored, which looks least like a finding there.
        leaves = augmentation.rotation_degrees or augmentation.elastic
        self._padding = "reflection" if leaves else "border"
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
        draws, grid_of = self._drawn(images, generator)
        return self._finished(self._sample(images.permute(0, 3, 1, 2).to(self._dtype), grid_of), draws)

    def with_masks(self, images: Tensor, masks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Augmented images and their masks, which go the same way by the nearest pixel.

        Args:
            images: (B, S, S, 3) uint8 on the device.
            masks: (B, S, S) uint8 on the device.
            generator: On the CPU; draws the same parameters as without masks.

        Returns:
            (B, 3, s, s) and (B, s, s) uint8. Erasing hides the image, not its mask.
        """
        draws, grid_of = self._drawn(images, generator)
        pixels = self._sample(images.permute(0, 3, 1, 2).to(self._dtype), grid_of)
        planes = masks[:, None].to(self._dtype)
        moved = F.grid_sample(
            planes, grid_of(self._size), mode="nearest", padding_mode=self._padding, align_corners=False
        )
        return self._finished(pixels, draws), moved[:, 0].to(torch.uint8)

    def _drawn(self, images: Tensor, generator: torch.Generator) -> tuple[_OnDevice, Callable[[int], Tensor]]:
        """Parameters on the device, and what makes the sampling grid of a number of points per side."""
        augmentation, batch = self._augmentation, len(images)
        draws = draw(augmentation, batch, generator, images.shape[1], self._size)
        noise = None
        if augmentation.elastic:
            noise = torch.rand(batch, 2, self._size, self._size, generator=generator) * 2 - 1
            noise = noise.to(self._device, self._dtype, non_blocking=True)
        moved = _OnDevice(draws, self._device, self._dtype)
        return moved, lambda points: self._grid(moved, noise, points)

    def _grid(self, draws: _OnDevice, noise: Tensor | None, points: int) -> Tensor:
        """(B, points, points, 2) where each point of the output is looked up in the stored image."""
        axis = self._axis(points)
        xx, xy, x0, yx, yy, y0 = (column[:, None, None] for column in draws.maps.unbind(1))
        across, down = axis[None, None, :], axis[None, :, None]
        if noise is not None:
            shift = elastic_displacement(noise, self._augmentation.elastic, self._augmentation.elastic_smoothness)
            if shift.shape[-1] != points:
                shift = F.interpolate(shift, size=(points, points), mode="bilinear", align_corners=False)
            across, down = across + shift[:, 0], down + shift[:, 1]
        if draws.cells is not None:
            across, down = (distorted(axis, draws.cells[:, k]) for k, axis in enumerate((across, down)))
        return torch.stack([xx * across + (xy * down + x0), yx * across + (yy * down + y0)], 3)

    def _sample(self, pixels: Tensor, grid_of: Callable[[int], Tensor]) -> Tensor:
        fixed = self._augmentation.crop == "fixed"
        finer = 1 if fixed else oversampling(pixels.shape[-1], self._size)
        grid = grid_of(finer * self._size)
        out = F.grid_sample(pixels, grid, mode="bilinear", padding_mode=self._padding, align_corners=False)
        return out if finer == 1 else F.avg_pool2d(out, finer)

    def _finished(self, pixels: Tensor, draws: _OnDevice) -> Tensor:
        pixels = self._coloured(pixels, draws)
        out = torch.addcmul(self._shift, pixels, self._scale)
        if draws.erased is not None:
            erased = inside_boxes(list(draws.erased.unbind(1)), out)
            out = torch.where(erased[:, None] > 0, 0.0, out)
        return out.contiguous(memory_format=self._format)

    def _coloured(self, pixels: Tensor, draws: _OnDevice) -> Tensor:
        if self._augmentation.brightness:
            pixels = adjust_brightness(pixels, draws.brightness)
        if self._augmentation.contrast:
            pixels = adjust_contrast(pixels, draws.contrast, self._luminance)
        if draws.saturation is not None:
            pixels = adjust_saturation(pixels, draws.saturation, self._luminance)
        return pixels if draws.hue is None else adjust_hue(pixels, draws.hue)

    def _axis(self, points: int) -> Tensor:
        """Centres of ``points`` pixels between -1 and 1."""
        if points not in self._axes:
            index = torch.arange(points, device=self._device, dtype=self._dtype)
            self._axes[points] = (2 * index + 1) / points - 1
        return self._axes[points]


class _OnDevice:
    """The parameters of a batch on its device, copied in one piece."""

    def __init__(self, draws: Draws, device: torch.device, dtype: torch.dtype) -> None:
        parts = {
            "maps": affine_maps(draws).flatten(1),
            "brightness": draws.brightness[:, None],
            "contrast": draws.contrast[:, None],
            "saturation": None if draws.saturation is None else draws.saturation[:, None],
            "hue": None if draws.hue is None else draws.hue[:, None],
            "erased": draws.erased,
            "cells": None if draws.cells is None else draws.cells.flatten(1),
        }
        present = {name: part for name, part in parts.items() if part is not None}
        packed = torch.cat(list(present.values()), 1).to(dtype).to(device, non_blocking=True)
        columns = dict(zip(present, packed.split([part.shape[1] for part in present.values()], 1), strict=True))
        self.maps, self.erased = columns["maps"], columns.get("erased")
        self.brightness, self.contrast = columns["brightness"][:, 0], columns["contrast"][:, 0]
        self.saturation, self.hue = (columns[n][:, 0] if n in columns else None for n in ("saturation", "hue"))
        self.cells = columns["cells"].unflatten(1, (2, -1)) if "cells" in columns else None


class EvaluationTransform:
    """The fixed transforms of validation and test: centre crop, resized if it is larger than the input, or more views.

    The crop's side is 7/8 of the stored side, at least the input size; for a store of 8/7 of the input this is a plain
    crop. The five crops of ten are its copies at the centre and in the corners.

    Args:
        input_size: Side s of the output; at most that of the images.
        normalise: Input scaling of the weights.
        device: Of the images.
        dtype: Of the output.
        channels_last: Memory format of the output.
        test_time: Which views ``views`` gives.
    """

    def __init__(
        self,
        input_size: int,
        normalise: Normalisation,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        channels_last: bool = False,
        test_time: TestTime = "none",
    ) -> None:
        self._size, self._dtype, self._test_time = input_size, dtype, test_time
        self._format = torch.channels_last if channels_last else torch.contiguous_format
        self._scale, self._shift = _pixel_scaling(normalise, device, dtype)

    def __call__(self, images: Tensor) -> Tensor:
        """(B, 3, s, s) normalised images from (B, S, S, 3) uint8."""
        side = self._side(images)
        start = (images.shape[1] - side) // 2
        return self._cropped(images, start, start, side)

    def views(self, images: Tensor) -> Iterator[Tensor]:
        """1, 2 or 10 views of the same images, each as ``__call__`` gives one."""
        if self._test_time == "none":
            yield self(images)
            return
        side = self._side(images)
        end = images.shape[1] - side
        corners = [(end // 2, end // 2)]
        if self._test_time == "ten_crop":
            corners += [(0, 0), (0, end), (end, 0), (end, end)]
        for top, left in corners:
            view = self._cropped(images, top, left, side)
            yield view
            yield view.flip(3).contiguous(memory_format=self._format)

    def _side(self, images: Tensor) -> int:
        return max(self._size, math.floor(EVALUATION_CROP * images.shape[1]))

    def _cropped(self, images: Tensor, top: int, left: int, side: int) -> Tensor:
        pixels = images[:, top : top + side, left : left + side].permute(0, 3, 1, 2).to(self._dtype)
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
