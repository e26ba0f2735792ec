"""Seconds for the statistics of a large evaluation set: ``python -m benchmarks.statistics [--quick]``.

14 labels, 25,000 images of 10,000 patients, 5 paired seeds of two sources. Timed: the macro AUC of all ten runs with
the interval of their difference over seeds and patients; 2,000 cluster-bootstrap draws of the expected calibration
error of one run; and the interval of one run's macro AUC by our closed form against a patient bootstrap of
scikit-learn's ``roc_auc_score`` with 200 draws (``--quick``: 3 draws, scaled, and a tenth of the images).
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from benchmarks.simulated_studies import Binormal, EvaluationSet, slopes
from dashboards.statistics import (
    Estimate,
    combined_interval,
    contrast,
    patient_sums,
    patient_weights,
    percentile_interval,
)

FloatArray = NDArray[np.float64]

SEEDS = 5
IMAGES_PER_PATIENT = 2.5
ECE_DRAWS = 2000
ECE_BINS = 15
SKLEARN_DRAWS = 200
QUICK_DRAWS = 3
TARGETS = {"macro_auc_s": 1.0, "bootstrap_ece_s": 10.0, "ratio_to_sklearn": 50.0}
REPEATS = 5


def timed(work: Callable[[], Estimate], repeats: int) -> tuple[float, Estimate]:
    """Least seconds of some repeats, and the result."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        found = work()
        seconds.append(time.perf_counter() - started)
    return min(seconds), found


def ece_draws(images: EvaluationSet, logits: FloatArray, weights: FloatArray) -> FloatArray:
    """(B,) mean over labels of the expected calibration error, 15 equal-width bins of the positive class.

    ``sum over bins of |sum of (y - p)| / n`` is a function of sums over images, so patients carry them.
    """
    p = expit(logits)
    bins = np.clip(np.ceil(p * ECE_BINS).astype(int) - 1, 0, ECE_BINS - 1)
    ones = weights @ patient_sums(np.ones((len(p), 1)), images.index)
    total = np.zeros(len(weights))
    for k in range(p.shape[1]):
        gaps = (images.y[:, k] - p[:, k])[:, None] * (bins[:, [k]] == np.arange(ECE_BINS))
        total += np.abs(weights @ patient_sums(gaps, images.index)).sum(axis=1)
    return np.asarray(total / ones[:, 0] / p.shape[1])


def sklearn_draws(images: EvaluationSet, logits: FloatArray, n_draws: int, rng: np.random.Generator) -> FloatArray:
    """(n_draws,) macro AUC of patients drawn with replacement, all their images with them."""
    order = np.argsort(images.index.codes, kind="stable")
    ends = np.searchsorted(images.index.codes[order], np.arange(len(images.index.ids) + 1))
    rows_of = [order[a:b] for a, b in pairwise(ends)]
    draws = []
    for _ in range(n_draws):
        rows = np.concatenate([rows_of[p] for p in rng.integers(len(rows_of), size=len(rows_of))])
        draws.append(roc_auc_score(images.y[rows], logits[rows], average="macro"))
    return np.array(draws)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help=f"{QUICK_DRAWS} draws of scikit-learn, scaled; fewer images"
    )
    quick = parser.parse_args().quick
    rng = np.random.default_rng(0)
    n_patients = 1000 if quick else 10_000
    design = Binormal(n_patients=n_patients, prevalence=tuple(np.geomspace(0.04, 0.4, 14).tolist()), images=5)
    images = design.evaluation_set(rng).thinned(round(IMAGES_PER_PATIENT * n_patients), rng)
    cells = [images.logits(slopes(shift, 0.06, SEEDS, rng), rng) for shift in (1.3, 1.2)]

    def all_runs() -> Estimate:
        a, b = ({seed: images.scored(z) for seed, z in cell.items()} for cell in cells)
        return contrast(a, b)

    macro_auc_s, difference = timed(all_runs, REPEATS)
    one = cells[0][0]
    one_run_s, closed = timed(lambda: combined_interval({0: images.scored(one)}), REPEATS)
    started = time.perf_counter()
    ece = percentile_interval(ece_draws(images, one, patient_weights(n_patients, ECE_DRAWS, rng)))
    bootstrap_ece_s = time.perf_counter() - started
    n_draws = QUICK_DRAWS if quick else SKLEARN_DRAWS
    started = time.perf_counter()
    bootstrap = sklearn_draws(images, one, n_draws, rng)
    sklearn_s = (time.perf_counter() - started) * SKLEARN_DRAWS / n_draws
    print(f"{len(images.y)} images, {n_patients} patients, 14 labels; {os.cpu_count()} CPUs; seconds")
    print(f"{macro_auc_s:9.3f}  macro AUC of 2 x {SEEDS} runs and the interval of their difference")
    print(f"{'':11}difference {difference.value:+.4f}, 95 % {difference.low:+.4f} to {difference.high:+.4f}")
    print(f"{bootstrap_ece_s:9.3f}  {ECE_DRAWS} cluster-bootstrap draws of ECE: {ece.low:.4f} to {ece.high:.4f}")
    print(f"{one_run_s:9.3f}  interval of one macro AUC, closed form: SE {closed.se:.5f}")
    print(f"{sklearn_s:9.3f}  the same by {SKLEARN_DRAWS} draws of scikit-learn: SE {bootstrap.std(ddof=1):.5f}")
    answer = {
        "benchmark": "statistics",
        "macro_auc_s": round(macro_auc_s, 3),
        "bootstrap_ece_s": round(bootstrap_ece_s, 3),
        "ratio_to_sklearn": round(sklearn_s / one_run_s, 1),
        "targets": TARGETS,
        "images": len(images.y),
        "patients": n_patients,
        "one_run_s": round(one_run_s, 4),
        "sklearn_s": round(sklearn_s, 2),
        "sklearn_draws_measured": n_draws,
        "load_average": round(os.getloadavg()[0], 1),
    }
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
