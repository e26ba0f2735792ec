"""Studies whose truth is known, for ``benchmarks.coverage``: seeds x patients crossed, normal scores on the logit axis.

A run scores an image ``y * slope + patient + patient within source + image + image within run``; the slope is drawn per
run. Two images of different patients then differ by a normal variable, so the true AUC over new seeds and new patients
is ``Phi(shift / sqrt(2 variance + variance of the slope))``. Nothing here is estimated by a large simulation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from scipy.stats import norm

from dashboards.statistics import (
    Estimate,
    Influence,
    PatientIndex,
    Runs,
    SeedKey,
    combined_interval,
    contrast,
    index_patients,
    linear_contrast,
    patient_influence,
)

FloatArray = NDArray[np.float64]

PATIENT_SD = 0.8
SHIFT = 1.2


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One simulated study.

    Attributes:
        estimate: What the analysis says.
        truth: What is true.
        deltas: (S,) the estimate of each seed alone, for the t interval over seeds.
    """

    estimate: Estimate
    truth: float
    deltas: FloatArray


Study = Callable[[np.random.Generator], Outcome]


@dataclass(frozen=True, kw_only=True)
class Binormal:
    """Runs of several cells on one evaluation set of a sigmoid task.

    Attributes:
        n_patients: Patients.
        prevalence: Of each label, among patients; all images of a patient have its labels.
        positives: Exactly so many positive patients instead, of a single label.
        images: Per patient.
        seed_sd: SD of the slope over seeds.
        source_sd: SD of a patient's effect on one source alone.
        image_sd: SD of an image's effect on all runs.
        run_sd: SD of an image's effect on one run.
    """

    n_patients: int
    prevalence: tuple[float, ...] = (0.2,)
    positives: int | None = None
    images: int = 2
    seed_sd: float = 0.06
    source_sd: float = 0.0
    image_sd: float = 0.6
    run_sd: float = 0.4

    @property
    def metric(self) -> str:
        """The primary metric."""
        return "auc" if len(self.prevalence) == 1 else "auc_macro"

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the labels."""
        return tuple(f"label{k}" for k in range(len(self.prevalence)))

    def auc(self, shift: float, slope_sd: float | None = None) -> float:
        """True AUC of a cell whose slopes have this mean and SD (``seed_sd`` if not given)."""
        variance = PATIENT_SD**2 + self.source_sd**2 + self.image_sd**2 + self.run_sd**2
        sd = self.seed_sd if slope_sd is None else slope_sd
        return float(norm.cdf(shift / np.sqrt(2 * variance + sd**2)))

    def evaluation_set(self, rng: np.random.Generator, first_patient: int = 0) -> EvaluationSet:
        """Patients, labels and what all runs have in common; patients are numbered from ``first_patient``."""
        n, k = self.n_patients, len(self.prevalence)
        if self.positives is None:
            truth = (rng.random((n, k)) < self.prevalence).astype(float)
        else:
            truth = (np.arange(n) < self.positives).astype(float)[:, None]
        shared = np.repeat(rng.normal(0, PATIENT_SD, (n, k)), self.images, axis=0)
        return EvaluationSet(
            design=self,
            y=np.repeat(truth, self.images, axis=0),
            shared=shared + rng.normal(0, self.image_sd, shared.shape),
            index=index_patients(first_patient + np.repeat(np.arange(n), self.images)),
        )


@dataclass(frozen=True, kw_only=True)
class EvaluationSet:
    """Images of a ``Binormal`` design: truth (N, L), common part of the scores (N, L), and patients."""

    design: Binormal
    y: FloatArray
    shared: FloatArray
    index: PatientIndex

    def thinned(self, n_images: int, rng: np.random.Generator) -> EvaluationSet:
        """``n_images`` of the images: every patient's first, and of the others a random choice."""
        codes = self.index.codes
        first = np.r_[True, np.diff(codes) > 0]
        others = np.flatnonzero(~first)
        rows = np.sort(np.r_[np.flatnonzero(first), rng.permutation(others)[: n_images - int(first.sum())]])
        index = PatientIndex(ids=self.index.ids, codes=codes[rows])
        return EvaluationSet(design=self.design, y=self.y[rows], shared=self.shared[rows], index=index)

    def cell(self, slopes: dict[SeedKey, float], rng: np.random.Generator) -> dict[SeedKey, Influence]:
        """Runs of one source, by seed, from the slope of each."""
        return {seed: self.scored(z) for seed, z in self.logits(slopes, rng).items()}

    def logits(self, slopes: dict[SeedKey, float], rng: np.random.Generator) -> dict[SeedKey, FloatArray]:
        """Seed -> (N, L) scores of one source."""
        d, n_labels = self.design, self.y.shape[1]
        own = self.shared + rng.normal(0, d.source_sd, (d.n_patients, n_labels))[self.index.codes]
        return {s: self.y * slope + own + rng.normal(0, d.run_sd, self.y.shape) for s, slope in slopes.items()}

    def scored(self, logits: FloatArray) -> Influence:
        """The metric of one run."""
        kind = "binary" if self.y.shape[1] == 1 else "multilabel"
        return patient_influence(self.design.metric, kind, self.design.labels, self.y, logits, self.index)


