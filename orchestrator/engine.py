"""Make a study true: plan, skip what is done, train what is missing, record it, write the report."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from cluster.connection import connect
from orchestrator.agenda import Agenda, Entry
from orchestrator.breaker import Breaker
from orchestrator.drivers import DriverNote
from orchestrator.executor import Executor, Limits, Report, TrialOutcome
from orchestrator.feed import Handout
from orchestrator.fleet import Demand
from orchestrator.plan import Plan, PlannedTrial, import_paths, stores_needed
from orchestrator.plan_text import plan_json
from orchestrator.progress import ProgressView
from orchestrator.record import Record
from orchestrator.record_states import TrialState
from orchestrator.record_writer import RecordWriter
from orchestrator.remaining import remaining
from orchestrator.searches import NO_VALUE, searches_of, settled, validation_value
from orchestrator.searching import Searching, Step
from search_spaces.exceptions import TrackingError, UserError
from search_spaces.failpoints import failpoint
from search_spaces.names import FailureClass, Role, State
from search_spaces.results import Failure, TrialResult
from search_spaces.study import GangSpec
from search_spaces.trial import ResolvedTrial, Workspace
from trainables.library import TaskLibrary
from trainables.storage import Storage
from trainables.store import open_store


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where a command reads and writes.

    Attributes:
        home: Imported tasks and image stores.
        storage: Path or URI of the record's files.
        tracking_uri: MLflow; ``MLFLOW_TRACKING_URI`` or a SQLite file in the home if None.
        address: Ray: ``local``, ``auto`` or an address.
    """

    home: Path
    storage: str
    tracking_uri: str | None = None
    address: str = "local"

    def storage_of(self, study: str) -> Storage:
        """A study's own part of the storage: two studies may train one trial under the same id."""
        return Storage(f"{self.storage.rstrip('/')}/{study}")


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedTrial:
    """A selected trial that is not done.

    Attributes:
        trial_id: Its id.
        label: Cell and seed.
        failure_class: Why.
        message: What happened, for the terminal.
    """

    trial_id: str
    label: str
    failure_class: FailureClass | None
    message: str

    @classmethod
    def of(cls, planned: PlannedTrial, failure: Failure) -> FailedTrial:
        """What to say of a planned trial that failed."""
        return cls(
            trial_id=planned.trial_id,
            label=planned.trial.label,
            failure_class=failure.failure_class,
            message=failure.message,
        )


@dataclass(slots=True, kw_only=True)
class RunSummary:
    """What a run did.

    Attributes:
        trained: Trials finished by this run.
        skipped: Selected trials that were done before.
        failed: Selected trials that are not done.
        left: Selected trials that were not started, because others of their kind kept failing alike.
        waiting: Finished trials that MLflow could not take yet; they are in the storage.
        seconds: Wall clock.
    """

    trained: int = 0
    skipped: int = 0
    failed: list[FailedTrial] = field(default_factory=list)
    left: int = 0
    waiting: int = 0
    seconds: float = 0.0


