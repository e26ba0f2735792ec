"""From predictions to estimates: every trial's predictions are read once, and what cannot be used is named."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
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
from dashboards.set_design import Part, SetDesign
from dashboards.set_versions import SetVersions
from dashboards.statistics import (
    Influence,
    Member,
    Metric,
    SeedKey,
    index_patients,
    metric_names,
    patient_influence,
    reported_influence,
    seed_ensemble,
)
from dashboards.statistics.run_batches import RunBatch, auc_influences, make_batch
from search_spaces.exceptions import ScalecurvesError

SECONDARY_METRICS = (Metric.NLL, Metric.ACCURACY)
"""Shown in the table of cells beside each task's primary metric."""

_NO_SIZES: dict[str, Any] = {"images": math.nan, "patients": math.nan, "rarest_label": "", "n_pos": math.nan}
"""Of a set of which only numbers are known."""

_OF_RANKS = (Metric.AUC, Metric.AUC_MACRO)
"""Primary metrics that subgroups have from the runs of a block together: sorting them once serves all."""

Seen = dict[tuple[str, str], tuple[PredictionSet, SetDesign]]
"""(trial_id, set) -> predictions and the design of the set."""


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
    for (scale, fraction), part in rows.groupby(["model_scale", "data_fraction"], sort=False, dropna=False):
        seen: Seen = {}
        owners: dict[tuple[str, str], str] = {}
        for cell, trials in trials_by_cell(part).items():
            for name, keys in available.items():
                here = {seed: trial_id for seed, trial_id in trials.items() if trial_id in keys}
                seen |= _read_cell(result, evidence, cell, name, here, versions, owners)
        batches = _batches(seen)
        if result.metric in _OF_RANKS:
            _estimate_groups(result, batches)
        if result.metric == Metric.AUC_MACRO:
            _estimate_shared_classes(result, batches)
        designs = {name: versions.usual(name) for name in dict.fromkeys(name for _, name in seen)}
        usual = {key: found for key, found in seen.items() if found[1] is designs[key[1]]}
        if watch is not None and usual:
            names = {"task": task, "metric": result.metric, "scale": str(scale), "fraction": str(fraction)}
            watch(SeenBlock(**names, rows=part, predictions=usual, batches=_whole_sets(usual, batches)))
    _add_reported(result, rows)
    _settle(result, versions)
    if result.metric == Metric.AUC_MACRO and IN_DOMAIN in versions.designs:
        for name in versions.designs.keys() - {IN_DOMAIN}:
            for trial_id in result.rows.index:
                _compare_shared_classes(result, evidence, (str(trial_id), name), versions.designs)
    return result


@dataclass(frozen=True, slots=True, kw_only=True)
class _Batch:
    """Trials of a block that were scored on the same version of a set, for the same labels."""

    name: str
    trials: tuple[str, ...]
    design: SetDesign
    runs: RunBatch


def _batches(seen: Seen) -> list[_Batch]:
    """What is in memory, put together; predictions that cannot be are left to whoever needs them."""
    alike: dict[tuple[Any, ...], dict[str, tuple[PredictionSet, SetDesign]]] = {}
    for (trial_id, name), (prediction, design) in seen.items():
        alike.setdefault((name, id(design), prediction.kind, prediction.labels), {})[trial_id] = prediction, design
    found = []
    for (name, *_), trials in alike.items():
        first, design = next(iter(trials.values()))
        logits = [prediction.logits for prediction, _ in trials.values()]
        with suppress(ValueError):
            runs = make_batch(first.kind, first.labels, first.y, logits, design.index, design.classes)
            found.append(_Batch(name=name, trials=tuple(trials), design=design, runs=runs))
    return found


def _whole_sets(seen: Seen, batches: Sequence[_Batch]) -> dict[str, RunBatch]:
    """Set -> the batch that holds all that was seen of it."""
    trials: dict[str, list[str]] = {}
    for trial_id, name in seen:
        trials.setdefault(name, []).append(trial_id)
    return {batch.name: batch.runs for batch in batches if list(batch.trials) == trials.get(batch.name)}


def _estimate_groups(result: TaskEstimates, batches: Sequence[_Batch]) -> None:
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
        class_set=design.classes if result.metric == Metric.AUC_MACRO else None,
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
    for name, design in versions.designs.items():
        result.sizes[name] = design.sizes
        result.shared_patients[name] = versions.shared_patients(name)
        result.unrecorded[name] = design.unrecorded
        chance = versions.chance(name, result.metric)
        if chance is None:
            continue
        result.chance[name] = chance
        if result.metric == Metric.AUC_MACRO:
            result.left_out[name] = tuple(label for label in versions.labels(name) if label not in design.classes)
    for cell, name in list(result.ensembles):
        chance = result.chance.get(name)
        if chance is None or result.ensembles[cell, name].influence.n_patients != chance.n_patients:
            del result.ensembles[cell, name]
    result.exclusions.extend(_without_a_value(result))


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


def _estimate_shared_classes(result: TaskEstimates, batches: Sequence[_Batch]) -> None:
    """A macro AUC over other classes is another number: the loss on a shifted set is taken over those of both sets."""
    near = [batch for batch in batches if batch.name == IN_DOMAIN]
    for there in (batch for batch in batches if batch.name != IN_DOMAIN):
        for here in near:
            both = [trial_id for trial_id in here.trials if trial_id in there.trials]
            shared = _other_shared_classes(result, (both[0], there.name)) if both else ()
            if not shared:
                continue
            found = [
                dict(zip(b.trials, auc_influences(result.metric, b.runs, shared), strict=True)) for b in (here, there)
            ]
            for trial_id in both:
                result.on_shared[trial_id, there.name] = (found[0][trial_id], found[1][trial_id])


def _compare_shared_classes(
    result: TaskEstimates, evidence: Evidence, key: tuple[str, str], designs: dict[str, SetDesign]
) -> None:
    """The same of one trial, once it is settled which results are used; those of no batch are read again."""
    trial_id, name = key
    shared = _shared_classes(result, key)
    if shared is None:
        result.on_shared.pop(key, None)
        return
    result.shared_classes.setdefault(name, shared)
    if key not in result.on_shared and _other_shared_classes(result, key):
        near, far = (_macro_auc(evidence.predictions[trial_id, s], designs[s], shared) for s in (IN_DOMAIN, name))
        result.on_shared[key] = (near, far)


def _shared_classes(result: TaskEstimates, key: tuple[str, str]) -> tuple[str, ...] | None:
    """Classes of a trial's macro AUC both in domain and on another set; None if one of the two is not known."""
    sides = [result.values.get((key[0], name, result.metric)) for name in (IN_DOMAIN, key[1])]
    if any(side is None for side in sides):
        return None
    here, there = (side.classes for side in sides if side is not None)
    return tuple(label for label in here if label in there)


def _other_shared_classes(result: TaskEstimates, key: tuple[str, str]) -> tuple[str, ...]:
    """The shared classes if one of the two macro AUC is not over them; none if both are."""
    shared = _shared_classes(result, key) or ()
    own = {result.values[key[0], name, result.metric].classes for name in (IN_DOMAIN, key[1])} if shared else set()
    return () if own == {shared} else shared


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


def _estimate_trial(result: TaskEstimates, trial_id: str, prediction: PredictionSet, design: SetDesign) -> None:
    known = metric_names(prediction.kind, prediction.labels)
    for metric in dict.fromkeys([result.metric, *SECONDARY_METRICS]):
        if metric in known:
            class_set = design.classes if metric == Metric.AUC_MACRO else None
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
