"""What tests put in the place of the world outside: a clock that they move, a storage in memory."""

from __future__ import annotations

import fsspec

from trainables.storage import Storage


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def memory_storage() -> Storage:
    """An empty storage in this process's memory."""
    fsspec.filesystem("memory").store.clear()
    return Storage("memory://bucket/prefix")
