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
        os.close(os.open(_mark(folder, piece), os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        return True
    return False


@contextmanager
def held(folder: Path, piece: int | str) -> Iterator[None]:
    """Others see that a piece that was taken is still worked at. Without locks on the file system they do not."""
    with _mark(folder, piece).open("ab") as mark:
        with suppress(OSError):
            fcntl.flock(mark, fcntl.LOCK_EX)
        yield


def at_work(folder: Path, piece: int | str) -> bool:
    """Whether a process works at a piece."""
    with suppress(FileNotFoundError), _mark(folder, piece).open("rb") as mark:
        try:
            fcntl.flock(mark, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
    return False


def write_whole(path: Path, value: object) -> None:
    """Pickled, and there once it is whole."""
    partial = path.with_name(f".{path.name}.part")
    with partial.open("wb") as stream:
        pickle.dump(value, stream, protocol=pickle.HIGHEST_PROTOCOL)
    partial.replace(path)


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
            Its name for ``collect``; None, and nothing was given, if no process waits.
        """
        waiting = sum(1 for _ in self._folder.glob("*.idle"))
        if waiting:
            waiting -= sum(not _mark(self._folder, path.stem).exists() for path in self._folder.glob("*.asked"))
        if waiting < 1:
            return None
        name = f"{self._piece}-{self._parts}"
        self._parts += 1
        write_whole(self._folder / f"{name}.asked", payload)
        return name

    def collect(self, name: str, work: Callable[[Any], R]) -> R:
        """What was made of a part: waited for if somebody is at it, made here if nobody is or whoever was has ended.

        Args:
            name: Of ``hand``.
            work: From the payload.
        """
        if not take(self._folder, name):
            with held(self._folder, name):
                pass
            if made(self._folder, name).is_file():
                return cast("R", read_whole(made(self._folder, name)))
        return work(read_whole(self._folder / f"{name}.asked"))


def serve(folder: Path, pieces: int, work: Callable[[Any], object]) -> None:
    """Work at parts that are handed on, until nobody works at a piece.

    Args:
        folder: Where all processes meet.
        pieces: Number of the pieces, all taken.
        work: Makes something that can be pickled of a part's payload.
    """
    idle = folder / f"{os.getpid()}.idle"
    try:
        while any(at_work(folder, piece) for piece in range(pieces)):
            asked = next((path for path in sorted(folder.glob("*.asked")) if _free(folder, path.stem)), None)
            if asked is None:
                idle.touch()
                time.sleep(_LOOK_EVERY_S)
                continue
            idle.unlink(missing_ok=True)
            with held(folder, asked.stem):
                write_whole(made(folder, asked.stem), work(read_whole(asked)))
                asked.unlink()  # some are a hundred megabytes
    finally:
        idle.unlink(missing_ok=True)


def _free(folder: Path, piece: str) -> bool:
    return not _mark(folder, piece).exists() and take(folder, piece)


def _mark(folder: Path, piece: int | str) -> Path:
    return folder / f"{piece}.taken"
