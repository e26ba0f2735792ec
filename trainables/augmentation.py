"""Random changes to training images and the fixed transforms of evaluation, on whole batches, on their device.

Crop, flips, rotation and distortions are one map per sample, applied by one bilinear sampling. Where the stored image
has clearly more pixels than the output, the output is sampled on a finer grid and averaged, which keeps aliasing away
(the store's side is about 8/7 of the input as a rule, and then one sample per pixel is enough). Order: crop, flips and
rotation, grid distortion, elastic displacement, brightness, contrast, saturation, hue, input scaling, erasing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

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

CPU_PIECE = 8 * 224**2
"""Output pixels per thread that a CPU augments together: what stays in its cache. At 224 px an image then takes a third
less of its time. Small images go in one piece, as every operation costs its start, and its threads a rendezvous."""

TestTime = Literal["none", "flip", "ten_crop"]
EvaluationCrop = Literal["centre", "whole"]


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
        parameters = self._parameters(images, generator)
        out = self._empty(len(images))
        for piece in self._pieces(len(images)):
            self._write(images[piece], parameters.of(piece), out[piece])
        return out

    def with_masks(self, images: Tensor, masks: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Augmented images and their masks, which go the same way by the nearest pixel.

        Args:
            images: (B, S, S, 3) uint8 on the device.
            masks: (B, S, S) uint8 on the device.
            generator: On the CPU; draws the same parameters as without masks.

        Returns:
            (B, 3, s, s) and (B, s, s) uint8. Erasing hides the image, not its mask.
        """
        parameters = self._parameters(images, generator)
        out = self._empty(len(images))
        self._write(images, parameters, out)
        grid = self._grid(parameters, self._size)
        planes = masks[:, None].to(self._dtype)
        moved = F.grid_sample(planes, grid, mode="nearest", padding_mode=self._padding, align_corners=False)
        return out, moved[:, 0].to(torch.uint8)

    def _empty(self, batch: int) -> Tensor:
        shape = (batch, 3, self._size, self._size)
        return torch.empty(shape, device=self._device, dtype=self._dtype, memory_format=self._format)

    def _pieces(self, batch: int) -> list[slice]:
        """Parts of a batch that are made one after the other: on a CPU what stays in its cache."""
        if self._device.type != "cpu":
            return [slice(0, batch)]
        step = max(1, CPU_PIECE * torch.get_num_threads() // self._size**2)
        return [slice(start, start + step) for start in range(0, batch, step)]

    def _parameters(self, images: Tensor, generator: torch.Generator) -> _Parameters:
        augmentation, batch = self._augmentation, len(images)
        draws = draw(augmentation, batch, generator, images.shape[1], self._size)
        parameters = _Parameters.moved(draws, self._device, self._dtype)
        if augmentation.elastic:
            noise = torch.rand(batch, 2, self._size, self._size, generator=generator) * 2 - 1
            parameters.noise = noise.to(self._device, self._dtype, non_blocking=True)
        return parameters

    def _write(self, images: Tensor, parameters: _Parameters, out: Tensor) -> None:
        pixels = self._sample(images.permute(0, 3, 1, 2).to(self._dtype), parameters)
        torch.addcmul(self._shift, self._coloured(pixels, parameters), self._scale, out=out)
        if parameters.erased is not None:
            erased = inside_boxes(list(parameters.erased.unbind(1)), out)
            out.masked_fill_(erased[:, None] > 0, 0.0)

    def _sample(self, pixels: Tensor, parameters: _Parameters) -> Tensor:
        fixed = self._augmentation.crop == "fixed"
        finer = 1 if fixed else oversampling(pixels.shape[-1], self._size)
        grid = self._grid(parameters, finer * self._size)
        out = F.grid_sample(pixels, grid, mode="bilinear", padding_mode=self._padding, align_corners=False)
        return out if finer == 1 else F.avg_pool2d(out, finer)

    def _grid(self, parameters: _Parameters, points: int) -> Tensor:
        """(B, points, points, 2) where each point of the output is looked up in the stored image."""
        axis = self._axis(points)
        xx, xy, x0, yx, yy, y0 = (column[:, None, None] for column in parameters.maps.unbind(1))
        across, down = axis[None, None, :], axis[None, :, None]
        if parameters.noise is not None:
            elastic, smoothness = self._augmentation.elastic, self._augmentation.elastic_smoothness
            shift = elastic_displacement(parameters.noise, elastic, smoothness)
            if shift.shape[-1] != points:
                shift = F.interpolate(shift, size=(points, points), mode="bilinear", align_corners=False)
            across, down = across + shift[:, 0], down + shift[:, 1]
        if parameters.cells is not None:
            across, down = (distorted(axis, parameters.cells[:, k]) for k, axis in enumerate((across, down)))
        # Written in place: stacking two planes point by point takes as long as sampling.
        grid = torch.empty(len(parameters.maps), points, points, 2, device=self._device, dtype=self._dtype)
        torch.add(xx * across, xy * down + x0, out=grid[..., 0])
        torch.add(yx * across, yy * down + y0, out=grid[..., 1])
        return grid

    def _coloured(self, pixels: Tensor, draws: _Parameters) -> Tensor:
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


@dataclass(slots=True, kw_only=True)
class _Parameters:
    """The parameters of a batch on its device, see ``Draws``."""

    maps: Tensor
    brightness: Tensor
    contrast: Tensor
    saturation: Tensor | None
    hue: Tensor | None
    erased: Tensor | None
    cells: Tensor | None
    noise: Tensor | None = None

    @classmethod
    def moved(cls, draws: Draws, device: torch.device, dtype: torch.dtype) -> _Parameters:
        """Copied to the device in one piece."""
        parts: dict[str, Tensor | None] = {"maps": affine_maps(draws)}
        names = ("brightness", "contrast", "saturation", "hue", "erased", "cells")
        parts |= {name: getattr(draws, name) for name in names}
        present = {name: part for name, part in parts.items() if part is not None}
        flat = [part.reshape(len(part), -1) for part in present.values()]
        packed = torch.cat(flat, 1).to(dtype).to(device, non_blocking=True)
        columns = torch.split(packed, [part.shape[1] for part in flat], 1)
        shaped = {n: c.reshape(part.shape) for (n, part), c in zip(present.items(), columns, strict=True)}
        shaped["maps"] = shaped["maps"].flatten(1)
        values: dict[str, Any] = {name: shaped.get(name) for name in parts}
        return cls(**values)

    def of(self, piece: slice) -> _Parameters:
        """Those of a part of the batch."""
        whole = {name: getattr(self, name) for name in _Parameters.__slots__}
        part: dict[str, Any] = {name: None if value is None else value[piece] for name, value in whole.items()}
        return _Parameters(**part)


class EvaluationTransform:
    """The fixed transforms of validation and test: centre crop, resized if it is larger than the input, or more views.

    The crop's side is 7/8 of the stored side, at least the input size; for a store of 8/7 of the input this is a plain
    crop. The five crops of ten are its copies at the centre and in the corners. Or no crop: the whole image, resized.

    Args:
        input_size: Side s of the output; at most that of the images.
        normalise: Input scaling of the weights.
        device: Of the images.
        dtype: Of the output.
        channels_last: Memory format of the output.
        test_time: Which views ``views`` gives.
        crop: What is cut out.
    """

    def __init__(
        self,
        input_size: int,
        normalise: Normalisation,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        channels_last: bool = False,
        test_time: TestTime = "none",
        crop: EvaluationCrop = "centre",
    ) -> None:
        self._size, self._dtype, self._test_time, self._crop = input_size, dtype, test_time, crop
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
        return cropped_side(self._crop, images.shape[1], self._size)

    def _cropped(self, images: Tensor, top: int, left: int, side: int) -> Tensor:
        pixels = images[:, top : top + side, left : left + side].permute(0, 3, 1, 2).to(self._dtype)
        if side != self._size:
            size = (self._size, self._size)
            pixels = F.interpolate(pixels, size=size, mode="bilinear", antialias=True, align_corners=False)
        return torch.addcmul(self._shift, pixels, self._scale).contiguous(memory_format=self._format)


def cropped_side(crop: EvaluationCrop, stored: int, size: int) -> int:
    """Side in pixels of what evaluation cuts out of an image and resizes to the input.

    Args:
        crop: What is cut out.
        stored: Side of the stored image.
        size: Side of the input.
    """
    return max(size, stored if crop == "whole" else math.floor(EVALUATION_CROP * stored))


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
