"""The trials of one run: handed out as they become ready, and taken down as they end."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping

from orchestrator.agenda import Agenda, Entry
from orchestrator.breaker import Breaker
from orchestrator.budget import Budget
from orchestrator.cancel import Cancellation
from orchestrator.claims import Others
from orchestrator.drivers import DriverNote
from orchestrator.feed import Handout
from orchestrator.fleet import Demand
from orchestrator.forecast import Work
from orchestrator.memory_limits import MemoryLimits, memory_need
from orchestrator.outage import LIMIT_S, Outage
from orchestrator.pilot import Report, TrialOutcome
from orchestrator.plan import PlannedTrial
from orchestrator.progress import ProgressView
from orchestrator.record_states import TrialState
from orchestrator.record_writer import RecordWriter
from orchestrator.retries import Retries
from orchestrator.run_terms import FailedTrial, RunSummary
from orchestrator.searches import NO_VALUE, validation_value
from orchestrator.searching import Searching, Step
from orchestrator.whereabouts import Whereabouts
from search_spaces.failpoints import failpoint
from search_spaces.names import FailureClass, Role, State
from search_spaces.results import Failure, TrialResult
from search_spaces.selection import Key, key_of
from search_spaces.study import GangSpec
from search_spaces.trial import ResolvedTrial

_NO_VALUE = Failure(failure_class=FailureClass.DIVERGENCE, message=NO_VALUE, public_message=NO_VALUE)

Resolve = Callable[[PlannedTrial, bool], ResolvedTrial]
"""From a planned trial, and whether it should save memory, to one that can be trained."""


class Course:
    """A feed of the trials of one run (``orchestrator.feed.Feed``).

    Args:
        todo: The trials, by id; those that a search is to find come from ``searching``.
        resolve: Makes a trial ready to train.
        writer: Records how attempts ended.
        view: Shows them.
        note: Tells other processes what runs.
        summary: Filled in.
        broken: Trials without a result and why; those from before the run are there already.
        breaker: Stops what keeps failing alike.
        searching: The searches of the run.
        others: What other drivers of the study train; None if there is none.
        outage: Knows whether the storage is away; one that any answer ends if not given.
    """

    def __init__(
        self,
        todo: Mapping[str, PlannedTrial],
        resolve: Resolve,
        writer: RecordWriter,
        view: ProgressView,
        note: DriverNote,
        summary: RunSummary,
        broken: dict[str, Failure],
        breaker: Breaker,
        searching: Searching,
        others: Others | None = None,
        outage: Outage | None = None,
    ) -> None:
        self._searching = searching
        self._others = others
        self._outage = outage or Outage(lambda: None)
        self._waits_for_storage = False
        first = searching.start()
        self._todo = {**todo, **{t.trial_id: t for t in first.trials}}
        self._resolve = resolve
        self._writer = writer
        self._view = view
        self._note = note
        self._summary = summary
        self._broken = broken
        in_order = sorted(self._todo.values(), key=lambda t: t.trial.stage)
        self._agenda = Agenda(map(self._entry, in_order))
        self._breaker = breaker
        self._retries = Retries(lambda i: memory_need(resolve(self._todo[i], False), self._todo[i].gang))
        self._started: dict[str, tuple[ResolvedTrial, float]] = {}
        self._ended: set[str] = set()
        self._whereabouts = Whereabouts()
        self._budget: Budget | None = None
        self._cancellation = Cancellation(self._todo, self._needed_by_searches)
        known = [*self._todo.values(), *searching.expected.values()]
        self._targets = frozenset(key_of(t.trial) for t in known if t.trial.role is Role.TARGET)
        self._off: set[str] = set()
        self._stop_trial: Callable[[str], None] | None = None
        self._expect(first)
        self._give_up(first.lost, _NO_VALUE)

    # What the executor asks

    def __len__(self) -> int:
        """Trials that have not been handed out, those that a search may still ask for included; 0 if all of them wait
        for what other drivers train."""
        # Called in each turn of Tune's loop, in its thread: the place to hear what was asked from another one.
        self._obey()
        self._hear_of_others()
        self._hear_of_storage()
        if self._agenda.aside and not len(self._agenda) and not self._runs():
            return 0
        return len(self._agenda) + len(self._searching)

    def demands(self, running: Mapping[GangSpec, int]) -> dict[GangSpec, Demand]:
        """What there is to do for each gang."""
        return self._agenda.demands(running)

    def next(self, gangs: Collection[GangSpec]) -> Handout | None:
        """The trial that should start now; none while the storage is away."""
        if self._outage.lasts:
            return None
        trial_id = self._agenda.next(gangs)
        while trial_id is not None and self._others is not None and not self._others.mine(trial_id):
            self._agenda.set_aside(trial_id)
            trial_id = self._agenda.next(gangs)
        if trial_id is None:
            return None
        trial = self._start(trial_id)
        if self._budget is not None:
            self._budget.started(trial_id)
            self._leave_unaffordable()
        return Handout(trial.model_dump(mode="json"), self._todo[trial_id].gang)

    def report(self, report: Report) -> None:
        """A running trial has reported."""
        trial_id = str(report["trial_id"])
        self._view.report(report)
        self._note.started(trial_id, self._key(trial_id))
        self._whereabouts.reported(report)
        if self._budget is not None:
            self._budget.reported(trial_id, int(report.get("step", 0)))

    def take(self, outcome: TrialOutcome) -> None:
        """A trial has ended."""
        trial_id, failure = outcome.trial_id, outcome.failure
        self._note.ended(trial_id)
        failpoint("driver.told")
        self._spend(outcome)
        self._notice_outage(failure)
        if failure is not None and not self._cancellation.holds(trial_id) and self._is_worth_another(trial_id, failure):
            self._try_again(trial_id, failure)
            return
        self._ended.add(trial_id)
        if self._others is not None and not self._is_final(outcome):
            self._others.claims.release(trial_id)
        if not outcome.stopped:
            self._cancellation.ended(trial_id)
        self._summary.cancelled = len(self._cancellation)
        if outcome.result is not None:
            self._complete(trial_id, outcome.result)
        elif failure is not None and self._searching.spends(trial_id, failure):
            self._record_failure(trial_id, failure)
            self._view.spent(trial_id, failure.message)
            self._follow(self._searching.ended(trial_id, None))
        elif failure is not None:
            self._fail(trial_id, failure)
            self._fail_dependents(trial_id)
            self._give_up(self._end_search(trial_id), inherited(failure, f"search trial {trial_id}"))
            self._leave_alike(trial_id, failure)
        # A resolved trial is not small, and a study may have thousands.
        self._started.pop(trial_id, None)
        self._whereabouts.ended(trial_id)
        self._leave_unaffordable()

    # What the engine and other processes ask

    @property
    def elsewhere(self) -> int:
        """Trials that other drivers train and this one waits for."""
        return self._agenda.aside

    def give_up_the_hopeless(self) -> None:
        """Fail the trials that start from one that failed before this run."""
        for trial_id in self._broken.keys() - self._todo.keys():
            self._fail_dependents(trial_id)

    def keep_within(self, budget: Budget, work_of: Callable[[PlannedTrial], Work]) -> None:
        """Start no trial that would exceed the budget, which is told of those that searches bring."""
        self._budget, self._work_of = budget, work_of
        budget.know(map(work_of, self._todo.values()))
        self._leave_unaffordable()

    def remember_memory(self, limits: MemoryLimits) -> None:
        """Where memory ran out before, and where to say so."""
        self._retries.remember(limits)

    def stops_with(self, stop: Callable[[str], None]) -> None:
        """How a running trial is told to stop."""
        self._stop_trial = stop

    def cancel(self, keys: Collection[Key]) -> int:
        """Do not start these target trials, and stop those that run. May be called from any thread; soon obeyed.

        Returns:
            How many of them are trials of this run, ended ones included.
        """
        self._cancellation.ask(keys)
        return len(self._targets.intersection(keys))

    # What other drivers do

    def _runs(self) -> bool:
        return any(trial_id not in self._ended for trial_id in self._started)

    def _hear_of_others(self) -> None:
        for news in self._others.news() if self._others is not None else ():
            if not self._agenda.take_up(news.trial_id):
                continue  # it was taken out of the run
            if news.result is not None:
                self._complete(news.trial_id, news.result)
            elif news.state is None:
                self._agenda.put_back(news.trial_id)
            elif news.state.state is State.COMPLETE:
                self._done_elsewhere(news.trial_id, news.state)
            else:
                self._diverged_elsewhere(news.trial_id, diverged(news.state))

    def _done_elsewhere(self, trial_id: str, state: TrialState) -> None:
        self._ended.add(trial_id)
        self._summary.skipped += 1
        self._agenda.complete(trial_id)
        self._breaker.completed(self._coordinates(trial_id))
        self._view.done(trial_id, None, state.best_value)
        self._follow(self._searching.ended(trial_id, state.best_value))

    def _diverged_elsewhere(self, trial_id: str, failure: Failure) -> None:
        self._ended.add(trial_id)
        if self._searching.spends(trial_id, failure):
            self._view.spent(trial_id, failure.message)
            self._follow(self._searching.ended(trial_id, None))
            return
        self._broken[trial_id] = failure
        self._summary.failed.append(FailedTrial.of(self._todo[trial_id], failure))
        self._view.failed(trial_id, failure.message)
        self._fail_dependents(trial_id)

    @staticmethod
    def _is_final(outcome: TrialOutcome) -> bool:
        """Whether no driver should try the trial again: its end is marked when the record has it."""
        failure = outcome.failure
        return outcome.result is not None or (failure is not None and failure.failure_class is FailureClass.DIVERGENCE)

    # Ends

    def _is_worth_another(self, trial_id: str, failure: Failure) -> bool:
        started = self._started.get(trial_id)
        saved_memory = started is not None and started[0].workspace.save_memory
        return self._retries.again(trial_id, failure, saved_memory)

    def _complete(self, trial_id: str, result: TrialResult) -> None:
        timing = result.timing
        if result.trial.workspace.save_memory:
            self._retries.helped(trial_id)
        self._summary.trained += 1
        self._agenda.complete(trial_id)
        self._breaker.completed(self._coordinates(trial_id))
        self._writer.put(result)
        value = validation_value(result)
        # A trial that went on from a checkpoint says nothing about how long others take.
        self._view.done(trial_id, timing.total_s if timing and not timing.earlier_s else None, value)
        self._follow(self._searching.ended(trial_id, value))

    def _try_again(self, trial_id: str, failure: Failure) -> None:
        self._record_failure(trial_id, failure)
        self._view.again(trial_id, failure.message)
        self._agenda.put_back(trial_id)
        self._leave_unaffordable()

    def _fail(self, trial_id: str, failure: Failure) -> None:
        self._broken[trial_id] = failure
        self._ended.add(trial_id)
        self._summary.failed.append(FailedTrial.of(self._todo[trial_id], failure))
        self._record_failure(trial_id, failure)
        self._view.failed(trial_id, failure.message)

    def _record_failure(self, trial_id: str, failure: Failure) -> None:
        trial, started_at = self._started.pop(trial_id)
        self._writer.put(self._whereabouts.failed_attempt(trial, failure, started_at))

    def _fail_dependents(self, trial_id: str) -> None:
        for lost in self._agenda.fail(trial_id):
            self._lose(self._todo[lost])

    def _lose(self, planned: PlannedTrial) -> None:
        """A trial cannot start because the one that it starts from failed."""
        failure = inherited(self._broken[str(planned.upstream_id)], f"upstream trial {planned.upstream_id}")
        if self._searching.holds(planned.trial_id):  # not a result of the search, so nothing to record
            self._view.revise([planned.trial_id], {}, {})
            self._give_up(self._end_search(planned.trial_id), failure)
            return
        self._start(planned.trial_id)
        self._fail(planned.trial_id, failure)

    def _leave_alike(self, trial_id: str, failure: Failure) -> None:
        kind = self._breaker.failed(self._coordinates(trial_id), failure)
        left = self._leave(lambda i: kind.holds(self._coordinates(i))) if kind else []
        if kind and left:
            self._summary.left += len(left)
            self._off.update(left)
            self._view.left(left, kind.label, failure.message)

    def _leave(self, chosen: Callable[[str], bool]) -> list[str]:
        """Take chosen trials off the agenda; returns them and the final trials whose searches end by it."""
        left = self._agenda.leave(chosen)
        return [*left, *(t.trial_id for i in left for t in self._end_search(i))]

    # The storage

    def _notice_outage(self, failure: Failure | None) -> None:
        if failure is None or failure.failure_class is not FailureClass.TRACKING or not self._outage.begin():
            return
        self._waits_for_storage = True
        self._view.storage_away(failure.message)

    def _hear_of_storage(self) -> None:
        if not self._waits_for_storage:
            return
        if self._outage.is_too_long:
            left = self._leave(lambda _: True)
            self._summary.left += len(left)
            if left:
                self._put_off(left, f"the storage has been away for {LIMIT_S / 60:.0f} minutes")
        elif not self._outage.lasts:
            self._waits_for_storage = False
            self._view.storage_back()

    # Searches

    def _follow(self, step: Step) -> None:
        """A search has gone on or ended."""
        self._todo |= {t.trial_id: t for t in step.trials}
        if self._budget is not None:
            self._budget.know(map(self._work_of, step.trials))
        self._expect(step)
        for planned in step.trials:
            if planned.upstream_id in self._broken:
                self._lose(planned)
            elif planned.upstream_id in self._off:
                self._summary.left += 1
                self._put_off([planned.trial_id], f"what they start from, {planned.upstream_id}, was put off")
            else:
                self._agenda.add(self._entry(planned), first=planned.trial.role is Role.SEARCH)
        self._summary.skipped += len(step.done)
        self._broken |= {trial_id: diverged(state) for trial_id, state in step.diverged.items()}
        self._give_up(step.lost, _NO_VALUE)

    def _expect(self, step: Step) -> None:
        """What was expected is known now."""
        trials = {t.trial_id: t.trial for t in step.trials}
        self._view.revise(step.gone, trials, {t.trial_id: t.cost for t in step.trials})

    def _end_search(self, trial_id: str) -> list[PlannedTrial]:
        """End the search of a trial for this run; the final trials that get no values."""
        step = self._searching.stop(trial_id)
        self._expect(step)
        return step.lost

    def _give_up(self, finals: Iterable[PlannedTrial], cause: Failure) -> None:
        """Final trials get no values. They were never anything that could run, so the record has no attempt at them."""
        for planned in finals:
            failed = FailedTrial.of(planned, cause)
            self._summary.failed.append(failed)
            self._view.failed(planned.trial_id, failed.message)

    # Limits and wishes

    def _spend(self, outcome: TrialOutcome) -> None:
        if self._budget is not None:
            timing = outcome.result.timing if outcome.result else None
            total_s, whole_s = (timing.total_s, timing.whole_s) if timing else (None, None)
            self._budget.ended(outcome.trial_id, total_s, whole_s)

    def _leave_unaffordable(self) -> None:
        refuses = self._budget.unaffordable() if self._budget else None
        left = self._leave(refuses) if refuses else []
        if left and self._budget:
            self._summary.over_budget += len(left)
            spent = f"{self._budget.spent_gpu_hours:.2f} spent"
            self._put_off(left, f"they would exceed the GPU-hours allowed ({spent})")

    def _obey(self) -> None:
        if not self._cancellation.hear():
            return
        searching = self._searching.only_for(self._cancellation.wants)
        # Their searches end first: what only they start from is then needed by nothing.
        waiting = [t.trial_id for i in searching for t in self._end_search(i)]
        self._cancellation.hold(waiting)
        chosen = self._cancellation.asked(self._ended, searching)
        if not chosen:
            return
        held = self._agenda.leave(chosen.__contains__)
        running = [i for i in self._started if i in chosen and i not in self._ended and i not in held]
        for trial_id in running:
            held += self._agenda.fail(trial_id)
            if self._stop_trial is not None:
                self._stop_trial(trial_id)
            self._note.ended(trial_id)
            if self._budget is not None:
                self._budget.ended(trial_id)
        self._cancellation.hold([*held, *running])
        self._summary.cancelled = len(self._cancellation)
        if held or running:
            self._put_off([*held, *running, *waiting], f"they were cancelled; {len(running)} of them stop now")

    def _put_off(self, trial_ids: list[str], why: str) -> None:
        self._off.update(trial_ids)
        self._view.put_off(trial_ids, why)

    def _needed_by_searches(self) -> set[str]:
        """What final trials will start from that are known once their search has ended."""
        return {str(t.upstream_id) for t in self._searching.expected.values()}

    # Parts

    def _key(self, trial_id: str) -> Key | None:
        trial = self._todo[trial_id].trial
        return key_of(trial) if trial.role is Role.TARGET else None

    def _start(self, trial_id: str) -> ResolvedTrial:
        trial = self._resolve(self._todo[trial_id], self._retries.should_save_memory(trial_id))
        self._started[trial_id] = (trial, time.time())
        failpoint("driver.handed_out")
        return trial

    def _entry(self, planned: PlannedTrial) -> Entry[GangSpec]:
        return Entry(
            trial_id=planned.trial_id,
            cost=self._searching.weight(planned),
            upstream_id=planned.upstream_id,
            gang=planned.gang,
            priority=planned.priority,
        )

    def _coordinates(self, trial_id: str) -> dict[str, str]:
        return self._todo[trial_id].trial.cell.coordinates


def diverged(state: TrialState) -> Failure:
    """The failure of a trial that diverged in an earlier run."""
    message = state.message or "diverged before"
    return Failure(failure_class=FailureClass.DIVERGENCE, message=message, public_message=message)


def inherited(cause: Failure, other: str) -> Failure:
    """The failure of a trial that needs another one, which failed.

    Args:
        cause: Why the other one failed.
        other: Which one it is.
    """
    start = f"its {other} failed: "
    return Failure(
        failure_class=cause.failure_class,
        message=start + cause.message,
        public_message=start + cause.public_message,
    )
