"""Hyper-parameter search before the trials of a cell: what a user writes under ``tuning``, and what a search proposes.

Every cell (arm) is searched with the same declared budget. Search trials are ordinary trials with the proposed values
and a seed that no final trial has; the values that are best on validation are then those of all its final trials.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from search_spaces.amounts import Seed
from search_spaces.exceptions import unknown
from search_spaces.models import StrictModel
from search_spaces.protocol import Protocol, changed, field_names

_NOT_SEARCHED = {
    "base": "it names the recipe",
    "storage_size": "each value is another image store",
    "image_size": "each value is another image store",
    "variant": "it names the recipe",
    "evaluations": "more looks at validation find a better best value by chance alone",
    "evaluate_every": "more looks at validation find a better best value by chance alone",
    "select": "it decides what a validation value means",
    "method": "it decides what is done at all",
    "inverse_penalties": "validation chooses among them in every trial",
    "neighbours": "validation chooses among them in every trial",
}
"""Protocol fields that a search must not change, and why."""

_INSIDE = 0.381966
"""Where between its ends a range is tried, too: no whole number there, so that a field of whole numbers is noticed."""


class Dimension(StrictModel):
    """Values that one protocol field may take. Exactly one of the four.

    Attributes:
        log: Lowest and highest value, both positive; drawn uniformly on the logarithmic scale.
        uniform: Lowest and highest value.
        integer: Lowest and highest whole number, both included.
        choice: The values themselves.
    """

    log: tuple[float, float] | None = None
    uniform: tuple[float, float] | None = None
    integer: tuple[int, int] | None = None
    choice: tuple[Any, ...] | None = None

    @model_validator(mode="after")
    def _one_form(self) -> Dimension:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of log, uniform, integer and choice; got {given or 'none'}")
        if self.choice is not None:
            if not self.choice:
                raise ValueError("choice needs at least one value, got an empty list")
            return self
        low, high = self.ends
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(f"{given[0]} is [low, high] with finite low < high, got [{low:g}, {high:g}]")
        if self.log is not None and low <= 0:
            raise ValueError(f"log needs a positive low, got {low:g}; use uniform, or a small positive number")
        return self

    @property
    def ends(self) -> tuple[float, float]:
        """Lowest and highest value of a range.

        Raises:
            ValueError: A choice has no ends.
        """
        ends = self.log or self.uniform or self.integer
        if ends is None:
            raise ValueError("a choice has no ends")
        return ends

    @property
    def samples(self) -> tuple[Any, ...]:
        """Values that stand for all: every choice, or both ends of a range and one value between."""
        if self.choice is not None:
            return self.choice
        low, high = self.ends
        return (low, high) if self.integer is not None else (low, low + _INSIDE * (high - low), high)

    @property
    def points(self) -> float:
        """Number of different values; infinite for ranges of real numbers."""
        if self.choice is not None:
            return len(self.choice)
        return self.integer[1] - self.integer[0] + 1 if self.integer is not None else math.inf


class Tuning(StrictModel):
    """The search that every cell goes through before its final trials. Never uses an evaluation set.

    Upstream (pretraining) trials are not searched: they keep the protocol of the study.

    Attributes:
        trials: Proposals per cell, the same for all. One that fails by itself (diverged, out of memory) counts and is
            the worst. One that repeats an earlier one counts, too, and is not trained again.
        generation_size: Proposals that are made together, from the results of all before; they may run at the same
            time. Not changed by how many trials fit the cluster, so that the same search gives the same proposals.
        seed: Of the sampler.
        search_seed: Seed, or list of seeds, that every proposal is trained with; the mean of the validation values
            counts. None of the study's own seeds, so that no final trial has been selected on.
        space: Protocol field (nested ones with a dot: ``augmentation.rotation_degrees``) -> values.
        sampler: ``tpe`` (tree-structured Parzen estimator, Bergstra et al. 2011; random for the first 10 proposals),
            ``random``, or ``grid`` (all combinations of choices, once).
    """

    trials: int = Field(ge=1)
    generation_size: int = Field(default=4, ge=1)
    seed: int = Field(default=0, ge=0)
    search_seed: tuple[int, ...] = (1000,)
    space: dict[str, Dimension] = Field(min_length=1)
    sampler: Literal["tpe", "random", "grid"] = "tpe"

    @field_validator("search_seed", mode="before")
    @classmethod
    def _listed(cls, raw: Any) -> Any:
        return (raw,) if isinstance(raw, int) and not isinstance(raw, bool) else raw

    @field_validator("search_seed")
    @classmethod
    def _different(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if not seeds or min(seeds) < 0 or len(set(seeds)) != len(seeds):
            raise ValueError(f"search_seed is a whole number from 0, or a list of different ones; got {list(seeds)}")
        return seeds

    @field_validator("space")
    @classmethod
    def _known_fields(cls, space: dict[str, Dimension]) -> dict[str, Dimension]:
        for name in space:
            if name not in field_names():
                raise ValueError(unknown("protocol field", name, field_names()))
            if name in _NOT_SEARCHED:
                raise ValueError(f"{name} cannot be searched: {_NOT_SEARCHED[name]}")
            if parent := next((p for p in space if name.startswith(f"{p}.")), None):
                raise ValueError(f"{name} is a part of {parent}; search one of them")
        return space

    @model_validator(mode="after")
    def _budget_fits(self) -> Tuning:
        points = math.prod(dimension.points for dimension in self.space.values())
        if self.sampler == "grid":
            ranges = [name for name, dimension in self.space.items() if dimension.choice is None]
            if ranges:
                raise ValueError(f"a grid needs choices, but {', '.join(ranges)} has a range; write choice: [...]")
            if points != self.trials:
                raise ValueError(f"the grid has {points} combinations, so trials must be {points}, got {self.trials}")
        elif points < self.trials:
            raise ValueError(f"the space has {points} combinations, fewer than trials ({self.trials}); use a grid")
        return self

    @property
    def seeds(self) -> tuple[Seed, ...]:
        """The search seeds."""
        return tuple(Seed(subset=seed, init=seed) for seed in self.search_seed)

    @property
    def trials_per_cell(self) -> int:
        """Search trials of a cell: proposals times search seeds."""
        return self.trials * len(self.search_seed)

    def check_seeds(self, final: Iterable[Seed]) -> None:
        """Refuse a search seed that a final trial has.

        Raises:
            ValueError: There is one.
        """
        used = {number for seed in final for number in (seed.subset, seed.init)}
        if both := [seed for seed in self.search_seed if seed in used]:
            raise ValueError(
                f"tuning.search_seed {both[0]} is among the study's seeds; final trials would be selected on. "
                f"Take another, such as {max(used) + 1000}"
            )

    def check_values(self, protocol: Protocol, where: str) -> None:
        """Build the protocol with samples of every dimension, the others as they are.

        Raises:
            UserError: A value that the field does not take.
        """
        for name, dimension in self.space.items():
            for value in dimension.samples:
                changed(protocol, {name: value}, f"{where}: tuning.space.{name} with {value!r}")


@dataclass(frozen=True, slots=True)
class Proposal:
    """Values that a search proposes.

    Attributes:
        number: Position among the search's proposals, from 0.
        text: The values as JSON, keys sorted; numbers come back as they were.
    """

    number: int
    text: str

    @classmethod
    def of(cls, number: int, values: Mapping[str, Any]) -> Proposal:
        """The proposal of these values (protocol field -> value)."""
        return cls(number, json.dumps(values, sort_keys=True))

    @property
    def values(self) -> dict[str, Any]:
        """Protocol field -> value."""
        loaded: dict[str, Any] = json.loads(self.text)
        return loaded
