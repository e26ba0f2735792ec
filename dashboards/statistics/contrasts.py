"""Estimates over seeds and patients: of one cell, of a difference, of any linear combination of cells.

Seeds and patients are fully crossed, like readers and cases of a diagnostic study, and both are random: the estimand is
the expected result over new seeds and new patients, conditional on the pool of training images. With ``V_case`` the
variance over patients of the seed mean, and ``V_seed`` the variance over seeds of that mean::

    SE = sqrt(V_case + V_seed),   df = SE^4 / (V_case^2 / (P - 1) + V_seed^2 / (S - 1))      (Satterthwaite)

Chance of seed and patient together is counted in both terms, so intervals are slightly wide rather than narrow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, logit
from scipy.stats import t as student_t
from statsmodels.stats.multitest import multipletests

from dashboards.statistics.metrics import Metric, split_name
from dashboards.statistics.predictions import FloatArray
from dashboards.statistics.seeds import SeedKey, SeedSpread, seed_spread
from dashboards.statistics.uncertainty import Influence, PatientVariance, patient_variance

Runs = Mapping[SeedKey, Influence]
"""The runs of one cell on one evaluation set: seed -> metric with its patient contributions."""

Term = tuple[float, Runs]

MIN_TEST_PATIENTS = 20
"""Below this many patients per class no test is made."""

MIN_SEEDS = 5
"""Below this many seeds intervals carry a caveat: in the worst case 95 % intervals of three seeds cover 92 %."""

CONDITIONAL_ON_RUN = "one seed: conditional on this run"
FEW_SEEDS = f"fewer than {MIN_SEEDS} seeds: the interval may be too narrow"
FEW_PATIENTS = "too few patients per class: no test"
NO_VARIANCE = "no variation between patients or seeds: no interval"
NO_COMMON_SEEDS = "no seed is common to all cells"
PERFECT = "perfect separation: the bound is heuristic"
NOT_ESTIMABLE = "fewer than two patients in a class: no interval"


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
        v_case: Variance over patients.
        v_seed: Variance over seeds; NaN with one seed, whose ``se`` then holds patients only.
        n_seeds: Seeds used.
        n_patients: Patients used.
        min_patients: Patients of the rarest class.
        notes: What a reader must know, in words.
        level: Nominal coverage of the interval.
        scale: Scale on which the interval is symmetric.
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

    def interval(self, level: float) -> tuple[float, float]:
        """The interval of another nominal coverage, in (0, 1)."""
        if self.scale is Scale.LOGIT and _is_perfect(self.value) and not self.se > 0:
            return _perfect_interval(self.value, self.min_patients, level)
        if not self.se > 0:
            return float("nan"), float("nan")
        half = float(student_t.ppf((1 + level) / 2, self.df)) * self.se
        return _interval(self.value, half, self.scale)


def combined_interval(runs: Runs, *, level: float = 0.95) -> Estimate:
    """Mean of a cell over its seeds with an interval over new seeds and new patients.

    Metrics in [0, 1] get an interval symmetric in the logit, nll and brier in the logarithm, kappa as it is. A perfect
    AUC or accuracy has no variance to estimate: its interval is the one-sided ``alpha^(1/k)``, k patients of the rarest
    class, as if k of k trials had succeeded; it is never [1, 1].

    Args:
        runs: Seed -> metric of that run. Undefined runs are left out and named in the notes.
        level: Nominal coverage.
    """
    metric = next((influence.metric for influence in runs.values()), Metric.KAPPA)
    return _estimate([(1.0, runs)], _SCALES[split_name(metric)[0]], level)


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
    estimate = _estimate(terms, Scale.LINEAR, level)
    if not estimate.se > 0:
        return estimate
    if estimate.min_patients < min_test_patients:
        return replace(estimate, notes=(*estimate.notes, FEW_PATIENTS))
    p = 2.0 * float(student_t.sf(abs(estimate.value) / estimate.se, estimate.df))
    return replace(estimate, p=p)


def slope_coefficients(x: ArrayLike) -> FloatArray:
    """Coefficients that make ``linear_contrast`` the least-squares slope against ``x`` (K,), such as log10 parameters.

    Raises:
        ValueError: All x are equal.
    """
    deviation = np.asarray(x, dtype=np.float64) - np.mean(np.asarray(x, dtype=np.float64))
    if not np.any(deviation):
        raise ValueError(f"a slope needs at least two different x, got {np.asarray(x).tolist()}")
    return np.asarray(deviation / (deviation @ deviation))


def equivalence_p(estimate: Estimate, delta: float) -> float:
    """p of two one-sided tests (Schuirmann 1987) that a contrast lies outside +-delta; small means equivalent.

    ``p < 0.05`` exactly when the 90 % interval lies inside +-delta. NaN where the contrast has no p itself.
    """
    if np.isnan(estimate.p):
        return float("nan")
    above = student_t.sf((estimate.value + delta) / estimate.se, estimate.df)
    below = student_t.cdf((estimate.value - delta) / estimate.se, estimate.df)
    return float(max(above, below))


def adjust_p_values(p_values: ArrayLike, method: Literal["holm", "fdr_bh"] = "holm") -> FloatArray:
    """p-values adjusted for a family: Holm (family-wise error) or Benjamini-Hochberg (false discovery rate).

    NaN stays NaN and does not count as a member of the family.
    """
    raw = np.asarray(p_values, dtype=np.float64)
    adjusted = np.full(raw.shape, np.nan)
    tested = ~np.isnan(raw)
    if tested.any():
        adjusted[tested] = multipletests(raw[tested], method=method)[1]
    return adjusted


def _estimate(terms: Sequence[Term], scale: Scale, level: float) -> Estimate:
    keys, notes = _common_seeds(terms)
    if not keys:
        return _undefined(notes, level, scale)
    spread = seed_spread({key: sum(c * runs[key].value for c, runs in terms) for key in keys})
    patients = patient_variance([(c * spread.weights[key], runs[key]) for c, runs in terms for key in keys])
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
    )
    low, high = estimate.interval(level)
    return replace(estimate, low=low, high=high, notes=(*notes, *_class_notes(terms, keys), *_flags(estimate)))


def _standard_error(spread: SeedSpread, patients: PatientVariance) -> tuple[float, float]:
    terms = [*patients.df_terms] + ([(spread.variance, spread.df)] if spread.df > 0 else [])
    total = patients.variance + (spread.variance if spread.df > 0 else 0.0)
    noise = sum(variance**2 / df for variance, df in terms)
    return float(np.sqrt(total)), (total**2 / noise if noise > 0 else float("nan"))


def _common_seeds(terms: Sequence[Term]) -> tuple[list[SeedKey], list[str]]:
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


def _class_notes(terms: Sequence[Term], keys: Sequence[SeedKey]) -> list[str]:
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
    if np.isnan(estimate.v_case):
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
