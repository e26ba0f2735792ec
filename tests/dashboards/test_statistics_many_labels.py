"""Many labels at once give the bits of each label alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dashboards.statistics import auc, index_patients, patient_influence
from dashboards.statistics import uncertainty as module
from dashboards.statistics.discrimination import twice_below_both


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 40), st.sampled_from([1, 3, 1000]))
def test_counts_of_both_sides_are_those_of_all_pairs(seed, n, distinct):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, distinct + 1, (3, n)).astype(float)
    positive = rng.random((3, n)) < 0.4
    positives, negatives = twice_below_both(positive, scores)
    for side, counted in ((positive, positives), (~positive, negatives)):
        other = scores[:, None, :]
        pairs = 2 * (other < scores[:, :, None]) + (other == scores[:, :, None])
        assert np.array_equal(counted, (pairs * side[:, None, :]).sum(axis=2))


@pytest.mark.parametrize("ties", [False, True])
def test_influence_of_a_macro_auc_has_the_bits_of_its_labels(ties, monkeypatch):
    rng = np.random.default_rng(3)
    labels = tuple("abcd")
    y = (rng.random((300, 4)) < [0.05, 0.2, 0.4, 0.6]).astype(float)
    y[:2] = [[1] * 4, [0] * 4]
    logits = np.round(rng.normal(size=(300, 4)) + y, 1 if ties else 9)
    index = index_patients(rng.integers(0, 120, 300))
    together = patient_influence("auc_macro", "multilabel", labels, y, logits, index)
    each = [auc(y[:, k], logits[:, k]) for k in range(4)]
    assert together.value == np.mean(each)
    alone = [module._auc_sides(module.check_predictions("multilabel", labels, y, logits), index, k) for k in range(4)]
    monkeypatch.setattr(module, "_all_sides", lambda *_: alone)
    expected = patient_influence("auc_macro", "multilabel", labels, y, logits, index)
    assert np.array_equal(together.psi, expected.psi)
    assert (together.value, together.min_patients) == (expected.value, expected.min_patients)
