"""The catalogue of published weights and the cards of model scales, in words and tables."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from orchestrator.known_models import KnownModels
from search_spaces.catalogue import CatalogueEntry, catalogue, find_entry, near_entries
from search_spaces.exceptions import UserError, unknown
from search_spaces.files import LoadedStudy
from search_spaces.ladders import ladders
from search_spaces.normalisation import NORMALISATIONS, Normalisation
from search_spaces.study import ScaleSpec
from search_spaces.trial import ResolvedScale
from trainables.shipped_cards import OWN_SCALES, ModelCard, shipped_cards

ALL = "all"
"""``--family`` for every model."""

_SAVE_EVERY = 20
_MOST_TAGS = 12


def print_catalogue(console: Console) -> None:
    """One line per entry: what it was trained on, for which networks, licence, scaling, how to come by it."""
    columns = ("entry", "for", "trained on", "top-1", "licence", "scaling", "how to get it")
    table = Table(*columns, title="published weights that are known (show ENTRY says more)")
    for name, entry in catalogue().items():
        networks = ", ".join(entry.architectures[:1]) + (" ..." if len(entry.architectures) > 1 else "")
        top1 = f"{entry.upstream_top1:g}" if entry.upstream_top1 else ""
        data = entry.data or ("a layout of files" if entry.kind == "format" else "")
        licence = entry.licence or ("not read" if entry.kind == "weights" and entry.available else "")
        cells = (name, networks or "any", data, top1, licence, scaling_name(entry.normalise))
        table.add_row(*map(escape, (*cells, _how(entry))))
    console.print(table)


def _how(entry: CatalogueEntry) -> str:
    if not entry.available:
        return "never released"
    if entry.timm:
        return f"timm ({entry.timm}) or a file"
    return "a file, converted" if entry.convert else "a file"


def scaling_name(normalise: Normalisation) -> str:
    """The name of an input scaling, or its numbers."""
    pair = (normalise.mean, normalise.std)
    return next((name for name, known in NORMALISATIONS.items() if known == pair), f"mean {pair[0]}, std {pair[1]}")


def print_entry(name: str, console: Console) -> None:
    """All that is known about an entry, and how a study uses it."""
    entry = find_entry(name)
    console.print(f"[bold]{escape(name)}[/bold]: {escape(entry.title)}")
    written = entry.model_dump(mode="json", exclude_defaults=True, exclude={"title", "normalise", "rename"})
    for key, value in written.items():
        console.print(f"  {key}: {escape(', '.join(map(str, value)) if isinstance(value, list) else str(value))}")
    assumed = " (assumed)" if entry.normalise_assumed else ""
    console.print(f"  normalise: {scaling_name(entry.normalise)}{assumed}")
    for rule in entry.rename:
        console.print(f"  rename: {escape(rule.pattern)} -> {escape(rule.to)}")
    if entry.sha256 is None and entry.kind == "weights":
        console.print("  sha256: not known; that of the file in use goes into the trial's identity and receipt")
    needs = "" if entry.timm else ", file: PATH"
    console.print(f"  in a study: sources: {{mine: {{catalogue: {name}{needs}}}}}", markup=False)


def print_scales(family: str | None, models: KnownModels, console: Console) -> None:
    """Cards of a ladder or family; without one, of all ladders and of this project's own scales.

    Raises:
        UserError: No such family.
    """
    own: dict[str, tuple[str, ...]] = {}
    for factory, (name, _) in OWN_SCALES.items():
        own[name] = (*own.get(name, ()), factory)
    families = _timm_families()
    if family is None:
        names = list(dict.fromkeys((*(n for rungs in ladders().values() for n in rungs), *OWN_SCALES)))
        title = "scales of the shipped ladders, and this project's own"
    else:
        known: dict[str, list[str]] = {ALL: [*OWN_SCALES, *(n for several in families.values() for n in several)]}
        for groups in (ladders(), own, families):  # a ladder may have the name of its family: its rungs come first
            for name, several in groups.items():
                known[name] = list(dict.fromkeys([*known.get(name, []), *several]))
        if family not in known:
            raise UserError(unknown("family of scales", family, known))
        names, title = known[family], f"scales: {family}"
    cards, failed = _cards(names, models, console)
    console.print(_scale_table(cards, title))
    for name, why in failed.items():
        console.print(f"not counted: {name}: {why}", markup=False, style="yellow")
    if family is None:
        listed = ", ".join(f"{name} ({len(several)})" for name, several in families.items())
        console.print(f"--family takes {', '.join(dict.fromkeys((*ladders(), *own, ALL)))}, or a family of timm:")
        console.print(listed, style="dim")


def _timm_families() -> Mapping[str, tuple[str, ...]]:
    """timm's families -> names of their models."""
    cards = shipped_cards()
    if cards is None:
        from trainables.scale_cards import timm_families

        return timm_families()
    return cards.timm_families


