"""The selecting metric against scikit-learn, and where it is not defined."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import softmax
from sklearn import metrics as sk

from trainables.validation_metrics import auc, is_better, validation_value

RNG = np.random.default_rng(0)
NAN = np.nan


def test_auc_with_ties_equals_sklearn():
    scores, y = RNG.integers(0, 5, 200), RNG.random(200) < 0.3
    assert auc(scores, y) == pytest.approx(sk.roc_auc_score(y, scores))


@pytest.mark.parametrize(
    ("scores", "y", "expected"),
    [([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1], 0.75), ([0.5, 0.5, 0.2, 8.3], [0, 1, 0, 1], 0.875)],
)
def test_auc_of_known_examples(scores, y, expected):
    assert validation_value("auc", np.array(scores)[:, None], np.array(y, float)[:, None]) == pytest.approx(expected)


def test_masked_multilabel_auc_is_the_mean_over_labels():
    y = np.array([[1, NAN, 0], [0, 1, NAN], [1, 0, 1], [0, NAN, 0], [1, 1, 1], [0, 0, NAN]])
    scores = [[0.9, 0.8, 0.2], [0.3, 0.6, 0.4], [0.6, 0.7, 0.7], [0.7, 0.1, 0.3], [0.8, 0.9, 0.1], [0.2, 0.4, 0.5]]
    assert validation_value("auc_macro", np.array(scores), y) == pytest.approx(0.712963, abs=1e-6)


def _classes(n=300, k=4):
    y = RNG.integers(0, k, n)
    return RNG.normal(size=(n, k)) + 1.5 * np.eye(k)[y], y


def test_multiclass_metrics_equal_sklearn():
    z, y = _classes()
    p = softmax(z, axis=1)
    expected = {
        "auc_macro": sk.roc_auc_score(y, p, multi_class="ovr", average="macro"),
        "accuracy": sk.accuracy_score(y, z.argmax(1)),
        "balanced_accuracy": sk.balanced_accuracy_score(y, z.argmax(1)),
        "nll": sk.log_loss(y, p, labels=range(4)),
        "kappa": sk.cohen_kappa_score(y, z.argmax(1), weights="quadratic"),
    }
    for name, value in expected.items():
        assert validation_value(name, z, y) == pytest.approx(value), name
    masked = np.append(y, -1)
    for name, value in expected.items():
        assert validation_value(name, np.vstack([z, 100 * np.ones(4)]), masked) == pytest.approx(value), name


def test_binary_metrics_equal_sklearn():
    y = (RNG.random((200, 1)) < 0.4).astype(float)
    z = RNG.normal(size=(200, 1)) + y
    p = 1 / (1 + np.exp(-z))
    assert validation_value("accuracy", z, y) == pytest.approx(sk.accuracy_score(y, z > 0))
    assert validation_value("balanced_accuracy", z, y) == pytest.approx(sk.balanced_accuracy_score(y, z > 0))
    assert validation_value("nll", z, y) == pytest.approx(sk.log_loss(y, p))


def test_saturated_logits_do_not_tie():
    z = np.array([[800.0, 0], [900.0, 0], [700.0, 0]])
    assert validation_value("auc_macro", z, np.array([0, 0, 1])) == 1.0
    assert validation_value("nll", np.array([[1000.0]]), np.array([[0.0]])) == 1000.0


@pytest.mark.parametrize(
    ("metric", "y"),
    [
        ("auc", np.ones((3, 1))),
        ("auc", np.full((3, 1), NAN)),
        ("auc_macro", np.zeros(3, np.int64)),
        ("balanced_accuracy", np.zeros(3, np.int64)),
        ("accuracy", np.full(3, -1)),
        ("nll", np.full(3, -1)),
        ("nll", np.full((3, 1), NAN)),
    ],
)
def test_what_cannot_be_computed_is_none_and_never_zero(metric, y):
    outputs = 1 if y.ndim == 2 else 2
    assert validation_value(metric, RNG.normal(size=(3, outputs)), y) is None


def test_a_class_that_does_not_occur_is_left_out_of_the_macro_mean():
    z, y = _classes(k=3)
    seen = y < 2
    expected = np.mean([auc(softmax(z[seen], axis=1)[:, k], y[seen] == k) for k in range(2)])
    assert validation_value("auc_macro", z[seen], y[seen]) == pytest.approx(expected)


def test_better():
    assert is_better("auc", 0.8, 0.7)
    assert not is_better("auc", 0.7, 0.7)
    assert is_better("nll", 0.1, 0.2)
    assert is_better("auc", 0.1, None)
    assert not is_better("auc", None, None)
    assert not is_better("auc", None, 0.1)


def test_an_unknown_metric_names_the_known_ones():
    with pytest.raises(KeyError, match="balanced_accuracy"):
        validation_value("f1", np.zeros((1, 1)), np.zeros((1, 1)))
