"""Shares of images with an interval over patients."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from statsmodels.stats.proportion import proportion_confint

from dashboards.statistics.bootstrap import percentile_interval, weight_chunks
from dashboards.statistics.uncertainty import PatientIndex, index_patients

BOOTSTRAP_DRAWS = 2000
NO_VARIATION = "not estimable: no variation between patients"


@dataclass(frozen=True, slots=True, kw_only=True)
class Proportion:
    """Successes among images.

    Attributes:
        value: Successes / images; NaN without an image.
        low: Lower end of the interval; NaN if it cannot be estimated.
        high: Upper end; NaN likewise.
        successes: Images that count.
        images: All images.
        patients: Their patients.
        method: wilson, cluster bootstrap, "wilson over patients", or why there is no interval.
    """

    value: float
    low: float
    high: float
    successes: int
    images: int
    patients: int
    method: str


def proportion(
    success: ArrayLike,
    patient: ArrayLike | PatientIndex,
    rng: np.random.Generator,
    *,
    level: float = 0.95,
    n_draws: int = BOOTSTRAP_DRAWS,
) -> Proportion:
    """Share of successes with an interval.

    One image per patient: Wilson 1927. Several images of a patient: percentiles of the cluster bootstrap. If the images
    agree throughout, a bootstrap would give an interval of width 0: then Wilson's, with each patient counted once. If
    there is one patient, or all have the same share, nothing is known of other patients: no interval.

    Args:
        success: (N,) of 1, 0 and NaN (masked, or not of the denominator).
        patient: (N,) patient ids, or their index.
        rng: Source of the bootstrap draws.
        level: Nominal coverage, in (0, 1).
        n_draws: Bootstrap draws.

    Raises:
        ValueError: Lengths differ, or a missing patient id.
    """
    values = np.asarray(success, dtype=np.float64)
    index = patient if isinstance(patient, PatientIndex) else index_patients(patient)
    if values.shape != index.codes.shape:
        raise ValueError(f"success must have one value per patient id, got {values.shape} and {index.codes.shape}")
    known = ~np.isnan(values)
    hits = values[known] == 1
    _, codes = np.unique(index.codes[known], return_inverse=True)
    images, patients = len(hits), len(np.unique(codes))
    low, high, method = _interval(hits, codes.astype(np.intp), rng, level, n_draws)
    return Proportion(
        value=float(hits.mean()) if images else float("nan"),
        low=low,
        high=high,
        successes=int(hits.sum()),
        images=images,
        patients=patients,
        method=method,
    )


def _interval(
    hits: NDArray[np.bool_], codes: NDArray[np.intp], rng: np.random.Generator, level: float, n_draws: int
) -> tuple[float, float, str]:
    if not len(hits):
        return float("nan"), float("nan"), "not estimable: no image"
    sizes = np.bincount(codes)
    if sizes.max() == 1:
        return *_wilson(int(hits.sum()), len(hits), level), "wilson"
    if hits.all() or not hits.any():
        return *_wilson(len(sizes) if hits.all() else 0, len(sizes), level), "wilson over patients"
    per_patient = np.bincount(codes, hits).astype(np.float64)
    draws = [(weights @ per_patient) / (weights @ sizes) for weights in weight_chunks(len(sizes), n_draws, rng)]
    found = percentile_interval(np.concatenate(draws), level)
    return found.low, found.high, "cluster bootstrap" if np.isfinite(found.low) else NO_VARIATION


def _wilson(successes: int, n: int, level: float) -> tuple[float, float]:
    low, high = proportion_confint(successes, n, alpha=1 - level, method="wilson")
    return (float(low) if successes else 0.0), (float(high) if successes < n else 1.0)  # exact, rounding aside
