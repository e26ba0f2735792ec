"""What the benchmark times is what it says: ECE of the definition, and scikit-learn's bootstrap beside ours."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from scipy.special import logit
from sklearn.metrics import roc_auc_score

from benchmarks.simulated_studies import Binormal, EvaluationSet, slopes
from benchmarks.statistics import ece_draws, sklearn_draws
from dashboards.statistics import combined_interval, index_patients, patient_weights


def test_draws_of_ece_with_every_patient_once_are_the_ece():
    p = np.array([0.05, 0.1, 0.15, 0.2, 0.35, 0.4, 0.55, 0.6, 0.7, 0.8, 0.9, 0.95])
    y = np.array([0, 0, 1, 0, 0, 1, 0, 1, 1, 1, 1, 1.0])
    edges = np.linspace(0, 1, 16)
    inside = [(p > a) & (p <= b) for a, b in pairwise(edges)]
    expected = sum(abs((y - p)[i].sum()) for i in inside) / 12
    images = EvaluationSet(
        design=Binormal(n_patients=6), y=y[:, None], shared=np.zeros((12, 1)), index=index_patients(np.arange(12) // 2)
    )
    assert ece_draws(images, logit(p)[:, None], np.ones((1, 6)))[0] == pytest.approx(expected)


def test_scikit_learns_bootstrap_agrees_with_the_closed_form():
    rng = np.random.default_rng(0)
    images = Binormal(n_patients=300, prevalence=(0.3, 0.4), images=3).evaluation_set(rng).thinned(600, rng)
    z = images.logits(slopes(1.2, 0.0, 1, rng), rng)[0]
    assert len(images.y) == len(z) == 600
    assert len(np.unique(images.index.codes)) == 300
    closed = combined_interval({0: images.scored(z)})
    assert closed.value == pytest.approx(roc_auc_score(images.y, z, average="macro"))
    assert sklearn_draws(images, z, 400, rng).std(ddof=1) == pytest.approx(closed.se, rel=0.12)
    weights = patient_weights(300, 50, rng)
    assert np.isfinite(ece_draws(images, z, weights)).all()
