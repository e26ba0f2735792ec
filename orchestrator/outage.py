"""When the storage is away: nothing starts until it answers, and a run does not wait for that for ever."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

LOOK_S = 30.0
"""Seconds between two times that the storage is asked."""
LIMIT_S = 3600.0
"""Longest wait for the storage; then the run leaves what it has not started."""


class Outage:
    """Whether the storage is away, from the failure of a trial until the storage answers this process.

    Whatever starts meanwhile would fail at once, and so would its further attempts.

    Args:
        ask: Raises while the storage is away. Called in a thread of its own, because it may take minutes to say so.
        clock: Seconds, never going back.
    """

    def __init__(self, ask: Callable[[], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._ask = ask
        self._clock = clock
        self._began_at = 0.0
        self._away = threading.Event()
        self._closed = threading.Event()

    @property
    def lasts(self) -> bool:
        """Whether the storage is away."""
        return self._away.is_set()

    @property
    def is_too_long(self) -> bool:
        """Whether it has been away for so long that the run should end."""
        return self.lasts and self._clock() - self._began_at > LIMIT_S

    def begin(self) -> bool:
        """A trial could not reach the storage; False if that was known."""
        if self.lasts:
            return False
        self._began_at = self._clock()
        self._away.set()
        threading.Thread(target=self._wait, name="storage-outage", daemon=True).start()
        return True

    def close(self) -> None:
        """Ask no more."""
        self._closed.set()

    def _wait(self) -> None:
        while not self._closed.is_set():
            try:
                self._ask()
            except Exception:  # file systems of fsspec raise what they like
                self._closed.wait(LOOK_S)
            else:
                self._away.clear()
                return
