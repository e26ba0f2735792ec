"""How stored images become a net's inputs, for training and for validation alike."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from search_spaces.study import Normalisation
from trainables.batches import ImageFeed, ImageSet
from trainables.module_setup import ModuleFacts


@dataclass(frozen=True, slots=True)
class Inputs:
    """What turns stored images into a net's inputs.

    Attributes:
        size: Side s in pixels.
        normalise: Input scaling.
        device: Where the net is.
        facts: What a trial run of the net showed.
        resident_bytes: Image sets up to this size are kept on the GPU.
    """

    size: int
    normalise: Normalisation
    device: torch.device
    facts: ModuleFacts
    resident_bytes: int

    @property
    def form(self) -> tuple[Normalisation, torch.device, torch.dtype, bool]:
        """Scaling, device, type and memory format, as the transforms take them."""
        return self.normalise, self.device, self.facts.dtype, self.facts.channels_last

    def feed(self, images: ImageSet) -> ImageFeed:
        """Batches of a set on the device."""
        return ImageFeed(images, self.device, self.facts.dtype, self.resident_bytes)
