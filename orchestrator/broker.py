"""The queue between Tune and the gangs: who trains what, and what follows when a gang is lost. Imports no torch.

Three parties call it. A lease (``GangTrainable``) submits a trial, asks for its reports and cancels it. Rank 0 of a
gang says hello, asks for trials, reports, and says how a trial ended. The driver drains, closes, and tells of lost
gangs.

*Generations*: a new rank 0 says hello and gets a number; calls with an older number are refused, and what the old ranks
had in flight goes back to the head of the queue, a limited number of times.

*A report is a question*: its answer is the lease's wish for the next report, or the order to stop. The ranks may be
one report ahead of the answers, so that they do not wait for Tune's loop; an interruption reaches them all the same at
their next report.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from orchestrator.jobs import GangState, Job, take_alike
from search_spaces.names import FailureClass
from search_spaces.results import Order
from trainables.failures import node_failure

_SILENT = "no report for {:g} s (execution.report_deadline_s); it was taken for stuck and killed"


class Task(StrEnum):
    """What a gang does next."""

    TRIAL = "trial"
    IDLE = "idle"
    BYE = "bye"


@dataclass(slots=True, kw_only=True)
class BrokerConfig:
    """Limits of a broker.

    Attributes:
        report_deadline_s: Longest silence of a gang that trains: from the start of a trial to its first report, between
            reports, and from the last report to the end. Then the gang is shot and its trial tried again.
        tick_s: Longest wait of an idle gang for a trial, so that its collectives do not time out.
        reports_ahead: Unanswered reports with which a trial goes on; 0 makes every report wait for its own answer.
        max_node_retries: How often a trial is tried again after its gang was lost.
        max_barren_deaths: How often a gang may be lost in a row without finishing a trial before it is given up; a
            trial that fails because of its gang's deaths ends the row, too.
    """

    report_deadline_s: float = 1800.0
    tick_s: float = 20.0
    reports_ahead: int = 1
    max_node_retries: int = 3
    max_barren_deaths: int = 10


class Broker:
    """An async Ray actor (``ray.remote(Broker)``); plain asyncio inside, so that it is tested without Ray.

    Args:
        config: Limits.
        shoot: Kills a stuck gang, given the handle that its rank 0 said hello with.
        clock: Seconds, never going back.
    """

    def __init__(
        self,
        config: BrokerConfig | None = None,
        shoot: Callable[[Any], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config or BrokerConfig()
        self._shoot = shoot or _ray_kill
        self._clock = clock
        self._changed = asyncio.Condition()
        self._queues: dict[str, deque[Job]] = {}
        self._jobs: dict[str, Job] = {}
        self._gangs: dict[str, GangState] = {}
        self._draining = False
        self._closing = False
        self._hopeless: dict[str, str] = {}
        self._leaving: frozenset[str] = frozenset()
        self._stopped: set[str] = set()
        self._counts: Counter[str] = Counter()
        self._hung: dict[str, str] = {}

    # Leases

    async def submit(self, key: str, trial: dict[str, Any], queue: str) -> None:
        """Queue a trial. A job that is still known by this key (its lease died) is stopped and replaced.

        Args:
            key: Of the trial.
            trial: A ResolvedTrial as plain data.
            queue: Of the gangs that may train it.
        """
        await self.cancel(key)
        job = Job(key=key, trial=trial, queue=queue)
        self._jobs[key] = job
        if self._draining or key in self._stopped:
            job.end({"stopped": True})
        elif queue in self._hopeless:
            job.end({"failure": node_failure(self._hopeless[queue]).model_dump(mode="json")})
        else:
            await self._enqueue(job)

    async def next_report(self, key: str) -> dict[str, Any]:
        """The trial's next message: ``report``, or its last one: ``result``, ``failure`` or ``stopped``.

        Asking is the leave to go on after the report before.
        """
        job = self._jobs.get(key)
        if job is None:
            return {"stopped": True}
        job.go_on()
        message, job.read = await job.messages.get()
        if "report" not in message and self._jobs.get(key) is job:
            del self._jobs[key]
        return message

    async def cancel(self, key: str) -> None:
        """Forget a trial. If it is being trained, its next report is answered with stop."""
        job = self._jobs.pop(key, None)
        if job is not None:
            if job in self._queue(job.queue):
                self._queue(job.queue).remove(job)
            job.end({"stopped": True})
            job.stop()

    # Gangs

    async def hello(self, gang: str, rank0: Any = None, nodes: Sequence[str] = ()) -> int:
        """A new group of ranks: returns its generation.

        Args:
            gang: Name of the gang.
            rank0: Actor handle of rank 0, to shoot the gang with.
            nodes: Ids of the nodes that its ranks are on.
        """
        await self._take_back(gang, "the ranks were started again")
        state = self._gang(gang)
        state.nodes = frozenset(nodes)
        state.generation += 1
        state.rank0, state.shot = rank0, ""
        await self._notify()
        return state.generation

    async def next(self, gang: str, generation: int) -> tuple[str, str | None, dict[str, Any] | None]:
        """What the gang does next, with key and trial if it is a trial."""
        state = self._gang(gang)
        queue = self._queue(state.queue)

        def leaves() -> bool:
            leaving = state.retired or bool(state.nodes & self._leaving)
            return self._closing or leaving or generation != state.generation

        async with self._changed:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait_for(lambda: queue or leaves()), self._config.tick_s)
            # Only now: while it waited, the group that asks may have died, and must not swallow a trial.
            if leaves():
                state.leaves = state.retired
                return Task.BYE.value, None, None
            if not queue:
                return Task.IDLE.value, None, None
            job = take_alike(queue, state)
        state.job, state.heard_at = job, self._clock()
        return Task.TRIAL.value, job.key, job.trial

    async def report(self, gang: str, generation: int, key: str, report: dict[str, Any]) -> str:
        """Hand in a report of the trial; the order comes when no more than ``reports_ahead`` wait for an answer."""
        state, job = self._gang(gang), self._jobs.get(key)
        if generation != state.generation or job is None or state.job is not job or self._stops(key):
            return Order.STOP.value
        state.heard_at = self._clock()
        order = await job.ask(report, self._config.reports_ahead)
        state.heard_at = self._clock()
        return order.value

    async def urgent(self, gang: str, generation: int, key: str) -> str:
        """What a gang that trains should do before its next report; asked for every few seconds."""
        state, job = self._gang(gang), self._jobs.get(key)
        if generation != state.generation or state.job is not job or self._stops(key):
            return Order.STOP.value
        return (Order.SAVE if state.nodes & self._leaving else Order.GO).value

    async def urgent_alone(self, node: str, key: str) -> str:
        """The same for a process that trains alone.

        Args:
            node: Id of the node that it is on.
            key: Of its trial.
        """
        if self._stops(key):
            return Order.STOP.value
        return (Order.SAVE if node in self._leaving else Order.GO).value

    async def hung(self, key: str) -> None:
        """A process that trains alone ends itself, as its trial was silent for longer than the deadline."""
        self._counts["shot"] += 1
        self._hung[key] = _SILENT.format(self._config.report_deadline_s)

    async def last_words(self, key: str) -> str:
        """What the process of a trial said of a hang; empty if it had none."""
        return self._hung.pop(key, "")

    async def done(self, gang: str, generation: int, key: str, message: dict[str, Any]) -> None:
        """The trial has ended: ``message`` holds ``result``, ``failure`` or ``stopped``."""
        state = self._gang(gang)
        if generation != state.generation:
            return
        job, state.job = state.job, None
        state.barren_deaths = 0
        self._counts["ended"] += 1
        if job is None or self._jobs.get(key) is not job:
            pass
        elif message.get("failure", {}).get("failure_class") == FailureClass.NODE:
            await self._try_again(job, message["failure"]["message"])
        else:
            job.end(message)
        await self._notify()

    # Driver

    async def lost(self, gang: str, message: str) -> bool:
        """The ranks of a gang are gone. Returns whether they should be started again."""
        state = self._gang(gang)
        state.barren_deaths += not (state.retired or state.nodes & self._leaving)
        await self._take_back(gang, state.shot or message)
        if state.barren_deaths >= self._config.max_barren_deaths:
            state.given_up = state.given_up or message or "nothing"  # Train says less of it when it ends
        return not (self._closing or state.retired or state.given_up)

    async def gone(self, gang: str, message: str) -> None:
        """A gang has ended for good. If it was to go on and was the last of its queue, every trial there fails."""
        await self._take_back(gang, message)
        state = self._gangs.pop(gang)
        others = (s for s in self._gangs.values() if s.queue == state.queue and not s.retired)
        if state.retired or self._closing or any(others):
            return
        said = state.given_up or message
        self._hopeless[state.queue] = f"no gang of ranks can be kept alive; the last one said: {said}"
        failure = node_failure(self._hopeless[state.queue]).model_dump(mode="json")
        while self._queue(state.queue):
            self._queue(state.queue).popleft().end({"failure": failure})

    async def expect(self, gang: str, queue: str) -> None:
        """A gang is being started.

        Args:
            gang: Its name.
            queue: Where it takes trials from.
        """
        self._gang(gang).queue = queue
        self._hopeless.pop(queue, None)

    async def retire(self, queue: str, number: int) -> int:
        """Send surplus gangs of a queue home, idle ones first, others after their trial.

        Args:
            queue: Where they take trials from.
            number: How many should stay.

        Returns:
            How many do.
        """
        there = [state for state in self._gangs.values() if state.queue == queue and not state.leaves]
        idle_last = sorted(there, key=lambda state: (state.job is None, state.retired))
        for position, state in enumerate(idle_last):
            # One that was to go, but is still there, is as good as a new one.
            state.retired = position >= number
        await self._notify()
        return min(number, len(there))

    async def live(self) -> dict[str, int]:
        """Queue -> gangs that hold their place, those that are to go after their trial included."""
        return dict(Counter(state.queue for state in self._gangs.values() if state.rank0 is not None))

    async def preempt(self, nodes: Sequence[str]) -> None:
        """These nodes will soon go away: what trains there saves its state, and nothing new is started there."""
        self._leaving = frozenset(nodes)
        await self._notify()

    async def stop(self, key: str) -> None:
        """Stop one trial, at the next opportunity, with a checkpoint; it ends as ``stopped``."""
        self._stopped.add(key)
        job = self._jobs.get(key)
        if job is not None and job in self._queue(job.queue):
            self._queue(job.queue).remove(job)
            job.end({"stopped": True})
        elif job is not None:
            job.stop()

    async def drain(self) -> None:
        """Stop: queued trials are given back, running ones stop at the next opportunity."""
        self._draining = True
        for queue in self._queues.values():
            while queue:
                queue.popleft().end({"stopped": True})
        for job in self._jobs.values():
            job.stop()

    async def resume(self) -> None:
        """Take trials again after ``drain``; what is still known from before is forgotten and stopped."""
        for key in list(self._jobs):
            await self.cancel(key)
        self._draining = False
        self._stopped.clear()

    async def close(self) -> None:
        """Drain and send every gang home; those that train follow when their trial has stopped."""
        self._closing = True
        await self.drain()
        await self._notify()

    async def shoot_all(self, message: str) -> None:
        """Kill the ranks of every gang, stuck or not."""
        for state in self._gangs.values():
            self._kill(state, message)

    async def busy(self) -> int:
        """Number of gangs that are training."""
        return sum(state.job is not None for state in self._gangs.values())

    async def counts(self) -> dict[str, int]:
        """How often a trial ended, a gang was lost with it, and shot, since the start."""
        return dict(self._counts)

    async def watch(self, interval_s: float = 1.0) -> None:
        """Shoot gangs that stay silent for too long; runs until ``close``."""
        while not self._closing:
            self.check_deadlines()
            await asyncio.sleep(interval_s)

    def check_deadlines(self) -> None:
        """Shoot every gang whose trial has been silent for longer than the deadline.

        Train watches processes, not progress: a rank that hangs in a collective looks healthy to it.
        """
        now = self._clock()
        for state in self._gangs.values():
            waiting_for_us = state.job is not None and state.job.waits
            silent = state.job is not None and now - state.heard_at > self._config.report_deadline_s
            if silent and not waiting_for_us and not state.shot:
                self._counts["shot"] += 1
                self._kill(state, _SILENT.format(self._config.report_deadline_s))

    # Parts

    def _gang(self, gang: str) -> GangState:
        return self._gangs.setdefault(gang, GangState())

    def _queue(self, name: str) -> deque[Job]:
        return self._queues.setdefault(name, deque())

    def _stops(self, key: str) -> bool:
        return self._draining or key in self._stopped

    async def _enqueue(self, job: Job, front: bool = False) -> None:
        queue = self._queue(job.queue)
        (queue.appendleft if front else queue.append)(job)
        await self._notify()

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _take_back(self, gang: str, message: str) -> None:
        state = self._gang(gang)
        job, state.job = state.job, None
        # Whatever the dead group still asks is refused from here on, also before a new one says hello.
        state.generation += 1
        if job is not None and self._jobs.get(job.key) is job:
            job.stop()
            if not await self._try_again(job, message):
                state.barren_deaths = 0  # the trial answers for them
        await self._notify()

    async def _try_again(self, job: Job, message: str) -> bool:
        """False if the trial was lost too often, and has failed."""
        job.lost += 1
        self._counts["lost"] += 1
        if self._stops(job.key):
            job.end({"stopped": True})
        elif job.lost <= self._config.max_node_retries:
            await self._enqueue(job, front=True)
        else:
            text = f"the ranks that trained this trial were lost {job.lost} times; the last time: {message}"
            job.end({"failure": node_failure(text).model_dump(mode="json")})
            return False
        return True

    def _kill(self, state: GangState, message: str) -> None:
        state.shot = message
        if state.rank0 is not None:
            self._shoot(state.rank0)


def _ray_kill(actor: Any) -> None:
    import ray

    ray.kill(actor)
