"""The parts of the page beyond "does it help": shifted sets, subgroups, probabilities, speed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import pandas as pd

from dashboards import confidence_answers, harm_answers, source_tables, speed_answers
from dashboards.confidence_plots import reliability_plots, risk_plots
from dashboards.curve_plots import shifted_plots
from dashboards.evidence import Evidence
from dashboards.harm_plots import harm_plots, value_plots
from dashboards.overlap_tables import OVERLAP_PARTS, overlap_part
from dashboards.page import Section
from dashboards.plots import AnyPlot
from dashboards.robustness_plots import robustness_plots
from dashboards.row_plots import subgroup_plots
from dashboards.shift_tables import has_probit
from dashboards.speed_plots import convergence_plots
from dashboards.stage_tables import INTRO
from dashboards.style import plural
from dashboards.tables import Tables

MAX_FIGURES = 8
"""Figures of one kind on the page; what is not drawn is in the tables."""

P = TypeVar("P", bound=AnyPlot)

_SUBGROUPS = (
    f"Whom does a source harm? {harm_answers.ERROR_CONTROL} Intervals are not adjusted. A narrower gap through a worse "
    "best group is no improvement. Error rates are those at one threshold for all groups, the smallest with a "
    "specificity of 0.9 on validation; criteria of fairness conflict where prevalences differ and stand side by side."
)
_SUBGROUPS_OF_MASKS = (
    "The overlap in each group, over its patients with the label. Harm by a source, gaps beside chance and error rates "
    "are not judged of masks. Intervals are not adjusted."
)


def measure_section(tables: Tables) -> Section:
    """Of each class, of grades, and at the frozen threshold."""
    measures = tables.of("measures")
    whole = measures[measures["label"] == ""] if len(measures) else measures
    return Section(
        anchor="measures",
        heading="Other measures",
        intro="At the primary amounts, with intervals over patients and seeds; nothing here is compared. Sensitivity, "
        "specificity and predictive values (ppv, npv) are those at the smallest threshold with a specificity of 0.9 on "
        "validation. Average precision and predictive values depend on the prevalence, which stands beside them.",
        folded=named(
            ("By class", measures[measures["label"] != ""] if len(measures) else measures),
            ("Of the whole task", whole.dropna(axis=1, how="all") if len(whole) else whole),
        ),
        empty="No finished trial has predictions of labels at a primary amount. Measures of masks stand under Masks.",
    )


def shift_section(evidence: Evidence, tables: Tables) -> Section:
    """In domain against shifted, effective robustness, detection by confidence."""
    shifted, robustness = tables.in_domain_vs_shifted, tables.of("robustness")
    plots: list[AnyPlot] = []
    if len(shifted):
        on_probit = shifted["metric"].map(has_probit).astype(bool)
        plots += robustness_plots(shifted[on_probit], robustness, evidence.baseline) if len(robustness) else []
        plots += shifted_plots(shifted[~on_probit], evidence.baseline)
    shown, rest = capped(plots)
    return Section(
        anchor="shift",
        heading="Shifted sets",
        intro="Patients of the two sets are different people: their variances add. Effective robustness is what a "
        f"source gains on the shifted set beyond what the line through {evidence.baseline} expects; its interval takes "
        "the line as given, its p-values are adjusted by Benjamini and Hochberg, exploratory. Errors are compared as "
        f"ratios (growth of the NLL), an AUC is not.{not_drawn(rest)}",
        plots=shown,
        folded=named(
            ("Effective robustness, and growth of errors", _beyond(robustness, evidence.baseline)),
            ("Telling the sets apart by confidence", tables.of("ood_detection")),
        ),
        empty="The study has no evaluation set beside test, or no trial was scored on one.",
    )


def _beyond(robustness: pd.DataFrame, baseline: str) -> pd.DataFrame:
    return robustness[robustness["pretraining_source"] != baseline] if len(robustness) else robustness


def subgroup_section(evidence: Evidence, tables: Tables) -> Section:
    """Harm per subgroup, values beside the band of chance, error rates at the frozen threshold."""
    harm, values = tables.of("harm"), tables.of("group_values")
    plots, harms, rest, more = _no_plots(), _no_plots(), 0, 0
    if len(harm):
        harms, rest = capped(harm_plots(harm, evidence.baseline))
    if len(values):
        plots, more = capped(value_plots(values, tables.of("group_gaps"), evidence.baseline))
    if not plots and len(tables.subgroups):  # no group is large enough for a band of chance
        plots, more = capped(subgroup_plots(tables.subgroups, evidence.baseline))
    if len(tables.subgroups) and harm.empty and tables.subgroups["negative_patients"].isna().all():
        intro = _SUBGROUPS_OF_MASKS
    else:
        intro = _SUBGROUPS
    return Section(
        anchor="subgroups",
        heading="Subgroups",
        intro=f"{intro}{not_drawn(rest, more)}",
        plots=(*harms, *plots),
        folded=named(
            ("Largest gaps between groups, beside chance", tables.of("group_gaps")),
            ("Equalised odds at the frozen threshold", tables.of("group_odds")),
            ("Error rates and calibration within groups", tables.of("group_rates")),
            ("Positives of one group against negatives of another", tables.of("cross_group_auc")),
        ),
        empty="The study names no subgroup columns (statistics.groups), or the predictions lack them.",
    )


def confidence_section(evidence: Evidence, tables: Tables) -> Section:
    """Scores, calibration before and after temperature, selective prediction."""
    bins, curves = tables.of("reliability"), tables.of("risk_coverage")
    reliability, rest = capped(reliability_plots(bins, evidence.baseline)) if len(bins) else (_no_plots(), 0)
    risk, more = (
        capped(risk_plots(curves, tables.of("selective"), evidence.baseline)) if len(curves) else (_no_plots(), 0)
    )
    return Section(
        anchor="confidence",
        heading="Probabilities",
        intro=f"Can the probabilities be trusted? {confidence_answers.ERROR_CONTROL} A binned error is biased upwards, "
        "the more the smaller the set: read the ECE beside its median under perfect calibration (null median), and "
        "compare sets of different size by the debiased error. Differences in scores mix discrimination and "
        f"calibration; after temperature the second part is small.{not_drawn(rest, more)}",
        plots=(*reliability, *risk),
        folded=named(
            ("Scores and calibration", tables.of("probabilities")),
            (f"Differences to {evidence.baseline} in NLL and Brier score", tables.of("probability_contrasts")),
            (f"Differences to {evidence.baseline} in selective risk", tables.of("selective_contrasts")),
            (
                "Whom the models abstain on, at the confidence that accepts 90 % of validation",
                tables.of("group_coverage"),
            ),
        ),
        empty="No finished trial has predictions of labels. Of predicted masks no probabilities are kept.",
    )


def overlap_section(evidence: Evidence, tables: Tables) -> Section:
    """Readings of the overlap, distances, false alarms. Left out where no task has masks."""
    overlap = tables.of("overlap")
    return Section(
        anchor="overlap",
        heading="Masks",
        intro="Dice and IoU lead over images that show the label, as means over patients of means over their images; "
        "other readings stand beside them, because published numbers differ in which they mean. An image without the "
        "label has no overlap: what is predicted on it is counted apart. The 95 % Hausdorff distance (in pixels of the "
        "original image) does not exist where nothing was predicted, and those images are counted, not scored. All are "
        "means over seeds, at thresholds that were frozen on validation; intervals are over seeds and patients. In the "
        "differences a Hausdorff distance is compared on images on which both sides predict something, so read it with "
        "those left out; p-values are adjusted by Benjamini and Hochberg, exploratory.",
        tables=named(
            *((title, overlap_part(overlap, part)) for title, part in OVERLAP_PARTS.items()),
            (
                f"Differences to {evidence.baseline} in distances and false alarms (mean over labels, exploratory)",
                tables.of("overlap_contrasts"),
            ),
        ),
    )


def speed_section(evidence: Evidence, tables: Tables) -> Section:
    """Validation curves and times to the marks."""
    curves = tables.of("convergence")
    plots, rest = (
        capped(convergence_plots(curves, tables.of("speed"), evidence.baseline)) if len(curves) else (_no_plots(), 0)
    )
    return Section(
        anchor="speed",
        heading="Training speed",
        intro=f"Is a source faster? {speed_answers.ERROR_CONTROL} The mark is a share of the way from chance to the "
        f"best validation result of {evidence.baseline} (mean over seeds), reached at two evaluations in a row. A time "
        "lies between two evaluations; one beyond the budget is later than it, and neither is dropped. Medians over "
        "seeds, ratios within bounds. Device-hours are training and validation seconds times ranks. The area under "
        f"the curve over log steps has an interval over seeds alone.{not_drawn(rest)}",
        plots=plots,
        folded=named(("Times to the marks", tables.of("speed")), ("Area over log steps", tables.of("learning_area"))),
        empty="No trial has a validation curve.",
    )


def stage_section(tables: Tables) -> tuple[Section, ...]:
    """How good earlier stages are; only of studies in which trials start from trials."""
    if tables.stages.empty:
        return ()
    shown = (("Upstream trials", tables.stages),)
    return (Section(anchor="stages", heading="Earlier stages", intro=INTRO, tables=shown),)


def source_section(tables: Tables) -> tuple[Section, ...]:
    """What is published of the sources; only of studies with weights of the catalogue."""
    if tables.sources.empty:
        return ()
    shown = (("Published weights", tables.sources),)
    return (Section(anchor="sources", heading="Sources", intro=source_tables.INTRO, tables=shown),)


def _no_plots() -> tuple[AnyPlot, ...]:
    return ()


def capped(plots: Sequence[P]) -> tuple[tuple[P, ...], int]:
    """As many figures of a kind as the page shows, and the number of the rest."""
    return tuple(plots[:MAX_FIGURES]), max(0, len(plots) - MAX_FIGURES)


def not_drawn(*rest: int) -> str:
    """What is said of figures beyond those of a section, by kind; nothing if there are none."""
    if not (n := sum(rest)):
        return ""
    return f" {plural(n, 'further figure')} {'is' if n == 1 else 'are'} not drawn; the numbers are in the tables."


def named(*tables: tuple[str, pd.DataFrame]) -> tuple[tuple[str, pd.DataFrame], ...]:
    """Those that have rows."""
    return tuple((title, table) for title, table in tables if len(table))
