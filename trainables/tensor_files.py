"""Writing ``.safetensors`` files: what the operating system says comes as ``OSError``, as from other files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

_OF_THE_SYSTEM = re.compile(r"(?:os error |code: )(\d+)")
"""How the library's message holds the number of an error, in its later and in its earlier versions."""


@contextmanager
def system_errors(path: Path) -> Iterator[None]:
    """Where a file is written by ``save_file``, which has one kind of error for a full disk and for a wrong tensor.

    Args:
        path: The file.

    Raises:
        OSError: It cannot be written.
    """
    try:
        yield
    except SafetensorError as error:
        found = _OF_THE_SYSTEM.search(str(error))
        if found is None:
            raise
        number = int(found[1])
        raise OSError(number, os.strerror(number), str(path)) from error
