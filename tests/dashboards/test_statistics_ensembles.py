"""Seed ensembles: matched by image, others named."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit, softmax

from dashboards.statistics import Member, compute_metrics, seed_ensemble

IMAGES = np.array(["c", "a", "b"])


def test_members_are_matched_by_image_not_by_row():
    z = np.array([[2.0], [-1.0], [0.5]])
    order = [2, 0, 1]
    found = seed_ensemble(
        "binary", {0: Member(images=IMAGES, logits=z), 1: Member(images=IMAGES[order], logits=z[order])}
    )
    np.testing.assert_allclose(found.logits, z)
    assert found.members == (0, 1)


@pytest.mark.parametrize("kind", ["multilabel", "multiclass"])
def test_the_probability_is_the_mean(kind):
    z = np.random.default_rng(0).normal(size=(3, 3, 2))
    found = seed_ensemble(kind, {s: Member(images=IMAGES, logits=z[s]) for s in range(3)})
    activate = expit if kind == "multilabel" else (lambda x: softmax(x, axis=1))
    np.testing.assert_allclose(activate(found.logits), np.mean([activate(m) for m in z], axis=0))


def test_runs_on_other_images_or_labels_are_left_out_by_name():
    z = np.zeros((3, 2))
    runs = {
        0: Member(images=IMAGES, logits=z),
        1: Member(images=["a", "b", "d"], logits=z),
        2: Member(images=IMAGES[:2], logits=z[:2]),
        3: Member(images=IMAGES, logits=np.zeros((3, 3))),
        4: Member(images=IMAGES, logits=np.zeros((2, 2))),
    }
    found = seed_ensemble("multiclass", runs)
    assert found.members == (0,)
    assert found.left_out == {
        1: "predictions of other images",
        2: "predictions of other images",
        3: "another number of labels",
        4: "predictions of other images",
    }


def test_an_infinite_logit_of_one_member_makes_the_image_undefined():
    broken = np.array([[np.inf], [0.0], [1.0]])
    found = seed_ensemble(
        "binary", {0: Member(images=IMAGES, logits=np.zeros((3, 1))), 1: Member(images=IMAGES, logits=broken)}
    )
    assert np.isnan(found.logits[:, 0]).tolist() == [True, False, False]
    assert np.isnan(compute_metrics("binary", ["d"], [1, 0, 1], found.logits)["auc"])


def test_no_run_and_repeated_images_are_refused():
    with pytest.raises(ValueError, match="at least one run"):
        seed_ensemble("binary", {})
    with pytest.raises(ValueError, match="repeat"):
        seed_ensemble("binary", {0: Member(images=["a", "a"], logits=np.zeros((2, 1)))})
