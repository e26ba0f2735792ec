"""Average precision of many runs at once, from their order: the numbers of ``precision_recall``, run by run."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dashboards.statistics.bootstrap import patient_sums
from dashboards.statistics.predictions import FloatArray, taken_along
from dashboards.statistics.ranked_runs import RankedRuns
from dashboards.statistics.uncertainty import Influence, PatientIndex, labelled_patients


def ranked_precision(ranked: RankedRuns) -> tuple[FloatArray, FloatArray]:
    """Average precision and its derivative in the weight of each image.

    Args:
        ranked: R runs on n images with the label.

    Returns:
        (R,) values; (R, n) derivatives as of ``average_precision_derivative``, in the order of ``ranked.rows``. NaN
        without a positive, without a negative, and of a run with a score that is not finite.
    """
    runs, n = ranked.order.shape
    positives = int(ranked.positive.sum())
    if not 0 < positives < n:
        return np.full(runs, np.nan), np.full((runs, n), np.nan)
    order = ranked.order[:, ::-1]
    positive = ranked.positive[order].astype(np.float64)
    first, last = (None, None) if ranked.level is None else _ties(ranked.level)
    hits = _at(np.cumsum(positive, axis=1), last)
    called = np.arange(1.0, n + 1) if last is None else last + 1.0
    precision, share = hits / called, positive / called
    values = (positive * precision).sum(axis=1) / positives
    gained, lost = (_at(np.cumsum(of[:, ::-1], axis=1)[:, ::-1], first) for of in (share, share * precision))
    derivative = np.empty((runs, n))
    in_order = (positive * (precision + gained - values[:, None]) - lost) / positives
    derivative[np.arange(runs)[:, None], order] = in_order
    values[~ranked.finite], derivative[~ranked.finite] = np.nan, np.nan
    return values, derivative


def ap_influences(metric: str, ranked: RankedRuns, index: PatientIndex, label: str) -> list[Influence]:
    """Average precision of one label, of every run, as ``patient_influence`` gives it.

    Args:
        metric: ``ap`` or ``ap.<label>``.
        ranked: The runs in the order of their scores for the label.
        index: Patients of all images of the evaluation set.
        label: The label.
    """
    known = np.zeros(len(index.codes), dtype=bool)
    known[ranked.rows] = True
    own = labelled_patients(index, known)
    codes = own.codes[ranked.rows]
    values, derivative = ranked_precision(ranked)
    psi = np.ascontiguousarray(patient_sums(derivative.T, PatientIndex(ids=own.ids, codes=codes)).T)
    fewest = min(len(np.unique(codes[side])) for side in (ranked.positive, ~ranked.positive))
    defined = fewest > 0
    return [
        Influence(
            metric=metric,
            value=float(value),
            patients=own.ids,
            psi=of_run,
            min_patients=fewest,
            classes=(label,) if defined else (),
            undefined=() if defined else (label,),
        )
        for value, of_run in zip(values, psi, strict=True)
    ]


def _at(values: FloatArray, places: NDArray[np.intp] | None) -> FloatArray:
    """(R, n) values at other places; as they are without ties."""
    return values if places is None else taken_along(values, places)


def _ties(level: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """(R, n) first and last place of the images of equal score, highest score first; of ``RankedRuns.level``."""
    place = np.broadcast_to(np.arange(level.shape[1]), level.shape)
    change = np.diff(level[:, ::-1], axis=1) != 0
    edge = np.ones((len(change), 1), dtype=bool)
    begins, ends = np.concatenate([edge, change], axis=1), np.concatenate([change, edge], axis=1)
    first = np.maximum.accumulate(np.where(begins, place, 0), axis=1)
    last = np.minimum.accumulate(np.where(ends, place, place.shape[1])[:, ::-1], axis=1)[:, ::-1]
    return first, last
