"""Where the uncertainty comes from."""

from __future__ import annotations

import numpy as np
import pytest

from dashboards.statistics import SeedDesign, contrast, variance_split
from tests.dashboards.runs import cell


def test_shares_are_those_of_the_contrast():
    a, b = cell([0.8, 0.82, 0.84], patient_sd=0.2, rng_seed=1), cell([0.7, 0.74, 0.73], patient_sd=0.2, rng_seed=2)
    found, whole = variance_split([(1.0, a), (-1.0, b)]), contrast(a, b)
    assert found.patients == pytest.approx(whole.v_case / whole.se**2)
    assert found.seeds == pytest.approx(whole.v_seed / whole.se**2)
    assert (found.design, found.subset) == (SeedDesign.CONFOUNDED, None)


def test_crossed_seeds_are_split_and_the_parts_sum_up():
    """Averaged over studies, subset, initialisation and interaction shares are the planted ones."""
    rng = np.random.default_rng(0)
    sd, n_subsets, n_inits = {"subset": 0.03, "initialisation": 0.02, "interaction": 0.01}, 6, 4
    shares = []
    for _ in range(300):
        s, i = rng.normal(0, sd["subset"], n_subsets), rng.normal(0, sd["initialisation"], n_inits)
        rest = rng.normal(0, sd["interaction"], (n_subsets, n_inits))
        values = {(j, k): 0.8 + s[j] + i[k] + rest[j, k] for j in range(n_subsets) for k in range(n_inits)}
        found = variance_split([(1.0, cell(values))])
        parts = (found.subset, found.initialisation, found.interaction)
        assert sum(parts) == pytest.approx(found.seeds)
        assert found.patients == 0.0
        shares.append(parts)
    of_mean = np.array([0.03**2 / 6, 0.02**2 / 4, 0.01**2 / 24])
    assert np.mean(shares, axis=0) == pytest.approx(of_mean / of_mean.sum(), abs=0.06)


def test_nothing_to_split():
    assert variance_split([(1.0, cell([0.8]))]) is None
    assert variance_split([(1.0, cell([0.8, 0.8]))]) is None
    assert variance_split([(1.0, cell([0.8, 0.9])), (-1.0, cell({7: 0.8, 8: 0.9}))]) is None


def test_crossed_seeds_of_which_neither_shows_leave_the_interaction_as_noise():
    from dashboards.statistics import seed_spread

    found = seed_spread({(0, 0): 0.7, (0, 1): 0.8, (1, 0): 0.8, (1, 1): 0.7})
    assert found.variance == pytest.approx(0.01 / 4)
    assert found.df == pytest.approx(1.0)
