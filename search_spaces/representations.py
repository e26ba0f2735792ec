"""Which representations a study keeps: activations on a fixed set of images, first filters, distances of weights.

Never part of a trial's identity: they are read off and change no result (docs/representations.md).
"""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import Field, field_validator, model_validator

from search_spaces.amounts import Seed
from search_spaces.models import StrictModel

AUTO: Final = "auto"
FEWEST_IMAGES = 20
MOST_IMAGES = 20_000
MOST_LAYERS = 64
MOST_POSITIONS = 64
MOST_BYTES = 256 * 2**20
"""Of one trial, both moments together: what a plan refuses to exceed."""

BYTES_PER_NUMBER = 2
"""Activations are kept as float16."""

Layers = Literal["auto"] | tuple[str, ...]


class ProbeSpec(StrictModel):
    """The images whose activations are kept: drawn once per task, the same for every trial, never trained on.

    Attributes:
        sets: Where they are drawn from: ``val`` (all validation images of the task, at every amount) and evaluation
            sets.
        images: How many; all if there are fewer.
        seed: Of the draw. Of two numbers of images with one seed, the smaller is part of the larger.
    """

    sets: tuple[str, ...] = Field(default=("test",), min_length=1)
    images: int = Field(default=1000, ge=FEWEST_IMAGES, le=MOST_IMAGES)
    seed: int = Field(default=0, ge=0)

    @field_validator("sets")
    @classmethod
    def _different(cls, sets: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(sets)) != len(sets):
            raise ValueError(f"sets must differ, got {list(sets)}")
        return sets


class PositionsSpec(StrictModel):
    """Activations at single places of the feature map, instead of their mean.

    Attributes:
        positions: How many of each map, drawn once per layer with the probe's seed; all of a smaller map.
    """

    positions: int = Field(ge=1, le=MOST_POSITIONS)


class KeptRepresentations(StrictModel):
    """What one trial keeps.

    Attributes:
        probe: Its images.
        layers: Names of modules, or ``auto``: what every part of the family puts out (``trainables.parts``).
        positions: Places of a feature map; None for the mean over the map.
        filters: Whether the first convolution's weights are kept.
        weight_distance: Whether the distance of every parameter from its start is kept.
    """

    probe: ProbeSpec = ProbeSpec()
    layers: Layers = AUTO
    positions: int | None = None
    filters: bool = True
    weight_distance: bool = True


class RepresentationsSpec(StrictModel):
    """Representations that target trials keep, at initialisation and of the weights that are evaluated.

    Attributes:
        probe: The images.
        layers: ``auto``, names of modules that every scale has, or scale -> one of the two (``auto`` for the others).
        pooling: ``mean`` over a feature map (or over tokens), or some of its places.
        dtype: Of the activations in the files.
        seeds: ``all``, or the seeds of the study whose trials keep them.
        filters: Whether the weights of the first convolution that reads the image are kept.
        weight_distance: Whether the distance of every parameter from its start is kept.
        components: Principal components that the report reduces a layer to before canonical correlations; None reduces
            nothing, and a layer with fewer than ten images per dimension is then not estimable.
    """

    probe: ProbeSpec = ProbeSpec()
    layers: Layers | dict[str, Layers] = AUTO
    pooling: Literal["mean"] | PositionsSpec = "mean"
    dtype: Literal["fp16"] = "fp16"
    seeds: Literal["all"] | tuple[int | str, ...] = "all"
    filters: bool = True
    weight_distance: bool = True
    components: int | None = Field(default=None, ge=1)

    @field_validator("layers")
    @classmethod
    def _layers(cls, layers: Layers | dict[str, Layers]) -> Layers | dict[str, Layers]:
        for names in layers.values() if isinstance(layers, dict) else (layers,):
            if names != AUTO and not (names and len(set(names)) == len(names) <= MOST_LAYERS):
                raise ValueError(f"layers are auto, or 1 to {MOST_LAYERS} different names, got {list(names)}")
        return layers

    @model_validator(mode="after")
    def _some_seed(self) -> RepresentationsSpec:
        if self.seeds != "all" and not self.seeds:
            raise ValueError("seeds is all or a list of seeds of the study, got none")
        return self

    @property
    def seed_labels(self) -> frozenset[str] | None:
        """Labels of the seeds that keep them; None for all."""
        return None if self.seeds == "all" else frozenset(str(seed) for seed in self.seeds)

    def kept(self, scale: str, seed: Seed) -> KeptRepresentations | None:
        """What a target trial of this scale and seed keeps; None for nothing."""
        if self.seed_labels is not None and seed.label not in self.seed_labels:
            return None
        layers: Any = self.layers.get(scale, AUTO) if isinstance(self.layers, dict) else self.layers
        return KeptRepresentations(
            probe=self.probe,
            layers=layers,
            positions=None if self.pooling == "mean" else self.pooling.positions,
            filters=self.filters,
            weight_distance=self.weight_distance,
        )
