"""From predictions to estimates: every trial's predictions are read once, and what cannot be used is named."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from dashboards.estimates import influence_of
from dashboards.evidence import (
    IN_DOMAIN,
    CellKey,
    Evidence,
    GroupEstimate,
    SeedEnsemble,
    SeenBlock,
    TaskEstimates,
    Watch,
    trials_by_cell,
)
from dashboards.exclusions import COUNTED, Exclusion, Why, single_seeds
from dashboards.prediction_sets import PredictionSet
from dashboards.seen_batches import Batch, Seen, put_together, whole_sets
from dashboards.set_design import Part, SetDesign
from dashboards.set_versions import SetVersions
from dashboards.shared_classes import compare_shared_classes, estimate_shared_classes
from dashboards.statistics import (
    Influence,
    Member,
    Metric,
    SeedKey,
    metric_names,
    patient_influence,
    reported_influence,
    seed_ensemble,
)
from dashboards.statistics.run_batches import auc_influences
from search_spaces.exceptions import ScalecurvesError

SECONDARY_METRICS = (Metric.NLL, Metric.ACCURACY)
"""Shown in the table of cells beside each task's primary metric."""

_NO_SIZES: dict[str, Any] = {"images": math.nan, "patients": math.nan, "rarest_label": "", "n_pos": math.nan}
"""Of a set of which only numbers are known."""

_OF_RANKS = (Metric.AUC, Metric.AUC_MACRO)
"""Primary metrics that subgroups have from the runs of a block together: sorting them once serves all."""


def task_estimates(
    evidence: Evidence, watch: Watch | None = None, only: Collection[str] | None = None
) -> Iterator[TaskEstimates]:
    """The estimates of each task in turn.

    Args:
        evidence: The study.
        watch: Is shown every block of trials with its predictions, so that they are read once.
        only: Tasks; all if not given.
    """
    if evidence.results.empty:
        return
    for task, rows in evidence.results.groupby("task", sort=False):
        if only is None or str(task) in only:
            yield _estimates_of(evidence, str(task), rows, watch)


def _estimates_of(evidence: Evidence, task: str, rows: pd.DataFrame, watch: Watch | None) -> TaskEstimates:
    rows, repeated = single_seeds(task, rows)
    result = TaskEstimates(
        task=task,
        metric=_primary(evidence, task, rows),
        rows=rows.set_index("trial_id", drop=False),
        exclusions=repeated,
    )
    versions = SetVersions(evidence.statistics.groups)
    available = _available(evidence, rows)
    watched: list[_Watched] = []
    for (scale, fraction), part in rows.groupby(["model_scale", "data_fraction"], sort=False, dropna=False):
        seen: Seen = {}
        owners: dict[tuple[str, str], str] = {}
        for cell, trials in trials_by_cell(part).items():
            for name, keys in available.items():
                here = {seed: trial_id for seed, trial_id in trials.items() if trial_id in keys}
                seen |= _read_cell(result, evidence, cell, name, here, versions, owners)
        batches = put_together(seen)
        if result.metric in _OF_RANKS:
            _estimate_groups(result, batches)
        if result.metric == Metric.AUC_MACRO:
            estimate_shared_classes(result, batches)
        designs = {name: versions.usual(name) for name in dict.fromkeys(name for _, name in seen)}
        usual = {key: found for key, found in seen.items() if found[1] is designs[key[1]]}
        if watch is not None and usual:
            names = {"task": task, "metric": result.metric, "scale": str(scale), "fraction": str(fraction)}
            watch(SeenBlock(**names, rows=part, predictions=usual, batches=whole_sets(usual, batches)))
        of_trials = {key: design for key, (_, design) in seen.items()}
        watched.append(_Watched(scale=str(scale), fraction=str(fraction), used=designs, of_trials=of_trials))
    _add_reported(result, rows)
    _settle(result, versions)
    for block in watched:
        _name_outdated(result, versions, block)
    if IN_DOMAIN in versions.designs and versions.designs[IN_DOMAIN].class_set(result.metric):
        for name in versions.designs.keys() - {IN_DOMAIN}:
            for trial_id in result.rows.index:
                compare_shared_classes(result, evidence, (str(trial_id), name), versions.designs)
    return result