def _cards(names: Sequence[str], models: KnownModels, console: Console) -> tuple[list[ModelCard], dict[str, str]]:
    """Cards in the order of the names, and why some have none. What was counted is kept, even if interrupted."""
    cards: list[ModelCard] = []
    failed: dict[str, str] = {}
    with console.status("counting") as status:
        try:
            for number, name in enumerate(names, start=1):
                status.update(f"counting {name} ({number} of {len(names)})")
                try:
                    cards.append(models.model_card(name, ScaleSpec()))
                except UserError as error:
                    failed[name] = str(error)
                if number % _SAVE_EVERY == 0:
                    models.save()
        finally:
            models.save()
    return cards, failed


def _scale_table(cards: Iterable[ModelCard], title: str) -> Table:
    table = Table("scale", "family", "ladder", "depth", "width", title=title)
    for heading in ("parameters", "backbone", "pixels", "GFLOPs", "activations MiB"):
        table.add_column(heading, justify="right")
    table.add_column("scaling")
    for card in cards:
        row = (card.factory, card.family, card.ladder or "", str(card.depth), str(card.width))
        numbers = (f"{card.parameters:,}", f"{card.backbone_parameters:,}", str(card.input_size))
        cost = (f"{card.gflops:.2f}", f"{card.activation_mib:.1f}")
        table.add_row(*map(escape, (*row, *numbers, *cost, _scaling(card))))
    return table


def _scaling(card: ModelCard) -> str:
    if card.mean is None or card.std is None:
        return ""
    return scaling_name(Normalisation.model_validate({"mean": card.mean, "std": card.std}))


def is_factory(name: str) -> bool:
    """Whether a name is a model that can be built: of timm, torchvision or a module."""
    if (cards := shipped_cards()) and cards.card(name):
        return True
    from trainables.factories import find_factory

    try:
        find_factory(name)
    except UserError:
        return False
    return True


def print_scale(name: str, loaded: LoadedStudy, models: KnownModels, console: Console) -> None:
    """The card of a scale of the study, or of a factory.

    Raises:
        UserError: It cannot be built.
    """
    spec = loaded.study.scale(name)
    paths = tuple(dict.fromkeys((str(loaded.folder), str(Path.cwd()))))
    card = models.model_card(str(spec.factory), spec, import_paths=paths)
    unet = _unet_line(name, card, spec.arguments, models, paths)
    models.save()
    console.print(f"[bold]{escape(name)}[/bold]: {escape(str(spec.factory))} {spec.arguments or ''}", highlight=False)
    ladder = spec.ladder or card.ladder or "none (it stands alone in figures)"
    more = f", ... ({len(card.tags) - _MOST_TAGS} more)" if len(card.tags) > _MOST_TAGS else ""
    lines = {
        "family": card.family,
        "ladder": ladder,
        "depth, width": f"{card.depth} layers (stem, blocks and head), {card.width} features",
        "parameters": _parameters(card),
        "cost of an image": f"{card.gflops:.3f} GFLOPs forward (2 per multiply-add), {card.activation_mib:.1f} MiB of "
        f"activations in float32, at {card.input_size} pixels",
        "as the encoder of a U-Net": unet,
        "native": f"{card.native_size or 'no'} pixels, scaling {_scaling(card) or 'none stated'}",
        "pretrained tags": ", ".join(card.tags[:_MOST_TAGS]) + more or "none",
        "in the catalogue": ", ".join(_entries_for(str(spec.factory))) or "none",
        "cut points": ", ".join(card.cut_points),
    }
    for key, value in lines.items():
        console.print(f"  {key}: {escape(value)}", highlight=False)


def _unet_line(
    name: str, card: ModelCard, arguments: Mapping[str, Any], models: KnownModels, paths: Sequence[str]
) -> str:
    """What the scale costs as the encoder of a U-Net with one output, or why it can be none."""
    scale = ResolvedScale(name=name, factory=card.factory, arguments=arguments, input_size=card.input_size)
    try:
        return f"{models.unet_costs(scale, 1, paths).text}, with 1 output"
    except UserError as error:
        return str(error)


def _parameters(card: ModelCard) -> str:
    if card.parameters == card.backbone_parameters:
        return f"{card.parameters:,}; an encoder without a head for classes, which no study can train"
    return f"{card.parameters:,} with {card.num_classes:,} outputs, {card.backbone_parameters:,} without"


def _entries_for(factory: str) -> list[str]:
    name = factory.removeprefix("timm:")
    name = name if ":" in name else name.partition(".")[0]
    return [entry for entry, known in catalogue().items() if name in known.architectures]


def nothing_of_that_name(name: str, sources: Sequence[str], loaded: LoadedStudy) -> str:
    """What is close to a name that is neither a source, nor in the catalogue, nor a scale."""
    text = unknown("source", name, sources, f"study {loaded.study.name}")
    if entries := near_entries(name):
        text += f" In the catalogue: {', '.join(entries)}."
    models = [*loaded.study.scales, *OWN_SCALES, *(n for several in _timm_families().values() for n in several)]
    if near := difflib.get_close_matches(name, models, n=5, cutoff=0.6):
        text += f" Scales: {', '.join(near)}."
    return f"{text} (list --catalogue and list --scales show what there is.)"
