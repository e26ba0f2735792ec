"""The commands ``export`` and ``ingest`` from Python; the command line calls these.

Where, and of which study: as in ``orchestrator.api.run_study``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from orchestrator.api import StudyLike, attach_report, loaded, parent_closed, places_of, sound_plan
from orchestrator.ingest import Ingested, Ingestion, IngestOptions, ingest, new_trials, read_ingestion
from orchestrator.record import Record
from orchestrator.study_api import StudyReport
from orchestrator.terminal import make_console
from search_spaces.exceptions import UserError
from search_spaces.files import presets


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyIngestion:
    """A table of others' results that was read, and what came of it.

    Attributes:
        table: What was read.
        new: Trials of the table that the record lacked.
        ingested: What was added; None of a dry run.
        report: The report; None of a dry run.
    """

    table: Ingestion
    new: int
    ingested: Ingested | None = None
    report: StudyReport | None = None


def export_study(
    study: StudyLike,
    trial: str,
    folder: Path | str,
    *,
    home: Path | str | None = None,
    storage: str | None = None,
    tracking_uri: str | None = None,
    sets: Sequence[str] = (),
) -> list[Path]:
    """Write a finished trial's weights as a folder that stands alone: safetensors, config and a model card.

    Args:
        study: The study.
        trial: Trial id or the start of one.
        folder: Made; must not exist, or be empty.
        home: As in ``run_study``, like all that follow.
        storage: Weights and spool.
        tracking_uri: MLflow.
        sets: Changes of the study.

    Returns:
        The files.

    Raises:
        UserError: The study has problems, it has no such trial, or that has nothing to export; or the folder holds
            something.
        TrackingError: MLflow cannot be reached.
    """
    from orchestrator.export import export_trial  # here, as it brings Hugging Face's library

    places = places_of(home, storage, tracking_uri)
    return export_trial(sound_plan(loaded(study, sets), places, load_weights=False), trial, Path(folder), places)


def ingest_study(
    table: Path | str,
    study: str,
    *,
    renames: Mapping[str, str] | None = None,
    scale: float | None = None,
    encoding: str | None = None,
    decimal: str = ".",
    predictions: Path | str | None = None,
    baseline: str | None = None,
    primary: Mapping[str, str] | str | None = None,
    delta: float = 0.01,
    dry_run: bool = False,
    home: Path | str | None = None,
    storage: str | None = None,
    tracking_uri: str | None = None,
    out: Path | str | None = None,
    progress: bool = True,
) -> StudyIngestion:
    """Turn results of others into a record with the same report; repeated, it adds what is new.

    Args:
        table: CSV or Parquet: a row per trial, set and metric (docs/results.md).
        study: Name of the study in the record.
        renames: Columns (or metrics) as written -> as they are called here, which is ``--map``.
        scale: Factor of metrics that lie in [0, 1]: 0.01 for percent.
        encoding: Of a CSV, such as ``cp1252``; UTF-8 if not given.
        decimal: What decimals begin with: a point or a comma.
        predictions: Folder of predictions.
        baseline: Source that all are compared with; else random or scratch.
        primary: Metric that leads, or task -> metric.
        delta: Differences below this are of no practical meaning, at least 0.
        dry_run: Check and count; write nothing.
        home: As in ``run_study``, like all that follow.
        storage: Weights and spool.
        tracking_uri: MLflow.
        out: Folder of the report.
        progress: Print what happens.

    Raises:
        UserError: Anything is wrong with the table or what was said of it; names all of it. Or the record holds trials
            of that name that were run here, or it is a preset's.
        TrackingError: MLflow cannot be reached.
    """
    if study in presets():
        raise UserError(
            f"--study {study} is the name of a preset, whose own study commands would take it for; rename it"
        )
    if decimal not in (".", ","):
        raise UserError(f"--decimal is . or a comma, got {decimal!r}")
    options = IngestOptions(
        renames=renames or {},
        scale=scale,
        encoding=encoding,
        decimal_comma=decimal == ",",
        predictions=Path(predictions) if predictions is not None else None,
        baseline=baseline,
        primary={"": primary} if isinstance(primary, str) else primary or {},
        delta=delta,
    )
    places, console = places_of(home, storage, tracking_uri), make_console(quiet=not progress)
    with console.status("reading the table"):
        read = read_ingestion(Path(table), study, options)
    _say(read.lines(), console)
    record = Record(read.study, places.storage_of(study), places.tracking_uri)
    if dry_run:
        new = new_trials(read, record)
        known = len(read.trials) - new
        _say([f"{new} trials would be added, {known} are in the record; nothing written"], console)
        return StudyIngestion(table=read, new=new)
    record.open()
    with parent_closed(record, console):
        added = ingest(read, record, console)
        _say(added.lines(), console)
        page, headlines = attach_report(record, console, Path(out) if out is not None else None)
    report = StudyReport(page=page, headlines=headlines, tracking_uri=record.uri)
    return StudyIngestion(table=read, new=added.added, ingested=added, report=report)


def _say(lines: Sequence[str], console: Console) -> None:
    for line in lines:
        console.print(line, markup=False)
