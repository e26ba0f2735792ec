"""The broker without Ray: queue, generations, retries, deadlines, draining."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from orchestrator.broker import Broker, BrokerConfig

RESULT = {"result": {"state": "complete"}}


class Bench:
    """A broker with a clock that tests set and a list of what it shot."""

    def __init__(self, **config: Any) -> None:
        self.now = 0.0
        self.shot: list[Any] = []
        self.broker = Broker(
            BrokerConfig(**{"tick_s": 0.01, "reports_ahead": 0} | config),
            shoot=self.shot.append,
            clock=lambda: self.now,
        )

    async def gang_takes(self, gang: str = "a") -> tuple[int, str]:
        """A fresh group of ranks says hello and takes a trial."""
        generation = await self.broker.hello(gang, f"rank 0 of {gang}")
        task, key, _ = await self.broker.next(gang, generation)
        assert task == "trial"
        assert key is not None
        return generation, key


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 10))


async def soon(awaitable: Awaitable[Any]) -> asyncio.Task[Any]:
    """Start a call that waits, and let it wait."""
    task = asyncio.ensure_future(awaitable)
    for _ in range(3):
        await asyncio.sleep(0)
    return task


def test_trials_go_out_in_the_order_of_submission_with_their_payload() -> None:
    async def test() -> None:
        broker = Bench().broker
        for name in "xyz":
            await broker.submit(name, {"trial": name}, "")
        generation = await broker.hello("a")
        taken = []
        for _ in range(3):
            task, key, trial = await broker.next("a", generation)
            taken.append((task, key, trial))
            await broker.done("a", generation, str(key), RESULT)
        assert taken == [("trial", name, {"trial": name}) for name in "xyz"]

    run(test)


def test_an_idle_gang_gets_a_tick_and_a_waiting_one_wakes_for_a_trial() -> None:
    async def test() -> None:
        broker = Bench(tick_s=0.01).broker
        generation = await broker.hello("a")
        assert await broker.next("a", generation) == ("idle", None, None)
        patient = Bench(tick_s=5).broker
        generation = await patient.hello("a")
        waiting = await soon(patient.next("a", generation))
        await patient.submit("x", {}, "")
        assert (await waiting)[:2] == ("trial", "x")

    run(test)


def test_a_report_waits_until_the_lease_asks_for_the_next() -> None:
    async def test() -> None:
        bench = Bench()
        await bench.broker.submit("x", {}, "")
        generation, key = await bench.gang_takes()
        report = await soon(bench.broker.report("a", generation, key, {"step": 1}))
        assert await bench.broker.next_report("x") == {"report": {"step": 1}}
        await asyncio.sleep(0)
        assert not report.done()
        ending = await soon(bench.broker.next_report("x"))
        assert await report == "go"
        await bench.broker.done("a", generation, key, RESULT)
        assert await ending == RESULT

    run(test)


def test_ranks_may_be_one_report_ahead_of_the_answers_and_no_more() -> None:
    async def test() -> None:
        bench = Bench(reports_ahead=1)
        await bench.broker.submit("x", {}, "")
        generation, key = await bench.gang_takes()
        assert await bench.broker.report("a", generation, key, {"step": 1}) == "go"
        second = await soon(bench.broker.report("a", generation, key, {"step": 2}))
        assert await bench.broker.next_report("x") == {"report": {"step": 1}}
        assert not second.done()
        assert await bench.broker.next_report("x") == {"report": {"step": 2}}
        assert await second == "go"
        third = await soon(bench.broker.report("a", generation, key, {"step": 3}))
        assert not third.done()
        await bench.broker.drain()
        assert await third == "stop"
        assert await bench.broker.next_report("x") == {"report": {"step": 3}}

    run(test)


def test_cancel_answers_the_waiting_report_with_stop_and_later_ones_too() -> None:
    async def test() -> None:
        bench = Bench()
        await bench.broker.submit("x", {}, "")
        generation, key = await bench.gang_takes()
        report = await soon(bench.broker.report("a", generation, key, {}))
        await bench.broker.cancel("x")
        assert await report == "stop"
        assert await bench.broker.report("a", generation, key, {}) == "stop"
        assert await bench.broker.next_report("x") == {"stopped": True}

    run(test)


def test_cancel_of_a_queued_trial_takes_it_out_of_the_queue() -> None:
    async def test() -> None:
        bench = Bench()
        await bench.broker.submit("x", {}, "")
        await bench.broker.cancel("x")
        generation = await bench.broker.hello("a")
        assert (await bench.broker.next("a", generation))[0] == "idle"

    run(test)


def test_a_lost_gangs_trial_goes_to_the_head_of_the_queue_and_the_lease_notices_nothing() -> None:
    async def test() -> None:
        bench = Bench()
        for key in "xy":
            await bench.broker.submit(key, {}, "")
        generation, key = await bench.gang_takes()
        lease = await soon(bench.broker.next_report("x"))
        assert await bench.broker.lost("a", "killed")
        again, key = await bench.gang_takes()
        assert key == "x"
        assert again > generation
        await bench.broker.done("a", again, key, RESULT)
        assert await lease == RESULT

    run(test)


def test_hello_of_new_ranks_alone_gives_the_trial_back() -> None:
    async def test() -> None:
        bench = Bench()
        await bench.broker.submit("x", {}, "")
        await bench.gang_takes()
        assert (await bench.gang_takes())[1] == "x"

    run(test)


def test_calls_of_a_dead_generation_are_refused() -> None:
    async def test() -> None:
        bench = Bench(tick_s=5)
        old = await bench.broker.hello("a")
        waiting = await soon(bench.broker.next("a", old))
        new = await bench.broker.hello("a")
        await bench.broker.submit("x", {}, "")
        assert (await waiting)[0] == "bye"
        task, key, _ = await bench.broker.next("a", new)
        assert (task, key) == ("trial", "x")
        assert await bench.broker.report("a", old, "x", {}) == "stop"
        await bench.broker.done("a", old, "x", {"failure": {"failure_class": "user"}})
        await bench.broker.done("a", new, "x", RESULT)
        assert await bench.broker.next_report("x") == RESULT

    run(test)


def test_a_report_of_a_group_that_dies_while_it_waits_is_released() -> None:
    async def test() -> None:
        bench = Bench()
        await bench.broker.submit("x", {}, "")
        generation, key = await bench.gang_takes()
        report = await soon(bench.broker.report("a", generation, key, {}))
        await bench.broker.lost("a", "killed")
        assert await report == "stop"

    run(test)


def test_after_too_many_deaths_the_trial_fails_with_class_node_and_the_last_reason() -> None:
    async def test() -> None:
        bench = Bench(max_node_retries=3)
        await bench.broker.submit("x", {}, "")
        for death in range(4):
            await bench.gang_takes()
            await bench.broker.lost("a", f"death {death} at /nodes/secret/7")
        failure = (await bench.broker.next_report("x"))["failure"]
        assert failure["failure_class"] == "node"
        assert "4 times" in failure["message"]
        assert "death 3" in failure["message"]
        assert "secret" not in failure["public_message"]

    run(test)


def test_a_failure_of_class_node_is_tried_again_and_others_are_not() -> None:
    async def test() -> None:
        bench = Bench()
        for key in "xy":
            await bench.broker.submit(key, {}, "")
        generation, key = await bench.gang_takes()
        lost_peer = {"failure": {"failure_class": "node", "message": "connection reset"}}
        await bench.broker.done("a", generation, key, lost_peer)
        assert (await bench.broker.next("a", generation))[:2] == ("trial", "x")
        diverged = {"failure": {"failure_class": "divergence", "message": "nan"}}
        await bench.broker.done("a", generation, "x", diverged)
        assert await bench.broker.next_report("x") == diverged
        assert (await bench.broker.next("a", generation))[1] == "y"

    run(test)


def test_a_gang_that_never_finishes_a_trial_is_given_up_and_one_that_does_is_not() -> None:
    async def test() -> None:
        bench = Bench(max_barren_deaths=3)
        assert [await bench.broker.lost("a", "") for _ in range(3)] == [True, True, False]
        for _ in range(5):
            await bench.broker.submit("x", {}, "")
            generation, key = await bench.gang_takes("b")
            await bench.broker.done("b", generation, key, RESULT)
            assert await bench.broker.lost("b", "")

    run(test)


def test_trials_that_fail_for_the_deaths_of_their_gang_do_not_take_the_others_with_them() -> None:
    async def test() -> None:
        bench = Bench(max_node_retries=3, max_barren_deaths=10)
        await bench.broker.expect("a", "")
        for key in ("heavy 1", "heavy 2", "heavy 3", "light"):
            await bench.broker.submit(key, {}, "")
        for _ in range(3 * 4):
            await bench.gang_takes()
            assert await bench.broker.lost("a", "out of memory")
        for key in ("heavy 1", "heavy 2", "heavy 3"):
            assert (await bench.broker.next_report(key))["failure"]["failure_class"] == "node"
        generation, key = await bench.gang_takes()
        await bench.broker.done("a", generation, key, RESULT)
        assert await bench.broker.next_report("light") == RESULT

    run(test)


def test_trials_are_told_why_their_last_gang_was_given_up_not_how_train_ended() -> None:
    async def test() -> None:
        bench = Bench(max_barren_deaths=2)
        await bench.broker.expect("a", "")
        await bench.broker.submit("x", {}, "")
        for message in ("out of memory", "out of memory again", "TrainingFailedError: Training failed"):
            await bench.broker.lost("a", message)
        await bench.broker.gone("a", "TrainingFailedError: Training failed")
        failure = (await bench.broker.next_report("x"))["failure"]
        assert "out of memory again" in failure["message"]
        assert "TrainingFailedError" not in failure["message"]

    run(test)


def test_without_any_gang_left_queued_and_later_trials_fail_instead_of_waiting() -> None:
    async def test() -> None:
        broker = Bench().broker
        await broker.expect("a", "")
        await broker.submit("x", {}, "")
        await broker.gone("a", "no module named mynets")
        for key in ("x", "late"):
            if key == "late":
                await broker.submit(key, {}, "")
            failure = (await broker.next_report(key))["failure"]
            assert failure["failure_class"] == "node"
            assert "mynets" in failure["message"]
        await broker.expect("b", "")
        await broker.submit("x", {}, "")
        assert (await broker.next("b", await broker.hello("b")))[1] == "x"

    run(test)


def test_drain_gives_queued_trials_back_and_stops_running_ones_at_their_next_report() -> None:
    async def test() -> None:
        bench = Bench()
        for key in "xyz":
            await bench.broker.submit(key, {}, "")
        generation, key = await bench.gang_takes()
        lease = await soon(bench.broker.next_report("x"))
        await bench.broker.drain()
        assert await bench.broker.next_report("y") == {"stopped": True}
        await bench.broker.submit("w", {}, "")
        assert await bench.broker.next_report("w") == {"stopped": True}
        assert await bench.broker.busy() == 1
        assert await bench.broker.report("a", generation, key, {}) == "stop"
        await bench.broker.done("a", generation, key, {"stopped": True})
        assert await lease == {"stopped": True}
        assert await bench.broker.busy() == 0
        await bench.broker.resume()
        await bench.broker.submit("x", {}, "")
        assert (await bench.broker.next("a", generation))[1] == "x"

    run(test)


def test_drain_stops_a_report_that_waits_and_does_not_requeue_a_gang_lost_meanwhile() -> None:
    async def test() -> None:
        bench = Bench()
        await bench.broker.submit("x", {}, "")
        generation, key = await bench.gang_takes()
        report = await soon(bench.broker.report("a", generation, key, {}))
        await bench.broker.next_report("x")
        await bench.broker.drain()
        assert await report == "stop"
        await bench.broker.lost("a", "killed")
        assert await bench.broker.next_report("x") == {"stopped": True}

    run(test)


def test_close_sends_gangs_home_and_forbids_a_restart() -> None:
    async def test() -> None:
        bench = Bench(tick_s=5)
        generation = await bench.broker.hello("a")
        waiting = await soon(bench.broker.next("a", generation))
        await bench.broker.close()
        assert (await waiting)[0] == "bye"
        assert not await bench.broker.lost("a", "")

    run(test)


@pytest.mark.parametrize(("silence_s", "expected"), [(99.0, []), (101.0, ["rank 0 of a"])])
def test_only_a_gang_that_is_silent_beyond_the_deadline_is_shot(silence_s: float, expected: list[str]) -> None:
    async def test() -> None:
        bench = Bench(report_deadline_s=100)
        await bench.broker.submit("x", {}, "")
        await bench.gang_takes()
        bench.now = silence_s
        bench.broker.check_deadlines()
        bench.broker.check_deadlines()
        assert bench.shot == expected

    run(test)


def test_a_gang_that_waits_for_its_order_is_not_silent_and_its_clock_starts_with_the_order() -> None:
    async def test() -> None:
        bench = Bench(report_deadline_s=100)
        await bench.broker.submit("x", {}, "")
        generation, key = await bench.gang_takes()
        bench.now = 90
        report = await soon(bench.broker.report("a", generation, key, {}))
        bench.now = 500
        bench.broker.check_deadlines()
        await bench.broker.next_report("x")
        await soon(bench.broker.next_report("x"))
        assert await report == "go"
        bench.now = 590
        bench.broker.check_deadlines()
        assert bench.shot == []
        bench.now = 601
        bench.broker.check_deadlines()
        assert bench.shot == ["rank 0 of a"]
        await bench.broker.lost("a", "ActorDiedError")
        assert (await bench.gang_takes())[1] == "x"

    run(test)


def test_the_reason_of_a_shot_reaches_the_failure() -> None:
    async def test() -> None:
        bench = Bench(report_deadline_s=100, max_node_retries=0)
        await bench.broker.submit("x", {}, "")
        await bench.gang_takes()
        bench.now = 101
        bench.broker.check_deadlines()
        await bench.broker.lost("a", "ActorDiedError")
        assert "no report for 100 s" in (await bench.broker.next_report("x"))["failure"]["message"]

    run(test)


def test_a_lease_that_comes_again_replaces_the_job_of_the_one_that_died() -> None:
    async def test() -> None:
        bench = Bench()
        await bench.broker.submit("x", {"attempt": 1}, "")
        generation, key = await bench.gang_takes()
        report = await soon(bench.broker.report("a", generation, key, {}))
        await bench.broker.submit("x", {"attempt": 2}, "")
        assert await report == "stop"
        await bench.broker.done("a", generation, key, {"stopped": True})
        task, again, trial = await bench.broker.next("a", generation)
        assert (task, again, trial) == ("trial", key, {"attempt": 2})
        await bench.broker.done("a", generation, key, RESULT)
        assert await bench.broker.next_report("x") == RESULT

    run(test)


def test_after_an_interruption_a_gang_whose_lease_was_killed_is_free_again() -> None:
    async def test() -> None:
        bench = Bench()
        await bench.broker.submit("x", {}, "")
        generation, key = await bench.gang_takes()
        await bench.broker.drain()
        await bench.broker.resume()
        assert await bench.broker.report("a", generation, key, {}) == "stop"
        await bench.broker.done("a", generation, key, {"stopped": True})
        await bench.broker.submit("y", {}, "")
        assert (await bench.broker.next("a", generation))[1] == "y"

    run(test)


def test_each_queue_is_served_by_its_own_gangs() -> None:
    async def test() -> None:
        broker = Bench().broker
        await broker.expect("a", "wide")
        await broker.expect("b", "narrow")
        await broker.submit("x", {}, "narrow")
        assert (await broker.next("a", await broker.hello("a")))[0] == "idle"
        assert (await broker.next("b", await broker.hello("b")))[1] == "x"

    run(test)


def test_surplus_gangs_go_home_idle_ones_first_and_come_back_while_they_are_there() -> None:
    async def test() -> None:
        broker = Bench().broker
        for gang in "ab":
            await broker.expect(gang, "")
        await broker.submit("x", {}, "")
        busy = await broker.hello("a", "rank 0 of a")
        idle = await broker.hello("b", "rank 0 of b")
        assert (await broker.next("a", busy))[1] == "x"
        assert await broker.retire("", 1) == 1
        assert (await broker.next("b", idle))[0] == "bye"
        assert await broker.lost("b", "went home") is False
        await broker.gone("b", "went home")
        assert await broker.retire("", 0) == 0
        assert await broker.live() == {"": 1}, "it trains to the end"
        assert await broker.retire("", 1) == 1, "needed again before it went"
        await broker.done("a", busy, "x", RESULT)
        await broker.submit("y", {}, "")
        assert (await broker.next("a", busy))[1] == "y"

    run(test)


def test_the_last_gang_that_was_to_stay_takes_the_hope_of_its_queue_with_it() -> None:
    async def test() -> None:
        bench = Bench()
        for gang in "ab":
            await bench.broker.expect(gang, "")
        await bench.broker.submit("w", {}, "")
        await bench.gang_takes("a")
        await bench.broker.hello("b", "rank 0 of b")
        await bench.broker.retire("", 1)
        await bench.broker.submit("x", {}, "")
        await bench.broker.gone("a", "no node left")
        for key in "wx":
            assert "no node left" in (await bench.broker.next_report(key))["failure"]["message"]

    run(test)


def test_orders_between_reports() -> None:
    async def test() -> None:
        broker = Bench().broker
        await broker.submit("x", {}, "")
        generation = await broker.hello("a", "rank 0", ["node 1", "node 2"])
        await broker.next("a", generation)
        assert await broker.urgent("a", generation, "x") == "go"
        await broker.preempt(["node 2"])
        assert await broker.urgent("a", generation, "x") == "save"
        assert await broker.urgent_alone("node 2", "z") == "save"
        assert await broker.urgent_alone("node 3", "z") == "go"
        await broker.stop("x")
        assert await broker.urgent("a", generation, "x") == "stop"
        await broker.done("a", generation, "x", {"stopped": True})
        assert (await broker.next("a", generation))[0] == "bye", "nothing new on a node that goes away"

    run(test)


def test_a_process_alone_that_hung_counts_as_shot_and_says_so_once() -> None:
    async def test() -> None:
        broker = Bench(report_deadline_s=100).broker
        assert await broker.last_words("x") == ""
        await broker.hung("x")
        assert (await broker.counts())["shot"] == 1
        assert "no report for 100 s (execution.report_deadline_s)" in await broker.last_words("x")
        assert await broker.last_words("x") == ""

    run(test)


def test_a_trial_whose_lease_came_back_is_trained_once() -> None:
    async def test() -> None:
        broker = Bench().broker
        await broker.submit("x", {"attempt": 1}, "")
        generation = await broker.hello("a")
        await broker.next("a", generation)
        await broker.submit("x", {"attempt": 2}, "")
        assert await broker.urgent("a", generation, "x") == "stop"

    run(test)


def test_a_gang_prefers_what_it_has_read_but_nobody_waits_for_ever() -> None:
    def trial(scale: str) -> dict[str, Any]:
        return {"axes": {"task": "t", "model_scale": scale, "pretraining_source": "s"}}

    async def test() -> None:
        broker = Bench().broker
        generation = await broker.hello("a")
        await broker.submit("first", trial("small"), "")
        taken = [(await broker.next("a", generation))[1]]
        await broker.submit("other", trial("large"), "")
        for n in range(5):
            await broker.submit(f"same {n}", trial("small"), "")
        for _ in range(6):
            await broker.done("a", generation, str(taken[-1]), RESULT)
            taken.append((await broker.next("a", generation))[1])
        assert taken == ["first", "same 0", "same 1", "same 2", "other", "same 3", "same 4"]

    run(test)
