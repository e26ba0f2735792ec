"""A finished trial's weights as a folder that stands alone: safetensors, config, receipt of the facts, model card."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from dashboards.load import load_predictions, load_report_table, load_results
from dashboards.trial_metrics import trial_metrics
from orchestrator.model_card import CardFacts, model_card_text
from orchestrator.places import Places
from orchestrator.plan import Plan, import_paths
from orchestrator.record import Record
from orchestrator.searches import searches_of, settled
from orchestrator.why import find_trial
from search_spaces.catalogue import catalogue
from search_spaces.exceptions import UserError
from search_spaces.names import Artifact, State
from search_spaces.source_specs import CheckpointSource, TimmSource
from search_spaces.trial import ResolvedTrial, UpstreamSource, Workspace
from trainables.importers.catalogue import shipped_map, shipped_names
from trainables.library import TaskLibrary

CARD = "README.md"
CARD_METRICS = ("nll", "accuracy", "dice", "iou", "hd95", "nsd", "false_positive_images")
"""Metrics of a card beside the primary one, where they are defined for the kind of the task."""

_MAP = "map "
"""How the importer of a shipped data set is recorded, before its name."""


def export_trial(plan: Plan, start_of_id: str, folder: Path, places: Places) -> list[Path]:
    """Write the folder.

    Args:
        plan: Of the study.
        start_of_id: Start of the trial's id.
        folder: Made; must not exist, or be empty.
        places: Where the record and the weights are.

    Returns:
        The files.

    Raises:
        UserError: No such trial, it is not done, its weights are gone or not those that it was scored with, or the
            folder holds something.
        TrackingError: MLflow cannot be reached.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is there already; name a folder that does not exist, or an empty one")
    storage = places.storage_of(plan.study.name)
    record = Record(plan.study, storage, places.tracking_uri)
    record.open(runs=False)
    record.deliver_earlier()
    searches = searches_of(plan, record.states())
    plan = settled(plan, searches)
    planned = find_trial(plan, start_of_id, searches)
    state = record.states([planned.trial_id])[planned.trial_id]
    if state.state is not State.COMPLETE or state.run_id is None:
        raise UserError(
            f"trial {planned.trial_id} is {state.state}, so there is nothing to export; run the study first"
        )
    if not storage.has_weights(planned.trial_id):
        raise UserError(
            f"the weights of trial {planned.trial_id} are not in storage {storage.label}: they were pruned, or not "
            "kept (execution.keep_weights: none). Only training makes them again: run the study with keep_weights: "
            "best under another --storage and --tracking-uri"
        )
    assert plan.resolver is not None
    protocol = plan.resolver.protocol(planned.trial.cell)
    if not protocol.trains:
        raise UserError(
            f"trial {planned.trial_id} is a {protocol.base}: what it learnt lies on its source's features and "
            "is no network of its own; export the trial or take the file that its source is"
        )
    workspace = Workspace(home=str(places.home), storage=storage.place, import_paths=import_paths(plan.loaded))
    trial = plan.resolver.resolved(planned.trial, state.run_id, workspace)
    facts = _facts(trial, plan, places, record.uri)
    return _write(trial, storage.fetch(planned.trial_id, Artifact.WEIGHTS), facts, folder)


def _write(trial: ResolvedTrial, weights: Path, facts: CardFacts, folder: Path) -> list[Path]:
    """All files or none."""
    from trainables.exported import export_files

    existed = folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        export_files(trial, weights, folder)
        (folder / CARD).write_text(model_card_text(trial, facts), encoding="utf-8")
    except BaseException:
        for file in folder.iterdir():
            file.unlink()
        if not existed:
            shutil.rmtree(folder)
        raise
    return sorted(folder.iterdir())


def _facts(trial: ResolvedTrial, plan: Plan, places: Places, tracking_uri: str) -> CardFacts:
    from trainables.exported import is_timm

    results = load_results(plan.study.name, tracking_uri)
    rows = results[results["trial_id"] == trial.trial_id]
    metrics = tuple(dict.fromkeys((trial.task.primary, *CARD_METRICS)))
    predictions = load_predictions(rows, tracking_uri=tracking_uri)
    level = 1 - plan.study.statistics.alpha
    return CardFacts(
        run={str(k): v.item() if hasattr(v, "item") else v for k, v in rows.iloc[0].items()},
        metrics=trial_metrics(predictions, trial.trial_id, metrics, level),
        grades=_grades(trial, plan, tracking_uri),
        source_licence=_source_licence(trial),
        data_licence=_data_licence(trial, TaskLibrary(places.home)),
        is_timm=is_timm(trial),
    )


def _grades(trial: ResolvedTrial, plan: Plan, tracking_uri: str) -> Sequence[Mapping[Any, Any]]:
    """What the study's last report says of the trial's cell against the baseline."""
    contrasts = load_report_table(plan.study.name, "contrasts", tracking_uri)
    wanted = {axis: value for axis, value in trial.axes.items() if axis in contrasts}
    if contrasts.empty or not {"grade", "words", "set"} <= set(contrasts):
        return []
    mine = pd.Series(True, index=contrasts.index)
    for axis, value in wanted.items():
        mine &= contrasts[axis].astype(str) == value
    return contrasts[mine].to_dict("records")


def _source_licence(trial: ResolvedTrial) -> str:
    """Of the initial weights, in words."""
    from trainables.exported import licence_of_timm

    weights: Any = getattr(trial.source.weights, "of", trial.source.weights)
    if isinstance(weights, CheckpointSource):
        entry = catalogue().get(weights.catalogue or "")
        return (entry.licence if entry else None) or "not known: the study names a file without a licence"
    if isinstance(weights, TimmSource):
        return licence_of_timm(trial.scale.factory, weights.timm) or "timm states none"
    if isinstance(weights, UpstreamSource):
        return f"that of trial {weights.upstream_trial_id}, whose weights it starts from"
    return "none: initial weights were drawn from the seed"


def _data_licence(trial: ResolvedTrial, library: TaskLibrary) -> str:
    name = library.load(trial.task.manifest).importer.removeprefix(_MAP).partition(" ")[0]
    if name in shipped_names():
        return shipped_map(name).about.licence
    return "not known: ask whoever has the images"
