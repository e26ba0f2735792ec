"""A macro average over other classes is another number: the loss on a shifted set is over the classes of both sets."""

from __future__ import annotations

from collections.abc import Sequence

from dashboards.evidence import IN_DOMAIN, Evidence, TaskEstimates
from dashboards.prediction_sets import PredictionSet
from dashboards.seen_batches import Batch
from dashboards.set_design import SetDesign
from dashboards.statistics import Influence, index_patients, patient_influence
from dashboards.statistics.run_batches import auc_influences


def estimate_shared_classes(result: TaskEstimates, batches: Sequence[Batch]) -> None:
    """Macro AUCs over the classes of both sets, of every trial of a block, where one of its own is over others."""
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


def compare_shared_classes(
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
        both = (IN_DOMAIN, name)
        near, far = (_average(result.metric, evidence.predictions[trial_id, s], designs[s], shared) for s in both)
        result.on_shared[key] = (near, far)


def _shared_classes(result: TaskEstimates, key: tuple[str, str]) -> tuple[str, ...] | None:
    """Classes of a trial's macro average both in domain and on another set; None if one of the two is not known."""
    sides = [result.values.get((key[0], name, result.metric)) for name in (IN_DOMAIN, key[1])]
    if any(side is None for side in sides):
        return None
    here, there = (side.classes for side in sides if side is not None)
    return tuple(label for label in here if label in there)


def _other_shared_classes(result: TaskEstimates, key: tuple[str, str]) -> tuple[str, ...]:
    """The shared classes if one of the two macro averages is not over them; none if both are."""
    shared = _shared_classes(result, key) or ()
    own = {result.values[key[0], name, result.metric].classes for name in (IN_DOMAIN, key[1])} if shared else set()
    return () if own == {shared} else shared


def _average(metric: str, prediction: PredictionSet, design: SetDesign, classes: tuple[str, ...]) -> Influence:
    return patient_influence(
        metric,
        prediction.kind,
        prediction.labels,
        prediction.y,
        prediction.logits,
        design.index if design.fits(prediction) else index_patients(prediction.patient),
        class_set=classes,
    )
