"""Who has an image store open.

A process that has one open holds a shared lock on its index file (``flock``, gone with the process); whoever deletes it
needs the exclusive one. On file systems without such locks (Lustre mounted without ``flock``, some FUSE ones) nobody
can tell who has a store open.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path

from trainables.shards import INDEX_FILE


class Use(StrEnum):
    """Whether processes have a store open."""

    FREE = "not in use"
    HELD = "in use"
    UNKNOWN = "the file system has no locks that tell whether they are in use"


class StoreGoneError(Exception):
    """A store was deleted between the look and the opening."""


class StoreInUse:
    """Keeps a store from being deleted, as long as this object lives.

    Args:
        path: The store.

    Raises:
        StoreGoneError: It is not there any more, or is being deleted.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._descriptor = os.open(path / INDEX_FILE, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise StoreGoneError(path) from None
        try:
            if _locked(self._descriptor, fcntl.LOCK_SH) is Use.HELD or not _is_at(self._descriptor, path):
                raise StoreGoneError(path)
        except BaseException:
            os.close(self._descriptor)
            self._descriptor = -1
            raise

    def __del__(self) -> None:
        if getattr(self, "_descriptor", -1) >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


@contextlib.contextmanager
def alone(path: Path) -> Iterator[Use]:
    """``FREE`` if nobody else has the store open, which inside stays so; what is not ours to write counts as held.

    Raises:
        FileNotFoundError: It is gone, or another has taken its place.
    """
    try:
        # Writable: NFS gives an exclusive lock to no other descriptor.
        descriptor = os.open(path / INDEX_FILE, os.O_RDWR | os.O_CLOEXEC)
    except PermissionError:
        yield Use.HELD
        return
    try:
        use = _locked(descriptor, fcntl.LOCK_EX)
        if use is Use.FREE and not _is_at(descriptor, path):
            raise FileNotFoundError(path)
        yield use
    finally:
        os.close(descriptor)


def _locked(descriptor: int, kind: int) -> Use:
    """``FREE`` if the lock was got."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # some file systems say EACCES for a lock of another
        return Use.HELD
    except OSError:
        return Use.UNKNOWN
    return Use.FREE


def _is_at(descriptor: int, path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), (path / INDEX_FILE).stat())
    return False
