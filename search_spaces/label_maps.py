"""Label maps between data sets that are shipped: what a label of one is called in another."""

from __future__ import annotations

from collections.abc import Collection
from functools import cache
from importlib import resources
from types import MappingProxyType

import yaml

from search_spaces.exceptions import unknown
from search_spaces.models import StrictModel
from search_spaces.yaml_text import UniqueKeyLoader


class _Pair(StrictModel):
    """Labels of equal meaning in two data sets; ``source`` says why they are taken for equal."""

    a: str
    b: str
    labels: dict[str, str]
    source: str


@cache
def label_maps() -> MappingProxyType[str, MappingProxyType[str, str]]:
    """Name, such as ``chexpert_to_chestxray14`` -> the first set's label -> the second's."""
    text = resources.files("search_spaces").joinpath("label_maps.yaml").read_text("utf-8")
    maps: dict[str, MappingProxyType[str, str]] = {}
    for raw in yaml.load(text, Loader=UniqueKeyLoader):
        pair = _Pair.parse(raw, "search_spaces/label_maps.yaml")
        maps[f"{pair.a}_to_{pair.b}"] = MappingProxyType(pair.labels)
        maps[f"{pair.b}_to_{pair.a}"] = MappingProxyType({other: label for label, other in pair.labels.items()})
    return MappingProxyType(maps)


def label_map_of(name: str) -> dict[str, str]:
    """A shipped label map.

    Raises:
        ValueError: There is none of that name.
    """
    if name not in label_maps():
        raise ValueError(unknown("label map", name, label_maps()))
    return dict(label_maps()[name])


def joined_labels(name: str, labels: Collection[str], others: Collection[str]) -> dict[str, str]:
    """What a shipped map joins of two sides, each of which may have some of its data set's labels alone.

    Args:
        name: Of the map.
        labels: What it is to map.
        others: What they may be called.

    Raises:
        ValueError: There is no such map, it joins none of them, or read the other way round it joins more.
    """
    first, _, second = name.partition("_to_")
    joined, reverse = (_within(which, labels, others) for which in (name, f"{second}_to_{first}"))
    if len(reverse) > len(joined):
        raise ValueError(
            f"label map {name!r} joins {len(joined)} of the labels, {second}_to_{first} {len(reverse)}: "
            "the data set that is trained on comes first"
        )
    if not joined:
        raise ValueError(
            f"label map {name!r} joins none of {', '.join(labels)} with one of {', '.join(others)}. It joins "
            + ", ".join(f"{label} with {other}" for label, other in label_map_of(name).items())
        )
    return joined


def _within(name: str, labels: Collection[str], others: Collection[str]) -> dict[str, str]:
    return {label: other for label, other in label_map_of(name).items() if label in labels and other in others}
