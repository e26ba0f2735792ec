"""What else is asked of a classifier: of each class, of grades, and at the threshold that was frozen on validation.

Nothing here is compared or tested: contrasts are those of the primary metric.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dashboards.blocks import NO_THRESHOLD, NO_VALIDATION, Block, SetRuns
from dashboards.set_groups import group_influences
from dashboards.statistics import Influence, LabelCounts, Metric, combined_interval, count_labels, insufficient_data
from dashboards.statistics.discrimination import ahead_of_truth, grade_log_odds
from dashboards.statistics.predictions import FloatArray
from dashboards.statistics.ranked_precision import ap_influences
from dashboards.statistics.run_batches import auc_influences, make_batch, mean_influences, share_influences
from search_spaces.names import Kind

TOP_K = (2, 5)
"""Of classes that exclude each other: shares of images whose class is among so many."""
AT_THRESHOLD = ("sensitivity", "specificity", "ppv", "npv")
_NAN = float("nan")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Measured:
    """One measure of every run.

    Attributes:
        name: Of the measure.
        label: What it is about; empty for the whole task.
        influences: Of every run; none if ``note`` says why.
        counts: Images and patients of the label.
        note: Why it is not estimable; empty if it is.
    """

    name: str
    label: str = ""
    influences: Sequence[Influence] = ()
    counts: LabelCounts | None = None
    note: str = ""


def measure_rows(block: Block, runs: SetRuns) -> Iterator[dict[str, Any]]:
    """Each cell at the amounts of the primary family: one row per measure and label, with intervals.

    Of each label AUC and average precision; sensitivity, specificity and predictive values at the smallest threshold
    with a specificity of 0.9 on validation. Of classes that exclude each other the balanced and the top-k accuracy. Of
    grades quadratic kappa, and the AUC of "this grade or worse". Labels with fewer than 10 positive or 10 negative
    patients are listed with their numbers.
    """
    if not block.primary:
        return
    for measured in (*_of_labels(block, runs), *_of_task(runs)):
        for source, positions in runs.positions().items():
            yield _row(block, runs, measured, source, positions)


def _of_labels(block: Block, runs: SetRuns) -> Iterator[_Measured]:
    first, index = runs.batch.first, runs.design.index
    names = [Metric.AUC, Metric.AP, *AT_THRESHOLD]
    for counts in count_labels(Kind.MULTILABEL, first.labels, first.truth, index):
        label = counts.label
        if why := insufficient_data(counts):
            yield from (_Measured(name=name, label=label, counts=counts, note=why) for name in names)
            continue
        column = first.labels.index(label)
        ranked = runs.batch.ranked(column)
        found = {
            Metric.AUC: auc_influences(Metric.AUC, runs.batch, [label]),
            Metric.AP: ap_influences(Metric.AP, ranked, index, label),
        }
        for name, influences in found.items():
            yield _Measured(name=name, label=label, influences=influences, counts=counts)
        yield from _at_threshold(block, runs, column, counts)


def _at_threshold(block: Block, runs: SetRuns, column: int, counts: LabelCounts) -> Iterator[_Measured]:
    if not block.fitted(runs):
        yield from (_Measured(name=n, label=counts.label, counts=counts, note=NO_VALIDATION) for n in AT_THRESHOLD)
        return
    truth, called = runs.batch.truth[:, column], block.called(runs, column)
    # Of a run without a threshold nothing is called and nothing counts.
    right = np.where(np.isnan(called), np.nan, called == truth)
    shares = {
        "sensitivity": truth == 1,
        "specificity": truth == 0,
        "ppv": ~np.isnan(truth) & (called == 1),
        "npv": ~np.isnan(truth) & (called == 0),
    }
    for name, counted in shares.items():
        influences = share_influences(np.where(counted, right, np.nan), runs.design.index)
        yield _Measured(name=name, label=counts.label, influences=influences, counts=counts)


def _of_task(runs: SetRuns) -> Iterator[_Measured]:
    first = runs.batch.first
    if first.labelwise:
        return
    names = [Metric.BALANCED_ACCURACY] + [Metric.KAPPA] * (first.kind is Kind.ORDINAL)
    for name in names:
        yield _Measured(name=name, influences=group_influences(name, runs, None, first.labels))
    ahead = _ahead(runs)
    for k in TOP_K:
        if k < len(first.labels):
            hits = np.where(np.isnan(ahead), np.nan, ahead < k)[..., None]
            known = ~np.isnan(first.truth[:, :1])
            influences = mean_influences(Metric.ACCURACY, hits, runs.design.index, counted=known)
            yield _Measured(name=f"top_{k}_accuracy", influences=influences)
    if first.kind is Kind.ORDINAL:
        yield from _of_grades(runs)


def _ahead(runs: SetRuns) -> FloatArray:
    """(R, N) classes that a run puts before the true one; NaN where masked or not finite."""
    first, z = runs.batch.first, runs.batch.logits
    known = ~np.isnan(first.truth[:, 0]) & np.isfinite(z).all(axis=2)
    return np.where(known, ahead_of_truth(z, np.maximum(first.class_index, 0)), np.nan)


def _of_grades(runs: SetRuns) -> Iterator[_Measured]:
    first, index = runs.batch.first, runs.design.index
    for number, grade in enumerate(first.labels[1:], start=1):
        name = f"{grade} or worse" if number < len(first.labels) - 1 else grade
        worse = np.where(np.isnan(first.truth[:, 0]), np.nan, first.class_index >= number)
        (counts,) = count_labels(Kind.BINARY, [name], worse, index)
        if why := insufficient_data(counts):
            yield _Measured(name=Metric.AUC, label=name, counts=counts, note=why)
        elif name != grade:  # of the worst grade it is the AUC of the class
            scores = list(grade_log_odds(runs.batch.logits, number))
            batch = make_batch(Kind.BINARY, [name], worse, scores, index)
            yield _Measured(
                name=Metric.AUC, label=name, influences=auc_influences(Metric.AUC, batch, [name]), counts=counts
            )


def _row(block: Block, runs: SetRuns, measured: _Measured, source: str, positions: Sequence[int]) -> dict[str, Any]:
    found = {runs.keys[r].seed: measured.influences[r] for r in positions} if measured.influences else {}
    estimate = combined_interval(found, level=block.level) if found else None
    known = estimate if estimate is not None and estimate.n_seeds else None
    counts = measured.counts
    return {
        **block.coordinates(source),
        "set": runs.name,
        "measure": str(measured.name),
        "label": measured.label,
        "value": known.value if known else _NAN,
        "low": known.low if known else _NAN,
        "high": known.high if known else _NAN,
        "level": block.level,
        "n_seeds": known.n_seeds if known else 0,
        "prevalence": counts.prevalence if counts else _NAN,
        "positive_patients": counts.positive_patients if counts else _NAN,
        "negative_patients": counts.negative_patients if counts else _NAN,
        "masked_images": counts.masked_images if counts else _NAN,
        "note": measured.note or _why_not(block, runs, measured, positions, known is not None),
    }


def _why_not(block: Block, runs: SetRuns, measured: _Measured, positions: Sequence[int], known: bool) -> str:
    if known:
        return ""
    if measured.name not in AT_THRESHOLD:
        return "not estimable: undefined on this set"
    fitted = [block.fitted(runs).get(runs.keys[r].trial_id) for r in positions]
    if all(f is None for f in fitted):
        return NO_VALIDATION
    column = runs.batch.first.labels.index(measured.label)
    if not any(f is not None and np.isfinite(f.thresholds[column]) for f in fitted):
        return NO_THRESHOLD
    return "not estimable: no image is called so"