@dataclass(frozen=True, slots=True, kw_only=True)
class _Watched:
    """The version of each set that a block was shown with, and that of each of its results."""

    scale: str
    fraction: str
    used: Mapping[str, SetDesign]
    of_trials: Mapping[tuple[str, str], SetDesign]


def _estimate_groups(result: TaskEstimates, batches: Sequence[Batch]) -> None:
    """The primary metric in every subgroup and among all others, of all trials of a block at once."""
    for batch in batches:
        for group in batch.design.groups:
            sides = [
                [None] * len(batch.trials)
                if part is None
                else auc_influences(result.metric, batch.runs, part.classes, part.rows, part.index)
                for part in (group.inside, group.outside)
            ]
            for trial_id, inside, outside in zip(batch.trials, *sides, strict=True):
                key = (trial_id, batch.name, group.column, group.name)
                result.groups[key] = GroupEstimate(design=group, inside=inside, outside=outside)


def _available(evidence: Evidence, rows: pd.DataFrame) -> dict[str, set[str]]:
    """Set -> trials with predictions on it, the in-domain set first; looking at the keys reads nothing."""
    wanted = set(rows["trial_id"])
    found: dict[str, set[str]] = {IN_DOMAIN: set()}
    for trial_id, name in evidence.predictions:
        if trial_id in wanted:
            found.setdefault(name, set()).add(trial_id)
    return found


def _read_cell(
    result: TaskEstimates,
    evidence: Evidence,
    cell: CellKey,
    name: str,
    trials: Mapping[SeedKey, str],
    versions: SetVersions,
    owners: dict[tuple[str, str], str],
) -> Seen:
    """Estimate each run of a cell on one set, and their ensemble, while its predictions are in memory.

    Args:
        result: Where estimates and exclusions are added.
        evidence: The study.
        cell: The cell.
        name: The set.
        trials: Its trials with predictions on the set.
        versions: What the set was for each trial.
        owners: (set, digest of logits) -> the source that said so first, of cells that differ in the source alone.

    Returns:
        The predictions that can be put beside those of other trials.
    """
    runs: dict[SeedKey, PredictionSet] = {}
    for seed, trial_id in trials.items():
        try:
            prediction = evidence.predictions[trial_id, name]
            _estimate_trial(result, trial_id, prediction, versions.add(trial_id, prediction))
        except (ValueError, KeyError, ScalecurvesError) as error:
            result.exclusions.append(
                Exclusion(why=Why.UNREADABLE, task=result.task, set=name, trial_id=trial_id, detail=str(error))
            )
            continue
        if (trial_id, name, result.metric) in result.values:
            runs[seed] = prediction
        else:
            result.exclusions.append(_of_another_kind(result, prediction, trial_id))
    _drop_repeated(result, name, trials, runs)
    _name_doubtful(result, cell, {trials[seed]: p for seed, p in runs.items()}, owners)
    _add_ensemble(result, cell, trials, runs, versions)
    return {(trials[seed], name): (p, versions.of(trials[seed], name)) for seed, p in runs.items()}


def _of_another_kind(result: TaskEstimates, prediction: PredictionSet, trial_id: str) -> Exclusion:
    known = ", ".join(metric_names(prediction.kind, prediction.labels))
    detail = f"{result.metric} is asked for; predictions of kind {prediction.kind} have {known}"
    return Exclusion(why=Why.OTHER_METRIC, task=result.task, set=prediction.name, trial_id=trial_id, detail=detail)


def _drop_repeated(
    result: TaskEstimates, name: str, trials: Mapping[SeedKey, str], runs: dict[SeedKey, PredictionSet]
) -> None:
    """Two seeds that initialise differently never agree in every logit: such a pair is one result, kept once."""
    seen: dict[str, SeedKey] = {}
    for seed, prediction in list(runs.items()):
        if _says_nothing(prediction):
            continue  # not a copy but a failure: nothing finite, or the same for every image; or all right
        digest = _digest(prediction)
        first = seen.setdefault(digest, seed)
        if first != seed and getattr(first, "init", first) != getattr(seed, "init", seed):
            del runs[seed]
            _forget(result, trials[seed], name)
            detail = f"seed {getattr(seed, 'label', seed)} repeats seed {getattr(first, 'label', first)}"
            result.exclusions.append(
                Exclusion(why=Why.SAME_PREDICTIONS, task=result.task, set=name, trial_id=trials[seed], detail=detail)
            )


