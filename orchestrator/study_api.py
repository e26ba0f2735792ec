"""The commands on a study that has run, from Python: retry, cancel, why, prune, evaluate, report.

Each takes what its command takes and refuses what that refuses; what the command prints is returned. Where, and of
which study: as in ``orchestrator.api.run_study``.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from orchestrator.api import (
    StudyLike,
    StudyRun,
    attach_report,
    carry_out,
    loaded,
    open_for_report,
    parent_closed,
    places_of,
    sound_plan,
    write_report,
)
from orchestrator.cancel import Cancelled, cancel_selected
from orchestrator.plan_whole import whole_of
from orchestrator.prune import find, prune_json
from orchestrator.prune_rules import RepresentationsRule, WeightsRule
from orchestrator.retry import choose_failed, retry_options
from orchestrator.run_terms import RunOptions
from orchestrator.terminal import make_console
from orchestrator.why import Explanation, explain
from search_spaces.exceptions import UserError, unknown
from search_spaces.names import FailureClass
from trainables.library import TaskLibrary

if TYPE_CHECKING:
    from orchestrator.further_sets import Scored


Word = TypeVar("Word", bound=StrEnum)


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyReport:
    """A report that was written and attached to the record.

    Attributes:
        page: ``index.html``.
        headlines: What it found, in sentences.
        tracking_uri: Where the record is.
        scored: What was scored before; None unless it was asked for.
    """

    page: Path
    headlines: tuple[str, ...]
    tracking_uri: str
    scored: Scored | None = None


def retry_study(
    study: StudyLike,
    *,
    failed: bool = False,
    classes: Collection[FailureClass | str] = (),
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
) -> StudyRun | None:
    """Run failed trials again, and nothing else but what they start from; then write the report.

    Args:
        study: The study.
        failed: All failed trials but diverged ones, which would diverge again.
        classes: Failed trials of these classes, such as ``memory``.
        home: As in ``run_study``, like all that follow.
        storage: Weights and spool.
        tracking_uri: MLflow.
        address: Ray.
        only: Selects target trials.
        sets: Changes of the study.
        max_concurrent: Most trials at a time.
        max_gpu_hours: Most GPU-hours.
        out: Folder of the report.
        progress: Print what happens.

    Returns:
        What the run did; None if no such trial has failed.

    Raises:
        UserError: Neither ``failed`` nor ``classes``, an unknown class, or what ``run_study`` refuses.
        TrackingError: MLflow cannot be reached.
    """
    wanted = [_one_of(FailureClass, each, "failure class", "classes") for each in classes]
    places, console = places_of(home, storage, tracking_uri, address), make_console(quiet=not progress)
    limits = RunOptions(max_concurrent=max_concurrent, max_gpu_hours=max_gpu_hours).checked()
    plan = sound_plan(loaded(study, sets), places, only, console=console)
    again = choose_failed(plan, places, failed=failed, classes=wanted)
    if not again.chosen:
        return None
    options = retry_options(again.chosen, wanted, limits)
    return carry_out(again.plan, places, console, options, Path(out) if out is not None else None)


def cancel_study(
    study: StudyLike,
    *,
    only: str | None = None,
    home: Path | str | None = None,
    storage: str | None = None,
    tracking_uri: str | None = None,
    sets: Sequence[str] = (),
) -> Cancelled:
    """Take trials out of the runs of a study that go on, on whatever machine, and wait until these have heard it.

    Args:
        study: The study.
        only: Selects target trials.
        home: As in ``run_study``, like all that follow.
        storage: Weights and spool.
        tracking_uri: MLflow.
        sets: Changes of the study.

    Raises:
        UserError: Nothing was selected, no run goes on, it has none of these trials, or it does not hear.
        TrackingError: MLflow cannot be reached.
    """
    places = places_of(home, storage, tracking_uri)
    return cancel_selected(loaded(study, sets).study, only, places, make_console(quiet=True))


def why_study(
    study: StudyLike,
    trial: str,
    *,
    home: Path | str | None = None,
    storage: str | None = None,
    tracking_uri: str | None = None,
    sets: Sequence[str] = (),
) -> Explanation:
    """State and attempts of a trial, errors and where their logs are, and what makes it differ from a done trial.

    Args:
        study: The study.
        trial: Trial id or the start of one.
        home: As in ``run_study``, like all that follow.
        storage: Weights and spool.
        tracking_uri: MLflow.
        sets: Changes of the study.

    Raises:
        UserError: The study has problems, or no trial, or several, whose id starts like this.
        TrackingError: MLflow cannot be reached.
    """
    places = places_of(home, storage, tracking_uri)
    return explain(sound_plan(loaded(study, sets), places, load_weights=False), trial, places)


def prune_study(
    study: StudyLike,
    *,
    weights: WeightsRule | str | None = None,
    representations: RepresentationsRule | str | None = None,
    stores: bool = False,
    yes: bool = False,
    home: Path | str | None = None,
    storage: str | None = None,
    tracking_uri: str | None = None,
    only: str | None = None,
    sets: Sequence[str] = (),
) -> dict[str, Any]:
    """What may be deleted from storage and home, with sizes: what ``prune --json`` prints. ``yes`` deletes it.

    Args:
        study: The study.
        weights: Also weights: ``failed``, ``not-upstream`` or ``all``; see the command.
        representations: Also representations: ``unused`` or ``all``.
        stores: Also image stores of data sets that are no longer imported.
        yes: Delete.
        home: As in ``run_study``, like all that follow.
        storage: Weights and spool.
        tracking_uri: MLflow.
        only: Selects target trials.
        sets: Changes of the study.

    Raises:
        UserError: The study has problems or is running, or a rule is unknown.
        TrackingError: MLflow cannot be reached: what is done is then not known.
    """
    of_weights = None if weights is None else _one_of(WeightsRule, weights, "rule", "weights")
    kept = None
    if representations is not None:
        kept = _one_of(RepresentationsRule, representations, "rule", "representations")
    places = places_of(home, storage, tracking_uri)
    plan = sound_plan(loaded(study, sets), places, load_weights=False)
    found = find(plan, places, weights=of_weights, representations=kept, stores=stores, only=only)
    if yes:
        found.delete()
    return prune_json(found, deleted=yes)


def evaluate_study(
    study: StudyLike,
    on: str,
    *,
    home: Path | str | None = None,
    storage: str | None = None,
    tracking_uri: str | None = None,
    only: str | None = None,
    sets: Sequence[str] = (),
    out: Path | str | None = None,
    progress: bool = True,
) -> StudyReport:
    """Score finished trials on a further evaluation set from their kept weights, without training; then report.

    Args:
        study: The study.
        on: Evaluation set of the study. It may have been added after training, unless it is ``held_out``: that takes
            images out of training, so the task's trials are others.
        home: As in ``run_study``, like all that follow.
        storage: Weights and spool.
        tracking_uri: MLflow.
        only: Selects target trials.
        sets: Changes of the study.
        out: Folder of the report.
        progress: Print what happens.

    Returns:
        The report; ``scored`` counts the trials, also those that could not be scored.

    Raises:
        UserError: The study has problems, or no task of it has a set of that name.
        DataError: The images or labels of the set cannot be used.
        TrackingError: MLflow cannot be reached.
    """
    from orchestrator.further_sets import evaluate_on  # here, as it brings torch

    places, console = places_of(home, storage, tracking_uri), make_console(quiet=not progress)
    plan = sound_plan(loaded(study, sets), places, only, load_weights=False)
    record, scored = evaluate_on(plan, on, places, console)
    whole = whole_of(plan, TaskLibrary(places.home), console)
    with parent_closed(record, console):
        page, headlines = write_report(whole, record, console, Path(out) if out is not None else None)
    return StudyReport(page=page, headlines=headlines, tracking_uri=record.uri, scored=scored)


def report_study(
    study: StudyLike,
    *,
    home: Path | str | None = None,
    storage: str | None = None,
    tracking_uri: str | None = None,
    sets: Sequence[str] = (),
    out: Path | str | None = None,
    progress: bool = True,
) -> StudyReport:
    """Build the report from the record and attach it to the study's parent run.

    Args:
        study: The study, or the name under which results of others were ingested.
        home: As in ``run_study``, like all that follow.
        storage: Weights and spool.
        tracking_uri: MLflow.
        sets: Changes of the study.
        out: Folder of the report.
        progress: Print what happens.

    Raises:
        UserError: The study has problems.
        TrackingError: MLflow cannot be reached.
    """
    places, console = places_of(home, storage, tracking_uri), make_console(quiet=not progress)
    folder = Path(out) if out is not None else None
    plan, record = open_for_report(study, places, lambda: sound_plan(loaded(study, sets), places, load_weights=False))
    with parent_closed(record, console):
        if plan is None:
            page, headlines = attach_report(record, console, folder)
        else:
            page, headlines = write_report(plan, record, console, folder)
    return StudyReport(page=page, headlines=headlines, tracking_uri=record.uri)


def _one_of(kind: type[Word], given: str, what: str, where: str) -> Word:
    """A member of an enumeration, however it is given.

    Raises:
        UserError: There is no such member.
    """
    if given not in list(kind):
        raise UserError(unknown(what, given, [str(each) for each in kind], where))
    return kind(given)
