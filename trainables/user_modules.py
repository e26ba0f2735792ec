"""Imports of modules that belong to the user, from the folder of the study or from wherever Python finds them."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib
import inspect
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from search_spaces.exceptions import UserError
from trainables.hashing import file_sha256

_loaded: dict[str, tuple[Path, str]] = {}
"""Module that was imported from an import path, or lies beside one -> (file, its hash) at that time."""

_user_paths: list[str] = []
"""Import paths that were put on ``sys.path``, the last ones first."""

_INSTALLED = {Path(path).resolve() for path in sysconfig.get_paths().values()}
"""Folders of installed packages and of Python's own."""

_OURS = ("search_spaces", "trainables", "dashboards", "cluster", "orchestrator")
"""Packages of this project: their version is recorded, and they are no part of a user's code."""


def import_user_module(name: str, import_paths: Sequence[str], named_in: str) -> ModuleType:
    """Import a module, from ``import_paths`` before anything else.

    A module that was imported from an import path before is imported anew if its file, or that of a module that it
    imports from its own folder, is another one now or has changed: a process may serve several studies whose modules
    have the same name.

    Args:
        name: Dotted name.
        import_paths: Folders; they stay at the end of ``sys.path``, for what the module imports later.
        named_in: What named the module; starts the message.

    Raises:
        UserError: The module is not found, its name or that of one beside it is taken, or importing it fails.
    """
    own = name.partition(".")[0] == __name__.partition(".")[0]
    file = None if own else _locate(name, import_paths)
    files = {} if file is None else _with_imports({name: Path(file)})
    _make_way(files, named_in)
    _loaded.update({other: (path, file_sha256(path)) for path, other in files.items()})
    try:
        with _first_on_path(import_paths):
            module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if name == missing or name.startswith(f"{missing}."):
            looked = ", ".join([*import_paths, "the Python path"])
            raise UserError(f"{named_in}: there is no module {missing!r} (looked in {looked})") from None
        raise UserError(f"{named_in}: module {name} needs {missing!r}, which is not installed") from error
    except Exception as error:
        raise UserError(f"{named_in}: importing {name} failed: {type(error).__name__}: {error}") from error
    return module


def code_sha256(module: ModuleType, function: Any) -> str:
    """Hash of the code of a user's factory: the module's file, the file that defines the function if it is another one
    of the same package, and every module beside them (in the folder of the top-level package) that these import.

    Installed packages and this project do not count, and imports by computed names are not seen.

    Raises:
        UserError: The module has no file.
    """
    if not module.__file__:
        raise UserError(f"module {module.__name__} has no file whose content could be recorded")
    modules = {module.__name__: Path(module.__file__)}
    defined_in = str(getattr(function, "__module__", ""))
    if defined_in.partition(".")[0] == module.__name__.partition(".")[0]:
        modules[defined_in] = Path(inspect.getsourcefile(inspect.unwrap(function)) or module.__file__)
    return _code_hash(_with_imports(modules))


def written_factory(name: str, function: str, import_paths: Sequence[str]) -> str | None:
    """``code_sha256`` of a factory whose module says all that is needed by its text, without importing anything.

    Args:
        name: Dotted name of the module.
        function: Name of the function.
        import_paths: Folders in which the module is looked up first, then ``sys.path``.

    Returns:
        None unless the module is one file that binds the name once, at its top level, by a ``def`` without decorators
        that takes ``num_classes``: only importing it tells what anything else is.
    """
    file = _found(name, import_paths)
    if file is None or not file.endswith(".py") or not Path(file).is_file():
        return None
    if not _defines(Path(file).read_bytes(), function):
        return None
    return _code_hash(_with_imports({name: Path(file)}))


@functools.lru_cache(maxsize=256)
def _defines(source: bytes, function: str) -> bool:
    """Whether a module holds a plain function of that name which takes ``num_classes``, and nothing else binds it."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return False
    plain = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == function and not n.decorator_list]
    if len(plain) != 1 or sum(name in (function, "*") for n in ast.walk(tree) for name in _bound(n)) != 1:
        return False
    taken = plain[0].args
    return taken.kwarg is not None or any(a.arg == "num_classes" for a in (*taken.args, *taken.kwonlyargs))


def _bound(node: ast.AST) -> tuple[str, ...]:
    """Names that a node binds, wherever it stands; a star for names that its text does not say."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return (node.name,)
    if isinstance(node, ast.Import | ast.ImportFrom):
        return tuple(alias.asname or alias.name.partition(".")[0] for alias in node.names)
    return (node.id,) if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load) else ()


