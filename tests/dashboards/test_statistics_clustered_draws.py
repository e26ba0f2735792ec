"""Estimates from cluster-bootstrap draws agree with the closed forms and take their place where those have none."""

from __future__ import annotations

import numpy as np
import pytest

from dashboards.statistics import (
    DrawnRun,
    bootstrap_contrast,
    bootstrap_draws,
    contrast,
    contrast_with_fallback,
    index_patients,
    patient_influence,
    patient_weights,
)
from dashboards.statistics.clustered_draws import BOOTSTRAP
from dashboards.statistics.contrasts import FEW_PATIENTS, NOT_ESTIMABLE

N = 300
PATIENT = index_patients(np.repeat(np.arange(N), 2))
TRUTH = np.repeat((np.arange(N) % 4 == 0).astype(float), 2)


def both_forms(strength, weights, rng_seed, metric="auc"):
    """Three seeds in closed form and as draws."""
    rng = np.random.default_rng(rng_seed)
    offset = np.random.default_rng(5).normal(size=N)[PATIENT.codes]
    closed, drawn = {}, {}
    for seed in range(3):
        z = strength * TRUTH + offset + rng.normal(size=len(TRUTH))
        args = (metric, "binary", ["d"], TRUTH, z, PATIENT)
        closed[seed] = patient_influence(*args)
        drawn[seed] = DrawnRun(
            value=closed[seed].value,
            draws=bootstrap_draws(*args, weights),
            evaluation_set="test",
            n_patients=N,
            min_patients=closed[seed].min_patients,
        )
    return closed, drawn


def test_agrees_with_the_closed_form():
    weights = patient_weights(N, 3000, np.random.default_rng(0))
    (closed_a, drawn_a), (closed_b, drawn_b) = both_forms(2.0, weights, 1), both_forms(1.5, weights, 2)
    closed, drawn = contrast(closed_a, closed_b), bootstrap_contrast([(1.0, drawn_a), (-1.0, drawn_b)])
    assert drawn.value == pytest.approx(closed.value)
    assert drawn.v_seed == pytest.approx(closed.v_seed)
    assert drawn.v_case == pytest.approx(closed.v_case, rel=0.1)
    assert (drawn.low, drawn.high) == pytest.approx((closed.low, closed.high), abs=0.2 * closed.se)
    assert (
        contrast_with_fallback([(1.0, closed_a), (-1.0, closed_b)], draws=lambda: pytest.fail("not needed")) == closed
    )


def fixed_run(draws, value=0.5, name="test", n_patients=50, min_patients=50):
    return DrawnRun(
        value=value, draws=np.asarray(draws), evaluation_set=name, n_patients=n_patients, min_patients=min_patients
    )


def test_shared_draws_cancel_and_disjoint_sets_add():
    noise = np.random.default_rng(0).normal(0, 0.1, 500)
    same = bootstrap_contrast([(1.0, {0: fixed_run(noise)}), (-1.0, {0: fixed_run(noise, 0.4)})])
    assert same.v_case == 0.0
    apart = bootstrap_contrast([(1.0, {0: fixed_run(noise)}), (-1.0, {0: fixed_run(noise, 0.4, "site")})])
    assert apart.v_case == pytest.approx(2 * noise.var(ddof=1))
    assert apart.n_patients == 100


def test_too_many_undefined_draws_leave_no_interval():
    draws = np.r_[np.full(10, np.nan), np.random.default_rng(0).normal(size=90)]
    found = bootstrap_contrast([(1.0, {0: fixed_run(draws), 1: fixed_run(draws)})])
    assert np.isnan([found.low, found.high, found.p]).all()
    assert NOT_ESTIMABLE in found.notes


def test_too_few_patients_are_not_tested():
    draws = np.random.default_rng(0).normal(size=90)
    found = bootstrap_contrast([(1.0, {0: fixed_run(draws, min_patients=19), 1: fixed_run(draws, min_patients=19)})])
    assert np.isnan(found.p)
    assert FEW_PATIENTS in found.notes


def test_unequal_draws_are_refused():
    with pytest.raises(ValueError, match="runs on test need the same draws"):
        bootstrap_contrast([(1.0, {0: fixed_run(np.zeros(5))}), (-1.0, {0: fixed_run(np.zeros(6))})])


def test_where_the_closed_form_finds_no_variance_the_draws_are_taken_and_named():
    """Each patient has one positive and one negative image with equal ranks: all first-order contributions vanish."""
    y, patient = np.tile([1.0, 0.0], 40), np.repeat(np.arange(40), 2)
    z = np.tile([0.0, 0.0], 40)
    args = ("auc", "binary", ["d"], y, z, patient)
    terms = [(1.0, {s: patient_influence(*args) for s in range(2)})]
    drawn = fixed_run(0.5 + np.random.default_rng(0).normal(0, 0.01, 400), n_patients=40, min_patients=40)
    found = contrast_with_fallback(terms, lambda: [(1.0, {0: drawn, 1: drawn})])
    assert found.v_case == pytest.approx(0.0001, rel=0.2)
    assert BOOTSTRAP in found.notes
