"""How much of a task's training set a cell may use, and the seed pair that draws it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import model_serializer, model_validator

from search_spaces.models import StrictModel

AmountKind = Literal["fraction", "images", "patients", "per_class"]
_KINDS: tuple[str, ...] = ("images", "patients", "per_class")


class Amount(StrictModel):
    """An amount of labelled training data.

    Written as a number in (0, 1] (fraction of the training images), or as a mapping with one key:
    ``{images: n}``, ``{patients: n}`` or ``{per_class: k}`` (k patients of each class), n and k whole and positive.
    """

    kind: AmountKind
    value: float

    @model_validator(mode="before")
    @classmethod
    def _from_written_form(cls, raw: Any) -> Any:
        if isinstance(raw, Amount) or (isinstance(raw, dict) and set(raw) == {"kind", "value"}):
            return raw
        if isinstance(raw, int | float) and not isinstance(raw, bool):
            if not 0 < raw <= 1:
                raise ValueError(f"data_fraction must lie in (0, 1], got {raw}; for counts write {{images: {raw}}}")
            return {"kind": "fraction", "value": float(raw)}
        if isinstance(raw, dict) and len(raw) == 1 and next(iter(raw)) in _KINDS:
            kind, value = next(iter(raw.items()))
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{kind} must be a whole number of at least 1, got {value!r}")
            return {"kind": kind, "value": float(value)}
        raise ValueError(f"data_fraction is a number in (0, 1] or one of {{images|patients|per_class: n}}, got {raw!r}")

    @model_serializer
    def _as_written(self) -> float | dict[str, int]:
        return self.value if self.kind == "fraction" else {self.kind: int(self.value)}

    @property
    def label(self) -> str:
        """Short text for tags and plots: ``0.05``, ``patients=9``."""
        return f"{self.value:g}" if self.kind == "fraction" else f"{self.kind}={int(self.value)}"

    @property
    def is_everything(self) -> bool:
        """Whether this is the whole training set."""
        return self.kind == "fraction" and self.value == 1.0


class Seed(StrictModel):
    """The two seeds of a trial. Everything random in it follows from them.

    Attributes:
        subset: Draws the patient order whose prefixes are the subsets.
        init: Draws the initial weights, the order of batches, augmentation and dropout.
    """

    subset: int
    init: int

    @model_validator(mode="before")
    @classmethod
    def _from_int(cls, raw: Any) -> Any:
        if isinstance(raw, int) and not isinstance(raw, bool):
            return {"subset": raw, "init": raw}
        return raw

    # Seeds are the keys of every comparison of a report: pydantic's own take a tenth of its time.
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Seed) and self.subset == other.subset and self.init == other.init

    def __hash__(self) -> int:
        return hash((self.subset, self.init))

    @property
    def label(self) -> str:
        """Short text: ``3`` when both seeds are 3, else ``s3i0``."""
        return str(self.subset) if self.subset == self.init else f"s{self.subset}i{self.init}"


def expand_seeds(raw: Any) -> tuple[Seed, ...]:
    """The seeds of a study from their written form.

    Args:
        raw: ``5`` for 0..4, a list such as ``[0, 7]``, or ``{subset: 5, init: 2}`` (each a count or a list): crossed.

    Raises:
        ValueError: Another form, a negative seed, a repeated seed or none.
    """
    if isinstance(raw, dict):
        if set(raw) != {"subset", "init"}:
            raise ValueError(f"crossed seeds need exactly the keys subset and init, got {sorted(raw)}")
        return tuple(Seed(subset=s, init=i) for s in _seed_list(raw["subset"]) for i in _seed_list(raw["init"]))
    return tuple(Seed.model_validate(s) for s in _seed_list(raw))


def _seed_list(raw: Any) -> list[int]:
    seeds = list(range(raw)) if isinstance(raw, int) and not isinstance(raw, bool) else raw
    whole = isinstance(seeds, list | tuple) and all(isinstance(s, int) and not isinstance(s, bool) for s in seeds)
    if not whole or not seeds or min(seeds) < 0 or len(set(seeds)) != len(seeds):
        raise ValueError(f"seeds are a count of at least 1 or a list of different whole numbers from 0, got {raw!r}")
    return list(seeds)
