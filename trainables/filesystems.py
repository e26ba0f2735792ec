"""The file system behind a path or URI."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.fs as pafs

from search_spaces.exceptions import StorageError, UserError
from search_spaces.uris import hide_password, is_arrows_own

LOCAL = pafs.LocalFileSystem()

_RETRY = ("retry_limit_seconds", "60")
_OPTIONS = {
    "s3": ("allow_delayed_open", "true"),  # a small file takes one request instead of three
    "gs": _RETRY,  # else what cannot be reached, or has no credentials, is asked for 15 minutes, call by call
    "gcs": _RETRY,
}
"""Scheme -> option of its URIs, and the value that it has here unless the URI gives another."""


def open_filesystem(place: str) -> tuple[pafs.FileSystem, str]:
    """The file system of a path, ``file://`` or any URI that pyarrow or fsspec knows, and the path on it.

    Raises:
        UserError: No file system for this URI, or a ``#`` in it, which would cut it off.
        StorageError: What some have to ask before they open (the region of a bucket) does not answer.
    """
    if "://" not in place:
        return LOCAL, os.path.abspath(Path(place).expanduser())  # noqa: PTH100 - resolve() would follow links
    if place.startswith("file://"):
        return LOCAL, unquote(urlsplit(place.replace("?", "%3F").replace("#", "%23")).path)
    if "#" in place:
        raise UserError(f"storage {hide_password(place)}: in a URI a # is written %23")
    try:
        return _of_arrow(place)
    except (OSError, pa.ArrowException) as error:
        unknown = isinstance(error, pa.ArrowInvalid | pa.ArrowNotImplementedError)
        if unknown and not is_arrows_own(place):
            return _open_fsspec(place, error)
        kind = StorageError if isinstance(error, OSError) else UserError
        raise kind(hide_password(f"storage {place} cannot be opened: {error}")) from None


def _of_arrow(place: str) -> tuple[pafs.FileSystem, str]:
    place = place.replace(" ", "%20")
    option, value = _OPTIONS.get(urlsplit(place).scheme, ("", ""))
    if option and option not in place:
        mark = "&" if "?" in place else "?"
        with contextlib.suppress(pa.ArrowInvalid):  # a version that does not know it, or something else is wrong
            filesystem, path = pafs.FileSystem.from_uri(f"{place}{mark}{option}={value}")
            return filesystem, path
    filesystem, path = pafs.FileSystem.from_uri(place)
    return filesystem, path


def below(place: str, folder: str) -> str:
    """The place of a folder in a place; options of a URI (``?region=...``) stay at its end."""
    if "://" not in place or place.startswith("file://"):
        return f"{place.rstrip('/')}/{folder}"
    path, mark, options = place.partition("?")
    return f"{path.rstrip('/')}/{folder}{mark}{options}"


def _open_fsspec(place: str, reason: Exception) -> tuple[pafs.FileSystem, str]:
    try:
        import fsspec  # type: ignore[import-untyped]

        filesystem, path = fsspec.core.url_to_fs(place)
    except (ImportError, ValueError) as error:
        raise UserError(f"storage {hide_password(place)}: no file system for this URI ({reason}; {error})") from None
    except OSError as error:
        raise StorageError(hide_password(f"storage {place} cannot be opened: {error}")) from None
    return pafs.PyFileSystem(pafs.FSSpecHandler(filesystem)), path