def code_state(name: str, import_paths: Sequence[str]) -> str | None:
    """Hash of a module's code and of what it imports from its own folder, without importing anything.

    Args:
        name: Dotted name.
        import_paths: Folders in which it is looked up first, then ``sys.path``.

    Returns:
        None if it is not found, or has no source.
    """
    file = _found(name, import_paths)
    return _code_hash(_with_imports({name: Path(file)})) if file is not None and Path(file).is_file() else None


def _code_hash(files: Iterable[Path]) -> str:
    hashes = sorted(file_sha256(f) for f in files)
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def _with_imports(modules: Mapping[str, Path]) -> dict[Path, str]:
    """Files of the modules and of all that they import, directly or not, from the folder where they lie, and names."""
    found: dict[Path, str] = {}
    waiting = list(modules.items())
    while waiting:
        name, file = waiting.pop()
        if file.resolve() in found:
            continue
        found[file.resolve()] = name
        if file.suffix != ".py":
            continue
        is_package = file.name == "__init__.py"
        root = file.parents[name.count(".") + is_package]
        if root.resolve() in _INSTALLED:
            continue
        for imported in _imports(file.read_bytes(), name if is_package else name.rpartition(".")[0]):
            parts = imported.split(".")
            if parts[0] in _OURS:
                continue
            for depth in range(1, len(parts) + 1):
                stem = root.joinpath(*parts[:depth])
                candidates = (stem / "__init__.py", stem.with_name(f"{stem.name}.py"))
                waiting += [(".".join(parts[:depth]), c) for c in candidates if c.is_file()]
    return found


@functools.lru_cache(maxsize=256)
def _imports(source: bytes, package: str) -> tuple[str, ...]:
    """Dotted names that a module imports; of ``from a import b`` both ``a`` and ``a.b``, which may be a module.

    Remembered by content: every trial asks, and parsing took a thirtieth of a short one.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return ()  # importing it says what is wrong
    found: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*filter(None, above), *filter(None, [node.module])])
            found += [base] if base else []
            found += [f"{base}.{alias.name}" if base else alias.name for alias in node.names]
    return tuple(found)


def _found(name: str, import_paths: Sequence[str]) -> str | None:
    """The file of a module of the user's or of ours, without importing anything; ours is beside this one, as editable
    installations are not on ``sys.path``."""
    own = name.partition(".")[0] == __name__.partition(".")[0]
    return _locate(name, [str(Path(__file__).parent.parent)] if own else [*import_paths, *sys.path])


def _locate(name: str, import_paths: Sequence[str]) -> str | None:
    """The file of the module under ``import_paths``, without importing anything. Links are not followed: a module finds
    what it imports beside its link."""
    spec: ModuleSpec | None = None
    paths = list(import_paths)
    for depth in range(1, name.count(".") + 2):
        spec = PathFinder.find_spec(".".join(name.split(".")[:depth]), paths) if paths else None
        paths = list(spec.submodule_search_locations or ()) if spec else []
    return spec.origin if spec and spec.has_location else None


def _make_way(files: Mapping[Path, str], named_in: str) -> None:
    """Take modules out of ``sys.modules`` if one of them is that of another study, or older than its file.

    Args:
        files: File, without links -> name.
        named_in: Starts the message.

    Raises:
        UserError: A name is taken.
    """
    outdated = [name for file, name in files.items() if _is_outdated(name, file, named_in)]
    if not outdated:
        return
    importlib.invalidate_caches()
    packages = {name.partition(".")[0] for name in files.values()}
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in packages or _file_of(module) in files:
            del sys.modules[name]


def _is_outdated(name: str, file: Path, named_in: str) -> bool:
    present = sys.modules.get(name)
    if present is None:
        return False
    loaded = _loaded.get(name)
    if loaded is not None and _file_of(present) == loaded[0]:
        return loaded != (file, file_sha256(file))
    if _file_of(present) == file:
        return False
    taken_by = getattr(present, "__file__", None) or "Python itself"
    raise UserError(f"{named_in}: the module name {name!r} is taken by {taken_by}; rename {file}")


def _file_of(module: ModuleType) -> Path | None:
    file = getattr(module, "__file__", None)
    return Path(file).resolve() if file else None


@contextmanager
def _first_on_path(import_paths: Sequence[str]) -> Iterator[None]:
    """Afterwards they are the first of all import paths so far: of two studies' modules of one name, the one that is
    imported within a function should be that of the study that is asked for now."""
    before = [p for p in sys.path if p not in _user_paths]
    own = [p for p in import_paths if p not in before]
    _user_paths[:] = own + [p for p in _user_paths if p not in own]
    sys.path[:] = [*import_paths, *before]
    try:
        yield
    finally:
        sys.path[:] = before + _user_paths
