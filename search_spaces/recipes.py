"""Named recipes: which values the fields of a protocol have unless they are written (``protocols.yaml``)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

import yaml
from pydantic import BaseModel

from search_spaces.exceptions import unknown

_FILE = "protocols.yaml"

_OF_SCHEDULE = ("decay_factor", "milestones", "patience", "threshold", "min_lr")
"""Fields that belong to the recipe's schedule, and go with it where another one is written."""

_OF_WARMUP = ("warmup_steps", "warmup_start")
_OF_MIXUP = ("mixup_share", "mixup_min_images")


@cache
def _file() -> dict[str, dict[str, Any]]:
    loaded: dict[str, dict[str, Any]] = yaml.safe_load(
        (resources.files("search_spaces") / _FILE).read_text(encoding="utf-8")
    )
    return loaded


def recipe_names() -> tuple[str, ...]:
    """Names for ``protocol.base``."""
    return tuple(_file())


def recipe(base: str, variant: str | None = None) -> dict[str, Any]:
    """Field -> value of a recipe; what it leaves out has the protocol's own default.

    Args:
        base: Name of the recipe.
        variant: One of its variants; the first if not given.

    Raises:
        ValueError: No such recipe or variant.
    """
    if base not in _file():
        raise ValueError(unknown("recipe", base, recipe_names(), "protocol.base"))
    fields = dict(_file()[base])
    fields = {**_file()[fields.pop("extends")], **fields} if "extends" in fields else fields
    variants: dict[str, dict[str, Any]] = fields.pop("variants", {})
    if variant is not None and variant not in variants:
        known = f"one of {', '.join(variants)}" if variants else f"none, as {base} has only one form"
        raise ValueError(f"variant of {base}: got {variant!r}, allowed is {known}")
    if variants:
        chosen = variant or next(iter(variants))
        fields |= {"variant": chosen, **variants[chosen]}
    return fields


def completed(written: Mapping[str, Any]) -> dict[str, Any]:
    """What was written of a protocol, with the values of its recipe where nothing was.

    A written field takes those of the recipe along that make no sense beside it: another schedule drops the decay of
    the recipe's, a share of warm-up its number of steps, no mixup all that is said of it, a fixed network the average
    of weights. A ghost batch is the whole global batch unless written, or unless the recipe has one that divides it.

    Raises:
        ValueError: No such recipe or variant.
    """
    base, variant = written.get("base", "finetune"), written.get("variant")
    if not isinstance(base, str) or not isinstance(variant, str | None):
        return dict(written)  # the fields' own checks say what is wrong
    defaults = recipe(base, variant)
    if "schedule" in written and written["schedule"] != defaults.get("schedule"):
        defaults = {k: v for k, v in defaults.items() if k not in _OF_SCHEDULE}
    if "warmup_fraction" in written and "warmup_steps" not in written:
        defaults = {k: v for k, v in defaults.items() if k not in _OF_WARMUP}
    if written.get("mixup_alpha") == 0:
        defaults = {k: v for k, v in defaults.items() if k not in _OF_MIXUP}
    if written.get("method", "training") != "training":
        defaults.pop("ema_decay", None)
    if written.get("warmup_steps") is not None:
        defaults["warmup_fraction"] = 0.0
    if "storage_size" in written and "image_size" not in written:
        defaults.pop("image_size", None)
    if isinstance(written.get("image_size"), list | tuple) and written["image_size"]:
        defaults["storage_size"] = written["image_size"][0]
    if "evaluations" in written and "evaluate_every" not in written:
        defaults.pop("evaluate_every", None)
    whole = {**defaults, **written}
    if "augmentation" in defaults and "augmentation" in written:
        whole["augmentation"] = _merged(defaults["augmentation"], written["augmentation"])
    if "global_batch_size" in whole and "ghost_batch_size" not in written:
        images, ghost = whole["global_batch_size"], defaults.get("ghost_batch_size")
        divides = isinstance(images, int) and ghost is not None and images % ghost == 0
        whole["ghost_batch_size"] = ghost if divides else images
    return whole


def _merged(defaults: Mapping[str, Any], written: Any) -> Any:
    fields = written.model_dump(exclude_unset=True) if isinstance(written, BaseModel) else written
    return {**defaults, **fields} if isinstance(fields, Mapping) else written
