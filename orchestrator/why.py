"""Why a trial stands where it does: its attempts, their errors and logs, and what it differs in from a done trial."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console

from dashboards.run_heads import RunHead
from dashboards.tracking import RecordTag
from orchestrator.drivers import drivers_now
from orchestrator.pace import duration
from orchestrator.places import Places
from orchestrator.plan import Plan, PlannedTrial
from orchestrator.record import Record
from orchestrator.record_states import TrialState, trial_states
from orchestrator.searches import Search, searches_of, settled
from orchestrator.whereabouts import JOB
from search_spaces.exceptions import UserError
from search_spaces.identity import canonical
from search_spaces.names import State, Tag
from search_spaces.results import TrialResult
from search_spaces.trial import Workspace
from trainables.storage import Storage

TAIL_LINES = 12
"""Lines of a traceback that are shown."""

_NOT_COMPARED = ("trial_id", "cell_id", "attempt_id", "role", "workspace", "study", "axes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One attempt at a trial, from what the record and the storage say together.

    Attributes:
        attempt_id: Its id.
        state: complete, failed or superseded.
        started_at: Unix seconds.
        seconds: How long it took; of a failed one from when it was handed out. None if not known.
        host: Where it ran; empty if not known.
        failure_class: Why it failed; empty if it did not.
        message: With names of files if the storage has it, else as MLflow has it.
        step: Optimiser step at which it failed; None if not known.
        resumed_from: Step of the checkpoint that it went on from, 0 for the start; None if not known.
        log: File on the host with the output of its process; empty if not known.
        job: Ray job of its driver; empty outside of one.
        detail: Tail of its traceback.
    """

    attempt_id: str
    state: str
    started_at: float
    seconds: float | None
    host: str = ""
    failure_class: str = ""
    message: str = ""
    step: int | None = None
    resumed_from: int | None = None
    log: str = ""
    job: str = ""
    detail: str = ""

    def lines(self) -> list[str]:
        """Sentences for the terminal."""
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.started_at))
        facts = [f"started {when}"]
        facts += [f"on {self.host}"] if self.host else []
        facts += [f"for {duration(self.seconds)}"] if self.seconds is not None else []
        facts += [f"from the checkpoint of step {self.resumed_from}"] if self.resumed_from else []
        lines = [f"attempt {self.attempt_id}: {self.state}, {', '.join(facts)}"]
        if self.failure_class:
            at = f" at step {self.step}" if self.step is not None else ""
            lines.append(f"  {self.failure_class}{at}: {self.message}")
        lines += [f"  | {line}" for line in self.detail.rstrip().splitlines()[-TAIL_LINES:]]
        if self.log:
            lines.append(f"  log: {self.log}" + (f" on {self.host}" if self.host else ""))
        if self.job:
            lines.append(f"  log of the run: ray job logs {self.job}")
        return lines


def attempts_at(trial_id: str, runs: list[RunHead], failures: list[TrialResult]) -> list[Attempt]:
    """All attempts at a trial, earliest first.

    Args:
        trial_id: The trial.
        runs: Of the whole record.
        failures: Failed attempts at the trial that the storage has, delivered or not.
    """
    found = {a.attempt_id: a for a in (_recorded(r) for r in runs if r.tags[Tag.TRIAL_ID] == trial_id)}
    found |= {a.attempt_id: a for a in map(_stored, failures)}
    return sorted(found.values(), key=lambda attempt: attempt.started_at)


def _recorded(run: RunHead) -> Attempt:
    step = run.tags.get(RecordTag.FAILED_STEP)
    return Attempt(
        attempt_id=run.tags.get(Tag.ATTEMPT_ID, ""),
        state=run.tags.get(Tag.STATE, run.status.lower()),
        started_at=run.start_ms / 1000,
        seconds=None if run.end_ms is None else (run.end_ms - run.start_ms) / 1000,
        host=run.tags.get(RecordTag.environment("host"), ""),
        failure_class=run.tags.get(Tag.FAILURE_CLASS, ""),
        message=run.tags.get(Tag.FAILURE_MESSAGE, ""),
        step=int(step) if step else None,
    )


