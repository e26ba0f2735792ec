"""What Tune schedules: reusable Trainables whose ``step()`` returns the next report of a trial. Imports no torch.

``GangTrainable`` leases a gang of ranks from the broker; it costs nothing but a name and its memory. ``SoloTrainable``
trains in its own process, so that its trial's placement group holds the CPU and GPU share. Both are used with
``reuse_actors=True``, and neither raises out of ``step()``: Tune would replace the actor, which takes seconds. How a
trial ended comes as its last result instead, as JSON text under ``ending``.
"""

from __future__ import annotations

import faulthandler
import gc
import json
import os
import queue
import sys
import threading
from collections.abc import Callable
from typing import Any, NoReturn

import ray
from ray import tune

from search_spaces.names import FailureClass
from search_spaces.results import Failure, Order

ENDING = "ending"
REPORT = "report"

STOP_PATIENCE_S = 4.0
"""How long ``cleanup`` waits for a trial to stop; Tune kills the actor after five seconds."""

LAST_RESORT_S = 60.0
"""After the deadlines of a report and a stop, for a hang that holds the interpreter's lock, so nothing else acts."""

_STDERR = 2


class _Lease(tune.Trainable):  # type: ignore[misc]
    """What both have in common: the trial, and the form of the results."""

    def setup(self, config: dict[str, Any]) -> None:
        """Called by Tune once per actor."""
        self._broker = ray.get_actor(config["broker"])
        self._started = False
        self._read(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Called by Tune between trials; a trial that was cut short is stopped first."""
        self._abandon()
        self._started = False
        self._read(new_config)
        return True

    def cleanup(self) -> None:
        """Called by Tune before the actor ends."""
        self._abandon()

    def step(self) -> dict[str, Any]:
        """The next report, or the ending."""
        if self._started or self._begin():
            self._started = True
            message = self._next()
        else:
            message = {"stopped": True}
        if "report" in message:
            return {REPORT: json.dumps(message["report"])}
        self._started = False
        return {ENDING: json.dumps(message), "done": True}

    def _read(self, config: dict[str, Any]) -> None:
        self._config = config
        self._trial: dict[str, Any] = json.loads(config["trial"])

    @property
    def _key(self) -> str:
        return str(self._trial["trial_id"])

    def _begin(self) -> bool:
        """Start the trial; False if none is to be started any more."""
        raise NotImplementedError

    def _next(self) -> dict[str, Any]:
        raise NotImplementedError

    def _abandon(self) -> None:
        raise NotImplementedError


class GangTrainable(_Lease):
    """Hands its trial to a gang of two and more ranks.

    Config: ``broker`` (name of the actor), ``queue`` (of the gangs that may train it), ``trial`` (JSON text of a
    ResolvedTrial).
    """

    def _begin(self) -> bool:
        ray.get(self._broker.submit.remote(self._key, self._trial, self._config["queue"]))
        return True

    def _next(self) -> dict[str, Any]:
        message: dict[str, Any] = ray.get(self._broker.next_report.remote(self._key))
        return message

    def _abandon(self) -> None:
        if self._started:
            ray.get(self._broker.cancel.remote(self._key))


class SoloTrainable(_Lease):
    """Trains its trial in this process, in a thread of its own.

    Config: as GangTrainable, and ``train`` (``module:function``), ``threads``, ``gpus`` (share of a GPU, 0 for none),
    ``memory_growth_bytes``, ``report_deadline_s``.
    """

    def setup(self, config: dict[str, Any]) -> None:
        """Called by Tune once per actor; imports torch."""
        super().setup(config)
        self._node = ray.get_runtime_context().get_node_id()
        self._worker = _Worker(config)

    def _begin(self) -> bool:
        order = self._order()
        if order is Order.STOP:
            return False
        if self._worker.worn or order is Order.SAVE:
            # The process has grown too large, or its node will go away. Tune sees a crash, which it answers with a
            # fresh process, elsewhere if need be, and this trial.
            os._exit(1)
        self._worker.start(self._trial, self._order)
        return True

    def _next(self) -> dict[str, Any]:
        deadline_s = self._config["report_deadline_s"]
        faulthandler.dump_traceback_later(2 * deadline_s + LAST_RESORT_S, exit=True, file=_STDERR)
        try:
            self._worker.go_on()
            message = self._worker.message(deadline_s)
            if "report" in message and self._order() is Order.STOP:
                return self._worker.stop(deadline_s)
        except queue.Empty:
            self._give_up()
        finally:
            faulthandler.cancel_dump_traceback_later()
        return message

    def _give_up(self) -> NoReturn:
        """End a process whose trial hangs: Tune sees a crash, as the broker does when it shoots a gang."""
        faulthandler.dump_traceback(file=_STDERR)  # shows where, in the log of this process
        ray.get(self._broker.hung.remote(self._key))
        os._exit(1)

    def _order(self) -> Order:
        return Order(ray.get(self._broker.urgent_alone.remote(self._node, self._key)))

    def _abandon(self) -> None:
        if self._started:
            self._worker.stop(STOP_PATIENCE_S)


class _Worker:
    """The thread that trains: one for the life of the process, as OpenMP keeps a team of threads per calling thread."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._config = config
        self._trials: queue.Queue[tuple[dict[str, Any], Callable[[], Order]]] = queue.Queue()
        self._messages: queue.Queue[dict[str, Any]] = queue.Queue()
        self._answers: queue.Queue[Order] = queue.Queue()
        self._read = False
        self._stopping = threading.Event()
        self.worn = False
        threading.Thread(target=self._work, name="training", daemon=True).start()

    def start(self, trial: dict[str, Any], ask: Callable[[], Order]) -> None:
        """Begin a trial; the one before has ended.

        Args:
            trial: A ResolvedTrial as plain data.
            ask: Gives orders that cannot wait for the next report.
        """
        self._stopping.clear()
        # One report may be ahead of the answers, so that training does not wait for Tune's loop.
        self._answers = queue.Queue()
        self._answers.put(Order.GO)
        self._trials.put((trial, ask))

    def message(self, patience_s: float | None = None) -> dict[str, Any]:
        """Wait for the next report or the ending."""
        message = self._messages.get(timeout=patience_s)
        self._read = "report" in message
        return message

    def go_on(self) -> None:
        """Answer the report that was read, if one was."""
        if self._read:
            self._read = False
            self._answers.put(Order.GO)

    def stop(self, patience_s: float | None = None) -> dict[str, Any]:
        """Stop the trial at its next report and wait for its ending.

        Raises:
            queue.Empty: It has not ended in time.
        """
        self._stopping.set()
        self._answers.put(Order.STOP)  # wakes a report that waits
        while "report" in (message := self.message(patience_s)):
            pass
        return message

    @staticmethod
    def _heeded(order: Order) -> Order:
        from trainables.notice import NOTICE

        return NOTICE.heeded(order)

    def _tell(self, report: dict[str, Any]) -> Order:
        if self._stopping.is_set():
            return Order.STOP
        self._messages.put({"report": report})
        answer = self._answers.get()
        return Order.STOP if self._stopping.is_set() else self._heeded(answer)

    def _work(self) -> None:
        gc.disable()  # until ``ProcessState``: searches for garbage are a fifth of the time of imports
        from trainables.failures import failure_of
        from trainables.notice import Courier
        from trainables.warm import Attempt, ProcessState, Wear, attempt, load_function

        train = state = None
        courier = Courier()
        wear = Wear(limit_bytes=self._config["memory_growth_bytes"])
        while True:
            trial, ask = self._trials.get()
            try:
                if train is None or state is None:
                    train = load_function(self._config["train"])
                    group, state = _group(self._config["gpus"]), ProcessState(self._config["threads"])
                state.restore()
                with courier.asking(ask):
                    ended = attempt(train, trial, group, self._tell)
            except BaseException as error:  # the step that waits would wait for ever
                gc.enable()
                ended = Attempt(failure=failure_of(error, None))
            self.worn = wear.after_trial() or _outlasts(ended.failure)
            self._messages.put(ended.message())


def _outlasts(failure: Failure | None) -> bool:
    """Whether a failure may have left this process unfit: an error of a CUDA device stays, memory may be in pieces."""
    if failure is None or failure.failure_class in (FailureClass.DIVERGENCE, FailureClass.DATA):
        return False
    torch = sys.modules.get("torch")
    return failure.failure_class is FailureClass.MEMORY or (torch is not None and torch.cuda.is_initialized())


def _group(gpus: float) -> Any:
    import torch

    from trainables.groups import SingleProcess

    if gpus <= 0:
        return SingleProcess(torch.device("cpu"))
    device = torch.device("cuda", 0)
    torch.cuda.set_device(device)
    if gpus < 1:
        # Ray only counts shares of a GPU; without this one trial could take the memory of its neighbours.
        torch.cuda.set_per_process_memory_fraction(gpus, device)
    return SingleProcess(device)
