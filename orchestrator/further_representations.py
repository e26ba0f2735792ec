"""Representations of trials that had ended before the study asked for them, from their kept weights."""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from pathlib import Path

from rich.console import Console
from rich.progress import track

from orchestrator.places import Places
from orchestrator.plan import Plan, PlannedTrial, import_paths
from orchestrator.plan_representations import kept_by
from orchestrator.record import Record
from orchestrator.searches import searches_of, settled
from search_spaces.exceptions import UserError
from search_spaces.names import Artifact, State
from search_spaces.trial import Workspace
from trainables.storage import Storage


def without_kept(plan: Plan, done: Collection[str], storage: Storage) -> list[PlannedTrial]:
    """Finished target trials that should have representations and have none.

    Args:
        plan: The study.
        done: Ids of finished trials.
        storage: The study's.
    """
    resolver, done = plan.resolver, set(done)
    if plan.study.representations is None or resolver is None:
        return []
    return [
        t
        for t in plan.targets
        if t.trial_id in done and kept_by(plan.study, t.trial, resolver) and not storage.has_representations(t.trial_id)
    ]


def keep_missing(plan: Plan, places: Places, record: Record, console: Console) -> int:
    """Make the representations that finished trials lack, where their weights were kept; how many were made.

    The initialisation is drawn or loaded again, by the trial's seed. What cannot be made is said and skipped.

    Raises:
        DataError: The images cannot be used.
        TrackingError: MLflow cannot be reached.
    """
    if plan.study.representations is None:
        return 0
    states = record.states()
    plan = settled(plan, searches_of(plan, states))
    storage = places.storage_of(plan.study.name)
    done = [trial_id for trial_id, state in states.items() if state.state is State.COMPLETE]
    missing = without_kept(plan, done, storage)
    ready = [t for t in missing if storage.has_weights(t.trial_id)]
    made = 0
    for planned in track(ready, "keeping representations", console=console, transient=True):
        try:
            _keep(plan, planned, places, storage)
            made += 1
        except UserError as error:
            console.print(f"representations not kept: {error}", style="yellow", markup=False)
    if len(missing) > made:
        console.print(
            f"{len(missing) - made} finished trials have no representations: the weights that they were scored with "
            "were not kept",
            style="yellow",
        )
    return made


def _keep(plan: Plan, planned: PlannedTrial, places: Places, storage: Storage) -> None:
    import torch

    from trainables.groups import SingleProcess
    from trainables.loop import represent_only

    if plan.resolver is None:
        raise UserError("\n".join(plan.problems))
    workspace = Workspace(
        home=str(places.home),
        storage=storage.place,
        import_paths=import_paths(plan.loaded),
        representations=kept_by(plan.study, planned.trial, plan.resolver),
    )
    trial = plan.resolver.resolved(planned.trial, "representations", workspace)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory(prefix="scalecurves-") as folder:
        represent_only(trial, storage.fetch(planned.trial_id, Artifact.WEIGHTS), Path(folder), SingleProcess(device))
        storage.put_representations(planned.trial_id, Path(folder))
