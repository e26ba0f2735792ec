"""Trials that are taken out of a run while it goes on."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from orchestrator.breaker import Breaker
from orchestrator.cancel import Cancellation, needless, request, selected_keys
from orchestrator.course import Course
from orchestrator.drivers import DriverNote, answer_to, ask_to_cancel, drivers_now, stale_notes
from orchestrator.pace import TimeLeft
from orchestrator.pilot import TrialOutcome
from orchestrator.run_terms import RunSummary
from orchestrator.searching import Searching
from search_spaces.exceptions import UserError
from search_spaces.names import FailureClass, Role
from search_spaces.results import Failure
from search_spaces.selection import Key, key_of
from search_spaces.study import GangSpec
from tests.orchestrator.planned_trials import plan_of, planned
from tests.orchestrator.record_fixtures import make_result, make_study
from trainables.storage import Storage

EVERY_S = 0.01
PATIENCE_S = 30.0

UP = planned("a" * 16, role=Role.UPSTREAM, cost=9.0)
ONE, TWO = (planned(c * 16, UP, seed=n) for n, c in enumerate("bc"))
ALONE, LONG = planned("d" * 16, seed=5, cost=2.0), planned("e" * 16, seed=6, cost=50.0)


EXAMPLE, EXAMPLE_TIMING = make_result().trial, make_result().timing


def keys(*trials: Any) -> list[Key]:
    """How a request names them."""
    return [key_of(t.trial) for t in trials]


class Quiet:
    """Takes every call of a progress view, a note or a writer."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: self.calls.append((name, arguments))


class Run:
    """A course of these trials with an executor that only writes down what it is told to stop."""

    def __init__(self, *trials: Any) -> None:
        self.stopped: list[str] = []
        self.summary = RunSummary()
        self.view, self.note = Quiet(), Quiet()
        self.course = Course(
            {t.trial_id: t for t in trials},
            lambda t, save_memory: EXAMPLE.model_copy(update={"trial_id": t.trial_id}),
            Quiet(),
            self.view,
            self.note,
            self.summary,
            {},
            Breaker(),
            Searching(plan_of(*trials), {}, {}),
        )
        self.course.stops_with(self.stopped.append)

    def start(self) -> str:
        handout = self.course.next([GangSpec()])
        assert handout is not None
        return str(handout.payload["trial_id"])

    def finish(self, trial_id: str) -> None:
        result = make_result()
        self.course.take(TrialOutcome(trial_id=trial_id, attempt_id="x", result=result))


def test_waiting_trials_are_held_back_and_running_ones_stopped():
    run = Run(ALONE, LONG, UP, ONE, TWO)
    assert [run.start(), run.start()] == [LONG.trial_id, UP.trial_id]
    assert run.course.cancel(keys(LONG, ALONE)) == 2
    assert len(run.course) == 2, "those that start from the upstream trial are left"
    assert run.stopped == [LONG.trial_id]
    assert run.summary.cancelled == 2
    assert not run.summary.everything_asked_is_true
    run.finish(UP.trial_id)
    assert {run.start(), run.start()} == {ONE.trial_id, TWO.trial_id}
    assert len(run.course) == 0


def test_an_upstream_trial_goes_on_as_long_as_one_that_needs_it_does():
    run = Run(UP, ONE, TWO)
    assert run.start() == UP.trial_id
    run.course.cancel(keys(ONE))
    assert (len(run.course), run.stopped) == (1, [])
    run.course.cancel(keys(TWO))
    assert (len(run.course), run.stopped) == (0, [UP.trial_id])
    assert run.summary.cancelled == 3


def test_a_trial_that_ended_before_it_could_be_stopped_counts_as_trained():
    run = Run(LONG)
    run.start()
    run.course.cancel(keys(LONG))
    assert (len(run.course), run.summary.cancelled) == (0, 1)
    run.finish(LONG.trial_id)
    assert (run.summary.trained, run.summary.cancelled) == (1, 0)
    assert run.summary.everything_asked_is_true


def test_a_resumed_trial_says_nothing_about_the_time_left():
    run = Run(ALONE, LONG)
    for trial_id, earlier_s in ((run.start(), 0.0), (run.start(), 180.0)):
        timing = EXAMPLE_TIMING.model_copy(update={"earlier_s": earlier_s})
        run.course.take(TrialOutcome(trial_id=trial_id, attempt_id="x", result=make_result(timing=timing)))
    took = [arguments[1] for name, arguments in run.view.calls if name == "done"]
    assert took == [EXAMPLE_TIMING.total_s, None]


