"""One trial in a process that has run others before."""

from __future__ import annotations

import gc
import os
import random
import time
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from search_spaces.exceptions import DivergenceError
from search_spaces.names import FailureClass, State
from search_spaces.results import Order, TrialResult
from search_spaces.trial import ResolvedTrial
from tests.orchestrator.fake_training import payload
from trainables.groups import Group, SingleProcess
from trainables.notice import NOTICE, order_of
from trainables.warm import Attempt, ProcessState, Tell, Train, Wear, attempt, load_function, private_memory_bytes


def try_it(train: Train, orders: list[Order] | None = None) -> Attempt:
    answers = iter(orders or [])
    return attempt(train, payload(1), SingleProcess(), lambda report: next(answers, Order.GO))


def result_of(trial: ResolvedTrial) -> TrialResult:
    return TrialResult(trial=trial, state=State.COMPLETE, started_at=time.time(), finished_at=time.time())


def test_a_finished_trial_gives_its_result() -> None:
    ended = try_it(lambda trial, group, tell: result_of(trial))
    assert ended.failure is None
    assert ended.message()["result"]["trial"]["trial_id"] == payload(1)["trial_id"]


def test_a_failure_has_the_step_of_the_last_report() -> None:
    def train(trial: ResolvedTrial, group: Group, tell: Tell) -> TrialResult | None:
        tell({"step": 20})
        raise DivergenceError("loss is nan")

    failure = try_it(train).message()["failure"]
    assert (failure["failure_class"], failure["step"]) == ("divergence", 20)


def test_a_trial_that_was_told_to_stop_has_stopped_and_one_that_was_not_has_failed() -> None:
    def train(trial: ResolvedTrial, group: Group, tell: Tell) -> TrialResult | None:
        tell({"step": 1})
        return None

    assert try_it(train, [Order.STOP]).message() == {"stopped": True}
    failure = try_it(train, [Order.GO]).failure
    assert failure is not None
    assert failure.failure_class is FailureClass.USER


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), GeneratorExit()])
def test_nothing_that_training_raises_gets_out(error: BaseException) -> None:
    def train(trial: ResolvedTrial, group: Group, tell: Tell) -> TrialResult | None:
        raise error

    assert try_it(train).failure is not None


def test_a_trial_that_obeyed_an_order_between_two_reports_has_stopped() -> None:
    def train(trial: ResolvedTrial, group: Group, tell: Tell) -> TrialResult | None:
        tell({"step": 20})
        NOTICE.give(Order.STOP)
        return None if order_of(NOTICE.take()) is Order.STOP else result_of(trial)

    NOTICE.clear()
    try:
        assert try_it(train).message() == {"stopped": True}
    finally:
        NOTICE.clear()


def test_after_a_failure_nothing_keeps_the_model_alive() -> None:
    watched: list[Any] = []

    def inner(model: torch.nn.Module) -> None:
        try:
            raise KeyError("first")
        except KeyError as error:
            local = model
            raise RuntimeError(f"second {local}") from error

    def train(trial: ResolvedTrial, group: Group, tell: Tell) -> TrialResult | None:
        model = torch.nn.Linear(2, 2)
        watched.append(weakref.ref(model))
        inner(model)
        return None

    ended = try_it(train)
    gc.collect()
    assert ended.failure is not None
    assert watched[0]() is None


def test_state_is_restored(tmp_path: Path) -> None:
    threads, folder = torch.get_num_threads(), Path.cwd()
    state = ProcessState(threads=1)
    try:
        state.restore()
        before = draws()
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        torch.set_num_threads(2)
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = True
        os.chdir(tmp_path)
        state.restore()
        assert draws() == before
        assert torch.get_default_dtype() is torch.float32
        assert torch.is_grad_enabled()
        assert torch.get_num_threads() == 1
        assert not torch.are_deterministic_algorithms_enabled()
        assert not torch.backends.cudnn.benchmark
        assert Path.cwd() == folder
    finally:
        gc.unfreeze()
        torch.set_num_threads(threads)


def draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.random()), float(torch.rand(1))  # noqa: NPY002


def test_wear_compares_with_the_first_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = iter([100, 500, 300, 900, 1100, 700])
    monkeypatch.setattr("trainables.warm.private_memory_bytes", lambda: next(sizes))
    wear = Wear(limit_bytes=500, first_trials=2)
    assert [wear.after_trial() for _ in range(6)] == [False, False, False, False, True, False]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_private_memory_grows_with_what_is_held() -> None:
    before = private_memory_bytes()
    held = np.ones(8 * 1024**2)
    assert private_memory_bytes() - before > 0.9 * held.nbytes


def test_load_function() -> None:
    assert load_function("trainables.warm:load_function") is load_function
