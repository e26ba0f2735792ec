"""The command line ``python -m orchestrator.sweep [COMMAND]``: run (of the demo if none is given), plan, report, ..."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.status import Status

from orchestrator.options import Shared, command
from orchestrator.prune_rules import RepresentationsRule, WeightsRule
from orchestrator.terminal import EXIT_FAILED, EXIT_USER, make_console
from search_spaces.exceptions import UserError
from search_spaces.names import FailureClass

if TYPE_CHECKING:
    from orchestrator.plan import Plan
    from orchestrator.record import Record
    from orchestrator.run_terms import RunOptions
    from search_spaces.files import LoadedStudy

app = typer.Typer(
    add_completion=True,
    no_args_is_help=False,
    pretty_exceptions_enable=False,
    help="Whether pretraining helps, at which scale, with how few labels, and whom it harms.",
)
console = make_console()

MANY_TRIALS = 1000
"""From here on a run asks before it starts."""

StudyArgument = Annotated[str, typer.Argument(help="Preset (demo), YAML file, or module:function.")]
OutOption = Annotated[Path | None, typer.Option("--out", help="Folder of the report; else ./reports/<study>.")]
ConcurrentOption = Annotated[
    int | None,
    typer.Option("--max-concurrent", min=1, help="Most trials at a time, instead of execution.max_concurrent."),
]
GpuHoursOption = Annotated[
    float | None,
    typer.Option(
        "--max-gpu-hours",
        help="Start no trial that would exceed so many GPU-hours in this run (spent, and expected of what runs); "
        "running ones finish. Exit code 3 if trials are left, which are counted.",
    ),
]


@app.callback(invoke_without_command=True)
def main(context: typer.Context) -> None:
    """Without a command: run the demo study."""
    if context.invoked_subcommand is None:
        run()


@command(app)
def run(
    study: StudyArgument = "demo",
    out: OutOption = None,
    max_concurrent: ConcurrentOption = None,
    max_gpu_hours: GpuHoursOption = None,
    *,
    shared: Shared,
) -> None:
    """Make every trial of the study true; skip what is done; resume what broke; then write the report.

    Example: python -m orchestrator.sweep run my_study.yaml --only 'seed=0'
    """
    from orchestrator.run_terms import RunOptions

    made = _sound_plan(study, shared)
    _confirm(len(made.targets), shared)
    _carry_out(made, shared, RunOptions(max_concurrent=max_concurrent, max_gpu_hours=max_gpu_hours), out)


@command(app)
def retry(
    study: StudyArgument,
    failed: Annotated[
        bool, typer.Option("--failed", help="All failed trials but diverged ones, which would diverge again.")
    ] = False,
    classes: Annotated[
        list[FailureClass] | None, typer.Option("--class", help="Failed trials of this class alone. Repeatable.")
    ] = None,
    out: OutOption = None,
    max_concurrent: ConcurrentOption = None,
    max_gpu_hours: GpuHoursOption = None,
    *,
    shared: Shared,
) -> None:
    """Run failed trials again, and nothing else but what they start from; then write the report.

    Example: python -m orchestrator.sweep retry my_study.yaml --class memory
    """
    from orchestrator.record import Record
    from orchestrator.retry import failed_targets, what_failed
    from orchestrator.run_terms import RunOptions

    made = _sound_plan(study, shared)
    places = shared.places()
    record = Record(made.study, places.storage_of(made.study.name), places.tracking_uri)
    states = record.look(t.trial_id for t in made.trials)
    listed = what_failed(made, states)
    if not failed and not classes:
        raise UserError(
            f"{listed}. Choose with --failed (all but divergence) or --class CLASS (repeatable), and --only if need be"
        )
    chosen = failed_targets(made, states, classes or ())
    asked = f" of class {' or '.join(classes)}" if classes else ""
    console.print(f"{listed}; {len(chosen)} of them{asked} selected to run again", markup=False)
    if not chosen:
        return
    _confirm(len(chosen), shared)
    options = RunOptions(
        max_concurrent=max_concurrent,
        max_gpu_hours=max_gpu_hours,
        targets=frozenset(t.trial_id for t in chosen),
        diverged_too=FailureClass.DIVERGENCE in (classes or ()),
    )
    _carry_out(made, shared, options, out)


@command(app)
def cancel(
    study: StudyArgument,
    *,
    shared: Shared,
) -> None:
    """Take the trials that --only selects out of a run that goes on, here or on another machine with this storage.

    Running ones stop at their next report with a checkpoint, the others are not started; the next run takes them up.

    Example: python -m orchestrator.sweep cancel my_study.yaml --only 'task=chest'
    """
    from orchestrator.cancel import cancel_selected

    if shared.only is None:
        raise UserError(
            "cancel needs --only, such as --only 'task=chest'; to stop the whole run, press Ctrl-C there "
            "(or ray job stop)"
        )

    def confirm() -> None:
        if not shared.yes and sys.stdin.isatty():
            typer.confirm("Take them out of it?", abort=True)

    cancel_selected(_loaded(study, shared).study, shared.only, shared.places(), console, confirm)


@command(app)
def plan(
    study: StudyArgument = "demo",
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    resolved: Annotated[bool, typer.Option("--resolved", help="Print the study as it was understood.")] = False,
    slots: Annotated[
        int | None, typer.Option("--slots", help="Trials at a time; else what fits the CPUs of this machine.")
    ] = None,
    nodes: Annotated[
        str | None, typer.Option("--nodes", help="The cluster, for the time: 2x(32,8) is two nodes of 32 CPUs, 8 GPUs.")
    ] = None,
    max_concurrent: ConcurrentOption = None,
    max_gpu_hours: GpuHoursOption = None,
    price: Annotated[float | None, typer.Option("--price", help="Of a GPU-hour, for the cost in money.")] = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Time a few steps of scales of which no trial has ended, on the CPU.")
    ] = False,
    *,
    shared: Shared,
) -> None:
    """Cells, trials, exclusions with reasons, time, money, disk, and every problem at once; trains nothing."""
    from orchestrator.estimate import estimate, parse_nodes
    from orchestrator.plan_recipes import resolved_facts, resolved_protocol
    from orchestrator.plan_text import plan_json, print_plan
    from orchestrator.run_terms import RunOptions

    cluster = parse_nodes(nodes) if nodes else ()
    made = _plan(study, shared, quiet=json_)
    costs = None
    if not made.problems:
        with redirect_stdout(sys.stderr) if json_ else console.status("estimating") as shown:
            note: Callable[[str], None] = shown.update if isinstance(shown, Status) else lambda _: None
            options = RunOptions(max_concurrent=max_concurrent, max_gpu_hours=max_gpu_hours)
            costs = estimate(
                made,
                shared.places(),
                slots=slots,
                nodes=cluster,
                price=price,
                calibrate=calibrate,
                note=note,
                options=options,
            )
    if json_:
        extra = {"estimate": costs.to_json()} if costs else {}
        print(json.dumps(plan_json(made) | extra | (resolved_facts(made.loaded) if resolved else {}), indent=2))
    else:
        if resolved:
            console.print(made.loaded.text, markup=False)
            console.print(resolved_protocol(made.loaded), markup=False)
        print_plan(made, console)
        for line in costs.lines() if costs else []:
            console.print(line, markup=False)
    if made.problems:
        raise typer.Exit(EXIT_USER)


@command(app)
def status(
    study: StudyArgument = "demo",
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    watch_: Annotated[bool, typer.Option("--watch", help="Look again every 5 s until all trials have ended.")] = False,
    *,
    shared: Shared,
) -> None:
    """Done, failed, running and missing target trials, and what failed."""
    from orchestrator.status import status_view, study_status, watch

    made = _sound_plan(study, shared, quiet=True, load_weights=False)
    if json_:
        print(json.dumps(study_status(made, shared.places()), indent=2))
    elif watch_:
        watch(made, shared.places(), console)
    else:
        console.print(status_view(study_status(made, shared.places())))


@command(app)
def why(
    study: StudyArgument,
    trial: Annotated[str, typer.Argument(help="Trial id or the start of one.")],
    *,
    shared: Shared,
) -> None:
    """State and attempts of a trial, errors and where their logs are, and what makes it differ from a done trial."""
    from orchestrator.why import explain

    made = _sound_plan(study, replace(shared, only=None), quiet=True, load_weights=False)
    explain(made, trial, shared.places(), console)


@command(app)
def evaluate(
    study: StudyArgument,
    on: Annotated[str, typer.Option("--on", help="Evaluation set of the study file; added after training is fine.")],
    out: OutOption = None,
    *,
    shared: Shared,
) -> None:
    """Score finished trials on a further evaluation set from their kept weights, without training; then report."""
    from orchestrator.further_sets import evaluate_on

    made = _sound_plan(study, shared, load_weights=False)
    record, scored = evaluate_on(made, on, shared.places(), console)
    console.print(
        f"{scored.scored} trials scored on {on}, {scored.known} were before, {scored.unfinished} are not done, "
        f"{scored.without_weights} are done but kept no weights"
    )
    _report(made, record, out)
    if scored.unfinished or scored.without_weights:
        raise typer.Exit(EXIT_FAILED)


@command(app)
def report(
    study: StudyArgument = "demo",
    out: OutOption = None,
    *,
    shared: Shared,
) -> None:
    """Build the report from the record and attach it to the study's parent run.

    Results of others are named as in ingest --study.
    """
    from orchestrator.api import ingested_study
    from orchestrator.record import Record

    places = shared.places()
    if (others := ingested_study(study, places.tracking_uri)) is not None:
        record = Record(others, places.storage_of(others.name), places.tracking_uri)
        record.open()
        _report(None, record, out)
        return
    made = _sound_plan(study, replace(shared, only=None), load_weights=False)
    record = Record(made.study, places.storage_of(made.study.name), places.tracking_uri)
    record.open()
    _report(made, record, out)


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
    from orchestrator.export import export_trial

    made = _sound_plan(study, replace(shared, only=None), quiet=True, load_weights=False)
    for file in export_trial(made, trial, folder, shared.places()):
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
    from orchestrator.api import attach_report, parent_closed
    from orchestrator.ingest import IngestOptions, ingest, new_trials, read_ingestion
    from orchestrator.options import pairs
    from orchestrator.record import Record
    from orchestrator.run_text import print_report

    if decimal not in (".", ","):
        raise UserError(f"--decimal is . or a comma, got {decimal!r}")
    options = IngestOptions(
        renames=pairs("--map", map_ or ()),
        scale=scale,
        encoding=encoding,
        decimal_comma=decimal == ",",
        predictions=predictions,
        baseline=baseline,
        primary=pairs("--primary", primary or (), single=True),
        delta=delta,
    )
    with console.status("reading the table"):
        ingestion = read_ingestion(table, study, options)
    for line in ingestion.lines():
        console.print(line, markup=False)
    places = shared.places()
    record = Record(ingestion.study, places.storage_of(study), places.tracking_uri)
    if dry_run:
        new = new_trials(ingestion, record)
        console.print(f"{new} trials would be added, {len(ingestion.trials) - new} are in the record; nothing written")
        return
    record.open()
    with parent_closed(record, console):
        for line in ingest(ingestion, record, console).lines():
            console.print(line, markup=False)
        page, headlines = attach_report(record, console, out)
    print_report(page, headlines, record.uri, console)


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

    made = _sound_plan(study, shared, quiet=True, load_weights=False)
    found = find(
        made,
        shared.places(),
        weights=weights,
        representations=representations,
        stores=stores,
        selected=shared.only is not None,
    )
    if shared.yes:
        found.delete()
    if json_:
        print(json.dumps(prune_json(found, deleted=shared.yes), indent=2))
    else:
        console.print(prune_view(found, deleted=shared.yes))


def _loaded(text: str, shared: Shared) -> LoadedStudy:
    from orchestrator.api import loaded

    return loaded(text, shared.set_ or ())


def _plan(text: str, shared: Shared, quiet: bool = False) -> Plan:
    from orchestrator.api import a_plan

    return a_plan(_loaded(text, shared), shared.places(), shared.only, console=None if quiet else console)


def _sound_plan(text: str, shared: Shared, quiet: bool = False, load_weights: bool = True) -> Plan:
    from orchestrator.api import sound_plan

    shown = None if quiet else console
    return sound_plan(_loaded(text, shared), shared.places(), shared.only, console=shown, load_weights=load_weights)


def _confirm(trials: int, shared: Shared) -> None:
    if trials > MANY_TRIALS and not shared.yes and sys.stdin.isatty():
        typer.confirm(f"{trials} trials; go on?", abort=True)


def _carry_out(plan: Plan, shared: Shared, options: RunOptions, out: Path | None) -> None:
    """Run, say what came of it, and end with exit code 3 if not everything asked is true."""
    from orchestrator.api import carry_out
    from orchestrator.run_text import print_report, print_summary

    ran = carry_out(
        plan, shared.places(), console, options, out, on_summary=lambda summary: print_summary(summary, console)
    )
    print_report(ran.report, ran.headlines, ran.tracking_uri, console)
    if not ran.summary.everything_asked_is_true:
        raise typer.Exit(EXIT_FAILED)


def _report(plan: Plan | None, record: Record, out: Path | None) -> None:
    """Of an open record; results of others have no plan."""
    from orchestrator.api import attach_report, parent_closed, write_report
    from orchestrator.run_text import print_report

    with parent_closed(record, console):
        if plan is None:
            page, headlines = attach_report(record, console, out)
        else:
            page, headlines = write_report(plan, record, console, out)
    print_report(page, headlines, record.uri, console)


if __name__ == "__main__":
    app()
