"""Every image exactly once, in order, whatever the number of ranks and the batch size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tests.trainables.ranks import on_ranks
from tests.trainables.toy import NORMALISE, ToyNet, ToySet, toy_set
from trainables.augmentation import EvaluationTransform
from trainables.batches import ImageFeed
from trainables.evaluation import predict, shard_bounds
from trainables.groups import SingleProcess, broadcast_bytes, broadcast_object, sum_over_ranks

CPU = torch.device("cpu")
SIZES = (1, 2, 7, 13)


class _Counts(nn.Module):
    """Gives each image's first pixel, and how many images it has seen."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.seen = 0

    def forward(self, x):
        self.seen += len(x)
        return x.flatten(1)[:, :2]


def _predict(group, n, batch_size=4, net=None):
    whole = toy_set(n=16, side=9)
    data = ToySet(whole.images, whole.positions[:n], whole.targets[:n])
    net = net or _Counts()
    transform = EvaluationTransform(8, NORMALISE, CPU)
    logits = predict(net, ImageFeed(data, CPU), transform, group, batch_size)
    return logits, getattr(net, "seen", None)


def _on_each_rank(group):
    shared = broadcast_object(group, {"rank": group.rank})
    data = broadcast_bytes(group, b"abc" if group.rank == 0 else None)
    none = broadcast_bytes(group, None)
    total = sum_over_ranks(group, torch.tensor([float(group.rank), 1.0])).tolist()
    return [_predict(group, n) for n in SIZES], (shared, data, none, total)


def test_each_image_counts_once_on_three_ranks(tmp_path):
    answers = on_ranks(_on_each_rank, 3, tmp_path)
    for k, n in enumerate(SIZES):
        alone, _ = _predict(SingleProcess(CPU), n)
        assert np.array_equal(answers[0][0][k][0], alone)
        assert answers[1][0][k][0] is None
        seen = sum(answer[0][k][1] for answer in answers)
        assert seen == max(n, 3)  # a rank without images evaluates one and drops it
    for _, helpers in answers:
        assert helpers == ({"rank": 0}, b"abc", None, [3.0, 3.0])


@pytest.mark.parametrize(("images", "size"), [(10, 3), (2, 4), (0, 2), (7, 1)])
def test_shards_are_contiguous_complete_and_even(images, size):
    bounds = shard_bounds(images, size)
    lengths = np.diff(bounds)
    assert (bounds[0], bounds[-1]) == (0, images)
    assert lengths.max() - lengths.min() <= 1


@pytest.mark.parametrize("batch_size", [1, 5, 16, 100])
def test_batch_size_changes_nothing_and_the_mode_is_restored(batch_size):
    net = ToyNet().train()
    logits, _ = _predict(SingleProcess(CPU), 13, batch_size, net)
    reference, _ = _predict(SingleProcess(CPU), 13, 13, net)
    np.testing.assert_allclose(logits, reference, atol=1e-5)
    assert net.training
    assert net.features[1].num_batches_tracked == 0


def test_rows_follow_the_positions_of_the_set():
    logits, _ = _predict(SingleProcess(CPU), 16)
    whole = toy_set(n=16, side=9)
    expected = (whole.images[whole.positions][:, 0, 0, 0] / 255 - 0.5) / 0.2
    np.testing.assert_allclose(logits[:, 0], expected, atol=1e-5)
