"""How a run that Tune drives is brought to a stand: by a signal, or by an error of a callback."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

import ray
from ray import tune

Made = TypeVar("Made")


class Brake:
    """Pulled by a signal or by an error of a callback; then running trials stop and no other is started.

    Args:
        broker: Told to stop what runs.
        patience_s: How long running trials may take to stop.
        on_signal: Called once when a signal has pulled it, in Tune's loop: in a signal handler nothing may be printed.
    """

    def __init__(self, broker: Any, patience_s: float, on_signal: Callable[[], None]) -> None:
        self._broker = broker
        self._patience_s = patience_s
        self._on_signal = on_signal
        self._until: float | None = None
        self._waiting_for: list[Any] = []
        self.pulled = False
        self.hurry = False
        self.by: int | None = None
        self.error: Exception | None = None

    def guard(self, function: Callable[..., Made], *arguments: Any) -> Made | None:
        """What a function of the caller gives. Its exception pulls the brake: Tune would turn it into text."""
        try:
            return function(*arguments)
        except Exception as error:
            self.error = self.error or error
            self.pulled = True
            return None

    def apply(self, trials: Sequence[Any]) -> None:
        """Called in each turn of Tune's loop: once pulled, have the running trials stopped."""
        if self.pulled and self._until is None:
            self._until = time.monotonic() + self._patience_s
            self._waiting_for = [trial for trial in trials if trial.status == "RUNNING"]
            ray.get(self._broker.drain.remote())
            if self.by is not None:
                self.guard(self._on_signal)

    def stands(self) -> bool:
        """Whether all trials that ran have stopped, or have taken too long."""
        if self._until is None:
            return False
        return (
            self.hurry
            or time.monotonic() > self._until
            or all(trial.status != "RUNNING" for trial in self._waiting_for)
        )


class BrakeStopper(tune.Stopper):  # type: ignore[misc]
    """Ends Tune's loop once the brake has brought everything to a stand."""

    def __init__(self, brake: Brake) -> None:
        self._brake = brake

    def __reduce__(self) -> Any:
        return (tune.stopper.NoopStopper, ())

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Called by Tune for each result: no trial ends by one."""
        return False

    def stop_all(self) -> bool:
        """Called by Tune in each turn of its loop."""
        return self._brake.stands()


@contextmanager
def signals(brake: Brake) -> Iterator[None]:
    """SIGINT and SIGTERM pull the brake; after a second one nothing is waited for, a third one raises where it hits."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def pull(number: int, frame: FrameType | None) -> None:
        if brake.hurry:
            raise KeyboardInterrupt
        brake.hurry = brake.pulled
        brake.pulled, brake.by = True, number

    watched = (signal.SIGINT, signal.SIGTERM)
    # Tune takes SIGUSR1 and does not give it back.
    before = {number: signal.getsignal(number) for number in (*watched, signal.SIGUSR1)}
    for number in watched:
        signal.signal(number, pull)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
