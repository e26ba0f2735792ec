"""Studies from Python: the same as the command line, whose commands call this.

Example, also in a notebook's cell::

    from orchestrator import run_study

    ran = run_study("my_study.yaml", only="seed=0", max_concurrent=2)
    ran.results().groupby(["pretraining_source", "data_fraction"])["test/auc"].mean()
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from orchestrator.places import Places
from orchestrator.plan import Plan, make_plan
from orchestrator.plan_text import plan_json
from orchestrator.plan_weights import Note
from orchestrator.record import Record
from orchestrator.run_terms import RunOptions, RunSummary
from orchestrator.status import study_status as status_of
from orchestrator.terminal import make_console
from search_spaces.exceptions import OtherSchemaError, TrackingError, UserError
from search_spaces.failpoints import failpoint
from search_spaces.files import LoadedStudy, adopt_study, load_study, names_a_file
from search_spaces.ingested import IngestedStudy
from search_spaces.names import State
from search_spaces.study import Study
from trainables.library import TaskLibrary

if TYPE_CHECKING:
    import pandas as pd

StudyLike = Study | Mapping[str, Any] | str | Path
"""A study, what its file would hold, the path of its YAML file, a preset's name or ``module:function``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyRun:
    """A run that has ended.

    Attributes:
        plan: What was planned.
        summary: What the run did.
        report: ``index.html``; None if it was not written, because results wait for MLflow.
        headlines: What the report found, in sentences.
        tracking_uri: Where the record is.
    """

    plan: Plan
    summary: RunSummary
    report: Path | None
    headlines: tuple[str, ...]
    tracking_uri: str

    def results(self) -> pd.DataFrame:
        """One row per done trial of the study, this run's and earlier ones (``dashboards.load_results``).

        Raises:
            TrackingError: MLflow cannot be reached.
        """
        from dashboards.load import load_results

        return load_results(self.plan.study.name, self.tracking_uri)


def run_study(
    study: StudyLike,
    *,
    home: Path | str | None = None,
    storage: str | None = None,
    tracking_uri: str | None = None,
    address: str = "local",
    only: str | None = None,
    sets: Sequence[str] = (),
    max_concurrent: int | None = None,
    max_gpu_hours: float | None = None,
    out: Path | str | None = None,
    progress: bool = True,
) -> StudyRun:
    """Make every trial of a study true, skip what is done, resume what broke, then write the report.

    Trials that fail do not raise: they are in ``summary.failed``.

    Args:
        study: The study.
        home: Imported tasks and image stores; ``SCALECURVES_HOME`` if not given.
        storage: Path or URI of weights and spool; ``<home>/storage`` if not given.
        tracking_uri: MLflow; ``MLFLOW_TRACKING_URI`` if not given, else a SQLite file in the home.
        address: Ray: ``local``, ``auto`` or an address. A connection of this process is used if there is one.
        only: Selects target trials, such as ``task=ham10000,data_fraction<=0.1``.
        sets: Changes of the study, as ``--set`` takes them: ``seeds=2``, ``protocol.budget.steps=50``.
        max_concurrent: Most trials at a time, at least 1; as the study says if not given.
        max_gpu_hours: Start no trial that would exceed so many GPU-hours in this run; those left are counted in
            ``summary.over_budget``.
        out: Folder of the report; ``reports/<study>`` if not given.
        progress: Print what happens.

    Raises:
        UserError: The study has problems; names them all.
        DataError: Images cannot be read.
        TrackingError: MLflow cannot be reached at the start.
        KeyboardInterrupt: It was interrupted; the same call goes on from there.
    """
    places = places_of(home, storage, tracking_uri, address)
    console = make_console(quiet=not progress)
    plan = sound_plan(loaded(study, sets), places, only, console=console)
    options = RunOptions(max_concurrent=max_concurrent, max_gpu_hours=max_gpu_hours).checked()
    return carry_out(plan, places, console, options, Path(out) if out is not None else None)


