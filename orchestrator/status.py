"""Where a study stands."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from orchestrator.drivers import running_now
from orchestrator.places import Places
from orchestrator.plan import Plan, PlannedTrial
from orchestrator.progress import duration
from orchestrator.record import Record
from orchestrator.record_states import TrialState
from search_spaces.names import AXES, State

WATCH_S = 5.0
"""Seconds between two looks at the record."""

_NOT_COMPARED = ("trial_id", "cell_id", "attempt_id", "role", "workspace", "study", "axes")


def study_status(plan: Plan, places: Places) -> dict[str, Any]:
    """Counts of the study's target trials.

    Returns:
        study, cells, trials, done, failed, running, missing (targets), eta_s (None if no driver runs), failures (list
        of trial_id, cell, class, message), waiting (finished attempts that MLflow does not have yet), axes (axis ->
        value -> [done, failed, trials]).
    """
    storage = places.storage_of(plan.study.name)
    record = Record(plan.study, storage, places.tracking_uri)
    states = record.look(t.trial_id for t in plan.trials)
    spooled = {i.key for i in storage.undelivered() if i.state is State.COMPLETE}
    running, eta_s = running_now(storage, plan.study.name)
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
        "eta_s": eta_s,
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
    }


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


def status_view(status: dict[str, Any]) -> Group:
    """Counts, one line per axis value, and the failures."""
    counts = (
        f"{status['study']}: {status['done']} of {status['trials']} trials done, {status['running']} running, "
        f"{status['failed']} failed, {status['missing']} missing"
        + (f", about {duration(status['eta_s'])} left" if status["eta_s"] else "")
    )
    lines: list[Any] = [Text(counts, style="bold")]
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
    """Show where the study stands, again and again, until every trial is done or failed."""
    with Live(console=console, auto_refresh=False) as live:
        while True:
            status = study_status(plan, places)
            live.update(status_view(status), refresh=True)
            if status["done"] + status["failed"] >= status["trials"]:
                return
            time.sleep(every_s)
