"""Similarity of representations: golden values, invariances, nulls, and the change of weights."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import orthogonal_procrustes
from scipy.spatial import procrustes as scipy_procrustes
from scipy.stats import ortho_group
from sklearn.cross_decomposition import CCA
from statsmodels.multivariate.cancorr import CanCorr

from dashboards.statistics import (
    compare_layers,
    debiased_cka,
    filter_correlation,
    hsic_terms,
    linear_cka,
    mean_cca,
    permutation_null,
    procrustes,
    pwcca,
    svcca,
    weight_changes,
)

RNG = np.random.default_rng
X23 = np.array([[1.0, 0], [0, 1], [1, 1], [2, 1], [0, 3]])
Y23 = np.array([[1.0], [2], [3], [5], [4]])
MEASURES = (debiased_cka, linear_cka, mean_cca, svcca, pwcca, procrustes)


def related(seed=0, n=300, d=6, noise=0.5):
    rng = RNG(seed)
    x = rng.normal(size=(n, d)) * np.arange(1, d + 1)
    return x, x @ rng.normal(size=(d, d)) + noise * rng.normal(size=(n, d)) + 3.0


def hsic_of_kernels(k, m):
    """Song et al. 2012, equation 5, in its own form: kernels with zero diagonals."""
    n = len(k)
    k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
    cross = k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (k @ m).sum()
    return (np.trace(k @ m) + cross) / (n * (n - 3))


def test_golden_values():
    assert linear_cka(X23, Y23).value == pytest.approx(0.3272100, abs=5e-8)
    assert debiased_cka(X23, Y23).value == pytest.approx(-0.0463739, abs=5e-8)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(4, 30))
def test_features_give_the_hsic_of_the_kernels(seed, n):
    rng = RNG(seed)
    x, y = rng.normal(size=(n, 5)) + 2, rng.normal(size=(n, 3))
    k, m = x @ x.T, y @ y.T
    found = hsic_terms(x, y)
    expected = (hsic_of_kernels(k, m), hsic_of_kernels(k, k), hsic_of_kernels(m, m))
    assert (found.xy, found.xx, found.yy) == pytest.approx(expected, abs=1e-9)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.1, 10), st.integers(-5, 5))
def test_rotation_scale_and_shift_change_nothing(seed, scale, shift):
    x, y = related(seed, n=80, d=4)
    turned = scale * x @ ortho_group.rvs(4, random_state=RNG(seed)) + shift
    for measure in MEASURES:
        assert measure(y, turned).value == pytest.approx(measure(y, x).value, abs=1e-8)
        if measure is not pwcca:  # weighs the columns of its first argument one by one
            assert measure(turned, y).value == pytest.approx(measure(x, y).value, abs=1e-8)
        assert measure(x, turned).value == pytest.approx(1.0, abs=1e-6)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_order_of_images_changes_nothing_if_it_is_the_same_for_both(seed):
    x, y = related(seed, n=60, d=4)
    order = RNG(seed).permutation(60)
    for measure in MEASURES:
        assert measure(x[order], y[order]).value == pytest.approx(measure(x, y).value, abs=1e-9)


def test_biased_cka_of_unrelated_representations_is_large_and_the_debiased_is_not():
    rng = RNG(0)
    x, y = rng.normal(size=(50, 512)), rng.normal(size=(50, 512))
    assert linear_cka(x, y).value == pytest.approx(0.914, abs=0.01)
    assert abs(debiased_cka(x, y).value) < 0.05


def test_canonical_correlations_agree_with_statsmodels_and_sklearn():
    x, y = related(1, n=200, d=4)
    reference = CanCorr(y, x).cancorr
    assert mean_cca(x, y).value == pytest.approx(reference.mean(), abs=1e-8)
    scores = CCA(n_components=1, max_iter=5000, tol=1e-10).fit_transform(x, y)
    leading = np.corrcoef(scores[0][:, 0], scores[1][:, 0])[0, 1]
    assert reference.max() == pytest.approx(leading, abs=1e-4)


def test_pwcca_weights_by_what_of_x_a_direction_accounts_for():
    """x is 99 % one signal that y shares and 1 % noise that it does not: mean CCA is near 1/2, PWCCA near 1."""
    rng = RNG(0)
    signal, a, b = rng.normal(size=(3, 500, 1))
    x, y = np.hstack([signal, 0.01 * a]), np.hstack([signal, 0.01 * b])
    assert mean_cca(x, y).value == pytest.approx(0.5, abs=0.05)
    assert pwcca(x, y).value > 0.97
    assert svcca(x, y).value == pytest.approx(1.0, abs=1e-3)
    assert svcca(x, y).dims == (1, 1)


def test_svcca_counts_variance_not_singular_values():
    rng = RNG(0)
    x = ortho_group.rvs(40, random_state=rng)[:, :2] - 0.0
    x = np.sqrt([0.995, 0.005]) * (x - x.mean(axis=0)) / np.linalg.norm(x - x.mean(axis=0), axis=0)
    assert svcca(x, rng.normal(size=(40, 1))).dims[0] == 1


def test_procrustes_agrees_with_scipy():
    x, y = related(2, n=60, d=5)
    a, b = x - x.mean(axis=0), y - y.mean(axis=0)
    _, nuclear = orthogonal_procrustes(a / np.linalg.norm(a), b / np.linalg.norm(b))
    found = procrustes(x, y).value
    assert found == pytest.approx(nuclear)
    assert scipy_procrustes(x, y)[2] == pytest.approx(1 - found**2)


def test_canonical_correlations_need_images():
    """Unrelated 60 x 40 would give 0.71; with ten images per dimension the number is small."""
    rng = RNG(0)
    few = mean_cca(rng.normal(size=(60, 40)), rng.normal(size=(60, 40)))
    assert np.isnan(few.value)
    assert few.note == "not estimable: 60 images for 40 dimensions, 10 each are needed"
    assert mean_cca(rng.normal(size=(2000, 40)), rng.normal(size=(2000, 40))).value == pytest.approx(0.12, abs=0.01)
    for measure in (svcca, pwcca):
        assert np.isnan(measure(rng.normal(size=(60, 40)), rng.normal(size=(60, 40))).value)


def test_dead_units_do_not_count_as_dimensions():
    x, y = related(0, n=100, d=4)
    padded = np.hstack([x, np.zeros((100, 20)), x[:, :1]])
    assert mean_cca(padded, y).value == pytest.approx(mean_cca(x, y).value)
    assert mean_cca(padded, y).dims == (4, 4)


def test_representations_that_do_not_vary_are_not_estimable():
    x, _ = related()
    for constant in (np.full((300, 3), 2.0), np.full((300, 3), 0.1)):  # the mean of 300 times 0.1 is not 0.1
        for measure in MEASURES:
            found = measure(x, constant)
            assert np.isnan(found.value)
            assert found.note.startswith("not estimable")
    assert np.isnan(debiased_cka(x[:3], x[:3]).value)
    with pytest.raises(ValueError, match="at least 4 images"):
        hsic_terms(x[:3], x[:3])


def test_minibatches_add_before_dividing():
    x, y = related(3, n=1024, d=6, noise=5.0)
    parts = [hsic_terms(x[k : k + 256], y[k : k + 256]) for k in range(0, 1024, 256)]
    total = parts[0] + parts[1] + parts[2] + parts[3]
    assert total.images == 1024
    assert total.cka == pytest.approx(debiased_cka(x, y).value, abs=0.01)


def test_null_of_shuffled_images():
    rng = RNG(0)
    x, y = related(0, n=200, d=5)
    null = permutation_null(linear_cka, x, y, rng, permutations=60)
    assert null.quantile < linear_cka(x, y).value
    assert null.p_value == 1 / 61
    unrelated = rng.normal(size=(40, 100))
    chance = permutation_null(linear_cka, rng.normal(size=(40, 100)), unrelated, rng, permutations=60)
    assert chance.mean > 0.6
    assert chance.p_value > 0.01
    assert abs(permutation_null(debiased_cka, x, y, rng, permutations=60).mean) < 0.01
    undefined = permutation_null(mean_cca, x[:20], y[:20], rng, permutations=3)
    assert np.isnan([undefined.mean, undefined.p_value]).all()


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("places", [1, 3])
def test_a_null_is_that_of_measures_of_shuffled_activations(measure, places):
    """What is worked out once gives what decomposing every shuffled representation anew gives."""
    rng = RNG(5)
    x = rng.normal(size=(120, places, 6)) * np.geomspace(1, 1e-3, 6)
    y = np.concatenate([x + 0.5 * rng.normal(size=x.shape), np.zeros((120, places, 2))], axis=2)
    orders = [RNG(9).permutation(120)]
    found = permutation_null(measure, x, y, RNG(9), permutations=1)
    anew = [measure(x, y[order]).value for order in orders]
    assert found.mean == pytest.approx(np.mean(anew), abs=1e-12)
    assert found.p_value == (1 + sum(value >= measure(x, y).value for value in anew)) / 2


def test_a_null_takes_the_observed_value_if_it_is_known():
    x, y = related(0, n=200, d=5)
    assert permutation_null(debiased_cka, x, y, RNG(0), 9, observed=-1.0).p_value == 1.0


def test_layers_that_cannot_be_compared_are_named():
    x, y = related()
    infinite = x.copy()
    infinite[0, 0] = np.inf
    found = compare_layers(
        debiased_cka,
        {"stem": x, "head": x, "lost": x, "burst": infinite},
        {"stem": y, "head": y[:100], "new": y, "burst": y},
    )
    assert found["stem"].value == pytest.approx(debiased_cka(x, y).value)
    assert [name for name, one in found.items() if np.isnan(one.value)] == ["head", "lost", "burst", "new"]
    assert "same n images" in found["head"].note
    assert "only one" in found["lost"].note
    assert "finite" in found["burst"].note
    with pytest.raises(ValueError, match=r"variance must lie in \(0, 1\]"):
        svcca(x, y, variance=1.5)


def test_weight_change_by_hand():
    before = {"a": [3.0, 4.0], "zero": [0.0, 0.0], "gone": [1.0], "other": np.ones((2, 3)), "burst": [1.0]}
    after = {"a": [6.0, 8.0], "zero": [1.0, 0.0], "other": np.ones((3, 2)), "new": [1.0], "burst": [np.nan]}
    found = weight_changes(before, after)
    assert (found["a"].relative_l2, found["a"].cosine, found["a"].parameters) == (1.0, pytest.approx(1.0), 2)
    assert np.isnan([found["zero"].relative_l2, found["zero"].cosine]).all()
    assert {name: bool(one.note) for name, one in found.items()} == {
        "a": False,
        "zero": False,
        "gone": True,
        "other": True,
        "burst": True,
        "new": True,
    }


def test_filters_before_and_after_training():
    rng = RNG(0)
    before = rng.normal(size=(8, 3, 5, 5))
    after = 2 * before + 1.0
    after[3] = 0.7
    found = filter_correlation(before, after)
    np.testing.assert_allclose(np.delete(found.values, 3), 1.0)
    assert np.isnan(found.values[3])
    assert (found.mean, found.constant) == (pytest.approx(1.0), 1)
    noisy = before + 0.5 * rng.normal(size=before.shape)
    expected = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(before, noisy, strict=True)]
    np.testing.assert_allclose(filter_correlation(before, noisy).values, expected)


def test_filters_of_two_networks_are_matched():
    rng = RNG(0)
    one = rng.normal(size=(6, 1, 3, 3))
    order = rng.permutation(6)
    found = filter_correlation(one, one[order], match=True)
    np.testing.assert_array_equal(order[found.partner], np.arange(6))
    assert found.mean == pytest.approx(1.0)
    fewer = filter_correlation(one, one[:4], match=True)
    assert (fewer.partner >= 0).sum() == 4
    assert np.isnan(fewer.values).sum() == 2
    assert fewer.constant == 0
    with pytest.raises(ValueError, match="filters must be"):
        filter_correlation(one, one[:4])
    with pytest.raises(ValueError, match="filters must be"):
        filter_correlation(one, one[:, :, :2], match=True)
