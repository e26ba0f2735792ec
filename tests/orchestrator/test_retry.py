"""Which trials a retry selects, and what it trains with them."""

from __future__ import annotations

import pytest

from orchestrator.record_states import TrialState
from orchestrator.remaining import remaining
from orchestrator.retry import failed_targets, what_failed
from search_spaces.names import FailureClass, Role, State
from tests.orchestrator.planned_trials import plan_of, planned

UP = planned("a" * 16, role=Role.UPSTREAM)
DONE, MEMORY, DIVERGED, MISSING = (planned(c * 16, seed=n) for n, c in enumerate("bcde"))
BELOW = planned("f" * 16, UP, seed=9)
PLAN = plan_of(UP, DONE, MEMORY, DIVERGED, MISSING, BELOW)


def failed(failure_class: FailureClass) -> TrialState:
    return TrialState(state=State.FAILED, failure_class=failure_class)


STATES = {
    UP.trial_id: failed(FailureClass.DIVERGENCE),
    DONE.trial_id: TrialState(state=State.COMPLETE),
    MEMORY.trial_id: failed(FailureClass.MEMORY),
    DIVERGED.trial_id: failed(FailureClass.DIVERGENCE),
    MISSING.trial_id: TrialState(state=State.MISSING),
    BELOW.trial_id: failed(FailureClass.DIVERGENCE),
}


@pytest.mark.parametrize(
    ("classes", "selected"),
    [
        ([], [MEMORY]),
        ([FailureClass.MEMORY], [MEMORY]),
        ([FailureClass.DIVERGENCE], [DIVERGED, BELOW]),
        ([FailureClass.MEMORY, FailureClass.DIVERGENCE], [MEMORY, DIVERGED, BELOW]),
        ([FailureClass.NODE], []),
    ],
)
def test_failed_targets_are_selected_by_class_and_diverged_ones_only_if_named(classes, selected):
    assert failed_targets(PLAN, STATES, classes) == selected


def test_the_failures_are_counted_by_class():
    assert what_failed(PLAN, STATES) == "failed trials of skin: 2 divergence, 1 memory"
    assert what_failed(plan_of(DONE), STATES) == "no trial of skin has failed"


def test_a_retry_trains_its_targets_and_what_they_start_from_and_nothing_else():
    narrowed = PLAN.narrowed({BELOW.trial_id})
    assert narrowed.trials == (UP, BELOW)
    again = remaining(narrowed, STATES, lambda _: True, diverged_too=True)
    assert set(again.todo) == {UP.trial_id, BELOW.trial_id}
    assert not again.diverged
    without = remaining(narrowed, STATES, lambda _: True)
    assert not without.todo
    assert set(without.diverged) == {UP.trial_id, BELOW.trial_id}
