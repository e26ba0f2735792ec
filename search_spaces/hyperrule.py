"""BiT-HyperRule: what follows from the size of the training subset (Kolesnikov et al. 2020, text and code).

The rule jumps where the size passes 20,000 and 500,000 images: amounts on both sides do not differ in labels alone.
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


def resolution(width: int, height: int, variant: Variant, is_largest: bool = False) -> tuple[int, int]:
    """(side that images are resized to, side of the crop) in pixels.

    Args:
        width: Of the data set's images, in pixels.
        height: Likewise.
        variant: The paper's text, or the authors' code, which has one large size for all models.
        is_largest: Whether the model is R152x4, which the text gives the larger size.
    """
    if width * height < 96 * 96:
        return 160, 128
    return (512, 480) if variant == "code" or is_largest else (448, 384)
