"""Orders that cannot wait for the next report: save now, because this node will go away, or stop now.

They reach a process between two reports, from a thread that asks every few seconds, and are obeyed after at most
``training_log.LOSS_WINDOW`` steps. Imports no torch.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from search_spaces.results import Order

EVERY_S = 2.0
"""Seconds between two questions while a trial runs."""

_SEVERITY = {Order.GO: 0, Order.SAVE: 1, Order.STOP: 2}


class Notice:
    """The order that waits for the trial of this process; the most severe one given so far."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._severity = self._obeyed = 0

    def clear(self) -> None:
        """A new trial begins."""
        with self._lock:
            self._severity = self._obeyed = 0

    def give(self, order: Order) -> None:
        """Leave an order; one that was obeyed in this trial, or a milder one, changes nothing."""
        with self._lock:
            self._severity = max(self._severity, _SEVERITY[order])

    def take(self) -> int:
        """The severity (0 go, 1 save, 2 stop) of an order that was not obeyed yet."""
        with self._lock:
            if self._severity <= self._obeyed:
                return 0
            self._obeyed = self._severity
            return self._severity

    def heeded(self, order: Order) -> Order:
        """The order that a report brought, or a more severe one that waits. Where reports are so few steps apart that
        no order is taken between two of them, it is obeyed after one.
        """
        return order_of(max(_SEVERITY[order], self.take()))

    @property
    def stopped(self) -> bool:
        """Whether the trial has obeyed an order to stop."""
        return self._obeyed == _SEVERITY[Order.STOP]


NOTICE = Notice()
"""Of this process, which trains one trial at a time."""


def order_of(severity: int) -> Order:
    """The order of that severity."""
    return next(order for order, value in _SEVERITY.items() if value == severity)


class Courier:
    """Asks for orders, in one thread for the life of the process, while a trial runs.

    Args:
        notice: Where orders are left.
        every_s: Seconds between two questions.
    """

    def __init__(self, notice: Notice = NOTICE, every_s: float = EVERY_S) -> None:
        self._notice = notice
        self._every_s = every_s
        self._changed = threading.Condition()
        self._ask: Callable[[], str] | None = None
        threading.Thread(target=self._run, name="courier", daemon=True).start()

    @contextmanager
    def asking(self, ask: Callable[[], str]) -> Iterator[None]:
        """Ask for the length of a ``with`` block, which is one trial.

        Args:
            ask: Gives an order; whatever it raises is ignored, for whoever is asked may be gone.
        """
        self._notice.clear()
        self._set(ask)
        try:
            yield
        finally:
            self._set(None)

    def _set(self, ask: Callable[[], str] | None) -> None:
        with self._changed:
            self._ask = ask
            self._changed.notify_all()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ask is not None)
                ask = self._ask
                if self._changed.wait_for(lambda: self._ask is not ask, self._every_s):  # noqa: B023
                    continue
            order = self._answer(ask)
            with self._changed:
                if self._ask is ask:
                    self._notice.give(order)

    @staticmethod
    def _answer(ask: Callable[[], str] | None) -> Order:
        try:
            return Order.GO if ask is None else Order(ask())
        except Exception:
            return Order.GO
