"""Loss, retention and effective robustness: hand values, delta method against simulation, disjoint patients."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from scipy.stats import norm

from dashboards.statistics import (
    Influence,
    combined_interval,
    effective_robustness,
    linear_contrast,
    mean_loss,
    patient_influence,
    patient_variance,
    probit_line,
    retention,
)
from dashboards.statistics.robustness import GIVEN_THE_LINE, NO_LEVEL, NO_LINE

RNG = np.random.default_rng


def scored(site, signal, seed, n_patients=150, metric="auc"):
    """One run's metric on the patients of a site, who are the same for all seeds."""
    people = RNG(zlib.crc32(site.encode()))
    y = (people.random(n_patients) < 0.4).astype(float)
    z = people.normal(size=n_patients) + RNG(seed).normal(size=n_patients) * 0.3 + signal * y
    ids = np.array([f"{site}{k}" for k in range(n_patients)])
    return patient_influence(metric, "binary", ["d"], y, z, ids)


def runs(site, signal, metric="auc", seeds=5):
    return {s: scored(site, signal, s, metric=metric) for s in range(seeds)}


def constant(values, n=100, metric="nll"):
    """Runs without spread between patients."""
    ids = np.arange(n)
    return {
        s: Influence(metric=metric, value=v, patients=ids, psi=np.zeros(n), min_patients=n)
        for s, v in enumerate(values)
    }


def test_loss_is_signed_so_that_worse_is_positive():
    assert mean_loss("auc", [(constant([0.9]), constant([0.8]))]).value == pytest.approx(0.1)
    assert mean_loss("nll", [(constant([0.3]), constant([0.5]))]).value == pytest.approx(0.2)
    pairs = [(constant([0.9]), constant([0.8])), (constant([0.7]), constant([0.6]))]
    assert mean_loss("auc", pairs).value == pytest.approx(0.1)
    with pytest.raises(ValueError, match="at least one pair"):
        mean_loss("auc", [])


def test_disjoint_patients_add_and_shared_ones_pair():
    near, far = runs("here", 1.5), runs("there", 1.0)
    found = mean_loss("auc", [(near, far)])
    assert found.n_patients == 300
    own = [patient_variance([(1 / 5, i) for i in side.values()]).variance for side in (near, far)]
    assert found.v_case == pytest.approx(sum(own))
    assert mean_loss("auc", [(near, near)]).v_case == pytest.approx(0, abs=1e-15)


def test_retention_is_the_ratio_of_the_means():
    found = retention(constant([0.4, 0.6], metric="nll"), constant([0.9, 1.1], metric="nll"))
    assert found.value == pytest.approx(2.0)
    assert np.isnan(found.p)
    above_chance = retention(constant([0.9], metric="auc"), constant([0.7], metric="auc"), floor=0.5)
    assert above_chance.value == pytest.approx(0.5)


def test_retention_interval_agrees_with_a_bootstrap_of_the_ratio():
    near, far = runs("here", 1.5, "brier"), runs("there", 0.5, "brier")
    found = retention(near, far)
    rng = RNG(0)
    draws = []
    for _ in range(4000):
        values = []
        for side in (near, far):
            first = side[0]
            weight = rng.multinomial(first.n_patients, np.full(first.n_patients, 1 / first.n_patients))
            mean_psi = np.mean([i.psi for i in side.values()], axis=0)
            values.append(np.mean([i.value for i in side.values()]) + weight @ mean_psi)
        draws.append(values[1] / values[0])
    case_only = np.sqrt(found.v_case)
    assert np.std(draws) == pytest.approx(case_only, rel=0.06)
    assert found.low < found.value < found.high
    assert np.log(found.high / found.value) == pytest.approx(np.log(found.value / found.low))


def test_retention_without_a_level_to_retain():
    found = retention(constant([0.5], metric="auc"), constant([0.6], metric="auc"), floor=0.5)
    assert np.isnan([found.value, found.low, found.high, found.se]).all()
    assert NO_LEVEL in found.notes
    assert np.isnan(retention({}, {}).value)
    below = retention(runs("here", 1.5), runs("there", -1.0), floor=0.5)
    assert below.value < 0
    assert below.low < below.value < below.high


def test_the_line_recovers_what_it_was_drawn_from():
    x = np.array([0.6, 0.7, 0.8, 0.9, 0.95])
    found = probit_line(x, norm.cdf(-0.3 + 0.8 * norm.ppf(x)))
    assert (found.intercept, found.slope, found.models) == (pytest.approx(-0.3), pytest.approx(0.8), 5)
    np.testing.assert_allclose(found.expected(x), norm.cdf(-0.3 + 0.8 * norm.ppf(x)))
    step = 1e-6
    numeric = (found.expected(0.85 + step) - found.expected(0.85 - step)) / (2 * step)
    assert found.gradient(0.85) == pytest.approx(float(numeric), rel=1e-6)


def test_a_line_that_cannot_be_fitted():
    for x, y in (([0.8, 0.9], [0.7, 0.8]), ([0.8, 0.8, 0.8], [0.6, 0.7, 0.8]), ([0.8, 0.9, 1.0], [0.7, 0.8, 0.9])):
        found = probit_line(x, y)
        assert np.isnan([found.intercept, found.slope]).all()
    assert found.left_out == 1
    nothing = effective_robustness(found, runs("here", 1.5), runs("there", 1.0))
    assert np.isnan(nothing.value)
    assert NO_LINE in nothing.notes
    with pytest.raises(ValueError, match=r"shape \(K,\)"):
        probit_line([0.5, 0.6], [0.5])


def test_effective_robustness_is_the_distance_to_the_line():
    line = probit_line([0.6, 0.7, 0.8, 0.9], [0.6, 0.7, 0.8, 0.9])
    near, far = runs("here", 1.5), runs("there", 1.0)
    found = effective_robustness(line, near, far)
    assert found.value == pytest.approx(np.mean([far[s].value - near[s].value for s in near]))
    assert GIVEN_THE_LINE in found.notes
    plain = linear_contrast([(1.0, far), (-1.0, near)])
    assert found.se == pytest.approx(plain.se)
    steep = probit_line([0.6, 0.7, 0.8, 0.9], norm.cdf(2.0 * norm.ppf([0.6, 0.7, 0.8, 0.9])))
    bent = effective_robustness(steep, near, far)
    slopes = [steep.gradient(i.value) for i in near.values()]
    near_alone = patient_variance([(g / 5, i) for g, i in zip(slopes, near.values(), strict=True)]).variance
    far_alone = patient_variance([(1 / 5, i) for i in far.values()]).variance
    assert bent.v_case == pytest.approx(near_alone + far_alone)


def test_a_model_on_the_line_has_no_effective_robustness():
    """Coverage-like check: across many test sets the standardised distance of models on the line has mean 0, SD 1."""
    line = probit_line([0.6, 0.7, 0.8, 0.9], [0.6, 0.7, 0.8, 0.9])
    scores = []
    for k in range(200):
        near, far = ({0: scored(f"{site}{k}", 1.2, k)} for site in ("near", "far"))
        found = effective_robustness(line, near, far)
        scores.append(found.value / found.se)
    assert abs(np.mean(scores)) < 3 / np.sqrt(200)
    assert np.std(scores) == pytest.approx(1.0, abs=0.15)


def test_seeds_that_one_side_lacks_are_named():
    near, far = runs("here", 1.5), runs("there", 1.0)
    del far[3]
    found = retention(near, far)
    assert found.n_seeds == 4
    assert any("3" in note and "left out" in note for note in found.notes)
    assert combined_interval(near).n_seeds == 5
