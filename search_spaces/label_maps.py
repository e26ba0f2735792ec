"""Label maps between data sets that are shipped: what a label of one is called in another."""

from __future__ import annotations

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
