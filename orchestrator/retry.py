"""Which failed trials ``retry`` runs again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

from orchestrator.plan import Plan, PlannedTrial
from orchestrator.record_states import TrialState
from search_spaces.names import FailureClass, State


def failed_targets(
    plan: Plan, states: Mapping[str, TrialState], classes: Collection[FailureClass] = ()
) -> list[PlannedTrial]:
    """Failed target trials of these classes; without any, of all but divergence, which would come again.

    Args:
        plan: The study, selected by ``--only`` or whole.
        states: Of every trial of the plan.
        classes: Failure classes asked for.
    """
    wanted = set(classes) or set(FailureClass) - {FailureClass.DIVERGENCE}
    return [t for t in _failed(plan, states) if states[t.trial_id].failure_class in wanted]


def failures_by_class(plan: Plan, states: Mapping[str, TrialState]) -> dict[FailureClass, int]:
    """How many target trials have failed, by class; classes without one are left out."""
    counts = Counter(states[t.trial_id].failure_class or FailureClass.USER for t in _failed(plan, states))
    return {name: counts[name] for name in FailureClass if counts[name]}


def what_failed(plan: Plan, states: Mapping[str, TrialState]) -> str:
    """One sentence: the failed target trials by class."""
    counts = failures_by_class(plan, states)
    listed = ", ".join(f"{count} {name}" for name, count in counts.items())
    return f"failed trials of {plan.study.name}: {listed}" if counts else f"no trial of {plan.study.name} has failed"


def _failed(plan: Plan, states: Mapping[str, TrialState]) -> list[PlannedTrial]:
    return [t for t in plan.targets if states[t.trial_id].state is State.FAILED]
