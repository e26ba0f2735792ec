"""Simulations: intervals cover what they promise, and nothing is found where nothing is.

Setting: two sources, seeds x patients crossed, two images per patient, prevalence 0.2, normal scores whose shift varies
with the seed. The true AUC over new seeds and patients is then Phi(shift / sqrt(2 var + seed_sd^2)).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from scipy.stats import norm
from scipy.stats import t as student_t

from dashboards.statistics import Estimate, classify, contrast, index_patients, patient_influence

SEEDS = 5


@dataclass(frozen=True, kw_only=True)
class Setting:
    """SDs of scores: over seeds (slope), patients, patients within a source, images, images within a run."""

    seed_sd: float
    n_patients: int
    source_sd: float
    image_sd: float
    run_sd: float
    advantage: float = 0.1

    @property
    def truth(self):
        variance = 0.8**2 + self.source_sd**2 + self.image_sd**2 + self.run_sd**2
        a, b = (norm.cdf(d / np.sqrt(2 * variance + self.seed_sd**2)) for d in (1.2 + self.advantage, 1.2))
        return a - b


SEED_DOMINATED = Setting(seed_sd=0.15, n_patients=200, source_sd=0.0, image_sd=0.6, run_sd=0.4)
CASE_DOMINATED = Setting(seed_sd=0.03, n_patients=150, source_sd=0.5, image_sd=0.4, run_sd=0.2)
MIXED = Setting(seed_sd=0.06, n_patients=1000, source_sd=0.0, image_sd=0.6, run_sd=0.4)


def simulate(setting, rng):
    """Contrast and per-seed differences of one study."""
    n = setting.n_patients
    y = np.repeat((rng.random(n) < 0.2).astype(float), 2)
    patient = index_patients(np.repeat(np.arange(n), 2))
    shared = np.repeat(rng.normal(0, 0.8, n), 2) + rng.normal(0, setting.image_sd, 2 * n)
    cells = []
    for shift in (1.2 + setting.advantage, 1.2):
        own = shared + np.repeat(rng.normal(0, setting.source_sd, n), 2)
        slopes = shift + rng.normal(0, setting.seed_sd, SEEDS)
        scores = y * slopes[:, None] + own + rng.normal(0, setting.run_sd, (SEEDS, 2 * n))
        cells.append({s: patient_influence("auc", "binary", ["d"], y, row, patient) for s, row in enumerate(scores)})
    deltas = np.array([cells[0][s].value - cells[1][s].value for s in range(SEEDS)])
    return contrast(*cells), deltas


def replicate(setting, replications):
    rng = np.random.default_rng(20)
    return [simulate(setting, rng) for _ in range(replications)]


def covered(estimate: Estimate, truth):
    return estimate.low <= truth <= estimate.high


def covered_by_seeds_only(deltas, truth):
    half = student_t.ppf(0.975, SEEDS - 1) * deltas.std(ddof=1) / np.sqrt(SEEDS)
    return abs(deltas.mean() - truth) <= half


def test_combined_interval_covers_where_seeds_alone_fail():
    results = replicate(CASE_DOMINATED, 300)
    combined = np.mean([covered(estimate, CASE_DOMINATED.truth) for estimate, _ in results])
    seeds_only = np.mean([covered_by_seeds_only(deltas, CASE_DOMINATED.truth) for _, deltas in results])
    assert combined >= 0.93
    assert seeds_only < 0.6


def test_identical_sources_are_found_neither_to_help_nor_to_hurt():
    null = Setting(seed_sd=0.15, n_patients=200, source_sd=0.0, image_sd=0.6, run_sd=0.4, advantage=0.0)
    words = [classify(estimate, estimate.p, delta=0.01) for estimate, _ in replicate(null, 300)]
    claims = np.mean([word.startswith("helps") or word == "hurts" for word in words])
    assert claims <= 0.08


@pytest.mark.slow
@pytest.mark.parametrize(
    "setting", [SEED_DOMINATED, CASE_DOMINATED, MIXED], ids=["seed_dominated", "case_dominated", "mixed"]
)
def test_coverage_and_width_with_two_thousand_replications(setting):
    """Coverage at least 0.93 everywhere; the width stays near that of an oracle who knows the true standard error."""
    estimates = [estimate for estimate, _ in replicate(setting, 2000)]
    coverage = np.mean([covered(estimate, setting.truth) for estimate in estimates])
    oracle_width = 2 * norm.ppf(0.975) * np.std([estimate.value for estimate in estimates])
    width_ratio = np.mean([estimate.high - estimate.low for estimate in estimates]) / oracle_width
    print(f"coverage {coverage:.4f}, width over the oracle's {width_ratio:.3f}")
    assert coverage >= 0.93
    assert width_ratio < 1.6
