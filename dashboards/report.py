"""The report of a study, from its record: one page, the tables and figures behind it, and the verdict as data.

    python -m dashboards.report STUDY --out DIR [--tracking-uri URI]

It shows what is there and names what is missing: a study may be half finished, have one seed, one source or no shifted
set, and trials may have failed.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

import pandas as pd
import typer

from dashboards import narrative, tracking
from dashboards.answers import Answer
from dashboards.data_cards import Card, load_data_cards
from dashboards.evidence import Evidence, target_results
from dashboards.figure_files import figures_being_written
from dashboards.findings import findings, headlines, overview, summary
from dashboards.load import (
    load_failures,
    load_histories,
    load_ingested,
    load_predictions,
    load_results,
    load_study,
    load_validation,
)
from dashboards.page import PageContent, Section, render_page
from dashboards.page_sections import page_sections
from dashboards.planned import current_trials, load_planned, readable_plan
from dashboards.processes import one_blas_thread
from dashboards.representations import Fetch, KeptRepresentations, TrialRepresentations, storage_files
from dashboards.static import render
from dashboards.style import plural
from dashboards.tables import Tables, build_tables
from dashboards.verdict.document import schema_text, verdict_document
from dashboards.verdict.frame import collect
from dashboards.verdict.ledger import (
    Ledger,
    Read,
    add_local_read,
    local_file,
    local_reads,
    parse_reads,
    read_of,
    recorded_reads,
)
from search_spaces.exceptions import DataError, ScalecurvesError, UserError
from search_spaces.ingested import IngestedStudy
from search_spaces.names import Role
from search_spaces.study import Study
from search_spaces.uris import hide_password

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportFiles:
    """What a report consists of.

    Attributes:
        folder: Where it lies.
        index_html: The page.
        verdict_json: Every comparison with its word.
        tables: CSV and Parquet.
        figures: SVG and PNG.
        headlines: The findings as sentences.
        read: This report's entry of the ledger, to be kept by whoever asked for the report.
    """

    folder: Path
    index_html: Path
    verdict_json: Path
    tables: tuple[Path, ...]
    figures: tuple[Path, ...]
    headlines: list[str]
    read: Read


def build_report(
    study_name: str,
    out: Path,
    tracking_uri: str | None = None,
    planned: Mapping[str, Any] | None = None,
    *,
    local_ledger: bool = False,
    files: Fetch | None = None,
) -> ReportFiles:
    """Build the report of a study from its record.

    Args:
        study_name: Name of the study.
        out: Folder of the report; files of an earlier report there are replaced.
        tracking_uri: ``MLFLOW_TRACKING_URI`` if not given, else the SQLite file in the home folder.
        planned: The plan (``plan.json``); that of the record if not given.
        local_ledger: Keep the read in a file beside ``out``; else the caller adds it to the study's record.
        files: What trials left in the storage; that of the home folder if not given.

    Raises:
        UserError: There is no record of the study, or ``out`` is a file.
        TrackingError: MLflow or the storage cannot be reached.
    """
    evidence, problems = gather(study_name, tracking_uri, planned, files)
    earlier, damaged = parse_reads(
        [*recorded_reads(study_name, tracking_uri), *(local_reads(out) if local_ledger else ())]
    )
    place = f"locally, in {local_file(out).name} beside the report" if local_ledger else "with the study's record"
    ledger = Ledger(this=read_of(evidence), earlier=earlier, place=place, damaged=damaged)
    uri = hide_password(tracking.resolve_tracking_uri(tracking_uri))
    written = write_report(evidence, out, problems=problems, record=uri, ledger=ledger)
    if local_ledger:
        add_local_read(out, written.read)
    return written


def gather(
    study_name: str,
    tracking_uri: str | None = None,
    planned: Mapping[str, Any] | None = None,
    files: Fetch | None = None,
) -> tuple[Evidence, list[str]]:
    """Everything a report needs, and what could not be read; see ``build_report``.

    Raises:
        UserError: There is no record of the study.
        TrackingError: MLflow cannot be reached.
    """
    everything = load_results(study_name, tracking_uri)
    failures = load_failures(study_name, tracking_uri)
    study, ingested, problem = _readable_study(study_name, tracking_uri)
    damaged: list[str] = []
    recorded = planned or _whole(lambda: load_planned(study_name, tracking_uri), None, damaged)
    plan, plan_problem = readable_plan(study, recorded)
    results, stale = current_trials(target_results(everything), plan)
    problems = [p for p in (problem, *damaged, plan_problem) if p]
    if stale:
        problems.append(
            f"{plural(stale, 'finished trial')} of the record not shown: no part of the study as it stands."
        )
    if "done" in failures:
        failures = failures[~failures["done"].astype(bool)].reset_index(drop=True)
    of_search = failures["role"] == Role.SEARCH
    uri = tracking_uri or everything.attrs.get("tracking_uri")
    kept: Mapping[str, TrialRepresentations] = {}
    if study is not None and study.representations is not None:
        kept, lost = _representations(study_name, results, files)
        problems += lost
    unread: list[str] = []
    cards: Mapping[str, Card] = _whole(lambda: load_data_cards(study_name, tracking_uri), {}, unread)
    problems += unread
    evidence = Evidence(
        name=study_name,
        results=results,
        predictions=load_predictions(results, tracking_uri=uri),
        validation=load_validation(results, uri),
        histories={} if ingested else load_histories(results, uri),  # others' results have no curves
        failures=failures[~of_search].reset_index(drop=True),
        study=study,
        ingested=ingested,
        plan=plan,
        searches=everything[everything["role"] == Role.SEARCH],
        upstream=everything[everything["role"] == Role.UPSTREAM],
        search_failures=failures[of_search].drop_duplicates("trial_id"),
        data_cards=cards,
        representations=kept,
    )
    return evidence, problems


def _whole(read: Callable[[], T], default: T, problems: list[str]) -> T:
    """A file of the record; the default, and a problem, if it is damaged."""
    try:
        return read()
    except DataError as error:
        problems.append(f"{error}.")
        return default


def _representations(
    study: str, results: pd.DataFrame, files: Fetch | None
) -> tuple[Mapping[str, TrialRepresentations], list[str]]:
    """What the trials kept, and what is wrong with it."""
    kept = KeptRepresentations(results, files or storage_files(study))
    without = len(results) - len(kept)
    if not without:
        return kept, kept.problems
    missing = f"{plural(without, 'finished trial')} without representations, or with files that are not in the storage."
    return kept, [*kept.problems, missing]


def _readable_study(study_name: str, tracking_uri: str | None) -> tuple[Study | None, IngestedStudy | None, str]:
    try:
        return load_study(study_name, tracking_uri), None, ""
    except UserError as error:
        problem = f"The study file could not be read, defaults are assumed: {error}"
    with suppress(UserError):
        if (ingested := load_ingested(study_name, tracking_uri)) is not None:
            return None, ingested, ""
    return None, None, problem


def write_report(
    evidence: Evidence, out: Path, *, problems: list[str], record: str, ledger: Ledger | None = None
) -> ReportFiles:
    """Write the report of evidence that is already gathered.

    Args:
        evidence: The study.
        out: Folder of the report.
        problems: What could not be read; becomes caveats.
        record: Where the evidence comes from, for the provenance.
        ledger: Who read the test results before; nobody if not given.

    Raises:
        UserError: ``out`` is a file.
    """
    if out.is_file():
        raise UserError(f"--out {out} is a file; give a folder")
    ledger = ledger or Ledger(this=read_of(evidence))
    evidence = replace(evidence, seeds_added=bool(ledger.added_seeds))
    with one_blas_thread():
        tables = build_tables(evidence)
    answers = collect(evidence, tables, ledger)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as temporary:
        fresh = Path(temporary)
        _write_tables(tables, fresh / "tables")
        document = verdict_document(evidence, tables, answers, ledger, summary(evidence, tables))
        text = json.dumps(document, indent=2, allow_nan=False, ensure_ascii=False)
        (fresh / "verdict.json").write_text(text + "\n", encoding="utf-8")
        (fresh / "verdict.schema.json").write_text(schema_text(), encoding="utf-8")
        sections = page_sections(evidence, tables, ledger)
        (fresh / "figures").mkdir()
        with figures_being_written([plot for of in sections for plot in of.plots], fresh / "figures", render):
            content = _content(evidence, tables, answers, sections, ledger, problems, record)
            (fresh / "index.html").write_text(render_page(content), encoding="utf-8")
        _replace(out, fresh)
    return ReportFiles(
        folder=out,
        index_html=out / "index.html",
        verdict_json=out / "verdict.json",
        tables=tuple(sorted((out / "tables").iterdir())),
        figures=tuple(sorted((out / "figures").iterdir())),
        headlines=headlines(evidence, tables, answers),
        read=ledger.this,
    )


def _content(
    evidence: Evidence,
    tables: Tables,
    answers: Sequence[Answer],
    sections: tuple[Section, ...],
    ledger: Ledger,
    problems: list[str],
    record: str,
) -> PageContent:
    return PageContent(
        title=evidence.name,
        subtitle="Does pretraining help, at which scale, with how few labels, and for whom?",
        summary=summary(evidence, tables),
        facts=narrative.facts(evidence, tables),
        overview=overview(evidence, answers),
        findings=findings(evidence, tables, answers),
        caveats=narrative.caveats(evidence, tables, problems),
        sections=sections,
        methods=narrative.methods(evidence, tables),
        provenance=(*narrative.provenance(evidence, record), ("test results read", ledger.sentence)),
    )


def _write_tables(tables: Tables, folder: Path) -> None:
    folder.mkdir()
    for name, table in tables.named().items():
        if len(table.columns):
            table.to_csv(folder / f"{name}.csv", index=False)
            table.to_parquet(folder / f"{name}.parquet", index=False)


def _replace(out: Path, fresh: Path) -> None:
    """Put the finished files in place of an earlier report's; other files in ``out`` stay."""
    out.mkdir(exist_ok=True)
    for item in fresh.iterdir():
        target = out / item.name
        if target.is_dir():
            shutil.rmtree(target)
        item.replace(target)


app = typer.Typer(add_completion=False, help=__doc__)


@app.command()
def main(
    study: Annotated[str, typer.Argument(help="Preset, YAML file, module:function, or name of a recorded study.")],
    out: Annotated[Path, typer.Option(help="Folder of the report.")],
    tracking_uri: Annotated[
        str | None, typer.Option(help="MLflow tracking URI; else MLFLOW_TRACKING_URI, else a local SQLite file.")
    ] = None,
    storage: Annotated[
        str | None, typer.Option(help="Path or URI given to --storage of the run; else storage in the home folder.")
    ] = None,
) -> None:
    """Build the report of a study without writing to MLflow."""
    from search_spaces.files import study_name

    try:
        name = study_name(study)
        files = build_report(name, out, tracking_uri, local_ledger=True, files=storage_files(name, storage))
    except ScalecurvesError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(1) from None
    for line in files.headlines:
        print(line)
    print(f"report: {files.index_html.resolve()}")


if __name__ == "__main__":
    app()
