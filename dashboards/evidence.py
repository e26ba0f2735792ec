"""What a report is computed from, and each trial's estimates with the contributions of its patients.

Every trial's predictions are read once. Estimates are held for one task at a time, so that thousands of trials fit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from dashboards.planned import Plan
from dashboards.prediction_sets import PredictionSet
from dashboards.set_design import GroupDesign, Part, SetDesign, design_of
from dashboards.statistics import (
    Influence,
    Metric,
    index_patients,
    metric_names,
    patient_influence,
    reported_influence,
)
from search_spaces.exceptions import ScalecurvesError
from search_spaces.ingested import IngestedStudy
from search_spaces.names import AXES, Role
from search_spaces.study import StatisticsSpec, Study

SECONDARY_METRICS = (Metric.NLL, Metric.ACCURACY)
"""Shown in the table of cells beside each task's primary metric."""

IN_DOMAIN = "test"

_NO_SIZES: dict[str, Any] = {"images": math.nan, "patients": math.nan, "rarest_label": "", "n_pos": math.nan}
"""Of a set of which only numbers are known."""


_NUMBERS = ("n_images", "n_patients", "n_val_images", "parameters", "backbone_parameters", "seed_subset", "seed_init")
_OTHERS = (
    "trial_id",
    "role",
    *AXES,
    "seed",
    "primary",
    "ladder",
    "patients_known",
    "still_rising",
    "subset_hash",
    "sets",
)


def target_results(results: pd.DataFrame) -> pd.DataFrame:
    """Rows of target trials, with every column that the tables need: counts as floats, blank where there are none.

    Args:
        results: As ``dashboards.load.load_results`` gives it; may be empty.
    """
    rows = results[results["role"] == Role.TARGET] if "role" in results else results
    blank = {name: pd.Series(index=rows.index, dtype="float64") for name in _NUMBERS if name not in rows}
    blank |= {name: pd.Series(index=rows.index, dtype=object) for name in _OTHERS if name not in rows}
    counts = {str(c): rows[c].astype("Float64").astype(float) for c in rows if _is_count(str(c))}
    return rows.assign(**blank | counts).reset_index(drop=True)