def slopes(shift: float, sd: float, seeds: int, rng: np.random.Generator) -> dict[SeedKey, float]:
    """Slope of each of the seeds 0..seeds-1."""
    return dict(enumerate((shift + rng.normal(0, sd, seeds)).tolist()))


def outcome(estimate: Estimate, truth: float, terms: list[tuple[float, Runs]]) -> Outcome:
    """An outcome with the value of each seed alone."""
    seeds = list(terms[0][1])
    deltas = np.array([sum(c * runs[s].value for c, runs in terms) for s in seeds])
    return Outcome(estimate=estimate, truth=truth, deltas=deltas)


def difference(design: Binormal, seeds: int, advantage: float = 0.1) -> Study:
    """A source that is better by ``advantage`` on the slope, minus the baseline, paired by seed."""

    def study(rng: np.random.Generator) -> Outcome:
        images = design.evaluation_set(rng)
        a = images.cell(slopes(SHIFT + advantage, design.seed_sd, seeds, rng), rng)
        b = images.cell(slopes(SHIFT, design.seed_sd, seeds, rng), rng)
        truth = design.auc(SHIFT + advantage) - design.auc(SHIFT)
        return outcome(contrast(a, b), truth, [(1.0, a), (-1.0, b)])

    return study


def single_cell(design: Binormal, seeds: int, shift: float = SHIFT) -> Study:
    """One cell and its interval on the logit scale."""

    def study(rng: np.random.Generator) -> Outcome:
        runs = design.evaluation_set(rng).cell(slopes(shift, design.seed_sd, seeds, rng), rng)
        return outcome(combined_interval(runs), design.auc(shift), [(1.0, runs)])

    return study


def shifted_set(design: Binormal, other: Binormal, seeds: int) -> Study:
    """Loss of one cell from its test set to another set, disjoint patients and the same networks (slopes)."""

    def study(rng: np.random.Generator) -> Outcome:
        of_seed = slopes(SHIFT, design.seed_sd, seeds, rng)
        inside = design.evaluation_set(rng).cell(of_seed, rng)
        far = other.evaluation_set(rng, first_patient=design.n_patients)
        outside = far.cell({s: 0.8 * slope for s, slope in of_seed.items()}, rng)
        truth = design.auc(SHIFT) - other.auc(0.8 * SHIFT, 0.8 * design.seed_sd)
        return outcome(contrast(inside, outside), truth, [(1.0, inside), (-1.0, outside)])

    return study


