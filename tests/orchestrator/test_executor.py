"""Trials through Tune and warm gangs on a local cluster of two CPUs, with every accident that costs one trial only."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

ray = pytest.importorskip("ray")

from ray.util.placement_group import (  # noqa: E402
    placement_group,
    placement_group_table,
    remove_placement_group,
)

from cluster.connection import connect  # noqa: E402
from orchestrator import executor as executor_module  # noqa: E402
from orchestrator import gangs as gangs_module  # noqa: E402
from orchestrator.agenda import Agenda, Entry  # noqa: E402
from orchestrator.broker import BrokerConfig  # noqa: E402
from orchestrator.executor import Executor, Limits  # noqa: E402
from orchestrator.feed import Feed, Handout, InOrder  # noqa: E402
from orchestrator.fleet import Demand  # noqa: E402
from orchestrator.pilot import TrialOutcome  # noqa: E402
from search_spaces.exceptions import Paused, UserError  # noqa: E402
from search_spaces.names import FailureClass  # noqa: E402
from search_spaces.study import GangSpec  # noqa: E402
from tests.orchestrator.fake_training import LEAK_BYTES, payload  # noqa: E402

pytestmark = pytest.mark.ray

TRAIN = "tests.orchestrator.fake_training:train"
DEADLINE_S = 40.0
"""A process that has just been started imports torch before its first report: half a minute on a slow machine."""


class Bench:
    """An executor and what it said."""

    def __init__(self, ranks: int, max_concurrent: int | None = None, **limits: Any) -> None:
        self.reports: list[dict[str, Any]] = []
        self.outcomes: list[TrialOutcome] = []
        self.on_report: Any = lambda report: None
        self.on_done: Any = lambda outcome: None
        self.gang = GangSpec(ranks=ranks)
        usual = {"report_deadline_s": DEADLINE_S, "max_node_retries": 1, "trials_per_tuner": 150}
        self.executor = Executor(
            on_report=self._report,
            on_done=self._done,
            train=TRAIN,
            max_concurrent=max_concurrent,
            limits=Limits(stop_patience_s=30.0, **(usual | limits)),
        )

    def run(self, trials: list[dict[str, Any]]) -> dict[int, TrialOutcome]:
        """Number of a trial -> how it ended; each ended once."""
        return self.run_feed(InOrder(trials, self.gang))

    def run_feed(self, feed: Feed) -> dict[int, TrialOutcome]:
        """The same for any feed."""
        self.reports.clear()
        self.outcomes.clear()
        self.executor.run(feed)
        numbered = {int(o.trial_id, 16): o for o in self.outcomes}
        assert len(numbered) == len(self.outcomes)
        return numbered

    def _report(self, report: dict[str, Any]) -> None:
        self.reports.append(report)
        self.on_report(report)

    def _done(self, outcome: TrialOutcome) -> None:
        self.outcomes.append(outcome)
        self.on_done(outcome)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with connect("local", num_cpus=2):
        yield


@pytest.fixture(scope="module")
def gang_bench(cluster: None) -> Iterator[Bench]:
    bench = Bench(ranks=2)
    yield bench
    bench.executor.close()


@pytest.fixture
def gang(gang_bench: Bench) -> Iterator[Bench]:
    yield gang_bench
    gang_bench.on_report = gang_bench.on_done = lambda _: None


@pytest.fixture
def solo(cluster: None, gang_bench: Bench) -> Iterator[Bench]:
    """Single processes need the CPUs that the gang holds: these tests come last."""
    gang_bench.executor.close()
    bench = Bench(ranks=1)
    yield bench
    bench.executor.close()


def weights(outcome: TrialOutcome) -> str:
    assert outcome.failure is None, outcome.failure
    assert outcome.result is not None
    return str(outcome.result.extra["weights"])


def pid(outcome: TrialOutcome) -> int:
    assert outcome.result is not None, outcome.failure
    return int(outcome.result.extra["pid"])


def failure_class(outcome: TrialOutcome) -> FailureClass:
    assert outcome.failure is not None
    return outcome.failure.failure_class


def titles() -> list[str]:
    """Titles of the processes of this test's cluster; Ray's actors are called ``ray::Class.method``."""
    return [title for title, _ in _processes()]


def processes_named(name: str) -> list[int]:
    """Ids of the cluster's processes of one actor class."""
    return [number for title, number in _processes() if title.startswith(name)]


def _processes() -> Iterator[tuple[str, int]]:
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            yield " ".join(child.cmdline()).strip(), child.pid


