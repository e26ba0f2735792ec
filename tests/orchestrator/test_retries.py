"""Which failures are worth another attempt."""

from __future__ import annotations

import pytest

from orchestrator.retries import Retries
from search_spaces.names import FailureClass
from search_spaces.results import Failure


def failure(kind: FailureClass) -> Failure:
    return Failure(failure_class=kind, message="m", public_message="m")


@pytest.mark.parametrize(
    ("kind", "attempts"),
    [("memory", 1), ("tracking", 2), ("node", 0), ("user", 0), ("data", 0), ("divergence", 0)],
)
def test_each_class_has_its_own_limit_per_trial(kind: str, attempts: int) -> None:
    retries = Retries()
    again = [retries.again("a", failure(FailureClass(kind))) for _ in range(4)]
    assert again == [n < attempts for n in range(4)]
    assert retries.again("b", failure(FailureClass(kind))) == (attempts > 0), "another trial has its own"


def test_only_where_memory_ran_out_is_memory_saved() -> None:
    retries = Retries()
    retries.again("a", failure(FailureClass.TRACKING))
    assert not retries.should_save_memory("a")
    retries.again("a", failure(FailureClass.MEMORY))
    assert retries.should_save_memory("a")
    assert not retries.should_save_memory("b")


def test_trials_that_need_the_same_memory_do_not_run_out_of_it_one_by_one() -> None:
    retries = Retries(needs=lambda trial_id: trial_id[0])
    retries.again("a1", failure(FailureClass.MEMORY))
    assert [retries.should_save_memory(trial_id) for trial_id in ("a1", "a2", "b1")] == [True, True, False]
    assert not retries.again("a1", failure(FailureClass.MEMORY)), "a second time it is too much even so"