def crossed(design: Binormal, subsets: int, inits: int, subset_sd: float, init_sd: float) -> Study:
    """A difference over crossed seeds: every subset with every initialisation, each with an effect of its own."""

    def drawn(shift: float, rng: np.random.Generator) -> dict[SeedKey, float]:
        by_subset, by_init = rng.normal(0, subset_sd, subsets), rng.normal(0, init_sd, inits)
        grid = shift + by_subset[:, None] + by_init + rng.normal(0, design.seed_sd, (subsets, inits))
        return {(s, i): float(grid[s, i]) for s in range(subsets) for i in range(inits)}

    def study(rng: np.random.Generator) -> Outcome:
        images = design.evaluation_set(rng)
        a, b = images.cell(drawn(SHIFT + 0.1, rng), rng), images.cell(drawn(SHIFT, rng), rng)
        sd = float(np.sqrt(subset_sd**2 + init_sd**2 + design.seed_sd**2))
        truth = design.auc(SHIFT + 0.1, sd) - design.auc(SHIFT, sd)
        return outcome(contrast(a, b), truth, [(1.0, a), (-1.0, b)])

    return study


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Training images of which every run sees a prefix, of one order per seed that all sources share.

    A run's slope is ``base(fraction) + sensitivity * mean worth of its images + its own noise``. The truth is
    conditional on the pool: over new orders and new runs, with the worths as they are. At the full fraction all seeds
    see the same images.

    Attributes:
        size: Images in the pool.
        worth_sd: SD of the worth of an image.
        init_sd: SD of a run's own noise.
        sensitivity: Of the source and of the baseline to the worth of images.
        base: Slope at each fraction, of the source and of the baseline.
    """

    size: int = 400
    worth_sd: float = 2.0
    init_sd: float = 0.04
    sensitivity: tuple[float, float] = (0.6, 1.0)
    base: dict[float, tuple[float, float]]

    def difference(self, design: Binormal, seeds: int, weights: dict[float, float]) -> Study:
        """``sum(weight * (source - baseline at the fraction))``: a difference, or a difference of differences."""

        def study(rng: np.random.Generator) -> Outcome:
            images, worth = design.evaluation_set(rng), rng.normal(0, self.worth_sd, self.size)
            orders = [rng.permutation(self.size) for _ in range(seeds)]
            terms: list[tuple[float, Runs]] = []
            truth = 0.0
            for fraction, weight in weights.items():
                n = round(fraction * self.size)
                seen = np.array([worth[order[:n]].mean() for order in orders])
                spread = worth.std(ddof=1) * np.sqrt((1 - n / self.size) / n)
                for source, sign in ((0, weight), (1, -weight)):
                    base, sensitivity = self.base[fraction][source], self.sensitivity[source]
                    drawn = base + sensitivity * seen + rng.normal(0, self.init_sd, seeds)
                    terms.append((sign, images.cell(dict(enumerate(drawn.tolist())), rng)))
                    sd = float(np.hypot(sensitivity * spread, self.init_sd))
                    truth += sign * design.auc(base + sensitivity * float(worth.mean()), sd)
            return outcome(linear_contrast(terms), truth, terms)

        return study


def dice(n_patients: int, seeds: int, seed_sd: float = 0.08) -> Study:
    """Mean Dice of patients (logit-normal, SD about 0.17 between patients), source minus baseline."""
    patient_sd, source_sd, run_sd = 1.0, 0.4, 0.3

    def expected(centre: float) -> float:
        nodes, weights = np.polynomial.hermite_e.hermegauss(40)
        sd = np.sqrt(patient_sd**2 + source_sd**2 + run_sd**2 + seed_sd**2)
        return float(weights @ expit(centre + sd * nodes) / weights.sum())

    def study(rng: np.random.Generator) -> Outcome:
        ids, shared = np.arange(n_patients), rng.normal(0, patient_sd, n_patients)
        cells: list[Runs] = []
        for centre in (1.4, 1.2):
            own = shared + rng.normal(0, source_sd, n_patients)
            of_seed = slopes(centre, seed_sd, seeds, rng)
            noise = rng.normal(0, run_sd, (seeds, n_patients))
            values = {s: expit(slope + own + noise[n]) for n, (s, slope) in enumerate(of_seed.items())}
            cells.append({s: _patient_mean(ids, value) for s, value in values.items()})
        return outcome(contrast(*cells), expected(1.4) - expected(1.2), [(1.0, cells[0]), (-1.0, cells[1])])

    return study


def _patient_mean(ids: NDArray[np.intp], values: FloatArray) -> Influence:
    mean = float(values.mean())
    return Influence(metric="dice", value=mean, patients=ids, psi=(values - mean) / len(ids), min_patients=len(ids))
