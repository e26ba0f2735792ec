"""What running drivers say about themselves, so that ``status`` can see trials that have no run in the record yet.

A note is disposable: it is overwritten every few seconds, ignored when stale, and nothing but ``status`` reads it.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable

import pyarrow as pa

from trainables.storage import Storage

_EVERY_S = 5.0
_STALE_S = 60.0
_STORAGE_ERRORS = (OSError, pa.ArrowException)


class DriverNote:
    """Says from a thread of its own which trials a driver runs now. A storage that is away costs the note, no more.

    Args:
        storage: Where notes lie.
        study: Name of the study.
        eta_s: Gives the seconds left, None if not known.
    """

    def __init__(self, storage: Storage, study: str, eta_s: Callable[[], float | None]) -> None:
        self._storage = storage
        self._study = study
        self._eta_s = eta_s
        self._name = f"{study}-{socket.gethostname()}-{os.getpid()}"
        self._running: set[str] = set()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="driver-note", daemon=True)
        self._thread.start()

    def started(self, trial_id: str) -> None:
        """A trial has reported for the first time."""
        self._running = self._running | {trial_id}

    def ended(self, trial_id: str) -> None:
        """A trial has ended."""
        self._running = self._running - {trial_id}

    def close(self) -> None:
        """The driver ends."""
        self._ended.set()
        self._thread.join()
        with contextlib.suppress(*_STORAGE_ERRORS):
            self._storage.delete_note(self._name)

    def _beat(self) -> None:
        while not self._ended.wait(_EVERY_S):
            note = {"study": self._study, "time": time.time(), "running": sorted(self._running), "eta_s": self._eta_s()}
            with contextlib.suppress(*_STORAGE_ERRORS):
                self._storage.put_note(self._name, json.dumps(note))


def running_now(storage: Storage, study: str) -> tuple[set[str], float | None]:
    """Trials that drivers of this study run now, and the longest of their times left in seconds."""
    notes = [json.loads(text) for text in storage.notes()]
    fresh = [n for n in notes if n["study"] == study and time.time() - n["time"] < _STALE_S]
    left = [n["eta_s"] for n in fresh if n["eta_s"] is not None]
    return {trial for n in fresh for trial in n["running"]}, max(left, default=None)
