"""Which data sets share images, and so whether pretrained weights may have seen what they are tested on.

Names are compared without regard to case and punctuation. The table holds what publishers say of their data sets; a
name that is not in it is a data set of its own.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import cache

_ALIASES: dict[str, tuple[str, ...]] = {
    "imagenet1k": ("imagenet", "ilsvrc2012", "in1k", "imagenet2012"),
    "imagenet21k": ("in21k", "in22k", "imagenet22k", "imagenet21kp"),
    "imagenet12k": ("in12k",),
    "chestxray14": ("nihchestxray", "nihchestxray14", "nihcxr", "cxr14", "chestxray8", "nihcc"),
    "mimiccxr": ("mimiccxrjpg",),
    "eyepacs": ("kaggledr", "diabeticretinopathydetection"),
    "rsnapneumonia": ("rsnapneumoniadetection",),
    "rsnape": ("rsnapulmonaryembolism", "rspect", "rsnastrpulmonaryembolism"),
    "siimacr": ("siimacrpneumothorax", "siimpneumothorax"),
    "isicarchive": ("isic",),
    "lggmri": ("kagglelgg", "lggmrisegmentation"),
    "covidcxr": ("covidchestxray", "covidchestxraydataset", "ieee8023covid"),
    "pcam": ("patchcamelyon",),
    "tinyimages": ("tinyimages80m", "80milliontinyimages"),
    "kermanycxr": ("chestxraypneumonia",),
    "kermanyoct": ("oct2017",),
}
"""Data set -> other names of it."""

_DRAWN_FROM: dict[str, tuple[str, ...]] = {
    "imagenet1k": ("imagenet21k",),
    "imagenet12k": ("imagenet21k",),
    "imagenet100": ("imagenet1k",),
    "tinyimagenet": ("imagenet1k",),
    "imagenette": ("imagenet1k",),
    "cifar10": ("tinyimages",),
    "cifar100": ("tinyimages",),
    "rsnapneumonia": ("chestxray14",),
    "siimacr": ("chestxray14",),
    "chestmnist": ("chestxray14",),
    "chexphoto": ("chexpert",),
    "chexlocalize": ("chexpert",),
    "chexpertplus": ("chexpert",),
    "mscxr": ("mimiccxr",),
    "chestimagenome": ("mimiccxr",),
    "covidx": ("covidcxr", "rsnapneumonia"),
    "ham10000": ("isicarchive",),
    "bcn20000": ("isicarchive",),
    "isic2016": ("isicarchive",),
    "isic2017": ("isicarchive",),
    "isic2018": ("isicarchive", "ham10000"),
    "isic2019": ("isicarchive", "ham10000", "bcn20000"),
    "isic2020": ("isicarchive",),
    "dermamnist": ("ham10000",),
    "pneumoniamnist": ("kermanycxr",),
    "octmnist": ("kermanyoct",),
    "bloodmnist": ("pbc",),
    "pathmnist": ("nctcrche100k",),
    "tissuemnist": ("bbbc051",),
    "breastmnist": ("busi",),
    "retinamnist": ("deepdrid",),
    "organamnist": ("lits",),
    "organcmnist": ("lits",),
    "organsmnist": ("lits",),
    "lggmri": ("tcgalgg",),
    "brats": ("tcgalgg", "tcgagbm"),
    "pcam": ("camelyon16",),
    "cbisddsm": ("ddsm",),
    "messidor2": ("messidor",),
}
"""Data set -> those whose images it holds or is part of."""

_OF_TAG = {
    "in1k": "imagenet1k",
    "in12k": "imagenet12k",
    "in21k": "imagenet21k",
    "in22k": "imagenet21k",
    "in21kp": "imagenet21k",
    "jft": "jft300m",
    "openai": "webimagetext",
    "laion2b": "laion2b",
    "laion400m": "laion400m",
    "datacompxl": "datacomp",
    "dfn2b": "dfn",
    "dfn5b": "dfn",
    "merged2b": "merged2b",
    "webli": "webli",
    "lvd142m": "lvd142m",
    "lvd1689m": "lvd1689m",
    "yfcc15m": "yfcc100m",
    "yfcc100m": "yfcc100m",
    "ig1b": "instagram1b",
    "inat21": "inaturalist2021",
    "places365": "places365",
}
"""Part of a timm pretrained tag -> data set (timm's naming, ``architecture.tag``)."""

_LEAST_PREFIX = 5
"""Letters of a known name that a longer name must begin with to be taken for a version of it."""


class Overlap(StrEnum):
    """Whether weights were trained on images of a set."""

    NO = "no"
    POSSIBLE = "possible"
    YES = "yes"


@dataclass(frozen=True, slots=True)
class Shared:
    """Data sets on both sides that share images.

    Attributes:
        seen: What the weights have seen, as written.
        target: What is tested on, as written.
    """

    seen: str
    target: str


def shared_contents(seen: Iterable[str], targets: Collection[str]) -> tuple[Shared, ...]:
    """Pairs of names that stand for one data set, for one drawn from the other, or for two drawn from a third.

    Args:
        seen: Names of the data sets that weights were trained on.
        targets: Names of the data sets that are tested on.
    """
    return tuple(Shared(a, b) for a in seen for b in targets if _origins(a) & _origins(b))


def contents_of_tag(tag: str) -> tuple[str, ...]:
    """Data sets named in a timm tag or ``name.tag@revision``; empty if it names none that is known."""
    parts = re.split(r"[^a-z0-9]+", tag.lower())
    return tuple(dict.fromkeys(_OF_TAG[part] for part in parts if part in _OF_TAG))


@cache
def _origins(name: str) -> frozenset[str]:
    """The data set and all that it shares images with by descent."""
    known = {*_ALIASES, *_DRAWN_FROM, *(origin for origins in _DRAWN_FROM.values() for origin in origins)}
    by_alias = {alias: own for own, aliases in _ALIASES.items() for alias in aliases} | {own: own for own in known}
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    begun = [text for text in by_alias if len(text) >= _LEAST_PREFIX and plain.startswith(text)]
    own = by_alias.get(plain) or (by_alias[max(begun, key=len)] if begun else plain)
    found, todo = {own, plain}, [own]
    while todo:
        for origin in _DRAWN_FROM.get(todo.pop(), ()):
            if origin not in found:
                found.add(origin)
                todo.append(origin)
    return frozenset(found)