def plan_study(
    study: StudyLike,
    *,
    home: Path | str | None = None,
    storage: str | None = None,
    tracking_uri: str | None = None,
    only: str | None = None,
    sets: Sequence[str] = (),
    slots: int | None = None,
    nodes: str | None = None,
    max_concurrent: int | None = None,
    max_gpu_hours: float | None = None,
    price: float | None = None,
    tflops: float | None = None,
    calibrate: bool = False,
) -> Plan:
    """Cells, trials, exclusions with reasons, what it will cost, and every problem of a study; trains nothing.

    Args:
        study: The study.
        home: As in ``run_study``.
        storage: As in ``run_study``.
        tracking_uri: As in ``run_study``.
        only: As in ``run_study``.
        sets: As in ``run_study``.
        slots: Trials at a time; else what fits the nodes.
        nodes: The cluster, such as ``2x(32,8)``: two nodes of 32 CPUs and 8 GPUs; else the CPUs of this machine.
        max_concurrent: As in ``run_study``.
        max_gpu_hours: As in ``run_study``.
        price: Of a GPU-hour, in any currency.
        tflops: What one GPU sustains in training, in 1e12 operations per second, while no trial has ended; else by its
            type.
        calibrate: Time a few steps of scales of which no trial has ended, on the CPU.

    Returns:
        The plan. What is wrong with it, or with what was asked, is in ``problems``; if nothing is, its cost is in
        ``estimate`` (``to_json()`` gives what ``plan --json`` prints).

    Raises:
        UserError: The study cannot be expanded, or ``only`` selects nothing.
    """
    from orchestrator.costing import CostOptions, costed

    places = places_of(home, storage, tracking_uri)
    run = RunOptions(max_concurrent=max_concurrent, max_gpu_hours=max_gpu_hours)
    options = CostOptions(slots=slots, nodes=nodes, price=price, tflops=tflops, calibrate=calibrate, run=run)
    plan = a_plan(loaded(study, sets), places, only)
    with redirect_stdout(sys.stderr):  # a user's factory may print while it is timed
        return costed(plan, places, options)


def study_status(
    study: StudyLike,
    *,
    home: Path | str | None = None,
    storage: str | None = None,
    tracking_uri: str | None = None,
    only: str | None = None,
    sets: Sequence[str] = (),
) -> dict[str, Any]:
    """Done, failed, running and missing target trials: what ``status --json`` prints.

    Args:
        study: The study.
        home: As in ``run_study``.
        storage: As in ``run_study``.
        tracking_uri: As in ``run_study``.
        only: As in ``run_study``.
        sets: As in ``run_study``.

    Raises:
        UserError: The study has problems.
        TrackingError: MLflow cannot be reached.
    """
    places = places_of(home, storage, tracking_uri)
    return status_of(sound_plan(loaded(study, sets), places, only, load_weights=False), places)


def places_of(
    home: Path | str | None = None, storage: str | None = None, tracking_uri: str | None = None, address: str = "local"
) -> Places:
    """Where a call reads and writes; see ``run_study``."""
    return Places.of(Path(home) if home is not None else None, storage, tracking_uri, address)


def loaded(study: StudyLike, sets: Sequence[str] = ()) -> LoadedStudy:
    """A study however it is given, with the changes of ``--set``.

    Raises:
        UserError: Nothing of that name, or the study is not valid.
    """
    if isinstance(study, str | Path):
        return load_study(str(study), sets)
    return adopt_study(study)


def a_plan(
    study: LoadedStudy,
    places: Places,
    only: str | None = None,
    *,
    console: Console | None = None,
    load_weights: bool = True,
) -> Plan:
    """The plan of a study, sound or not.

    Args:
        study: The study.
        places: Where its tasks are.
        only: Selects target trials.
        console: Where to show what is being looked at; nothing is printed without one.
        load_weights: See ``make_plan``.

    Raises:
        UserError: The study cannot be expanded, or ``only`` selects nothing.
    """
    library = TaskLibrary(places.home)
    trained = partial(_trained, study.study, places)
    if console is None:
        with redirect_stdout(sys.stderr):  # a user's factory may print; stdout may belong to JSON
            return make_plan(study, library, only, load_weights=load_weights, trained=trained)
    with showing(console, "planning") as note:
        return make_plan(study, library, only, lambda what: note(f"planning: {what}"), load_weights, trained)


def open_for_report(study: StudyLike, places: Places, plan_it: Callable[[], Plan]) -> tuple[Plan | None, Record]:
    """The plan of a study, None for results of others, and its record, open.

    Args:
        study: The study, or the name under which results of others were ingested.
        places: Where the record is.
        plan_it: Plans a study that is not others'.

    Raises:
        UserError: The study has problems.
        TrackingError: MLflow cannot be reached.
    """
    others = ingested_study(study, places.tracking_uri) if isinstance(study, str) else None
    plan = None if others is not None else plan_it()
    name = plan.study if plan is not None else others
    assert name is not None
    record = Record(name, places.storage_of(name.name), places.tracking_uri)
    record.open()
    return plan, record


def _trained(study: Study, places: Places) -> dict[str, int]:
    """Finished trials -> numbers of their networks; none if the record does not answer, which is told elsewhere."""
    try:
        states = Record(study, places.storage_of(study.name), places.tracking_uri).look()
    except (TrackingError, UserError):
        return {}
    return {i: s.parameters for i, s in states.items() if s.state is State.COMPLETE and s.parameters}


