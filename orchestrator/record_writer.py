"""Delivers attempts in the background, so that scheduling never waits for MLflow."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from orchestrator.delivery import spooled
from orchestrator.record import Record
from search_spaces.exceptions import DataError, ScalecurvesError, TrackingError
from search_spaces.names import State
from search_spaces.results import TrialResult

FIRST_PAUSE_S, LONGEST_PAUSE_S = 5.0, 60.0
"""Pause after an outage, doubled up to the longest while it lasts."""


class RecordWriter:
    """One thread that delivers what it is given, in order.

    During an outage attempts wait in the storage and are tried again after a pause; they are never dropped. Every other
    error is kept and raised by ``flush`` and ``close``; ``errors`` shows them earlier.

    Args:
        record: An open record.
        on_delivered: Called from the thread with the result and its run id after each delivery.

    Attributes:
        delivered: Number of attempts delivered.
        errors: Errors so far that are no outage.
        outage: The error of the present outage; None while MLflow answers.
    """

    def __init__(self, record: Record, on_delivered: Callable[[TrialResult, str], None] | None = None) -> None:
        self.delivered = 0
        self.errors: list[Exception] = []
        self.outage: TrackingError | None = None
        self._record = record
        self._on_delivered = on_delivered
        self._queue: deque[TrialResult] = deque()
        self._changed = threading.Condition()
        self._busy = False
        self._closing = False
        self._try_now = False
        self._thread = threading.Thread(target=self._run, name="record-writer", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Attempts that are not delivered yet."""
        with self._changed:
            return len(self._queue)

    def put(self, result: TrialResult) -> None:
        """Deliver an attempt soon. A complete one is in the storage already; a failed one is put there now.

        Raises:
            RuntimeError: The writer is closed.
        """
        outage = None
        if result.state is State.FAILED:
            try:
                self._record.spool_failure(result)
            except TrackingError as error:  # tried again at the delivery
                outage = error
        with self._changed:
            if self._closing:
                raise RuntimeError("the record writer is closed")
            self.outage = outage or self.outage
            self._queue.append(result)
            self._changed.notify_all()

    def flush(self) -> int:
        """Wait until everything is delivered or MLflow has been found away once more.

        Returns:
            Number of attempts that stay in the spool.

        Raises:
            DataError: Attempts whose folders cannot be recorded; each is told once.
            ExceptionGroup: Other errors than ours were among them.
        """
        with self._changed:
            self.outage, self._try_now = None, True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._busy and (not self._queue or self.outage is not None))
            errors, self.errors = self.errors, []
            waiting = len(self._queue)
        if errors:
            _raise(errors)
        return waiting

    def close(self) -> int:
        """Flush, end the thread and return the number of attempts that stay in the spool.

        Raises:
            DataError: As ``flush``.
            ExceptionGroup: As ``flush``.
        """
        try:
            self.flush()
        finally:
            with self._changed:
                self._closing = True
                self._changed.notify_all()
            self._thread.join()
        return self.waiting  # one more may have been delivered since

    def _run(self) -> None:
        pause_s = FIRST_PAUSE_S
        while (result := self._next()) is not None:
            try:
                self._deliver(result)
            except TrackingError as error:
                with self._changed:
                    self._queue.appendleft(result)
                self._end(outage=error)
                self._pause(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            except Exception as error:  # kept and raised in the caller's thread
                self._end(error=error)
            else:
                pause_s = FIRST_PAUSE_S
                self._end()

    def _next(self) -> TrialResult | None:
        with self._changed:
            self._changed.wait_for(lambda: bool(self._queue) or self._closing)
            if self._closing:
                return None
            self._busy = True
            return self._queue.popleft()

    def _deliver(self, result: TrialResult) -> None:
        complete = result.state is State.COMPLETE
        run_id = self._record.deliver(spooled(result)) if complete else self._record.failed(result)
        self.delivered += 1
        if self._on_delivered is not None:
            self._on_delivered(result, run_id)

    def _end(self, *, outage: TrackingError | None = None, error: Exception | None = None) -> None:
        with self._changed:
            self._busy, self.outage = False, outage
            if error is not None:
                self.errors.append(error)
            self._changed.notify_all()

    def _pause(self, pause_s: float) -> None:
        """Wait, unless a flush or the end asks for a try now."""
        with self._changed:
            self._changed.wait_for(lambda: self._try_now or self._closing, timeout=pause_s)
            self._try_now = False


def _raise(errors: list[Exception]) -> None:
    text = f"{len(errors)} attempts could not be recorded and stay in the storage"
    if not all(isinstance(error, ScalecurvesError) for error in errors):
        raise ExceptionGroup(text, errors)
    raise DataError("\n  ".join([f"{text}:", *(str(error) for error in errors)])) from errors[0]
