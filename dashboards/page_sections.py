"""The sections of the page in their order, and those about curves, comparisons, gates and data."""

from __future__ import annotations

import pandas as pd

from dashboards.curve_plots import parameter_plots, scale_curves
from dashboards.data_cards import card_tables
from dashboards.evidence import IN_DOMAIN, Evidence
from dashboards.evidence_sections import (
    confidence_section,
    measure_section,
    overlap_section,
    shift_section,
    source_section,
    speed_section,
    stage_section,
    subgroup_section,
)
from dashboards.page import Section
from dashboards.representation_section import representation_section
from dashboards.row_plots import completeness_plot, forest_plots
from dashboards.tables import Tables
from dashboards.tuning_tables import tuning_intro
from dashboards.verdict.ledger import Ledger
from dashboards.verdict_plots import best_set_plots, label_savings_plots


def page_sections(evidence: Evidence, tables: Tables, ledger: Ledger) -> tuple[Section, ...]:
    """All of them.

    Args:
        evidence: The study.
        tables: Its tables.
        ledger: Who read test results when.
    """
    baseline = evidence.baseline
    primary = tables.cells[tables.cells["primary"]] if len(tables.cells) else tables.cells
    in_domain = tables.scales[tables.scales["set"] == IN_DOMAIN] if len(tables.scales) else tables.scales
    matrix = None if evidence.ingested else completeness_plot(tables.completeness)
    failed = (("Failed trials", _shown_failures(tables.failures)),) if len(tables.failures) else ()
    return (
        Section(
            anchor="curves",
            heading="Scale curves",
            intro="How far each source gets with how many labels, at each model scale.",
            plots=tuple(scale_curves(primary, tables.trial_values, baseline, tables.curve_fits))
            if len(primary)
            else (),
            empty="No finished trial has predictions yet.",
        ),
        Section(
            anchor="contrasts",
            heading=f"Against {baseline}",
            intro=f"What each source adds to {baseline}, at the same model scale, amount and seed.",
            plots=tuple(forest_plots(tables.contrasts, baseline)) if len(tables.contrasts) else (),
            empty=f"There is no cell yet that has both a source and {baseline}.",
        ),
        _where_section(evidence, tables),
        Section(
            anchor="size",
            heading="Model size",
            plots=tuple(parameter_plots(in_domain, baseline)) if len(in_domain) else (),
            empty="This needs two model scales with finished trials and known numbers of parameters.",
        ),
        measure_section(tables),
        shift_section(evidence, tables),
        subgroup_section(evidence, tables),
        confidence_section(evidence, tables),
        *([overlap_section(evidence, tables)] if len(tables.of("overlap")) else []),
        speed_section(evidence, tables),
        *representation_section(evidence, tables),
        _gates_section(tables, ledger),
        Section(
            anchor="completeness",
            heading="Completeness",
            plots=(matrix,) if matrix else (),
            tables=failed,
            empty="What others planned is not known." if evidence.ingested else "Nothing was planned.",
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
        *source_section(tables),
        *stage_section(tables),
        *_tuning_section(evidence, tables.tuning),
        *_further_sections(evidence, tables),
    )


def _further_sections(evidence: Evidence, tables: Tables) -> tuple[Section, ...]:
    """What decides nothing: the papers' tests, what the uncertainty is made of, ensembles, ranks and fits."""
    listed = {
        "Tests as the papers made them": tables.paper_tests,
        "Where the uncertainty comes from": _uncertainty(tables.contrasts),
        "Seed ensembles": tables.ensembles,
        "Ranks over tasks": tables.ranks,
        "All tasks in one number": tables.over_tasks,
        "Power laws": tables.curve_fits,
    }
    shown = tuple((title, table) for title, table in listed.items() if len(table))
    if not shown:
        return ()
    return (
        Section(
            anchor="further",
            heading="For comparison",
            intro="Nothing here decides anything. The papers' tests take seeds as independent samples and one test set "
            "as fixed: their intervals do not cover results on new patients. Shares of uncertainty say what more would "
            "reduce it; a plain list of seeds changes subset + optimisation, confounded. An ensemble's interval is "
            "over patients, for these very runs. Ranks need five tasks. All tasks in one number: the mean of the "
            "middle half of all runs, with chance at 0 and the best possible at 1, and the probability that a run is "
            "better than the baseline's of the same seed (meaningful from 0.75 on, if its interval lies above 0.5); "
            "intervals over seeds, for these tasks and patients. Power laws need five amounts over 1.5 decades, and "
            "are as good as their error on the last point, which they have not seen.",
            tables=shown,
        ),
    )


def _uncertainty(contrasts: pd.DataFrame) -> pd.DataFrame:
    """Shares of the variance of the primary contrasts, and how many seeds or patients would decide them."""
    if contrasts.empty:
        return contrasts
    shares = ["patients", "seeds", "subset", "initialisation", "interaction"]
    names = {f"share_{name}": f"share of {name}" for name in shares}
    wanted = ["task", "set", "model_scale", "pretraining_source", "data_fraction", "seed_design", *names]
    table = contrasts.loc[contrasts["primary"], [*wanted, "needed_seeds", "needed_patients"]]
    table = table.rename(columns=names | {"needed_seeds": "seeds needed", "needed_patients": "patients needed"})
    return table.rename(columns={"seed_design": "what seeds vary"})


def _gates_section(tables: Tables, ledger: Ledger) -> Section:
    gates = tables.gates.rename(columns={"reasons": "why not", "cap": "best grade left"})
    open_ = gates[gates["passed"] < gates["contrasts"]].drop(columns="question") if len(gates) else gates
    listed = (
        ("Gates that not every contrast passes", open_),
        ("Results not used, used in part or doubtful", tables.exclusions),
        ("Reads of test results", ledger.table()),
    )
    return Section(
        anchor="gates",
        heading="Why believe it",
        intro="What holds verdicts back, with the number of contrasts that pass; what cannot be checked counts as not "
        "passed. Then results that are not used, or not as they should be, and who read test results when.",
        tables=tuple((title, table) for title, table in listed if len(table)),
        folded=(("All gates", gates),) if len(gates) else (),
        empty="There is no contrast yet that a gate could hold back.",
    )


def _where_section(evidence: Evidence, tables: Tables) -> Section:
    listed = (("Amounts at which each source helps", tables.reach), ("Scale effects", tables.scale_effects))
    return Section(
        anchor="where",
        heading="Where, how cheap, how few labels",
        intro="Amounts and crossings per curve; the benefit over the scales of one ladder; the cheapest cell within "
        "noise of the best; labels saved.",
        plots=(
            *(
                label_savings_plots(tables.label_savings, tables.label_tests, evidence.baseline)
                if len(tables.label_savings)
                else ()
            ),
            *(best_set_plots(tables.best_sets, evidence.baseline) if len(tables.best_sets) else ()),
        ),
        tables=tuple((title, table) for title, table in listed if len(table)),
        empty=f"There is no source yet beside {evidence.baseline}.",
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
