"""Input scaling: what is done to pixel values before a network sees them. It travels with the weights."""

from __future__ import annotations

from typing import Any

from pydantic import field_validator, model_validator

from search_spaces.exceptions import unknown
from search_spaces.models import StrictModel

NORMALISATIONS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10_channel": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "unit": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
"""Named input scalings: mean and standard deviation of RGB in [0, 1].

``cifar10`` is what the CIFAR-10 ResNets of akamaster/pytorch_resnet_cifar10 were trained with (ImageNet's values);
``cifar10_channel`` are CIFAR-10's own channel statistics; ``half`` maps to [-1, 1] (BiT); ``unit`` keeps [0, 1]
(SimCLR).
"""


class Normalisation(StrictModel):
    """Input scaling: (x - mean) / std per channel of RGB in [0, 1]. Written as a name or as ``{mean, std}``."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, raw: Any) -> Any:
        if isinstance(raw, str):
            if raw not in NORMALISATIONS:
                raise ValueError(unknown("normalisation", raw, NORMALISATIONS))
            mean, std = NORMALISATIONS[raw]
            return {"mean": mean, "std": std}
        return raw

    @field_validator("std")
    @classmethod
    def _positive(cls, std: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(std) <= 0:
            raise ValueError(f"std must be positive, got {list(std)}")
        return std
