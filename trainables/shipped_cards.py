"""Cards of model scales that ship with this project, read without torch: counted once per version of timm.

``python -m trainables.count_cards`` counts networks of timm and torchvision, and this project's own, at their native
sizes, and writes ``model_cards.json``. The file is used only where timm, torchvision and torch are of the
versions that it was counted with; otherwise networks are counted when asked for.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from typing import Any

from search_spaces.identity import ScaleCard
from search_spaces.ladders import ladder_of
from search_spaces.normalisation import NORMALISATIONS

FILE = "model_cards.json"
PACKAGES = ("timm", "torchvision", "torch")
"""Whose versions decide whether the file is used."""

OUTPUTS = 1000
"""Outputs that cards are counted with unless others are asked for."""

TORCHVISION = "torchvision"

OWN_SCALES: dict[str, tuple[str, int]] = {
    **{f"trainables.cbr_nets:{name}": ("cbr", 224) for name in ("cbr_large_t", "cbr_large_w", "cbr_small", "cbr_tiny")},
    **{f"trainables.slim_nets:{name}": ("slim", 224) for name in ("slim_resnet50", "slim_cbr_small")},
    **{f"trainables.ladder_nets:resnet{n}": ("cifar_resnet", 32) for n in (8, 14, 20, 32, 44, 56, 110)},
}
"""Factories of this project -> family, input size in pixels that their cards are counted at."""

Scaling = tuple[tuple[float, ...], tuple[float, ...]]
_FIELDS = ("input_size", "depth", "width", "parameters", "backbone_parameters", "gflops", "activation_mib")
_HUB = "timm/"
_NUMBERED = re.compile(r"(.*?)(0|[1-9]\d*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """What a scale is and costs.

    Attributes:
        factory: As in a study.
        family: timm's module (``resnetv2``, ``vision_transformer``), torchvision's, or a family of this project's.
        ladder: Shipped ladder that it gets when a study names none.
        depth: Layers one after another as counted by ``trainables.parts.layer_depths`` (residual or transformer blocks,
            plus stem and head).
        width: Features that the head reads.
        parameters: Trainable numbers, with ``num_classes`` outputs.
        backbone_parameters: Without the head; as many for an encoder that has none, which no study can train.
        num_classes: Outputs that were counted.
        input_size: Side in pixels that was counted.
        gflops: 1e9 operations of one image's forward pass.
        activation_mib: Memory kept for one image's backward pass, float32, MiB.
        native_size: Side in pixels that the model is made for; None if it states none.
        mean, std: Input scaling of its default pretrained weights; None if it has none.
        tags: Pretrained tags of timm.
        cut_points: Names for ``up_to`` and ``freeze``, from the bottom.
    """

    factory: str
    family: str
    ladder: str | None
    depth: int
    width: int
    parameters: int
    backbone_parameters: int
    num_classes: int
    input_size: int
    gflops: float
    activation_mib: float
    native_size: int | None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    tags: tuple[str, ...] = ()
    cut_points: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    """What the file holds of one network.

    Attributes:
        numbers: As ``_FIELDS`` names them.
        cuts: Place of its cut points in the file's list.
        is_sound: Whether it was built with 2 outputs, too, and ran in training and in evaluation.
        default: timm's default tag.
        weights: timm's tags that have weights -> place of their scaling, and where they are.
    """

    numbers: tuple[float, ...]
    cuts: int
    is_sound: bool
    default: str | None = None
    weights: tuple[tuple[str, int, str], ...] = ()


class ShippedCards:
    """What the file holds.

    Args:
        raw: As ``trainables.count_cards`` writes it.
    """

    def __init__(self, raw: Mapping[str, Any]) -> None:
        self._cuts = [unfolded(text) for text in raw["cut_points"]]
        self._scalings: list[Scaling] = [(tuple(mean), tuple(std)) for mean, std in raw["scalings"]]
        self._raw: dict[str, tuple[str, list[Any]]] = {}
        for family, rows in raw["cards"].items():
            self._raw |= {name: (family, row) for name, row in rows.items()}
        self.names = tuple(self._raw)
        """Networks that the file holds."""
        self.timm_families = {family: tuple(names.split()) for family, names in raw["timm_families"].items()}
        """timm's families -> names of all their models, with or without a card."""

    def facts(self, text: str) -> ScaleCard | None:
        """What identity needs of a scale; None if the file does not hold it.

        Args:
            text: The factory, as in a study.
        """
        card = self.card(text)
        if card is None:
            return None
        if ":" in _name(text)[0]:
            return ScaleCard(input_size=card.native_size)
        weights = self._weights(text)
        return ScaleCard(
            input_size=card.native_size,
            normalise={tag: scaling for tag, (scaling, _) in weights.items()},
            revision={tag: revision for tag, (_, revision) in weights.items()},
        )

    def card(self, text: str) -> ModelCard | None:
        """The card of a scale at its native size with ``OUTPUTS`` outputs; None if the file does not hold it.

        Args:
            text: The factory, as in a study.
        """
        name, tag = _name(text)
        if name not in self._raw:
            return None
        family, row = self._raw[name][0], self._row(name)
        weights = {} if ":" in name else self._weights(text)
        if tag and tag not in weights:
            return None
        scaling = weights["default"][0] if "default" in weights else None
        if family == TORCHVISION:
            scaling = NORMALISATIONS["imagenet"]
        numbers: dict[str, Any] = dict(zip(_FIELDS, row.numbers, strict=True))
        return ModelCard(
            factory=text,
            family=family,
            ladder=ladder_of(name),
            num_classes=OUTPUTS,
            native_size=None if name in OWN_SCALES else numbers["input_size"],
            mean=scaling[0] if scaling else None,
            std=scaling[1] if scaling else None,
            tags=tuple(t for t in weights if t != "default"),
            cut_points=self._cuts[row.cuts],
            **numbers,
        )

    def parameters(self, text: str, num_outputs: int, input_size: int) -> int | None:
        """Trainable numbers of a network without arguments, which was built and run; None if that is not known.

        Args:
            text: The factory, as in a study.
            num_outputs: Its outputs.
            input_size: Side in pixels; only the native one was run.
        """
        card = self.card(text)
        if card is None or input_size != card.input_size or not self._row(_name(text)[0]).is_sound:
            return None
        return card.backbone_parameters + (card.parameters - card.backbone_parameters) // OUTPUTS * num_outputs

    def _row(self, name: str) -> _Row:
        row = self._raw[name][1]
        numbers, rest = tuple(row[: len(_FIELDS)]), row[len(_FIELDS) :]
        cuts, is_sound, default, *weights = [*rest, None] if len(rest) == 2 else rest
        return _Row(
            numbers=numbers,
            cuts=cuts,
            is_sound=bool(is_sound),
            default=default,
            weights=tuple(
                (tag, scaling, where[0] if where else f"{_HUB}{name}.{tag}") for tag, scaling, *where in weights
            ),
        )

    def _weights(self, text: str) -> dict[str, tuple[Scaling, str]]:
        """As ``trainables.timm_weights.published_weights``: tag, and ``default`` -> scaling and revision."""
        name, asked = _name(text)
        row = self._row(name)
        weights = {t: (self._scalings[scaling], f"{name}.{t or 'default'}@{at}") for t, scaling, at in row.weights}
        default = weights.get(asked or row.default or "")
        weights.pop("", None)  # weights without a tag are the default's alone
        return weights | ({"default": default} if default else {})


