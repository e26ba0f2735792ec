"""BiT-HyperRule: what follows from the sizes of the training subset and of its images (Kolesnikov et al. 2020).

The rule jumps where the subset passes 20,000 and 500,000 images: amounts on both sides do not differ in labels alone.
Sizes of images differ between data sets and, as the text has it, between R152x4 and all other models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Variant = Literal["text", "code"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Regime:
    """One size class of the rule.

    Attributes:
        name: small, medium or large.
        steps: Optimiser steps.
        warmup_steps: Steps in which the learning rate rises.
        supports: Steps after which the authors' code divides the learning rate by 10, the end of training not included.
    """

    name: str
    steps: int
    warmup_steps: int
    supports: tuple[int, ...]

    @property
    def milestones(self) -> tuple[int, ...]:
        """First step (from 0) of each lower rate. The code compares ``support < step``: one step later than it says."""
        return tuple(support + 1 for support in self.supports)


SMALL = Regime(name="small", steps=500, warmup_steps=100, supports=(200, 300, 400))
MEDIUM = Regime(name="medium", steps=10_000, warmup_steps=500, supports=(3000, 6000, 9000))
LARGE = Regime(name="large", steps=20_000, warmup_steps=500, supports=(6000, 12_000, 18_000))


def regime_of(images: int) -> Regime:
    """Small below 20,000 training images, medium below 500,000, else large."""
    if images < 20_000:
        return SMALL
    return MEDIUM if images < 500_000 else LARGE


SMALL_IMAGE = 96 * 96
"""Pixels below which the rule calls a data set's images small."""

LARGEST_MODEL = "resnetv2_152x4_bit"
"""timm's name of the one model that the text gives larger images."""


def resolution(area: float, variant: Variant, is_largest: bool = False) -> tuple[int, int]:
    """(side that images are resized to, side of the crop) in pixels.

    Args:
        area: Pixels of the data set's images, width times height.
        variant: The paper's text, or the authors' code, which has one large size for all models.
        is_largest: Whether the model is R152x4, which the text gives the larger size.
    """
    if area < SMALL_IMAGE:
        return 160, 128
    return (512, 480) if variant == "code" or is_largest else (448, 384)
