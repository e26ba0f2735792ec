"""Weighted nearest neighbours against a direct count of votes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import trainables.neighbours
from trainables.neighbours import neighbour_logits

T = 0.07


def vectors(n, seed):
    return np.random.default_rng(seed).normal(size=(n, 8)).astype(np.float32)


def counted(train, values, known, query, k):
    """Votes for value 1 and against it among the k nearest, one more for each from the opposite direction."""
    cosine = (train @ query) / np.linalg.norm(train, axis=1) / np.linalg.norm(query)
    nearest = np.argsort(-cosine)[:k]
    weight = np.exp((cosine[nearest] - 1) / T) * known[nearest]
    extra = math.exp(-2 / T)
    return (weight * values[nearest]).sum() + extra, (weight * (1 - values[nearest])).sum() + extra


@pytest.mark.parametrize("batch", [1000, 7])
def test_classes_have_the_votes_of_their_neighbours(monkeypatch, batch):
    monkeypatch.setattr(trainables.neighbours, "BATCH_SIZE", batch)
    train, queries = vectors(50, 0).astype(np.float64), vectors(20, 1).astype(np.float64)
    y = np.arange(50) % 3
    logits = neighbour_logits(torch.from_numpy(train), y, 3, torch.from_numpy(queries), [1, 10, 80], T).numpy()
    assert logits.shape == (3, 20, 3)
    for at, k in enumerate((1, 10, 50)):
        for row, query in enumerate(queries):
            expected = [counted(train, (y == c).astype(float), np.ones(50), query, k)[0] for c in range(3)]
            assert np.allclose(logits[at, row], np.log(expected))


def test_labels_have_log_odds_and_unknown_ones_do_not_vote():
    train, queries = vectors(40, 2).astype(np.float64), vectors(9, 3).astype(np.float64)
    y = (np.random.default_rng(4).random((40, 2)) < 0.4).astype(np.float32)
    y[::5, 1] = np.nan
    logits = neighbour_logits(torch.from_numpy(train), y, 2, torch.from_numpy(queries), [15], T).numpy()[0]
    for label in range(2):
        known = ~np.isnan(y[:, label])
        for row, query in enumerate(queries):
            pro, con = counted(train, np.nan_to_num(y[:, label]).astype(float), known.astype(float), query, 15)
            assert np.isclose(logits[row, label], math.log(pro / con))


def test_length_of_a_feature_vector_does_not_matter():
    train, queries = vectors(30, 5), vectors(4, 6)
    y = np.arange(30) % 2
    plain = neighbour_logits(torch.from_numpy(train), y, 2, torch.from_numpy(queries), [5], T)
    longer = neighbour_logits(torch.from_numpy(train * 7), y, 2, torch.from_numpy(queries * 0.1), [5], T)
    assert torch.allclose(plain, longer, atol=1e-4)
    assert torch.isfinite(plain).all()
