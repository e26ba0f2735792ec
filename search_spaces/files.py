"""Studies from where users keep them: preset name, YAML file, or ``module:function``."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from search_spaces.exceptions import UserError, unknown
from search_spaces.names import AXES
from search_spaces.study import Study
from search_spaces.yaml_text import UniqueKeyLoader

_PRESETS = "search_spaces.studies"
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedStudy:
    """A study and where it came from.

    Attributes:
        study: The study, file paths absolute.
        text: The study as YAML, after ``--set``; environment variables not expanded, so that it can be kept.
        folder: Where relative paths and user factories are looked up.
        origin: What the user named.
    """

    study: Study
    text: str
    folder: Path
    origin: str


def presets() -> dict[str, str]:
    """Preset name -> its YAML text."""
    files = resources.files(_PRESETS).iterdir()
    return {f.name.removesuffix(".yaml"): f.read_text(encoding="utf-8") for f in files if f.name.endswith(".yaml")}


def load_study(text: str, sets: Sequence[str] = ()) -> LoadedStudy:
    """Load what a user named on the command line.

    Args:
        text: Preset name, path of a YAML file, or ``module:function`` (a function that returns a Study or a mapping).
        sets: Changes such as ``task=a,b``, ``seeds=2`` or ``protocol.budget.steps=50``; values are YAML.

    Raises:
        UserError: Nothing of that name, or the study is not valid.
    """
    raw, folder = _read(text)
    return _loaded(_apply(raw, sets), text, folder)


def adopt_study(study: Study | Mapping[str, Any]) -> LoadedStudy:
    """A study that a program has made, as if it had been loaded from a file in the current folder.

    Args:
        study: A study, or what its YAML file would hold.

    Raises:
        UserError: The study is not valid.
    """
    return _loaded(_plain(study), "given as an object", Path.cwd())


def _loaded(raw: dict[str, Any], origin: str, folder: Path) -> LoadedStudy:
    shown = yaml.safe_dump(raw, sort_keys=False, allow_unicode=True, width=120)
    study = Study.parse(_absolute_files(_expand(raw, origin), folder), f"study {origin}")
    return LoadedStudy(study=study, text=shown, folder=folder, origin=origin)


def _plain(study: Study | Mapping[str, Any]) -> dict[str, Any]:
    return study.model_dump(mode="json", by_alias=True, exclude_unset=True) if isinstance(study, Study) else {**study}


def study_name(text: str) -> str:
    """The name of a study: read from the study file if ``text`` names one, else ``text`` itself is the name."""
    return str(_read(text)[0].get("name", text)) if names_a_file(text) else text


def names_a_file(text: str) -> bool:
    """Whether ``load_study`` would look for a preset, a file or a function; else ``text`` can be a mere name."""
    return text in presets() or ":" in text or _is_file(text)


def _is_file(text: str) -> bool:
    return Path(text).suffix.lower() in (".yaml", ".yml") or Path(text).is_file()


def _read(text: str) -> tuple[dict[str, Any], Path]:
    if _is_file(text):
        path = Path(text).expanduser()
        return _parse(_file_text(path, text), text), path.resolve().parent
    known = presets()
    if text in known:
        return _parse(known[text], text), Path.cwd()
    if ":" in text:
        return _call(text), Path.cwd()
    raise UserError(unknown("study", text, known) + " A study is a preset, a YAML file or module:function.")


def _file_text(path: Path, origin: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"study file {origin} does not exist (current folder: {Path.cwd()})") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise UserError(f"study file {origin} is not UTF-8 (line {line}); save it as UTF-8") from None
    except OSError as error:
        raise UserError(f"study file {origin} cannot be read: {error.strerror}") from None


def _parse(text: str, origin: str) -> dict[str, Any]:
    try:
        raw = yaml.load(text, Loader=UniqueKeyLoader)
    except UserError as error:
        raise UserError(f"study {origin}: {error}") from None
    except yaml.YAMLError as error:
        raise UserError(f"study {origin} is not valid YAML: {error}") from None
    if not isinstance(raw, dict):
        raise UserError(f"study {origin} must be a mapping with name, axes, tasks, ...; got {type(raw).__name__}")
    return raw


def _call(text: str) -> dict[str, Any]:
    module_name, _, function_name = text.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"study {text}: {error}") from error
    made = function()
    if isinstance(made, Study | dict):
        return _plain(made)
    raise UserError(f"study {text}: the function must return a Study or a mapping, got {type(made).__name__}")


def _expand(value: Any, origin: str) -> Any:
    """Replace ``${NAME}`` by environment variables in every text."""
    if isinstance(value, Mapping):
        return {k: _expand(v, origin) for k, v in value.items()}
    if isinstance(value, list):
        return [_expand(v, origin) for v in value]
    if not isinstance(value, str):
        return value

    def look_up(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in os.environ:
            raise UserError(f"study {origin}: environment variable {name} is not set (used in {value!r})")
        return os.environ[name]

    return _VARIABLE.sub(look_up, value)


def _absolute_files(raw: dict[str, Any], folder: Path) -> dict[str, Any]:
    def visit(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {k: visit(v, str(k)) for k, v in value.items()}
        if key == "file" and isinstance(value, str):
            # resolve() would follow links, whose targets in caches have no suffix.
            return os.path.abspath(folder / Path(value).expanduser())  # noqa: PTH100
        return value

    return {**raw, "sources": visit(raw["sources"])} if isinstance(raw.get("sources"), dict) else raw


def _apply(raw: dict[str, Any], sets: Sequence[str]) -> dict[str, Any]:
    for change in sets:
        path, equals, text = change.partition("=")
        if not equals or not path or not text:
            raise UserError(f"--set takes AXIS=VALUE[,VALUE...] or KEY.SUBKEY=VALUE, got {change!r}")
        raw = _set_axis(raw, path, text) if path in AXES else _set_key(raw, path.split("."), _yaml(text), change)
    return raw


def _yaml(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"--set: {text!r} is not valid YAML: {error}") from None


def _set_axis(raw: dict[str, Any], axis: str, text: str) -> dict[str, Any]:
    values = _yaml(f"[{text}]")
    axes = raw.get("axes", {})
    blocks = axes if isinstance(axes, list) else [axes]
    changed = [{**block, axis: values} if axis in block else block for block in blocks]
    if not any(axis in block for block in blocks):
        raise UserError(f"--set {axis}={text}: no block of axes has {axis} as a free axis (it may stand under zip)")
    return {**raw, "axes": changed if isinstance(axes, list) else changed[0]}


def _set_key(raw: dict[str, Any], path: list[str], value: Any, change: str) -> dict[str, Any]:
    if path[0] not in ("seeds", "protocol", "tuning", "statistics", "execution", "name"):
        known = (*AXES, "seeds", "protocol.FIELD", "tuning.FIELD", "statistics.FIELD", "execution.FIELD", "name")
        raise UserError(unknown("target of --set", path[0], known, change))
    if len(path) == 1:
        return {**raw, path[0]: value}
    inner = raw.get(path[0], {})
    return {**raw, path[0]: _set_nested(inner if isinstance(inner, dict) else {}, path[1:], value)}


def _set_nested(raw: dict[str, Any], path: list[str], value: Any) -> dict[str, Any]:
    if len(path) == 1:
        return {**raw, path[0]: value}
    inner = raw.get(path[0], {})
    return {**raw, path[0]: _set_nested(inner if isinstance(inner, dict) else {}, path[1:], value)}
