"""Trials of one task at one model scale and amount, with their predictions.

All comparisons with the baseline lie within such a block, so its predictions are held only while it is worked on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dashboards.cell_tables import subset_hashes
from dashboards.estimates import influence_of
from dashboards.evidence import IN_DOMAIN, Evidence, SeenBlock
from dashboards.exclusions import Exclusion, Why
from dashboards.pairing import Drawn, odd_seeds
from dashboards.prediction_sets import PredictionSet, scored_as
from dashboards.set_design import SetDesign
from dashboards.statistics import (
    Predictions,
    SeedKey,
    Temperature,
    ThresholdRule,
    choose_threshold,
    fit_temperature,
)
from dashboards.statistics.predictions import BoolArray, FloatArray, check_predictions
from dashboards.statistics.run_batches import RunBatch, make_batch
from dashboards.style import number
from search_spaces.amounts import Seed
from search_spaces.exceptions import ScalecurvesError
from search_spaces.names import Kind

THRESHOLD_SPECIFICITY = 0.9
"""Images are called positive from the smallest logit on that has this specificity on validation."""

VALIDATION = "validation"
"""Set under which exclusions name validation predictions."""

NO_VALIDATION = "not estimable: no validation predictions"
NO_THRESHOLD = "not estimable: validation gives no threshold (one class only, or logits that are not finite)"
NOT_ALL_VALIDATION = "not estimable: not every seed has validation predictions"

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunKey:
    """One trial of a block."""

    source: str
    seed: SeedKey
    trial_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SetRuns:
    """The runs of a block on one evaluation set.

    Attributes:
        name: The set.
        keys: R trials.
        batch: Their predictions, in that order.
        design: What the set allows to be said.
        any_prediction: One of them, for kind, labels and what a row is.
    """

    name: str
    keys: tuple[RunKey, ...]
    batch: RunBatch
    design: SetDesign
    any_prediction: PredictionSet

    def by_source(self, values: Sequence[T]) -> dict[str, dict[SeedKey, T]]:
        """R values as source -> seed -> value."""
        found: dict[str, dict[SeedKey, T]] = {}
        for key, value in zip(self.keys, values, strict=True):
            found.setdefault(key.source, {})[key.seed] = value
        return found

    def positions(self) -> dict[str, list[int]]:
        """Source -> positions of its runs."""
        found: dict[str, list[int]] = {}
        for position, key in enumerate(self.keys):
            found.setdefault(key.source, []).append(position)
        return found


@dataclass(frozen=True, kw_only=True)
class Block:
    """One task, scale and amount.

    Attributes:
        evidence: The study.
        task: Name of the task.
        metric: Its primary metric.
        scale: Model scale.
        fraction: Label of the amount.
        primary: Whether the amount is one of the primary family.
        rows: Its rows of ``Evidence.results``, by trial id.
        sets: Evaluation set -> runs, the in-domain one first. None of masks, which have no probabilities.
        exclusions: Predictions that could not be used here.
    """

    evidence: Evidence
    task: str
    metric: str
    scale: str
    fraction: str
    primary: bool
    rows: pd.DataFrame
    sets: dict[str, SetRuns]
    exclusions: list[Exclusion]

    @property
    def baseline(self) -> str:
        """Source that all are compared with."""
        return self.evidence.baseline

    @property
    def level(self) -> float:
        """Nominal coverage of intervals."""
        return 1 - self.evidence.alpha

    @cached_property
    def images(self) -> float:
        """Labelled training images, mean over trials."""
        return float(self.rows["n_images"].mean())

    def coordinates(self, source: str) -> dict[str, Any]:
        """The axes of a cell, as columns."""
        return {
            "task": self.task,
            "model_scale": self.scale,
            "pretraining_source": source,
            "data_fraction": self.fraction,
        }

    def sources(self) -> list[str]:
        """Sources other than the baseline."""
        return [s for s in dict.fromkeys(self.rows["pretraining_source"].astype(str)) if s != self.baseline]

    def pair(self, runs: Mapping[str, Mapping[SeedKey, T]], source: str) -> tuple[dict[SeedKey, T], dict[SeedKey, T]]:
        """Runs of a source and of the baseline; seeds that are no pairs are left out (``pairing``)."""
        ours, base = dict(runs.get(source, {})), dict(runs.get(self.baseline, {}))
        drawn = [{s: self._drawn[name, s] for s in of} for name, of in ((source, ours), (self.baseline, base))]
        odd, _ = odd_seeds(drawn)
        return {s: v for s, v in ours.items() if s not in odd}, {s: v for s, v in base.items() if s not in odd}

    @cached_property
    def facts(self) -> dict[str, dict[str, Any]]:
        """Trial id -> its row as a dictionary."""
        rows = ({str(name): value for name, value in row.items()} for row in self.rows.to_dict("records"))
        return {str(row["trial_id"]): row for row in rows}

    @cached_property
    def _drawn(self) -> dict[tuple[str, SeedKey], Drawn]:
        hashes = subset_hashes(self.rows)
        return {
            (str(row["pretraining_source"]), _seed(row)): Drawn(self.fraction, *hashes[trial_id])
            for trial_id, row in self.facts.items()
        }

    def fitted(self, runs: SetRuns) -> dict[str, Fitted]:
        """Trial id -> what was fitted on its validation predictions, scored as the set is: by image, examination or
        patient. Trials without them are missing.

        Args:
            runs: The set that the thresholds and temperatures are for.
        """
        how = runs.any_prediction.aggregation
        if how not in self._fitted:
            self._fitted[how] = self._fit_all(how)
        return self._fitted[how]

    def called(self, runs: SetRuns, column: int) -> FloatArray:
        """(R, N): 1 where an image is called positive at the threshold frozen on validation, else 0.

        NaN where its score or the run's threshold does not exist.
        """
        fitted = [self.fitted(runs).get(key.trial_id) for key in runs.keys]
        thresholds = np.array([np.nan if f is None else f.thresholds[column] for f in fitted])[:, None]
        scores = runs.batch.scores[:, :, column]
        return np.where(np.isfinite(scores) & np.isfinite(thresholds), scores >= thresholds, np.nan)

    @cached_property
    def _fitted(self) -> dict[str, dict[str, Fitted]]:
        return {}

    def _fit_all(self, aggregation: str) -> dict[str, Fitted]:
        fitted = {}
        for trial_id in map(str, self.rows.index):
            try:
                validation = self.evidence.validation.get(trial_id)
                if validation is None:
                    continue
                if (why := self._unusable(validation)) is not None:
                    about = {"task": self.task, "set": VALIDATION, "trial_id": trial_id}
                    self.exclusions.append(Exclusion(why=why[0], **about, detail=why[1]))
                else:
                    fitted[trial_id] = _fit(scored_as(validation, aggregation))
            except (ValueError, KeyError, ScalecurvesError) as error:
                self.exclusions.append(
                    Exclusion(why=Why.UNREADABLE, task=self.task, set=VALIDATION, trial_id=trial_id, detail=str(error))
                )
        return fitted

    def _unusable(self, validation: PredictionSet) -> tuple[Why, str] | None:
        """Why nothing can be fitted on validation predictions; None if it can."""
        like = next(iter(self.sets.values())).any_prediction
        if validation.kind != like.kind:
            return Why.OTHER_LABELS, f"{validation.kind} instead of {like.kind}"
        if validation.labels != like.labels:
            return Why.OTHER_LABELS, f"{', '.join(validation.labels)} instead of {', '.join(like.labels)}"
        if not len(validation.logits):
            return Why.UNREADABLE, "no image"
        return None if np.isfinite(validation.logits).all() else (Why.NOT_FINITE, "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """What one trial's validation predictions decide.

    Attributes:
        validation: They themselves.
        temperatures: One for a softmax, else one per label.
        thresholds: (L,) score from which on each label is called present; NaN where it cannot be chosen.
    """

    validation: Predictions
    temperatures: tuple[Temperature, ...]
    thresholds: FloatArray


def make_block(seen: SeenBlock, evidence: Evidence, primary_amounts: frozenset[str]) -> Block:
    """A block from what was read.

    Args:
        seen: Predictions of the block's trials.
        evidence: The study.
        primary_amounts: Labels of the amounts of the primary family.
    """
    rows = seen.rows.set_index("trial_id", drop=False)
    exclusions: list[Exclusion] = []
    found: set[str] = set() if seen.is_masks else {name for _, name in seen.predictions}
    names = sorted(found, key=lambda name: (name != IN_DOMAIN, name))
    sets = {name: runs for name in names if (runs := _set_runs(name, seen, rows, exclusions)) is not None}
    return Block(
        evidence=evidence,
        task=seen.task,
        metric=seen.metric,
        scale=seen.scale,
        fraction=seen.fraction,
        primary=seen.fraction in primary_amounts,
        rows=rows,
        sets=sets,
        exclusions=exclusions,
    )


def _set_runs(name: str, seen: SeenBlock, rows: pd.DataFrame, exclusions: list[Exclusion]) -> SetRuns | None:
    """Runs on a set whose logits are finite where they count.

    Left in, a run that diverged would make every mean over the seeds of its cell undefined.
    """
    found = {trial: pair for (trial, of_set), pair in seen.predictions.items() if of_set == name}
    first, design = next(iter(found.values()))
    axes = rows[["trial_id", "pretraining_source", "seed_subset", "seed_init"]].to_dict("records")
    by_trial = {str(row["trial_id"]): row for row in axes}
    keys = tuple(
        RunKey(source=str(by_trial[t]["pretraining_source"]), seed=_seed(by_trial[t]), trial_id=t) for t in found
    )
    logits = [prediction.logits for prediction, _ in found.values()]
    made = seen.batches.get(name)
    try:
        if made is None:
            made = make_batch(first.kind, first.labels, first.y, logits, design.index, design.classes)
    except ValueError as error:
        detail = f"{seen.scale}, {seen.fraction}: {error}"
        exclusions += [
            Exclusion(why=Why.NO_BATCH, task=seen.task, set=name, trial_id=trial, detail=detail) for trial in found
        ]
        return None
    whole = _whole_runs(made)
    lost = [key.trial_id for key, ok in zip(keys, whole, strict=True) if not ok]
    exclusions += [_not_whole(seen, found[trial], trial) for trial in lost]
    if lost:
        keys = tuple(key for key in keys if key.trial_id not in lost)
        made = made.chosen(whole) if keys else made
    return SetRuns(name=name, keys=keys, batch=made, design=design, any_prediction=first) if keys else None


def _not_whole(seen: SeenBlock, found: tuple[PredictionSet, SetDesign], trial_id: str) -> Exclusion:
    """Of a run that lacks a logit: its primary metric may be of another label, and then counts all the same."""
    prediction, design = found
    classes = design.class_set(seen.metric)
    value = influence_of(seen.metric, prediction, design.index, classes).value
    counts = math.isfinite(value)
    return Exclusion(
        why=Why.NOT_FINITE_ELSEWHERE if counts else Why.NOT_FINITE,
        task=seen.task,
        set=prediction.name,
        trial_id=trial_id,
        detail=f"{seen.metric} is {number(value)}, and counts" if counts else "",
    )


def _whole_runs(batch: RunBatch) -> BoolArray:
    """(R,) whether a run has a finite logit wherever one counts: of every class, or of the labels that are averaged."""
    columns = batch.first.columns(batch.first.class_set if batch.labelwise else batch.first.labels)
    counts = ~np.isnan(batch.truth[:, columns])
    return np.asarray((np.isfinite(batch.logits[:, :, columns]) | ~counts).all(axis=(1, 2)))


def _seed(row: Any) -> Seed:
    return Seed(subset=int(row["seed_subset"]), init=int(row["seed_init"]))


def _fit(validation: PredictionSet) -> Fitted:
    known = check_predictions(validation.kind, validation.labels, validation.y, validation.logits)
    thresholds = [
        choose_threshold(known.truth[:, k], known.scores[:, k], ThresholdRule.SPECIFICITY, THRESHOLD_SPECIFICITY).value
        for k in range(len(known.labels))
    ]
    return Fitted(validation=known, temperatures=fit_temperature(known), thresholds=np.array(thresholds))


def question_labels(runs: SetRuns) -> list[int]:
    """Columns whose probabilities are asked about one by one: labels of the class set; [] for a softmax."""
    first = runs.batch.first
    return first.columns(first.class_set) if first.labelwise else []


def group_columns(runs: SetRuns, evidence: Evidence) -> dict[str, NDArray[np.object_]]:
    """Subgroup column of the study -> (N,) values, of those that the set has."""
    return {name: runs.design.recorded[name] for name in evidence.statistics.groups if name in runs.design.recorded}


def is_labelwise(kind: str) -> bool:
    """Whether each label is a question of its own."""
    return kind in (Kind.BINARY, Kind.MULTILABEL)
