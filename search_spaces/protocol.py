"""The complete recipe of a trial. Every field is part of the trial's identity."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, Literal

from pydantic import Field, model_validator

from search_spaces.models import StrictModel

_NEVER = object()


class Budget(StrictModel):
    """How long to train. Exactly one of the two.

    Attributes:
        steps: Optimiser steps; the same at every data fraction, so that fractions compare at equal compute.
        epochs: Passes over the subset, at least one step; compute then shrinks with the fraction.
    """

    steps: int | None = Field(default=None, ge=1)
    epochs: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _one_of(self) -> Budget:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("budget needs exactly one of steps and epochs")
        return self


class Augmentation(StrictModel):
    """Random changes to a training image; drawn per sample from (trial seed, step, ghost batch).

    Attributes:
        crop_scale: Area of the random crop relative to the image, drawn uniformly from this range; [1, 1] is no crop.
        crop_ratio: Aspect ratio (width / height) of the crop, drawn log-uniformly from this range.
        horizontal_flip: Probability of a left-right flip.
        vertical_flip: Probability of an up-down flip.
        rotation_degrees: Rotation, drawn uniformly from plus or minus this angle.
        brightness: Factor drawn uniformly from [1 - b, 1 + b]; 0 is off.
        contrast: Factor around the image's mean, drawn uniformly from [1 - c, 1 + c]; 0 is off.
    """

    crop_scale: tuple[float, float] = (0.5, 1.0)
    crop_ratio: tuple[float, float] = (0.75, 4 / 3)
    horizontal_flip: float = Field(default=0.5, ge=0, le=1)
    vertical_flip: float = Field(default=0.0, ge=0, le=1)
    rotation_degrees: float = Field(default=0.0, ge=0, le=180)
    brightness: float = Field(default=0.0, ge=0, lt=1)
    contrast: float = Field(default=0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _ranges(self) -> Augmentation:
        low, high = self.crop_scale
        if not 0 < low <= high <= 1:
            raise ValueError(f"crop_scale must be 0 < low <= high <= 1, got {list(self.crop_scale)}")
        low, high = self.crop_ratio
        if not 0 < low <= high:
            raise ValueError(f"crop_ratio must be 0 < low <= high, got {list(self.crop_ratio)}")
        return self


class Protocol(StrictModel):
    """The recipe ``finetune``: all layers trained from the source's weights with a fresh head.

    Attributes:
        base: Which recipe the defaults come from.
        budget: Length of training.
        optimizer: AdamW (Loshchilov and Hutter 2019) or SGD with momentum.
        lr: Peak learning rate.
        momentum: Of SGD; unused by AdamW.
        weight_decay: Decoupled for AdamW, added to the gradient for SGD; applies only to
            weights of two and more dimensions.
        schedule: Learning rate after warm-up: half a cosine to 0, or constant.
        warmup_fraction: Share of the steps in which the learning rate rises linearly from 0.
        clip_norm: Largest gradient norm; None is no clipping.
        label_smoothing: Share of the target mass spread evenly; multiclass only.
        ema_decay: Decay of the exponential moving average of the weights, which is then what is evaluated; None is off.
        global_batch_size: Images per optimiser step.
        ghost_batch_size: Images normalised and randomised together (Hoffer et al. 2017); divides
            global_batch_size and is equal to it unless given.
        storage_size: Side in pixels of the stored square image; at least the input size.
        precision: Arithmetic of forward and backward (autocast for bf16 and fp16; weights stay float32).
        imbalance: none; weights (inverse class frequency in the loss); sampler (images drawn by inverse class
            frequency, with replacement).
        select: Which weights are evaluated and kept: best on validation, or those of the last step.
        evaluations: Evenly spaced validation passes, the last one after the last step.
        augmentation: Random changes to training images.
        freeze: Last part of the network, from the bottom, that stays as its source made it: ``layer2`` of a ResNet,
            ``stages.0`` of a ConvNeXt (``python -m orchestrator.sources show SCALE`` lists them). Batch norm there
            keeps its running statistics. None trains everything.
        layer_lr_decay: Factor of the learning rate per layer going down from the head, which has the full one; 1 is the
            same for all (Howard and Ruder 2018; layers as counted by timm).
    """

    base: Literal["finetune"] = "finetune"
    budget: Budget = Budget(steps=300)
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float = Field(default=1e-3, gt=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=0.01, ge=0)
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_fraction: float = Field(default=0.1, ge=0, lt=1)
    clip_norm: float | None = Field(default=None, gt=0)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    ema_decay: float | None = Field(default=None, gt=0, lt=1)
    global_batch_size: int = Field(default=32, ge=1)
    ghost_batch_size: int = Field(default=32, ge=1)
    storage_size: int = Field(default=128, ge=8)
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    imbalance: Literal["none", "weights", "sampler"] = "none"
    select: Literal["best_val", "last"] = "best_val"
    evaluations: int = Field(default=10, ge=1)
    augmentation: Augmentation = Augmentation()
    freeze: str | None = None
    layer_lr_decay: float = Field(default=1.0, gt=0, le=1)

    @model_validator(mode="before")
    @classmethod
    def _one_ghost_batch_unless_said(cls, raw: Any) -> Any:
        if isinstance(raw, dict) and "global_batch_size" in raw and "ghost_batch_size" not in raw:
            return {**raw, "ghost_batch_size": raw["global_batch_size"]}
        return raw

    @model_validator(mode="after")
    def _ghost_batches_fill_the_batch(self) -> Protocol:
        if self.global_batch_size % self.ghost_batch_size:
            raise ValueError(
                f"ghost_batch_size ({self.ghost_batch_size}) must divide global_batch_size ({self.global_batch_size})"
            )
        return self

    @property
    def ghost_batches(self) -> int:
        """Ghost batches per optimiser step; ranks beyond this number idle."""
        return self.global_batch_size // self.ghost_batch_size


LATER_FIELDS: dict[str, Any] = {"freeze": None, "layer_lr_decay": 1.0}
"""Fields that came after the first trials, with the value that changes nothing."""


def protocol_identity(written: Mapping[str, Any]) -> dict[str, Any]:
    """A dumped protocol as it goes into the identity of trials: without later fields that change nothing.

    So finished trials keep their ids when a field is added.
    """
    return {name: value for name, value in written.items() if LATER_FIELDS.get(name, _NEVER) != value}


@cache
def field_names() -> tuple[str, ...]:
    """All fields of a protocol; those of nested parts with a dot, such as ``budget.steps``."""
    parts: dict[str, type[StrictModel]] = {"budget": Budget, "augmentation": Augmentation}
    nested = [f"{part}.{name}" for part, model in parts.items() for name in model.model_fields]
    return (*Protocol.model_fields, *nested)


def changed(protocol: Protocol, changes: Mapping[str, Any], where: str) -> Protocol:
    """The protocol with other values; a ghost batch that was the whole global batch goes on being so.

    Args:
        protocol: What is changed.
        changes: Field -> value. A name with a dot changes one field of a nested part, a name without replaces it whole.
        where: Where the changes were written; starts the message of an error.

    Raises:
        UserError: A field or value that a protocol does not take.
    """
    written = protocol.model_dump(exclude_unset=True)
    if "global_batch_size" in changes and protocol.ghost_batches == 1:
        written.pop("ghost_batch_size", None)
    for name, value in changes.items():
        part, _, field = name.partition(".")
        written[part] = {**written.get(part, {}), field: value} if field else value
    return Protocol.parse(written, where)
