"""The folder of image and feature stores: what is in it, what may go, what is whole.

Nothing is deleted that is in use (``trainables.store_use``), nor, unless a user says so, what nobody can tell that of.
Other processes build and delete while one looks: what vanishes meanwhile is gone, and no error.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import ByteSize, TypeAdapter, ValidationError

from search_spaces.exceptions import DataError, UserError
from trainables.shards import BUILDING, INDEX_FILE, is_whole
from trainables.store_use import Use, alone

STORES = "stores"
"""Folder of the stores in the home."""

LIMIT_VARIABLE = "SCALECURVES_CACHE_LIMIT"
"""Most bytes that all stores may take, such as ``50GB``; unset is no limit."""

UNLOCKED_HINT = "python -m orchestrator.tasks cache --limit SIZE --without-locks"
"""How to delete stores of which nobody can tell whether they are in use."""

_VERIFIED_FILE = "verified.json"
_LOCK = ".lock"
_DELETING = ".deleting"
_THREADS = 4


class CacheFullError(UserError):
    """A store does not fit into the limit beside those that are in use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedStore:
    """A store, an unfinished one, or a file of an earlier format.

    Attributes:
        path: Where.
        size_bytes: Of all its files.
        last_used_s: When it was last opened or written, seconds since the epoch.
        is_finished: Whether it can be opened.
    """

    path: Path
    size_bytes: int
    last_used_s: float
    is_finished: bool


def cached_stores(home: Path) -> list[CachedStore]:
    """All stores of a home, sorted by name; without those that others delete meanwhile."""
    folder = home / STORES
    if not folder.is_dir():
        return []
    paths = [path for path in sorted(folder.iterdir()) if not path.name.endswith(_LOCK)]
    return [store for path in paths if (store := _described(path)) is not None]


def _described(path: Path) -> CachedStore | None:
    """None for what is not there any more."""
    try:
        own = path.stat()
        files = list(path.iterdir()) if stat.S_ISDIR(own.st_mode) else [path]
    except FileNotFoundError:
        return None
    statuses = {file: status for file in files if (status := _file_status(file)) is not None}
    index = statuses.get(path / INDEX_FILE)
    latest = [*statuses.values(), own] if index is None else [index]
    return CachedStore(
        path=path,
        size_bytes=sum(status.st_size for status in statuses.values()),
        last_used_s=max(status.st_mtime for status in latest),
        is_finished=index is not None and not path.name.endswith((BUILDING, _DELETING)),
    )


def _file_status(file: Path) -> os.stat_result | None:
    with contextlib.suppress(FileNotFoundError):
        status = file.stat()
        return status if stat.S_ISREG(status.st_mode) else None
    return None


def use_of(store: CachedStore) -> Use:
    """Whether a process has the store open, or is building it."""
    if not store.is_finished:
        return _use_of_unfinished(store.path)
    try:
        with alone(store.path) as use:
            return use
    except FileNotFoundError:
        return Use.FREE


def _use_of_unfinished(path: Path) -> Use:
    if not path.name.endswith(BUILDING):
        return Use.FREE
    try:
        with FileLock(_lock_file(path.with_name(path.name.removesuffix(BUILDING))), timeout=0):
            return Use.FREE
    except (Timeout, OSError):  # what is not ours to lock counts as held
        return Use.HELD


def delete_store(store: CachedStore, without_locks: bool = False) -> bool:
    """Delete a store, unless it is in use or being built. One that is gone counts as deleted.

    Args:
        store: Which.
        without_locks: Delete it also if nobody can tell whether it is in use. A process that reads it then may end with
            a bus error, or fail.

    Returns:
        Whether it went.

    Raises:
        UserError: It cannot be deleted.
    """
    try:
        if not store.path.is_dir():
            store.path.unlink(missing_ok=True)
            return True
        if not store.is_finished:
            return _delete_unfinished(store.path)
        return _delete_finished(store.path, without_locks)
    except FileNotFoundError:
        return True
    except OSError as error:
        raise UserError(f"store {store.path} cannot be deleted: {error}") from error


def _delete_finished(path: Path, without_locks: bool) -> bool:
    # Renamed first, so that no half of it can be opened.
    doomed = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}{_DELETING}")
    with alone(path) as use:
        if use is not Use.FREE and not (without_locks and use is Use.UNKNOWN):
            return False
        path.rename(doomed)
    _remove_doomed(doomed)
    return True


def _remove_doomed(path: Path) -> bool:
    """Whether all of it went; others may be removing it, too, and what stays is found the next time."""
    shutil.rmtree(path, ignore_errors=True)
    return not path.exists()


def _delete_unfinished(path: Path) -> bool:
    if path.name.endswith(_DELETING):
        return _remove_doomed(path)
    lock = _lock_file(path.with_name(path.name.removesuffix(BUILDING)))
    try:
        with FileLock(lock, timeout=0):
            shutil.rmtree(path)
    except Timeout:
        return False
    return True


def _lock_file(path: Path) -> Path:
    """Stays when the store goes: who waits for it must not wait for another file than who comes next."""
    return path.with_name(path.name + _LOCK)


