"""Parts of a piece of work that are handed, while it goes on, to a process that has nothing left to do.

Pieces differ in size, and there may be one alone: whoever has none left waits for parts of those that others work on.
All meet in a folder. Whoever works at something holds the lock of its mark, which ends with the process however that
ends: what a killed process has not made is made by the one that had handed it on.
"""

from __future__ import annotations

import fcntl
import os
import pickle
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar, cast

R = TypeVar("R")

_LOOK_EVERY_S = 0.02


def take(folder: Path, piece: int | str) -> bool:
    """Whether a piece is nobody else's; it is then the caller's."""
    with suppress(FileExistsError):
        os.close(os.open(mark_of(folder, piece), os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        return True
    return False


@contextmanager
def held(mark: Path) -> Iterator[None]:
    """Others see that what a mark is of still goes on. Without locks on the file system they do not."""
    with mark.open("ab") as stream:
        with suppress(OSError):
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def is_held(mark: Path) -> bool:
    """Whether a process holds a mark."""
    with suppress(FileNotFoundError), mark.open("rb") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
    return False


def write_whole(path: Path, value: object) -> None:
    """Pickled, and there once it is whole."""
    partial = path.with_name(f".{path.name}.part")
    try:
        with partial.open("wb") as stream:
            pickle.dump(value, stream, protocol=pickle.HIGHEST_PROTOCOL)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_whole(path: Path) -> Any:
    """What ``write_whole`` wrote."""
    with path.open("rb") as stream:
        return pickle.load(stream)


def made(folder: Path, piece: int | str) -> Path:
    """Where what was made of a piece lies."""
    return folder / f"{piece}.made"


class Exchange:
    """Hands parts of one piece of work to others.

    Args:
        folder: Where all processes meet.
        piece: The piece.
    """

    def __init__(self, folder: Path, piece: int) -> None:
        self._folder, self._piece, self._parts = folder, piece, 0

    def hand(self, payload: object) -> str | None:
        """Give a part to a process that waits for one.

        Args:
            payload: All that is needed; can be pickled.

        Returns:
            Its name for ``collect``; None, and nothing was given, if no process waits or the disk is full.
        """
        waiting = sum(is_held(idle) for idle in self._folder.glob("*.idle"))
        if waiting:
            waiting -= sum(not mark_of(self._folder, path.stem).exists() for path in self._folder.glob("*.asked"))
        if waiting < 1:
            return None
        name = f"{self._piece}-{os.getpid()}-{self._parts}"
        self._parts += 1
        try:
            write_whole(asked_for(self._folder, name), payload)
        except OSError:
            return None
        return name

    def collect(self, name: str, work: Callable[[Any], R]) -> R:
        """What was made of a part: waited for if somebody is at it, made here if nobody is or whoever was has ended.

        Args:
            name: Of ``hand``.
            work: From the payload.
        """
        done, asked = made(self._folder, name), asked_for(self._folder, name)
        if not take(self._folder, name):
            with held(mark_of(self._folder, name)):
                pass
        found = read_whole(done) if done.is_file() else work(read_whole(asked))
        for file in (done, asked):  # some are a hundred megabytes
            file.unlink(missing_ok=True)
        return cast("R", found)


def serve(folder: Path, pieces: int, work: Callable[[Any], object]) -> None:
    """Work at parts that are handed on, until nobody works at a piece.

    Args:
        folder: Where all processes meet.
        pieces: Number of the pieces, all taken.
        work: Makes something that can be pickled of a part's payload. If it fails, whoever handed the part on makes it,
            and meets what is wrong with it.
    """
    idle = folder / f"{os.getpid()}.idle"
    while (asked := _waited_for(folder, pieces, idle)) is not None:
        with held(mark_of(folder, asked.stem)), suppress(Exception):
            write_whole(made(folder, asked.stem), work(read_whole(asked)))
            asked.unlink()


def _waited_for(folder: Path, pieces: int, idle: Path) -> Path | None:
    """A part that is now the caller's; None when nobody works at a piece."""
    idle.touch()
    try:
        with held(idle):
            while any(is_held(mark_of(folder, piece)) for piece in range(pieces)):
                for asked in sorted(folder.glob("*.asked")):
                    if not mark_of(folder, asked.stem).exists() and take(folder, asked.stem):
                        return asked
                time.sleep(_LOOK_EVERY_S)
    finally:
        idle.unlink()
    return None


def mark_of(folder: Path, piece: int | str) -> Path:
    """The mark of a piece that was taken; held while it is worked at."""
    return folder / f"{piece}.taken"


def asked_for(folder: Path, name: str) -> Path:
    """Where the payload of a part lies."""
    return folder / f"{name}.asked"
