"""Commands of ``orchestrator.sweep`` on what is there: weights of trials, results of others, files to delete."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from orchestrator.options import Shared, command
from orchestrator.prune_rules import RepresentationsRule, WeightsRule
from orchestrator.study_commands import OutOption, StudyArgument, console, sound_plan_of

app = typer.Typer()


@command(app)
def export(
    study: StudyArgument,
    trial: Annotated[str, typer.Argument(help="Trial id or the start of one.")],
    folder: Annotated[Path, typer.Argument(help="Folder to make; must not exist, or be empty.")],
    *,
    shared: Shared,
) -> None:
    """Write a finished trial's weights as a folder that stands alone: safetensors, config and a model card.

    Example: python -m orchestrator.sweep export my_study.yaml 3f2a exported/resnet50_chest
    """
    from orchestrator.record_api import export_study

    files = export_study(
        study, trial, folder, storage=shared.storage, tracking_uri=shared.tracking_uri, sets=shared.set_ or ()
    )
    for file in files:
        console.print(str(file), markup=False, highlight=False)


@command(app)
def ingest(
    table: Annotated[Path, typer.Argument(metavar="CSV", help="CSV or Parquet: a row per trial, set and metric.")],
    study: Annotated[str, typer.Option("--study", help="Name of the study in the record.")],
    map_: Annotated[
        list[str] | None,
        typer.Option("--map", help="Columns (or metrics) under other names: arch=model_scale,f=data_fraction."),
    ] = None,
    scale: Annotated[
        float | None, typer.Option("--scale", help="Factor of metrics that lie in [0, 1]: 0.01 for percent.")
    ] = None,
    encoding: Annotated[
        str | None, typer.Option("--encoding", help="Of the CSV, such as cp1252; UTF-8 if not given.")
    ] = None,
    decimal: Annotated[str, typer.Option("--decimal", help="What decimals begin with: a point or a comma.")] = ".",
    predictions: Annotated[
        Path | None,
        typer.Option(
            "--predictions",
            help="Folder of predictions: where the column predictions starts from, else "
            "task/scale/source/amount/seed/set.parquet.",
        ),
    ] = None,
    baseline: Annotated[
        str | None, typer.Option("--baseline", help="Source that all are compared with; else random or scratch.")
    ] = None,
    primary: Annotated[
        list[str] | None, typer.Option("--primary", help="Metric that leads: auc, or TASK=auc. Repeatable.")
    ] = None,
    delta: Annotated[
        float, typer.Option("--delta", min=0.0, help="Differences below this are of no practical meaning.")
    ] = 0.01,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and count; write nothing.")] = False,
    out: OutOption = None,
    *,
    shared: Shared,
) -> None:
    """Turn results of others into a record with the same report; repeated, it adds what is new.

    Example: python -m orchestrator.sweep ingest results.csv --study padchest --map arch=model_scale
    """
    from orchestrator.options import pairs
    from orchestrator.record_api import ingest_study
    from orchestrator.run_text import print_report

    made = ingest_study(
        table,
        study,
        renames=pairs("--map", map_ or ()),
        scale=scale,
        encoding=encoding,
        decimal=decimal,
        predictions=predictions,
        baseline=baseline,
        primary=pairs("--primary", primary or (), single=True),
        delta=delta,
        dry_run=dry_run,
        storage=shared.storage,
        tracking_uri=shared.tracking_uri,
        out=out,
    )
    if made.report is not None:
        print_report(made.report.page, made.report.headlines, made.report.tracking_uri, console)


@command(app)
def prune(
    study: StudyArgument,
    weights: Annotated[
        WeightsRule | None,
        typer.Option(
            "--weights",
            help="Also weights: of trials that are not done (failed), also of done ones that nothing of the study "
            "starts from (not-upstream), of all that nothing still has to start from (all).",
        ),
    ] = None,
    representations: Annotated[
        RepresentationsRule | None,
        typer.Option(
            "--representations",
            help="Also representations: of trials that are not in the study or that it asks none of (unused), of all.",
        ),
    ] = None,
    stores: Annotated[
        bool, typer.Option("--stores", help="Also image stores of data sets that are no longer imported.")
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    *,
    shared: Shared,
) -> None:
    """List what may be deleted from storage and home, with sizes; --yes deletes it.

    Always: checkpoints of trials that are done or no longer in the study, details of their delivered failures, and what
    crashed processes left half-written. Never what MLflow does not have yet.
    """
    from orchestrator.prune import find, prune_json, prune_view

    made = sound_plan_of(study, replace(shared, only=None), quiet=True, load_weights=False)
    found = find(
        made,
        shared.places(),
        weights=weights,
        representations=representations,
        stores=stores,
        only=shared.only,
    )
    if shared.yes:
        found.delete()
    if json_:
        print(json.dumps(prune_json(found, deleted=shared.yes), indent=2))
    else:
        console.print(prune_view(found, deleted=shared.yes))
