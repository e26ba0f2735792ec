"""What the broker keeps of each trial on its way and of each gang. Imports neither torch nor Ray."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from search_spaces.results import Order

MAX_PASSED_OVER = 3
"""How often a trial may be passed over for one whose files the gang has read already."""


@dataclass(slots=True, kw_only=True)
class Job:
    """A trial on its way.

    Attributes:
        messages: For the lease: each message with the question that it asks, if it is a report.
        questions: Not answered yet, oldest first.
        read: The question whose report the lease has read; asking for the next report answers this one and no later.
        waits: Whether the ranks wait for an answer, so that their silence is ours.
        lost: How often its ranks were lost.
        passed_over: How often a later one was taken before it.
    """

    key: str
    queue: str
    trial: dict[str, Any]
    messages: asyncio.Queue[tuple[dict[str, Any], asyncio.Future[Order] | None]] = field(default_factory=asyncio.Queue)
    questions: deque[asyncio.Future[Order]] = field(default_factory=deque)
    read: asyncio.Future[Order] | None = None
    waits: bool = False
    lost: int = 0
    passed_over: int = 0

    @property
    def kind(self) -> tuple[str, ...]:
        """What a process keeps from one trial to the next: trials that agree in it read the same files."""
        axes = self.trial.get("axes", {})
        return tuple(str(axes.get(name)) for name in ("task", "model_scale", "pretraining_source"))

    async def ask(self, report: dict[str, Any], ahead: int) -> Order:
        """Hand the lease a report; wait until no more than ``ahead`` are unanswered."""
        question: asyncio.Future[Order] = asyncio.get_running_loop().create_future()
        self.questions.append(question)
        self.messages.put_nowait(({"report": report}, question))
        if len(self.questions) <= ahead:
            return Order.GO
        self.waits = True
        try:
            return await self.questions[-1 - ahead]
        finally:
            self.waits = False

    def go_on(self) -> None:
        """Answer the report that the lease has read."""
        if self.read is not None and not self.read.done():
            self.read.set_result(Order.GO)
            self.questions.remove(self.read)

    def stop(self) -> None:
        """Answer whatever waits with stop."""
        while self.questions:
            self.questions.popleft().set_result(Order.STOP)

    def end(self, message: dict[str, Any]) -> None:
        """Hand the lease its last message."""
        self.messages.put_nowait((message, None))


@dataclass(slots=True, kw_only=True)
class GangState:
    """A gang as the broker sees it.

    Attributes:
        queue: Where it takes trials from.
        nodes: Ids of the nodes that its ranks are on.
        generation: Number of the present group of ranks; calls with an older one are refused.
        rank0: Actor handle of rank 0; None until it has said hello.
        job: What it trains.
        heard_at: When it last spoke, on the broker's clock.
        barren_deaths: How often it was lost in a row without finishing a trial, or failing one for it.
        shot: Why its ranks were killed; empty if they were not.
        retired: Whether it is to go home after its trial.
        leaves: Whether it was told to.
        kind: Of the trial that it took last.
        given_up: Why its ranks are not started again; empty while they are.
    """

    queue: str = ""
    nodes: frozenset[str] = frozenset()
    generation: int = 0
    rank0: Any = None
    job: Job | None = None
    heard_at: float = 0.0
    barren_deaths: int = 0
    shot: str = ""
    retired: bool = False
    leaves: bool = False
    kind: tuple[str, ...] = ()
    given_up: str = ""


def take_alike(queue: deque[Job], gang: GangState) -> Job:
    """Take the first trial whose images and weights this gang has read already, unless the first of all waits too long.

    Trials stand in order of their start, and those of one cell are alike in length, so that little is lost.

    Args:
        queue: At least one trial; the one that is taken leaves it.
        gang: Whose kind is set to that of the trial.
    """
    first = queue[0]
    alike = next((job for job in queue if job.kind == gang.kind), first)
    if alike is not first:
        first.passed_over += 1
        if first.passed_over > MAX_PASSED_OVER:
            alike = first
    queue.remove(alike)
    gang.kind = alike.kind
    return alike
