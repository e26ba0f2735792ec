"""How many labels a source saves against the baseline with all of them: by tests, not read off curves."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from dashboards.amounts import amount_ranks, mean_images
from dashboards.cell_tables import TaskView, named_interval
from dashboards.curves import Curve, curves
from dashboards.evidence import Evidence
from dashboards.statistics import (
    LabelEfficiency,
    Labels,
    area_coefficients,
    difference_terms,
    higher_is_better,
    label_efficiency,
    linear_contrast,
)

SAVES = "saves labels"
REACHES = "reaches it, no saving shown"
NOT_SHOWN = "not shown to reach it"
NOT_REACHED = "not reached"
NOT_ASSESSABLE = "not assessable"
NO_FULL_BASELINE = "the baseline has no result with all labels"


def label_rows(evidence: Evidence, task: TaskView) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Per curve: its summary (``label_savings``), and its test at each amount (``label_tests``)."""
    better = higher_is_better(task.estimates.metric)
    for curve in curves(evidence, task):
        labels = {amount: _labels(task, curve, amount, evidence.baseline) for amount in curve.amounts}
        if any(not of.images > 0 for of in labels.values()):
            continue
        found = label_efficiency(
            curve.runs, curve.base, labels, evidence.delta, alpha=evidence.alpha, higher_is_better=better
        )
        where = {
            "task": task.estimates.task,
            "set": curve.set,
            "model_scale": curve.scale,
            "pretraining_source": curve.source,
            "metric": task.estimates.metric,
        }
        full = max(curve.base, key=lambda amount: labels[amount].images)
        known = _is_full(evidence, task, curve, full)
        rising = task.facts[curve.scale, evidence.baseline, full]["still_rising"]
        summary = _summary(evidence, curve, found, better=better) | {"full_amount": full, "full_still_rising": rising}
        if known:
            yield where | summary, [where | row for row in _tests(found)]
        else:
            yield where | summary | _nothing(summary), []


def _is_full(evidence: Evidence, task: TaskView, curve: Curve, full: str) -> bool:
    """Whether the baseline's largest amount is the largest that is planned or was run at this scale."""
    planned = {
        cell[3]
        for cell in evidence.plan.trials
        if cell[:2] == (task.estimates.task, curve.scale) and cell[2] in (curve.source, evidence.baseline)
    }
    candidates = {*planned, *curve.amounts}
    rank = amount_ranks(candidates, mean_images(task.estimates.rows))
    largest = max(candidates, key=lambda amount: rank[amount])
    return largest == full or curve.images.get(largest) == curve.images[full]


def _nothing(summary: dict[str, Any]) -> dict[str, Any]:
    """What there is to say where all labels of the baseline are missing: the area between the curves alone."""
    blank = dict.fromkeys(_OF_FULL, float("nan"))
    flags = {"left_censored": False, "right_censored": False, "point_censoring": ""}
    kept = {name: value for name, value in summary.items() if name.startswith("area")}
    return blank | flags | kept | {"word": NOT_ASSESSABLE, "data_fraction": "", "notes": NO_FULL_BASELINE}


_OF_FULL = (
    "images",
    "patients",
    "full_images",
    "full_patients",
    "images_saved",
    "patients_saved",
    "share_saved",
    "share_saved_with_val",
    "share_of_patients_saved",
    "share_of_patients_saved_with_val",
    "price_saved",
    "set_low",
    "set_high",
    "point",
)


def _labels(task: TaskView, curve: Curve, amount: str, baseline: str) -> Labels:
    cell = (curve.scale, curve.source if (curve.scale, curve.source, amount) in task.facts else baseline, amount)
    facts = task.facts[cell]
    return Labels(
        images=facts["images"],
        patients=facts["patients"],
        val_images=_or_zero(facts["val_images"]),
        val_patients=_or_zero(facts["val_patients"]),
    )


def _or_zero(count: float) -> float:
    return 0.0 if math.isnan(count) else count


def _summary(evidence: Evidence, curve: Curve, found: LabelEfficiency, *, better: bool) -> dict[str, Any]:
    saving, reached = found.saving, found.reached
    shown = saving or reached
    nan = float("nan")
    possible = [test.labels.images for test in found.possible]
    price = evidence.statistics.price_per_label
    saved = found.full.images - saving.labels.images if saving else nan
    return {
        "word": _word(found),
        "data_fraction": shown.amount if shown else "",
        "images": shown.labels.images if shown else nan,
        "patients": shown.labels.patients if shown else nan,
        "full_images": found.full.images,
        "full_patients": found.full.patients,
        "val_images": found.full.val_images,
        "val_patients": found.full.val_patients,
        "images_saved": saved,
        "patients_saved": found.full.patients - saving.labels.patients if saving else nan,
        "share_saved": found.share_saved(with_validation=False),
        "share_saved_with_val": found.share_saved(),
        "share_of_patients_saved": found.share_saved(patients=True, with_validation=False),
        "share_of_patients_saved_with_val": found.share_saved(patients=True),
        "price_saved": saved * price if price else nan,
        "set_low": min(possible, default=nan),
        "set_high": reached.labels.images if reached else nan,
        "left_censored": found.left_censored,
        "right_censored": found.right_censored,
        "point": found.point.amount,
        "point_censoring": str(found.point.censoring),
        "delta": found.delta,
        "n_seeds": _seeds(found),
        **_area(evidence, curve, better=better),
        "notes": curve.paired.note,
    }


def _seeds(found: LabelEfficiency) -> int:
    """Least seeds of the tests that the word rests on: from the largest amount down to the one that is claimed."""
    shown = found.saving or found.reached
    first = found.tests.index(shown) if shown else 0
    used = [test.to_full for test in found.tests[first:]]
    if found.saving is not None and found.saving.to_same is not None:
        used.append(found.saving.to_same)
    return min((estimate.n_seeds for estimate in used), default=0)


def _word(found: LabelEfficiency) -> str:
    if found.saving:
        return SAVES
    if found.reached:
        return REACHES
    return NOT_SHOWN if found.possible else NOT_REACHED


def _area(evidence: Evidence, curve: Curve, *, better: bool) -> dict[str, float]:
    """Mean benefit over the logarithm of the labels, at common amounts; positive is better, for losses too."""
    names = ("area", "area_low", "area_high", "area_p")
    amounts = [curve.images[amount] for amount in curve.common]
    if len(set(amounts)) < 2 or len(set(amounts)) < len(amounts):
        return dict.fromkeys(names, float("nan"))
    mine, base = ([side[amount] for amount in curve.common] for side in (curve.runs, curve.base))
    area = linear_contrast(difference_terms(mine, base, area_coefficients(amounts)), level=1 - evidence.alpha)
    value, low, high = (area.value, area.low, area.high) if better else (-area.value, -area.high, -area.low)
    return dict(zip(names, (value, low, high, area.p), strict=True))


def _tests(found: LabelEfficiency) -> Iterator[dict[str, Any]]:
    for test in found.tests:
        yield {
            "data_fraction": test.amount,
            "images": test.labels.images,
            "patients": test.labels.patients,
            "val_images": test.labels.val_images,
            **named_interval("to_full", test.to_full),
            **named_interval("to_same", test.to_same),
            "n_seeds": test.to_full.n_seeds,
            "excluded": test.excluded,
            "reaches": test.reaches,
            "saves": test.saves,
        }
