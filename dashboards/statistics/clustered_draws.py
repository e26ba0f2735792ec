"""Estimates over seeds and patients of any statistic that patients can be redrawn for, such as ECE or AURC.

Where ``uncertainty`` has a closed form it is used. For all else the variance over patients is that of a cluster
bootstrap in which all runs of an evaluation set share the draws; it takes the place of ``V_case`` in the one formula
of ``contrasts``, so that seeds and patients are combined in the same way. Resampling both seeds and patients instead
under-covers, with five seeds by a fifth of the seed variance.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dashboards.statistics.bootstrap import percentile_interval
from dashboards.statistics.contrasts import (
    MIN_TEST_PATIENTS,
    Estimate,
    Term,
    estimate_combination,
    linear_contrast,
    with_p,
)
from dashboards.statistics.predictions import FloatArray
from dashboards.statistics.seeds import SeedKey
from dashboards.statistics.uncertainty import PatientVariance

BOOTSTRAP = "variance over patients from the cluster bootstrap, the closed form has none"


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnRun:
    """A statistic of one run and its cluster-bootstrap draws.

    Attributes:
        value: The statistic on all patients; NaN if undefined.
        draws: (B,) under the weights of ``patient_weights``, the same weights for all runs on these patients; NaN where
            a draw does not define it.
        evaluation_set: Names the patients. Draws of runs with one name are combined draw by draw; different names must
            mean disjoint patients, whose variances add.
        n_patients: Patients that were redrawn.
        min_patients: Smallest group that the statistic needs.
        classes: Classes that it averages.
        undefined: Classes left out.
    """

    value: float
    draws: FloatArray
    evaluation_set: str
    n_patients: int
    min_patients: int
    classes: tuple[str, ...] = ()
    undefined: tuple[str, ...] = ()


DrawnTerm = tuple[float, Mapping[SeedKey, DrawnRun]]


def bootstrap_contrast(
    terms: Sequence[DrawnTerm], *, level: float = 0.95, min_test_patients: int = MIN_TEST_PATIENTS
) -> Estimate:
    """``sum(coefficient * cell)`` as ``linear_contrast``, with the variance over patients from draws.

    More than 5 % undefined draws of a combination leave it without an interval.

    Raises:
        ValueError: No term, or runs of one evaluation set with different numbers of draws or patients.
    """
    return with_p(estimate_combination(terms, draw_variance, level=level), min_test_patients)


def draw_variance(terms: Sequence[tuple[float, DrawnRun]]) -> PatientVariance:
    """Variance of ``sum(coefficient * run)`` over the draws; P - 1 degrees of freedom per evaluation set.

    Raises:
        ValueError: See ``bootstrap_contrast``.
    """
    by_set: dict[str, list[tuple[float, DrawnRun]]] = {}
    for term in terms:
        by_set.setdefault(term[1].evaluation_set, []).append(term)
    df_terms = [(_variance(group), float(group[0][1].n_patients - 1)) for group in by_set.values()]
    return PatientVariance(
        variance=sum(variance for variance, _ in df_terms),
        df_terms=tuple(df_terms),
        n_patients=sum(group[0][1].n_patients for group in by_set.values()),
        min_patients=min(run.min_patients for _, run in terms),
    )


def contrast_with_fallback(
    terms: Sequence[Term],
    draws: Callable[[], Sequence[DrawnTerm]],
    *,
    level: float = 0.95,
    min_test_patients: int = MIN_TEST_PATIENTS,
) -> Estimate:
    """``linear_contrast``; or the cluster bootstrap, flagged in the notes, where the closed form finds no variance.

    The closed forms here are never negative, but zero where every patient's first-order contribution is.

    Args:
        terms: As of ``linear_contrast``.
        draws: Makes the same terms with draws; called only if they are needed.
        level: Nominal coverage.
        min_test_patients: As of ``linear_contrast``.
    """
    closed = linear_contrast(terms, level=level, min_test_patients=min_test_patients)
    if closed.n_seeds == 0 or not closed.v_case <= 0:
        return closed
    drawn = bootstrap_contrast(draws(), level=level, min_test_patients=min_test_patients)
    return replace(drawn, notes=(*drawn.notes, BOOTSTRAP))


def _variance(group: Sequence[tuple[float, DrawnRun]]) -> float:
    sizes = {(len(run.draws), run.n_patients) for _, run in group}
    if len(sizes) > 1:
        name = group[0][1].evaluation_set
        raise ValueError(f"runs on {name} need the same draws, got (draws, patients) of {sorted(sizes)}")
    combined = np.sum([c * run.draws for c, run in group], axis=0)
    return percentile_interval(np.asarray(combined)).se ** 2