@contextlib.contextmanager
def building_lock(path: Path) -> Iterator[None]:
    """The right to build the store at ``path``; makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(_lock_file(path)):
        yield


def evict(home: Path, limit_bytes: int, but: Sequence[Path] = (), without_locks: bool = False) -> list[CachedStore]:
    """Delete the least recently used stores until all together take at most ``limit_bytes``.

    Args:
        home: Whose stores.
        limit_bytes: Most bytes.
        but: Stores that stay whatever comes; so do those that are in use.
        without_locks: See ``delete_store``.

    Returns:
        What was deleted, in that order. The rest may still exceed the limit, all of it being in use.
    """
    stores = cached_stores(home)
    size, deleted = sum(store.size_bytes for store in stores), []
    for store in sorted(stores, key=lambda store: store.last_used_s):
        if size <= limit_bytes:
            break
        if store.path not in but and delete_store(store, without_locks):
            size -= store.size_bytes
            deleted.append(store)
    return deleted


def parse_size(text: str, where: str) -> int:
    """Bytes of a size such as ``50GB`` (10^9) or ``50GiB`` (2^30).

    Raises:
        UserError: No size.
    """
    try:
        size: int = TypeAdapter(ByteSize).validate_python(text.strip())
    except ValidationError:
        raise UserError(f"{where} is {text!r}; a size such as 50GB or 800MiB expected") from None
    return size


def cache_limit() -> int | None:
    """What ``SCALECURVES_CACHE_LIMIT`` says, in bytes; None if it is not set.

    Raises:
        UserError: It is no size.
    """
    text = os.environ.get(LIMIT_VARIABLE, "").strip()
    return parse_size(text, LIMIT_VARIABLE) if text else None


def make_room(home: Path, path: Path, size_bytes: int, finished_bytes: int = 0) -> None:
    """See to it that a store can be built: within the limit, and on the disk.

    Args:
        home: Whose stores.
        path: The store.
        size_bytes: What it will take.
        finished_bytes: What of it an interrupted build has already written.

    Raises:
        CacheFullError: It exceeds the limit together with the stores that are in use. None is deleted then, unless
            others came into use meanwhile.
        UserError: It exceeds what is free on the disk.
    """
    limit = cache_limit()
    own = (path.with_name(path.name + BUILDING),)
    if limit is not None:
        others = [store for store in cached_stores(home) if store.path not in own]
        _refuse_beyond(limit, path, size_bytes, [store for store in others if use_of(store) is not Use.FREE])
        evict(home, limit - size_bytes + finished_bytes, but=own)
        others = [store for store in cached_stores(home) if store.path not in own]
        _refuse_beyond(limit, path, size_bytes, others)
    free = shutil.disk_usage(path.parent).free
    if size_bytes - finished_bytes > free:
        raise UserError(
            f"image store {path} takes {_gb(size_bytes - finished_bytes)}, and {_gb(free)} are free. Delete stores "
            "with python -m orchestrator.tasks cache --prune DAYS, or set SCALECURVES_HOME to a folder with room"
        )


def _refuse_beyond(limit: int, path: Path, size_bytes: int, others: Sequence[CachedStore]) -> None:
    taken = sum(store.size_bytes for store in others)
    if taken + size_bytes > limit:
        raise CacheFullError(
            f"image store {path} takes {_gb(size_bytes)}, and others that {_why_kept(others)} {_gb(taken)}: more "
            f"than {LIMIT_VARIABLE} = {_gb(limit)} allows. Raise it, or choose a smaller protocol.storage_size"
        )


def _why_kept(stores: Sequence[CachedStore]) -> str:
    if any(use_of(store) is Use.UNKNOWN for store in stores):
        return f"stay ({Use.UNKNOWN}; when nothing runs: {UNLOCKED_HINT})"
    return "are in use"


def _gb(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.2f} GB"


def damaged_shards(path: Path, trust: bool = False) -> list[str]:
    """Names of the shards of a store that are missing or not as they were written.

    Args:
        path: The store.
        trust: Believe shards whose size, time and inode are those of the last time that all were whole. Else every byte
            is read.

    Raises:
        DataError: Its index cannot be read.
    """
    names = read_index(path)["shards"]
    stamps = {name: _stamp(path / name) for name in names}
    known = _read_stamps(path / _VERIFIED_FILE) if trust else {}
    doubtful = [name for name in names if stamps[name] is not None and known.get(name) != stamps[name]]
    with ThreadPoolExecutor(_THREADS) as pool:
        sound = dict(zip(doubtful, pool.map(lambda name: is_whole(path / name), doubtful), strict=True))
    damaged = [name for name in names if stamps[name] is None or not sound.get(name, True)]
    if doubtful and not damaged:
        _write_stamps(path / _VERIFIED_FILE, stamps)
    return damaged


def read_index(path: Path) -> dict[str, Any]:
    """The index of a store.

    Raises:
        DataError: It cannot be read.
    """
    try:
        index: dict[str, Any] = json.loads((path / INDEX_FILE).read_text(encoding="utf-8"))
        if not isinstance(index["shards"], list):
            raise TypeError("shards")
        return index
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"image store {path} is damaged ({error}); delete it, and it is built again") from error


_Stamp = list[int]


def _stamp(path: Path) -> _Stamp | None:
    """What differs between a file and its copies and later versions; None if there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def _read_stamps(file: Path) -> dict[str, _Stamp]:
    try:
        stamps = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamps if isinstance(stamps, dict) else {}


def _write_stamps(file: Path, stamps: dict[str, _Stamp | None]) -> None:
    partial = file.with_name(f"{uuid.uuid4().hex}.partial")
    with contextlib.suppress(OSError):  # a store of others is looked at again by the next process
        partial.write_text(json.dumps(stamps), encoding="utf-8")
        partial.replace(file)
