"""Where two curves cross: the point, the set by test inversion, and the sides on which it has no end."""

from __future__ import annotations

import numpy as np
import pytest

from dashboards.statistics import benefit_crossing, contrast
from tests.dashboards.runs import cell

AMOUNTS = (10.0, 100.0, 1000.0)


def study(benefits, seed_sd=0.02, seeds=6, rng_seed=0, patient_sd=0.05):
    """Curves whose difference at each amount is ``benefits``; a loss, so signs do not matter here."""
    rng = np.random.default_rng(rng_seed)
    base = [cell(rng.normal(0.5, seed_sd, seeds), patient_sd, rng_seed=1) for _ in benefits]
    source = [
        cell({s: run.value + b + rng.normal(0, seed_sd) for s, run in at.items()}, patient_sd, rng_seed=1)
        for at, b in zip(base, benefits, strict=True)
    ]
    terms = [[(1.0, a), (-1.0, b)] for a, b in zip(source, base, strict=True)]
    estimates = [contrast(a, b) for a, b in zip(source, base, strict=True)]
    return terms, estimates


def test_a_clear_crossing_is_found_between_its_amounts():
    terms, estimates = study((0.2, 0.1, -0.1))
    found = benefit_crossing(AMOUNTS, terms, estimates)
    values = [e.value for e in estimates]
    share = values[1] / (values[1] - values[2])
    assert found.point == pytest.approx(100 * 10**share)
    assert 100 < found.low < found.point < found.high < 1000
    assert not found.left_censored
    assert not found.right_censored


def test_no_change_of_sign_is_no_crossing():
    terms, estimates = study((0.2, 0.1, 0.05))
    assert benefit_crossing(AMOUNTS, terms, estimates) is None


def test_a_crossing_that_may_lie_beyond_the_amounts_is_censored():
    terms, estimates = study((0.2, 0.01, -0.005), seed_sd=0.05)
    found = benefit_crossing(AMOUNTS, terms, estimates)
    assert found is not None, f"the seed of this test gives no change of sign: {[e.value for e in estimates]}"
    assert found.right_censored
    assert found.high == pytest.approx(1000)
    assert not found.left_censored


def test_the_ends_are_where_the_test_turns():
    """At the two ends of the set, and only between them, 0 lies in the interval of the interpolated difference."""
    from scipy.stats import t

    from dashboards.statistics import linear_contrast

    terms, estimates = study((0.2, 0.1, -0.1))
    found = benefit_crossing(AMOUNTS, terms, estimates)
    for amount, inside in ((found.low * 0.97, False), (found.low * 1.03, True), (found.high * 1.03, False)):
        w = np.log10(amount / 100)
        mixed = linear_contrast([(c * (1 - w), r) for c, r in terms[1]] + [(c * w, r) for c, r in terms[2]])
        df = min(estimates[1].df, estimates[2].df)
        assert bool(abs(mixed.value) <= t.ppf(0.975, df) * mixed.se) is inside


def test_an_identical_pair_covers_the_whole_range_or_has_no_crossing():
    crossings = [benefit_crossing(AMOUNTS, *study((0.0, 0.0, 0.0), rng_seed=seed)) for seed in range(20)]
    found = [c for c in crossings if c is not None]
    assert found
    assert np.mean([c.left_censored and c.right_censored for c in found]) > 0.7


def test_covers_the_true_crossing():
    truth, hits, n = 100 * 10**0.5, 0, 150
    for seed in range(n):
        terms, estimates = study((0.1, 0.03, -0.03), rng_seed=seed, patient_sd=0.0)
        found = benefit_crossing(AMOUNTS, terms, estimates)
        hits += found is not None and found.low <= truth <= found.high
    assert hits / n > 0.9


@pytest.mark.parametrize("amounts", [(10.0, 100.0), (100.0, 10.0, 1000.0), (0.0, 1.0, 2.0)])
def test_amounts_that_do_not_fit_are_refused(amounts):
    terms, estimates = study((0.2, 0.1, -0.1))
    with pytest.raises(ValueError, match="positive, increasing amounts"):
        benefit_crossing(amounts, terms, estimates)
