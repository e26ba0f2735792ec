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
from trainables.evaluation import pooled_logits, predict, shard_bounds
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


@pytest.mark.parametrize("are_classes", [True, False])
def test_views_are_pooled_to_the_logit_of_the_mean_probability(are_classes):
    views = [torch.randn(5, 3, dtype=torch.float64) * 3 for _ in range(4)]
    pooled = pooled_logits(views, are_classes)
    if are_classes:
        mean = torch.stack([v.softmax(1) for v in views]).mean(0)
        torch.testing.assert_close(pooled.softmax(1), mean)
        torch.testing.assert_close(pooled, mean.log())
    else:
        torch.testing.assert_close(pooled, torch.stack([v.sigmoid() for v in views]).mean(0).logit())
    assert torch.equal(pooled_logits(views[:1], are_classes), views[0])


def test_confident_views_keep_their_order():
    views = [torch.tensor([[40.0], [60.0], [-50.0]])] * 2
    assert torch.equal(pooled_logits(views, are_classes=False).argsort(0), views[0].argsort(0))
    assert pooled_logits(views, are_classes=False).isfinite().all()


class _Corner(nn.Module):
    """Gives each image's first pixel."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return x[:, :2, 0, 0]


def test_an_image_is_scored_on_all_its_views():
    data = toy_set(n=9, side=9)
    transform = EvaluationTransform(8, NORMALISE, CPU, test_time="flip")
    logits = predict(_Corner(), ImageFeed(data, CPU), transform, SingleProcess(CPU), 4)
    seen = [data.images[data.positions][:, 0, column, :2] for column in (0, 7)]
    views = [(torch.from_numpy(pixels) / 255 - torch.tensor([0.5, 0.4])) / torch.tensor([0.2, 0.25]) for pixels in seen]
    expected = torch.stack([v.softmax(1) for v in views]).mean(0).log()
    np.testing.assert_allclose(logits, expected, atol=1e-5)


class _Hungry(ToyNet):
    """Exhausts the device with more than ``limit`` images at a time."""

    def __init__(self, limit):
        super().__init__()
        self.limit, self.passes = limit, []

    def forward(self, x):
        self.passes.append(len(x))
        if len(x) > self.limit:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return super().forward(x)


def _rows_with_their_targets(logits, targets, index):
    return torch.cat([logits, targets[:, None], torch.from_numpy(index)[:, None]], 1)


def test_where_memory_runs_out_fewer_images_go_at_once_from_there_on():
    data = toy_set(n=13, side=9)
    transform = EvaluationTransform(8, NORMALISE, CPU, test_time="flip")
    given = (ImageFeed(data, CPU), transform, SingleProcess(CPU), 8, _rows_with_their_targets)
    net = _Hungry(3)
    rows = predict(net, *given)
    expected = predict(_Hungry(100), *given)
    np.testing.assert_allclose(rows, expected, atol=1e-5)
    assert np.array_equal(rows[:, -2:], np.stack([data.targets, np.arange(13)], 1))
    # Two views of each piece; of 8 images and of 4 the first view was too much, and nothing larger is tried again.
    assert net.passes == [8, 4, *[2, 2] * 4, *[2, 2] * 2, 1, 1]


def test_a_single_image_that_does_not_fit_is_an_error():
    with pytest.raises(torch.OutOfMemoryError):
        _predict(SingleProcess(CPU), 5, net=_Hungry(0))
