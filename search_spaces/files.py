"""Studies from where users keep them: preset name, YAML file, or ``module:function``."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
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
_FILE = "file"
"""Key under which a source names its weights."""

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
        sets: Changes such as ``task=a,b``, ``seeds=2`` or ``protocol.budget.steps=50``; values are YAML. A value that
            leaves an axis leaves the rules, too (``exclude``, ``overrides``, ...), which name only what there is.

    Raises:
        UserError: Nothing of that name, or the study is not valid. A variable that is not set is no reason if only
            files of sources are named by it: a plan lists them with all else that is missing.
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
    _refuse_unset(raw, origin)
    study = Study.parse(_absolute_files(_expanded(raw), folder), f"study {origin}")
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


def unset_variables(text: str) -> tuple[str, ...]:
    """Names of the environment variables of a text (``${NAME}``) that are not set."""
    return tuple(dict.fromkeys(name for name in _VARIABLE.findall(text) if name not in os.environ))


def _refuse_unset(raw: Mapping[str, Any], origin: str) -> None:
    unset: dict[str, list[str]] = {}
    for text in _texts({key: _without_files(value) if key == "sources" else value for key, value in raw.items()}):
        for name in unset_variables(text):
            unset.setdefault(name, []).append(text)
    if unset:
        listed = "; ".join(
            f"environment variable {name} is not set (used in {', '.join(map(repr, texts))})"
            for name, texts in unset.items()
        )
        raise UserError(f"study {origin}: {listed}")


def _texts(value: Any) -> Iterable[str]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, str):
        yield value


def _without_files(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_files(inner) for key, inner in value.items() if key != _FILE}
    return value


def _expanded(value: Any) -> Any:
    """Replace ``${NAME}`` by environment variables in every text; one that is not set stays as it is."""
    if isinstance(value, Mapping):
        return {k: _expanded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_expanded(v) for v in value]
    if not isinstance(value, str):
        return value
    return _VARIABLE.sub(lambda match: os.environ.get(match[1], match[0]), value)


def _absolute_files(raw: dict[str, Any], folder: Path) -> dict[str, Any]:
    def visit(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {k: visit(v, str(k)) for k, v in value.items()}
        if key == _FILE and isinstance(value, str) and not unset_variables(value):
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
    kept = [*_values(changed, axis), *_upstream_values(raw, axis)]
    gone = [value for value in _values(blocks, axis) if value not in kept]
    return {**_without_values(raw, axis, gone), "axes": changed if isinstance(axes, list) else changed[0]}


def _values(blocks: Sequence[Mapping[str, Any]], axis: str) -> list[Any]:
    """What blocks of axes have on an axis, under ``zip``, too."""
    return [v for block in blocks for part in (block, block.get("zip", {})) for v in _listed(part.get(axis, []))]


def _upstream_values(raw: Mapping[str, Any], axis: str) -> list[Any]:
    """What trials that others start from have on an axis: rules are about them, too."""
    sources = raw.get("sources")
    trials = [s.get("trial") for s in sources.values() if isinstance(s, dict)] if isinstance(sources, dict) else []
    default = 1.0 if axis == "data_fraction" else None
    return ["random", *(trial.get(axis, default) for trial in trials if isinstance(trial, dict))]


def _without_values(raw: dict[str, Any], axis: str, gone: Sequence[Any]) -> dict[str, Any]:
    """The study without these values of an axis in its rules; a rule that has no other goes."""

    def left(value: Any) -> Any:
        if isinstance(value, list):
            return [rule for entry in value if (rule := left(entry)) is not None]
        if not isinstance(value, dict):
            return value  # a mistake, which the study's own checks name
        if "when" in value:
            when = left(value["when"])
            return None if when is None else {**value, "when": when}
        if axis not in value:
            return value
        values = [v for v in _listed(value[axis]) if v not in gone]
        return {**value, axis: values} if values else None

    changed = raw | {key: left(raw[key]) for key in ("exclude", "overrides") if key in raw}
    execution = raw.get("execution")
    if isinstance(execution, dict):
        changed["execution"] = {
            **execution,
            **{k: left(execution[k]) for k in ("gangs", "priorities") if k in execution},
        }
    return changed


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


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
