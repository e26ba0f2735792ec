"""The file system behind a path or URI."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.fs as pafs

from search_spaces.exceptions import UserError

LOCAL = pafs.LocalFileSystem()


def open_filesystem(place: str) -> tuple[pafs.FileSystem, str]:
    """The file system of a path, ``file://`` or any URI that pyarrow or fsspec knows, and the path on it.

    Raises:
        UserError: No file system for this URI.
    """
    if "://" not in place:
        return LOCAL, os.path.abspath(Path(place).expanduser())  # noqa: PTH100 - resolve() would follow links
    if place.startswith("file://"):
        return LOCAL, unquote(urlsplit(place.replace("?", "%3F").replace("#", "%23")).path)
    try:
        filesystem, path = pafs.FileSystem.from_uri(place)
        return filesystem, path
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        return _open_fsspec(place, error)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"storage {place} cannot be opened: {error}") from error


def _open_fsspec(place: str, reason: Exception) -> tuple[pafs.FileSystem, str]:
    try:
        import fsspec  # type: ignore[import-untyped]

        filesystem, path = fsspec.core.url_to_fs(place)
    except (ImportError, ValueError) as error:
        raise UserError(f"storage {place}: no file system for this URI ({reason}; {error})") from None
    return pafs.PyFileSystem(pafs.FSSpecHandler(filesystem)), path
