"""Counts the cards that ship, for the installed versions: ``python -m trainables.count_cards [--again] [--jobs N]``.

All networks of timm and torchvision and this project's own are counted at their native sizes and written to
``model_cards.json`` beside this module. Cards that it holds for these versions are kept (``--again`` counts them, too),
so that it may be interrupted. A process counts about a hundred networks, as torch does not give back all memory.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from search_spaces.exceptions import UserError
from search_spaces.trial import ResolvedScale
from trainables.factories import Origin, find_factory
from trainables.meta_device import NothingDrawn, without_numbers
from trainables.models import outputs_of
from trainables.random_state import own_random_state
from trainables.scale_cards import model_card, timm_families, torchvision_names
from trainables.shipped_cards import (
    FILE,
    OUTPUTS,
    OWN_SCALES,
    ModelCard,
    Scaling,
    ShippedCards,
    folded,
    installed,
    row_of,
    shipped_cards,
)
from trainables.timm_weights import published_weights

_PER_PROCESS = 100
_FEW_OUTPUTS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """One network.

    Attributes:
        name: Its factory.
        card: Its card; None if it has none.
        is_sound: Whether it was built with two outputs, too, and ran in training and in evaluation.
        weights: timm's scaling and revision per tag; None for networks that are not its.
        trouble: Why it has no card, or is not sound; empty if nothing is wrong.
    """

    name: str
    card: ModelCard | None = None
    is_sound: bool = False
    weights: tuple[Mapping[str, Scaling], Mapping[str, str]] | None = None
    trouble: str = ""


def all_names() -> list[str]:
    """Factories of all networks that cards ship of."""
    return [*(n for names in timm_families().values() for n in names), *torchvision_names(), *OWN_SCALES]


def count(name: str) -> Counted:
    """Count a network."""
    try:
        card = model_card(name)
    except UserError as error:
        return Counted(name=name, trouble=str(error))
    factory = find_factory(name)
    weights = published_weights(factory) if factory.origin is Origin.TIMM else None
    trouble = _unsound(card)
    return Counted(name=name, card=card, is_sound=not trouble, weights=weights, trouble=trouble)


def kept(cards: ShippedCards, name: str) -> Counted | None:
    """What the file holds of a network; None if nothing."""
    card, facts = cards.card(name), cards.facts(name)
    if card is None or facts is None:
        return None
    is_sound = cards.parameters(name, 1, card.input_size) is not None
    weights = None if ":" in name else (facts.normalise or {}, facts.revision or {})
    return Counted(name=name, card=card, is_sound=is_sound, weights=weights)


def _unsound(card: ModelCard) -> str:
    """Why a network cannot be trained, or its numbers do not grow by as many for each output; else empty."""
    try:
        numbers = _numbers_with_few_outputs(card)
    except UserError as error:
        return str(error)
    of_output, rest = divmod(card.parameters - card.backbone_parameters, OUTPUTS)
    if rest or numbers != card.backbone_parameters + _FEW_OUTPUTS * of_output:
        return f"{card.parameters} numbers with {OUTPUTS} outputs, {numbers} with {_FEW_OUTPUTS}"
    return ""


def _numbers_with_few_outputs(card: ModelCard) -> int:
    """Trainable numbers of a network that was built without numbers and tried in training and in evaluation.

    Raises:
        UserError: It cannot be built, or does not give the outputs.
    """
    factory, meta = find_factory(card.factory), torch.device("meta")
    scale = ResolvedScale(name=card.factory, factory=card.factory, input_size=card.input_size)
    with meta, NothingDrawn(), own_random_state(0):
        model = without_numbers(lambda: factory.make(_FEW_OUTPUTS, {}, card.input_size))
        for training in (True, False):  # auxiliary outputs often exist in one of the modes only
            outputs_of(model.train(training), factory, scale, _FEW_OUTPUTS, meta)
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def to_json(counted: Iterable[Counted], families: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """What ``ShippedCards`` reads.

    Args:
        counted: Networks with and without cards.
        families: timm's -> names of their models.
    """
    cuts: dict[str, int] = {}
    scalings: dict[Scaling, int] = {}
    cards: dict[str, dict[str, list[Any]]] = {}
    for one in counted:
        if one.card is None:
            continue
        weights = None
        if one.weights is not None:
            of_tag, revisions = one.weights
            weights = {
                tag: (scalings.setdefault(scaling, len(scalings)), revisions[tag]) for tag, scaling in of_tag.items()
            }
        cut = cuts.setdefault(folded(one.card.cut_points), len(cuts))
        cards.setdefault(one.card.family, {})[one.name] = row_of(one.card, cut, one.is_sound, weights)
    return {
        "versions": installed(),
        "timm_families": {family: " ".join(names) for family, names in families.items()},
        "cut_points": [*cuts],
        "scalings": [*scalings],
        "cards": cards,
    }


def written(raw: Mapping[str, Any]) -> str:
    """The same as text, a line per network."""
    cards = ",\n".join(
        f"{json.dumps(family)}:{{\n"
        + ",\n".join(f"{json.dumps(name)}:{json.dumps(row, separators=(',', ':'))}" for name, row in rows.items())
        + "}"
        for family, rows in raw["cards"].items()
    )
    rest = ",\n".join(f"{json.dumps(key)}:{json.dumps(raw[key])}" for key in raw if key != "cards")
    return f'{{{rest},\n"cards":{{\n{cards}}}}}\n'


def differences(cards: ShippedCards, counted: Iterable[Counted]) -> Iterator[str]:
    """Names of networks whose shipped card is not what was counted."""
    for one in counted:
        if cards.card(one.name) != one.card:
            yield one.name


def main() -> None:
    """Count and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--again", action="store_true", help="count what the file holds, too")
    parser.add_argument("--jobs", type=int, default=2, help="processes, each of up to 2 GB")
    arguments = parser.parse_args()
    cards = None if arguments.again else shipped_cards()
    known = {name: kept(cards, name) if cards else None for name in all_names()}
    missing = [name for name, one in known.items() if one is None]
    batch = arguments.jobs * _PER_PROCESS
    for start in range(0, len(missing), batch):
        known |= _counted(missing[start : start + batch], arguments.jobs)
        _write([one for one in known.values() if one is not None], len(known))


def _counted(names: Sequence[str], jobs: int) -> dict[str, Counted]:
    """Count networks in processes of their own.

    ``max_tasks_per_child`` would do without batches, but an executor that replaces its processes may wait for ever
    (CPython issue 115634).
    """
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        found = dict(zip(names, pool.map(count, names), strict=True))
    for one in found.values():
        if one.trouble:
            print(f"{one.name}: {'no card' if one.card is None else 'not sound'}: {one.trouble}", flush=True)
    return found


def _write(counted: Sequence[Counted], networks: int) -> None:
    raw = to_json(counted, timm_families())
    with_card = [one for one in counted if one.card is not None]
    if wrong := list(differences(ShippedCards(raw), with_card)):
        raise RuntimeError(f"cards that are not read as they were counted: {', '.join(wrong)}")
    file = Path(__file__).with_name(FILE)
    partial = file.with_suffix(".partial")
    partial.write_text(written(raw), encoding="utf-8")
    partial.replace(file)
    print(f"{len(with_card)} cards of {networks} networks in {file}")


if __name__ == "__main__":
    main()
