"""Metrics against scikit-learn, their invariances, and what happens to input that does not fit."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.special import expit, softmax
from sklearn import metrics as sk

from dashboards.statistics import (
    check_predictions,
    compute_metrics,
    count_labels,
    ensemble_logits,
    frozen_class_set,
    higher_is_better,
    metric_names,
)
from search_spaces.names import Kind

LABELS = ["a", "b", "c", "d"]
OVER_ALL = ("accuracy", "nll", "brier", "ece", "auc.a")


def multiclass(seed=0, n=200, n_classes=4, scale=1.0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, n_classes, n)
    return y, scale * (rng.normal(size=(n, n_classes)) + 1.2 * (y[:, None] == np.arange(n_classes)))


def multilabel(seed=0, n=200, n_labels=4):
    rng = np.random.default_rng(seed)
    y = (rng.random((n, n_labels)) < 0.3).astype(float)
    z = rng.normal(size=y.shape) + y
    y[rng.random(y.shape) < 0.1] = np.nan
    return y, z


@pytest.mark.parametrize("kind", ["multiclass", "ordinal"])
def test_softmax_kinds_agree_with_sklearn(kind):
    y, z = multiclass()
    p, guess = softmax(z, axis=1), z.argmax(axis=1)
    found = compute_metrics(kind, LABELS, y, z)
    assert tuple(found) == metric_names(kind, LABELS)
    assert found["auc_macro"] == pytest.approx(sk.roc_auc_score(y, p, multi_class="ovr"))
    for k, label in enumerate(LABELS):
        assert found[f"auc.{label}"] == pytest.approx(sk.roc_auc_score(y == k, p[:, k]))
    assert found["accuracy"] == sk.accuracy_score(y, guess)
    assert found["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(y, guess))
    assert found["nll"] == pytest.approx(sk.log_loss(y, p, labels=range(4)))
    assert found["brier"] == pytest.approx(np.mean(np.sum((p - np.eye(4)[y]) ** 2, axis=1)))
    if kind == "ordinal":
        assert found["kappa"] == pytest.approx(sk.cohen_kappa_score(y, guess, weights="quadratic", labels=range(4)))
    else:
        assert "kappa" not in found


def test_binary_agrees_with_sklearn():
    y, z = multilabel(n_labels=1)
    known = ~np.isnan(y[:, 0])
    truth, score = y[known, 0], z[known, 0]
    found = compute_metrics(Kind.BINARY, ["disease"], y, z)
    assert tuple(found) == metric_names("binary", ["disease"])
    assert found["auc"] == pytest.approx(sk.roc_auc_score(truth, score))
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(truth, score > 0))
    assert found["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(truth, score > 0))
    assert found["nll"] == pytest.approx(sk.log_loss(truth, expit(score)))
    assert found["brier"] == pytest.approx(sk.brier_score_loss(truth, expit(score)))


def test_multilabel_is_the_mean_of_its_labels():
    y, z = multilabel()
    found = compute_metrics("multilabel", LABELS, y, z)
    alone = [compute_metrics("binary", [label], y[:, [k]], z[:, [k]]) for k, label in enumerate(LABELS)]
    for name in ("accuracy", "balanced_accuracy", "nll", "brier"):
        assert found[name] == pytest.approx(np.mean([one[name] for one in alone]))
    assert found["auc_macro"] == pytest.approx(np.mean([one["auc"] for one in alone]))


def test_class_set_limits_macro_averages():
    y, z = multilabel()
    found = compute_metrics("multilabel", LABELS, y, z, class_set=["b", "d"])
    assert found["auc_macro"] == pytest.approx((found["auc.b"] + found["auc.d"]) / 2)
    alone = [compute_metrics("binary", ["x"], y[:, [k]], z[:, [k]])["balanced_accuracy"] for k in (1, 3)]
    assert found["balanced_accuracy"] == pytest.approx(np.mean(alone))
    whole = compute_metrics("multilabel", LABELS, y, z)
    assert [found[name] for name in OVER_ALL] == [whole[name] for name in OVER_ALL]
    assert set(found) == set(metric_names("multilabel", LABELS))


def test_saturated_softmax_still_ranks():
    """Probabilities of 1.0 tie in float64; their log-odds do not."""
    z = np.array([[50.0, 0, 0], [60.0, 0, 0], [0, 70.0, 0], [90.0, 100.0, 0]])
    assert len(np.unique(softmax(z, axis=1)[:2, 0])) == 1
    scores = check_predictions("multiclass", list("abc"), [0, 0, 1, 1], z).scores
    assert scores[1, 0] - scores[0, 0] == pytest.approx(10.0)
    assert scores[3] == pytest.approx([-10.0, 10.0, -100.0 - np.log1p(np.exp(-10))], abs=1e-3)


def test_log_odds_do_not_move_with_a_constant_per_image():
    y, z = multiclass()
    shift = np.random.default_rng(1).normal(scale=30, size=(len(z), 1))
    moved, still = compute_metrics("multiclass", LABELS, y, z + shift), compute_metrics("multiclass", LABELS, y, z)
    assert moved == pytest.approx(still)


@settings(deadline=None)
@given(scores=hnp.arrays(np.int64, st.integers(2, 40), elements=st.integers(-20, 20)), data=st.data())
def test_monotone_transform_leaves_auc(scores, data):
    y = data.draw(hnp.arrays(np.float64, len(scores), elements=st.sampled_from([0.0, 1.0, np.nan])))
    before = compute_metrics("binary", ["d"], y, scores.astype(float))["auc"]
    after = compute_metrics("binary", ["d"], y, np.arcsinh(scores.astype(float)) * 3 - 1)["auc"]
    assert after == before or (np.isnan(after) and np.isnan(before))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_row_order_changes_nothing(seed):
    order = np.random.default_rng(seed).permutation(200)
    y, z = multilabel(seed % 7)
    assert compute_metrics("multilabel", LABELS, y[order], z[order]) == pytest.approx(
        compute_metrics("multilabel", LABELS, y, z), abs=1e-12
    )
    c, logits = multiclass(seed % 7)
    assert compute_metrics("ordinal", LABELS, c[order], logits[order]) == pytest.approx(
        compute_metrics("ordinal", LABELS, c, logits), abs=1e-12
    )


@pytest.mark.parametrize("temperature", [0.25, 4.0])
def test_temperature_leaves_binary_auc_and_all_accuracies(temperature):
    y, z = multilabel()
    c, logits = multiclass()
    for name in ("auc_macro", "accuracy", "balanced_accuracy"):
        cold, warm = (compute_metrics("multilabel", LABELS, y, z * t)[name] for t in (1.0, temperature))
        assert cold == warm
    for name in ("accuracy", "balanced_accuracy", "kappa"):
        cold, warm = (compute_metrics("ordinal", LABELS, c, logits * t)[name] for t in (1.0, temperature))
        assert cold == warm


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_make_metrics_nan(bad):
    y, z = multilabel()
    y[0], z[0, 1] = [1.0, 0.0, 1.0, 0.0], bad
    found = compute_metrics("multilabel", LABELS, y, z)
    assert np.isnan(found["auc.b"])
    assert all(np.isnan(found[name]) for name in ("auc_macro", "accuracy", "balanced_accuracy", "nll", "brier"))
    assert np.isfinite([found["auc.a"], found["auc.c"], found["auc.d"]]).all()
    c, logits = multiclass()
    logits[3, 2] = bad
    assert np.isnan(list(compute_metrics("ordinal", LABELS, c, logits).values())).all()


def test_a_masked_image_does_not_count_whatever_its_logits():
    c, z = multiclass()
    before = compute_metrics("ordinal", LABELS, c, z)
    masked = compute_metrics("ordinal", LABELS, np.r_[c, -1], np.vstack([z, [[np.nan, 1, 2, 3]]]))
    assert masked == pytest.approx(before)
    y, logits = multilabel()
    row = np.full((1, 4), np.nan)
    before = compute_metrics("multilabel", LABELS, y, logits)
    assert compute_metrics("multilabel", LABELS, np.vstack([y, row]), np.vstack([logits, row])) == pytest.approx(before)


@pytest.mark.parametrize("kind", ["binary", "multilabel", "multiclass", "ordinal"])
def test_nothing_labelled_is_nan_throughout_and_silent(kind):
    labels = ["d"] if kind == "binary" else LABELS
    y = np.full(6, -1) if kind in ("multiclass", "ordinal") else np.full((6, len(labels)), np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = compute_metrics(kind, labels, y, np.zeros((6, len(labels))))
    assert np.isnan(list(found.values())).all()


def test_balanced_accuracy_of_one_class_is_undefined():
    assert np.isnan(compute_metrics("multiclass", LABELS, [2, 2, 2], np.eye(4)[:3])["balanced_accuracy"])
    assert np.isnan(compute_metrics("binary", ["d"], [1, 1], [0.3, 2])["balanced_accuracy"])


def test_kappa_of_one_class_predicted_and_true_is_undefined():
    assert np.isnan(compute_metrics("ordinal", LABELS, [2, 2], np.eye(4)[[2, 2]])["kappa"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "multilable"}, "unknown kind 'multilable'.*Did you mean 'multilabel'"),
        ({"kind": "segmentation"}, "unknown kind 'segmentation'"),
        ({"labels": ["a", "b", "c"]}, r"logits must have shape \(N, 3\)"),
        ({"labels": ["a", "b", "c", "a"]}, "labels must differ"),
        ({"y": np.zeros((5, 4))}, "y has 5 rows, logits 6"),
        ({"y": np.full((6, 4), 2.0)}, r"0, 1, and NaN or -1 \(masked\), got \[2.0\]"),
        ({"class_set": ["a", "z"]}, "unknown label 'z' in class_set"),
        ({"kind": "multiclass"}, "whole numbers of shape"),
        ({"kind": "multiclass", "y": np.array([0, 1, 2, 3, 4, 0])}, r"-1\.\.3, got 0\.\.4"),
        ({"kind": "binary"}, "binary needs exactly 1"),
    ],
)
def test_input_that_does_not_fit_is_refused(change, message):
    good = {"kind": "multilabel", "labels": LABELS, "y": np.zeros((6, 4)), "logits": np.zeros((6, 4))}
    with pytest.raises(ValueError, match=message):
        compute_metrics(**(good | change))


def test_arguments_are_not_changed():
    y, z = multilabel()
    y[0, 0], z[0, 0] = -1, np.inf
    kept_y, kept_z = y.copy(), z.copy()
    compute_metrics("multilabel", LABELS, y, z)
    np.testing.assert_array_equal(y, kept_y)
    np.testing.assert_array_equal(z, kept_z)


def test_direction_of_metrics():
    names = {*metric_names("ordinal", LABELS), *metric_names("binary", ["d"])}
    assert {name for name in names if not higher_is_better(name)} == {"nll", "brier", "ece"}
    with pytest.raises(ValueError, match="Did you mean 'accuracy'"):
        higher_is_better("acuracy")


@pytest.mark.parametrize("kind", ["multilabel", "multiclass"])
def test_ensemble_is_the_mean_probability(kind):
    members = [multiclass(seed)[1] for seed in range(3)]
    activate = expit if kind == "multilabel" else (lambda z: softmax(z, axis=1))
    together = activate(ensemble_logits(kind, members))
    np.testing.assert_allclose(together, np.mean([activate(m) for m in members], axis=0))
    np.testing.assert_allclose(ensemble_logits("multilabel", [[[800.0]], [[900.0]]]), np.log(2) + 800.0)


def test_class_set_from_counts_of_patients():
    y = np.array([0, 0, 0, 1, 1, 2, -1])
    counts = count_labels("multiclass", list("abc"), y, ["p", "p", "q", "q", "r", "s", "t"])
    assert [c.positive_patients for c in counts] == [2, 2, 1]
    assert [c.negative_patients for c in counts] == [3, 3, 3]
    assert (counts[0].images, counts[0].masked_images, counts[0].patients) == (6, 1, 4)
    assert counts[0].prevalence == 0.5
    assert frozen_class_set(counts, min_patients=2) == ("a", "b")
