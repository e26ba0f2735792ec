"""Mixup and CutMix: training images that are part of two, with targets that are, too.

Each image is mixed with the one before it in its ghost batch (whose order is random anyway), by a share of its own, or
by mixup with one share of all images of a step (as Zhang et al. 2018 write their algorithm, and BiT's code does). A
mixed image counts as ``weight`` images with its own target and ``1 - weight`` with its partner's: for cross-entropies
the same as one image with a soft target, and defined where one of the two labels is masked.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from search_spaces.protocol import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """What the images of a batch are made of.

    Attributes:
        partner: (B,) position in the batch of the other image.
        weight: (B,) share of the own image, from 0 to 1.
    """

    partner: Tensor
    weight: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class MixDraws:
    """Parameters of one batch, each (B,) float64 on the CPU.

    Attributes:
        weight: Share of the own image.
        left: First column that comes from the partner, in pixels; for mixup 0, as for the others.
        top: First row.
        right: Column after the last.
        bottom: Row after the last.
        is_box: Whether a box is replaced; else the whole image is blended.
    """

    weight: Tensor
    left: Tensor
    top: Tensor
    right: Tensor
    bottom: Tensor
    is_box: Tensor


def draw_mix(
    protocol: Protocol, batch: int, generator: torch.Generator, size: int, of_step: float | None = None
) -> MixDraws:
    """Draw how the images of a batch are mixed.

    Args:
        protocol: ``mixup_alpha`` and ``cutmix_alpha``, at least one above 0.
        batch: Number of samples.
        generator: On the CPU.
        size: Side of the images in pixels.
        of_step: Uniform number in [0, 1) behind the one share of mixup of a step; None draws one per image.
    """
    u = torch.rand(batch, 4, generator=generator, dtype=torch.float64)
    is_box = _share(u[:, 0], protocol) if protocol.mixup_alpha else torch.ones(batch, dtype=torch.bool)
    of_mixup = u[:, 1] if of_step is None else torch.full_like(u[:, 1], of_step)
    blended = _beta(of_mixup, protocol.mixup_alpha) if protocol.mixup_alpha else of_mixup
    outside = _beta(u[:, 1], protocol.cutmix_alpha) if protocol.cutmix_alpha else u[:, 1]
    # As torchvision's CutMix: a box around a random pixel, cut off at the image's edges.
    half = torch.floor(0.5 * torch.sqrt(1 - outside) * size)
    x, y = torch.floor(u[:, 2] * size), torch.floor(u[:, 3] * size)
    left, top = (x - half).clamp(min=0) * is_box, (y - half).clamp(min=0) * is_box
    right, bottom = (x + half).clamp(max=size) * is_box, (y + half).clamp(max=size) * is_box
    kept = 1 - (right - left) * (bottom - top) / size**2
    return MixDraws(
        weight=torch.where(is_box, kept, blended), left=left, top=top, right=right, bottom=bottom, is_box=is_box
    )


def _share(u: Tensor, protocol: Protocol) -> Tensor:
    return u < (0.5 if protocol.cutmix_alpha else 0.0)


def _beta(u: Tensor, alpha: float) -> Tensor:
    """Beta(alpha, alpha) numbers from uniform ones: the inverse of the distribution function."""
    from scipy.special import betaincinv  # a slow import that only these trials need

    return torch.from_numpy(betaincinv(alpha, alpha, u.numpy()))


class Mix:
    """Mixes training batches as a protocol says.

    Args:
        protocol: ``mixup_alpha`` and ``cutmix_alpha``; with both 0 nothing is to be mixed.
        device: Of the images.
    """

    def __init__(self, protocol: Protocol, device: torch.device) -> None:
        self._protocol, self._device = protocol, device
        self.is_on = bool(protocol.mixup_alpha or protocol.cutmix_alpha)

    def __call__(
        self, inputs: Tensor, generator: torch.Generator, of_step: float | None = None
    ) -> tuple[Tensor, Mixture]:
        """Mixed images, and what they are made of. Only if ``is_on``.

        Args:
            inputs: (B, C, s, s).
            generator: On the CPU.
            of_step: As of ``draw_mix``.
        """
        draws = draw_mix(self._protocol, len(inputs), generator, inputs.shape[-1], of_step)
        edges = torch.stack([draws.weight, draws.is_box, draws.left, draws.top, draws.right, draws.bottom], 1)
        weight, is_box, *box = edges.to(self._device, inputs.dtype, non_blocking=True).unbind(1)
        partner = torch.arange(-1, len(inputs) - 1, device=self._device) % len(inputs)
        own = torch.where(is_box[:, None, None] > 0, 1.0 - inside_boxes(box, inputs), weight[:, None, None])
        mixed = torch.lerp(inputs[partner], inputs, own[:, None])
        memory_format = torch.channels_last if is_channels_last(inputs) else torch.contiguous_format
        return mixed.contiguous(memory_format=memory_format), Mixture(partner=partner, weight=weight)


def inside_boxes(box: list[Tensor], images: Tensor) -> Tensor:
    """(B, H, W), of the images' type: 1 inside each sample's box, else 0.

    Args:
        box: Left, top, right and bottom edge, (B,) each, in pixels.
        images: (B, C, H, W).
    """
    rows, columns = (torch.arange(n, device=images.device)[None] for n in images.shape[2:])
    left, top, right, bottom = (edge[:, None] for edge in box)
    down, across = (rows >= top) & (rows < bottom), (columns >= left) & (columns < right)
    return (down[:, :, None] & across[:, None, :]).to(images.dtype)


def is_channels_last(images: Tensor) -> bool:
    """Whether the channels of a pixel lie side by side in memory."""
    return images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous()
