"""Checkpoints of a running trial, written at evaluations and on order; a resumed trial continues bit for bit.

No state of a random generator or loader is in them: everything random follows from the seed and the step.
"""

from __future__ import annotations

import io
import logging
import pickle
import time
import zipfile
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import torch

from search_spaces.exceptions import StorageError, UserError
from trainables.groups import Group, broadcast_bytes
from trainables.storage import Storage

CHECKPOINT_FORMAT = 3
"""Raised when the content changes; a checkpoint of another format is not used, the trial starts over."""

_log = logging.getLogger(__name__)

State = dict[str, Any]
"""Tensors, numbers, strings, lists and dicts only: what ``torch.load(weights_only=True)`` reads."""


def to_bytes(state: State, trial_id: str) -> bytes:
    """A checkpoint as bytes."""
    buffer = io.BytesIO()
    torch.save({"format": CHECKPOINT_FORMAT, "trial_id": trial_id, "state": state}, buffer)
    return buffer.getvalue()


def from_bytes(data: bytes, trial_id: str) -> State | None:
    """The state of a checkpoint, on the CPU; None (and a warning) if it is damaged or of another format.

    Raises:
        UserError: It belongs to another trial.
    """
    try:
        held = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        found, layout, state = held["trial_id"], held["format"], held["state"]
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, TypeError, zipfile.BadZipFile) as error:
        _log.warning("checkpoint of trial %s cannot be read (%s); the trial starts over", trial_id, error)
        return None
    if found != trial_id:
        raise UserError(
            f"the checkpoint stored for trial {trial_id} belongs to trial {found}; delete checkpoints/{trial_id}.pt"
        )
    if layout != CHECKPOINT_FORMAT:
        _log.warning(
            "checkpoint of trial %s has format %s, not %s; it starts over", trial_id, layout, CHECKPOINT_FORMAT
        )
        return None
    loaded: State = state
    return loaded


class Checkpoints:
    """The checkpoint of one trial in the storage.

    Args:
        storage: Where it lies.
        trial_id: Whose it is.
        every_s: Least seconds between two that nobody ordered.
        group: The trial's ranks; rank 0 reads and writes.
        clock: Seconds, for tests.
    """

    def __init__(
        self,
        storage: Storage,
        trial_id: str,
        every_s: float,
        group: Group,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._storage, self._trial_id, self._every_s = storage, trial_id, every_s
        self._group, self._clock = group, clock
        self._last = clock()
        self.failures = 0
        """Checkpoints that could not be written."""

    def load(self) -> State | None:
        """The stored state, the same on all ranks; None if there is none that can be used. Called by all ranks.

        Raises:
            UserError: It belongs to another trial.
            StorageError: The storage is away, which may be another time.
        """
        data = self._read() if self._group.rank == 0 else None
        data = broadcast_bytes(self._group, data)
        return None if data is None else from_bytes(data, self._trial_id)

    def _read(self) -> bytes | None:
        try:
            return self._storage.get_checkpoint(self._trial_id)
        except (OSError, pa.ArrowException) as error:
            if isinstance(error, StorageError):
                raise
            raise StorageError(f"the checkpoint of trial {self._trial_id} cannot be read: {error}") from error

    def save_if_due(self, state: Callable[[], State]) -> None:
        """Write a checkpoint if the last is old enough. Called by all ranks, at each evaluation.

        Args:
            state: Makes the state; called on rank 0 only, and only if it is written.
        """
        if self._clock() - self._last >= self._every_s:
            self.save(state)

    def save(self, state: Callable[[], State]) -> None:
        """Write a checkpoint now. Called by all ranks.

        A storage that is away does not end the training: the failure is logged and counted, and the next evaluation
        tries again.

        Args:
            state: Makes the state; called on rank 0 only.
        """
        if self._group.rank:
            return
        try:
            self._storage.put_checkpoint(self._trial_id, to_bytes(state(), self._trial_id))
            self._last = self._clock()
        except (OSError, pa.ArrowException) as error:
            self.failures += 1
            _log.warning("checkpoint of trial %s could not be written: %s", self._trial_id, error)

    def delete(self) -> None:
        """Remove the checkpoint. Called by all ranks."""
        if self._group.rank == 0:
            self._storage.delete_checkpoint(self._trial_id)
