"""The command line ``python -m orchestrator.sweep [COMMAND]``: run (of the demo if none is given), plan, report, ...

Export, ingest and prune, which work on what is there already, are in ``orchestrator.record_commands``.
"""

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

from orchestrator import record_commands
from orchestrator.options import Shared, command
from orchestrator.study_commands import (
    OutOption,
    StudyArgument,
    console,
    loaded_study,
    plan_of,
    report_on,
    sound_plan_of,
)
from orchestrator.terminal import EXIT_FAILED, EXIT_USER, leave_quickly
from search_spaces.names import FailureClass

if TYPE_CHECKING:
    from orchestrator.plan import Plan
    from orchestrator.run_terms import RunOptions

app = typer.Typer(
    add_completion=True,
    no_args_is_help=False,
    pretty_exceptions_enable=False,
    help="Whether pretraining helps, at which scale, with how few labels, and whom it harms.",
)

MANY_TRIALS = 1000
"""From here on a run asks before it starts."""

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

    options = RunOptions(max_concurrent=max_concurrent, max_gpu_hours=max_gpu_hours).checked()
    made = sound_plan_of(study, shared)
    _confirm(len(made.targets), shared)
    _carry_out(made, shared, options, out)


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
    from orchestrator.retry import choose_failed, retry_options
    from orchestrator.run_terms import RunOptions

    limits = RunOptions(max_concurrent=max_concurrent, max_gpu_hours=max_gpu_hours).checked()
    made = sound_plan_of(study, shared)
    again = choose_failed(made, shared.places(), failed=failed, classes=classes or ())
    asked = f" of class {' or '.join(classes)}" if classes else ""
    console.print(f"{again.listed}; {len(again.chosen)} of them{asked} selected to run again", markup=False)
    if not again.chosen:
        return
    _confirm(len(again.chosen), shared)
    _carry_out(again.plan, shared, retry_options(again.chosen, classes or (), limits), out)


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

    def confirm() -> None:
        if not shared.yes and sys.stdin.isatty():
            typer.confirm("Take them out of it?", abort=True)

    cancel_selected(loaded_study(study, shared).study, shared.only, shared.places(), console, confirm)


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
    tflops: Annotated[
        float | None,
        typer.Option("--tflops", help="What one GPU sustains in training, while no trial has ended; else by its type."),
    ] = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Time a few steps of scales of which no trial has ended, on the CPU.")
    ] = False,
    *,
    shared: Shared,
) -> None:
    """Cells, trials, exclusions with reasons, time, money, disk, and every problem at once; trains nothing."""
    from orchestrator.costing import CostOptions, costed
    from orchestrator.plan_recipes import resolved_facts, resolved_protocol
    from orchestrator.plan_text import plan_json, print_plan
    from orchestrator.run_terms import RunOptions

    run_options = RunOptions(max_concurrent=max_concurrent, max_gpu_hours=max_gpu_hours)
    options = CostOptions(slots=slots, nodes=nodes, price=price, tflops=tflops, calibrate=calibrate, run=run_options)
    made = plan_of(study, shared, quiet=json_)
    with redirect_stdout(sys.stderr) if json_ else console.status("estimating") as shown:
        note: Callable[[str], None] = shown.update if isinstance(shown, Status) else lambda _: None
        made = costed(made, shared.places(), options, note)
    costs = made.estimate
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

    made = sound_plan_of(study, shared, quiet=True, load_weights=False)
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
    from orchestrator.why import explain, print_explanation

    made = sound_plan_of(study, replace(shared, only=None), quiet=True, load_weights=False)
    print_explanation(explain(made, trial, shared.places()), console)


@command(app)
def evaluate(
    study: StudyArgument,
    on: Annotated[
        str,
        typer.Option(
            "--on",
            help="Evaluation set of the study file. It may have been added after training, unless it is held_out: that "
            "takes images out of training, so the task's trials are others.",
        ),
    ],
    out: OutOption = None,
    *,
    shared: Shared,
) -> None:
    """Score finished trials on a further evaluation set from their kept weights, without training; then report."""
    from orchestrator.further_sets import evaluate_on
    from orchestrator.plan_whole import whole_of
    from trainables.library import TaskLibrary

    made, places = sound_plan_of(study, shared, load_weights=False), shared.places()
    record, scored = evaluate_on(made, on, places, console)
    console.print(
        f"{scored.scored} trials scored on {on}, {scored.known} were before, {scored.unfinished} are not done, "
        f"{scored.without_weights} are done but kept no weights"
    )
    report_on(whole_of(made, TaskLibrary(places.home), console), record, out)
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
    from orchestrator.api import open_for_report

    whole = replace(shared, only=None)
    made, record = open_for_report(study, shared.places(), lambda: sound_plan_of(study, whole, load_weights=False))
    report_on(made, record, out)


app.add_typer(record_commands.app)


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


if __name__ == "__main__":
    leave_quickly()
    app()
