"""What running drivers say about themselves, and what they are asked, as notes in the storage: the one place that all
machines share.

A driver's note lists the trials that have no run in the record yet; it is overwritten every few seconds and ignored
when stale. A request to cancel is addressed to one driver, which deletes it when it has heard it. Both are disposable:
no result depends on them.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa

from orchestrator.pace import TimeLeft
from search_spaces.selection import Key
from trainables.storage import Storage

STALE_S = 60.0
"""A note that is older belongs to a driver that is no more."""

CLOCK_S = 10.0
"""The start of a process is computed from that of the machine, which moves when its clock is set."""

_EVERY_S = 5.0
_DRIVER, _CANCEL = "driver-", "cancel-"
_STORAGE_ERRORS = (OSError, pa.ArrowException)
Listener = Callable[[Collection[Key]], int]
"""Told which target trials to leave out; says how many of them are the driver's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Driver:
    """A driver that runs a study now.

    Attributes:
        name: Of its note.
        host: Machine that it runs on.
        pid: Its process there.
        running: Trials that have reported and not ended.
        left: Time left; None if not known yet.
        targets: The target trials among those that run.
    """

    name: str
    host: str
    pid: int
    running: frozenset[str]
    left: TimeLeft | None
    targets: frozenset[Key] = frozenset()

    @property
    def label(self) -> str:
        """Short text: ``process 4711 on node1``."""
        return f"process {self.pid} on {self.host}"


class DriverNote:
    """Says from a thread of its own which trials a driver runs now, and hears what it is asked. A storage that is away
    costs that, no more.

    Args:
        storage: Where notes lie.
        study: Name of the study.
        left: Gives the time left, None if not known.
        every_s: Seconds between two looks.

    Attributes:
        name: Of the driver, unlike all others.
    """

    def __init__(
        self, storage: Storage, study: str, left: Callable[[], TimeLeft | None], every_s: float = _EVERY_S
    ) -> None:
        self._storage = storage
        self._study = study
        self._left = left
        self._every_s = every_s
        self._host, self._pid = socket.gethostname(), os.getpid()
        # Process numbers come again, in containers at once; a request to an earlier driver must not reach this one.
        self.name = f"{self._host}-{self._pid}-{uuid.uuid4().hex[:8]}"
        self._running: dict[str, Key | None] = {}
        self._answers: dict[str, int] = {}
        self._listener: Listener | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._live, name="driver-note", daemon=True)
        self._thread.start()

    def listen(self, listener: Listener) -> None:
        """Call this, in a thread of its own, with trials that someone asks to cancel."""
        self._listener = listener

    def started(self, trial_id: str, target: Key | None = None) -> None:
        """A trial has reported.

        Args:
            trial_id: Its id.
            target: Its place in the study, if it is a target.
        """
        if trial_id not in self._running:
            self._running = self._running | {trial_id: target}

    def ended(self, trial_id: str) -> None:
        """A trial has ended."""
        self._running = {i: target for i, target in self._running.items() if i != trial_id}

    def close(self) -> None:
        """The driver ends."""
        self._ended.set()
        self._thread.join()
        with contextlib.suppress(*_STORAGE_ERRORS):
            for request in self._requests():
                self._storage.delete_note(request)
            self._storage.delete_note(_DRIVER + self.name)

    def _live(self) -> None:
        while True:
            with contextlib.suppress(*_STORAGE_ERRORS):
                self._storage.put_note(_DRIVER + self.name, json.dumps(self._note()))
                self._hear()
            if self._ended.wait(self._every_s):
                return

    def _note(self) -> dict[str, object]:
        left = self._left()
        return {
            "study": self._study,
            "host": self._host,
            "pid": self._pid,
            "began": psutil.Process(self._pid).create_time(),
            "machine": _machine(),
            "time": time.time(),
            "running": sorted(self._running),
            "targets": sorted(target for target in self._running.values() if target is not None),
            "answers": self._answers,
            "eta_s": None if left is None else left.seconds,
            "eta_error_s": None if left is None else left.error_s,
        }

    def _hear(self) -> None:
        if self._listener is None:
            return
        for name, text in self._requests().items():
            request = _read(text)
            if request is not None:
                self._answers[name] = self._listener(frozenset(map(tuple, request["targets"])))
                # Whoever asked looks for the answer once the request is gone.
                self._storage.put_note(_DRIVER + self.name, json.dumps(self._note()))
                self._storage.delete_note(name)

    def _requests(self) -> dict[str, str]:
        return self._storage.notes(f"{_CANCEL}{self.name}-")


