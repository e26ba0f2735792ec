"""One trial in a process that has run others before: nothing of one may reach the next."""

from __future__ import annotations

import ctypes
import gc
import importlib
import os
import random
import socket
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from search_spaces.results import Failure, Order, TrialResult
from search_spaces.trial import ResolvedTrial
from trainables.failures import failure_of, lost_a_peer, output_file
from trainables.groups import Group
from trainables.notice import NOTICE

Tell = Callable[[dict[str, Any]], Order]
Train = Callable[[ResolvedTrial, Group, Tell], TrialResult | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """How a trial ended on one rank.

    Attributes:
        result: Of a finished trial; rank 0 only.
        failure: What was raised.
        lost_a_peer: Whether the failure only says that another rank went away.
        stopped: Whether it ended without a result because it was told to stop.
    """

    result: TrialResult | None = None
    failure: Failure | None = None
    lost_a_peer: bool = False
    stopped: bool = False

    def message(self) -> dict[str, Any]:
        """Plain data: one of the keys ``result``, ``failure`` and ``stopped``."""
        if self.failure is not None:
            return {"failure": self.failure.model_dump(mode="json")}
        if self.result is not None:
            return {"result": self.result.model_dump(mode="json")}
        return {"stopped": True}


def attempt(train: Train, payload: dict[str, Any], group: Group, tell: Tell) -> Attempt:
    """Train one trial; whatever is raised, a wrong exit included, becomes the trial's failure.

    When this returns, no frame of the failed training is alive, so that its model and its process group can be freed.

    Args:
        train: The training function.
        payload: A ResolvedTrial as plain data.
        group: This rank's place among the ranks.
        tell: Hands in a report and returns the order, the same on all ranks.
    """
    step: int | None = None
    order = Order.GO
    # Of a process that is lost without a word, its reports are all that says where it was.
    place = {"host": socket.gethostname(), "log": output_file()}

    def listening(report: dict[str, Any]) -> Order:
        nonlocal step, order
        step, order = report.get("step"), Order(tell({**report, **place}))
        return order

    try:
        result = train(ResolvedTrial.model_validate(payload), group, listening)
        told_to_stop = order is Order.STOP or NOTICE.stopped
        if result is None and group.rank == 0 and not told_to_stop:
            raise RuntimeError("the training function returned no result although it was not told to stop")
        return Attempt(result=result, stopped=result is None and told_to_stop)
    except BaseException as error:
        failed = Attempt(failure=failure_of(error, step), lost_a_peer=lost_a_peer(error))
        _forget(error)
    return failed


def _forget(error: BaseException) -> None:
    """Drop the locals of every frame that an exception and its causes keep alive: they hold model and process group."""
    link: BaseException | None = error
    while link is not None:
        traceback.clear_frames(link.__traceback__)
        link.__traceback__ = None
        link = link.__cause__ or link.__context__


def load_function(path: str) -> Any:
    """The object at ``module:name``."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


class ProcessState:
    """What a process is like before its first trial; put back before each one.

    Random numbers need no more than a fixed seed here: a trial draws from generators of its own.

    Args:
        threads: Torch threads of this process (``GangSpec.cpus_per_rank``).
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._folder = Path.cwd()
        self._deterministic = torch.are_deterministic_algorithms_enabled()
        self._deterministic_warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
        self._matmul_precision = torch.get_float32_matmul_precision()
        self._dtype = torch.get_default_dtype()
        cudnn = torch.backends.cudnn
        self._cudnn = (cudnn.enabled, cudnn.benchmark, cudnn.deterministic)
        _import_what_torch_imports_late()
        # What was imported so far lives as long as the process. A collection between trials need not look at it: that
        # would take longer than all the rest between two trials.
        gc.collect()
        gc.freeze()
        gc.enable()

    def restore(self) -> None:
        """Seeds, flags, thread count and working folder as before the first trial; unused memory given back."""
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002 - the legacy state is what a user's factory may draw from
        torch.manual_seed(0)
        torch.set_num_threads(self._threads)
        torch.set_grad_enabled(True)
        torch.autograd.set_detect_anomaly(False)
        torch.set_default_dtype(self._dtype)
        torch.use_deterministic_algorithms(self._deterministic, warn_only=self._deterministic_warn_only)
        torch.set_float32_matmul_precision(self._matmul_precision)
        cudnn = torch.backends.cudnn
        cudnn.enabled, cudnn.benchmark, cudnn.deterministic = self._cudnn
        os.chdir(self._folder)
        release_memory()


def _import_what_torch_imports_late() -> None:
    """The first step of an optimiser imports torch's compiler, 150 000 objects."""
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    weight.sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()


class Wear:
    """Notices a process that has grown too large to train on.

    Args:
        limit_bytes: Private memory that it may gain after its first trials.
        first_trials: Trials that show its normal size.
    """

    def __init__(self, limit_bytes: int, first_trials: int = 5) -> None:
        self._limit_bytes = limit_bytes
        self._first_trials = first_trials
        self._trials = self._normal_bytes = 0

    def after_trial(self) -> bool:
        """Call once per trial; whether the process should make place for a fresh one."""
        size = private_memory_bytes()
        self._trials += 1
        if self._trials <= self._first_trials:
            self._normal_bytes = max(self._normal_bytes, size)
        return size - self._normal_bytes > self._limit_bytes


def release_memory() -> None:
    """Collect garbage and give free memory back to the device and to the operating system."""
    gc.collect()
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    if _MALLOC_TRIM is not None:
        _MALLOC_TRIM(0)


def private_memory_bytes() -> int:
    """Anonymous memory of this process that is in RAM (``RssAnon``); 0 where the system does not tell."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    for line in status.read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0


def _malloc_trim() -> Callable[[int], int] | None:
    """glibc's ``malloc_trim``; None with another C library."""
    try:
        return ctypes.CDLL("libc.so.6").malloc_trim
    except (OSError, AttributeError):
        return None


_MALLOC_TRIM = _malloc_trim()
