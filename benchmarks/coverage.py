"""Do intervals cover, and is nothing found where nothing is? ``python -m benchmarks.coverage [--quick]``.

Coverage of 95 % intervals for truths that are known in closed form, and their width over that of an oracle that knows
the true standard error; then the whole decision procedure on studies in which nothing is to be found. 2,000
replications each (``--quick``: 100, to see that it runs); whole reports of studies without effects
(``null_verdicts``) take long and get a tenth of that. Settings of ``LIMITS`` are those on which the
gates let nothing be stated: fewer than 20 positive patients, fewer than 3 seeds; they are shown and not counted. So
is the family-wise error with 3 seeds: below 5 the gates cap the words at "suggests".
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm
from scipy.stats import t as student_t

from benchmarks import null_studies, null_verdicts
from benchmarks.simulated_studies import (
    Binormal,
    Outcome,
    Pool,
    Study,
    crossed,
    dice,
    difference,
    shifted_set,
    single_cell,
)

REPLICATIONS = 2000
QUICK_REPLICATIONS = 100
STUDIES_PER_VERDICT = 10
"""Replications for which one whole report is made."""
VERDICT_SEEDS = 5
TARGETS = {"coverage_min": 0.93, "familywise_error": 0.05, "false_savings": 0.05, "false_harm": 0.05}

SEED_DOMINATED = Binormal(n_patients=200, seed_sd=0.15)
CASE_DOMINATED = Binormal(n_patients=150, seed_sd=0.03, source_sd=0.5, image_sd=0.4, run_sd=0.2)
MIXED = Binormal(n_patients=1000, seed_sd=0.06)
EVEN = Binormal(n_patients=300, seed_sd=0.15, source_sd=0.5, run_sd=0.05)
"""Seeds and patients matter alike and hardly interact: the worst case for few seeds."""
CROSSED = Binormal(n_patients=200, seed_sd=0.05)
ONE_IMAGE = Binormal(n_patients=300, images=1)
POOL = Pool(base={0.1: (1.1, 0.9), 1.0: (1.3, 1.25)})
FOURTEEN_LABELS = Binormal(n_patients=800, prevalence=tuple(np.geomspace(0.04, 0.4, 14).tolist()))

SETTINGS: dict[str, Study] = {
    "seed-dominated, 5 seeds": difference(SEED_DOMINATED, 5),
    "case-dominated, 5 seeds": difference(CASE_DOMINATED, 5),
    "mixed, 5 seeds": difference(MIXED, 5),
    "one image per patient, 5 seeds": difference(ONE_IMAGE, 5),
    "seed-dominated, 3 seeds": difference(SEED_DOMINATED, 3),
    "mixed, 3 seeds": difference(MIXED, 3),
    "even, 3 seeds": difference(EVEN, 3),
    "even, 5 seeds": difference(EVEN, 5),
    "mixed, 10 seeds": difference(MIXED, 10),
    "10 positive patients, 5 seeds": difference(Binormal(n_patients=300, positives=10, source_sd=0.5), 5),
    "20 positive patients, 5 seeds": difference(Binormal(n_patients=300, positives=20, source_sd=0.5), 5),
    "20 positive patients, 3 seeds": difference(Binormal(n_patients=300, positives=20, source_sd=0.5), 3),
    "cell of AUC 0.79, 15 positives": single_cell(Binormal(n_patients=300, positives=15), 5),
    "cell of AUC 0.95, 20 positives": single_cell(Binormal(n_patients=300, positives=20), 5, 2.5),
    "macro over 14 labels, 5 seeds": difference(FOURTEEN_LABELS, 5),
    "Dice, 60 patients, 5 seeds": dice(60, 5),
    "Dice, 30 patients, 3 seeds": dice(30, 3),
    "nested tenth of one pool, 5 seeds": POOL.difference(CASE_DOMINATED, 5, {0.1: 1.0}),
    "nested tenth of one pool, 3 seeds": POOL.difference(CASE_DOMINATED, 3, {0.1: 1.0}),
    "nested, difference of differences": POOL.difference(CASE_DOMINATED, 5, {0.1: 1.0, 1.0: -1.0}),
    "crossed seeds, 5 subsets x 2 inits": crossed(CROSSED, 5, 2, subset_sd=0.1, init_sd=0.06),
    "crossed seeds, 4 subsets x 4 inits": crossed(CROSSED, 4, 4, subset_sd=0.1, init_sd=0.06),
    "test against shifted set": shifted_set(SEED_DOMINATED, Binormal(n_patients=120, seed_sd=0.15), 5),
    "shuffled labels": single_cell(Binormal(n_patients=200, seed_sd=0.0), 5, 0.0),
}
LIMITS: dict[str, Study] = {
    "even, 2 seeds": difference(EVEN, 2),
    "cell of AUC 0.95, 10 positives": single_cell(Binormal(n_patients=300, positives=10), 5, 2.5),
}
NULLS: dict[str, tuple[str, null_studies.NullStudy]] = {
    "identical sources help or hurt, 5 seeds": ("familywise_error", null_studies.identical_sources(5)),
    "identical sources help or hurt, 3 seeds": ("familywise_error_3_seeds", null_studies.identical_sources(3)),
    "identical sources save labels, 5 seeds": ("false_savings", null_studies.plateau(5, null_studies.DELTA)),
    "identical sources save labels, 3 seeds": ("false_savings", null_studies.plateau(3, null_studies.DELTA)),
    "identical sources save labels, delta 0": ("false_savings", null_studies.plateau(5, 0.0)),
    "reaches a baseline that it stays delta short of": ("false_savings", null_studies.just_short(5)),
    "a harmless source harms a group, 5 seeds": ("false_harm", null_studies.harmless_source(5)),
    "a harmless source harms a group, 3 seeds": ("false_harm", null_studies.harmless_source(3)),
    "the best of four is excluded, 5 seeds": ("best_excluded", null_studies.lost_best(5)),
    "a true saving of nine tenths is found, 5 seeds": ("power", null_studies.saving_source(5)),
}


@dataclass(frozen=True, kw_only=True)
class Covered:
    """What the replications of a setting gave.

    Attributes:
        coverage: Of the combined interval.
        seeds_only: Of the t interval over seeds.
        width_ratio: Mean width over the width of an interval that knows the standard error of the estimate.
        bias: Mean error over that standard error.
        seconds: Wall clock.
    """

    coverage: float
    seeds_only: float
    width_ratio: float
    bias: float
    seconds: float


def cover(study: Study, replications: int, seed: int) -> Covered:
    """Replicate a setting."""
    started, rng = time.perf_counter(), np.random.default_rng([20, seed])
    outcomes = [study(rng) for _ in range(replications)]
    errors = np.array([o.estimate.value - o.truth for o in outcomes])
    widths = np.array([o.estimate.high - o.estimate.low for o in outcomes])
    return Covered(
        coverage=float(np.mean([o.estimate.low <= o.truth <= o.estimate.high for o in outcomes])),
        seeds_only=float(np.mean([_covered_by_seeds(o) for o in outcomes])),
        width_ratio=float(np.nanmean(widths) / (2 * norm.ppf(0.975) * errors.std())),
        bias=float(errors.mean() / errors.std()),
        seconds=time.perf_counter() - started,
    )


def _whole_verdicts(studies: int) -> dict[str, float]:
    """Of studies without any effect, the shares of families in which the whole verdict claims something."""
    print(f"\nWhole verdicts of {studies} studies, share of families (null_claims)\n{'false claim':52}{'share':>8}")
    found = null_verdicts.shares(VERDICT_SEEDS, studies)
    for kind, share in found.items():
        print(f"{kind + f', {VERDICT_SEEDS} seeds':52}{share:8.4f}", flush=True)
    return {"studies": studies, **{kind.replace(" ", "_"): round(share, 4) for kind, share in found.items()}}


def _covered_by_seeds(o: Outcome) -> bool:
    n = len(o.deltas)
    half = student_t.ppf(0.975, n - 1) * o.deltas.std(ddof=1) / np.sqrt(n)
    return bool(abs(o.deltas.mean() - o.truth) <= half)


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_REPLICATIONS} replications, not {REPLICATIONS}")
    replications = QUICK_REPLICATIONS if parser.parse_args().quick else REPLICATIONS
    started = time.perf_counter()
    print(f"95 % intervals, {replications} replications each")
    print(f"{'setting':38}{'coverage':>9}{'seeds only':>12}{'width/oracle':>14}{'bias/SE':>9}{'s':>7}")
    counted: list[Covered] = []
    limits: dict[str, float] = {}
    for seed, (name, study) in enumerate((SETTINGS | LIMITS).items()):
        found = cover(study, replications, seed)
        refused = name in LIMITS
        print(
            f"{name:38}{found.coverage:9.4f}{found.seeds_only:12.3f}{found.width_ratio:14.3f}{found.bias:9.2f}"
            f"{found.seconds:7.0f}{'  capped by the gates' if refused else ''}",
            flush=True,
        )
        if refused:
            limits[name] = found.coverage
        else:
            counted.append(found)
    print(f"\nDecisions, share of {replications} studies\n{'study':52}{'share':>8}{'s':>7}")
    shares: dict[str, list[float]] = {}
    for seed, (name, (kind, null)) in enumerate(NULLS.items()):
        began, rng = time.perf_counter(), np.random.default_rng([14, seed])
        share = float(np.mean([null(rng) for _ in range(replications)]))
        shares.setdefault(kind, []).append(share)
        print(f"{name:52}{share:8.4f}{time.perf_counter() - began:7.0f}", flush=True)
    verdicts = _whole_verdicts(max(1, replications // STUDIES_PER_VERDICT))
    answer = {
        "benchmark": "coverage",
        "coverage_min": round(min(c.coverage for c in counted), 4),
        "width_ratio_max": round(max(c.width_ratio for c in counted), 3),
        **{kind: round(max(values), 4) for kind, values in shares.items()},
        "whole_verdict": verdicts,
        "targets": TARGETS,
        "settings": len(counted),
        "limits": {name: round(value, 4) for name, value in limits.items()},
        "replications": replications,
        "simulation_error": round(float(norm.ppf(0.975) * np.sqrt(0.05 * 0.95 / replications)), 4),
        "seconds": round(time.perf_counter() - started),
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