def live_drivers(storage: Storage) -> dict[str, bool]:
    """Name of each driver that has left a note -> whether it lives."""
    notes = {name: _read(text) for name, text in storage.notes(_DRIVER).items()}
    return {name.removeprefix(_DRIVER): _lives(note) for name, note in notes.items() if note is not None}


def drivers_now(storage: Storage, study: str) -> list[Driver]:
    """Drivers that run this study now, as far as their notes say."""
    found = []
    for name, text in storage.notes(_DRIVER).items():
        note = _read(text)
        if note is not None and note.get("study") == study and _lives(note):
            found.append(
                Driver(
                    name=name.removeprefix(_DRIVER),
                    host=note["host"],
                    pid=note["pid"],
                    running=frozenset(note["running"]),
                    left=_time_left(note),
                    targets=frozenset(map(tuple, note.get("targets", ()))),
                )
            )
    return found


def running_now(storage: Storage, study: str) -> tuple[set[str], TimeLeft | None]:
    """Trials that drivers of this study run now, and the longest of their times left."""
    drivers = drivers_now(storage, study)
    left = [d.left for d in drivers if d.left is not None]
    return {trial for d in drivers for trial in d.running}, max(left, key=lambda t: t.seconds, default=None)


def ask_to_cancel(storage: Storage, driver: Driver, keys: Collection[Key]) -> str:
    """Ask a driver to stop these target trials and to start none of them; the name of the request."""
    name = f"{_CANCEL}{driver.name}-{uuid.uuid4().hex[:8]}"
    storage.put_note(name, json.dumps({"time": time.time(), "targets": sorted(keys)}))
    return name


def answer_to(storage: Storage, driver: Driver, request: str) -> int:
    """How many trials of a driver a request that it has heard named; 0 if it has ended."""
    note = _read(storage.notes(_DRIVER + driver.name).get(_DRIVER + driver.name, ""))
    return 0 if note is None else int(note.get("answers", {}).get(request, 0))


def is_heard(storage: Storage, request: str) -> bool:
    """Whether a driver has taken a request, or has ended."""
    return request not in storage.notes(request)


def stale_notes(storage: Storage) -> list[str]:
    """Names of notes that no driver stands behind any more, and of requests that it can no longer hear."""
    notes = {name: _read(text) for name, text in storage.notes().items()}
    fresh = {
        name.removeprefix(_DRIVER)
        for name, note in notes.items()
        if name.startswith(_DRIVER) and note is not None and _lives(note)
    }
    of_drivers = [name for name in notes if name.startswith((_DRIVER, _CANCEL))]
    return [name for name in of_drivers if not any(driver in name for driver in fresh)]


def _read(text: str) -> dict[str, Any] | None:
    """A note or a request; None for one that was cut off while it was written. Both have a time."""
    try:
        note = json.loads(text)
    except ValueError:
        return None
    return note if isinstance(note, dict) and "time" in note else None


def _time_left(note: dict[str, Any]) -> TimeLeft | None:
    """Of a note; drivers of earlier versions say nothing of its error."""
    seconds = note["eta_s"]
    return None if seconds is None else TimeLeft(seconds, note.get("eta_error_s"))


def _machine() -> str:
    """Stands for what shares process numbers with this process: a machine that was booted, a container on it."""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"  # noqa: PTH115 - no path: pid:[4026531836]
    return ""


def _lives(note: dict[str, Any]) -> bool:
    """Whether the driver of a note may still run: it was heard of lately, and is not known to have died here."""
    if time.time() - note["time"] >= STALE_S:
        return False
    if not note.get("machine") or note["machine"] != _machine():
        return True
    try:
        process = psutil.Process(note["pid"])
        same = abs(process.create_time() - note["began"]) < CLOCK_S
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