def until(look: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Wait for what is looked for; what was found."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := look():
            return found
        time.sleep(0.05)
    raise AssertionError("it has not come to pass")


def waiting_rooms() -> list[str]:
    """Placement groups of ranks that wait for room; those of leases ask for no CPU."""
    return [
        str(group["placement_group_id"])
        for group in placement_group_table().values()
        if group["state"] == "PENDING" and all("CPU" in bundle for bundle in group["bundles"].values())
    ]


@pytest.fixture
def free_the_room(cluster: None, gang_bench: Bench) -> Iterator[Callable[[], None]]:
    """Somebody holds one of the two CPUs until this is called."""
    gang_bench.executor.close()
    until(lambda: not processes_named("ray::TrainController"))
    assert not waiting_rooms()
    held = placement_group([{"CPU": 1}])
    assert held.wait(60)
    yield partial(remove_placement_group, held)
    remove_placement_group(held)


@contextmanager
def ranks_die_as_they_start() -> Iterator[None]:
    """Killed as soon as they show their name: to import torch, with which they meet, takes longer."""
    over = threading.Event()

    def kill() -> None:
        while not over.wait(0.05):
            for number in processes_named("ray::RayTrainWorker"):
                with suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_each_accident_costs_its_own_trial_only(gang: Bench, tmp_path: Path) -> None:
    faults = ["", "raise_on_one", "raise_on_first", "diverge", "exit", ""]
    outcomes = gang.run([payload(n, tmp_path, fault=fault) for n, fault in enumerate(faults)])
    assert len(outcomes) == len(faults)
    assert failure_class(outcomes[1]) is FailureClass.DATA
    assert failure_class(outcomes[2]) is FailureClass.USER
    assert failure_class(outcomes[3]) is FailureClass.DIVERGENCE
    assert failure_class(outcomes[4]) is FailureClass.USER
    assert pid(outcomes[0]) == pid(outcomes[5]), "the gang went on in the same processes"
    unreadable = outcomes[1].failure
    assert unreadable is not None
    assert "cannot be read" in unreadable.message
    assert "Jane" not in unreadable.public_message
    assert "raise_on_one" in unreadable.detail


def test_reports_come_with_the_names_of_their_trial_and_in_order(gang: Bench) -> None:
    gang.run([payload(1, steps=6, evaluations=3)])
    assert [(r["trial_id"], r["attempt_id"], r["step"], r["steps"]) for r in gang.reports] == [
        (f"{1:016x}", "attempt-1", step, 6) for step in (2, 4, 6)
    ]


def test_warm_equals_cold_and_a_killed_rank_costs_only_its_trial(gang: Bench, tmp_path: Path) -> None:
    warm = gang.run([payload(n) for n in range(3)])
    lost_before = gang.executor.counts().get("lost", 0)
    # Killed at its first step, this trial is the first of fresh processes when it is tried again.
    cold = gang.run([payload(2, tmp_path, fault="kill_once", fault_step=0), payload(1), payload(0)])
    assert gang.executor.counts()["lost"] == lost_before + 1
    assert pid(cold[2]) != pid(warm[2])
    assert pid(cold[2]) == pid(cold[0])
    assert {n: weights(o) for n, o in cold.items()} == {n: weights(o) for n, o in warm.items()}
    assert weights(warm[0]) != weights(warm[1])


def test_interrupted_and_resumed_equals_uninterrupted(gang: Bench, tmp_path: Path) -> None:
    trials = [payload(n, tmp_path, steps=6, evaluations=6) for n in range(4)]
    gang.on_report = lambda report: os.kill(os.getpid(), signal.SIGTERM) if report["step"] == 2 else None
    with pytest.raises(KeyboardInterrupt):
        gang.run(trials)
    assert gang.outcomes == []
    [interrupted] = {int(r["trial_id"], 16) for r in gang.reports}
    gang.on_report = lambda report: None
    resumed = gang.run(trials)
    first = resumed[interrupted].result
    assert first is not None
    assert first.resumed_from >= 2
    whole = gang.run([payload(n, steps=6, evaluations=6) for n in range(4)])
    assert {n: weights(o) for n, o in resumed.items()} == {n: weights(o) for n, o in whole.items()}


def test_an_error_of_a_callback_stops_the_run_and_is_raised(gang: Bench) -> None:
    def full_disk(outcome: TrialOutcome) -> None:
        raise OSError("disk full")

    gang.on_done = full_disk
    with pytest.raises(OSError, match="disk full"):
        gang.run([payload(n, steps=2, evaluations=1) for n in range(40)])
    assert len(gang.outcomes) < 40


def test_a_trial_that_kills_its_ranks_each_time_fails_and_the_next_one_runs(gang: Bench) -> None:
    outcomes = gang.run([payload(0, fault="kill"), payload(1)])
    assert failure_class(outcomes[0]) is FailureClass.NODE
    assert outcomes[1].failure is None


def test_a_rank_that_hangs_is_shot_at_the_deadline_and_its_trial_tried_again(gang: Bench, tmp_path: Path) -> None:
    outcomes = gang.run([payload(0, tmp_path, fault="hang_once")])
    assert outcomes[0].failure is None
    assert gang.executor.counts()["shot"] == 1


def test_out_of_memory_is_its_own_class_and_the_gang_goes_on_in_fresh_processes(gang: Bench) -> None:
    # One run each: of trials that are ready together, the second may start first.
    before, alike = gang.run([payload(0)])[0], gang.run([payload(1)])[1]
    assert failure_class(gang.run([payload(2, fault="out_of_memory")])[2]) is FailureClass.MEMORY
    after = gang.run([payload(3)])[3]
    assert pid(before) == pid(alike) != pid(after)


def test_a_gang_whose_controller_is_killed_comes_back_and_its_room_is_free(gang: Bench) -> None:
    """Train's controller holds the ranks' placement group; nobody else would remove it before the driver ends."""
    before = gang.run([payload(0)])[0]
    killed: list[int] = []

    def kill_once(report: dict[str, Any]) -> None:
        if not killed:
            killed.extend(processes_named("ray::TrainController"))
            for number in killed:
                os.kill(number, signal.SIGKILL)

    gang.on_report = kill_once
    # One run each: of trials that are ready together, the second may start first.
    after = gang.run([payload(1, steps=40, evaluations=20, sleep_s=0.1)]) | gang.run([payload(2)])
    assert len(killed) == 1
    assert all(outcome.failure is None for outcome in after.values())
    assert pid(before) != pid(after[2])


def test_beside_the_ranks_a_gang_has_a_controller_and_a_point_of_synchronisation_only(gang: Bench) -> None:
    gang.run([payload(0)])
    of_train = re.compile(r"ray::(?:\S*:)?(\w*(?:Train|Synchron|Placement|Coordinator|Shard)\w*)")
    found = [match[1] for title in titles() if (match := of_train.match(title))]
    assert Counter(name for name in found if name != "GangTrainable") == {
        "TrainController": 1,
        "SynchronizationActor": 1,
        "RayTrainWorker": 2,
    }


def test_two_hundred_trials_in_one_gang_end_with_the_private_memory_of_twenty(gang: Bench) -> None:
    outcomes = gang.run([payload(n) for n in range(200)])
    assert len({pid(o) for o in outcomes.values()}) == 1
    size = [o.result.extra["rss"] for _, o in sorted(outcomes.items()) if o.result is not None]
    assert len(size) == 200
    assert size[199] <= 1.05 * size[19]


def test_close_frees_the_cluster_and_may_be_repeated(gang: Bench) -> None:
    gang.executor.close()
    gang.executor.close()
    for _ in range(600):
        if ray.available_resources().get("CPU", 0) >= 2:
            break
        time.sleep(0.1)
    assert ray.available_resources().get("CPU", 0) >= 2


def test_single_processes_fail_crash_and_resume_like_gangs(solo: Bench, tmp_path: Path) -> None:
    faults = ["", "kill_once", "raise_on_first", "diverge", "exit", ""]
    trials = [payload(n, tmp_path, fault=f, fault_step=2, steps=4) for n, f in enumerate(faults)]
    outcomes = solo.run(trials)
    assert [failure_class(outcomes[n]) for n in (2, 3, 4)] == ["user", "divergence", "user"]
    crashed = outcomes[1].result
    assert crashed is not None
    assert crashed.resumed_from == 2, "from the checkpoint of the process that crashed"
    whole = solo.run([payload(n, steps=4) for n in (0, 1, 5)])
    assert {n: weights(outcomes[n]) for n in (0, 1, 5)} == {n: weights(o) for n, o in whole.items()}


def test_a_single_process_that_crashes_each_time_fails_with_class_node(solo: Bench) -> None:
    outcomes = solo.run([payload(0, fault="kill"), payload(1)])
    assert failure_class(outcomes[0]) is FailureClass.NODE
    assert outcomes[1].failure is None


def test_interrupted_single_processes_write_their_checkpoint(solo: Bench, tmp_path: Path) -> None:
    solo.on_report = lambda report: os.kill(os.getpid(), signal.SIGINT) if report is solo.reports[0] else None
    trials = [payload(n, tmp_path, steps=40, evaluations=40, sleep_s=0.05) for n in range(3)]
    with pytest.raises(Paused):
        solo.run(trials)
    assert solo.outcomes == []
    assert (tmp_path / f"{int(solo.reports[0]['trial_id'], 16):016x}.pt").exists()
    assert len(list(tmp_path.glob("*.pt"))) <= 2, "the third trial never began"


def test_more_signals_end_a_run_without_waiting(solo: Bench, tmp_path: Path) -> None:
    def impatient(report: dict[str, Any]) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    solo.on_report = impatient
    with pytest.raises(KeyboardInterrupt) as ended:
        solo.run([payload(n, steps=100, evaluations=50, sleep_s=1.0) for n in range(3)])
    assert not isinstance(ended.value, Paused)
    assert solo.outcomes == []


class Mixed:
    """A feed of an agenda: one trial per entry, in gangs of their own shape."""

    def __init__(self, entries: list[Entry[GangSpec]]) -> None:
        self._entries = {entry.trial_id: entry for entry in entries}
        self.agenda = Agenda(entries)

    def __len__(self) -> int:
        return len(self.agenda)

    def demands(self, running: Mapping[GangSpec, int]) -> dict[GangSpec, Demand]:
        return self.agenda.demands(running)

    def next(self, gangs: Collection[GangSpec]) -> Handout | None:
        trial_id = self.agenda.next(gangs)
        if trial_id is None:
            return None
        return Handout(payload(int(trial_id, 16)), self._entries[trial_id].gang)


def test_gangs_of_several_shapes_train_in_one_run_as_alone(solo: Bench) -> None:
    """On two CPUs a gang of two ranks and single processes cannot live at the same time."""
    pair, one = GangSpec(ranks=2), GangSpec(ranks=1)
    entries = [Entry(trial_id=f"{n:016x}", cost=1.0, gang=one) for n in range(3)]
    entries += [Entry(trial_id=f"{n:016x}", cost=2.0, gang=pair) for n in (3, 4)]
    entries += [Entry(trial_id=f"{5:016x}", cost=1.0, gang=pair, upstream_id=f"{0:016x}")]
    feed = Mixed(entries)
    ranks: dict[int, int] = {}

    def done(outcome: TrialOutcome) -> None:
        ranks[int(outcome.trial_id, 16)] = pid(outcome)
        feed.agenda.complete(outcome.trial_id)

    solo.on_done = done
    outcomes = solo.run_feed(feed)
    assert {n: o.failure for n, o in outcomes.items()} == dict.fromkeys(range(6))
    assert not {ranks[n] for n in (0, 1, 2)} & {ranks[n] for n in (3, 4, 5)}, "other processes"
    solo.on_done = lambda outcome: None
    alone = solo.run([payload(n) for n in range(3)])
    assert {n: weights(alone[n]) for n in range(3)} == {n: weights(outcomes[n]) for n in range(3)}


def test_one_trial_is_stopped_and_the_others_go_on(solo: Bench, tmp_path: Path) -> None:
    trials = [payload(n, tmp_path, steps=40, evaluations=40, sleep_s=0.05) for n in range(3)]
    solo.on_report = lambda report: solo.executor.stop(f"{0:016x}") if report is solo.reports[0] else None
    outcomes = solo.run(trials)
    assert {n for n, o in outcomes.items() if o.stopped} == {0}
    assert {n for n, o in outcomes.items() if o.result is not None} == {1, 2}
    assert (tmp_path / f"{0:016x}.pt").exists(), "its checkpoint"


def test_a_single_process_that_hangs_is_ended_at_the_deadline_and_its_trial_tried_again(
    solo: Bench, tmp_path: Path
) -> None:
    faults = {0: "hang_once", 1: "hang", 2: ""}
    outcomes = solo.run([payload(n, tmp_path, fault=fault) for n, fault in faults.items()])
    assert {n for n, o in outcomes.items() if o.failure is None} == {0, 2}
    assert failure_class(outcomes[1]) is FailureClass.NODE
    hung = outcomes[1].failure
    assert hung is not None
    assert f"died 2 times: no report for {DEADLINE_S:g} s (execution.report_deadline_s)" in hung.message
    assert solo.executor.counts()["shot"] == 3


LEAKING = [payload(n, fault="leak" if n == 5 else "") for n in range(8)]
"""The first five show the normal size of a process."""


def test_a_gang_that_leaks_is_replaced_and_no_trial_is_lost(cluster: None, gang_bench: Bench) -> None:
    gang_bench.executor.close()
    bench = Bench(ranks=2, memory_growth_bytes=LEAK_BYTES // 2)
    try:
        # One run each: of trials that are ready together, the second may start first.
        pids = [pid(bench.run([trial])[n]) for n, trial in enumerate(LEAKING)]
    finally:
        bench.executor.close()
    assert len(set(pids[:6])) == len(set(pids[6:])) == 1
    assert pids[5] != pids[6], "rank 0 goes with the other, which leaked"


def test_a_single_process_that_leaks_is_replaced_and_no_trial_is_lost(cluster: None, gang_bench: Bench) -> None:
    gang_bench.executor.close()
    bench = Bench(ranks=1, max_concurrent=1, memory_growth_bytes=LEAK_BYTES // 2)
    try:
        outcomes = bench.run(LEAKING)
    finally:
        bench.executor.close()
    pids = [pid(outcomes[n]) for n in range(len(LEAKING))]
    assert pids.count(pids[5]) == 6
    assert pids[6] == pids[7]


def test_a_gang_that_waits_for_room_at_the_end_is_abandoned_and_so_is_its_room(
    free_the_room: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver may live on, and its next run needs the CPUs that this placement group would take."""
    monkeypatch.setattr(gangs_module, "GOODBYE_S", 1.0)
    bench = Bench(ranks=2)

    def interrupt() -> None:
        until(waiting_rooms)
        os.kill(os.getpid(), signal.SIGINT)

    try:
        with ThreadPoolExecutor(1) as other:
            asked = other.submit(interrupt)
            with pytest.raises(Paused):
                bench.run([payload(0)])
            asked.result()
        threads = [thread for gangs in bench.executor._yard._gangs.values() for thread in gangs._threads]
        assert threads
    finally:
        bench.executor.close()
    assert not any(thread.is_alive() for thread in threads)
    until(lambda: not processes_named("ray::TrainController"))
    until(lambda: not waiting_rooms())
    free_the_room()
    until(lambda: ray.available_resources().get("CPU", 0) >= 2)


def test_a_controller_killed_while_its_ranks_wait_for_room_takes_none(free_the_room: Callable[[], None]) -> None:
    """The gang that comes after it would wait behind what was left of it, for ever."""
    bench = Bench(ranks=2)

    def disturb() -> None:
        try:
            until(waiting_rooms)
            [first] = processes_named("ray::TrainController")
            os.kill(first, signal.SIGKILL)
            until(lambda: set(processes_named("ray::TrainController")) - {first})
            until(lambda: len(waiting_rooms()) == 1)
        finally:
            free_the_room()

    try:
        with ThreadPoolExecutor(1) as other:
            done = other.submit(disturb)
            assert bench.run([payload(0)])[0].failure is None
            done.result()
    finally:
        bench.executor.close()


def test_ranks_that_die_while_they_start_are_counted_until_their_gang_is_given_up(
    cluster: None, gang_bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    gang_bench.executor.close()
    monkeypatch.setattr(executor_module, "BrokerConfig", partial(BrokerConfig, max_barren_deaths=2))
    bench = Bench(ranks=2)
    try:
        with ranks_die_as_they_start():
            failure = bench.run([payload(0)])[0].failure
        assert failure is not None
        assert failure.failure_class is FailureClass.NODE
        assert "no gang of ranks can be kept alive" in failure.message
        assert "the ranks were lost while they started" in failure.message
        assert bench.run([payload(1)])[1].failure is None, "a fresh gang"
    finally:
        bench.executor.close()


def test_gangs_that_were_sent_home_free_their_room_and_come_back(cluster: None, gang_bench: Bench) -> None:
    """As a run does that waits for another one."""
    gang_bench.executor.close()
    bench = Bench(ranks=2)
    try:
        before = bench.run([payload(0)])[0]
        bench.executor.rest()
        until(lambda: ray.available_resources().get("CPU", 0) >= 2)
        after = bench.run([payload(0)])[0]
        assert pid(before) != pid(after)
        assert weights(before) == weights(after)
    finally:
        bench.executor.close()


def test_a_gang_that_never_fits_is_refused_before_anything_starts(solo: Bench) -> None:
    with pytest.raises(UserError, match=r"64 ranks x \(1 CPU\).*2 CPUs"):
        solo.executor.run(InOrder([payload(0)], GangSpec(ranks=64)))
