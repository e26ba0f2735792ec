"""Estimates over seeds and patients: of one cell, of a difference, of any linear combination of cells.

Seeds and patients are fully crossed, like readers and cases of a diagnostic study, and both are random: the estimand is
the expected result over new seeds and new patients, conditional on the pool of training images. With ``V_case`` the
variance over patients of the seed mean, and ``V_seed`` the variance over seeds of that mean::

    SE = sqrt(V_case + V_seed),   df = satterthwaite((V_case, df_case), (V_seed, S - 1))

``df_case`` is at most P - 1, and near the number of positives where they are few. Chance of seed and patient together
is counted in both terms, so intervals are slightly wide rather than narrow.

Of metrics that came without patients (``reported_influence``) only ``V_seed`` is known: the interval is Student's t
over the (paired) seeds, and the estimate says that it holds nothing of other patients.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Protocol, TypeVar

import numpy as np
from scipy.special import expit, logit, stdtr, stdtrit

from dashboards.statistics.degrees_of_freedom import satterthwaite
from dashboards.statistics.metrics import Metric, split_name
from dashboards.statistics.seeds import SeedKey, SeedSpread, seed_spread
from dashboards.statistics.uncertainty import Influence, PatientVariance, patient_variance

Runs = Mapping[SeedKey, Influence]
"""The runs of one cell on one evaluation set: seed -> metric with its patient contributions."""

Term = tuple[float, Runs]


class Run(Protocol):
    """What an estimate needs of a run: ``Influence``, or ``clustered_draws.DrawnRun``."""

    @property
    def value(self) -> float:
        """The metric; NaN if undefined."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes that it averages."""
        ...

    @property
    def undefined(self) -> tuple[str, ...]:
        """Classes left out."""
        ...


R = TypeVar("R", bound=Run)

MIN_TEST_PATIENTS = 20
"""Below this many patients per class no test is made."""

MIN_SEEDS = 5
"""Below this many seeds intervals carry a caveat: in the worst case 95 % intervals of three seeds cover 94 %."""

CONDITIONAL_ON_RUN = "one seed: conditional on this run"
FEW_SEEDS = f"fewer than {MIN_SEEDS} seeds: the interval may be too narrow"
FEW_PATIENTS = "too few patients per class: no test"
FEW_PATIENTS_CELL = f"fewer than {MIN_TEST_PATIENTS} patients of a class: the interval may be too narrow"
NO_VARIANCE = "no variation between patients or seeds: no interval"
NO_COMMON_SEEDS = "no seed is common to all cells"
PERFECT = "perfect separation: the bound is heuristic"
NOT_ESTIMABLE = "fewer than two patients in a class: no interval"
SEEDS_ONLY = "no patient data: seeds only"


class Scale(StrEnum):
    """Scale on which an interval is symmetric."""

    LINEAR = "linear"
    LOGIT = "logit"
    LOG = "log"


