"""Where a study stands."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import ValidationError
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from orchestrator.drivers import running_now
from orchestrator.pace import TimeLeft
from orchestrator.places import Places
from orchestrator.plan import Plan, PlannedTrial
from orchestrator.record import Record
from orchestrator.record_states import TrialState
from orchestrator.searches import NO_VALUE, Search, searches_of, settled
from search_spaces.names import AXES, FailureClass, State
from trainables.storage import Storage, Undelivered

WATCH_S = 5.0
"""Seconds between two looks at the record."""

_MISSING = TrialState(state=State.MISSING)
_DIVERGED = FailureClass.DIVERGENCE


def study_status(plan: Plan, places: Places) -> dict[str, Any]:
    """Counts of the study's target trials.

    Returns:
        study, cells, trials, done, failed, running, missing (targets), eta_s and eta_error_s (seconds left and two
        standard errors of them; None if no driver runs or too few trials have ended), failures (list of trial_id, cell,
        class, message), waiting (finished attempts that MLflow does not have yet), axes (axis -> value -> [done,
        failed, trials]), search (trials, done, failed, running and missing search trials; only if the study is tuned).
        A target whose search has not ended is missing.
    """
    storage = places.storage_of(plan.study.name)
    record = Record(plan.study, storage, places.tracking_uri)
    recorded = record.look()
    searches = searches_of(plan, recorded)
    plan = settled(plan, searches)
    states = {t.trial_id: recorded.get(t.trial_id, _MISSING) for t in plan.trials}
    states |= _without_values(plan, searches, states)
    undelivered = storage.undelivered()
    spooled = {i.key for i in undelivered if i.state is State.COMPLETE}
    states |= _spooled_failures(storage, undelivered, states)
    running, left = running_now(storage, plan.study.name)
    stand = {t.trial_id: _stand(t, states[t.trial_id], spooled, running) for t in plan.trials}
    counts = {state: sum(stand[t.trial_id] is state for t in plan.targets) for state in State}
    return {
        "study": plan.study.name,
        "cells": len(plan.cells),
        "trials": len(plan.targets),
        "done": counts[State.COMPLETE],
        "failed": counts[State.FAILED],
        "running": counts[State.RUNNING],
        "missing": counts[State.MISSING],
        "eta_s": None if left is None else left.seconds,
        "eta_error_s": None if left is None else left.error_s,
        "failures": [
            {
                "trial_id": t.trial_id,
                "cell": t.trial.label,
                "class": str(states[t.trial_id].failure_class or ""),
                "message": states[t.trial_id].message,
            }
            for t in plan.targets
            if stand[t.trial_id] is State.FAILED
        ],
        "waiting": len(spooled & stand.keys()),
        "axes": _by_axis(plan, stand),
        **({"search": _search_counts(searches, running)} if plan.study.tuning else {}),
    }


def _spooled_failures(
    storage: Storage, undelivered: Sequence[Undelivered], states: Mapping[str, TrialState]
) -> dict[str, TrialState]:
    """Failed: trials of which the record knows nothing, while failed attempts wait in the storage."""
    failed: dict[str, TrialState] = {}
    for _, result in storage.results(item for item in undelivered if item.state is State.FAILED):
        if isinstance(result, ValidationError):
            continue  # runs name what they cannot deliver
        trial_id, failure = result.trial.trial_id, result.failure
        if trial_id in states and states[trial_id].state is State.MISSING and failure is not None:
            message = f"{failure.public_message} (MLflow does not have it yet)"
            failed[trial_id] = TrialState(state=State.FAILED, message=message, failure_class=failure.failure_class)
    return failed


def _without_values(
    plan: Plan, searches: Mapping[str, Search], states: Mapping[str, TrialState]
) -> dict[str, TrialState]:
    """Failed: targets whose search ended without a value, or cannot begin because what it starts from diverged."""
    failed: dict[str, TrialState] = {}
    for target in plan.targets:
        search = searches.get(target.search_id or "")
        if search is None or not target.trial.is_open:
            continue
        starts = [states[t.upstream_id] for t in search.planned.trials if t.upstream_id]
        if search.is_over:
            failed[target.trial_id] = TrialState(state=State.FAILED, message=NO_VALUE, failure_class=_DIVERGED)
        elif diverged := [s for s in starts if s.failure_class is _DIVERGED]:
            failed[target.trial_id] = replace(
                diverged[0], message=f"what its search starts from: {diverged[0].message}"
            )
    return failed


def _search_counts(searches: Mapping[str, Search], running: set[str]) -> dict[str, int]:
    counts = Counter[str]({"trials": 0, "done": 0, "failed": 0, "running": 0, "missing": 0})
    for search in searches.values():
        counts.update(search.counts)
        ids = {
            t.trial_id for generation in search.generations() for t in generation if not search.has_ended(t.trial_id)
        }
        counts["running"] += len(ids & running)
    counts["missing"] -= counts["running"]
    return dict(counts)


def _stand(planned: PlannedTrial, state: TrialState, spooled: set[str], running: set[str]) -> State:
    if state.state is State.COMPLETE or planned.trial_id in spooled:
        return State.COMPLETE
    return State.RUNNING if planned.trial_id in running else state.state


def _by_axis(plan: Plan, stand: dict[str, State]) -> dict[str, dict[str, list[int]]]:
    axes: dict[str, dict[str, list[int]]] = {axis: {} for axis in AXES}
    for target in plan.targets:
        for axis, value in target.trial.cell.coordinates.items():
            counts = axes[axis].setdefault(value, [0, 0, 0])
            counts[0] += stand[target.trial_id] is State.COMPLETE
            counts[1] += stand[target.trial_id] is State.FAILED
            counts[2] += 1
    return axes


def counts_line(status: dict[str, Any]) -> str:
    """How many trials stand where, and when the last one will have ended."""
    return (
        f"{status['study']}: {status['done']} of {status['trials']} trials done, {status['running']} running, "
        f"{status['failed']} failed, {status['missing']} missing"
        + (f", {TimeLeft(status['eta_s'], status['eta_error_s']).text}" if status["eta_s"] else "")
    )


def status_view(status: dict[str, Any]) -> Group:
    """Counts, one line per axis value, and the failures."""
    lines: list[Any] = [Text(counts_line(status), style="bold")]
    if search := status.get("search"):
        lines.append(
            Text(
                f"search before them: {search['done']} of {search['trials']} search trials done, {search['running']} "
                f"running, {search['failed']} failed (they count as worst), {search['missing']} missing"
            )
        )
    if status["waiting"]:
        waiting = f"{status['waiting']} of the done are in the storage, not yet in MLflow"
        lines.append(Text(waiting, style="yellow"))
    table = Table("axis", "value", "done", "failed", "trials", box=None, pad_edge=False)
    for axis, values in status["axes"].items():
        for value, (done, failed, trials) in values.items():
            table.add_row(axis, Text(value), str(done), str(failed or ""), str(trials))
    lines.append(table)
    for failure in status["failures"]:
        line = f"failed ({failure['class']}) {failure['cell']} [{failure['trial_id']}]: {failure['message']}"
        lines.append(Text(line, style="red"))
    return Group(*lines)


def watch(plan: Plan, places: Places, console: Console, every_s: float = WATCH_S) -> None:
    """Show where the study stands, again and again, until every trial is done or failed.

    Without a terminal it is a line whenever the counts change, and the whole at the end.
    """
    if not console.is_terminal:
        _watch_lines(plan, places, console, every_s)
        return
    with Live(console=console, auto_refresh=False) as live:
        for status in _looks(plan, places, every_s):
            live.update(status_view(status), refresh=True)


def _looks(plan: Plan, places: Places, every_s: float) -> Iterator[dict[str, Any]]:
    while True:
        status = study_status(plan, places)
        yield status
        if _is_over(status):
            return
        time.sleep(every_s)


def _is_over(status: dict[str, Any]) -> bool:
    return bool(status["done"] + status["failed"] >= status["trials"])


def _watch_lines(plan: Plan, places: Places, console: Console, every_s: float) -> None:
    told: list[int] = []
    status: dict[str, Any] = {}
    for status in _looks(plan, places, every_s):
        counts = [status[name] for name in ("done", "running", "failed", "missing")]
        if counts != told and not _is_over(status):
            console.print(counts_line(status), markup=False, highlight=False)
            told = counts
    console.print(status_view(status))
