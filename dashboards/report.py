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
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

from dashboards import narrative, tracking
from dashboards.curve_plots import parameter_plots, scale_curves, shifted_plots
from dashboards.data_cards import card_tables, load_data_cards
from dashboards.evidence import IN_DOMAIN, Evidence, target_results
from dashboards.figure_files import write_figures
from dashboards.findings import findings, headlines, summary, verdict
from dashboards.load import load_failures, load_ingested, load_predictions, load_results, load_study
from dashboards.page import PageContent, Section, render_page
from dashboards.planned import current_trials, load_planned, readable_plan
from dashboards.row_plots import completeness_plot, forest_plots, subgroup_plots
from dashboards.static import render
from dashboards.style import plural
from dashboards.tables import Tables, build_tables
from dashboards.tuning_tables import tuning_intro
from search_spaces.exceptions import ScalecurvesError, UserError
from search_spaces.ingested import IngestedStudy
from search_spaces.names import Role
from search_spaces.study import Study


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
    """

    folder: Path
    index_html: Path
    verdict_json: Path
    tables: tuple[Path, ...]
    figures: tuple[Path, ...]
    headlines: list[str]


def build_report(
    study_name: str, out: Path, tracking_uri: str | None = None, planned: Mapping[str, Any] | None = None
) -> ReportFiles:
    """Build the report of a study from its record.

    Args:
        study_name: Name of the study.
        out: Folder of the report; files of an earlier report there are replaced.
        tracking_uri: ``MLFLOW_TRACKING_URI`` if not given, else the SQLite file in the home folder.
        planned: The plan (``plan.json``); that of the record if not given.

    Raises:
        UserError: There is no record of the study, or ``out`` is a file.
        TrackingError: MLflow cannot be reached.
    """
    evidence, problems = gather(study_name, tracking_uri, planned)
    uri = tracking.hide_password(tracking.resolve_tracking_uri(tracking_uri))
    return write_report(evidence, out, problems=problems, record=uri)


def gather(
    study_name: str, tracking_uri: str | None = None, planned: Mapping[str, Any] | None = None
) -> tuple[Evidence, list[str]]:
    """Everything a report needs, and what could not be read.

    Raises:
        UserError: There is no record of the study.
        TrackingError: MLflow cannot be reached.
    """
    everything = load_results(study_name, tracking_uri)
    failures = load_failures(study_name, tracking_uri)
    study, ingested, problem = _readable_study(study_name, tracking_uri)
    plan, plan_problem = readable_plan(study, planned or load_planned(study_name, tracking_uri))
    results, stale = current_trials(target_results(everything), plan)
    problems = [p for p in (problem, plan_problem) if p]
    if stale:
        problems.append(
            f"{plural(stale, 'finished trial')} of the record not shown: no part of the study as it stands."
        )
    if "done" in failures:
        failures = failures[~failures["done"].astype(bool)].reset_index(drop=True)
    of_search = failures["role"] == Role.SEARCH
    evidence = Evidence(
        name=study_name,
        results=results,
        predictions=load_predictions(results, tracking_uri=tracking_uri or everything.attrs.get("tracking_uri")),
        failures=failures[~of_search].reset_index(drop=True),
        study=study,
        ingested=ingested,
        plan=plan,
        searches=everything[everything["role"] == Role.SEARCH],
        search_failures=failures[of_search].drop_duplicates("trial_id"),
        data_cards=load_data_cards(study_name, tracking_uri),
    )
    return evidence, problems


def _readable_study(study_name: str, tracking_uri: str | None) -> tuple[Study | None, IngestedStudy | None, str]:
    try:
        return load_study(study_name, tracking_uri), None, ""
    except UserError as error:
        problem = f"The study file could not be read, defaults are assumed: {error}"
    with suppress(UserError):
        if (ingested := load_ingested(study_name, tracking_uri)) is not None:
            return None, ingested, ""
    return None, None, problem


def write_report(evidence: Evidence, out: Path, *, problems: list[str], record: str) -> ReportFiles:
    """Write the report of evidence that is already gathered.

    Args:
        evidence: The study.
        out: Folder of the report.
        problems: What could not be read; becomes caveats.
        record: Where the evidence comes from, for the provenance.

    Raises:
        UserError: ``out`` is a file.
    """
    if out.is_file():
        raise UserError(f"--out {out} is a file; give a folder")
    tables = build_tables(evidence)
    sections = _sections(evidence, tables)
    content = PageContent(
        title=evidence.name,
        subtitle="Does pretraining help, at which scale, with how few labels, and for whom?",
        summary=summary(evidence, tables),
        facts=narrative.facts(evidence, tables),
        findings=findings(evidence, tables),
        caveats=narrative.caveats(evidence, tables, problems),
        sections=sections,
        methods=narrative.methods(evidence, tables),
        provenance=narrative.provenance(evidence, record),
    )
    plots = [plot for section in sections for plot in section.plots]
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as temporary:
        fresh = Path(temporary)
        (fresh / "index.html").write_text(render_page(content), encoding="utf-8")
        text = json.dumps(verdict(evidence, tables), indent=2, allow_nan=False, ensure_ascii=False)
        (fresh / "verdict.json").write_text(text + "\n", encoding="utf-8")
        _write_tables(tables, fresh / "tables")
        (fresh / "figures").mkdir()
        write_figures(plots, fresh / "figures", render)
        _replace(out, fresh)
    return ReportFiles(
        folder=out,
        index_html=out / "index.html",
        verdict_json=out / "verdict.json",
        tables=tuple(sorted((out / "tables").iterdir())),
        figures=tuple(sorted((out / "figures").iterdir())),
        headlines=headlines(evidence, tables),
    )


def _sections(evidence: Evidence, tables: Tables) -> tuple[Section, ...]:
    baseline = evidence.baseline
    primary = tables.cells[tables.cells["primary"]] if len(tables.cells) else tables.cells
    in_domain = tables.scales[tables.scales["set"] == IN_DOMAIN] if len(tables.scales) else tables.scales
    shifted, matrix = tables.in_domain_vs_shifted, completeness_plot(tables.completeness)
    failed = (("Failed trials", _shown_failures(tables.failures)),) if len(tables.failures) else ()
    return (
        Section(
            anchor="curves",
            heading="Scale curves",
            intro="How far each source gets with how many labels, at each model scale.",
            plots=tuple(scale_curves(primary, tables.trial_values, baseline)) if len(primary) else (),
            empty="No finished trial has predictions yet.",
        ),
        Section(
            anchor="contrasts",
            heading=f"Against {baseline}",
            intro=f"What each source adds to {baseline}, at the same model scale, amount and seed.",
            plots=tuple(forest_plots(tables.contrasts, baseline)) if len(tables.contrasts) else (),
            empty=f"There is no cell yet that has both a source and {baseline}.",
        ),
        Section(
            anchor="size",
            heading="Model size",
            plots=tuple(parameter_plots(in_domain, baseline)) if len(in_domain) else (),
            empty="This needs two model scales with finished trials and known numbers of parameters.",
        ),
        Section(
            anchor="shift",
            heading="Shifted sets",
            plots=tuple(shifted_plots(shifted, baseline)) if len(shifted) else (),
            empty="The study has no evaluation set beside test, or no trial was scored on one.",
        ),
        Section(
            anchor="subgroups",
            heading="Subgroups",
            plots=tuple(subgroup_plots(tables.subgroups, baseline)) if len(tables.subgroups) else (),
            empty="The study names no subgroup columns (statistics.groups), or the predictions lack them.",
        ),
        Section(
            anchor="completeness",
            heading="Completeness",
            plots=(matrix,) if matrix else (),
            tables=failed,
            empty="Nothing was planned.",
        ),
        Section(
            anchor="data",
            heading="Data",
            intro="Labelled images that the trials of each amount were trained on, means over trials. Forced patients "
            "were taken in beyond the drawn order because a class would have been missing. Validation images are "
            "labels, too.",
            tables=(
                *((("Training subsets", tables.data),) if len(tables.data) else ()),
                *card_tables(evidence.data_cards).items(),
            ),
            empty="No finished trial yet.",
        ),
        *_tuning_section(evidence, tables.tuning),
    )


def _tuning_section(evidence: Evidence, table: pd.DataFrame) -> tuple[Section, ...]:
    if table.empty:
        return ()
    tuning = evidence.study.tuning if evidence.study else None
    return (
        Section(
            anchor="tuning",
            heading="Tuning",
            intro=tuning_intro(tuning, table),
            tables=(("Chosen values", table.drop(columns="tuned")),),
        ),
    )


def _shown_failures(failures: pd.DataFrame) -> pd.DataFrame:
    wanted = ["task", "model_scale", "pretraining_source", "data_fraction", "seed", "failure_class", "step", "message"]
    return failures[[c for c in wanted if c in failures]]


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
) -> None:
    """Build the report of a study without writing to MLflow."""
    from search_spaces.files import study_name

    try:
        files = build_report(study_name(study), out, tracking_uri)
    except ScalecurvesError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(1) from None
    for line in files.headlines:
        print(line)
    print(f"report: {files.index_html.resolve()}")


if __name__ == "__main__":
    app()