class Engine:
    """Runs one plan.

    Args:
        plan: A plan without problems.
        places: Where to read and write.
        console: Where to say what happens.

    Raises:
        UserError: The plan has problems.
    """

    def __init__(self, plan: Plan, places: Places, console: Console) -> None:
        if plan.problems or plan.resolver is None:
            raise UserError("\n".join(plan.problems))
        self._plan = plan
        self._resolver = plan.resolver
        self._places = places
        self._console = console
        self._storage = places.storage_of(plan.study.name)
        searched = [t for search in plan.searches for t in search.trials]
        self._is_upstream = {t.upstream_id for t in (*plan.trials, *searched)}
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
        searching = self._searching()
        self.record.set_plan(json.dumps(plan_json(self._plan), indent=2))
        states = self.record.states(t.trial_id for t in self._plan.trials)
        left = remaining(self._plan, states, self._storage.has_weights)
        todo = left.todo
        self._broken |= {trial_id: _diverged(state) for trial_id, state in left.diverged.items()}
        done = {i for i, state in states.items() if state.state is State.COMPLETE}
        summary = RunSummary(skipped=len(done - todo.keys()))
        if todo:
            self._build_stores(todo)
            self._train(todo, [t for t in self._plan.trials if t.trial_id in done], summary, searching)
        if self._plan.open_searches:
            self._plan = searching.plan()
            self.record.set_plan(json.dumps(plan_json(self._plan), indent=2))
        self._finish(summary)
        summary.seconds = time.monotonic() - started
        return summary

    def _searching(self) -> Searching:
        """The searches as the record has them; the plan gets the values that they have chosen."""
        states = self.record.states() if self._plan.searches else {}
        searches = searches_of(self._plan, states)
        self._plan = settled(self._plan, searches)
        return Searching(self._plan, searches, states)

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
        summary: RunSummary,
        searching: Searching,
    ) -> None:
        execution = self._plan.study.execution
        expected = {**todo, **searching.expected}
        labels = {i: t.trial.label for i, t in expected.items()}
        writer = RecordWriter(self.record)
        view = ProgressView(self._console, labels, {i: t.cost for i, t in expected.items()})
        note = DriverNote(self._storage, self._plan.study.name, view.eta_s)
        breaker = Breaker()
        for planned in done:
            breaker.completed(planned.trial.cell.coordinates)
        known = {i: t for i, t in todo.items() if not t.trial.is_open}
        course = _Course(known, self._resolve, writer, view, note, summary, self._broken, breaker, searching)
        try:
            with view:
                course.give_up_the_hopeless()
                if not len(course):
                    return
                with (
                    connect(self._places.address, import_paths=self._workspace.import_paths),
                    Executor(
                        max_concurrent=execution.max_concurrent,
                        limits=Limits(report_deadline_s=execution.report_deadline_s),
                        on_report=course.report,
                        on_done=course.take,
                    ) as executor,
                ):
                    executor.run(course)
        finally:
            try:
                summary.waiting = writer.close()
            finally:
                note.close()

    def _resolve(self, planned: PlannedTrial) -> ResolvedTrial:
        assert not planned.trial.is_open, "its values and its id are not known"
        attempt = f"{planned.trial_id}-{uuid.uuid4().hex[:8]}"
        # What others start from is their science: always kept, and always the selected weights.
        upstream = planned.trial_id in self._is_upstream
        keep = "best" if upstream else "none" if planned.trial.role is Role.SEARCH else self._workspace.keep_weights
        workspace = self._workspace.model_copy(update={"keep_weights": keep})
        return self._resolver.resolved(planned.trial, attempt, workspace)

    def _finish(self, summary: RunSummary) -> None:
        reported = {f.trial_id for f in summary.failed}
        for planned in self._plan.trials:
            failure = self._broken.get(planned.trial_id)
            if failure is not None and planned.trial_id not in reported:
                summary.failed.append(FailedTrial.of(planned, failure))
        broken = {f.trial_id for f in summary.failed}
        done = sum(t.trial_id not in broken for t in self._plan.trials) - summary.left
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
        searching: Searching,
    ) -> None:
        self._searching = searching
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
        self._started: dict[str, tuple[ResolvedTrial, float]] = {}
        self._expect(first)
        self._give_up(first.lost, _NO_VALUE)

    def __len__(self) -> int:
        """Trials that have not been handed out, those that a search may still ask for included."""
        return len(self._agenda) + len(self._searching)

    def demands(self, running: Mapping[GangSpec, int]) -> dict[GangSpec, Demand]:
        """What there is to do for each gang."""
        return self._agenda.demands(running)

    def next(self, gangs: Collection[GangSpec]) -> Handout | None:
        """The trial that should start now."""
        trial_id = self._agenda.next(gangs)
        if trial_id is None:
            return None
        return Handout(self._start(trial_id).model_dump(mode="json"), self._todo[trial_id].gang)

    def give_up_the_hopeless(self) -> None:
        """Fail the trials that start from one that failed before this run."""
        for trial_id in self._broken.keys() - self._todo.keys():
            self._fail_dependents(trial_id)

    def report(self, report: Report) -> None:
        """A running trial has reported."""
        self._view.report(report)
        self._note.started(str(report["trial_id"]))

    def take(self, outcome: TrialOutcome) -> None:
        """The executor says that a trial has ended."""
        trial_id, failure = outcome.trial_id, outcome.failure
        self._note.ended(trial_id)
        failpoint("driver.told")
        if outcome.result is not None:
            self._summary.trained += 1
            self._agenda.complete(trial_id)
            self._breaker.completed(self._coordinates(trial_id))
            self._writer.put(outcome.result)
            timing = outcome.result.timing
            self._view.done(trial_id, timing.total_s if timing else None)
            self._follow(self._searching.ended(trial_id, validation_value(outcome.result)))
        elif failure is not None and self._searching.spends(trial_id, failure):
            self._record_failure(trial_id, failure)
            self._view.spent(trial_id, failure.message)
            self._follow(self._searching.ended(trial_id, None))
        elif failure is not None:
            self._fail(trial_id, failure)
            self._fail_dependents(trial_id)
            self._give_up(self._stop(trial_id), _inherited(failure, f"search trial {trial_id}"))
            self._leave_alike(trial_id, failure)

    def _follow(self, step: Step) -> None:
        """A search has gone on or ended."""
        self._todo |= {t.trial_id: t for t in step.trials}
        self._expect(step)
        for planned in step.trials:
            if planned.upstream_id in self._broken:
                self._lose(planned)
            else:
                self._agenda.add(self._entry(planned), first=planned.trial.role is Role.SEARCH)
        self._summary.skipped += len(step.done)
        self._broken |= {trial_id: _diverged(state) for trial_id, state in step.diverged.items()}
        self._give_up(step.lost, _NO_VALUE)

    def _expect(self, step: Step) -> None:
        """What was expected is known now."""
        labels = {t.trial_id: t.trial.label for t in step.trials}
        self._view.revise(step.gone, labels, {t.trial_id: t.cost for t in step.trials})

    def _stop(self, trial_id: str) -> list[PlannedTrial]:
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

    def _leave_alike(self, trial_id: str, failure: Failure) -> None:
        kind = self._breaker.failed(self._coordinates(trial_id), failure)
        left = self._agenda.leave(lambda i: kind.holds(self._coordinates(i))) if kind else []
        waiting = [t.trial_id for i in left for t in self._stop(i)]
        if kind and left:
            self._summary.left += len(left) + len(waiting)
            self._view.left([*left, *waiting], kind.label, failure.message)

    def _start(self, trial_id: str) -> ResolvedTrial:
        trial = self._resolve(self._todo[trial_id])
        self._started[trial_id] = (trial, time.time())
        failpoint("driver.handed_out")
        return trial

    def _fail_dependents(self, trial_id: str) -> None:
        for lost in self._agenda.fail(trial_id):
            self._lose(self._todo[lost])

    def _lose(self, planned: PlannedTrial) -> None:
        """A trial cannot start because the one that it starts from failed."""
        failure = _inherited(self._broken[str(planned.upstream_id)], f"upstream trial {planned.upstream_id}")
        if self._searching.holds(planned.trial_id):  # not a result of the search, so nothing to record
            self._view.revise([planned.trial_id], {}, {})
            self._give_up(self._stop(planned.trial_id), failure)
            return
        self._start(planned.trial_id)
        self._fail(planned.trial_id, failure)

    def _fail(self, trial_id: str, failure: Failure) -> None:
        self._broken[trial_id] = failure
        self._summary.failed.append(FailedTrial.of(self._todo[trial_id], failure))
        self._record_failure(trial_id, failure)
        self._view.failed(trial_id, failure.message)

    def _record_failure(self, trial_id: str, failure: Failure) -> None:
        trial, started_at = self._started[trial_id]
        self._writer.put(
            TrialResult(
                trial=trial, state=State.FAILED, failure=failure, started_at=started_at, finished_at=time.time()
            )
        )


_NO_VALUE = Failure(failure_class=FailureClass.DIVERGENCE, message=NO_VALUE, public_message=NO_VALUE)


def _diverged(state: TrialState) -> Failure:
    message = state.message or "diverged before"
    return Failure(failure_class=FailureClass.DIVERGENCE, message=message, public_message=message)


def _inherited(cause: Failure, other: str) -> Failure:
    """The failure of a trial that needs another one, which failed."""
    start = f"its {other} failed: "
    return Failure(
        failure_class=cause.failure_class,
        message=start + cause.message,
        public_message=start + cause.public_message,
    )