def row_of(
    card: ModelCard,
    cuts: int,
    is_sound: bool,
    weights: Mapping[str, tuple[int, str]] | None,
) -> list[Any]:
    """What the file holds of one network; see ``_Row``.

    Args:
        card: Counted at the native size.
        cuts: See ``_Row``.
        is_sound: See ``_Row``.
        weights: timm's tags, and ``default`` -> place of the scaling and revision; None for networks that are not its.
    """
    row: list[Any] = [*(getattr(card, name) for name in _FIELDS), cuts, int(is_sound)]
    if weights is None:
        return row
    name = _name(card.factory)[0]
    at = {tag: revision.partition("@")[2] for tag, (_, revision) in weights.items()}
    tags = [tag for tag in weights if tag != "default"]
    default = next((tag for tag in tags if weights[tag] == weights["default"]), "") if "default" in weights else None
    entries = [(tag, tag) for tag in tags] + ([("", "default")] if default == "" else [])
    short = {tag for tag in tags if at[tag] == f"{_HUB}{name}.{tag}"}
    return [*row, default, *([tag, weights[key][0], *([] if tag in short else [at[key]])] for tag, key in entries)]


def folded(names: Sequence[str]) -> str:
    """Names separated by spaces; those that differ in a number at their end and count up as ``blocks.0:11``."""
    runs: list[tuple[str, int, int] | str] = []
    for name in names:
        found = _NUMBERED.fullmatch(name)
        last = runs[-1] if runs else ""
        if found is None:
            runs.append(name)
        elif isinstance(last, tuple) and (last[0], last[2] + 1) == (found[1], int(found[2])):
            runs[-1] = (*last[:2], int(found[2]))
        else:
            runs.append((found[1], int(found[2]), int(found[2])))
    return " ".join(r if isinstance(r, str) else f"{r[0]}{r[1]}" + (f":{r[2]}" if r[2] > r[1] else "") for r in runs)


def unfolded(text: str) -> tuple[str, ...]:
    """The names that ``folded`` has put together."""
    names: list[str] = []
    for part in text.split():
        start, colon, last = part.partition(":")
        found = _NUMBERED.fullmatch(start)
        if not colon or found is None:
            names.append(part)
        else:
            names += [f"{found[1]}{number}" for number in range(int(found[2]), int(last) + 1)]
    return tuple(names)


def _name(text: str) -> tuple[str, str]:
    """Name in the file, and timm's tag if one was written."""
    name = text.removeprefix("timm:")
    if ":" in name:
        return text, ""
    name, _, tag = name.partition(".")
    return name, tag


def installed() -> dict[str, str]:
    """Versions of the packages that cards depend on, without local builds (``+cu130``)."""
    found: dict[str, str] = {}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package).partition("+")[0]
    return found


@lru_cache(maxsize=1)
def shipped_cards() -> ShippedCards | None:
    """The cards that ship; None where other versions are installed than they were counted with."""
    raw = json.loads((resources.files("trainables") / FILE).read_text(encoding="utf-8"))
    return ShippedCards(raw) if raw["versions"] == installed() else None
