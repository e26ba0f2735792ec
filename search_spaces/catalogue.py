"""Published weights: where they come from, what they have seen, and how their files are read.

The entries are data: ``search_spaces/catalogue.yaml``, and ``sources.yaml`` in the home for a user's own. A study names
one as ``{catalogue: moco_v2, file: PATH}``; the key map, what is left out, input scaling and contents come from here.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, model_validator

from search_spaces.exceptions import UserError, unknown
from search_spaces.home import scalecurves_home
from search_spaces.models import StrictModel
from search_spaces.normalisation import Normalisation

OWN_FILE = "sources.yaml"
"""In the home: entries of the user's own, in the same form."""

_SHIPPED = "catalogue.yaml"
_LOADER_FIELDS = ("state_key", "keep", "strip_prefix", "drop", "rename", "normalise", "contents")


class KeyRule(StrictModel):
    """One step of a key map.

    Attributes:
        pattern: Regular expression; every place of a name where it matches is replaced.
        to: Replacement; ``\\1`` is the first group.
    """

    pattern: str
    to: str

    @model_validator(mode="after")
    def _is_usable(self) -> KeyRule:
        try:
            pattern = re.compile(self.pattern)
        except re.error as error:
            raise ValueError(f"{self.pattern!r} is no regular expression: {error}") from None
        try:
            pattern.sub(self.to, "")
        except (re.error, IndexError) as error:  # IndexError: a group of a name that the pattern does not have
            raise ValueError(
                f"{self.to!r} cannot replace what {self.pattern!r} matches: {error} (it has {pattern.groups} groups)"
            ) from None
        return self


class CatalogueEntry(StrictModel):
    """Provenance of published weights, and how their file is read.

    Attributes:
        title: One line for people.
        kind: ``weights``, or ``format``: the layout of a training code's files, whatever was trained.
        architectures: timm or factory names that the weights fit; empty for a format.
        data: What they were pretrained on.
        images: Number of images of it; None if not known.
        method: Training method.
        epochs: Passes over the data; None if not known.
        upstream_top1: ImageNet top-1 accuracy in per cent as published; None if not known or not on ImageNet.
        upstream_kind: What was evaluated: a ``linear`` classifier on frozen features, or the network ``supervised``.
        licence: Of the weights or of the repository that publishes them; None if it was not read.
        where: Addresses or places as published.
        file_name: Name of the published file.
        sha256: Of the published file; None where it is not known for certain. A file of the same name with another hash
            is pointed out.
        available: Whether the weights can be had.
        reason: Why not.
        timm: Pretrained tag under which timm has the same weights; then no file is needed.
        state_key, keep, strip_prefix, drop, rename: See ``CheckpointSource``.
        instead: Architecture -> entry that reads its published files, as their names or input scaling are others.
        normalise: Input scaling that the weights were trained with ("native").
        normalise_assumed: No statement of the authors about the scaling was found; it is what their code base uses.
        contents: Data sets that the weights have seen, for contamination flags.
        convert: The published file must be converted first: ``python -m orchestrator.sources convert KIND IN OUT``.
        note: Traps.
    """

    title: str
    kind: Literal["weights", "format"] = "weights"
    architectures: tuple[str, ...] = ()
    data: str | None = None
    images: int | None = Field(default=None, ge=1)
    method: str | None = None
    epochs: int | None = Field(default=None, ge=1)
    upstream_top1: float | None = Field(default=None, gt=0, le=100)
    upstream_kind: Literal["linear", "supervised"] | None = None
    licence: str | None = None
    where: tuple[str, ...] = ()
    file_name: str | None = None
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    available: bool = True
    reason: str | None = None
    timm: str | None = None
    state_key: str | None = None
    keep: str | None = None
    strip_prefix: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    rename: tuple[KeyRule, ...] = ()
    instead: dict[str, str] = Field(default_factory=dict)
    normalise: Normalisation
    normalise_assumed: bool = False
    contents: tuple[str, ...] = ()
    convert: str | None = None
    note: str | None = None

    @model_validator(mode="after")
    def _consistent(self) -> CatalogueEntry:
        if self.available == bool(self.reason):
            raise ValueError("an entry that is not available gives the reason, and no other does")
        if (self.upstream_top1 is None) != (self.upstream_kind is None):
            raise ValueError("upstream_top1 and upstream_kind go together")
        if self.kind == "weights" and not self.architectures:
            raise ValueError("weights name the architectures that they fit")
        return self

    @property
    def loader(self) -> dict[str, Any]:
        """The fields of a ``CheckpointSource`` that are not its default."""
        return {name: getattr(self, name) for name in _LOADER_FIELDS if getattr(self, name) not in (None, ())}


