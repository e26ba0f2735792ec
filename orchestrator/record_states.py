"""What the record says about trials, read from their MLflow runs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from dashboards.run_heads import RunHead
from dashboards.tracking import RecordMetric, RecordTag, tag_list
from search_spaces.exceptions import TrackingError
from search_spaces.names import FailureClass, State, Tag
from search_spaces.tuning import Proposal

_ENDED = ("FINISHED", "FAILED")
"""Status of a run that was delivered to its end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialState:
    """Where one trial stands in the record.

    Attributes:
        state: complete, failed or missing (no attempt, or none that was delivered to its end).
        run_id: The run that counts: the earliest complete one, else the last failed one.
        name: Name of that run.
        failure_class: Why the last attempt failed, if the trial failed.
        message: Its public message.
        attempts: Number of delivered attempts, superseded ones included.
        seconds: Wall-clock seconds of the run that counts.
        sets: Evaluation set that it was scored on -> its ``set_hash`` then (empty if it was not recorded).
        role: target, upstream or search; empty if missing.
        best_value: Validation value of the primary metric at its best step; None if it is not defined.
        parameters: Trainable numbers of its network; None if they were not recorded.
        search_id: Search that it belongs to or takes its values from; empty without one.
        proposal: The proposal that it was trained with.
    """

    state: State
    run_id: str | None = None
    name: str = ""
    failure_class: FailureClass | None = None
    message: str = ""
    attempts: int = 0
    seconds: float | None = None
    sets: dict[str, str] = field(default_factory=dict)
    role: str = ""
    best_value: float | None = None
    parameters: int | None = None
    search_id: str = ""
    proposal: Proposal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """What delivering the spool did.

    Attributes:
        delivered: Attempts that are in MLflow now.
        waiting: Attempts that stay in the spool because MLflow or the storage was away.
        outage: The error that stopped it, if any wait.
        damaged: One message per attempt whose folder cannot be read; they stay in the spool.
    """

    delivered: int
    waiting: int = 0
    outage: TrackingError | None = None
    damaged: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownRun:
    """What the writer remembers of a run, so that a delivery needs no search.

    Attributes:
        terminated: Delivered to its end: nothing is written to it any more.
        complete: FINISHED with ``sc.state=complete``.
    """

    run_id: str
    attempt_id: str
    trial_id: str
    start_ms: int
    terminated: bool
    complete: bool
    artifact_uri: str

    @classmethod
    def of(cls, run: RunHead) -> KnownRun:
        """What to remember of an MLflow run."""
        return cls(
            run_id=run.run_id,
            attempt_id=run.tags.get(Tag.ATTEMPT_ID, ""),
            trial_id=run.tags.get(Tag.TRIAL_ID, ""),
            start_ms=run.start_ms,
            terminated=run.status in _ENDED,
            complete=is_complete(run),
            artifact_uri=run.artifact_uri,
        )


class KnownRuns:
    """The runs that the writer remembers, by attempt. Those of a trial are found without looking at all others.

    Args:
        runs: Of several of one attempt the last is kept.
    """

    def __init__(self, runs: Iterable[KnownRun] = ()) -> None:
        self._by_attempt: dict[str, KnownRun] = {}
        self._attempts: dict[str, tuple[str, ...]] = {}
        for run in runs:
            self.put(run)

    def __iter__(self) -> Iterator[KnownRun]:
        return iter(self._by_attempt.values())

    def get(self, attempt_id: str) -> KnownRun | None:
        """The run of an attempt, if one is known."""
        return self._by_attempt.get(attempt_id)

    def put(self, run: KnownRun) -> None:
        """Remember a run in place of what was known of its attempt."""
        known = self._attempts.get(run.trial_id, ())
        if run.attempt_id not in known:
            self._attempts[run.trial_id] = (*known, run.attempt_id)
        self._by_attempt[run.attempt_id] = run

    def complete(self, trial_id: str) -> list[KnownRun]:
        """The complete runs of a trial, earliest first."""
        runs = [self._by_attempt[attempt] for attempt in self._attempts.get(trial_id, ())]
        return sorted((run for run in runs if run.trial_id == trial_id and run.complete), key=_started)


def is_complete(run: RunHead) -> bool:
    """Whether a run counts as a done trial: FINISHED with ``sc.state=complete``."""
    return run.status == "FINISHED" and run.tags.get(Tag.STATE) == State.COMPLETE


def trial_state(runs: Sequence[RunHead]) -> TrialState:
    """Where a trial stands.

    Args:
        runs: Its runs, earliest first.
    """
    ended = [run for run in runs if run.status in _ENDED]
    counts = next((run for run in ended if is_complete(run)), None)
    if counts is not None:
        return _of(counts, State.COMPLETE, len(ended))
    failed = [run for run in ended if run.tags.get(Tag.STATE) == State.FAILED]
    return _of(failed[-1], State.FAILED, len(ended)) if failed else TrialState(state=State.MISSING, attempts=len(ended))


def trial_states(runs: Iterable[RunHead], trial_ids: Iterable[str] | None = None) -> dict[str, TrialState]:
    """Where trials stand.

    Args:
        runs: All attempts of a study, earliest first.
        trial_ids: The trials asked for; those without a run are missing. All that have a run if not given.
    """
    by_trial: dict[str, list[RunHead]] = defaultdict(list)
    for run in runs:
        by_trial[run.tags[Tag.TRIAL_ID]].append(run)
    wanted = by_trial if trial_ids is None else dict.fromkeys(trial_ids)
    return {trial_id: trial_state(by_trial.get(trial_id, [])) for trial_id in wanted}


def _of(run: RunHead, state: State, attempts: int) -> TrialState:
    tags = run.tags
    failed = state is State.FAILED
    return TrialState(
        state=state,
        run_id=run.run_id,
        name=run.name,
        failure_class=FailureClass(tags[Tag.FAILURE_CLASS]) if failed and Tag.FAILURE_CLASS in tags else None,
        message=tags.get(Tag.FAILURE_MESSAGE, "") if failed else "",
        attempts=attempts,
        seconds=run.seconds,
        sets={name: tags.get(RecordTag.set_hash(name), "") for name in tag_list(tags, RecordTag.SETS)},
        role=tags.get(Tag.ROLE, ""),
        best_value=run.metrics.get(RecordMetric.VAL_BEST),
        parameters=None if (numbers := run.metrics.get(RecordMetric.PARAMETERS)) is None else int(numbers),
        search_id=tags.get(RecordTag.SEARCH, ""),
        proposal=_proposal(tags),
    )


def _proposal(tags: Mapping[str, str]) -> Proposal | None:
    number, values = tags.get(RecordTag.SEARCH_NUMBER), tags.get(RecordTag.TUNED)
    return Proposal(int(number), values) if number is not None and values is not None else None


def _started(run: KnownRun) -> tuple[int, str]:
    return run.start_ms, run.run_id
