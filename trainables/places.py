"""Where files lie: a folder of this machine, or a URL (s3://, gs://, memory://, ...) that fsspec can open."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeAlias, TypeVar
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

_OF_GOOGLE = frozenset({"gs", "gcs"})
_ZONAL = "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"
"""Variable that gcsfs reads when it is imported. Unless it is off, every file that is opened may first wait half a
minute and more for what kind of bucket this is: gRPC asks, which is often blocked, and no failure is remembered."""

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

        parts = urlsplit(written)
        if parts.scheme in _OF_GOOGLE:
            os.environ.setdefault(_ZONAL, "false")
        found = UPath(written)
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
        raise _unreachable(written, error) from error


class RemoteError(OSError):
    """What a client of a remote file system raised, in words."""


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
        raise RemoteError(f"{type(error).__name__}: {error}") from error


class _RemoteStream(io.RawIOBase):
    """A stream of a remote file whose reads raise ``OSError``: what decodes it cannot tell a lost host from damage."""

    def __init__(self, file: Place) -> None:
        self._file = file
        with os_errors(file):
            self._stream = file.open("rb")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        with os_errors(self._file):
            return self._stream.read(-1 if size is None else size)

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        read = self.read(len(view))
        view[: len(read)] = read
        return len(read)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        with os_errors(self._file):
            return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()


def open_bytes(file: Place) -> IO[bytes]:
    """The file, opened to be read; so is a remote one, and its reads raise ``OSError`` alone.

    Raises:
        OSError: It is missing or cannot be opened.
    """
    return file.open("rb") if isinstance(file, Path) else _RemoteStream(file)  # type: ignore[return-value]


def is_file(file: Place) -> bool:
    """Whether there is such a file: a remote one that cannot be looked at is not taken for a missing one.

    Raises:
        UserError: Nobody can tell: its file system does not let us in or does not answer.
    """
    if isinstance(file, Path):
        return file.is_file()
    try:
        with os_errors(file):
            return stat.S_ISREG(file.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise _unreachable(file, error) from error


def is_folder(folder: Place) -> bool:
    """Whether there is such a folder.

    Raises:
        UserError: Nobody can tell: its file system does not let us in or does not answer.
    """
    try:
        with os_errors(folder):
            return folder.is_dir()
    except RemoteError as error:
        raise _unreachable(folder, error) from error


def files_like(folder: Place, pattern: str) -> list[Place]:
    """The files under a folder that a pattern of ``glob`` finds, sorted.

    Raises:
        UserError: The folder's file system does not let us in or does not answer.
    """
    try:
        with os_errors(folder):
            return sorted((file for file in folder.glob(pattern) if is_file(file)), key=str)
    except OSError as error:
        raise _unreachable(folder, error) from error


def _unreachable(written: object, error: OSError) -> UserError:
    return UserError(hide_password(f"{written} cannot be reached: {error}; are its credentials and address set?"))


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
    facts = status.as_info()
    written = next((facts[name] for name in _TIMES if facts.get(name) is not None), 0)
    if isinstance(written, str):
        written = datetime.fromisoformat(written)
    seconds = written.timestamp() if isinstance(written, datetime) else float(written)
    return int(seconds * 1e9)
