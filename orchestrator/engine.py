"""Make a study true: plan, skip what is done, train what is missing, record it, write the report."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from rich.console import Console

from cluster.connection import connect, gpus_per_trial
from orchestrator.agenda import Agenda, Entry
from orchestrator.breaker import Breaker
from orchestrator.budget import Budget, works_of
from orchestrator.cancel import Cancellation
from orchestrator.drivers import DriverNote
from orchestrator.executor import Executor, Limits, Report, TrialOutcome
from orchestrator.places import Places
from orchestrator.plan import Plan, PlannedTrial, import_paths, stores_needed
from orchestrator.plan_text import plan_json
from orchestrator.progress import ProgressView
from orchestrator.record import Record
from orchestrator.record_states import TrialState
from orchestrator.record_writer import RecordWriter
from orchestrator.remaining import remaining
from orchestrator.run_terms import FailedTrial, RunOptions, RunSummary
from orchestrator.whereabouts import Whereabouts
from search_spaces.exceptions import TrackingError, UserError
from search_spaces.names import FailureClass, State
from search_spaces.results import Failure
from search_spaces.trial import ResolvedTrial, Workspace
from trainables.library import TaskLibrary
from trainables.store import open_store


class Engine:
    """Runs one plan.

    Args:
        plan: A plan without problems.
        places: Where to read and write.
        console: Where to say what happens.
        options: What this run does differently from what the study says.

    Raises:
        UserError: The plan has problems.
    """

    def __init__(self, plan: Plan, places: Places, console: Console, options: RunOptions | None = None) -> None:
        if plan.problems or plan.resolver is None:
            raise UserError("\n".join(plan.problems))
        self._options = options or RunOptions()
        self._whole_plan = plan
        self._plan = plan if self._options.targets is None else plan.narrowed(self._options.targets)
        self._resolver = plan.resolver
        self._places = places
        self._console = console
        self._storage = places.storage_of(plan.study.name)
        self._is_upstream = {t.upstream_id for t in plan.trials}
        self._workspace = Workspace(
            home=str(places.home),
            storage=self._storage.place,
            import_paths=import_paths(plan.loaded),
            keep_weights=plan.study.execution.keep_weights,
            checkpoint_every_s=plan.study.execution.checkpoint_every_s,
        )
        self._broken: dict[str, Failure] = {}
        self.record = Record(plan.study, self._storage, places.tracking_uri)

    def run(self) -> RunSummary:
        """Train what is missing; returns when nothing more can be done.

        Raises:
            UserError: The storage cannot be written.
            TrackingError: MLflow cannot be reached at the start.
            DataError: Images cannot be read.
        """
        started = time.monotonic()
        self._storage.check_writable()
        self._storage.clean_tmp()
        self._console.print("connecting to the record", style="dim")
        self.record.open()
        spool = self.record.deliver_all()
        if spool.delivered:
            self._console.print(f"delivered {spool.delivered} attempts that were waiting in the storage")
        for message in spool.damaged:
            self._console.print(f"cannot be read and stays in the storage: {message}", style="yellow", markup=False)
        self.record.set_plan(json.dumps(plan_json(self._whole_plan), indent=2))
        states = self.record.states(t.trial_id for t in self._plan.trials)
        left = remaining(self._plan, states, self._storage.has_weights, diverged_too=self._options.diverged_too)
        todo = left.todo
        self._broken |= {trial_id: _diverged(state) for trial_id, state in left.diverged.items()}
        done = {i for i, state in states.items() if state.state is State.COMPLETE}
        summary = RunSummary(skipped=len(done - todo.keys()))
        if todo:
            self._build_stores(todo)
            took = {i: s.seconds for i, s in states.items() if i in done and s.seconds is not None}
            self._train(todo, [t for t in self._plan.trials if t.trial_id in done], took, summary)
        self._finish(summary)
        summary.seconds = time.monotonic() - started
        return summary

    def _build_stores(self, todo: Mapping[str, PlannedTrial]) -> None:
        """Decode images now, so that an unreadable one is found before anything is trained."""
        library = TaskLibrary(self._places.home)
        for name, storage_size, side in stores_needed(self._resolver, todo.values()):
            with self._console.status(f"decoding the images of {name} to {side} px"):
                open_store(library, library.load(name), storage_size, side)

    def _train(
        self,
        todo: Mapping[str, PlannedTrial],
        done: Iterable[PlannedTrial],
        took: Mapping[str, float],
        summary: RunSummary,
    ) -> None:
        execution = self._plan.study.execution
        labels = {i: t.trial.label for i, t in todo.items()}
        writer = RecordWriter(self.record)
        view = ProgressView(self._console, labels, {i: t.cost for i, t in todo.items()})
        note = DriverNote(self._storage, self._plan.study.name, view.eta_s)
        breaker = Breaker()
        for planned in done:
            breaker.completed(planned.trial.cell.coordinates)
        course = _Course(todo, self._resolve, writer, view, note, summary, self._broken, breaker)
        try:
            with view:
                course.give_up_the_hopeless()
                if not len(course):
                    return
                with connect(self._places.address, import_paths=self._workspace.import_paths):
                    if self._options.max_gpu_hours is not None:
                        gpus = gpus_per_trial(execution.gang)
                        course.keep_within(Budget(self._options.max_gpu_hours, gpus, works_of(self._plan.trials), took))
                    with Executor(
                        execution.gang,
                        max_concurrent=self._options.max_concurrent or execution.max_concurrent,
                        limits=Limits(report_deadline_s=execution.report_deadline_s),
                        on_report=course.report,
                        on_done=course.take,
                    ) as executor:
                        course.stops_with(lambda trial_id: executor.stop(trial_id))
                        note.listen(course.cancel)
                        executor.run(course)
        finally:
            try:
                summary.waiting = writer.close()
            finally:
                note.close()

    def _resolve(self, planned: PlannedTrial) -> ResolvedTrial:
        attempt = f"{planned.trial_id}-{uuid.uuid4().hex[:8]}"
        # What others start from is their science: always kept, and always the selected weights.
        upstream = planned.trial_id in self._is_upstream
        workspace = self._workspace.model_copy(update={"keep_weights": "best"}) if upstream else self._workspace
        return self._resolver.resolved(planned.trial, attempt, workspace)

    def _finish(self, summary: RunSummary) -> None:
        reported = {f.trial_id for f in summary.failed}
        for planned in self._plan.trials:
            failure = self._broken.get(planned.trial_id)
            if failure is not None and planned.trial_id not in reported:
                summary.failed.append(FailedTrial.of(planned, failure))
        done = len(self._plan.trials) - len(summary.failed) - summary.put_off
        try:
            self.record.set_progress({"complete": done, "failed": len(summary.failed)})
        except TrackingError as error:
            self._console.print(f"the record does not answer: {error}", style="yellow", markup=False)


class _Course:
    """The trials of one run: hands them out as they become ready, and takes down how each of them ended."""

    def __init__(
        self,
        todo: Mapping[str, PlannedTrial],
        resolve: Callable[[PlannedTrial], ResolvedTrial],
        writer: RecordWriter,
        view: ProgressView,
        note: DriverNote,
        summary: RunSummary,
        broken: dict[str, Failure],
        breaker: Breaker,
    ) -> None:
        self._todo = todo
        self._resolve = resolve
        self._writer = writer
        self._view = view
        self._note = note
        self._summary = summary
        self._broken = broken
        in_order = sorted(todo.values(), key=lambda t: t.trial.stage)
        self._agenda = Agenda(Entry(trial_id=t.trial_id, cost=t.cost, upstream_id=t.upstream_id) for t in in_order)
        self._breaker = breaker
        self._started: dict[str, tuple[ResolvedTrial, float]] = {}
        self._ended: set[str] = set()
        self._whereabouts = Whereabouts()
        self._budget: Budget | None = None
        self._cancellation = Cancellation(todo)
        self._stop: Callable[[str], None] | None = None

    def __len__(self) -> int:
        """Trials that have not been handed out."""
        # Called in each turn of Tune's loop, in its thread: the place to hear what was asked from another one.
        self._obey()
        return len(self._agenda)

    def next(self) -> dict[str, Any] | None:
        """The ResolvedTrial that should start now, as plain data."""
        trial_id = self._agenda.next()
        if trial_id is None:
            return None
        trial = self._start(trial_id)
        if self._budget is not None:
            self._budget.started(trial_id)
            self._leave_unaffordable()
        return trial.model_dump(mode="json")

    def keep_within(self, budget: Budget) -> None:
        """Start no trial that would exceed the budget."""
        self._budget = budget
        self._leave_unaffordable()

    def stops_with(self, stop: Callable[[str], None]) -> None:
        """How a running trial is told to stop at its next report."""
        self._stop = stop

    def cancel(self, trial_ids: Iterable[str]) -> None:
        """Do not start these trials, and stop those that run. May be called from any thread; soon obeyed."""
        self._cancellation.ask(trial_ids)

    def give_up_the_hopeless(self) -> None:
        """Fail the trials that start from one that failed before this run."""
        for trial_id in self._broken.keys() - self._todo.keys():
            self._fail_dependents(trial_id)

    def report(self, report: Report) -> None:
        """A running trial has reported."""
        trial_id = str(report["trial_id"])
        if not self._cancellation.holds(trial_id):
            self._view.report(report)
            self._note.started(trial_id)
        self._whereabouts.reported(report)
        if self._budget is not None:
            self._budget.reported(trial_id)

    def take(self, outcome: TrialOutcome) -> None:
        """The executor says that a trial has ended."""
        self._note.ended(outcome.trial_id)
        self._ended.add(outcome.trial_id)
        self._cancellation.ended(outcome.trial_id)
        self._summary.cancelled = len(self._cancellation)
        self._spend(outcome)
        if outcome.result is not None:
            self._summary.trained += 1
            self._agenda.complete(outcome.trial_id)
            self._breaker.completed(self._coordinates(outcome.trial_id))
            self._writer.put(outcome.result)
            timing = outcome.result.timing
            self._view.done(outcome.trial_id, timing.total_s if timing else None)
        elif outcome.failure is not None:
            self._fail(outcome.trial_id, outcome.failure)
            self._fail_dependents(outcome.trial_id)
            self._leave_alike(outcome.trial_id, outcome.failure)

    def _coordinates(self, trial_id: str) -> dict[str, str]:
        return self._todo[trial_id].trial.cell.coordinates

    def _leave_alike(self, trial_id: str, failure: Failure) -> None:
        kind = self._breaker.failed(self._coordinates(trial_id), failure)
        left = self._agenda.leave(lambda i: kind.holds(self._coordinates(i))) if kind else []
        if kind and left:
            self._summary.left += len(left)
            self._view.left(left, kind.label, failure.message)

    def _spend(self, outcome: TrialOutcome) -> None:
        if self._budget is not None:
            timing = outcome.result.timing if outcome.result else None
            self._budget.ended(outcome.trial_id, timing.total_s if timing else None)
            self._leave_unaffordable()

    def _leave_unaffordable(self) -> None:
        refuses = self._budget.unaffordable() if self._budget else None
        left = self._agenda.leave(refuses) if refuses else []
        if left and self._budget:
            self._summary.over_budget += len(left)
            self._view.put_off(
                left, f"they would exceed the GPU-hours allowed ({self._budget.spent_gpu_hours:.2f} spent)"
            )

    def _obey(self) -> None:
        chosen = self._cancellation.asked(self._ended)
        if not chosen:
            return
        held = self._agenda.leave(chosen.__contains__)
        running = [i for i in self._started if i in chosen and i not in self._ended]
        for trial_id in running:
            held += self._agenda.fail(trial_id)
            if self._stop is not None:
                self._stop(trial_id)
            self._note.ended(trial_id)
            if self._budget is not None:
                self._budget.ended(trial_id)
        self._cancellation.hold([*held, *running])
        self._summary.cancelled = len(self._cancellation)
        if held or running:
            self._view.put_off(
                [*held, *running], f"they were cancelled; {len(running)} of them stop at their next report"
            )

    def _start(self, trial_id: str) -> ResolvedTrial:
        trial = self._resolve(self._todo[trial_id])
        self._started[trial_id] = (trial, time.time())
        return trial

    def _fail_dependents(self, trial_id: str) -> None:
        for lost in self._agenda.fail(trial_id):
            planned = self._todo[lost]
            self._start(lost)
            self._fail(lost, _inherited(self._broken[str(planned.upstream_id)], planned))

    def _fail(self, trial_id: str, failure: Failure) -> None:
        trial, started_at = self._started[trial_id]
        self._broken[trial_id] = failure
        self._ended.add(trial_id)
        self._summary.failed.append(FailedTrial.of(self._todo[trial_id], failure))
        self._writer.put(self._whereabouts.failed_attempt(trial, failure, started_at))
        self._view.failed(trial_id, failure.message)


def _diverged(state: TrialState) -> Failure:
    message = state.message or "diverged before"
    return Failure(failure_class=FailureClass.DIVERGENCE, message=message, public_message=message)


def _inherited(cause: Failure, planned: PlannedTrial) -> Failure:
    """The failure of a trial whose upstream trial failed."""
    start = f"its upstream trial {planned.upstream_id} failed: "
    return Failure(
        failure_class=cause.failure_class,
        message=start + cause.message,
        public_message=start + cause.public_message,
    )
