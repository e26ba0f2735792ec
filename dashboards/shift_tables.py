"""On shifted sets: effective robustness, how much errors grow, and whether confidence tells the sets apart.

Patients of the test set and of a shifted set are different people, so their variances add; seeds stay paired.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from dashboards.blocks import Block, SetRuns
from dashboards.cell_tables import TaskView, named_interval
from dashboards.evidence import IN_DOMAIN, Evidence
from dashboards.selective_tables import confidences_and_errors
from dashboards.statistics import Influence, Metric, PatientIndex, SeedKey, combined_interval, detect_ood
from dashboards.statistics.robustness import ProbitLine, effective_robustness, probit_line, retention
from dashboards.statistics.run_batches import auc_influences, make_batch

_IN_UNIT = (Metric.AUC, Metric.AUC_MACRO, Metric.ACCURACY, Metric.BALANCED_ACCURACY, Metric.AP, Metric.AP_MACRO)
_NAN = float("nan")


def has_probit(metric: str) -> bool:
    """Whether a metric lies in (0, 1), so that probit axes make sense."""
    return metric.partition(".")[0] in _IN_UNIT


def robustness_rows(evidence: Evidence, task: TaskView) -> Iterator[dict[str, Any]]:
    """Each cell on each shifted set against the line through the baseline's runs, and the growth of its NLL."""
    for set_name in task.estimates.sets:
        if set_name == IN_DOMAIN:
            continue
        line = _baseline_line(evidence, task, set_name)
        for cell, facts in task.facts.items():
            near, far = task.shifted_runs(cell, set_name)
            if not near or not far:
                continue
            own = effective_robustness(line, near, far, level=1 - evidence.alpha) if line else None
            nll = [task.runs(cell, name, Metric.NLL) for name in (IN_DOMAIN, set_name)]
            growth = retention(*nll, level=1 - evidence.alpha) if all(nll) else None
            yield {
                **task.coordinates(cell),
                "set": set_name,
                "metric": task.estimates.metric,
                "in_domain": _mean(near),
                "shifted": _mean(far),
                "line_intercept": line.intercept if line else _NAN,
                "line_slope": line.slope if line else _NAN,
                "line_models": line.models if line else 0,
                **named_interval("effective_robustness", own),
                "p": own.p if own else _NAN,
                **named_interval("nll_growth", growth),
                "level": 1 - evidence.alpha,
                "n_seeds": len(near),
                "images": facts["images"],
                "notes": "; ".join(own.notes) if own else "the metric has no probit",
            }


def _baseline_line(evidence: Evidence, task: TaskView, set_name: str) -> ProbitLine | None:
    """Through every run of the baseline, all scales and amounts; None for a metric outside (0, 1)."""
    if not has_probit(task.estimates.metric):
        return None
    points = []
    for cell in task.cells:
        if cell[1] == evidence.baseline:
            near, far = task.shifted_runs(cell, set_name)
            points += [(near[s].value, far[s].value) for s in near if s in far]
    known = np.array([pair for pair in points if np.isfinite(pair).all()]).reshape(-1, 2)
    return probit_line(known[:, 0], known[:, 1])


def _mean(runs: Mapping[SeedKey, Influence]) -> float:
    return float(np.mean([influence.value for influence in runs.values()]))


def detection_rows(block: Block) -> Iterator[dict[str, Any]]:
    """Confidence as a detector of the shifted set; in-distribution is the positive class."""
    near = block.sets.get(IN_DOMAIN)
    for name, far in block.sets.items():
        if near is None or name == IN_DOMAIN:
            continue
        inside, outside = ({key.trial_id: r for r, key in enumerate(runs.keys)} for runs in (near, far))
        both = [trial for trial in inside if trial in outside]
        if not both:
            continue
        confidence = [_confidence(runs) for runs in (near, far)]
        scores = [(confidence[0][inside[t]], confidence[1][outside[t]]) for t in both]
        yield from _detections(block, near, far, both, scores)


def _confidence(runs: SetRuns) -> np.ndarray:
    """(R, N) confidence of every run, mean over the labels of the class set, masked images included."""
    return np.asarray(np.mean([confidence for confidence, _ in confidences_and_errors(runs.batch)], axis=0))


def _detections(
    block: Block, near: SetRuns, far: SetRuns, trials: list[str], scores: list[tuple[np.ndarray, np.ndarray]]
) -> Iterator[dict[str, Any]]:
    index = _joint_index(near, far)
    y = np.r_[np.ones(len(near.design.index.codes)), np.zeros(len(far.design.index.codes))]
    batch = make_batch("binary", ["in distribution"], y, [np.r_[a, b] for a, b in scores], index)
    influences = auc_influences("auc", batch, batch.first.labels)
    keys = {key.trial_id: key for key in near.keys}
    found: dict[str, dict[SeedKey, int]] = {}
    for position, trial in enumerate(trials):
        found.setdefault(keys[trial].source, {})[keys[trial].seed] = position
    for source, positions in found.items():
        estimate = combined_interval({seed: influences[p] for seed, p in positions.items()}, level=block.level)
        details = [detect_ood(*scores[p]) for p in positions.values()]
        yield {
            **block.coordinates(source),
            "set": far.name,
            "auroc": estimate.value,
            "auroc_low": estimate.low,
            "auroc_high": estimate.high,
            "level": block.level,
            "fpr_at_95_tpr": float(np.mean([d.fpr_at_95_tpr for d in details])),
            "aupr_in": float(np.mean([d.aupr_in for d in details])),
            "aupr_out": float(np.mean([d.aupr_out for d in details])),
            "n_in": details[0].n_in,
            "n_out": details[0].n_out,
            "n_seeds": len(positions),
            "images": block.images,
        }


def _joint_index(near: SetRuns, far: SetRuns) -> PatientIndex:
    """Patients of both sets in one numbering; those in both, if there are any, stay one patient."""
    inside, outside = near.design.index, far.design.index
    ids = np.unique(np.r_[inside.ids, outside.ids])
    codes = np.r_[np.searchsorted(ids, inside.ids)[inside.codes], np.searchsorted(ids, outside.ids)[outside.codes]]
    return PatientIndex(ids=ids, codes=codes.astype(np.intp))
