"""How far a metric would move with other patients: contributions of patients, and variances from them.

Images of one patient are not independent, so patients are the sampling unit throughout. ``patient_influence`` gives,
for any metric, what each patient adds to the deviation of the metric from its expectation (to first order).
Contributions of runs add like the runs themselves, so ``patient_variance`` serves every linear combination of runs: a
difference of sources, a mean over seeds, a difference of differences, a slope.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dashboards.statistics import discrimination
from dashboards.statistics.degrees_of_freedom import sample_df, satterthwaite
from dashboards.statistics.derivatives import FirstOrder, first_order
from dashboards.statistics.metrics import Metric, check_metric
from dashboards.statistics.predictions import BoolArray, FloatArray, Predictions, check_predictions
from search_spaces.names import Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class PatientIndex:
    """Which patient each image belongs to. Build it once per evaluation set and pass it to every call.

    Attributes:
        ids: (P,) sorted patient ids.
        codes: (N,) position in ``ids`` of each image's patient.
    """

    ids: NDArray[Any]
    codes: NDArray[np.intp]


@dataclass(frozen=True, slots=True, kw_only=True)
class AucSides:
    """Obuchowski's split of an AUC's contributions: ``psi = positive + negative``.

    Attributes:
        positive: (P,) sum over a patient's positive images of (V10 - AUC) / m, m positives in all.
        negative: (P,) sum over its negative images of (V01 - AUC) / n, n negatives in all.
        n_positive: Patients with a positive image.
        n_negative: Patients with a negative image.
        auc: The AUC; NaN if logits are not finite.
    """

    positive: FloatArray
    negative: FloatArray
    n_positive: int
    n_negative: int
    auc: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Influence:
    """A metric of one run and what each patient contributes to its deviation.

    Attributes:
        metric: Name of the metric.
        value: The metric; NaN if undefined.
        patients: (P,) sorted ids of the patients with a labelled image.
        psi: (P,) contributions, sum 0; NaN if ``value`` is.
        min_patients: Patients in the smallest group that the metric needs: of AUC, AP and balanced accuracy the rarest
            side or class, of the others all.
        sides: The two sides of a single AUC, whose variance then is Obuchowski's; None for other metrics.
        classes: Classes that a macro average runs over.
        undefined: Classes of the class set left out because the labels do not define them.
    """

    metric: str
    value: float
    patients: NDArray[Any]
    psi: FloatArray
    min_patients: int
    sides: AucSides | None = None
    classes: tuple[str, ...] = ()
    undefined: tuple[str, ...] = ()

    @property
    def n_patients(self) -> int:
        """Number of patients with a labelled image."""
        return len(self.patients)

    @property
    def without_patients(self) -> bool:
        """Whether the metric was reported as a number only: what its patients contribute is not known."""
        return not len(self.patients)


def reported_influence(metric: str, value: float) -> Influence:
    """A metric of which only the number is known, from a table of others' results.

    Nothing can be said of other patients: estimates made of it hold the variance over seeds alone and say so.

    Args:
        metric: Name of the metric.
        value: Its value; NaN if undefined.
    """
    nobody = np.empty(0)
    return Influence(metric=metric, value=value, patients=nobody, psi=nobody, min_patients=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class PatientVariance:
    """Variance of a linear combination of runs over patients.

    Attributes:
        variance: At least 0; NaN if a group has fewer than two patients, a value is undefined or ``absent``.
        df_terms: (variance, degrees of freedom) of each independent set of patients, for Satterthwaite.
        n_patients: Patients in all sets together.
        min_patients: Smallest group of any metric.
        absent: Some run came without patients, so that the variance is not known.
    """

    variance: float
    df_terms: tuple[tuple[float, float], ...]
    n_patients: int
    min_patients: int
    absent: bool = False


def index_patients(patient: ArrayLike) -> PatientIndex:
    """Number the patients of an evaluation set.

    Args:
        patient: (N,) id of each image's patient, text or whole numbers. Where patients are unknown, pass image ids:
            every image then counts as a patient.

    Raises:
        ValueError: An id is missing.
    """
    raw = np.asarray(patient)
    missing = [row for row, value in enumerate(raw.tolist()) if value is None or value != value]
    if missing:
        raise ValueError(f"rows {missing[:5]} have no patient id; where patients are unknown, pass the image ids")
    ids, codes = np.unique(raw.astype(str) if raw.dtype == object else raw, return_inverse=True)
    return PatientIndex(ids=ids, codes=codes.reshape(-1).astype(np.intp))


def patient_influence(
    metric: str,
    kind: Kind | str,
    labels: Sequence[str],
    y: ArrayLike,
    logits: ArrayLike,
    patient: ArrayLike | PatientIndex,
    class_set: Sequence[str] | None = None,
) -> Influence:
    """A metric and each patient's contribution to it.

    Contributions: of AUC the clustered placement values (DeLong et al. 1988; Obuchowski 1997), of a macro AUC their
    mean over classes, of means over images the patient's sum of deviations, of balanced accuracy the mean of that over
    classes, of average precision, ECE and kappa the first-order (delta method) contribution.

    Args:
        metric: A name of ``metric_names(kind, labels)``.
        kind: binary, multilabel, multiclass or ordinal.
        labels: Names of the L labels (classes).
        y: As in ``compute_metrics``.
        logits: (N, L) before sigmoid or softmax.
        patient: (N,) patient ids, or their index.
        class_set: Labels that macro averages run over; all if not given.

    Raises:
        ValueError: Arrays that do not fit together, an unknown metric, kind or label, or a missing patient id.
    """
    predictions = check_predictions(kind, labels, y, logits, class_set)
    index = patient if isinstance(patient, PatientIndex) else index_patients(patient)
    if len(index.codes) != len(predictions.truth):
        raise ValueError(f"patient has {len(index.codes)} rows, y {len(predictions.truth)}; give one row per image")
    name, label = check_metric(metric, predictions)
    asked = predictions.class_set if label is None else (label,)
    if name in (Metric.AUC, Metric.AUC_MACRO):
        return _auc_influence(metric, predictions, index, asked)
    return _first_order_influence(metric, first_order(name, predictions, asked), index)


def patient_variance(terms: Sequence[tuple[float, Influence]]) -> PatientVariance:
    """Variance over patients of ``sum(coefficient * run)``.

    Runs on the same patients are combined contribution by contribution. The variance of a single AUC is Obuchowski's
    ``S10/m + S01/n + 2 S11/(mn)``, DeLong's when each patient has one image; of everything else
    ``P/(P-1) * sum(psi^2)``. Patients that two evaluation sets share enter with their covariance; disjoint sets add.

    Raises:
        ValueError: There is no term.
    """
    if not terms:
        raise ValueError("patient_variance needs at least one (coefficient, influence)")
    if any(influence.without_patients for _, influence in terms):
        return PatientVariance(variance=float("nan"), df_terms=(), n_patients=0, min_patients=0, absent=True)
    groups: list[list[tuple[float, Influence]]] = []
    for term in terms:
        home = next((g for g in groups if _same_patients(g[0][1], term[1])), None)
        groups.append([term]) if home is None else home.append(term)
    smallest = min(influence.min_patients for _, influence in terms)
    everyone = _union_size([group[0][1] for group in groups])
    if smallest < 2:
        return PatientVariance(variance=float("nan"), df_terms=(), n_patients=everyone, min_patients=smallest)
    combined = [_combined(group) for group in groups]
    own = [_variance_and_df(group, psi) for group, psi in zip(groups, combined, strict=True)]
    shared = _shared_covariance(groups, combined) if len(groups) > 1 else 0.0
    total = sum(v for v, _ in own) + shared
    df_terms = tuple(own) if shared == 0.0 else ((total, min(df for _, df in own)),)
    return PatientVariance(variance=total, df_terms=df_terms, n_patients=everyone, min_patients=smallest)


def _auc_influence(metric: str, predictions: Predictions, index: PatientIndex, asked: tuple[str, ...]) -> Influence:
    defined = discrimination.defined_classes(predictions, asked)
    columns = predictions.columns(defined)
    labelled = labelled_patients(index, np.asarray(predictions.labelled[:, columns].any(axis=1)))
    sides = _all_sides(predictions, labelled, columns)
    psi = [side.positive + side.negative for side in sides]
    return Influence(
        metric=metric,
        value=float(np.mean([side.auc for side in sides])) if sides else float("nan"),
        patients=labelled.ids,
        psi=np.mean(psi, axis=0) if psi else np.full(len(labelled.ids), np.nan),
        min_patients=min((min(s.n_positive, s.n_negative) for s in sides), default=0),
        sides=sides[0] if len(sides) == 1 else None,
        classes=defined,
        undefined=tuple(label for label in asked if label not in defined),
    )


def _all_sides(predictions: Predictions, index: PatientIndex, columns: Sequence[int]) -> list[AucSides]:
    """The sides of each label: together where no label is masked, which takes a fraction of the time."""
    scores = predictions.scores[:, columns]
    if len(columns) < 2 or not predictions.labelled[:, columns].all() or not np.isfinite(scores).all():
        return [_auc_sides(predictions, index, k) for k in columns]
    return _sides_together(predictions.truth[:, columns].T == 1, np.ascontiguousarray(scores.T), index)


def _sides_together(positive: BoolArray, scores: FloatArray, index: PatientIndex) -> list[AucSides]:
    """``_auc_sides`` of L labels at once, with the same bits.

    Args:
        positive: (L, N), each label with positives and negatives.
        scores: (L, N), finite.
        index: Patients of the N images.
    """
    n_labels, n_ids = len(scores), len(index.ids)
    m = np.count_nonzero(positive, axis=1)
    n = positive.shape[1] - m
    positives_below, negatives_below = discrimination.twice_below_both(positive, scores)
    values = np.sum(negatives_below, axis=1, where=positive) / (2 * m * n)
    v10, v01 = negatives_below / (2 * n)[:, None], 1.0 - positives_below / (2 * m)[:, None]
    # One bin per label, side and patient; within a bin images are added in their order, as for one label alone.
    bins = (index.codes + n_ids * (2 * np.arange(n_labels)[:, None] + ~positive)).ravel()
    deviations = (np.where(positive, v10, v01) - values[:, None]).ravel()
    shape = (n_labels, 2, n_ids)
    sums = np.bincount(bins, deviations, 2 * n_labels * n_ids).reshape(shape)
    patients = (np.bincount(bins, minlength=2 * n_labels * n_ids).reshape(shape) > 0).sum(axis=2)
    return [
        AucSides(
            positive=sums[k, 0] / m[k],
            negative=sums[k, 1] / n[k],
            n_positive=int(patients[k, 0]),
            n_negative=int(patients[k, 1]),
            auc=float(values[k]),
        )
        for k in range(n_labels)
    ]


def _auc_sides(predictions: Predictions, index: PatientIndex, column: int) -> AucSides:
    rows = np.flatnonzero(predictions.labelled[:, column])
    positive = predictions.truth[rows, column] == 1
    scores, codes, n_ids = predictions.scores[rows, column], index.codes[rows], len(index.ids)
    counts = {"n_positive": _count(codes[positive]), "n_negative": _count(codes[~positive])}
    if not np.isfinite(scores).all():
        nothing = np.full(n_ids, np.nan)
        return AucSides(positive=nothing, negative=nothing, auc=float("nan"), **counts)
    value, v10, v01 = discrimination.auc_components(positive, scores)
    return AucSides(
        positive=np.bincount(codes[positive], v10 - value, n_ids) / len(v10),
        negative=np.bincount(codes[~positive], v01 - value, n_ids) / len(v01),
        auc=value,
        **counts,
    )


def _first_order_influence(metric: str, whole: FirstOrder, index: PatientIndex) -> Influence:
    used = np.zeros(len(index.codes), dtype=bool)
    for part in whole.parts:
        used[part.rows] = True
    labelled = labelled_patients(index, used)
    psi = [np.bincount(labelled.codes[part.rows], part.values, len(labelled.ids)) for part in whole.parts]
    return Influence(
        metric=metric,
        value=whole.value,
        patients=labelled.ids,
        psi=np.mean(psi, axis=0) if psi else np.full(len(labelled.ids), np.nan),
        min_patients=min((_count(index.codes[rows]) for part in whole.parts for rows in part.groups), default=0),
        classes=whole.classes,
        undefined=whole.undefined,
    )


def labelled_patients(index: PatientIndex, rows: BoolArray) -> PatientIndex:
    """The patients that have one of the rows; codes of other rows mean nothing."""
    present = np.bincount(index.codes[rows], minlength=len(index.ids)) > 0
    if present.all():
        return index  # the same object for all runs of an evaluation set, so that comparing patients is cheap
    return PatientIndex(ids=index.ids[present], codes=(np.cumsum(present) - 1)[index.codes])


def _count(codes: NDArray[np.intp]) -> int:
    return int(np.count_nonzero(np.bincount(codes, minlength=1)))


def _same_patients(a: Influence, b: Influence) -> bool:
    """Whether two influences may be combined contribution by contribution, with one small-sample factor."""
    if (a.metric, a.classes) != (b.metric, b.classes):
        return False
    if a.sides and b.sides and (a.sides.n_positive, a.sides.n_negative) != (b.sides.n_positive, b.sides.n_negative):
        return False
    return a.patients is b.patients or np.array_equal(a.patients, b.patients)


def _variance_and_df(group: Sequence[tuple[float, Influence]], psi: FloatArray) -> tuple[float, float]:
    """Variance of a group, and its degrees of freedom: with few positives it rests on them, however many patients.

    Of a single AUC they are Satterthwaite's over its two sides (as Brunner & Munzel 2000), of all else those of one
    sample.

    Args:
        group: (coefficient, run), all on the same patients.
        psi: (P,) the contributions of its combination.
    """
    first = group[0][1]
    factor, most = _small_sample(first.n_patients), float(first.n_patients - 1)
    if first.sides is None:
        return float(factor * (psi @ psi)), min(most, sample_df(psi, first.n_patients))
    a, b = _combined_sides(group)
    n_a, n_b = first.sides.n_positive, first.sides.n_negative
    s10, s01 = _small_sample(n_a) * float(a @ a), _small_sample(n_b) * float(b @ b)
    # Never negative: s10 and s01 carry factors at least as large (fewer patients), so this is >= factor * |a + b|^2.
    variance = float(np.maximum(0.0, s10 + s01 + 2.0 * factor * float(a @ b)))  # NaN stays NaN
    df = satterthwaite(((s10, sample_df(a, n_a)), (s01, sample_df(b, n_b))))
    return variance, min(most, df) if np.isfinite(df) else most


def _combined_sides(group: Sequence[tuple[float, Influence]]) -> tuple[FloatArray, FloatArray]:
    positive = np.sum([c * i.sides.positive for c, i in group if i.sides], axis=0)
    negative = np.sum([c * i.sides.negative for c, i in group if i.sides], axis=0)
    return np.asarray(positive), np.asarray(negative)


def _shared_covariance(groups: Sequence[Sequence[tuple[float, Influence]]], combined: Sequence[FloatArray]) -> float:
    """Twice the sum of covariances of groups that share some patients, 0.0 if none do."""
    total = 0.0
    scaled = [
        (group[0][1].patients, np.sqrt(_small_sample(group[0][1].n_patients)) * psi)
        for group, psi in zip(groups, combined, strict=True)
    ]
    for position, (ids_a, psi_a) in enumerate(scaled):
        for ids_b, psi_b in scaled[position + 1 :]:
            at_a, at_b = _in_both(_Itself(ids_a), _Itself(ids_b))
            total += 2.0 * float(psi_a[at_a] @ psi_b[at_b])
    return total


class _Itself:
    """An array as a key: it equals itself alone, and is kept alive."""

    __slots__ = ("array",)

    def __init__(self, array: NDArray[Any]) -> None:
        self.array = array

    def __hash__(self) -> int:
        return id(self.array)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Itself) and other.array is self.array


@lru_cache(maxsize=32)  # the same two evaluation sets are compared for every cell
def _in_both(a: _Itself, b: _Itself) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Places of the patients that two evaluation sets share, in each of them."""
    _, at_a, at_b = np.intersect1d(a.array, b.array, assume_unique=True, return_indices=True)
    return at_a, at_b


def _combined(group: Iterable[tuple[float, Influence]]) -> FloatArray:
    return np.asarray(np.sum([c * i.psi for c, i in group], axis=0))


def _union_size(members: Sequence[Influence]) -> int:
    if len(members) == 1:
        return members[0].n_patients
    if len(members) == 2:
        a, b = (member.patients for member in members)
        return len(a) + len(b) - len(_in_both(_Itself(a), _Itself(b))[0])
    return len(np.unique(np.concatenate([m.patients for m in members])))


def _small_sample(n: int) -> float:
    return n / (n - 1)
