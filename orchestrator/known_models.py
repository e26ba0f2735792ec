"""What a plan finds out with torch, remembered: facts about scales, and which sources were loaded into them.

Importing torch and building every network takes seconds and most of a gigabyte, at each ``plan`` and ``status``. Facts
and successful checks are kept in ``<home>/cache/models.json``, under a hash of all that they follow from: what the
study says, content hashes, the code of a user's factory with what it imports, this project's training code, and the
versions of torch, torchvision and timm. Failures are not kept. The file may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.metadata
import json
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from search_spaces.home import CACHE
from search_spaces.identity import ScaleCard, canonical, digest
from search_spaces.source_specs import RandomSource
from search_spaces.study import ScaleSpec
from search_spaces.trial import ResolvedScale, ResolvedSource, UpstreamNet, UpstreamSource
from trainables.scale_facts import LIBRARIES, known_facts
from trainables.shipped_cards import OUTPUTS, ModelCard, shipped_cards
from trainables.timm_files import with_local_files
from trainables.unet_costs import UnetCosts
from trainables.user_modules import code_state

MOST = 5000
"""Entries kept; the oldest go first."""

_FILE = "models.json"
_PACKAGES = ("torch", "torchvision", "timm", "numpy", "segmentation_models_pytorch")


class KnownModels:
    """Answers of ``trainables.models.scale_card`` and ``trainables.sources.check_source``, asked once.

    Args:
        home: Its cache is used.
    """

    def __init__(self, home: Path) -> None:
        self._file = home / CACHE / _FILE
        self._known = _read(self._file)
        self._changed = False

    def scale_card(self, factory: str, import_paths: Sequence[str]) -> ScaleCard:
        """Facts about a scale; torch is asked where neither its source nor a shipped card says them.

        Raises:
            UserError: As ``trainables.models.scale_card``, or a local file of timm's weights cannot be read.
        """
        if (known := known_facts(factory, import_paths)) is not None:
            return with_local_files(known)
        key = self._key("scale", factory, [], factory, import_paths)
        if key not in self._known:
            from trainables.models import scale_card

            self._keep(key, dataclasses.asdict(scale_card(factory, import_paths)))
        return with_local_files(_card(self._known[key]))

    def check_scale(self, name: str, spec: ScaleSpec, import_paths: Sequence[str]) -> None:
        """Refuse a scale that could not be trained.

        Raises:
            UserError: As ``trainables.models.check_scale``.
        """
        key = self._key("sound", name, spec.model_dump(mode="json"), spec.factory or name, import_paths)
        if key not in self._known:
            from trainables.models import check_scale

            check_scale(name, spec, import_paths)
            self._keep(key, True)

    def model_card(
        self, factory: str, spec: ScaleSpec, num_classes: int = OUTPUTS, import_paths: Sequence[str] = ()
    ) -> ModelCard:
        """What a scale is and costs; see ``trainables.scale_cards.model_card``.

        Args:
            factory: As in a study.
            spec: Arguments and input size.
            num_classes: Outputs.
            import_paths: Folders in which a user's module is looked up first.

        Raises:
            UserError: As ``trainables.scale_cards.model_card``.
        """
        shipped = None if spec.arguments or num_classes != OUTPUTS else _shipped(factory)
        if shipped is not None and spec.input_size in (None, shipped.input_size):
            return shipped
        asked = [factory, spec.arguments, spec.input_size, num_classes]
        key = self._key("card", factory, asked, factory, import_paths)
        if key not in self._known:
            from trainables.scale_cards import model_card

            card = model_card(factory, spec.arguments, spec.input_size, num_classes, tuple(import_paths))
            self._keep(key, dataclasses.asdict(card))
        raw: dict[str, Any] = self._known[key]
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in raw.items()}
        return ModelCard(**values)

    def unet_costs(self, scale: ResolvedScale, num_outputs: int, import_paths: Sequence[str]) -> UnetCosts:
        """What a scale's U-Net is and costs.

        Raises:
            UserError: As ``trainables.scale_cards.unet_costs``.
        """
        asked = [scale.arguments, scale.input_size, num_outputs]
        key = self._key("unet costs", scale.factory, asked, scale.factory, import_paths)
        if key not in self._known:
            from trainables.scale_cards import unet_costs

            self._keep(key, dataclasses.asdict(unet_costs(scale, num_outputs, tuple(import_paths))))
        return UnetCosts(**self._known[key])

    def check_source(
        self,
        scale: ResolvedScale,
        source: ResolvedSource,
        num_outputs: int,
        import_paths: Sequence[str],
        frozen: str | None = None,
        dense: bool = False,
        upstream: UpstreamNet | None = None,
        trained: Callable[[], int | None] = lambda: None,
    ) -> int:
        """Trainable numbers of a scale's model that was filled from a source.

        Args:
            scale: What to build.
            source: Where its weights come from.
            num_outputs: Outputs of the model.
            import_paths: Folders in which a user's module is looked up first.
            frozen: The protocol's ``freeze``.
            dense: Whether it is to predict each pixel.
            upstream: The network of the trial that the weights are to come from, if they come from one. One that is the
                same but for its head is known to fit.
            trained: Asked before anything is built: the numbers, if all that needs this model has been trained.

        Raises:
            UserError: As ``trainables.sources.check_source``.
        """
        other = None if upstream is None or upstream.is_net_of(scale, dense) else upstream
        asked = [scale.model_dump(mode="json"), source.model_dump(mode="json"), num_outputs, frozen, dense]
        if other is not None:
            asked += [other.model_dump(mode="json"), _code_of(other.scale.factory, tuple(import_paths))]
        key = self._key("source", scale.name, asked, scale.factory, import_paths)
        if key not in self._known:
            size = None if other is not None else _shipped_size(scale, source, num_outputs, frozen, dense)
            if size is not None or (size := trained()) is not None:
                return size
            from trainables.sources import check_source

            self._keep(key, check_source(scale, source, num_outputs, import_paths, frozen, dense, other))
        return int(self._known[key])

    def layer_sizes(
        self,
        scale: ResolvedScale,
        num_outputs: int,
        layers: str | Sequence[str],
        positions: int | None,
        import_paths: Sequence[str],
        dense: bool = False,
    ) -> dict[str, int]:
        """Layer -> numbers that are kept of it per image.

        Raises:
            UserError: As ``trainables.activations.layer_sizes``.
        """
        asked = [scale.model_dump(mode="json"), num_outputs, layers, positions, dense]
        key = self._key("layers", scale.name, asked, scale.factory, import_paths)
        if key not in self._known:
            from trainables.activations import layer_sizes
            from trainables.models import build_model

            built = build_model(scale, num_outputs, 0, import_paths, dense=dense)
            where = f"representations.layers for scale {scale.name!r}"
            self._keep(key, layer_sizes(built, layers, positions, where))
        return {str(name): int(size) for name, size in self._known[key].items()}

    def save(self) -> None:
        """Keep what is new. A home that cannot be written costs the next command's time, no more."""
        if not self._changed:
            return
        kept = dict(list({**_read(self._file), **self._known}.items())[-MOST:])
        partial = self._file.with_name(f"{_FILE}.{uuid.uuid4().hex}")
        with contextlib.suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(json.dumps(kept), encoding="utf-8")
            partial.replace(self._file)
            self._changed = False

    def _keep(self, key: str, value: Any) -> None:
        self._known[key] = json.loads(json.dumps(value))
        self._changed = True

    def _key(self, kind: str, name: str, asked: Any, factory: str, import_paths: Sequence[str]) -> str:
        return digest(canonical([kind, name, asked, _code_of(factory, tuple(import_paths)), _versions(), _own_code()]))


