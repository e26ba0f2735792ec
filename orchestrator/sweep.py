"""The command line: ``python -m orchestrator.sweep [run|plan|status|why|evaluate|report] STUDY``."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.status import Status

from orchestrator.options import Shared, command
from orchestrator.terminal import EXIT_FAILED, EXIT_USER, make_console
from search_spaces.exceptions import TrackingError, UserError
from search_spaces.failpoints import failpoint
from search_spaces.files import LoadedStudy, load_study

app = typer.Typer(
    add_completion=True,
    no_args_is_help=False,
    pretty_exceptions_enable=False,
    help="Whether pretraining helps, at which scale, with how few labels, and whom it harms.",
)
console = make_console()

StudyArgument = Annotated[str, typer.Argument(help="Preset (demo), YAML file, or module:function.")]
OutOption = Annotated[Path | None, typer.Option("--out", help="Folder of the report; else ./reports/<study>.")]


@app.callback(invoke_without_command=True)
def main(context: typer.Context) -> None:
    """Without a command: run the demo study."""
    if context.invoked_subcommand is None:
        run()


@command(app)
def run(
    study: StudyArgument = "demo",
    out: OutOption = None,
    *,
    shared: Shared,
) -> None:
    """Make every trial of the study true; skip what is done; resume what broke; then write the report.

    Example: python -m orchestrator.sweep run my_study.yaml --only 'seed=0'
    """
    from orchestrator.engine import Engine
    from orchestrator.further_sets import score_missing

    plan = _sound_plan(study, shared)
    if len(plan.targets) > 1000 and not shared.yes and sys.stdin.isatty():
        typer.confirm(f"{len(plan.targets)} trials; go on?", abort=True)
    places = shared.places()
    engine = Engine(plan, places, console)
    with _parent_closed(engine.record):
        summary = engine.run()
        _print_summary(summary)
        if not summary.waiting:
            score_missing(plan, places, engine.record, console)
            _report_of(plan, engine.record, out)
    if summary.failed or summary.left:
        raise typer.Exit(EXIT_FAILED)


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
    price: Annotated[float | None, typer.Option("--price", help="Of a GPU-hour, for the cost in money.")] = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Time a few steps of scales of which no trial has ended, on the CPU.")
    ] = False,
    *,
    shared: Shared,
) -> None:
    """Cells, trials, exclusions with reasons, time, money, disk, and every problem at once; trains nothing."""
    from orchestrator.estimate import estimate, parse_nodes
    from orchestrator.plan_text import plan_json, print_plan

    cluster = parse_nodes(nodes) if nodes else ()
    made = _plan(study, shared, quiet=json_)
    costs = None
    if not made.problems:
        with redirect_stdout(sys.stderr) if json_ else console.status("estimating") as shown:
            note: Callable[[str], None] = shown.update if isinstance(shown, Status) else lambda _: None
            costs = estimate(
                made, shared.places(), slots=slots, nodes=cluster, price=price, calibrate=calibrate, note=note
            )
    if json_:
        extra = {"estimate": costs.to_json()} if costs else {}
        print(json.dumps(plan_json(made) | extra | ({"resolved": made.loaded.text} if resolved else {}), indent=2))
    else:
        if resolved:
            console.print(made.loaded.text, markup=False)
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
    """State and attempts of a trial, its last error, and what makes it differ from a done trial."""
    from orchestrator.status import explain

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
    with _parent_closed(record):
        _report_of(made, record, out)
    if scored.unfinished or scored.without_weights:
        raise typer.Exit(EXIT_FAILED)


@command(app)
def report(
    study: StudyArgument = "demo",
    out: OutOption = None,
    *,
    shared: Shared,
) -> None:
    """Build the report from the record and attach it to the study's parent run."""
    from orchestrator.record import Record

    made = _sound_plan(study, replace(shared, only=None), load_weights=False)
    places = shared.places()
    record = Record(made.study, places.storage_of(made.study.name), places.tracking_uri)
    record.open()
    with _parent_closed(record):
        _report_of(made, record, out)


def _plan(text: str, shared: Shared, quiet: bool = False, load_weights: bool = True) -> Any:
    from orchestrator.plan import make_plan
    from search_spaces.home import scalecurves_home
    from trainables.library import TaskLibrary

    loaded: LoadedStudy = load_study(text, shared.set_ or ())
    library = TaskLibrary(scalecurves_home())
    if quiet:
        with redirect_stdout(sys.stderr):  # a user's factory may print; stdout belongs to the JSON
            return make_plan(loaded, library, shared.only, load_weights=load_weights)
    with console.status("planning") as shown:
        note: Callable[[str], None] = lambda what: shown.update(f"planning: {what}")  # noqa: E731
        return make_plan(loaded, library, shared.only, note, load_weights)


def _sound_plan(text: str, shared: Shared, quiet: bool = False, load_weights: bool = True) -> Any:
    """A plan without problems.

    Raises:
        UserError: It has some; names them all.
    """
    plan = _plan(text, shared, quiet, load_weights)
    if plan.problems:
        many = len(plan.problems) > 1
        listed = "".join(f"\n- {problem}" for problem in plan.problems)
        raise UserError(f"{len(plan.problems)} problems:{listed}" if many else plan.problems[0])
    return plan


def _print_summary(summary: Any) -> None:
    from orchestrator.progress import duration

    console.print(
        f"{summary.trained} trials trained, {summary.skipped} were done before, {len(summary.failed)} failed, "
        f"in {duration(summary.seconds)}"
    )
    if summary.left:
        console.print(
            f"{summary.left} trials were not started, because others of their kind kept failing alike; "
            "mend the cause and run again",
            style="red",
        )
    if summary.waiting:
        console.print(f"{summary.waiting} results wait in the storage until MLflow answers again", style="yellow")
    for failure in summary.failed:
        console.print(f"failed ({failure.failure_class}) {failure.label}: {failure.message}", style="red", markup=False)


@contextmanager
def _parent_closed(record: Any) -> Iterator[None]:
    """Leave the study's parent run FINISHED, or KILLED if something broke it off."""
    finished = False
    try:
        yield
        finished = True
    finally:
        if record.parent_id:
            try:
                record.close(finished=finished)
            except TrackingError as error:
                console.print(f"the record does not answer: {error}", style="yellow", markup=False)


def _report_of(plan: Any, record: Any, out: Path | None) -> None:
    from dashboards.report import build_report
    from dashboards.tracking import hide_password
    from orchestrator.plan_text import plan_json

    folder = out or Path("reports") / plan.study.name
    with console.status("writing the report"):
        files = build_report(plan.study.name, folder, record.uri, planned=plan_json(plan))
        failpoint("report.before_attach")
        record.attach_report(folder)
    console.print()
    for line in files.headlines:
        console.print(f"• {line}", markup=False)
    console.print()
    console.print(f"report: {files.index_html.resolve()}", soft_wrap=True, markup=False)
    uri = hide_password(record.uri)
    look = uri if uri.startswith("http") else f"mlflow ui --backend-store-uri '{uri}'"
    console.print(f"MLflow: {look}", soft_wrap=True, markup=False)


if __name__ == "__main__":
    app()
