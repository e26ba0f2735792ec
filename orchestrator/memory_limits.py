"""Where memory ran out before: what later runs of a study start with, kept as notes in its storage."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pyarrow as pa

from search_spaces.identity import canonical, scale_identity
from search_spaces.study import GangSpec
from search_spaces.trial import ResolvedTrial
from trainables.storage import Storage

PREFIX = "memory-"
"""Of the notes' names."""

DEVICES_S = 60.0
"""Seconds between two looks at the devices: each asks Ray, and on Kubernetes its API server."""

_ACCELERATOR = "accelerator_type:"
_STORAGE_ERRORS = (OSError, pa.ArrowException)


def memory_need(trial: ResolvedTrial, gang: GangSpec) -> str:
    """What the memory of a trial's ghost batch, the smallest unit of computation, follows from, as JSON."""
    protocol = trial.protocol
    average = {} if protocol.ema_decay is None else {"average": True}
    return canonical(
        average
        | {
            "scale": scale_identity(trial.scale),
            "task": [trial.task.kind, len(trial.task.labels)],
            "method": protocol.method,
            "freeze": protocol.freeze,
            "ghost_batch_size": protocol.ghost_batch_size,
            "precision": protocol.precision,
            "optimizer": protocol.optimizer,
            "gang": gang.model_dump(mode="json"),
        }
    )


def devices_of(nodes: Iterable[Mapping[str, Any]]) -> list[str]:
    """Types of the accelerators of a cluster, sorted; none where it has only CPUs.

    Args:
        nodes: As ``cluster.connection.present_and_possible`` gives them.
    """
    resources = {name for node in nodes for name in node.get("Resources", {})}
    return sorted(name.removeprefix(_ACCELERATOR) for name in resources if name.startswith(_ACCELERATOR))


class MemoryLimits:
    """Needs that exceeded the memory of these devices, where saving it helped. A storage that is away costs what is
    remembered, no more; so do devices of unknown types, and processors, whose memory is short for other reasons.

    Args:
        storage: Of the study.
        devices: Gives the types of the cluster's accelerators now (``devices_of``): what is too much for one may fit
            another.
        clock: Seconds, never going back.
    """

    def __init__(
        self, storage: Storage, devices: Callable[[], list[str]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._storage = storage
        self._look = devices
        self._clock = clock
        self._seen: list[str] = []
        self._seen_at = -math.inf
        self._known: frozenset[str] = frozenset()
        with contextlib.suppress(*_STORAGE_ERRORS):
            self._known = frozenset(storage.notes(PREFIX))

    def __bool__(self) -> bool:
        """Whether memory ran out at all."""
        return bool(self._known)

    def __contains__(self, need: str) -> bool:
        """Whether memory ran out for this need."""
        return bool(self._known) and _name(need, self._devices()) in self._known

    def add(self, need: str) -> None:
        """Memory ran out for this need, and saving it helped."""
        devices = self._devices()
        name = _name(need, devices)
        if not devices or name in self._known:
            return
        self._known |= {name}
        with contextlib.suppress(*_STORAGE_ERRORS):
            self._storage.put_note(name, json.dumps({"need": json.loads(need), "devices": devices}, indent=1))

    def _devices(self) -> list[str]:
        if self._clock() - self._seen_at > DEVICES_S:
            self._seen, self._seen_at = self._look(), self._clock()
        return self._seen


def _name(need: str, devices: list[str]) -> str:
    text = canonical({"need": need, "devices": devices})
    return f"{PREFIX}{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