def _shipped(factory: str) -> ModelCard | None:
    cards = shipped_cards()
    return cards.card(factory) if cards else None


def _shipped_size(
    scale: ResolvedScale, source: ResolvedSource, num_outputs: int, frozen: str | None, dense: bool
) -> int | None:
    """Numbers of a network that was built and tried when cards were counted, and is filled from nothing at hand."""
    cards = shipped_cards()
    starts_anew = isinstance(source.weights, RandomSource | UpstreamSource)
    if cards is None or not starts_anew or scale.arguments or frozen or dense:
        return None
    return cards.parameters(scale.factory, num_outputs, scale.input_size)


def _code_of(factory: str, import_paths: tuple[str, ...]) -> str | None:
    module, colon, _ = factory.partition(":")
    return code_state(module, import_paths) if colon and module not in LIBRARIES else None


@functools.cache
def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


@functools.cache
def _own_code() -> str:
    """Changes whenever a file of the training code does."""
    import trainables

    folder = Path(trainables.__path__[0])
    states = {file.name: file.stat() for file in folder.glob("*.py")}
    return digest(canonical({name: [s.st_size, s.st_mtime_ns] for name, s in states.items()}))


def _read(file: Path) -> dict[str, Any]:
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _card(raw: dict[str, Any]) -> ScaleCard:
    normalise = raw["normalise"]
    if normalise is not None:
        normalise = {tag: (tuple(mean), tuple(std)) for tag, (mean, std) in normalise.items()}
    return ScaleCard(**{**raw, "normalise": normalise})
