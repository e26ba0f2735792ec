"""Runs made by hand: seeds and patients with planted effects, no images."""

from __future__ import annotations

import numpy as np

from dashboards.statistics import Influence


def run(value, deviations, metric="nll", first_patient=0):
    """A run whose patients deviate from its value by ``deviations`` (P,), made to sum to 0."""
    centred = np.asarray(deviations, dtype=float) - np.mean(deviations)
    ids = first_patient + np.arange(len(centred))
    return Influence(metric=metric, value=float(value), patients=ids, psi=centred / len(ids), min_patients=len(ids))


def cell(values, patient_sd=0.0, n_patients=200, rng_seed=0, metric="nll", first_patient=0):
    """Runs of seeds 0, 1, ... (or of a mapping) with one set of patient deviations for all of them."""
    keyed = values if isinstance(values, dict) else dict(enumerate(values))
    deviations = np.random.default_rng(rng_seed).normal(0, patient_sd, n_patients)
    return {seed: run(value, deviations, metric, first_patient) for seed, value in keyed.items()}
