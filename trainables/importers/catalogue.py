"""The column maps that are shipped, and those that users write."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from search_spaces.exceptions import UserError, unknown
from search_spaces.yaml_text import UniqueKeyLoader
from trainables.importers.column_map import ColumnMap

_VARIANTS = "variants"


class _Loader(UniqueKeyLoader):
    """YAML in which ``no``, ``yes``, ``on`` and ``off`` are texts: classes and cells are called so."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if tag != "tag:yaml.org,2002:bool"]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|false)$"), list("tf"))


def shipped_names() -> tuple[str, ...]:
    """Names of the shipped maps, sorted."""
    return tuple(sorted(f.name.removesuffix(".yaml") for f in _folder().iterdir() if f.name.endswith(".yaml")))


def shipped_map(name: str, variant: str | None = None) -> ColumnMap:
    """A shipped map.

    Raises:
        UserError: There is none of that name, or it has no such variant.
    """
    if name not in shipped_names():
        raise UserError(unknown("data set", name, shipped_names()))
    return _parsed(_folder().joinpath(f"{name}.yaml").read_text("utf-8"), f"column map {name}", variant)


def user_map(file: Path, variant: str | None = None) -> ColumnMap:
    """A map that a user wrote.

    Raises:
        UserError: The file is missing or no map, or has no such variant; says every mistake at once.
    """
    try:
        text = file.read_text("utf-8")
    except FileNotFoundError:
        raise UserError(f"column map {file} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"column map {file} cannot be read: {error}") from error
    return _parsed(text, f"column map {file}", variant)


def variants(name: str) -> dict[str, str]:
    """Variant -> its title, of a shipped map."""
    raw = yaml.load(_folder().joinpath(f"{name}.yaml").read_text("utf-8"), Loader=_Loader)
    return {variant: str(changes.get("title", "")) for variant, changes in raw.get(_VARIANTS, {}).items()}


def import_hint(task: str) -> str | None:
    """How to import a task that is named like a shipped map, or like one and a variant of it (``chexpert_five``).

    Args:
        task: Name of the task.

    Returns:
        The command, and where the release is obtained and what of it is needed; None for other names.
    """
    for name in shipped_names():
        variant = task.removeprefix(f"{name}_")
        if task == name or (variant != task and variant in variants(name)):
            option = "" if task == name else f" --variant {variant}"
            about = shipped_map(name).about
            return (
                f"Import it with: python -m orchestrator.tasks import {name} FOLDER{option} --name {task} "
                f"(FOLDER: the release, from {about.obtained}; needs {about.needs})"
            )
    return None


def _parsed(text: str, where: str, variant: str | None) -> ColumnMap:
    try:
        raw = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise UserError(f"{where} is no YAML: {error}") from error
    if not isinstance(raw, dict):
        raise UserError(f"{where} is empty or no mapping; docs/datasets.md shows one")
    known = raw.pop(_VARIANTS, {})
    if not isinstance(known, dict):
        raise UserError(f"{where}: variants is no mapping of names to changes")
    if odd := [str(name) for name, changes in known.items() if not isinstance(changes, dict)]:
        names = ", ".join(f"variants.{name}" for name in odd)
        raise UserError(f"{where}: {names} is no mapping of keys to what replaces them; docs/datasets.md shows one")
    if variant is not None:
        if variant not in known:
            raise UserError(unknown("variant", variant, known, where))
        raw = _changed(raw, known[variant])
    return ColumnMap.parse(raw, where)


def _changed(raw: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Keys of ``changes`` in place of those of ``raw``, whole: a variant says the new labels, not a difference."""
    return {**raw, **changes}


def _folder() -> Any:
    return resources.files("trainables.importers") / "datasets"
