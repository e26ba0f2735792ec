"""Question 6, can the probabilities be trusted: scores, and calibration before and after temperature."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from dashboards.blocks import NO_VALIDATION, NOT_ALL_VALIDATION, Block, SetRuns
from dashboards.evidence import IN_DOMAIN
from dashboards.result_rows import LABEL_COUNTS
from dashboards.set_groups import random_generator
from dashboards.statistics import Estimate, Influence, Temperature, combined_interval, contrast
from dashboards.statistics.batch_calibration import BatchCalibration, batch_calibration
from dashboards.statistics.predictions import BoolArray, FloatArray, Predictions, log_odds
from dashboards.statistics.recalibration import apply_temperature, prior_corrected
from dashboards.statistics.run_batches import (
    RunBatch,
    batch_brier,
    batch_correct,
    batch_nll,
    mean_influences,
)

RAW = "as trained"
COOLED = "after temperature"
CORRECTED = "prior-corrected"
STAGES = (RAW, COOLED, CORRECTED)

_NAN = float("nan")
_CALIBRATION = ("ece", "null_median", "ace", "squared_l2", "in_the_large", "slope", "intercept")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """The runs of one set as they are, or with recalibrated logits.

    Attributes:
        name: One of ``STAGES``.
        runs: The set with the runs as they are.
        batch: The runs; NaN logits where a run could not be recalibrated.
        notes: Source -> why it is not estimable.
    """

    name: str
    runs: SetRuns
    batch: RunBatch
    notes: dict[str, str]

    @cached_property
    def finite(self) -> BoolArray:
        """(R,) whether a run has any finite logit."""
        return np.asarray(np.isfinite(self.batch.logits).any(axis=(1, 2)))

    @cached_property
    def pairs(self) -> tuple[tuple[FloatArray, FloatArray], ...]:
        """For each question (label, or the top label) outcome and logit, see ``outcome_logits``."""
        return outcome_logits(self.batch)

    @cached_property
    def scores(self) -> dict[str, list[Influence]]:
        """NLL and Brier score of every run."""
        first = self.batch.first
        columns = first.columns(first.class_set) if self.batch.labelwise else [0]
        names = first.class_set if self.batch.labelwise and len(columns) > 1 else ()
        found = {"nll": batch_nll(self.batch), "brier": batch_brier(self.batch)}
        counted = ~np.isnan(self.runs.batch.truth[:, columns])
        return {
            name: mean_influences(name, values[:, :, columns], self.runs.design.index, names, counted)
            for name, values in found.items()
        }


def stages(block: Block, runs: SetRuns) -> list[Stage]:
    """As trained, after temperature, and on shifted sets corrected for the other prior."""
    found = [Stage(name=RAW, runs=runs, batch=runs.batch, notes={})]
    cooled, notes = _cooled(block, runs)
    found.append(Stage(name=COOLED, runs=runs, batch=cooled, notes=notes))
    if runs.name != IN_DOMAIN:
        corrected, notes = _corrected(block, runs)
        found.append(Stage(name=CORRECTED, runs=runs, batch=corrected, notes=notes))
    return found


def outcome_logits(batch: RunBatch) -> tuple[tuple[FloatArray, FloatArray], ...]:
    """Outcomes and logits (R, n) of the labelled images: of each label of the class set, or of the top label.

    The logit of the top label is the log-odds of its probability, its outcome whether it is right (Guo et al. 2017).
    """
    if batch.labelwise:
        found = []
        for k in batch.first.columns(batch.first.class_set):
            known = ~np.isnan(batch.truth[:, k])
            outcome = np.broadcast_to(batch.truth[known, k], (len(batch.logits), int(known.sum())))
            found.append((outcome, batch.logits[:, known, k]))
        return tuple(found)
    known = ~np.isnan(batch.truth[:, 0])
    right = np.nan_to_num(batch_correct(batch)[:, known, 0])
    return ((right, log_odds(batch.logits[:, known]).max(axis=2)),)


def _cooled(block: Block, runs: SetRuns) -> tuple[RunBatch, dict[str, str]]:
    logits = np.full_like(runs.batch.logits, np.nan)
    notes: dict[str, str] = {}
    for r, key in enumerate(runs.keys):
        fitted = block.fitted(runs).get(key.trial_id)
        if fitted is None:
            notes[key.source] = NO_VALIDATION if not block.fitted(runs) else NOT_ALL_VALIDATION
            continue
        logits[r] = apply_temperature(runs.batch.logits[r], fitted.temperatures)
        why = next((t.note for t in _asked(runs.batch, fitted.temperatures) if t.note), "")
        if why:
            notes[key.source] = why
    return runs.batch.with_logits(logits), notes


def _asked(batch: RunBatch, temperatures: Sequence[Temperature]) -> list[Temperature]:
    return [t for t in temperatures if t.name == "all" or t.name in batch.first.class_set]


def _corrected(block: Block, runs: SetRuns) -> tuple[RunBatch, dict[str, str]]:
    """For the shares of labels that the shifted set has, as counted there; the training subset gives the others."""
    logits = np.full_like(runs.batch.logits, np.nan)
    notes: dict[str, str] = {}
    labelled = (~np.isnan(runs.batch.truth)).sum(axis=0)
    target = np.where(labelled > 0, np.nansum(runs.batch.truth, axis=0) / np.maximum(labelled, 1), _NAN)
    for r, key in enumerate(runs.keys):
        source = _training_shares(block, runs.batch.first, key.trial_id)
        if source is None:
            notes[key.source] = "not estimable: the shares of labels in training are not recorded"
            continue
        logits[r] = prior_corrected(runs.batch.run(r), source, target)
        if not np.isfinite(logits[r]).any():
            notes[key.source] = "not estimable: a label is missing in training or in the shifted set"
    return runs.batch.with_logits(logits), notes


def _training_shares(block: Block, first: Predictions, trial_id: str) -> FloatArray | None:
    """Of each label among the training images that have it or are known not to; of classes among all of them."""
    row = block.facts[trial_id]
    positive, negative = (
        np.array([row.get(before + label, _NAN) for label in first.labels], dtype=np.float64) for before in LABEL_COUNTS
    )
    known = positive + negative if first.labelwise else np.full(len(positive), positive.sum())
    if not np.isfinite(known).all() or not (known > 0).all():
        return None
    return np.asarray(positive / known)


def probability_rows(block: Block, runs: SetRuns, staged: Sequence[Stage]) -> Iterator[dict[str, Any]]:
    """Each cell at each stage: scores with intervals, calibration errors beside what chance gives, slope, intercept."""
    base = _chance_brier(runs)
    for stage, calibration in zip(staged, _calibrations(block, runs, staged), strict=True):
        for source, positions in runs.positions().items():
            if stage.notes.get(source) and not stage.finite[positions].any():
                yield _no_row(block, runs, stage, source)
                continue
            found = {
                name: combined_interval({runs.keys[r].seed: values[r] for r in positions}, level=block.level)
                for name, values in stage.scores.items()
            }
            yield {
                **block.coordinates(source),
                "set": runs.name,
                "stage": stage.name,
                "primary": block.primary,
                **_ends("nll", found["nll"]),
                **_ends("brier", found["brier"]),
                "level": block.level,
                "brier_skill": 1.0 - found["brier"].value / base if base > 0 else _NAN,
                **_means(calibration, positions),
                "temperature": _temperature(block, runs, positions),
                "n_seeds": found["nll"].n_seeds,
                "n_patients": found["nll"].n_patients,
                "images": block.images,
                "note": stage.notes.get(source, ""),
            }


def _no_row(block: Block, runs: SetRuns, stage: Stage, source: str) -> dict[str, Any]:
    names = [f"{score}{end}" for score in ("nll", "brier") for end in ("", "_low", "_high")]
    return {
        **block.coordinates(source),
        "set": runs.name,
        "stage": stage.name,
        "primary": block.primary,
        **dict.fromkeys(names, _NAN),
        "level": block.level,
        "brier_skill": _NAN,
        **dict.fromkeys(_CALIBRATION, _NAN),
        "debiased_l2": _NAN,
        "temperature": _NAN,
        "n_seeds": 0,
        "n_patients": 0,
        "images": block.images,
        "note": stage.notes[source],
    }


def _calibrations(block: Block, runs: SetRuns, staged: Sequence[Stage]) -> list[list[BatchCalibration]]:
    """For each stage the calibration of each question; none of a stage without a finite logit.

    Of labels that are questions of their own every stage moves the logits along a rising line: their order stays, and
    the regression follows from that of the first stage.
    """
    found: list[list[BatchCalibration]] = []
    for stage in staged:
        rng = random_generator("calibration", block.task, block.scale, block.fraction, runs.name, stage.name)
        questions = enumerate(stage.pairs) if stage.finite.any() else ()
        if not runs.batch.labelwise:
            found.append([batch_calibration(outcome, logit, rng) for _, (outcome, logit) in questions])
            continue
        columns = runs.batch.first.columns(runs.batch.first.class_set)
        found.append(
            [
                batch_calibration(
                    outcome,
                    logit,
                    rng,
                    order=runs.batch.ranked(columns[k]).order,
                    line=_moved(found[0][k], staged[0].pairs[k][1], logit) if found and found[0] else None,
                )
                for k, (outcome, logit) in questions
            ]
        )
    return found


def _moved(raw: BatchCalibration, z: FloatArray, moved: FloatArray) -> tuple[FloatArray, FloatArray]:
    """(R,) slopes and intercepts of the regression on logits that were moved along a rising line.

    Args:
        raw: With the regression on the logits as they were.
        z: (R, n) logits as they were.
        moved: (R, n) scale times them, plus a shift.
    """
    if not z.shape[1]:
        return np.full(len(z), _NAN), np.full(len(z), _NAN)
    runs, low, high = np.arange(len(z)), z.argmin(axis=1), z.argmax(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        scale = (moved[runs, high] - moved[runs, low]) / (z[runs, high] - z[runs, low])
        slope = np.where(scale > 0, raw.slope / scale, np.nan)
    return slope, raw.intercept - slope * (moved[runs, low] - scale * z[runs, low])


def _means(calibration: Sequence[BatchCalibration], positions: Sequence[int]) -> dict[str, float]:
    """Mean over labels and seeds."""
    found = {
        name: float(np.mean([getattr(of_label, name)[list(positions)] for of_label in calibration]))
        if calibration
        else _NAN
        for name in _CALIBRATION
    }
    return found | {"debiased_l2": float(np.sqrt(np.maximum(0.0, found["squared_l2"])))}


def _temperature(block: Block, runs: SetRuns, positions: Sequence[int]) -> float:
    fitted = [block.fitted(runs).get(runs.keys[r].trial_id) for r in positions]
    values = [t.value for f in fitted if f is not None for t in _asked(runs.batch, f.temperatures)]
    return float(np.mean(values)) if values else _NAN


def _chance_brier(runs: SetRuns) -> float:
    """Brier score of a forecast that knows only the set's own prevalence, mean over labels (of a softmax their sum)."""
    columns = (
        runs.batch.first.columns(runs.batch.first.class_set)
        if runs.batch.labelwise
        else range(runs.batch.truth.shape[1])
    )
    truth = runs.batch.truth
    by_label = [float(np.nanvar(truth[:, k])) if not np.isnan(truth[:, k]).all() else _NAN for k in columns]
    return float(np.mean(by_label) if runs.batch.labelwise else np.sum(by_label)) if by_label else _NAN


