"""Content hashes of files, computed once per process as long as a file does not change."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from search_spaces.exceptions import UserError


def file_sha256(path: str | Path, where: str = "") -> str:
    """The sha256 of a file's bytes, 64 hexadecimal digits.

    Kept in memory by path, size and time of the last change, so that thousands of trials read a checkpoint's bytes
    once.

    Args:
        path: The file.
        where: What names the file, such as ``"sources.natural"``; starts the message of an error.

    Raises:
        UserError: There is no such file, or it cannot be read.
    """
    file = Path(path).expanduser().absolute()
    start = f"{where}: " if where else ""
    try:
        status = file.stat()
        if not file.is_file():
            raise UserError(f"{start}{file} is not a file")
        return _sha256(file, status.st_size, status.st_mtime_ns)
    except FileNotFoundError:
        raise UserError(f"{start}file {file} does not exist{_similar(file)}") from None
    except OSError as error:
        raise UserError(f"{start}file {file} cannot be read: {error.strerror or error}") from error


@lru_cache(maxsize=4096)
def _sha256(file: Path, size_bytes: int, changed_ns: int) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _similar(file: Path) -> str:
    """What lies in the folder instead, for the message about a missing file."""
    if not file.parent.is_dir():
        return f" (nor does its folder {file.parent})"
    names = sorted(p.name for p in file.parent.iterdir() if p.suffix == file.suffix)
    return f"; its folder holds {', '.join(names[:10])}" if names else f"; its folder holds no *{file.suffix} file"