def _digest(prediction: PredictionSet) -> str:
    return hashlib.blake2b(np.ascontiguousarray(prediction.logits).tobytes()).hexdigest()


def _name_doubtful(
    result: TaskEstimates, cell: CellKey, runs: Mapping[str, PredictionSet], owners: dict[tuple[str, str], str]
) -> None:
    """Results that count as they are, but that nobody may expect: one prediction for all, or another source's."""
    source = cell[1]
    for trial_id, prediction in runs.items():
        about = {"task": result.task, "set": prediction.name, "trial_id": trial_id}
        if _says_nothing(prediction):
            if not prediction.is_masks and np.isfinite(prediction.logits).all():
                result.exclusions.append(Exclusion(why=Why.CONSTANT, **about, detail=", ".join(cell)))
            continue
        first = owners.setdefault((prediction.name, _digest(prediction)), source)
        if first != source:
            detail = f"{source} and {first}, {cell[0]}, {cell[2]}"
            result.exclusions.append(Exclusion(why=Why.SAME_AS_SOURCE, **about, detail=detail))


def _says_nothing(prediction: PredictionSet) -> bool:
    if prediction.is_masks:  # masks without a pixel, or without an error, agree in all counts
        tp, fp, fn, _ = np.nansum(prediction.logits, axis=(0, 1))
        return not (tp + fp > 0 and fp + fn > 0)
    logits = prediction.logits
    return not np.isfinite(logits).all() or bool((logits == logits[:1]).all())


def _add_ensemble(
    result: TaskEstimates,
    cell: CellKey,
    trials: Mapping[SeedKey, str],
    runs: Mapping[SeedKey, PredictionSet],
    versions: SetVersions,
) -> None:
    usable = {
        seed: p for seed, p in runs.items() if np.isfinite(result.values[trials[seed], p.name, result.metric].value)
    }
    if len(usable) < 2 or any(p.is_masks for p in usable.values()):  # of masks no probabilities are kept
        return
    first = next(iter(usable.values()))
    mean = seed_ensemble(first.kind, {seed: Member(images=p.image, logits=p.logits) for seed, p in usable.items()})
    design = versions.of(trials[next(iter(usable))], first.name)
    influence = patient_influence(
        result.metric,
        first.kind,
        first.labels,
        first.y,
        mean.logits,
        design.index,
        class_set=design.class_set(result.metric),
    )
    if len(mean.members) > 1:
        result.ensembles[cell, first.name] = SeedEnsemble(influence=influence, members=mean.members)


def _forget(result: TaskEstimates, trial_id: str, name: str) -> None:
    for key in [k for k in result.values if k[:2] == (trial_id, name)]:
        del result.values[key]
    for group in [k for k in result.groups if k[:2] == (trial_id, name)]:
        del result.groups[group]


def _settle(result: TaskEstimates, versions: SetVersions) -> None:
    """Keep one version of each set, and name every result that is not usable."""
    for trial_id, name, detail in versions.settle():
        _forget(result, trial_id, name)
        result.exclusions.append(
            Exclusion(why=Why.OTHER_SET, task=result.task, set=name, trial_id=trial_id, detail=detail)
        )
    result.exclusions.extend(
        Exclusion(why=Why.OTHER_GROUPS, task=result.task, set=name, trial_id=trial_id, detail=detail)
        for trial_id, name, detail in versions.with_other_groups()
        if (trial_id, name, result.metric) in result.values
    )
    for name, design in versions.designs.items():
        result.sizes[name] = design.sizes
        result.shared_patients[name] = versions.shared_patients(name)
        result.unrecorded[name] = design.unrecorded
        chance = versions.chance(name, result.metric)
        if chance is None:
            continue
        result.chance[name] = chance
        if design.class_set(result.metric):
            result.left_out[name] = tuple(label for label in versions.labels(name) if label not in design.classes)
    for cell, name in list(result.ensembles):
        chance = result.chance.get(name)
        if chance is None or result.ensembles[cell, name].influence.n_patients != chance.n_patients:
            del result.ensembles[cell, name]
    result.exclusions.extend(_without_a_value(result))