def probability_contrast_rows(block: Block, runs: SetRuns, staged: Sequence[Stage]) -> Iterator[dict[str, Any]]:
    """Each source minus the baseline in NLL and Brier score, at each stage.

    Primary are the differences in NLL as trained, in domain, at the amounts of the primary family.
    """
    for stage in staged:
        for name, values in stage.scores.items():
            by_source = runs.by_source(values)
            for source in block.sources():
                ours, base = block.pair(by_source, source)
                if not ours or not base:
                    continue
                estimate = contrast(ours, base, level=block.level)
                yield {
                    **block.coordinates(source),
                    "set": runs.name,
                    "metric": name,
                    "stage": stage.name,
                    "primary": block.primary and runs.name == IN_DOMAIN and name == "nll" and stage.name == RAW,
                    **contrast_columns(estimate),
                    "images": block.images,
                }


def contrast_columns(estimate: Estimate) -> dict[str, Any]:
    """A difference to the baseline, as columns."""
    return {
        "estimate": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "level": estimate.level,
        "p": estimate.p,
        "n_seeds": estimate.n_seeds,
        "n_patients": estimate.n_patients,
        "min_patients": estimate.min_patients,
        "notes": "; ".join(estimate.notes),
    }


def _ends(name: str, estimate: Estimate) -> dict[str, float]:
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
