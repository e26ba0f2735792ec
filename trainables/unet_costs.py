"""What a U-Net costs, as numbers; ``trainables.scale_cards`` counts them. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class UnetCosts:
    """What the U-Net of a scale is and costs: encoder, decoder and head.

    Attributes:
        parameters: Trainable numbers.
        gflops: 1e9 operations of one image's forward pass.
        activation_mib: Memory kept for one image's backward pass, float32, MiB.
    """

    parameters: int
    gflops: float
    activation_mib: float

    @property
    def text(self) -> str:
        """In words."""
        return (
            f"{self.parameters:,} parameters, {self.gflops:.3f} GFLOPs forward (2 per multiply-add), "
            f"{self.activation_mib:.1f} MiB of activations in float32"
        )
