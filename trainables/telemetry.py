"""Where the time of training goes, and how much of the device it uses."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Iterator
from enum import StrEnum
from typing import Any

import torch

from trainables.warm import private_memory_bytes

logger = logging.getLogger(__name__)

EVERY = 8
"""On a CUDA device one step of so many is measured: events cost a few microseconds each."""


class Phase(StrEnum):
    """What a step does."""

    LOAD = "load"
    FORWARD = "forward"
    BACKWARD = "backward"
    UPDATE = "update"


class StepClock:
    """Divides the seconds of training into phases.

    On the CPU every step is measured. A CUDA device works behind the host: there events are recorded, on some steps,
    read where the host waits for the device anyway, and scaled up to all steps.

    Args:
        device: Where training runs.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._seconds = dict.fromkeys(Phase, 0.0)
        self._phase: Phase | None = None
        self._since = 0.0
        self._events: list[tuple[Phase | None, Any]] = []
        self._measures = True
        self._steps = self._measured = 0
        self._waited_s = 0.0

    def begin_step(self, step: int) -> None:
        """A step begins."""
        self._measures = not self._cuda or step % EVERY == 0
        self._steps += 1
        self._measured += self._measures

    def enter(self, phase: Phase | None) -> None:
        """What was going on ends, and this begins; None for nothing that is measured."""
        if not self._measures:
            return
        if self._cuda:
            event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            event.record()
            self._events.append((phase, event))
            return
        now = time.perf_counter()
        if self._phase is not None:
            self._seconds[self._phase] += now - self._since
        self._phase, self._since = phase, now

    def settle(self) -> None:
        """The host has waited for the device: read what was recorded."""
        for (phase, event), (_, following) in zip(self._events, self._events[1:], strict=False):
            if phase is not None:
                self._seconds[phase] += event.elapsed_time(following) / 1000
        self._events = self._events[-1:] if self._events and self._events[-1][0] is not None else []

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """For the length of a ``with`` block training waits: for an order, or for the storage."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._waited_s += time.perf_counter() - began

    def seconds(self) -> dict[str, float]:
        """``load``, ``forward``, ``backward``, ``update`` and ``wait`` -> seconds of this attempt.

        Waiting for other ranks is part of ``backward``, where gradients are averaged.
        """
        scale = self._steps / self._measured if self._measured else 1.0
        return {phase.value: value * scale for phase, value in self._seconds.items()} | {"wait": self._waited_s}


class DeviceUse:
    """How much of the device training uses, from its start to its end.

    Args:
        device: Where training runs.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._samples: list[float] = []
        self._blind = False
        self._began = time.perf_counter()
        self._cpu_began = time.process_time()

    def sample(self) -> None:
        """Look at the device; called while it computes. Costs nothing on the CPU.

        Where the driver does not answer (part of a GPU under MIG, no right to ask, no management library) the use is
        not known; training goes on.
        """
        if self._device.type != "cuda" or self._blind:
            return
        try:
            self._samples.append(torch.cuda.utilization(self._device) / 100)
        except _no_answer() as error:
            self._blind = True
            logger.warning("the use of %s is not recorded: %s: %s", self._device, type(error).__name__, error)

    def utilisation(self) -> float | None:
        """Share of the time in which the device computed, 0 to 1; on the CPU, of its threads; None if not known."""
        if self._device.type == "cuda":
            return sum(self._samples) / len(self._samples) if self._samples else None
        wall = (time.perf_counter() - self._began) * min(torch.get_num_threads(), os.cpu_count() or 1)
        return min(1.0, (time.process_time() - self._cpu_began) / wall) if wall > 0 else None

    def memory_bytes(self) -> int:
        """Most memory of the device that tensors held in this trial; on the CPU, private memory of the process now."""
        if self._device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self._device))
        return private_memory_bytes()


def _no_answer() -> tuple[type[Exception], ...]:
    """What asking for the use of a device raises where that cannot be known; torch says RuntimeError for no driver."""
    with contextlib.suppress(ImportError):
        from pynvml import NVMLError

        return ImportError, RuntimeError, NVMLError
    return ImportError, RuntimeError