def _name_outdated(result: TaskEstimates, versions: SetVersions, block: _Watched) -> None:
    """A version that was the usual one when a block was read may not be the one that most trials were scored on."""
    detail = f"{block.scale}, {block.fraction}: read when most trials before were of another version of the set"
    for name, design in block.used.items():
        if design is versions.designs[name]:
            continue
        result.outdated.append((block.scale, block.fraction, name))
        result.exclusions.extend(
            Exclusion(why=Why.NO_BATCH, task=result.task, set=name, trial_id=trial_id, detail=detail)
            for (trial_id, other), of_trial in block.of_trials.items()
            if other == name and of_trial is versions.designs[name]
        )


def _without_a_value(result: TaskEstimates) -> Iterator[Exclusion]:
    excluded = {(e.trial_id, e.set) for e in result.exclusions if e.why not in COUNTED}
    for name in list(result.sizes) or [IN_DOMAIN]:
        for trial_id in map(str, result.rows.index):
            estimate = result.values.get((trial_id, name, result.metric))
            if (trial_id, name) in excluded or (estimate is not None and np.isfinite(estimate.value)):
                continue
            if _is_reported(result, trial_id, name):
                why = Why.NO_VALUE
            elif estimate is None:
                why = Why.NO_PREDICTIONS
            else:
                chance = result.chance.get(name)
                why = Why.ONE_CLASS if chance is not None and np.isnan(chance.value) else Why.NOT_FINITE
            yield Exclusion(why=why, task=result.task, set=name, trial_id=trial_id)


def _is_reported(result: TaskEstimates, trial_id: str, name: str) -> bool:
    """Whether only numbers of a set are known."""
    sets: Any = result.rows.at[trial_id, "reported"] if "reported" in result.rows else None
    return isinstance(sets, list) and name in sets


def _add_reported(result: TaskEstimates, rows: pd.DataFrame) -> None:
    """Numbers of sets without predictions: no patients, so no subgroups, and intervals over seeds alone."""
    for row in rows.to_dict("records") if "reported" in rows else ():
        for name in row["reported"] if isinstance(row["reported"], list) else ():
            for metric in dict.fromkeys([result.metric, *SECONDARY_METRICS]):
                value = row.get(f"{name}/{metric}")
                if value is not None and (value == value or metric == result.metric):
                    result.values[str(row["trial_id"]), name, metric] = reported_influence(metric, float(value))
            result.sizes.setdefault(name, _NO_SIZES)


def _primary(evidence: Evidence, task: str, rows: pd.DataFrame) -> str:
    if evidence.study and task in evidence.study.tasks:
        return evidence.study.tasks[task].primary
    if evidence.ingested and task in evidence.ingested.primary:
        return evidence.ingested.primary[task]
    written = rows["primary"].dropna() if "primary" in rows else pd.Series(dtype=str)
    return str(written.iloc[0]) if len(written) else str(Metric.AUC_MACRO)


def _estimate_trial(result: TaskEstimates, trial_id: str, prediction: PredictionSet, design: SetDesign) -> None:
    known = metric_names(prediction.kind, prediction.labels)
    for metric in dict.fromkeys([result.metric, *SECONDARY_METRICS]):
        if metric in known:
            class_set = design.class_set(metric)
            influence = influence_of(metric, prediction, design.index, class_set)
            result.values[trial_id, prediction.name, metric] = influence
    for group in design.groups if result.metric in known and result.metric not in _OF_RANKS else ():
        key = (trial_id, prediction.name, group.column, group.name)
        result.groups[key] = GroupEstimate(
            design=group,
            inside=_part(result.metric, prediction, group.inside),
            outside=_part(result.metric, prediction, group.outside),
        )


def _part(metric: str, prediction: PredictionSet, part: Part | None) -> Influence | None:
    return None if part is None else influence_of(metric, prediction, part.index, part.classes, part.rows)