def test_what_has_ended_or_is_unknown_is_not_cancelled():
    run = Run(LONG, ALONE)
    run.finish(run.start())
    assert run.course.cancel(keys(LONG, planned("f" * 16, seed=99))) == 1
    assert (len(run.course), run.summary.cancelled, run.stopped) == (1, 0, [])


def test_needless_are_whole_chains():
    top = planned("1" * 16, role=Role.UPSTREAM)
    middle = planned("2" * 16, top, role=Role.UPSTREAM)
    low = planned("3" * 16, middle)
    assert needless([top, middle, low], {low.trial_id}) == {top.trial_id, middle.trial_id}
    assert needless([top, middle, low], set()) == set()


def test_requests_of_another_thread_are_heard_once():
    todo = {LONG.trial_id: LONG}
    cancellation = Cancellation(todo)
    assert not cancellation.hear()
    asking = threading.Thread(target=cancellation.ask, args=(keys(LONG, ALONE),))
    asking.start()
    asking.join()
    assert cancellation.hear()
    assert cancellation.asked(set()) == {LONG.trial_id}
    cancellation.hold([LONG.trial_id])
    assert not cancellation.hear()
    todo[ALONE.trial_id] = ALONE
    assert cancellation.hear(), "a trial that becomes known later was meant, too"
    assert cancellation.asked(set()) == {ALONE.trial_id}


@pytest.fixture(params=["local", "memory"])
def storage(request, tmp_path):
    if request.param == "memory":
        pytest.importorskip("fsspec", reason="the storage in memory needs fsspec")
        return Storage(f"memory://{tmp_path.name}")
    return Storage(tmp_path / "storage")


def test_a_driver_hears_a_request_over_the_storage(storage):
    heard: list[frozenset[Key]] = []
    note = DriverNote(storage, "skin", lambda: TimeLeft(60.0, 5.0), every_s=EVERY_S)
    note.listen(lambda asked: heard.append(frozenset(asked)) or 7)
    note.started(LONG.trial_id, *keys(LONG))
    note.started(UP.trial_id)
    try:
        [driver] = wait_for(lambda: [d for d in drivers_now(storage, "skin") if d.running])
        assert driver.running == {LONG.trial_id, UP.trial_id}
        assert driver.targets == set(keys(LONG))
        assert driver.left == TimeLeft(60.0, 5.0)
        assert request(storage, [driver], keys(LONG), patience_s=PATIENCE_S, every_s=EVERY_S) == {driver: 7}
        assert heard == [frozenset(keys(LONG))]
        assert not drivers_now(storage, "another")
    finally:
        note.close()
    assert storage.notes() == {}


def test_a_driver_that_does_not_listen_is_named_and_its_notes_go_stale(storage):
    note = DriverNote(storage, "skin", lambda: None, every_s=EVERY_S)
    try:
        [driver] = wait_for(lambda: drivers_now(storage, "skin"))
        assert request(storage, [driver], keys(LONG), patience_s=0.0) == {driver: None}
        assert stale_notes(storage) == []
    finally:
        note.close()
    assert storage.notes() == {}, "a driver takes what it was asked with it"
    lost = ask_to_cancel(storage, driver, keys(LONG))
    assert stale_notes(storage) == [lost]
    assert answer_to(storage, driver, lost) == 0


def test_trials_are_selected_by_their_place_in_the_study():
    study = make_study()
    chosen = selected_keys(study, "pretraining_source=natural,seed=0")
    assert chosen == {("resnet20", "natural", amount, "ham10000", "0") for amount in ("0.05", "patients=9")}
    with pytest.raises(UserError, match="selects no trial"):
        selected_keys(study, "data_fraction<0")


def wait_for(look, turns: int = 3000):
    """What ``look`` gives once it gives something."""
    for _ in range(turns):
        if found := look():
            return found
        threading.Event().wait(EVERY_S)
    raise AssertionError("nothing in half a minute")


def test_memory_that_ran_out_is_answered_once_with_less_and_then_the_trial_has_failed():
    run = Run(LONG)
    saving = []
    resolve = run.course._resolve
    run.course._resolve = lambda t, save_memory: (saving.append(save_memory), resolve(t, save_memory))[1]
    out_of_memory = Failure(failure_class=FailureClass.MEMORY, message="m", public_message="m")
    for _ in range(2):
        trial_id = run.start()
        run.course.take(TrialOutcome(trial_id=trial_id, attempt_id="x", failure=out_of_memory))
    assert saving == [False, True]
    assert len(run.course) == 0
    assert [f.failure_class for f in run.summary.failed] == [FailureClass.MEMORY]
