"""Which failed trials ``retry`` runs again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from orchestrator.places import Places
from orchestrator.plan import Plan, PlannedTrial
from orchestrator.record import Record
from orchestrator.record_states import TrialState
from orchestrator.run_terms import RunOptions
from search_spaces.exceptions import UserError
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


def choose_failed(
    plan: Plan, places: Places, *, failed: bool = False, classes: Collection[FailureClass] = ()
) -> tuple[str, list[PlannedTrial]]:
    """What failed, in a sentence, and the trials of it to run again.

    Args:
        plan: The study, selected by ``--only`` or whole.
        places: Where its record is.
        failed: All but diverged ones.
        classes: Those of these classes.

    Raises:
        UserError: Neither was asked for; the message says what there is to choose from.
        TrackingError: MLflow cannot be reached.
    """
    record = Record(plan.study, places.storage_of(plan.study.name), places.tracking_uri)
    states = record.look(t.trial_id for t in plan.trials)
    listed = what_failed(plan, states)
    if not failed and not classes:
        raise UserError(
            f"{listed}. Choose with --failed (all but divergence) or --class CLASS (repeatable), and --only if need be"
        )
    return listed, failed_targets(plan, states, classes)


def retry_options(
    chosen: Iterable[PlannedTrial],
    classes: Collection[FailureClass],
    max_concurrent: int | None,
    max_gpu_hours: float | None,
) -> RunOptions:
    """How a run differs that makes these trials true and nothing else."""
    return RunOptions(
        max_concurrent=max_concurrent,
        max_gpu_hours=max_gpu_hours,
        targets=frozenset(t.trial_id for t in chosen),
        diverged_too=FailureClass.DIVERGENCE in classes,
    )


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
