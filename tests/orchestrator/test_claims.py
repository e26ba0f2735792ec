"""Two drivers of one study: each trial is trained by one of them, whatever happens to the other."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from dashboards import load_results
from orchestrator import claims as claims_module
from orchestrator import drivers, engine
from orchestrator.agenda import Agenda, Entry
from orchestrator.claims import Claim, Claims, Others
from orchestrator.drivers import DriverNote
from orchestrator.engine import Engine, Places
from orchestrator.plan import Plan
from orchestrator.record_states import TrialState
from orchestrator.run_terms import RunOptions
from search_spaces.exceptions import Paused, Terminated
from search_spaces.home import scalecurves_home
from search_spaces.names import FailureClass, State
from tests.orchestrator.fake_executor import Planted
from tests.orchestrator.record_fixtures import make_result, publish
from tests.orchestrator.small_runs import plan_of
from tests.orchestrator.small_study import raw_study, rewrite_study, write_study
from tests.stand_ins import memory_storage
from trainables.storage import Storage

pytest_plugins = ("tests.orchestrator.record_plugin",)

TRIAL, OTHER = "a" * 16, "b" * 16


def _local(tmp_path: Path) -> Storage:
    return Storage(tmp_path / "storage")


def _memory(_: Path) -> Storage:
    return memory_storage()


@pytest.fixture(params=[_local, _memory], ids=["local", "fsspec-memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    made: Storage = request.param(tmp_path)
    return made


@pytest.fixture
def pair(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Claims, Claims]]:
    """The claims of two drivers that live."""
    monkeypatch.setattr(claims_module, "LOOK_S", 0.0)
    notes = [DriverNote(storage, "small", lambda: None, every_s=0.01) for _ in range(2)]
    wait_for(lambda: len(drivers.live_drivers(storage)) == 2)
    yield Claims(storage, notes[0].name), Claims(storage, notes[1].name)
    for note in notes:
        note.close()


def wait_for(condition: Any) -> None:
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it has not come to pass")


def leave_note(storage: Storage, name: str, **changes: Any) -> None:
    """The note of a driver that was killed, or that runs on another machine."""
    note = {
        "study": "small",
        "host": "elsewhere",
        "pid": 1,
        "began": 0.0,
        "machine": "another one",
        "time": time.time(),
        "running": [],
        "eta_s": None,
    }
    storage.put_note(f"driver-{name}", json.dumps(note | changes))


def test_one_of_two_drivers_gets_a_trial_until_it_gives_it_back(pair: tuple[Claims, Claims]) -> None:
    first, second = pair
    assert first.take(TRIAL) is Claim.OURS
    assert first.take(TRIAL) is Claim.OURS, "a trial that is tried again"
    assert second.take(TRIAL) is Claim.HELD
    first.release(TRIAL)
    assert second.take(TRIAL) is Claim.OURS
    first.release(TRIAL)
    assert first.take(TRIAL) is Claim.HELD, "nobody gives back what is another's"


def test_what_a_driver_has_ended_is_not_taken_by_the_other(pair: tuple[Claims, Claims]) -> None:
    first, second = pair
    first.take(TRIAL)
    first.end(TRIAL)
    second.end(TRIAL)
    assert second.take(TRIAL) is Claim.ENDED
    second.take_over(TRIAL)
    assert (second.look(TRIAL), first.look(TRIAL)) == (Claim.OURS, Claim.HELD)


def test_the_last_driver_leaves_no_claim_and_others_keep_theirs(pair: tuple[Claims, Claims], storage: Storage) -> None:
    first, second = pair
    first.take(TRIAL)
    second.take(OTHER)
    first.close()
    assert (storage.claim(TRIAL), second.look(OTHER)) == (None, Claim.OURS)
    for note in storage.notes("driver-"):
        storage.delete_note(note)
    second.close()
    assert storage.claim(OTHER) is None


def test_many_at_once_and_one_gets_it(tmp_path: Path) -> None:
    storage = _local(tmp_path)
    gate = threading.Barrier(8)
    got: list[Claim] = []

    def ask(n: int) -> None:
        mine = Claims(storage, f"driver{n}")
        gate.wait()
        got.append(mine.take(TRIAL))

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(got)[Claim.OURS] == 1
    assert set(got) == {Claim.OURS, Claim.HELD}


def test_a_driver_that_was_killed_here_blocks_nobody_for_a_moment(storage: Storage) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    storage.create_claim(TRIAL, json.dumps({"driver": "killed", "state": "held", "time": time.time()}))
    leave_note(storage, "killed", machine=drivers._machine(), pid=gone.pid)
    assert drivers.drivers_now(storage, "small") == []
    assert Claims(storage, "me").take(TRIAL) is Claim.OURS


@pytest.mark.parametrize(("age_s", "stands"), [(1.0, Claim.HELD), (drivers.STALE_S + 1, Claim.OURS)])
def test_a_driver_elsewhere_holds_its_claim_as_long_as_it_is_heard_of(
    storage: Storage, age_s: float, stands: Claim
) -> None:
    storage.create_claim(TRIAL, json.dumps({"driver": "far", "state": "held", "time": time.time() - age_s}))
    leave_note(storage, "far", time=time.time() - age_s)
    assert Claims(storage, "me").take(TRIAL) is stands


def test_a_claim_of_a_driver_without_a_note_counts_while_it_is_young(storage: Storage) -> None:
    for age_s, stands in ((0.0, Claim.HELD), (claims_module.YOUNG_S + 1, Claim.OURS)):
        storage.replace_claim(TRIAL, json.dumps({"driver": "new", "state": "held", "time": time.time() - age_s}))
        assert Claims(storage, "me").take(TRIAL) is stands


def ended_by(driver: str, at: float) -> str:
    return json.dumps({"driver": driver, "state": "ended", "time": at})


def test_an_end_from_before_the_record_was_read_counts_while_its_driver_lives(storage: Storage) -> None:
    leave_note(storage, "far")
    storage.replace_claim(TRIAL, ended_by("far", 100.0))
    storage.replace_claim(OTHER, ended_by("killed", 100.0))
    earlier, later = Claims(storage, "me", record_read_at=99.0), Claims(storage, "me", record_read_at=101.0)
    assert [earlier.look(i) for i in (TRIAL, OTHER)] == [Claim.ENDED, Claim.ENDED], "the record may not show it yet"
    assert [later.look(i) for i in (TRIAL, OTHER)] == [Claim.ENDED, Claim.FREE]
    assert later.take(OTHER) is Claim.OURS


def test_what_is_tried_again_is_taken_from_who_ended_it_before_and_not_from_who_ended_it_since(
    storage: Storage,
) -> None:
    leave_note(storage, "far")
    again = Claims(storage, "me", record_read_at=101.0, again={TRIAL, OTHER})
    storage.replace_claim(TRIAL, ended_by("far", 100.0))
    storage.replace_claim(OTHER, ended_by("far", 102.0))
    assert [again.take(i) for i in (TRIAL, OTHER)] == [Claim.OURS, Claim.ENDED]


def test_a_divergence_from_before_is_no_news_of_a_trial_that_is_tried_again(storage: Storage) -> None:
    """Two drivers try two trials again: one of them diverges anew, of the other one the driver is killed."""
    leave_note(storage, "far")
    for trial_id in (TRIAL, OTHER):
        storage.replace_claim(trial_id, json.dumps({"driver": "far", "state": "held", "time": 102.0}))
    mine = Claims(storage, "me", record_read_at=101.0, again={TRIAL, OTHER})
    broken = TrialState(state=State.FAILED, failure_class=FailureClass.DIVERGENCE)
    looks = Others(mine, storage, lambda ids: dict.fromkeys(ids, broken), every_s=0.0)
    assert not looks.mine(TRIAL)
    assert not looks.mine(OTHER)
    storage.replace_claim(TRIAL, ended_by("far", 103.0))
    storage.delete_claim(OTHER)
    assert {n.trial_id: n.state for n in looks.news()} == {TRIAL: broken, OTHER: None}


@pytest.mark.parametrize(
    "text", ["", '{"driver": "far", "sta', "[]", "{}", '{"driver": "far", "state": "x", "time": 0}']
)
def test_what_was_cut_off_while_it_was_written_stops_nobody(storage: Storage, text: str) -> None:
    storage.replace_claim(TRIAL, text)
    storage.put_note("driver-far", text)
    leave_note(storage, "near")
    assert Claims(storage, "me").take(TRIAL) is Claim.OURS
    assert drivers.live_drivers(storage).pop("near")
    assert [d.name for d in drivers.drivers_now(storage, "small")] == ["near"]
    assert drivers.stale_notes(storage) == ["driver-far"]


def test_without_a_storage_a_driver_trains_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    away = Claims(Storage(tmp_path / "file"), "me")
    assert away.take(TRIAL) is Claim.OURS
    away.end(TRIAL)
    away.release(TRIAL)
    away.close()


def test_news_of_what_others_have(pair: tuple[Claims, Claims], storage: Storage) -> None:
    other, mine = pair
    states: dict[str, TrialState] = {}
    missing = TrialState(state=State.MISSING)
    looks = Others(mine, storage, lambda ids: {i: states.get(i, missing) for i in ids}, every_s=0.0)
    ids = {name: name * 16 for name in "0123456"}
    for trial_id in ids.values():
        other.take(trial_id)
        assert not looks.mine(trial_id)
    assert (len(looks), looks.news()) == (7, [])
    for name in "1256":
        other.end(ids[name])
    for name in "34":
        other.release(ids[name])
    states[ids["1"]] = done = TrialState(state=State.COMPLETE, best_value=0.7)
    states[ids["2"]] = broken = TrialState(state=State.FAILED, failure_class=FailureClass.DIVERGENCE)
    states[ids["3"]] = TrialState(state=State.FAILED, failure_class=FailureClass.MEMORY)
    result = make_result()
    waiting = result.model_copy(update={"trial": result.trial.model_copy(update={"trial_id": ids["5"]})})
    publish(storage, waiting, ())
    news = {n.trial_id: n for n in looks.news()}
    assert len(looks) == 1, "the first one is still trained there"
    assert (news[ids["1"]].state, news[ids["2"]].state) == (done, broken)
    for name in "346":
        assert (news[ids[name]].state, news[ids[name]].result) == (None, None), "to be trained here"
    assert news[ids["5"]].result == waiting, "durable, and in no record"
    assert mine.look(ids["6"]) is Claim.OURS, "taken over: nobody knows of its result"


def test_a_done_trial_whose_weights_are_gone_is_trained_again_where_others_start_from_it(
    pair: tuple[Claims, Claims], storage: Storage
) -> None:
    other, mine = pair
    done = TrialState(state=State.COMPLETE)
    looks = Others(mine, storage, lambda ids: dict.fromkeys(ids, done), upstream={TRIAL}, every_s=0.0)
    for trial_id in (TRIAL, OTHER):
        other.take(trial_id)
        looks.mine(trial_id)
        other.release(trial_id)
    assert {n.trial_id: n.state for n in looks.news()} == {TRIAL: None, OTHER: done}


def test_a_chain_that_another_driver_has_begun_waits_outside_the_agenda() -> None:
    chain = [Entry(trial_id="up", cost=3.0), Entry(trial_id="low", cost=2.0, upstream_id="up")]
    agenda: Agenda[None] = Agenda([*chain, Entry(trial_id="alone", cost=1.0)])
    assert agenda.next() == "up"
    agenda.set_aside("up")
    assert (len(agenda), agenda.aside) == (1, 1)
    agenda.add(Entry(trial_id="lower", cost=1.0, upstream_id="low"))
    assert agenda.next() == "alone"
    assert len(agenda) == 0
    assert agenda.take_up("up")
    assert not agenda.take_up("up")
    agenda.complete("up")
    assert agenda.next() == "low"
    agenda.set_aside("low")
    assert agenda.leave(lambda i: i == "low") == ["low", "lower"]
    assert not agenda.take_up("low"), "taken off meanwhile"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_study(tmp_path)
    return tmp_path


def plan_in(folder: Path, **changes: Any) -> Plan:
    file = rewrite_study(folder, **raw_study() | {"seeds": 3} | changes)
    return plan_of(file, load_weights=False)


@pytest.mark.parametrize("tuned", [False, True], ids=["plain", "tuned"])
def test_two_drivers_share_a_study_and_leave_one_result_per_trial(
    folder: Path, tracking_uri: str, monkeypatch: pytest.MonkeyPatch, tuned: bool
) -> None:
    monkeypatch.setattr(engine, "LOOK_S", 0.02)
    monkeypatch.setattr(claims_module, "LOOK_S", 0.02)
    planted = Planted(pause_s=0.03).install(monkeypatch)
    changes = {"tuning": {"trials": 4, "generation_size": 2, "space": {"lr": {"log": [1e-4, 1e-2]}}}} if tuned else {}
    places = Places(home=scalecurves_home(), storage=str(folder / "storage"), tracking_uri=tracking_uri)
    runs = [Engine(plan_in(folder, **changes), places, Console(quiet=True)) for _ in range(2)]
    gate = threading.Barrier(2)
    summaries = []

    def drive(run: Engine) -> None:
        gate.wait()
        summaries.append(run.run())

    threads = [threading.Thread(target=drive, args=(run,)) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(summaries) == 2
    assert all(s.everything_asked_is_true for s in summaries), summaries
    trained = Counter(trial.trial_id for trial in planted.trained)
    assert set(trained.values()) == {1}, "nothing was trained twice"
    assert min(s.trained for s in summaries) > 0, "both took part"
    results = load_results(plan_in(folder).study.name, tracking_uri)
    assert sorted(results["trial_id"]) == sorted(trained)
    assert not (folder / "storage" / plan_in(folder).study.name / "claims").exists()


def test_a_divergence_whose_driver_was_killed_gets_a_new_attempt_when_it_is_asked_for(
    folder: Path, tracking_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_in(folder)
    places = Places(home=scalecurves_home(), storage=str(folder / "storage"), tracking_uri=tracking_uri)
    diverges = plan.targets[0].trial_id
    first = Planted(breaks=lambda t: FailureClass.DIVERGENCE if t.trial_id == diverges else None).install(monkeypatch)
    before = Engine(plan, places, Console(quiet=True)).run()
    assert [f.trial_id for f in before.failed] == [diverges]
    assert first.rests == 0
    Storage(folder / "storage" / plan.study.name).replace_claim(diverges, ended_by("killed", time.time()))
    second = Planted().install(monkeypatch)
    options = RunOptions(diverged_too=True)
    assert Engine(plan_in(folder), places, Console(quiet=True), options).run().everything_asked_is_true
    assert [t.trial_id for t in second.trained] == [diverges]


@pytest.mark.parametrize(("raised", "ends"), [(KeyboardInterrupt, Paused), (Terminated, Terminated)])
def test_ctrl_c_ends_the_wait_for_another_run_well_and_a_stopped_job_is_not_done(
    folder: Path,
    tracking_uri: str,
    monkeypatch: pytest.MonkeyPatch,
    raised: type[BaseException],
    ends: type[BaseException],
) -> None:
    planted = Planted().install(monkeypatch)
    plan = plan_in(folder)
    storage = Storage(folder / "storage" / plan.study.name)
    leave_note(storage, "far")
    held = json.dumps({"driver": "far", "state": "held", "time": time.time()})
    storage.replace_claim(plan.targets[0].trial_id, held)

    def interrupt(seconds: float) -> None:
        if planted.rests:
            raise raised

    monkeypatch.setattr(engine.time, "sleep", interrupt)
    places = Places(home=scalecurves_home(), storage=str(folder / "storage"), tracking_uri=tracking_uri)
    with pytest.raises(ends) as caught:
        Engine(plan, places, Console(quiet=True)).run()
    assert type(caught.value) is ends


def test_a_run_that_waits_for_another_one_gives_its_gangs_back(
    folder: Path, tracking_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "LOOK_S", 0.02)
    monkeypatch.setattr(claims_module, "LOOK_S", 0.02)
    planted = Planted().install(monkeypatch)
    plan = plan_in(folder)
    elsewhere = plan.targets[0].trial_id
    storage = Storage(folder / "storage" / plan.study.name)
    leave_note(storage, "far")
    storage.replace_claim(elsewhere, json.dumps({"driver": "far", "state": "held", "time": time.time()}))

    planted.at_rest = lambda: storage.delete_claim(elsewhere)  # the other run goes on only once it gets the room
    places = Places(home=scalecurves_home(), storage=str(folder / "storage"), tracking_uri=tracking_uri)
    assert Engine(plan, places, Console(quiet=True)).run().everything_asked_is_true
    assert planted.rests == 1
    assert [t.trial_id for t in planted.trained][-1] == elsewhere