def _stored(result: TrialResult) -> Attempt:
    failure = result.failure
    assert failure is not None, "the storage keeps failed attempts apart"
    return Attempt(
        attempt_id=result.trial.attempt_id,
        state=str(result.state),
        started_at=result.started_at,
        seconds=result.finished_at - result.started_at,
        host=failure.host,
        failure_class=str(failure.failure_class),
        message=failure.message,
        step=failure.step,
        resumed_from=result.resumed_from,
        log=failure.log,
        job=str(result.extra.get(JOB, "")),
        detail=failure.detail,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Why a trial stands where it does.

    Attributes:
        trial_id: Its id.
        label: Cell and seed.
        state: Where it stands.
        attempts: All of them, earliest first.
        run_id: The run that counts; None if there is none.
        now: What happens to it at this moment; sentences.
        upstream_id: Trial that it starts from; None without one.
        upstream_state: Where that one stands.
        tuned: The values that a search gave it, and which; empty without one.
        nearest: The done trial that it differs least from; None if it is done itself, or none is.
        differs: Field -> its value and that of the nearest done trial.
    """

    trial_id: str
    label: str
    state: State
    attempts: tuple[Attempt, ...]
    run_id: str | None = None
    now: tuple[str, ...] = ()
    upstream_id: str | None = None
    upstream_state: State | None = None
    tuned: str = ""
    nearest: str | None = None
    differs: Mapping[str, tuple[str, str]] = field(default_factory=dict)


def explain(plan: Plan, start_of_id: str, places: Places) -> Explanation:
    """Where a trial stands, what its attempts did, and how it differs from the nearest done trial.

    Raises:
        UserError: No trial, or several, whose id starts like this.
        TrackingError: MLflow cannot be reached.
    """
    storage = places.storage_of(plan.study.name)
    runs = Record(plan.study, storage, places.tracking_uri).attempts()
    recorded = trial_states(runs)
    searches = searches_of(plan, recorded)
    plan = settled(plan, searches)
    planned = find_trial(plan, start_of_id, searches)
    states = trial_states(runs, [planned.trial_id, *(t.trial_id for t in plan.trials)])
    state, proposal = states[planned.trial_id], planned.trial.proposal
    nearest, differs = _difference(plan, planned, states) if state.state is not State.COMPLETE else (None, {})
    origin = f"proposal {proposal.number} of search {planned.search_id}" if proposal is not None else ""
    return Explanation(
        trial_id=planned.trial_id,
        label=planned.trial.label,
        state=state.state,
        run_id=state.run_id,
        attempts=tuple(attempts_at(planned.trial_id, runs, storage.failures(planned.trial_id))),
        now=tuple(_now(planned, storage, plan.study.name)),
        upstream_id=planned.upstream_id,
        upstream_state=states[planned.upstream_id].state if planned.upstream_id else None,
        tuned=f"{proposal.text} ({origin})" if proposal is not None else "",
        nearest=nearest,
        differs=differs,
    )


def print_explanation(found: Explanation, console: Console) -> None:
    """The same for the terminal."""
    console.print(f"[bold]{found.trial_id}[/] {found.label}")
    run = f", run {found.run_id}" if found.run_id else ""
    console.print(f"state: {found.state}, {len(found.attempts)} attempts{run}")
    for line in found.now:
        console.print(line, markup=False)
    if found.upstream_id:
        console.print(f"starts from trial {found.upstream_id} ({found.upstream_state})")
    if found.tuned:
        console.print(f"tuned: {found.tuned}", markup=False, highlight=False)
    for attempt in found.attempts:
        first, *more = attempt.lines()
        console.print(first, markup=False, style="red" if attempt.failure_class else "")
        for line in more:
            console.print(line, markup=False, style="dim")
    if found.nearest is not None:
        console.print(f"differs from the done trial {found.nearest} in:")
        for key, (here, there) in found.differs.items():
            console.print(f"  {key}: {here} (done: {there})", markup=False)
    elif found.state is not State.COMPLETE:
        console.print("no trial of the study is done yet")


def _now(planned: PlannedTrial, storage: Storage, study: str) -> list[str]:
    """What happens to the trial at this moment."""
    return [
        f"running now: {driver.label} drives it"
        for driver in drivers_now(storage, study)
        if planned.trial_id in driver.running
    ] + (["finished; waits in the storage for MLflow"] if storage.is_published(planned.trial_id) else [])


def find_trial(plan: Plan, start_of_id: str, searches: Mapping[str, Search]) -> PlannedTrial:
    """The trial of a study, those of its searches included, whose id starts like this.

    Raises:
        UserError: None, or several.
    """
    tried = [t for s in searches.values() for g in s.generations() for t in g]
    known = {t.trial_id: t for t in (*plan.trials, *tried) if not t.trial.is_open}
    found = [t for trial_id, t in known.items() if trial_id.startswith(start_of_id)]
    if len(found) != 1:
        many = f"{len(found)} trials start with" if found else "no trial of the study has the id"
        raise UserError(f"{many} {start_of_id!r}; ids are listed by plan --json and in the MLflow tag sc.trial_id")
    return found[0]


def _difference(
    plan: Plan, planned: PlannedTrial, states: Mapping[str, TrialState]
) -> tuple[str | None, dict[str, tuple[str, str]]]:
    """The done trial that differs least, None if none is done, and the fields that differ."""
    done = [t for t in plan.trials if states[t.trial_id].state is State.COMPLETE and not t.trial.is_open]
    if not done:
        return None, {}
    mine = _flat(plan, planned)
    changes = {t.trial_id: _changes(mine, _flat(plan, t)) for t in done}
    nearest = min(changes, key=lambda trial_id: len(changes[trial_id]))
    return nearest, changes[nearest]


def _flat(plan: Plan, planned: PlannedTrial) -> dict[str, str]:
    if plan.resolver is None:
        raise UserError("\n".join(plan.problems))
    resolved = plan.resolver.resolved(planned.trial, "why", Workspace(home="", storage=""))
    flat: dict[str, str] = {}

    def visit(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                visit(f"{prefix}.{key}" if prefix else key, inner)
        else:
            flat[prefix] = canonical(value)

    visit("", resolved.model_dump(mode="json", exclude=set(_NOT_COMPARED)))
    return flat


def _changes(one: dict[str, str], other: dict[str, str]) -> dict[str, tuple[str, str]]:
    keys = sorted(one.keys() | other.keys())
    pairs = {k: (one.get(k, "absent"), other.get(k, "absent")) for k in keys}
    return {k: pair for k, pair in pairs.items() if pair[0] != pair[1]}
