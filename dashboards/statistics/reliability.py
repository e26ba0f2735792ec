"""Data of a reliability diagram: calibration per bin, with intervals over patients."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from dashboards.statistics.calibration_error import check_pairs
from dashboards.statistics.proportions import Proportion, proportion
from dashboards.statistics.uncertainty import PatientIndex, index_patients


@dataclass(frozen=True, slots=True, kw_only=True)
class ReliabilityBin:
    """One bin of a reliability diagram.

    Attributes:
        low: Least probability of the bin; open for equal width, the least that occurs for equal mass.
        high: Largest one.
        mean_probability: Mean probability of its images.
        observed: Share of positives with its interval over patients.
    """

    low: float
    high: float
    mean_probability: float
    observed: Proportion


def reliability_bins(
    y: ArrayLike,
    p: ArrayLike,
    patient: ArrayLike | PatientIndex,
    rng: np.random.Generator,
    *,
    n_bins: int = 10,
    equal_mass: bool = False,
    level: float = 0.95,
) -> tuple[ReliabilityBin, ...]:
    """Observed share against mean probability, with an interval over patients in each bin that has an image.

    Args:
        y: (N,) of 0, 1 and NaN (masked).
        p: (N,) probabilities.
        patient: (N,) patient ids, or their index.
        rng: Source of bootstrap draws.
        n_bins: Bins of equal width (a, b], 0 in the first; or of equal mass, ties kept together.
        equal_mass: Which of the two.
        level: Nominal coverage of each interval.

    Returns:
        The bins in ascending order; none if a labelled image has no probability, or if no image is labelled.
    """
    outcome, probability = check_pairs(y, p)
    index = patient if isinstance(patient, PatientIndex) else index_patients(patient)
    known = ~np.isnan(outcome)
    if not known.any() or np.isnan(probability[known]).any():
        return ()
    edges = np.linspace(0.0, 1.0, n_bins + 1)
    if equal_mass:
        edges = np.unique(np.quantile(probability[known], edges, method="inverted_cdf"))
    bins = np.searchsorted(edges[1:-1], probability, side="left")
    inside = [(known & (bins == b), b) for b in np.unique(bins[known])]
    return tuple(
        ReliabilityBin(
            low=float(edges[b]),
            high=float(edges[min(b + 1, len(edges) - 1)]),
            mean_probability=float(probability[rows].mean()),
            observed=proportion(np.where(rows, outcome, np.nan), index, rng, level=level),
        )
        for rows, b in inside
    )