def _is_count(column: str) -> bool:
    return column in _NUMBERS or column.startswith(("n_", "pool_"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Everything a report is computed from.

    Attributes:
        name: Name of the study.
        study: The study file, if it could be read.
        plan: What it plans.
        results: One row per done target trial, as ``target_results`` makes it.
        predictions: (trial_id, evaluation set) -> predictions; may read lazily.
        failures: One row per failed attempt at a target or upstream trial (``dashboards.load.load_failures``).
        searches: One row per done search trial (``dashboards.load.load_results``).
        search_failures: One row per search trial that failed.
        ingested: What is known of others' study, if these are results of others.
        data_cards: Task -> what it is trained and scored on, in counts (``dashboards.data_cards``).
    """

    name: str
    results: pd.DataFrame
    predictions: Mapping[tuple[str, str], PredictionSet]
    failures: pd.DataFrame
    study: Study | None = None
    plan: Plan = field(default_factory=Plan)
    searches: pd.DataFrame = field(default_factory=pd.DataFrame)
    search_failures: pd.DataFrame = field(default_factory=pd.DataFrame)
    data_cards: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    ingested: IngestedStudy | None = None

    @property
    def statistics(self) -> StatisticsSpec:
        """How results are compared; the defaults if the study file could not be read."""
        known = self.study or self.ingested
        return known.statistics if known else StatisticsSpec()

    @property
    def baseline(self) -> str:
        """Source that all are compared with."""
        return self.statistics.baseline

    @property
    def delta(self) -> float:
        """Largest difference of no practical meaning."""
        return self.statistics.delta

    @property
    def alpha(self) -> float:
        """Two-sided error level."""
        return self.statistics.alpha


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupEstimate:
    """A metric in one subgroup and among all other patients, over the same classes; None where patients are too few."""

    design: GroupDesign
    inside: Influence | None
    outside: Influence | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskEstimates:
    """All estimates of one task.

    Attributes:
        task: Its name.
        metric: Its primary metric.
        rows: Its rows of ``Evidence.results``, by trial id.
        values: (trial_id, set, metric) -> estimate.
        groups: (trial_id, set, column, group) -> estimate of the primary metric.
        sizes: Evaluation set -> facts: images, patients, positives of the rarest label.
        left_out: Evaluation set -> labels with too few patients to be part of a macro AUC.
        shared_classes: Shifted set -> labels that a macro AUC there and in the in-domain test can both be the mean of;
            only they make a loss from one to the other.
        on_shared: (trial_id, shifted set) -> macro AUC over those labels, in domain and there; only where the two sets
            have different labels.
        unreadable: "trial_id set: reason" of predictions that could not be used.
    """

    task: str
    metric: str
    rows: pd.DataFrame
    values: dict[tuple[str, str, str], Influence] = field(default_factory=dict)
    groups: dict[tuple[str, str, str, str], GroupEstimate] = field(default_factory=dict)
    sizes: dict[str, dict[str, Any]] = field(default_factory=dict)
    left_out: dict[str, tuple[str, ...]] = field(default_factory=dict)
    shared_classes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    on_shared: dict[tuple[str, str], tuple[Influence, Influence]] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)

    @property
    def sets(self) -> list[str]:
        """Evaluation sets with an estimate, the in-domain one first."""
        return sorted(self.sizes, key=lambda name: (name != IN_DOMAIN, list(self.sizes).index(name)))


def task_estimates(evidence: Evidence) -> Iterator[TaskEstimates]:
    """The estimates of each task in turn."""
    if evidence.results.empty:
        return
    for task, rows in evidence.results.groupby("task", sort=False):
        yield _estimates_of(evidence, str(task), rows)


def _estimates_of(evidence: Evidence, task: str, rows: pd.DataFrame) -> TaskEstimates:
    result = TaskEstimates(
        task=task, metric=_primary(evidence, task, rows), rows=rows.set_index("trial_id", drop=False)
    )
    designs: dict[str, SetDesign] = {}
    columns = evidence.statistics.groups
    for trial_id, name in _available(evidence, rows):
        try:
            prediction = evidence.predictions[trial_id, name]
            design = designs.get(name)
            if design is None or not design.fits(prediction):
                designs[name] = design = design_of(prediction, columns)
            _estimate_trial(result, trial_id, prediction, design)
        except (ValueError, KeyError, ScalecurvesError) as error:
            result.unreadable.append(f"{trial_id} {name}: {error}")
    _add_reported(result, rows)
    if result.metric == Metric.AUC_MACRO and IN_DOMAIN in designs:
        for name in designs.keys() - {IN_DOMAIN}:
            for trial_id in result.rows.index:
                _compare_shared_classes(result, evidence, (str(trial_id), name), designs)
    return result


def _add_reported(result: TaskEstimates, rows: pd.DataFrame) -> None:
    """Numbers of sets without predictions: no patients, so no subgroups, and intervals over seeds alone."""
    for row in rows.to_dict("records") if "reported" in rows else ():
        for name in row["reported"] if isinstance(row["reported"], list) else ():
            for metric in dict.fromkeys([result.metric, *SECONDARY_METRICS]):
                value = row.get(f"{name}/{metric}")
                if value is not None and (value == value or metric == result.metric):
                    result.values[str(row["trial_id"]), name, metric] = reported_influence(metric, float(value))
            result.sizes.setdefault(name, _NO_SIZES)


def _compare_shared_classes(
    result: TaskEstimates, evidence: Evidence, key: tuple[str, str], designs: dict[str, SetDesign]
) -> None:
    """A macro AUC over other classes is another number: the loss on a shifted set is taken over those of both sets."""
    trial_id, name = key
    here = result.values.get((trial_id, IN_DOMAIN, result.metric))
    there = result.values.get((trial_id, name, result.metric))
    if here is None or there is None:
        return
    shared = tuple(label for label in here.classes if label in there.classes)
    result.shared_classes.setdefault(name, shared)
    if shared and not shared == here.classes == there.classes:
        near, far = (_macro_auc(evidence.predictions[trial_id, s], designs[s], shared) for s in (IN_DOMAIN, name))
        result.on_shared[key] = (near, far)


def _macro_auc(prediction: PredictionSet, design: SetDesign, classes: tuple[str, ...]) -> Influence:
    return patient_influence(
        Metric.AUC_MACRO,
        prediction.kind,
        prediction.labels,
        prediction.y,
        prediction.logits,
        design.index if design.fits(prediction) else index_patients(prediction.patient),
        class_set=classes,
    )


def _primary(evidence: Evidence, task: str, rows: pd.DataFrame) -> str:
    if evidence.study and task in evidence.study.tasks:
        return evidence.study.tasks[task].primary
    if evidence.ingested and task in evidence.ingested.primary:
        return evidence.ingested.primary[task]
    written = rows["primary"].dropna() if "primary" in rows else pd.Series(dtype=str)
    return str(written.iloc[0]) if len(written) else str(Metric.AUC_MACRO)


def _available(evidence: Evidence, rows: pd.DataFrame) -> list[tuple[str, str]]:
    wanted = set(rows["trial_id"])
    return [key for key in evidence.predictions if key[0] in wanted]


def _estimate_trial(result: TaskEstimates, trial_id: str, prediction: PredictionSet, design: SetDesign) -> None:
    known = metric_names(prediction.kind, prediction.labels)
    for metric in dict.fromkeys([result.metric, *SECONDARY_METRICS]):
        if metric in known:
            result.values[trial_id, prediction.name, metric] = patient_influence(
                metric,
                prediction.kind,
                prediction.labels,
                prediction.y,
                prediction.logits,
                design.index,
                class_set=design.classes if metric == Metric.AUC_MACRO else None,
            )
    result.sizes.setdefault(prediction.name, design.sizes)
    if result.metric == Metric.AUC_MACRO:
        left_out = tuple(label for label in prediction.labels if label not in design.classes)
        result.left_out.setdefault(prediction.name, left_out)
    for group in design.groups:
        key = (trial_id, prediction.name, group.column, group.name)
        result.groups[key] = GroupEstimate(
            design=group,
            inside=_part(result.metric, prediction, group.inside),
            outside=_part(result.metric, prediction, group.outside),
        )


def _part(metric: str, prediction: PredictionSet, part: Part | None) -> Influence | None:
    if part is None:
        return None
    return patient_influence(
        metric,
        prediction.kind,
        prediction.labels,
        prediction.y[part.rows],
        prediction.logits[part.rows],
        part.index,
        class_set=part.classes,
    )
