"""Batched logistic regression: the same solutions as scikit-learn's, whatever is solved beside them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

import trainables.logistic
from search_spaces.exceptions import DataError
from trainables.logistic import TOLERANCE, fit_logistic
from trainables.logistic_path import _BLOCK, LogisticPath

N, D = 120, 30
PENALTIES = [1e-3, 0.1, 3.0]
AGREES = 1e-3


def features(seed=0, n=N, d=D):
    rng = np.random.default_rng(seed)
    latent = rng.normal(size=(n, 6))
    mixed = latent @ rng.normal(size=(6, d)) + rng.normal(size=(n, d))
    return (mixed * np.exp(0.3 * rng.normal(size=d)) + 0.5).astype(np.float32), latent


def prefixes(*sizes, seed=1):
    order = np.random.default_rng(seed).permutation(N)
    return [np.sort(order[:size]) for size in sizes]


def reference(x, rows, y, c, standardise):
    x = x.astype(np.float64)
    if standardise:
        deviation = x[rows].std(0)
        x = (x - x[rows].mean(0)) / np.where(deviation > 0, deviation, 1)
    known = rows[~np.isnan(y[rows])]
    return LogisticRegression(C=c, tol=1e-10, max_iter=20000).fit(x[known], y[known]).decision_function(x)


@pytest.mark.parametrize("standardise", [True, False])
@pytest.mark.parametrize("size", [12, 25, 100])
def test_three_classes_agree_with_scikit_learn(standardise, size):
    x, latent = features()
    y = latent[:, :3].argmax(1)
    subsets = prefixes(size, N)  # subsets of very different size beside it
    fits = fit_logistic(torch.from_numpy(x), y, 3, subsets, PENALTIES, standardise=standardise)
    assert fits.converged.all()
    for at, rows in enumerate(subsets):
        ours = fits.logits(torch.from_numpy(x), at).numpy()
        for k, c in enumerate(PENALTIES):
            theirs = reference(x, rows, y.astype(float), c, standardise)
            theirs -= theirs.mean(1, keepdims=True)
            assert np.abs(ours[k] - ours[k].mean(1, keepdims=True) - theirs).max() < AGREES


def test_two_classes_have_the_logits_of_one():
    x, latent = features(1)
    y = (latent[:, 0] > 0.5).astype(np.int64)
    (rows,) = prefixes(60)
    fits = fit_logistic(torch.from_numpy(x), y, 2, [rows], PENALTIES)
    ours = fits.logits(torch.from_numpy(x), 0).numpy()
    for k, c in enumerate(PENALTIES):
        assert np.abs(ours[k, :, 1] - ours[k, :, 0] - reference(x, rows, y.astype(float), c, True)).max() < AGREES
        assert np.allclose(ours[k].sum(1), 0)


def test_labels_are_problems_of_their_own_and_unknown_ones_are_left_out():
    x, latent = features(2)
    y = (latent[:, :3] > [0.0, 0.5, -1.0]).astype(np.float64)
    y[np.random.default_rng(3).random(y.shape) < 0.2] = np.nan
    subsets = prefixes(40, 50, 110)
    fits = fit_logistic(torch.from_numpy(x), y, 3, subsets, PENALTIES, standardise=False)
    for at, rows in enumerate(subsets):
        ours = fits.logits(torch.from_numpy(x), at).numpy()
        for k, c in enumerate(PENALTIES):
            for label in range(3):
                assert np.abs(ours[k, :, label] - reference(x, rows, y[:, label], c, False)).max() < AGREES


def test_a_soft_label_counts_in_proportion():
    x, latent = features(4)
    y = (latent[:, :1] > 0).astype(np.float64)
    soft = y.copy()
    soft[:20] = 0.7
    rows = np.arange(80)
    fits = fit_logistic(torch.from_numpy(x), soft, 1, [rows], [0.1], standardise=False)
    twice = np.concatenate([rows, rows[:20]])
    hard = np.concatenate([y[rows, 0], np.zeros(20)])
    hard[:20] = 1
    weight = np.concatenate([np.full(20, 0.7), np.ones(60), np.full(20, 0.3)])
    double = x.astype(np.float64)  # scikit-learn would fit in float32
    model = LogisticRegression(C=0.1, tol=1e-10, max_iter=20000).fit(double[twice], hard, weight)
    ours = fits.logits(torch.from_numpy(x), 0)[0, :, 0].numpy()
    assert np.abs(ours - model.decision_function(double)).max() < AGREES


def test_what_is_solved_beside_a_problem_and_in_which_order_hardly_matters_and_repeats_bit_for_bit():
    x, latent = features(5)
    y = latent[:, :4].argmax(1)
    subsets = prefixes(30, 33, 100)
    together = fit_logistic(torch.from_numpy(x), y, 4, subsets, PENALTIES)
    again = fit_logistic(torch.from_numpy(x), y, 4, subsets, PENALTIES)
    assert torch.equal(together.weights, again.weights)
    assert torch.equal(together.intercepts, again.intercepts)
    for at, rows in enumerate(subsets):
        alone = fit_logistic(torch.from_numpy(x), y, 4, [rows], PENALTIES[::-1])
        difference = alone.logits(torch.from_numpy(x), 0).flip(0) - together.logits(torch.from_numpy(x), at)
        assert difference.abs().max() < 2 * AGREES


def test_equal_subsets_are_solved_once(monkeypatch):
    x, latent = features(6)
    y = latent[:, :3].argmax(1)
    made = []
    design = trainables.logistic._design

    def counted(*arguments):
        made.append(arguments)
        return design(*arguments)

    monkeypatch.setattr("trainables.logistic._design", counted)
    fits = fit_logistic(torch.from_numpy(x), y, 3, [np.arange(N), np.arange(60), np.arange(N)], [1.0])
    assert len(made) == 2
    assert torch.equal(fits.weights[0], fits.weights[2])
    assert not torch.equal(fits.weights[0], fits.weights[1])


def test_a_constant_feature_and_more_features_than_images_do_no_harm():
    x, latent = features(7, d=200)
    x[:, 5] = 2.5
    y = latent[:, :3].argmax(1)
    (rows,) = prefixes(20)
    fits = fit_logistic(torch.from_numpy(x), y, 3, [rows], [0.1])
    assert fits.converged.all()
    assert np.isfinite(fits.weights.numpy()).all()
    assert abs(fits.weights[0, 0, :, 5]).max() < 1e-9


@pytest.mark.parametrize(
    ("targets", "outputs", "words"),
    [
        (np.arange(N) % 2, 3, "classes \\[2\\] have no image"),
        (np.ones((N, 1)), 1, "label 0 has 120 known values"),
        (np.full((N, 1), np.nan), 1, "label 0 has 0 known values"),
    ],
)
def test_an_outcome_without_an_image_cannot_be_learnt(targets, outputs, words):
    x, _ = features()
    with pytest.raises(DataError, match=words):
        fit_logistic(torch.from_numpy(x), targets, outputs, [np.arange(N)], [1.0])


def test_a_weak_penalty_alone_agrees_with_the_end_of_a_path_and_with_newtons_method():
    x, latent = features(9, n=400, d=2 * _BLOCK)  # the Hessian is computed in several blocks
    y = (latent[:, 0] + 0.1 * latent[:, 1] > 0).astype(np.int64)
    pool, rows = torch.from_numpy(x), np.arange(350)
    alone = fit_logistic(pool, y, 2, [rows], [30.0])
    path = fit_logistic(pool, y, 2, [rows], [30.0, 1.0, 0.01])
    assert alone.converged.all()
    assert path.converged.all()
    assert (alone.logits(pool, 0)[0] - path.logits(pool, 0)[0]).abs().max() < AGREES
    assert np.abs(alone.logits(pool, 0)[0].numpy() - newton(x, rows, y, 30.0)).max() < AGREES


def newton(x, rows, y, c):
    """Logits of all images of the exact solution on standardised features, centred over classes."""
    scaled = (x - x[rows].astype(np.float64).mean(0)) / x[rows].astype(np.float64).std(0)
    found = LogisticRegression(C=c, tol=1e-12, solver="newton-cholesky").fit(scaled[rows], y[rows])
    logits = found.decision_function(scaled)
    return np.stack([-logits / 2, logits / 2], axis=1) if logits.ndim == 1 else logits - logits.mean(1, keepdims=True)


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("size", [40, 250])  # fewer and more images than features; the former are told apart
def test_a_path_in_uneven_strides_agrees_with_newtons_method(classes, size):
    x, latent = features(11, n=300, d=64)
    y = latent[:, :classes].argmax(1)
    rows = np.sort(np.random.default_rng(12).permutation(300)[:size])
    penalties = [1e-5, 2e-5, 2e-5, 0.05, 0.1, 100.0]  # a line through the last two is far off, or there is none
    fits = fit_logistic(torch.from_numpy(x), y, classes, [rows], penalties)
    assert fits.converged.all()
    ours = fits.logits(torch.from_numpy(x), 0).numpy()
    for k, c in enumerate(penalties):
        assert np.abs(ours[k] - ours[k].mean(1, keepdims=True) - newton(x, rows, y, c)).max() < AGREES


@pytest.mark.parametrize(("decays", "lowers"), [((100.0, 10.0, 1.0), True), ((10.0, 9.0, 1e-12), False)])
def test_a_path_starts_further_on_only_where_that_is_better(monkeypatch, decays, lowers):
    """Labels at random end at finite weights, which the line has passed where lambda is nearly 0."""
    x, latent = features(13)
    z = torch.cat([torch.from_numpy(x - x.mean(0)).double(), torch.ones(N, 1, dtype=torch.float64)], 1)[None]
    y = torch.from_numpy(np.random.default_rng(15).permutation(latent[:, 0] > 0)).double()[None, None, None]
    path = LogisticPath(z, y, torch.ones_like(y))

    def objective(v):
        scores = v[0, 0] @ z[0].mT
        losses = torch.nn.functional.softplus(scores) - y[0, 0] * scores
        return float(losses.sum() + decays[2] / 2 * v[..., :-1].square().sum())

    path.follow(decays[0], TOLERANCE)
    last = path.follow(decays[1], TOLERANCE).v
    monkeypatch.setattr("trainables.logistic_path.MOST_STEPS", 0)
    start = path.follow(decays[2], TOLERANCE).v
    assert objective(start) < objective(last) if lowers else torch.equal(start, last)


def test_problems_solved_one_by_one_agree_with_those_solved_together(monkeypatch):
    x, latent = features(14)
    y = latent[:, :3].argmax(1)
    subsets = prefixes(30, 31, 100, 110)
    together = fit_logistic(torch.from_numpy(x), y, 3, subsets, PENALTIES)
    monkeypatch.setattr("trainables.logistic._GROUP_BYTES", {"cpu": 1, "cuda": 1})
    single = fit_logistic(torch.from_numpy(x), y, 3, subsets, PENALTIES)
    for at in range(len(subsets)):
        difference = single.logits(torch.from_numpy(x), at) - together.logits(torch.from_numpy(x), at)
        assert difference.abs().max() < 2 * AGREES


def test_a_hessian_that_is_not_positive_is_mended(monkeypatch):
    x, latent = features(10)
    y = (latent[:, 0] > 0).astype(np.int64)
    usual = fit_logistic(torch.from_numpy(x), y, 2, [np.arange(N)], PENALTIES)
    monkeypatch.setattr("trainables.logistic_path._RIDGES", (-2.0, 0.1))  # the first one makes it negative
    mended = fit_logistic(torch.from_numpy(x), y, 2, [np.arange(N)], PENALTIES)
    assert mended.converged.all()
    assert (mended.logits(torch.from_numpy(x), 0) - usual.logits(torch.from_numpy(x), 0)).abs().max() < AGREES


def test_what_did_not_converge_says_so(monkeypatch):
    x, latent = features(8)
    monkeypatch.setattr("trainables.logistic_path.MOST_STEPS", 5)
    fits = fit_logistic(torch.from_numpy(x), latent[:, :3].argmax(1), 3, [np.arange(N)], [1e-9, 1000.0])
    assert fits.converged.tolist() == [[True, False]]
    assert fits.errors[0, 0] <= TOLERANCE < fits.errors[0, 1]


@pytest.mark.parametrize("c", [1.0, 1e5])  # coordinates by Cholesky; by QR, as its shift would be felt
def test_images_that_occur_twice_do_no_harm(c):
    x, latent = features(16, d=200)
    x[60:] = x[:60]
    y = (latent[:, 0] > 0).astype(np.int64)
    y[80:] = y[20:60]
    y[60:80] = 1 - y[:20]  # images that are the one as well as the other
    rows = np.arange(N)
    fits = fit_logistic(torch.from_numpy(x), y, 2, [rows], [c])
    assert fits.converged.all()
    z = fits.logits(torch.from_numpy(x), 0).numpy()[0]
    if c > 1:
        assert np.abs(z[:20]).max() < AGREES
        assert np.abs(z[20:60]).min() > 3
    else:
        assert np.abs(z - newton(x, rows, y, c)).max() < AGREES


@pytest.mark.parametrize("size", [20, 200])
def test_small_subsets_have_the_products_of_their_images(size):
    x, _ = features(17, n=size, d=300)
    rows = np.arange(size)
    wanted = trainables.logistic._design(torch.from_numpy(x), rows, True, 0.0)
    found = trainables.logistic._design(torch.from_numpy(x), rows, True, 1.0)
    assert wanted.images is None
    assert found.axes is None
    difference = found.coordinates @ found.coordinates.mT - wanted.coordinates @ wanted.coordinates.mT
    assert difference.abs().max() < 1e-9
    v = torch.randn(2, 3, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    scores = (found.weights(v) * found.scale) @ ((torch.from_numpy(x).double() - found.mean) / found.scale).mT
    of_images = torch.linalg.solve_triangular(found.coordinates.mT, v.flatten(0, 1).mT, upper=True)
    shift = found.coordinates.square().sum() * trainables.logistic._SHIFT
    assert torch.allclose(scores + 1.0 * shift * of_images.mT.unflatten(0, (2, 3)), v @ found.coordinates.mT, atol=1e-6)


@pytest.mark.parametrize("triangular", [True, False])
def test_hessians_of_triangular_coordinates(triangular):
    size = _BLOCK + 9
    z = torch.randn(2, size, size + 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    z[..., -1] = 1
    if triangular:
        z[..., :-1] = z[..., :-1].tril()
    y = torch.ones(2, 1, 1, size, dtype=torch.float64)
    found = LogisticPath(z, y, torch.ones_like(y), triangular)._unpenalised_hessian()[:, 0, 0]
    assert torch.allclose(found.tril(), (z.mT @ z / 4).tril().float(), atol=1e-3)


def test_what_is_near_and_slow_gets_its_hessian_later(monkeypatch):
    x, latent = features(18, n=300, d=64)
    y = (latent[:, 0] + 0.5 * np.random.default_rng(0).normal(size=300) > 0).astype(np.int64)
    rows, penalties = np.arange(300), [1e-5, 1e-2, 1e3]

    def steps(every):
        monkeypatch.setattr("trainables.logistic_path._FAR", float("inf"))
        monkeypatch.setattr("trainables.logistic_path._HESSIAN_EVERY", every)
        fits = fit_logistic(torch.from_numpy(x), y, 2, [rows], penalties)
        assert fits.converged.all()
        return fits.steps.sum()

    assert steps(6) < steps(500)
