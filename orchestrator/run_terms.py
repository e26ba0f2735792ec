"""What a run is asked beyond its plan, and what it says it did."""

from __future__ import annotations

from dataclasses import dataclass, field

from orchestrator.budget import hours_problem
from orchestrator.plan import PlannedTrial
from search_spaces.exceptions import UserError
from search_spaces.names import FailureClass
from search_spaces.results import Failure


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How one run differs from what the study says. Never part of the science.

    Attributes:
        max_concurrent: Most trials at a time, at least 1; as the study says if None.
        max_gpu_hours: GPU-hours that the run may spend (``orchestrator.budget``); no limit if None.
        targets: Ids of the only target trials to make true, with what they start from; all if None.
        diverged_too: Try diverged trials again, too.
    """

    max_concurrent: int | None = None
    max_gpu_hours: float | None = None
    targets: frozenset[str] | None = None
    diverged_too: bool = False

    def checked(self) -> RunOptions:
        """The same.

        Raises:
            UserError: No trial could run.
        """
        if self.max_concurrent is not None and self.max_concurrent < 1:
            raise UserError(f"max_concurrent is the number of trials at a time, at least 1, got {self.max_concurrent}")
        if self.max_gpu_hours is not None and (problem := hours_problem(self.max_gpu_hours)):
            raise UserError(problem)
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedTrial:
    """A selected trial that is not done.

    Attributes:
        trial_id: Its id.
        label: Cell and seed.
        failure_class: Why.
        message: What happened, for the terminal.
    """

    trial_id: str
    label: str
    failure_class: FailureClass | None
    message: str

    @classmethod
    def of(cls, planned: PlannedTrial, failure: Failure) -> FailedTrial:
        """What to say of a planned trial that failed."""
        return cls(
            trial_id=planned.trial_id,
            label=planned.trial.label,
            failure_class=failure.failure_class,
            message=failure.message,
        )


@dataclass(slots=True, kw_only=True)
class RunSummary:
    """What a run did.

    Attributes:
        trained: Trials finished by this run.
        skipped: Selected trials that were done before.
        failed: Selected trials that are not done.
        left: Selected trials that were not started, because others of their kind kept failing alike or the storage
            stayed away.
        cancelled: Selected trials that were stopped or not started, because ``cancel`` asked for it.
        over_budget: Selected trials that were not started, because they would have exceeded the GPU-hours allowed.
        waiting: Finished trials that MLflow could not take yet; they are in the storage.
        outage: Why it could not; empty if none wait.
        seconds: Wall clock.
    """

    trained: int = 0
    skipped: int = 0
    failed: list[FailedTrial] = field(default_factory=list)
    left: int = 0
    cancelled: int = 0
    over_budget: int = 0
    waiting: int = 0
    outage: str = ""
    seconds: float = 0.0

    @property
    def put_off(self) -> int:
        """Selected trials that neither ended nor failed: the next run takes them up."""
        return self.left + self.cancelled + self.over_budget

    @property
    def everything_asked_is_true(self) -> bool:
        """Whether every selected trial is done and recorded."""
        return not self.failed and not self.put_off and not self.waiting
