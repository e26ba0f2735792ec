"""What the uncertainty of an estimate is made of, and so what would reduce it: patients, subsets, initialisations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dashboards.statistics.contrasts import Term, common_seeds
from dashboards.statistics.seeds import SeedDesign, seed_spread
from dashboards.statistics.uncertainty import patient_variance


@dataclass(frozen=True, slots=True, kw_only=True)
class VarianceSplit:
    """Shares of the variance of an estimate; they sum to 1 where they are known.

    Attributes:
        design: What the seeds vary.
        patients: Share of the test patients.
        seeds: Share of all that seeds vary.
        subset: Part of ``seeds`` due to which training images were drawn; None unless seeds are crossed.
        initialisation: Part due to initial weights, order and augmentation; None unless crossed.
        interaction: Part due to their combination, which more of either reduces; None unless crossed.
    """

    design: SeedDesign
    patients: float
    seeds: float
    subset: float | None = None
    initialisation: float | None = None
    interaction: float | None = None


def variance_split(terms: Sequence[Term]) -> VarianceSplit | None:
    """Split the variance of ``sum(coefficient * cell)``, the one that ``linear_contrast`` reports.

    Subset and initialisation can only be told apart where a study crosses them (every subset seed with every init
    seed); a plain list of seeds changes both together. Components below 0 are taken as 0 (method of moments, Searle,
    Casella & McCulloch 1992, chapter 4). All are conditional on the pool of training images: where every seed trains
    on all of it, none of the seed variance is due to subsets.

    Returns:
        The shares; None where there is no variance, fewer than two seeds, or too few patients.

    Raises:
        ValueError: There is no term.
    """
    keys, _ = common_seeds(terms)
    if len(keys) < 2:
        return None
    spread = seed_spread({key: sum(c * runs[key].value for c, runs in terms) for key in keys})
    case = patient_variance([(c * spread.weights[key], runs[key]) for c, runs in terms for key in keys]).variance
    total = case + spread.variance
    if not total > 0:
        return None
    whole = VarianceSplit(design=spread.design, patients=case / total, seeds=spread.variance / total)
    parts = (spread.subset_variance, spread.optimisation_variance, spread.residual_variance)
    if parts[0] is None or parts[1] is None or parts[2] is None:
        return whole
    n_subsets, n_inits = spread.levels
    of_mean = (parts[0] / n_subsets, parts[1] / n_inits, parts[2] / (n_subsets * n_inits))
    scale = whole.seeds / sum(of_mean) if sum(of_mean) > 0 else 0.0
    return VarianceSplit(
        design=spread.design,
        patients=whole.patients,
        seeds=whole.seeds,
        subset=of_mean[0] * scale,
        initialisation=of_mean[1] * scale,
        interaction=of_mean[2] * scale,
    )
