"""What a model is worth if it may abstain: risks at fixed coverage, areas, and whom it abstains on.

Images are ranked by the distance of their logit to probability 1/2, or by the log-odds of the predicted class. Over
several labels a number is the mean over the labels of the class set.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from dashboards.blocks import NO_THRESHOLD, NO_VALIDATION, Block, SetRuns
from dashboards.confidence_tables import contrast_columns
from dashboards.set_groups import GroupPart, SetGroups
from dashboards.statistics import Influence, combined_interval, contrast, patient_sums
from dashboards.statistics.predictions import FloatArray, Predictions, taken_along
from dashboards.statistics.run_batches import RunBatch, batch_correct
from dashboards.statistics.selective import confidence_and_error, confidence_threshold, coverage_by_group
from dashboards.statistics.selective_influence import SelectiveInfluence, risk_name, selective_influence
from dashboards.statistics.uncertainty import PatientIndex, labelled_patients

FROZEN_COVERAGE = 0.9
"""Share of validation that the confidence threshold for subgroups accepts."""

COMPARED = ("augrc", risk_name(0.9))
CURVE_POINTS = 40
_NAN = float("nan")


def selective_influences(runs: SetRuns) -> dict[str, list[Influence]]:
    """Every selective number of every run."""
    parts = [selective_influence(*asked) for asked in confidences_and_errors(runs.batch)]
    used = np.zeros(len(runs.design.index.codes), dtype=bool)
    for part in parts:
        used[part.rows] = True
    own = labelled_patients(runs.design.index, used)
    return {name: _influences(name, parts, own) for name in parts[0].values}


def _influences(name: str, parts: Sequence[SelectiveInfluence], index: PatientIndex) -> list[Influence]:
    """Named ``accuracy``, a share in [0, 1]: the scale of its interval follows from that."""
    image = np.zeros((len(parts[0].image[name]), len(index.codes)))
    for part in parts:
        image[:, part.rows] += part.image[name] / max(len(part.rows), 1)
    used = np.unique(np.concatenate([part.rows for part in parts]))
    own = PatientIndex(ids=index.ids, codes=index.codes[used])
    psi = np.ascontiguousarray(patient_sums(image[:, used].T, own).T) / len(parts)
    values = np.mean([part.values[name] for part in parts], axis=0)
    return [
        Influence(metric="accuracy", value=float(value), patients=index.ids, psi=of_run, min_patients=len(index.ids))
        for value, of_run in zip(values, psi, strict=True)
    ]


def confidences_and_errors(batch: RunBatch) -> Iterator[tuple[FloatArray, FloatArray]]:
    """(R, N) confidence and error of every run, for each of its questions, as ``confidence_and_error`` of one run."""
    correct = batch_correct(batch)
    for label in questions(batch.first):
        column = 0 if label is None else batch.first.labels.index(label)
        confidence = np.abs(batch.logits[:, :, column]) if batch.labelwise else batch.scores.max(axis=2)
        yield confidence, np.where(batch.first.labelled[:, column], correct[:, :, column] != 1, np.nan)


def questions(predictions: Predictions) -> tuple[str | None, ...]:
    """What is predicted: each label of the class set, or (None) the class or the only label."""
    if not predictions.labelwise or len(predictions.labels) == 1:
        return (None,)
    return predictions.class_set


def selective_rows(block: Block, runs: SetRuns, found: dict[str, list[Influence]]) -> Iterator[dict[str, Any]]:
    """Each cell: error, areas and risks at fixed coverage with intervals over patients and seeds."""
    for source, positions in runs.positions().items():
        row = {**block.coordinates(source), "set": runs.name, "primary": block.primary}
        for name, influences in found.items():
            estimate = combined_interval({runs.keys[r].seed: influences[r] for r in positions}, level=block.level)
            row |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
        yield row | {"level": block.level, "n_seeds": len(positions), "images": block.images}


def selective_contrast_rows(block: Block, runs: SetRuns, found: dict[str, list[Influence]]) -> Iterator[dict[str, Any]]:
    """Each source minus the baseline in AUGRC and in the risk at 90 % coverage; exploratory."""
    for name in COMPARED:
        by_source = runs.by_source(found[name])
        for source in block.sources():
            ours, base = block.pair(by_source, source)
            if ours and base:
                yield {
                    **block.coordinates(source),
                    "set": runs.name,
                    "metric": name,
                    "primary": False,
                    **contrast_columns(contrast(ours, base, level=block.level)),
                    "images": block.images,
                }


def coverage_rows(block: Block, runs: SetRuns, groups: SetGroups) -> Iterator[dict[str, Any]]:
    """Coverage and risk of each group at the confidence that accepts 90 % of validation, one for all groups."""
    if not block.primary:
        return
    parts = groups.of(1)
    for source, positions in runs.positions().items():
        found = [_group_coverage(block, runs, r, groups) for r in positions]
        known = [by_group for by_group in found if by_group is not None]
        for k, part in enumerate(parts):
            why = _coverage_note(part, len(known) == len(found), [by_group[k] for by_group in known])
            means = (_NAN, _NAN) if why else np.mean([by_group[k] for by_group in known], axis=0)
            yield {
                **block.coordinates(source),
                "set": runs.name,
                "column": part.column,
                "group": part.value,
                "coverage": float(means[0]),
                "risk": float(means[1]),
                "group_images": len(part.group.rows),
                "group_patients": len(part.index.ids),
                "n_seeds": len(known),
                "note": why,
            }


def _coverage_note(part: GroupPart, fitted: bool, values: Sequence[FloatArray]) -> str:
    """Why nothing is said of a group; empty if something is."""
    if not part.shown:
        return part.too_small
    if not fitted:
        return NO_VALIDATION
    return "" if all(np.isfinite(coverage) for coverage, _ in values) else NO_THRESHOLD


def _group_coverage(block: Block, runs: SetRuns, position: int, groups: SetGroups) -> FloatArray | None:
    """(groups, 2) coverage and risk of one run, mean over labels; None without validation predictions."""
    fitted = block.fitted(runs).get(runs.keys[position].trial_id)
    if fitted is None:
        return None
    predictions, found = runs.batch.run(position), []
    for label in questions(predictions):
        confidence, error = confidence_and_error(fitted.validation, label)
        threshold = confidence_threshold(confidence[~np.isnan(error)], FROZEN_COVERAGE)
        own = coverage_by_group(*confidence_and_error(predictions, label), [p.group for p in groups.of(1)], threshold)
        found.append([(group.coverage, group.risk) for group in own])
    return np.asarray(np.mean(found, axis=0))


def curve_rows(block: Block, runs: SetRuns) -> Iterator[dict[str, Any]]:
    """Points of the risk-coverage curve of each cell, mean over seeds and labels, for the figure."""
    grid = np.linspace(1.0 / CURVE_POINTS, 1.0, CURVE_POINTS)
    of_runs = _risks(runs.batch, grid)
    for source, positions in runs.positions().items():
        risks = np.mean(of_runs[positions], axis=0)
        for coverage, risk in zip(grid, risks, strict=True):
            yield {**block.coordinates(source), "set": runs.name, "coverage": float(coverage), "risk": float(risk)}


def _risks(batch: RunBatch, grid: FloatArray) -> FloatArray:
    """(R, points) risk of each run at each coverage, mean over labels."""
    found = []
    for confidence, error in confidences_and_errors(batch):
        known = ~np.isnan(error[0])
        n = int(known.sum())
        if not n:
            return np.full((len(error), len(grid)), np.nan)
        order = np.argsort(-confidence[:, known], axis=1, kind="stable")
        risk = np.cumsum(taken_along(error[:, known], order), axis=1) / np.arange(1, n + 1)
        risk[~np.isfinite(confidence[:, known]).all(axis=1)] = np.nan
        found.append(risk[:, np.maximum(np.ceil(grid * n - 1e-9).astype(int), 1) - 1])
    return np.asarray(np.mean(found, axis=0))
