"""Ladders: scales of one family, which a line may join. Those that studies get unless they say otherwise are data."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from importlib import resources
from typing import Any

import yaml

ALONE = "none"
"""Ladder of a scale that stands alone whatever its factory."""

_FILE = "ladders.yaml"


@lru_cache(maxsize=1)
def ladders() -> dict[str, tuple[str, ...]]:
    """Ladder -> factories, smallest first."""
    text = (resources.files("search_spaces") / _FILE).read_text(encoding="utf-8")
    return {str(name): tuple(map(str, rungs)) for name, rungs in yaml.safe_load(text).items()}


def ladder_of(factory: str, arguments: Mapping[str, Any] | None = None) -> str | None:
    """The shipped ladder that holds a factory; None if none does.

    Args:
        factory: As in a study: ``resnet50``, ``timm:resnet50``, ``resnet50.a1_in1k`` (the same rung) or
            ``pkg.mod:function``.
        arguments: Of the scale. With any, it may be another network, and no ladder is assumed.
    """
    if arguments:
        return None
    name = factory.removeprefix("timm:")
    name = name if ":" in name else name.partition(".")[0]
    return next((ladder for ladder, rungs in ladders().items() if name in rungs), None)


def ladder(given: str | None, factory: str, arguments: Mapping[str, Any]) -> str | None:
    """The ladder of a scale: what the study says, else the shipped one; None if it stands alone."""
    if given is None:
        return ladder_of(factory, arguments)
    return None if given == ALONE else given
