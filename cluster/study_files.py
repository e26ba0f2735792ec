"""What of a study travels to the cluster with its manifests: the study file, its own modules, its variables."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from search_spaces.exceptions import UserError
from search_spaces.expand import expand
from search_spaces.files import LoadedStudy, load_study, presets, unset_variables
from search_spaces.study import GangSpec, Study

STUDY_FILE = "study.yaml"
MOST_BYTES = 1_000_000
"""Of a ConfigMap's data: Kubernetes takes 1 MiB with names and all."""
_OURS = ("search_spaces", "trainables", "dashboards", "cluster", "orchestrator")
"""Packages that the image holds, even where a study lies in a checkout."""
_LIBRARIES = ("timm", "torchvision")
"""Factories of these names are no modules of the user."""
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyFiles:
    """A study as it is handed to a cluster.

    Attributes:
        name: Of the study.
        gangs: Ranks of a trial, of every kind that the study has.
        preset: Whether the image knows the study by its name; then there are no files.
        files: File name -> text: the study file and the modules beside it that its factories need.
        variables: Environment variables that the study file uses, with their values here.
    """

    name: str
    gangs: tuple[GangSpec, ...]
    preset: bool
    files: dict[str, str]
    variables: dict[str, str]


def collect(text: str) -> StudyFiles:
    """Everything that a study needs on a cluster besides images and weights.

    Args:
        text: Preset, YAML file or ``module:function``.

    Raises:
        UserError: No such study; a variable that is not set; a weights file with a relative path, which does not
            travel; a module that is a package or no Python; more text than a ConfigMap holds.
    """
    loaded = load_study(text)
    if unset := unset_variables(loaded.text):
        raise UserError(
            f"study {text}: environment variable {', '.join(unset)} is not set; pods get the values that there are here"
        )
    preset = text in presets()
    files = {} if preset else {STUDY_FILE: loaded.text, **_modules(loaded)}
    _check_paths(loaded)
    size = sum(len(name) + len(content.encode()) for name, content in files.items())
    if size > MOST_BYTES:
        raise UserError(
            f"study {text} and its modules are {size} bytes ({', '.join(files)}); Kubernetes takes {MOST_BYTES}. "
            "Put the modules into the image"
        )
    variables = {name: os.environ[name] for name in sorted(set(_VARIABLE.findall(loaded.text)))}
    study = loaded.study
    gangs = (study.execution.gang, *(rule.gang for rule in study.execution.gangs))
    return StudyFiles(name=study.name, gangs=gangs, preset=preset, files=files, variables=variables)


def _check_paths(loaded: LoadedStudy) -> None:
    sources = yaml.safe_load(loaded.text).get("sources", {})
    relative = sorted({file for file in _files(sources) if not file.startswith(("/", "${"))})
    if relative:
        raise UserError(
            f"study {loaded.origin}: weights with a path relative to the study file do not travel to a cluster: "
            f"{', '.join(relative)}. Put them on the shared volume and name them by absolute path (/data/weights/...) "
            "or by a variable (${WEIGHTS}/...)"
        )


def _files(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "file" and isinstance(inner, str):
                yield inner
            else:
                yield from _files(inner)


def _modules(loaded: LoadedStudy) -> dict[str, str]:
    """File name -> text of the modules beside the study that its factories name, and of what those import there."""
    found: dict[str, str] = {}
    wanted = sorted(_factory_modules(loaded.study))
    while wanted:
        module = wanted.pop().partition(".")[0]
        path = loaded.folder / f"{module}.py"
        if path.name in found:
            continue
        if (loaded.folder / module).is_dir() and module not in _OURS:
            raise UserError(
                f"study {loaded.origin}: its factories need the package {module}; a study takes along single modules "
                "only. Put the package into the image, or make it one file"
            )
        if path.is_file():
            found[path.name] = path.read_text(encoding="utf-8")
            wanted += sorted(_imports(path, found[path.name]))
    return found


def _factory_modules(study: Study) -> set[str]:
    scales = {cell.model_scale for cell in expand(study).cells} | set(study.scales)
    factories = [(study.scale(name).factory or "").partition(":") for name in scales]
    return {module for module, colon, _ in factories if colon and module not in _LIBRARIES}


def _imports(path: Path, source: str) -> set[str]:
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except SyntaxError as error:
        raise UserError(f"module {path} is no Python: {error}") from None
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return names | {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
