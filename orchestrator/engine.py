"""Make a study true: plan, skip what is done, train what is missing, record it, write the report."""

from __future__ import annotations

import json
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext

from rich.console import Console

from cluster.connection import connect, meanwhile, present_and_possible
from orchestrator.breaker import Breaker
from orchestrator.budget import Budget, work_of
from orchestrator.card_text import card_markdown
from orchestrator.claims import LOOK_S, Claims, Others
from orchestrator.course import Course, diverged
from orchestrator.data_cards import data_cards
from orchestrator.drivers import DriverNote
from orchestrator.executor import Executor, Limits
from orchestrator.known_trials import ended_elsewhere, took_by, works_of
from orchestrator.memory_limits import MemoryLimits, devices_of
from orchestrator.outage import Outage
from orchestrator.places import Places
from orchestrator.plan import Plan, PlannedTrial, import_paths, stores_needed
from orchestrator.plan_representations import kept_by
from orchestrator.plan_text import plan_json
from orchestrator.plan_whole import whole_of
from orchestrator.progress import ProgressView
from orchestrator.record import Record
from orchestrator.record_states import TrialState
from orchestrator.record_writer import RecordWriter
from orchestrator.remaining import remaining
from orchestrator.run_terms import FailedTrial, RunOptions, RunSummary
from orchestrator.running_contrasts import RunningContrasts
from orchestrator.searches import searches_of, settled, settled_by
from orchestrator.searching import Searching
from search_spaces.exceptions import Paused, Terminated, TrackingError, UserError
from search_spaces.names import FailureClass, Role, State
from search_spaces.results import Failure, TrialResult
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

    Attributes:
        whole_plan: The plan of the whole study, of which ``plan`` may be a part; once it has run.
        record: The study's record.

    Raises:
        UserError: The plan has problems.
    """

    def __init__(self, plan: Plan, places: Places, console: Console, options: RunOptions | None = None) -> None:
        if plan.problems or plan.resolver is None:
            raise UserError("\n".join(plan.problems))
        self._options = options or RunOptions()
        self.whole_plan = plan
        self._plan = plan if self._options.targets is None else plan.narrowed(self._options.targets)
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
            device_cache_gib=plan.study.execution.device_cache_gib,
        )
        self._broken: dict[str, Failure] = {}
        self._record_read_at = 0.0
        self._await_cluster: Callable[[], None] = lambda: None
        self._again: frozenset[str] = frozenset()
        self.record = Record(plan.study, self._storage, places.tracking_uri)

    def run(self) -> RunSummary:
        """Train what is missing; returns when nothing more can be done.

        Raises:
            UserError: The storage cannot be written.
            TrackingError: MLflow cannot be reached at the start, or does not take what earlier runs left.
            DataError: Images cannot be read.
        """
        started = time.monotonic()
        self._storage.check_writable()
        self._storage.clean_tmp()
        self.whole_plan = whole_of(self.whole_plan, TaskLibrary(self._places.home), self._console)
        with self._cluster_if_surely_needed() as self._await_cluster:
            summary = self._run()
        summary.seconds = time.monotonic() - started
        return summary

    def _cluster_if_surely_needed(self) -> AbstractContextManager[Callable[[], None]]:
        """A local cluster that starts while the record is opened, where nothing has ever been trained."""
        if self._places.address != "local" or not self._plan.trials or not self._storage.is_new:
            return nullcontext(lambda: None)
        return meanwhile(self._connection())

    def _connection(self) -> AbstractContextManager[None]:
        return connect(self._places.address, import_paths=self._workspace.import_paths)

    def _run(self) -> RunSummary:
        self._console.print("connecting to the record", style="dim")
        self.record.open()
        self._deliver_earlier()
        self._record_read_at = time.time()
        searching = self._searching()
        self.record.set_plan(json.dumps(plan_json(self.whole_plan), indent=2))
        self._describe_data()
        states = self.record.states(t.trial_id for t in self._plan.trials)
        left = remaining(self._plan, states, self._storage.has_weights, diverged_too=self._options.diverged_too)
        todo = left.todo
        self._broken |= {trial_id: diverged(state) for trial_id, state in left.diverged.items()}
        self._again = frozenset(i for i in todo if states[i].failure_class is FailureClass.DIVERGENCE)
        done = {i for i, state in states.items() if state.state is State.COMPLETE}
        summary = RunSummary(skipped=len(done - todo.keys()))
        if todo:
            self._build_stores(todo)
            known = {t.trial_id: states[t.trial_id] for t in self._plan.trials if t.trial_id in done}
            self._train(todo, known, summary, searching)
        if self._plan.open_searches:
            self.whole_plan = searching.settled(self.whole_plan)
            self._plan = searching.settled(self._plan)
        self._finish(summary)
        return summary

    def _deliver_earlier(self) -> None:
        spool = self.record.deliver_earlier()
        if spool.delivered:
            self._console.print(f"delivered {spool.delivered} attempts that were waiting in the storage")
        for message in spool.damaged:
            self._console.print(f"cannot be read and stays in the storage: {message}", style="yellow", markup=False)

    def _describe_data(self) -> None:
        """Data cards of all tasks that are run; they are small, and what the report says of the data."""
        cards = data_cards(self.whole_plan, TaskLibrary(self._places.home))
        # Of other tasks, near copies were not looked for, but may have been for the cards that are there.
        mine = {task: card for task, card in cards.items() if task in self._plan.rows}
        texts = {task: (json.dumps(card, indent=2), card_markdown(card)) for task, card in mine.items()}
        self.record.set_data_cards(texts)

    def _searching(self) -> Searching:
        """The searches as the record has them; the plans get the values that they have chosen."""
        states = self.record.states() if self.whole_plan.searches else {}
        searches = searches_of(self._plan, states)
        self._plan = settled(self._plan, searches)
        self.whole_plan, _ = settled_by(self.whole_plan, lambda: states)
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
        done: Mapping[str, TrialState],
        summary: RunSummary,
        searching: Searching,
    ) -> None:
        execution = self._plan.study.execution
        view = self._view({**todo, **searching.expected}, done)
        note = DriverNote(self._storage, self._plan.study.name, view.time_left)
        claims = Claims(self._storage, note.name, record_read_at=self._record_read_at, again=self._again)
        writer = RecordWriter(self.record, lambda result, run_id: _end_claim(claims, result))
        others = Others(claims, self._storage, self.record.states, self._is_upstream)
        outage = Outage(self._storage.check_writable)
        breaker = Breaker()
        for planned in self._plan.trials:
            if planned.trial_id in done:
                breaker.completed(planned.trial.cell.coordinates)
        known = {i: t for i, t in todo.items() if not t.trial.is_open}
        course = Course(
            known, self._resolve, writer, view, note, summary, self._broken, breaker, searching, others, outage
        )
        try:
            with view:
                course.give_up_the_hopeless()
                if not len(course):
                    return
                self._await_cluster()
                with self._connection():
                    course.remember_memory(MemoryLimits(self._storage, lambda: devices_of(present_and_possible())))
                    if self._options.max_gpu_hours is not None:
                        self._limit(course, self._options.max_gpu_hours)
                    with Executor(
                        max_concurrent=self._options.max_concurrent or execution.max_concurrent,
                        limits=Limits(report_deadline_s=execution.report_deadline_s),
                        on_report=course.report,
                        on_done=course.take,
                        on_signal=view.stopping,
                    ) as executor:
                        course.stops_with(executor.stop)
                        note.listen(course.cancel)
                        executor.run(course)
                        while course.elsewhere or len(course):
                            self._wait_for_others(course, executor)
                            executor.run(course)
        finally:
            outage.close()
            try:
                summary.waiting = writer.close()
                summary.outage = "" if writer.outage is None else str(writer.outage)
            finally:
                claims.close()
                note.close()

    def _wait_for_others(self, course: Course, executor: Executor) -> None:
        """Until there is something to train here again, or nothing that other drivers train is left. Meanwhile others
        may need the gangs' room: two drivers on one cluster would wait for each other.

        Raises:
            Paused: Ctrl-C; nothing of this driver runs.
            Terminated: SIGTERM.
        """
        if len(course) or not course.elsewhere:
            return
        executor.rest()
        self._console.print(f"{course.elsewhere} trials are being trained by another run of this study; waiting")
        try:
            while course.elsewhere and not len(course):
                time.sleep(LOOK_S)
        except Terminated:
            raise
        except KeyboardInterrupt:
            raise Paused from None

    def _view(self, expected: Mapping[str, PlannedTrial], done: Mapping[str, TrialState]) -> ProgressView:
        study = self._plan.study
        primaries = {name: task.primary for name, task in study.tasks.items()}
        contrasts = RunningContrasts(study.statistics.baseline, primaries)
        trials = {i: t.trial for i, t in expected.items()}
        view = ProgressView(self._console, trials, {i: t.cost for i, t in expected.items()}, contrasts)
        for planned in self._plan.trials:
            if planned.trial_id in done:
                view.known(planned.trial_id, planned.trial, done[planned.trial_id].best_value)
        return view

    def _limit(self, course: Course, gpu_hours: float) -> None:
        """What the whole study has taken so far says what trials will take, also where this run trains a part of it."""
        nodes, states = present_and_possible(), self.record.states()
        works = works_of(self._plan, searches_of(self._plan, states), nodes)
        mine = {work.trial_id for work in works}
        elsewhere = [work_of(t, nodes=nodes) for t in ended_elsewhere(lambda: self.whole_plan, mine, states)]
        budget = Budget(gpu_hours, works, took_by(states), elsewhere)
        course.keep_within(budget, lambda planned: work_of(planned, upstream_id=planned.upstream_id, nodes=nodes))

    def _resolve(self, planned: PlannedTrial, save_memory: bool) -> ResolvedTrial:
        assert not planned.trial.is_open, "its values and its id are not known"
        attempt = f"{planned.trial_id}-{uuid.uuid4().hex[:8]}"
        # What others start from is their science: always kept, and always the selected weights.
        upstream = planned.trial_id in self._is_upstream
        keep = "best" if upstream else "none" if planned.trial.role is Role.SEARCH else self._workspace.keep_weights
        kept = kept_by(self._plan.study, planned.trial, self._resolver)
        own = {"keep_weights": keep, "save_memory": save_memory, "representations": kept}
        workspace = self._workspace.model_copy(update=own)
        return self._resolver.resolved(planned.trial, attempt, workspace)

    def _finish(self, summary: RunSummary) -> None:
        reported = {f.trial_id for f in summary.failed}
        for planned in self._plan.trials:
            failure = self._broken.get(planned.trial_id)
            if failure is not None and planned.trial_id not in reported:
                summary.failed.append(FailedTrial.of(planned, failure))
        targets = [t.trial_id for t in self.whole_plan.targets]
        try:
            # Of the whole study, of which this run may have been asked a part.
            states = Counter(state.state for state in self.record.states(targets).values())
            self.record.set_progress({"complete": states[State.COMPLETE], "failed": states[State.FAILED]})
            if self._plan.searches:
                self.record.set_plan(json.dumps(plan_json(self.whole_plan), indent=2))
        except TrackingError as error:
            self._console.print(f"the record does not answer: {error}", style="yellow", markup=False)


def _end_claim(claims: Claims, result: TrialResult) -> None:
    """The record has this attempt: other drivers need not make another one, unless it may go better."""
    diverged_ = result.failure is not None and result.failure.failure_class is FailureClass.DIVERGENCE
    if result.state is State.COMPLETE or diverged_:
        claims.end(result.trial.trial_id)
