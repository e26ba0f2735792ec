"""Which failed trials ``retry`` runs again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from orchestrator.places import Places
from orchestrator.plan import Plan, PlannedTrial
from orchestrator.record import Record
from orchestrator.record_states import TrialState
from orchestrator.run_terms import RunOptions
from orchestrator.searches import settled_by
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """What failed, and what of it is to run again.

    Attributes:
        plan: The plan with the values that searches have chosen, under whose ids trials are recorded.
        listed: What failed, in a sentence.
        chosen: The trials to run again.
    """

    plan: Plan
    listed: str
    chosen: list[PlannedTrial]


def choose_failed(plan: Plan, places: Places, *, failed: bool = False, classes: Collection[FailureClass] = ()) -> Again:
    """What failed, and the trials of it to run again. Attempts that wait in the storage are delivered first.

    Args:
        plan: The study, selected by ``--only`` or whole.
        places: Where its record is.
        failed: All but diverged ones.
        classes: Those of these classes.

    Raises:
        UserError: Neither was asked for; the message says what there is to choose from.
        TrackingError: MLflow cannot be reached.
    """
    storage = places.storage_of(plan.study.name)
    record = Record(plan.study, storage, places.tracking_uri)
    if storage.undelivered():
        record.open(runs=False)
        record.deliver_earlier()
    plan, _ = settled_by(plan, record.look)
    states = record.look(t.trial_id for t in plan.trials)
    listed = what_failed(plan, states)
    if not failed and not classes:
        raise UserError(
            f"{listed}. Choose with --failed (all but divergence) or --class CLASS (repeatable), and --only if need be"
        )
    return Again(plan=plan, listed=listed, chosen=failed_targets(plan, states, classes))


def retry_options(chosen: Iterable[PlannedTrial], classes: Collection[FailureClass], limits: RunOptions) -> RunOptions:
    """How a run with these limits differs that makes these trials true and nothing else."""
    return replace(
        limits,
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
