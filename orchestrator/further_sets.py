"""Score finished trials on a further evaluation set, from their kept weights, without training."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import track

from orchestrator.places import Places
from orchestrator.plan import Plan, PlannedTrial, import_paths
from orchestrator.record import Record
from orchestrator.record_states import TrialState
from orchestrator.searches import searches_of, settled
from search_spaces.exceptions import UnselectedWeightsError, UserError, unknown
from search_spaces.names import Artifact, State
from search_spaces.trial import Workspace
from trainables.library import TaskLibrary
from trainables.storage import Storage


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """What ``evaluate_on`` did, in target trials.

    Attributes:
        scored: Scored now.
        known: Scored before on this set as it is now; a set that was defined anew is scored again.
        unfinished: Not done, so not scored.
        without_weights: Done, but the weights that they were scored with were not kept.
    """

    scored: int
    known: int
    unfinished: int
    without_weights: int


def evaluate_on(plan: Plan, set_name: str, places: Places, console: Console) -> tuple[Record, Scored]:
    """Score every finished target trial whose task has this evaluation set.

    Raises:
        UserError: No task of the plan has a set of that name.
        DataError: The images or labels of the set cannot be used.
        TrackingError: MLflow cannot be reached.
    """
    record = Record(plan.study, places.storage_of(plan.study.name), places.tracking_uri)
    record.open(runs=False)
    record.deliver_earlier()
    plan = settled(plan, searches_of(plan, record.states()))
    return record, _score_set(plan, set_name, _set_hashes(plan, places), places, record, console)


def score_missing(plan: Plan, places: Places, record: Record, console: Console) -> int:
    """Score finished trials on the evaluation sets that the study has gained or defined anew; how many were scored."""
    plan = settled(plan, searches_of(plan, record.states()))
    hashes = _set_hashes(plan, places)
    names = dict.fromkeys(name for of_task in hashes.values() for name in of_task)
    return sum(_score_set(plan, name, hashes, places, record, console).scored for name in names)


def _score_set(
    plan: Plan, set_name: str, hashes: dict[str, dict[str, str]], places: Places, record: Record, console: Console
) -> Scored:
    tasks = _tasks_with(plan, set_name)
    storage = places.storage_of(plan.study.name)
    targets = [t for t in plan.targets if t.trial.cell.task in tasks]
    states = record.states(t.trial_id for t in targets)
    finished = [t for t in targets if states[t.trial_id].state is State.COMPLETE]
    todo = [
        t for t in finished if states[t.trial_id].sets.get(set_name) not in ("", hashes[t.trial.cell.task][set_name])
    ]
    ready = [t for t in todo if storage.has_weights(t.trial_id)]
    scored = 0
    for planned in track(ready, f"scoring {set_name}", console=console, transient=True):
        try:
            _score(plan, planned, states[planned.trial_id], set_name, places, record, storage)
            scored += 1
        except UnselectedWeightsError as error:
            console.print(f"not scored on {set_name}: {error}", style="yellow", markup=False)
    return Scored(
        scored=scored,
        known=len(finished) - len(todo),
        unfinished=len(targets) - len(finished),
        without_weights=len(todo) - scored,
    )


def _tasks_with(plan: Plan, set_name: str) -> set[str]:
    tasks = {t.trial.cell.task for t in plan.targets}
    found = {task for task in tasks if set_name in plan.study.tasks[task].evaluate}
    if not found:
        known: Iterable[str] = {name for task in tasks for name in plan.study.tasks[task].evaluate}
        raise UserError(unknown("evaluation set", set_name, known) + " Add it under tasks.NAME.evaluate of the study.")
    return found


def _set_hashes(plan: Plan, places: Places) -> dict[str, dict[str, str]]:
    """Task -> evaluation set -> what it is now."""
    from trainables.task_data import set_hashes

    if plan.resolver is None:
        raise UserError("\n".join(plan.problems))
    library = TaskLibrary(places.home)
    tasks = dict.fromkeys(t.trial.cell.task for t in plan.targets)
    return {task: set_hashes(plan.resolver.task(task), library) for task in tasks}


def _score(
    plan: Plan,
    planned: PlannedTrial,
    state: TrialState,
    set_name: str,
    places: Places,
    record: Record,
    storage: Storage,
) -> None:
    import torch

    from trainables.groups import SingleProcess
    from trainables.loop import evaluate_only

    if plan.resolver is None or state.run_id is None:
        raise UserError("\n".join(plan.problems) or f"trial {planned.trial_id} has no run")
    workspace = Workspace(home=str(places.home), storage=storage.place, import_paths=import_paths(plan.loaded))
    trial = plan.resolver.resolved(planned.trial, state.run_id, workspace)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory(prefix="scalecurves-") as folder:
        weights = storage.fetch(planned.trial_id, Artifact.WEIGHTS)
        files = evaluate_only(trial, weights, [set_name], Path(folder), SingleProcess(device))
        record.add_predictions(state.run_id, files[set_name])