def sound_plan(
    study: LoadedStudy,
    places: Places,
    only: str | None = None,
    *,
    console: Console | None = None,
    load_weights: bool = True,
) -> Plan:
    """A plan without problems; see ``a_plan``.

    Raises:
        UserError: It has some; names them all.
    """
    plan = a_plan(study, places, only, console=console, load_weights=load_weights)
    if plan.problems:
        many = len(plan.problems) > 1
        listed = "".join(f"\n- {problem}" for problem in plan.problems)
        raise UserError(f"{len(plan.problems)} problems:{listed}" if many else plan.problems[0])
    return plan


@contextmanager
def showing(console: Console, what: str) -> Iterator[Note]:
    """A line that says what goes on, as long as it does; gives what changes it."""
    with console.status(what) as shown:
        yield shown.update


def carry_out(
    plan: Plan,
    places: Places,
    console: Console,
    options: RunOptions | None = None,
    out: Path | None = None,
    on_summary: Callable[[RunSummary], None] = lambda _: None,
) -> StudyRun:
    """Run a sound plan, score what the study's evaluation sets have gained, keep the representations that finished
    trials lack, and write the report.

    Args:
        plan: A plan without problems.
        places: Where to read and write.
        console: Where to say what happens.
        options: What this run does differently from what the study says.
        out: Folder of the report.
        on_summary: Called when training has ended, before the report.

    Raises:
        UserError: The storage cannot be written.
        DataError: Images cannot be read.
        TrackingError: MLflow cannot be reached at the start.
    """
    from orchestrator.engine import Engine  # here, as it brings Ray and torch, which only runs need
    from orchestrator.further_representations import keep_missing
    from orchestrator.further_sets import score_missing

    engine = Engine(plan, places, console, options)
    with parent_closed(engine.record, console):
        summary = engine.run()
        on_summary(summary)
        if summary.waiting:
            return StudyRun(plan=plan, summary=summary, report=None, headlines=(), tracking_uri=engine.record.uri)
        score_missing(plan, places, engine.record, console)
        keep_missing(plan, places, engine.record, console)
        page, headlines = write_report(engine.whole_plan, engine.record, console, out)
    return StudyRun(plan=plan, summary=summary, report=page, headlines=headlines, tracking_uri=engine.record.uri)


@contextmanager
def parent_closed(record: Record, console: Console) -> Iterator[None]:
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


def write_report(plan: Plan, record: Record, console: Console, out: Path | None) -> tuple[Path, tuple[str, ...]]:
    """Build the report from the record and attach it to the parent run: its page, and what it found.

    Args:
        plan: What the whole study asks for, done or not (``orchestrator.plan_whole``); where it does not know a trial,
            that of a former version of the study may be shown.
        record: Open.
        console: Where to say that it takes a while.
        out: Folder; ``reports/<study>`` if None.

    Raises:
        TrackingError: MLflow cannot be reached.
    """
    return attach_report(record, console, out, plan_json(plan))


def attach_report(
    record: Record, console: Console, out: Path | None, planned: Mapping[str, Any] | None = None
) -> tuple[Path, tuple[str, ...]]:
    """The same of any record: of others' results there is no plan.

    Args:
        record: Open.
        console: Where to say that it takes a while.
        out: Folder; ``reports/<study>`` if None.
        planned: What the study asks for, as ``plan --json`` prints it.

    Raises:
        TrackingError: MLflow cannot be reached.
    """
    from dashboards.report import build_report

    name = record.study.name
    folder = out or Path("reports") / name
    with console.status("writing the report"):
        files = build_report(name, folder, record.uri, planned=planned, files=record.storage.fetch)
        record.add_read(files.read.file_name, files.read.to_json())
        failpoint("report.before_attach")
        record.attach_report(folder)
    return files.index_html.resolve(), tuple(files.headlines)


def ingested_study(text: str, tracking_uri: str | None) -> IngestedStudy | None:
    """Others' study of that name in the record; None if there is none, or if ``text`` names a study file.

    Args:
        text: What the user named.
        tracking_uri: MLflow.

    Raises:
        TrackingError: MLflow cannot be reached.
        OtherSchemaError: The record is of another version.
    """
    from dashboards.load import load_ingested

    if names_a_file(text):
        return None
    try:
        return load_ingested(text, tracking_uri)
    except OtherSchemaError:
        raise
    except UserError:  # no record of that name: whoever asked says what else a study may be
        return None
