"""Many runs on one evaluation set at once: the same numbers as run by run, from a few operations on large arrays.

A study has thousands of runs on the same images, and scores each in many subgroups. ``patient_influence`` is the
definition; what is here equals it, run by run, to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import softmax

from dashboards.statistics.bootstrap import patient_sums
from dashboards.statistics.discrimination import defined_classes
from dashboards.statistics.metrics import Metric
from dashboards.statistics.predictions import BoolArray, FloatArray, Predictions, check_predictions, log_odds
from dashboards.statistics.ranked_runs import RankedRuns, rank_runs
from dashboards.statistics.uncertainty import AucSides, Influence, PatientIndex, labelled_patients
from search_spaces.names import Kind

_OF_LABELS = ("logits", "scores")
"""Attributes of ``RunBatch`` of shape (R, N, L), made as (L, R, N): most questions are about one label."""


@dataclass(frozen=True, kw_only=True)
class RunBatch:
    """R runs on N images with L labels (classes). Made by ``make_batch``.

    Attributes:
        first: The truth, with the logits of the first run.
        logits: (R, N, L); NaN where not finite.
        index: Patients of the N images.
    """

    first: Predictions
    logits: FloatArray
    index: PatientIndex

    def __getstate__(self) -> dict[str, Any]:
        known = {n: v for n, v in self.__dict__.items() if n != "scores" or v is not self.logits}
        return {name: _by_label(value) if name in _OF_LABELS else value for name, value in known.items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # Arrays are sent as they lie in memory: sums over another order of the axes would differ in their last bit.
        self.__dict__.update({n: _by_image(v) if n in _OF_LABELS else v for n, v in state.items()})

    @property
    def labelwise(self) -> bool:
        """Whether each label is a question of its own (sigmoid)."""
        return self.first.labelwise

    @property
    def truth(self) -> FloatArray:
        """(N, L); 1, 0, NaN where masked."""
        return self.first.truth

    @cached_property
    def scores(self) -> FloatArray:
        """(R, N, L): as ``Predictions.scores``."""
        return self.logits if self.labelwise else log_odds(self.logits)

    def ranked(self, column: int) -> RankedRuns:
        """The runs in the order of their scores for a label; sorted when it is first asked for."""
        if column not in self._ranked:
            self._ranked[column] = rank_runs(self.truth[:, column], self.scores[:, :, column])
        return self._ranked[column]

    @cached_property
    def _ranked(self) -> dict[int, RankedRuns]:
        return {}

    def sides(self, column: int, rows: NDArray[np.intp] | None, index: PatientIndex) -> list[AucSides]:
        """The AUC of a label, of every run, with the contributions of patients; worked out once.

        Args:
            column: The label.
            rows: (n,) ascending row numbers of a subgroup; all images if None.
            index: Patients of these images.
        """
        key = column, None if rows is None else rows.tobytes()
        known = self._sides.get(key)
        if known is None or not (known[0] is index.ids or np.array_equal(known[0], index.ids)):
            ranked = self.ranked(column)
            own = ranked if rows is None else ranked.within(rows, len(self.truth))
            codes = index.codes if rows is None else _scattered(rows, index.codes, len(self.truth))
            known = self._sides[key] = index.ids, own.sides(codes[own.rows], len(index.ids))
        return known[1]

    @cached_property
    def _sides(self) -> dict[tuple[int, bytes | None], tuple[NDArray[Any], list[AucSides]]]:
        """(label, subgroup) -> ids of its patients, and the sides."""
        return {}

    def with_logits(self, logits: FloatArray) -> RunBatch:
        """The same truth with other logits (R, N, L): recalibrated ones."""
        return RunBatch(first=self.first, logits=logits, index=self.index)

    def chosen(self, kept: BoolArray) -> RunBatch:
        """Some of the runs: (R,), at least one True."""
        return RunBatch(first=self.run(int(np.argmax(kept))), logits=self.logits[kept], index=self.index)

    def run(self, position: int) -> Predictions:
        """One of the runs; it shares the scores that the batch has worked out."""
        found = Predictions(
            kind=self.first.kind,
            labels=self.first.labels,
            truth=self.first.truth,
            logits=self.logits[position],
            class_set=self.first.class_set,
        )
        found.__dict__["scores"] = self.scores[position]
        return found


def make_batch(
    kind: Kind | str,
    labels: Sequence[str],
    y: ArrayLike,
    logits: Sequence[ArrayLike],
    index: PatientIndex,
    class_set: Sequence[str] | None = None,
) -> RunBatch:
    """Check one truth and the logits of all runs on it.

    Args:
        kind: As in ``patient_influence``, like labels, y and class_set.
        labels: See kind.
        y: See kind.
        logits: R times (N, L), or (N,) if L is 1.
        index: Patients of the N images.
        class_set: See kind.

    Raises:
        ValueError: No run, or arrays that do not fit together.
    """
    if not logits:
        raise ValueError("a batch needs at least one run")
    first = check_predictions(kind, labels, y, logits[0], class_set)
    n, n_labels = first.truth.shape
    if len(index.codes) != n:
        raise ValueError(f"the patient index has {len(index.codes)} rows, y {n}; give one row per image")
    by_label = np.empty(
        (n_labels, len(logits), n)
    )  # most questions are about one label, whose values then lie together
    for r, values in enumerate(logits):
        by_label[:, r] = np.asarray(values).reshape(n, n_labels).T
    by_label[~np.isfinite(by_label)] = np.nan
    return RunBatch(first=first, logits=_by_image(by_label), index=index)


def auc_influences(
    metric: str,
    batch: RunBatch,
    classes: Sequence[str],
    rows: NDArray[np.intp] | None = None,
    index: PatientIndex | None = None,
) -> list[Influence]:
    """AUC of one label, or macro AUC over several, of every run.

    Args:
        metric: ``auc``, ``auc.<label>`` or ``auc_macro``; the name that the influences get.
        batch: The runs.
        classes: Labels that are averaged; those that the images do not define are left out and named.
        rows: (n,) the images of a subgroup; all if not given.
        index: Patients of these images; needed with rows.

    Returns:
        One per run, as ``patient_influence`` gives it.
    """
    own = batch.index if index is None else index
    truth = batch.truth if rows is None else batch.truth[rows]
    part = Predictions(
        kind=batch.first.kind, labels=batch.first.labels, truth=truth, logits=truth, class_set=batch.first.class_set
    )
    defined = defined_classes(part, classes)
    columns = part.columns(defined)
    labelled = labelled_patients(own, np.asarray(part.labelled[:, columns].any(axis=1)))
    sides = [batch.sides(k, rows, labelled) for k in columns]
    undefined = tuple(label for label in classes if label not in defined)
    return [
        _auc_influence(metric, labelled, [s[r] for s in sides], defined, undefined) for r in range(len(batch.logits))
    ]


def mean_influences(
    metric: str,
    values: FloatArray,
    index: PatientIndex,
    classes: Sequence[str] = (),
    counted: BoolArray | None = None,
) -> list[Influence]:
    """Mean over columns of means over images, of every run: scores, shares, rates.

    Args:
        metric: Name that the influences get.
        values: (R, N, K) value of each image in each column; NaN where a run has none, which makes its metric NaN.
        index: Patients of the N images.
        classes: Names of the columns, where they are labels.
        counted: (N, K) images that count in each column; if not given those that have a value in a run.

    Returns:
        One per run; NaN without an image that counts. Columns without one are left out and named.
    """
    counts: BoolArray = np.asarray(~np.isnan(values).all(axis=0)) if counted is None else counted
    labelled = labelled_patients(index, np.asarray(counts.any(axis=1)))
    smallest = min((_distinct(index.codes[column]) for column in counts.T if column.any()), default=0)
    used: list[int] = np.flatnonzero(counts.any(axis=0)).tolist()
    total, summed = np.zeros(len(values)), np.zeros((len(labelled.ids), len(values)))
    for k in used:
        rows = np.flatnonzero(counts[:, k])
        part = values[:, rows, k]
        mean = part.mean(axis=1)
        own = PatientIndex(ids=labelled.ids, codes=labelled.codes[rows])
        summed += patient_sums((part - mean[:, None]).T, own) / len(rows)
        total += mean
    total = total / len(used) if len(used) else np.full(len(values), np.nan)
    psi = np.ascontiguousarray(summed.T) / max(len(used), 1)
    psi[~np.isfinite(total)] = np.nan
    return [
        Influence(
            metric=metric,
            value=float(total[r]),
            patients=labelled.ids,
            psi=psi[r],
            min_patients=smallest,
            classes=tuple(classes[k] for k in used) if classes else (),
            undefined=tuple(name for k, name in enumerate(classes) if k not in used),
        )
        for r in range(len(values))
    ]


def share_influences(hits: FloatArray, index: PatientIndex) -> list[Influence]:
    """Share of hits among the images that count in each run, such as a predictive value; named ``accuracy``, a share.

    Args:
        hits: (R, N) of 1, 0 and NaN (does not count).
        index: Patients of the N images.

    Returns:
        One per run, on the patients with an image that counts in any; NaN of a run in which none counts.
    """
    counted = ~np.isnan(hits)
    rows = np.flatnonzero(counted.any(axis=0))
    labelled = labelled_patients(index, np.asarray(counted.any(axis=0)))
    of_run = counted.sum(axis=1)
    value = np.divide(np.nansum(hits, axis=1), of_run, out=np.full(len(hits), np.nan), where=of_run > 0)
    deviation = np.where(counted, hits - value[:, None], 0.0) / np.maximum(of_run, 1)[:, None]
    own = PatientIndex(ids=labelled.ids, codes=labelled.codes[rows])
    psi = np.ascontiguousarray(patient_sums(deviation[:, rows].T, own).T)
    psi[of_run == 0] = np.nan
    return [
        Influence(
            metric=Metric.ACCURACY,
            value=float(value[r]),
            patients=labelled.ids,
            psi=psi[r],
            min_patients=_distinct(index.codes[counted[r]]),
        )
        for r in range(len(hits))
    ]


def batch_nll(batch: RunBatch) -> FloatArray:
    """(R, N, K) negative log-likelihood of each image, as ``image_nll``; K labels, or 1 for softmax kinds."""
    z, truth = batch.logits, batch.truth
    if batch.labelwise:
        signed = np.where(np.isnan(truth), np.nan, np.where(truth == 1, -z, z))
        return np.asarray(np.maximum(signed, 0.0) + np.log1p(np.exp(-np.abs(signed))))
    true_logit = np.where(truth == 1, z, 0.0).sum(axis=2, keepdims=True)
    largest = z.max(axis=2, keepdims=True)
    nll = largest + np.log(np.exp(z - largest).sum(axis=2, keepdims=True)) - true_logit
    return np.where(np.isnan(truth[:, :1]), np.nan, nll)


def batch_brier(batch: RunBatch) -> FloatArray:
    """(R, N, K) Brier score of each image, as ``image_brier``; K labels, or 1 for softmax kinds."""
    if batch.labelwise:
        with np.errstate(over="ignore"):
            return np.asarray((1.0 / (1.0 + np.exp(-batch.logits)) - batch.truth) ** 2)
    error = softmax(batch.logits, axis=2) - batch.truth
    return np.asarray((error**2).sum(axis=2, keepdims=True))


def batch_correct(batch: RunBatch) -> FloatArray:
    """(R, N, K) 1 where the prediction is right, 0 where not, as ``image_correct``; NaN where masked or not finite."""
    z, truth = batch.logits, batch.truth
    if batch.labelwise:
        return np.where(np.isnan(z + truth), np.nan, (z > 0) == (truth == 1))
    right = np.take_along_axis(
        np.nan_to_num(truth)[None], np.argmax(np.nan_to_num(z, nan=-np.inf), axis=2)[..., None], axis=2
    )
    known = np.isfinite(z).all(axis=2, keepdims=True) & ~np.isnan(truth[:, :1])
    return np.where(known, right, np.nan)


def _auc_influence(
    metric: str, index: PatientIndex, sides: list[AucSides], defined: tuple[str, ...], undefined: tuple[str, ...]
) -> Influence:
    psi = [side.positive + side.negative for side in sides]
    return Influence(
        metric=metric,
        value=float(np.mean([side.auc for side in sides])) if sides else float("nan"),
        patients=index.ids,
        psi=np.mean(psi, axis=0) if psi else np.full(len(index.ids), np.nan),
        min_patients=min((min(s.n_positive, s.n_negative) for s in sides), default=0),
        sides=sides[0] if len(sides) == 1 else None,
        classes=defined,
        undefined=undefined,
    )


def _by_label(values: FloatArray) -> FloatArray:
    """(L, R, N) of (R, N, L)."""
    return np.moveaxis(values, 2, 0)


def _by_image(values: FloatArray) -> FloatArray:
    """(R, N, L) of (L, R, N)."""
    return np.moveaxis(values, 0, 2)


def _scattered(rows: NDArray[np.intp], values: NDArray[np.intp], n: int) -> NDArray[np.intp]:
    """(n,) the values at their rows; what lies elsewhere means nothing."""
    found = np.zeros(n, dtype=np.intp)
    found[rows] = values
    return found


def _distinct(codes: NDArray[np.intp]) -> int:
    return int(np.count_nonzero(np.bincount(codes, minlength=1)))


def is_auc(metric: str) -> bool:
    """Whether a metric is an AUC: of one label, or the mean over labels."""
    return metric.partition(".")[0] in (Metric.AUC, Metric.AUC_MACRO)
