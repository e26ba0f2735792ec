"""GPU-hours that a run may spend: which trials still fit, from what was spent and what trials are expected to take.

A trial costs its seconds times its GPUs. The seconds of one that has not ended are those of ``orchestrator.forecast``;
as long as nothing is known of its scale it counts as free, so that the first trials of a new study can start and be
measured. What runs is never stopped, so a run exceeds its limit by no more than the error of those expectations.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from cluster.capacity import Node, Shape
from orchestrator.agenda import Agenda, Entry
from orchestrator.forecast import Work, expected
from orchestrator.plan import PlannedTrial
from search_spaces.exceptions import UserError

_REFIT_GROWTH = 1.1
"""Expectations are computed anew when the trials they rest on have grown by this factor."""


def work_of(planned: PlannedTrial, *, upstream_id: str | None = None, nodes: Sequence[Node] = ()) -> Work:
    """What a trial of a plan has to do.

    Args:
        planned: The trial.
        upstream_id: What it waits for.
        nodes: The cluster, which decides about GPUs where the study does not.
    """
    return Work(
        trial_id=planned.trial_id,
        upstream_id=upstream_id,
        scale=planned.trial.cell.model_scale,
        cost=planned.cost,
        images=planned.images,
        gang=Shape.of(planned.gang, nodes),
        priority=planned.priority,
    )


def hours_problem(gpu_hours: float) -> str | None:
    """Why so many GPU-hours are no limit; None if they are one."""
    if gpu_hours > 0:
        return None
    return f"--max-gpu-hours is the most a run may spend, above 0, got {gpu_hours:g}"


def limit_problem(gpu_hours: float, gpus: Iterable[float]) -> str | None:
    """Why a run cannot be limited to so many GPU-hours; None if it can.

    Args:
        gpu_hours: The limit.
        gpus: GPUs of each kind of trial.
    """
    if problem := hours_problem(gpu_hours):
        return problem
    if not any(gpus):
        return (
            "--max-gpu-hours limits GPU-hours, but no trial here uses a GPU (execution.gang.gpus_per_rank is 0, or "
            "the cluster has none); run without it"
        )
    return None


class Budget:
    """Counts what a run has spent and says what still fits.

    Args:
        gpu_hours: Most that may be spent, above 0.
        works: All trials of the plan, with the gangs that hold GPUs while they run.
        took: Trial -> seconds, of those that ended in earlier runs.
        elsewhere: Trials that ended and are no part of the plan: they only say what others take.
        clock: Seconds, never going back.

    Raises:
        UserError: No hours, or trials that use no GPU.
    """

    def __init__(
        self,
        gpu_hours: float,
        works: Iterable[Work],
        took: Mapping[str, float],
        elsewhere: Iterable[Work] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._works: list[Work] = []
        self._gpus: dict[str, float] = {}
        self._most_gpus = 0.0
        self._take_in(works)
        if problem := limit_problem(gpu_hours, self._gpus.values()):
            raise UserError(problem)
        self._limit_s = gpu_hours * 3600
        self._took = dict(took)
        self._elsewhere = list(elsewhere)
        self._clock = clock
        self._spent_s = 0.0
        self._running: set[str] = set()
        self._began: dict[str, float] = {}
        self._first: dict[str, float] = {}
        self._last: dict[str, tuple[float, int]] = {}
        self._lost_s: dict[str, float] = {}
        """Of trials whose ranks were lost: what they had run before."""
        self._expected: Mapping[str, float] = {}
        self._largest_s = 0.0
        self._rests_on = 0
        self._expect()

    @property
    def spent_gpu_hours(self) -> float:
        """Of the attempts that have ended."""
        return self._spent_s / 3600

    def know(self, works: Iterable[Work]) -> None:
        """Take in trials whose ids were not known before, as those of searches and what they lead to."""
        if self._take_in(works):
            self._expect()

    def started(self, trial_id: str) -> None:
        """A trial was handed out."""
        self._running.add(trial_id)

    def reported(self, trial_id: str, step: int = 0) -> None:
        """A running trial has reported.

        Args:
            trial_id: Its id.
            step: Where it is; an earlier one than before says that its ranks were lost and others have taken it up.
        """
        now = self._clock()
        last, before = self._last.get(trial_id, (now, step))
        if step < before:
            self._lost_s[trial_id] = self._lost_s.get(trial_id, 0.0) + last - self._began.pop(trial_id, last)
        self._began.setdefault(trial_id, now)
        self._first.setdefault(trial_id, now)
        self._last[trial_id] = now, step

    def ended(self, trial_id: str, seconds: float | None = None, whole_s: float | None = None) -> None:
        """A trial has ended.

        Args:
            trial_id: Its id.
            seconds: How long it ran, if it is complete; else (failed, or told to stop) the time since its first report
                is counted. What ranks ran that were lost meanwhile is counted beside it.
            whole_s: With what the attempts took that it went on from, as others like it will take; ``seconds`` if None.
        """
        if trial_id not in self._running:
            return  # it was stopped, and counted then
        now = self._clock()
        last_s = self._elapsed_s(trial_id) if seconds is None else seconds
        # Never more than the time there was: features are counted in steps of their own before a probe's.
        all_s = max(last_s, min(self._lost_s.pop(trial_id, 0.0) + last_s, now - self._first.pop(trial_id, now)))
        self._running.discard(trial_id)
        self._began.pop(trial_id, None)
        self._last.pop(trial_id, None)
        self._spent_s += self._gpu_s(trial_id, all_s)
        if seconds is not None:
            self._took[trial_id] = seconds if whole_s is None else whole_s
            if len(self._took) >= _REFIT_GROWTH * self._rests_on:
                self._expect()

    def unaffordable(self) -> Callable[[str], bool] | None:
        """Tells of a trial whether it would exceed the limit; None while every one fits."""
        left_s = self._limit_s - self._spent_s - sum(map(self._committed_s, self._running))
        if left_s > 0 and self._largest_s <= left_s:
            return None
        return lambda trial_id: (
            self._gpu_s(trial_id, 1.0) > 0
            and (left_s <= 0 or self._gpu_s(trial_id, self._expected.get(trial_id, 0.0)) > left_s)
        )

    def _committed_s(self, trial_id: str) -> float:
        now_s = max(self._expected.get(trial_id, 0.0), self._elapsed_s(trial_id))
        return self._gpu_s(trial_id, self._lost_s.get(trial_id, 0.0) + now_s)

    def _gpu_s(self, trial_id: str, seconds: float) -> float:
        """GPU-seconds; a trial that was not in the plan, of a search, counts as one of the largest."""
        return seconds * self._gpus.get(trial_id, self._most_gpus)

    def _elapsed_s(self, trial_id: str) -> float:
        return self._clock() - self._began[trial_id] if trial_id in self._began else 0.0

    def _take_in(self, works: Iterable[Work]) -> bool:
        new = {work.trial_id: work for work in works if work.trial_id not in self._gpus}
        self._works += new.values()
        self._gpus |= {trial_id: work.gang.ranks * work.gang.gpus for trial_id, work in new.items()}
        self._most_gpus = max(self._gpus.values(), default=0.0)
        return bool(new)

    def _expect(self) -> None:
        elsewhere = [work.trial_id for work in self._elsewhere]
        self._expected = expected([*self._works, *self._elsewhere], self._took, done=elsewhere).seconds
        self._largest_s = max((self._gpu_s(i, s) for i, s in self._expected.items()), default=0.0)
        self._rests_on = len(self._took)


def count_affordable(budget: Budget, entries: Iterable[Entry[object]]) -> int:
    """How many trials a run would start, if each takes what is expected of it.

    Args:
        budget: Fresh; it is used up.
        entries: The trials that are left; ``cost`` is in seconds.
    """
    entries = list(entries)
    seconds = {e.trial_id: e.cost for e in entries}
    agenda = Agenda(entries)
    count = 0
    while True:
        if (refuses := budget.unaffordable()) is not None:
            agenda.leave(refuses)
        trial_id = agenda.next()
        if trial_id is None:
            return count
        budget.started(trial_id)
        budget.ended(trial_id, seconds[trial_id])
        agenda.complete(trial_id)
        count += 1
