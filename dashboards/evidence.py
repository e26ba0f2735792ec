"""What a report is computed from, and each trial's estimates with the contributions of its patients.

Every trial's predictions are read once. Estimates are held for one task at a time, so that thousands of trials fit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd

from dashboards.exclusions import Exclusion
from dashboards.histories import History
from dashboards.planned import Plan
from dashboards.prediction_sets import PredictionSet
from dashboards.set_design import GroupDesign, SetDesign
from dashboards.statistics import Influence, SeedKey
from dashboards.statistics.run_batches import RunBatch
from search_spaces.amounts import Seed
from search_spaces.ingested import IngestedStudy
from search_spaces.names import AXES, Role
from search_spaces.study import StatisticsSpec, Study

if TYPE_CHECKING:
    from dashboards.representations import TrialRepresentations

IN_DOMAIN = "test"

CellKey = tuple[str, str, str]
"""model_scale, pretraining_source, data_fraction."""

_NUMBERS = (
    "n_images",
    "n_patients",
    "n_val_images",
    "n_val_patients",
    "parameters",
    "backbone_parameters",
    "seed_subset",
    "seed_init",
)
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
    "order_hash",
    "upstream_overlap",
    "near_copies",
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
        seeds_added: Whether seeds were added to the study after its test results had been read (``verdict.ledger``).
        searches: One row per done search trial (``dashboards.load.load_results``).
        upstream: One row per done trial that others start from, and that is no target itself.
        search_failures: One row per search trial that failed.
        ingested: What is known of others' study, if these are results of others.
        validation: trial_id -> validation predictions of the selected step; trials of older records have none.
        histories: trial_id -> validation curve; may read lazily.
        data_cards: Task -> what it is trained and scored on, in counts (``dashboards.data_cards``).
        representations: trial_id -> what it kept for comparing networks; may read lazily. Most studies keep nothing.
    """

    name: str
    results: pd.DataFrame
    predictions: Mapping[tuple[str, str], PredictionSet]
    failures: pd.DataFrame
    study: Study | None = None
    plan: Plan = field(default_factory=Plan)
    searches: pd.DataFrame = field(default_factory=pd.DataFrame)
    upstream: pd.DataFrame = field(default_factory=pd.DataFrame)
    search_failures: pd.DataFrame = field(default_factory=pd.DataFrame)
    seeds_added: bool = False
    data_cards: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    ingested: IngestedStudy | None = None
    validation: Mapping[str, PredictionSet] = field(default_factory=dict)
    histories: Mapping[str, History] = field(default_factory=dict)
    representations: Mapping[str, TrialRepresentations] = field(default_factory=dict)

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

    @property
    def primary_sets(self) -> tuple[str, ...]:
        """Evaluation sets of the primary family."""
        return self.statistics.primary_sets


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupEstimate:
    """A metric in one subgroup and among all other patients, over the same classes; None where patients are too few."""

    design: GroupDesign
    inside: Influence | None
    outside: Influence | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedEnsemble:
    """The mean probability over the runs of a cell on one set.

    Attributes:
        influence: Its primary metric, conditional on these runs.
        members: Seeds that it is the mean of.
    """

    influence: Influence
    members: tuple[SeedKey, ...]


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
        left_out: Evaluation set -> labels with too few patients to be part of a macro average.
        unrecorded: Evaluation set -> subgroup columns of the study that are blank for all of its images.
        outdated: (scale, amount, evaluation set) of blocks that were watched with a version of the set that is not the
            one which is used in the end.
        shared_classes: Shifted set -> labels that a macro average both there and in the in-domain test can be of;
            only they make a loss from one to the other.
        on_shared: (trial_id, shifted set) -> macro average over them, in domain and there; only where the two sets
            have different labels.
        chance: Evaluation set -> a run that knows the prevalences alone.
        shared_patients: Evaluation set -> its patients that are in training or validation too; None if that was not
            looked for, or cannot be told.
        ensembles: (cell, set) -> its seed ensemble, where there are two runs.
        exclusions: Results that are not used, and why.
    """

    task: str
    metric: str
    rows: pd.DataFrame
    values: dict[tuple[str, str, str], Influence] = field(default_factory=dict)
    groups: dict[tuple[str, str, str, str], GroupEstimate] = field(default_factory=dict)
    sizes: dict[str, dict[str, Any]] = field(default_factory=dict)
    left_out: dict[str, tuple[str, ...]] = field(default_factory=dict)
    unrecorded: dict[str, tuple[str, ...]] = field(default_factory=dict)
    outdated: list[tuple[str, str, str]] = field(default_factory=list)
    shared_classes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    on_shared: dict[tuple[str, str], tuple[Influence, Influence]] = field(default_factory=dict)
    chance: dict[str, Influence] = field(default_factory=dict)
    shared_patients: dict[str, int | None] = field(default_factory=dict)
    ensembles: dict[tuple[CellKey, str], SeedEnsemble] = field(default_factory=dict)
    exclusions: list[Exclusion] = field(default_factory=list)

    @property
    def sets(self) -> list[str]:
        """Evaluation sets with an estimate, the in-domain one first."""
        return sorted(self.sizes, key=lambda name: (name != IN_DOMAIN, list(self.sizes).index(name)))


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenBlock:
    """Predictions of the trials of one task, scale and amount, while they are in memory.

    Attributes:
        task: Name of the task.
        metric: Its primary metric.
        scale: Model scale.
        fraction: Label of the amount.
        rows: Their rows of ``Evidence.results``.
        predictions: (trial_id, set) -> predictions and the design of the set.
        batches: Set -> the runs of all its predictions, in their order, where they were put together already.
    """

    task: str
    metric: str
    scale: str
    fraction: str
    rows: pd.DataFrame
    predictions: dict[tuple[str, str], tuple[PredictionSet, SetDesign]]
    batches: Mapping[str, RunBatch] = field(default_factory=dict)

    @property
    def is_masks(self) -> bool:
        """Whether its predictions are masks."""
        return any(prediction.is_masks for prediction, _ in self.predictions.values())


Watch = Callable[[SeenBlock], None]
"""Is shown each block while its predictions are in memory."""


def trials_by_cell(rows: pd.DataFrame) -> dict[CellKey, dict[SeedKey, str]]:
    """Cell -> seed -> trial id."""
    cells: dict[CellKey, dict[SeedKey, str]] = {}
    for row in rows.to_dict("records"):
        key = (str(row["model_scale"]), str(row["pretraining_source"]), str(row["data_fraction"]))
        seed = Seed(subset=int(row["seed_subset"]), init=int(row["seed_init"]))
        cells.setdefault(key, {})[seed] = str(row["trial_id"])
    return cells
