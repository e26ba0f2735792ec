"""Which trials of a plan are still to be trained, as the record stands."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from orchestrator.plan import Plan, PlannedTrial
from orchestrator.record_states import TrialState
from search_spaces.names import FailureClass, Role, State


@dataclass(frozen=True, slots=True, kw_only=True)
class Remaining:
    """What a run has to do.

    Attributes:
        todo: Trials to train, by id.
        diverged: Trials that are not tried again, because they would diverge again.
    """

    todo: dict[str, PlannedTrial]
    diverged: dict[str, TrialState]


def remaining(
    plan: Plan, states: Mapping[str, TrialState], has_weights: Callable[[str], bool], *, diverged_too: bool = False
) -> Remaining:
    """Trials that are neither complete nor diverged; upstream ones only if needed, and again if their weights are gone.

    Args:
        plan: Upstream trials come before those that need them. Targets whose search has not chosen are among the
            trials to train, under their provisional ids.
        states: Of every trial of the plan.
        has_weights: Whether the weights of a complete trial are kept.
        diverged_too: Whether diverged trials are tried again as well.
    """
    todo: dict[str, PlannedTrial] = {}
    diverged: dict[str, TrialState] = {}
    starts = {trial.upstream_id for search in plan.open_searches for trial in search.trials}
    for planned in reversed(plan.trials):
        state = states[planned.trial_id]
        needed = planned.trial_id in starts
        if state.failure_class is FailureClass.DIVERGENCE and not diverged_too:
            diverged[planned.trial_id] = state
        elif state.state is not State.COMPLETE:
            if planned.trial.role is Role.TARGET or needed:
                todo[planned.trial_id] = planned
        elif needed and not has_weights(planned.trial_id):
            todo[planned.trial_id] = planned
        if planned.trial_id in todo:
            starts.add(planned.upstream_id)
    return Remaining(todo=todo, diverged=diverged)