_SCALES = {
    Metric.AUC: Scale.LOGIT,
    Metric.AUC_MACRO: Scale.LOGIT,
    Metric.AP: Scale.LOGIT,
    Metric.AP_MACRO: Scale.LOGIT,
    Metric.DICE: Scale.LOGIT,
    Metric.IOU: Scale.LOGIT,
    Metric.ACCURACY: Scale.LOGIT,
    Metric.BALANCED_ACCURACY: Scale.LOGIT,
    Metric.NLL: Scale.LOG,
    Metric.BRIER: Scale.LOG,
    Metric.ECE: Scale.LOG,
    Metric.KAPPA: Scale.LINEAR,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A number with what is known about its uncertainty. NaN where something is undefined.

    Attributes:
        value: Mean over seeds.
        low: Lower end of the interval.
        high: Upper end.
        se: Standard error, of patients and seeds together.
        df: Degrees of freedom of ``se``.
        p: Two-sided p of "the value is 0"; NaN for a single cell, and where there are too few patients for a test.
        v_case: Variance over patients; NaN with ``seeds_only``.
        v_seed: Variance over seeds; NaN with one seed, whose ``se`` then holds patients only.
        n_seeds: Seeds used.
        n_patients: Patients used.
        min_patients: Patients of the rarest class.
        notes: What a reader must know, in words.
        level: Nominal coverage of the interval.
        scale: Scale on which the interval is symmetric.
        seeds_only: A metric came without patients: ``se`` and ``p`` hold the variance over seeds alone.
    """

    value: float
    low: float
    high: float
    se: float
    df: float
    p: float
    v_case: float
    v_seed: float
    n_seeds: int
    n_patients: int
    min_patients: int
    notes: tuple[str, ...] = ()
    level: float = 0.95
    scale: Scale = Scale.LINEAR
    seeds_only: bool = False

    def interval(self, level: float) -> tuple[float, float]:
        """The interval of another nominal coverage, in (0, 1)."""
        if self.scale is Scale.LOGIT and _is_perfect(self.value) and not self.se > 0:
            return _perfect_interval(self.value, self.min_patients, level)
        if not self.se > 0:
            return float("nan"), float("nan")
        half = float(stdtrit(self.df, (1 + level) / 2)) * self.se
        return _interval(self.value, half, self.scale)


def combined_interval(runs: Runs, *, level: float = 0.95, scale: Scale | None = None) -> Estimate:
    """Mean of a cell over its seeds with an interval over new seeds and new patients.

    Metrics in [0, 1] get an interval symmetric in the logit, nll and brier in the logarithm, kappa as it is. A perfect
    AUC or accuracy has no variance to estimate: its interval is the one-sided ``alpha^(1/k)``, k patients of the rarest
    class, as if k of k trials had succeeded; it is never [1, 1].

    Args:
        runs: Seed -> metric of that run. Undefined runs are left out and named in the notes.
        level: Nominal coverage.
        scale: On which the interval is symmetric; the metric's if not given.
    """
    if scale is None:
        metric = next((influence.metric for influence in runs.values()), Metric.KAPPA)
        scale = _SCALES[split_name(metric)[0]]
    estimate = estimate_combination([(1.0, runs)], patient_variance, scale=scale, level=level)
    few = estimate.n_seeds > 0 and estimate.min_patients < MIN_TEST_PATIENTS and not estimate.seeds_only
    return replace(estimate, notes=(*estimate.notes, FEW_PATIENTS_CELL)) if few else estimate


def contrast(
    runs_a: Runs, runs_b: Runs, *, level: float = 0.95, min_test_patients: int = MIN_TEST_PATIENTS
) -> Estimate:
    """A - B, paired by seed over the seeds that both have.

    Pair only runs whose seed means the same subset (the same order of patients of the same task). The evaluation sets
    may differ: patients that they share are paired, others add.
    """
    return linear_contrast([(1.0, runs_a), (-1.0, runs_b)], level=level, min_test_patients=min_test_patients)


def linear_contrast(
    terms: Sequence[Term], *, level: float = 0.95, min_test_patients: int = MIN_TEST_PATIENTS
) -> Estimate:
    """``sum(coefficient * cell)``, paired by seed: a difference of differences, a slope, a mean over fractions.

    Args:
        terms: (coefficient, runs of a cell). Patient ids must mean the same patient in all of them, and different
            patients must have different ids.
        level: Nominal coverage.
        min_test_patients: Least patients of the rarest class for which ``p`` is given.
    """
    return with_p(estimate_combination(terms, patient_variance, level=level), min_test_patients)


def with_p(estimate: Estimate, min_test_patients: int = MIN_TEST_PATIENTS) -> Estimate:
    """The estimate with its two-sided ``p``, or with the note that its patients are too few for a test."""
    if not estimate.se > 0:
        return estimate
    if estimate.min_patients < min_test_patients and not estimate.seeds_only:
        return replace(estimate, notes=(*estimate.notes, FEW_PATIENTS))
    p = 2.0 * float(stdtr(estimate.df, -abs(estimate.value) / estimate.se))
    return replace(estimate, p=p)


def is_lost(estimate: Estimate, min_test_patients: int = MIN_TEST_PATIENTS) -> bool:
    """Whether an estimate has no ``p`` because of its results, and not of a set with too few patients for any test.

    What is lost counts in the family that it was planned for; what could never be tested does not
    (``families.adjust_study``).
    """
    too_few = estimate.n_seeds > 0 and not estimate.seeds_only and estimate.min_patients < min_test_patients
    return bool(np.isnan(estimate.p)) and not too_few


def estimate_combination(
    terms: Sequence[tuple[float, Mapping[SeedKey, R]]],
    variance_over_patients: Callable[[Sequence[tuple[float, R]]], PatientVariance],
    *,
    scale: Scale = Scale.LINEAR,
    level: float = 0.95,
) -> Estimate:
    """``sum(coefficient * cell)`` over the seeds that all cells have, without a test.

    Args:
        terms: (coefficient, seed -> run).
        variance_over_patients: Of a linear combination of runs: ``patient_variance``, or of bootstrap draws.
        scale: Scale on which the interval is symmetric.
        level: Nominal coverage.

    Raises:
        ValueError: There is no term.
    """
    keys, notes = common_seeds(terms)
    if not keys:
        return _undefined(notes, level, scale)
    spread = seed_spread({key: sum(c * runs[key].value for c, runs in terms) for key in keys})
    patients = variance_over_patients([(c * spread.weights[key], runs[key]) for c, runs in terms for key in keys])
    se, df = _standard_error(spread, patients)
    estimate = Estimate(
        value=spread.mean,
        low=float("nan"),
        high=float("nan"),
        se=se,
        df=df,
        p=float("nan"),
        v_case=patients.variance,
        v_seed=spread.variance,
        n_seeds=len(keys),
        n_patients=patients.n_patients,
        min_patients=patients.min_patients,
        level=level,
        scale=scale,
        seeds_only=patients.absent,
    )
    low, high = estimate.interval(level)
    return replace(estimate, low=low, high=high, notes=(*notes, *_class_notes(terms, keys), *_flags(estimate)))


def _standard_error(spread: SeedSpread, patients: PatientVariance) -> tuple[float, float]:
    terms = [*patients.df_terms] + ([(spread.variance, spread.df)] if spread.df > 0 else [])
    if patients.absent:
        return (float(np.sqrt(spread.variance)), spread.df) if spread.df > 0 else (float("nan"), float("nan"))
    total = patients.variance + (spread.variance if spread.df > 0 else 0.0)
    return float(np.sqrt(total)), satterthwaite(terms)


def common_seeds(terms: Sequence[tuple[float, Mapping[SeedKey, R]]]) -> tuple[list[SeedKey], list[str]]:
    """Seeds that all cells have with a defined value, and notes that name the others.

    Raises:
        ValueError: There is no term.
    """
    if not terms:
        raise ValueError("a contrast needs at least one (coefficient, runs)")
    everywhere = [key for key in terms[0][1] if all(key in runs for _, runs in terms)]
    kept = [key for key in everywhere if all(np.isfinite(runs[key].value) for _, runs in terms)]
    dropped = {key: None for _, runs in terms for key in runs if key not in everywhere}
    notes = [f"seeds not in every cell, left out: {_listed(dropped)}"] if dropped else []
    if undefined := [key for key in everywhere if key not in kept]:
        notes.append(f"seeds with an undefined value, left out: {_listed(undefined)}")
    return kept, notes if everywhere else [*notes, NO_COMMON_SEEDS]


def _listed(keys: Mapping[SeedKey, None] | Sequence[SeedKey]) -> str:
    return ", ".join(str(getattr(key, "label", key)) for key in keys)


def _class_notes(terms: Sequence[tuple[float, Mapping[SeedKey, R]]], keys: Sequence[SeedKey]) -> list[str]:
    seen = [runs[key] for _, runs in terms for key in keys]
    missing = sorted({label for influence in seen for label in influence.undefined})
    notes = [f"classes left out, undefined on the evaluation set: {', '.join(missing)}"] if missing else []
    if len({influence.classes for influence in seen}) > 1:
        notes.append("the cells average different classes")
    return notes


def _flags(estimate: Estimate) -> list[str]:
    flags = []
    if estimate.n_seeds == 1:
        flags.append(CONDITIONAL_ON_RUN)
    elif estimate.n_seeds < MIN_SEEDS:
        flags.append(FEW_SEEDS)
    if estimate.seeds_only:
        flags.append(SEEDS_ONLY)
        if estimate.n_seeds > 1 and not estimate.se > 0:
            flags.append(NO_VARIANCE)
    elif np.isnan(estimate.v_case):
        flags.append(NOT_ESTIMABLE)
    elif not estimate.se > 0:
        perfect = estimate.scale is Scale.LOGIT and _is_perfect(estimate.value)
        flags.append(PERFECT if perfect else NO_VARIANCE)
    return flags


def _undefined(notes: Sequence[str], level: float, scale: Scale) -> Estimate:
    nan = float("nan")
    return Estimate(
        value=nan,
        low=nan,
        high=nan,
        se=nan,
        df=nan,
        p=nan,
        v_case=nan,
        v_seed=nan,
        n_seeds=0,
        n_patients=0,
        min_patients=0,
        notes=tuple(notes),
        level=level,
        scale=scale,
    )


def _interval(value: float, half: float, scale: Scale) -> tuple[float, float]:
    if scale is Scale.LOGIT and 0 < value < 1:
        centre, reach = logit(value), half / (value * (1 - value))
        return float(expit(centre - reach)), float(expit(centre + reach))
    if scale is Scale.LOG and value > 0:
        return value * float(np.exp(-half / value)), value * float(np.exp(half / value))
    return value - half, value + half


def _is_perfect(value: float) -> bool:
    return value in (0.0, 1.0)


def _perfect_interval(value: float, n_patients: int, level: float) -> tuple[float, float]:
    bound = (1.0 - level) ** (1.0 / n_patients) if n_patients > 0 else 0.0
    return (bound, 1.0) if value == 1.0 else (0.0, 1.0 - bound)
