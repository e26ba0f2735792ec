"""Where files lie: a folder of this machine, or a URL (s3://, gs://, memory://, ...) that fsspec can open."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar
from urllib.parse import urlsplit

from search_spaces.exceptions import DataError, ScalecurvesError, UserError
from search_spaces.uris import hide_password

if TYPE_CHECKING:
    from upath import UPath

    Place: TypeAlias = Path | UPath

READERS = min(32, 4 * (os.cpu_count() or 1))
"""Threads that read files side by side: more than cores, as reading is waiting."""

_MOST_AT_ONCE = 256
"""Files that a thread is given at once: handing over one costs as much as looking at it."""

_SCHEME = "://"
_TIMES = ("mtime", "LastModified", "last_modified", "updated", "created")
"""Under which names fsspec's file systems say when a file was written."""

_opened: set[tuple[str, str]] = set()
"""Scheme and bucket or host of the file systems that this process has opened."""


Item = TypeVar("Item")
Answer = TypeVar("Answer")


def each_read(read: Callable[[Item], Answer], items: Sequence[Item]) -> list[Answer]:
    """What ``read`` says of every item, in their order, by many threads."""
    size = max(1, min(_MOST_AT_ONCE, len(items) // READERS))
    pieces = [items[start : start + size] for start in range(0, len(items), size)]
    with ThreadPoolExecutor(READERS) as pool:
        return [answer for piece in pool.map(lambda piece: list(map(read, piece)), pieces) for answer in piece]


def is_remote(written: object) -> bool:
    """Whether this names a URL."""
    return _SCHEME in str(written)


def place(written: str | Place) -> Place:
    """The path or URL that a text names; URLs behave like paths.

    Raises:
        UserError: A URL whose file system cannot be opened: a package is missing, there is no such scheme, or it does
            not let us in or does not answer.
    """
    if isinstance(written, Path) or not isinstance(written, str):
        return written
    if not is_remote(written):
        return Path(written)
    try:
        from upath import UPath

        found = UPath(written)
        parts = urlsplit(written)
        if (parts.scheme, parts.netloc) not in _opened:
            with os_errors(found):
                found.exists()  # opens the file system, so that a missing package is found here; costs a request
            _opened.add((parts.scheme, parts.netloc))
        return found
    except ImportError as error:
        raise UserError(
            f"{written} needs a package that is not installed ({error}); pip install 'scalecurves[remote]'"
        ) from error
    except ValueError as error:
        raise UserError(hide_password(f"{written} cannot be opened: {error}")) from None
    except OSError as error:
        message = f"{written} cannot be reached: {error}; are its credentials and address set?"
        raise UserError(hide_password(message)) from None


@contextmanager
def os_errors(file: Place) -> Iterator[None]:
    """Errors of a remote file system as ``OSError``: each has classes of its own, for a missing key or a lost host."""
    try:
        yield
    except (OSError, ValueError, ImportError, ScalecurvesError):
        raise
    except Exception as error:
        if isinstance(file, Path):
            raise
        raise OSError(f"{type(error).__name__}: {error}") from error


def below(file: Place, root: Place) -> str:
    """The path of a file under a folder, with slashes."""
    if isinstance(file, Path) and isinstance(root, Path):
        return file.relative_to(root).as_posix()
    return str(file)[len(str(root)) :].lstrip("/")


def stamp(file: Place) -> tuple[int, int] | None:
    """Size in bytes and time of the last change in nanoseconds; None if there is no such file.

    Raises:
        DataError: It is there and cannot be looked at.
    """
    try:
        with os_errors(file):
            status = file.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror or error}") from error
    if isinstance(file, Path):
        return status.st_size, status.st_mtime_ns
    return int(status.st_size), _remote_time_ns(status)


def _remote_time_ns(status: Any) -> int:
    facts = getattr(status, "info", None) or {}
    written = next((facts[name] for name in _TIMES if facts.get(name) is not None), 0)
    if isinstance(written, str):
        written = datetime.fromisoformat(written)
    seconds = written.timestamp() if isinstance(written, datetime) else float(written)
    return int(seconds * 1e9)