def catalogue() -> dict[str, CatalogueEntry]:
    """Name -> entry: those shipped with this package, then the user's own.

    Raises:
        UserError: The user's file is not valid, or takes a name that is taken.
    """
    own = scalecurves_home() / OWN_FILE
    status = own.stat() if own.is_file() else None
    return {**_shipped(), **(_own(own, status.st_mtime_ns) if status else {})}


def find_entry(name: str) -> CatalogueEntry:
    """The entry of that name.

    Raises:
        UserError: No such entry; the nearest are named.
    """
    known = catalogue()
    if name not in known:
        raise UserError(unknown("catalogue entry", name, known, "the catalogue of published weights"))
    return known[name]


def other_hash(name: str | None, sha256: str) -> str:
    """What is said of a file that is not, byte for byte, the one that an entry knows; empty if it is or if none is
    known.

    Args:
        name: Of the entry; None where a source names none.
        sha256: Of the file in use.
    """
    entry = catalogue().get(name or "")
    if entry is None or entry.sha256 is None or entry.sha256 == sha256:
        return ""
    return f"the published {entry.file_name} has sha256 {entry.sha256[:12]}..., this file {sha256[:12]}..."


def near_entries(name: str) -> list[str]:
    """Catalogue entries with a similar name, best first."""
    return difflib.get_close_matches(name, list(catalogue()), n=3, cutoff=0.5)


def from_catalogue(written: Mapping[str, Any]) -> dict[str, Any]:
    """What a study writes about a catalogue entry, as the fields of a file (or timm) source.

    Args:
        written: ``{catalogue: NAME, file: PATH, ...}``; what is given beside them takes the place of the entry's own.
            ``normalise: native`` is the entry's scaling, as if nothing were said.

    Raises:
        ValueError: No such entry, or a file is needed and not given.
    """
    name = str(written["catalogue"])
    try:
        entry = find_entry(name)
    except UserError as error:
        raise ValueError(str(error)) from None
    given = {k: v for k, v in written.items() if not (k == "normalise" and v == "native")}
    if "file" in given:
        return {**entry.loader, **given}
    if entry.timm is not None:
        keys = {k: v for k, v in given.items() if k != "catalogue"}
        return {"timm": entry.timm, "contents": entry.contents, **keys}
    raise ValueError(f"catalogue entry {name!r} needs a file: {{catalogue: {name}, file: PATH}}. {how_to_get(entry)}")


def how_to_get(entry: CatalogueEntry) -> str:
    """One sentence: where the file of an entry comes from, and what must be done to it."""
    if not entry.available:
        return f"{entry.reason} If you have such a file, give it."
    places = " or ".join(entry.where) or "its authors"
    convert = f", convert it (python -m orchestrator.sources convert {entry.convert} IN OUT)" if entry.convert else ""
    known = entry.file_name if len(entry.architectures) == 1 else None  # of several networks it is the file of one
    return f"Fetch {known or 'it'} once from {places}{convert} and give its path."


@lru_cache(maxsize=1)
def _shipped() -> dict[str, CatalogueEntry]:
    text = (resources.files("search_spaces") / _SHIPPED).read_text(encoding="utf-8")
    return _parsed(yaml.safe_load(text), _SHIPPED)


@lru_cache(maxsize=4)
def _own(path: Path, changed_ns: int) -> dict[str, CatalogueEntry]:
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"catalogue {path} cannot be read: {error}") from None
    entries = _parsed(raw, str(path))
    if taken := sorted(set(entries) & set(_shipped())):
        raise UserError(f"catalogue {path}: {', '.join(taken)} are shipped with this package; choose other names")
    return entries


def _parsed(raw: Any, where: str) -> dict[str, CatalogueEntry]:
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise UserError(f"catalogue {where} must map names to entries, got {type(raw).__name__}")
    return {str(name): CatalogueEntry.parse(entry, f"catalogue {where}, entry {name}") for name, entry in raw.items()}
