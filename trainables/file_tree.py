"""Files below one folder of any file system: written whole, moved, listed, deleted."""

from __future__ import annotations

import contextlib
import functools
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar, cast

import pyarrow as pa
import pyarrow.fs as pafs

from search_spaces.exceptions import ScalecurvesError, StorageError
from search_spaces.uris import hide_password
from trainables.filesystems import open_filesystem

TMP = "tmp"
"""Folder of everything that is being written."""

_WHOLE_OBJECTS = frozenset({"s3", "gcs", "abfs"})
"""File systems on which a file is seen whole or not at all, so that it needs no temporary name, and no folder either:
each level of one would cost two requests per file."""

_WITHOUT_FOLDERS = frozenset({"gcs"})
"""File systems on which pyarrow knows a folder by an object that marks it, which files of whole objects do not have:
it lists no folders, and deletes all that is in one before it fails on the mark."""

_LISTINGS = 5
_CHUNK_BYTES = 8 * 2**20

_Method = TypeVar("_Method", bound=Callable[..., Any])


def reaching(method: _Method) -> _Method:
    """For methods of a file tree that ask its file system: what a remote one raises becomes ``StorageError``."""

    @functools.wraps(method)
    def reached(self: FileTree, *arguments: Any, **options: Any) -> Any:
        try:
            return method(self, *arguments, **options)
        except (FileNotFoundError, ScalecurvesError):
            raise
        except (OSError, pa.ArrowException) as error:
            if self.is_local:
                raise
            raise StorageError(hide_password(f"storage {self.place} cannot be reached: {error}")) from error

    return cast(_Method, reached)


class FileTree:
    """Paths are relative to the root, with slashes.

    Args:
        place: A path, ``file://`` or any URI that pyarrow or fsspec knows.
        filesystem: Use this file system, with ``place`` as a path on it (for tests and unusual stores).

    Attributes:
        place: As given.
        label: The same for messages: without a password.

    Raises:
        UserError: No file system for this URI.
        StorageError: It cannot be opened now.
    """

    def __init__(self, place: str | Path, filesystem: pafs.FileSystem | None = None) -> None:
        self.place = str(place)
        self.label = hide_password(self.place)
        self.fs, self._root = (filesystem, self.place) if filesystem is not None else open_filesystem(self.place)

    @property
    def is_local(self) -> bool:
        """Whether files can be renamed and opened in place."""
        return isinstance(self.fs, pafs.LocalFileSystem)

    @property
    def _has_whole_objects(self) -> bool:
        return self.fs.type_name in _WHOLE_OBJECTS

    @property
    def _has_folders(self) -> bool:
        return self.fs.type_name not in _WITHOUT_FOLDERS

    @reaching
    def _upload(self, source: Path, where: str) -> None:
        # Of pyarrow's copy_files a bucket that breaks off is not heard.
        whole = pa.memory_map(str(source)).read_buffer() if source.stat().st_size else b""
        self._put(where, lambda stream: stream.write(whole))

    @reaching
    def _write(self, where: str, data: bytes | memoryview, halfway: Callable[[], None] | None = None) -> None:
        """A file, seen whole or not at all; ``halfway`` is called when half of it is written."""
        if self._has_whole_objects and halfway is not None:
            halfway()  # before anything: a stream that an exception closes makes an object of what it has so far
            halfway = None
        self._put(where, lambda stream: _write_halves(stream, data, halfway))

    def _put(self, where: str, write: Callable[[Any], object]) -> None:
        first = where if self._has_whole_objects else f"{TMP}/{uuid.uuid4().hex}"
        self._make_parent(first)
        with self.fs.open_output_stream(self._path(first)) as stream:
            write(stream)
        if first != where:
            self._move(first, where)

    @reaching
    def _download(self, where: str, target: Path) -> None:
        with self.fs.open_input_stream(self._path(where)) as stream, target.open("wb") as file:
            shutil.copyfileobj(stream, file, _CHUNK_BYTES)

    def _link_new(self, where: str, data: bytes) -> bool:
        """A file on a local file system that did not exist, seen whole or not at all; False if it did."""
        self._make_parent(where)
        first = f"{TMP}/{uuid.uuid4().hex}"
        self._write(first, data)
        try:
            Path(self._path(where)).hardlink_to(self._path(first))
        except FileExistsError:
            return False
        finally:
            self._delete(first)
        return True

    @reaching
    def _move(self, source: str, target: str) -> None:
        self._make_parent(target)
        if self.is_local:
            Path(self._path(source)).replace(self._path(target))
        else:
            self._delete(target)  # not every file system replaces
            self.fs.move(self._path(source), self._path(target))

    def _path(self, where: str) -> str:
        return f"{self._root.rstrip('/')}/{where}"

    @reaching
    def _make_parent(self, where: str) -> None:
        if not self._has_whole_objects:
            self.fs.create_dir(self._path(str(PurePosixPath(where).parent)), recursive=True)

    @reaching
    def _exists(self, where: str) -> bool:
        return bool(self.fs.get_file_info(self._path(where)).type == pafs.FileType.File)

    @reaching
    def _delete(self, where: str) -> None:
        if self._exists(where):
            self.fs.delete_file(self._path(where))

    @reaching
    def _delete_folder(self, where: str) -> None:
        if not self._has_folders:
            self.fs.delete_dir_contents(self._path(where), missing_dir_ok=True)
        elif self.fs.get_file_info(self._path(where)).type == pafs.FileType.Directory:
            self.fs.delete_dir(self._path(where))

    def _names(self, where: str) -> list[str]:
        """Names of the folders in a folder, sorted."""
        if not self._has_folders:
            return sorted({name for name, below, _ in (path.partition("/") for path in self._files(where)) if below})
        entries = self._listed(pafs.FileSelector(self._path(where), allow_not_found=True))
        return sorted(PurePosixPath(entry.path).name for entry in entries if entry.type == pafs.FileType.Directory)

    @reaching
    def _listed(self, selector: pafs.FileSelector) -> list[pafs.FileInfo]:
        """What a selector finds. A name that goes while others are looked at fails a listing: it is made again."""
        for _ in range(_LISTINGS - 1):
            with contextlib.suppress(FileNotFoundError):
                return list(self.fs.get_file_info(selector))
        return list(self.fs.get_file_info(selector))

    def _files(self, folder: str) -> list[str]:
        return list(self._sizes(folder))

    def _sizes(self, folder: str) -> dict[str, int]:
        """Path below a folder -> bytes, of every file in it."""
        root = PurePosixPath(self._path(folder))
        selector = pafs.FileSelector(str(root), recursive=True, allow_not_found=True)
        depth = len(root.parts)
        return {
            PurePosixPath(*PurePosixPath(entry.path).parts[depth - _missing_root(root, entry.path) :]).as_posix(): (
                entry.size or 0
            )
            for entry in self._listed(selector)
            if entry.type == pafs.FileType.File
        }


def _write_halves(stream: Any, data: bytes | memoryview, halfway: Callable[[], None] | None) -> None:
    if halfway is None:
        stream.write(data)
        return
    half = len(data) // 2
    stream.write(data[:half])
    halfway()
    stream.write(data[half:])


def _missing_root(root: PurePosixPath, path: str) -> int:
    """1 if the file system gives paths without the leading slash of ``root`` (fsspec's memory does), else 0."""
    return int(root.is_absolute() and not path.startswith("/"))
