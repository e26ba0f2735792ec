"""Mixup and CutMix against torchvision, in value and distribution, and the loss of what is mixed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torchvision.transforms.v2 import CutMix

from search_spaces.protocol import Protocol
from trainables.mixing import Mix, MixDraws, Mixture, draw_mix, inside_boxes
from trainables.optimisation import make_loss

CPU = torch.device("cpu")
MIXUP, CUTMIX = Protocol(mixup_alpha=0.4), Protocol(cutmix_alpha=1.0)
BOTH = Protocol(mixup_alpha=0.4, cutmix_alpha=1.0)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def images(batch=6, side=8):
    return torch.rand(batch, 3, side, side, generator=generator())


def test_mixup_is_the_weighted_mean_of_an_image_and_the_one_before():
    x = images()
    mixed, mixture = Mix(MIXUP, CPU)(x, generator(1))
    weight = draw_mix(MIXUP, 6, generator(1), 8).weight.float()
    assert torch.equal(mixture.weight, weight)
    assert torch.equal(x[mixture.partner], x.roll(1, 0))
    for k in range(6):
        torch.testing.assert_close(mixed[k], weight[k] * x[k] + (1 - weight[k]) * x[k - 1])
    assert Mix(MIXUP, CPU).is_on
    assert not Mix(Protocol(), CPU).is_on


def test_shares_of_mixup_follow_their_beta_distribution():
    weight = draw_mix(MIXUP, 4000, generator(), 8).weight.numpy()
    assert stats.kstest(weight, stats.beta(0.4, 0.4).cdf).pvalue > 1e-3


def test_the_one_share_of_a_step_is_every_images_and_follows_the_same_distribution():
    assert draw_mix(MIXUP, 50, generator(), 8, of_step=0.5).weight.numpy() == pytest.approx(0.5)
    x = images()
    mixed, mixture = Mix(MIXUP, CPU)(x, generator(1), 0.3)
    assert mixture.weight.unique().tolist() == pytest.approx([stats.beta(0.4, 0.4).ppf(0.3)])
    torch.testing.assert_close(mixed, mixture.weight[0] * x + (1 - mixture.weight[0]) * x.roll(1, 0))
    u = torch.rand(4000, generator=generator(), dtype=torch.float64).tolist()
    shares = [float(draw_mix(MIXUP, 1, generator(), 8, one).weight) for one in u]
    assert stats.kstest(shares, stats.beta(0.4, 0.4).cdf).pvalue > 1e-3
    boxes = draw_mix(CUTMIX, 50, generator(), 32, of_step=0.5)
    assert len(boxes.weight.unique()) > 5, "boxes stay those of each image"


def test_boxes_of_cutmix_are_distributed_as_those_of_torchvision():
    side = 32
    drawn = draw_mix(CUTMIX, 3000, generator(), side)
    torch.manual_seed(0)
    theirs = CutMix(alpha=1.0, num_classes=2)
    params = [theirs.make_params([torch.zeros(2, 3, side, side)]) for _ in range(3000)]
    boxes = np.array([p["box"] for p in params])
    for k, mine in enumerate((drawn.left, drawn.top, drawn.right, drawn.bottom)):
        assert stats.ks_2samp(mine.numpy(), boxes[:, k]).pvalue > 1e-3
    assert stats.ks_2samp(drawn.weight.numpy(), [p["lam_adjusted"] for p in params]).pvalue > 1e-3


def test_cutmix_shows_the_partner_inside_the_box_and_the_share_is_the_area(monkeypatch):
    x = images(3)
    box = {"left": [2, 0, 0], "top": [1, 0, 0], "right": [6, 8, 0], "bottom": [8, 8, 0]}
    edges = {name: torch.tensor(values, dtype=torch.float64) for name, values in box.items()}
    weight = 1 - (edges["right"] - edges["left"]) * (edges["bottom"] - edges["top"]) / 64
    fixed = MixDraws(weight=weight, is_box=torch.ones(3, dtype=torch.bool), **edges)
    monkeypatch.setattr("trainables.mixing.draw_mix", lambda *_: fixed)
    mixed, mixture = Mix(CUTMIX, CPU)(x, generator())
    expected = x.clone()
    expected[0, :, 1:8, 2:6] = x[2, :, 1:8, 2:6]
    expected[1] = x[0]
    assert torch.equal(mixed, expected)
    assert mixture.weight.tolist() == [1 - 28 / 64, 0, 1]


def test_of_two_operators_each_image_draws_one_with_equal_chance():
    drawn = draw_mix(BOTH, 4000, generator(), 16)
    assert drawn.is_box.double().mean() == pytest.approx(0.5, abs=0.03)
    assert (drawn.right[~drawn.is_box] == 0).all()
    assert stats.kstest(drawn.weight[~drawn.is_box].numpy(), stats.beta(0.4, 0.4).cdf).pvalue > 1e-3
    x = images(64, 16)
    mixed, _ = Mix(BOTH, CPU)(x, generator())
    assert mixed.shape == x.shape


def test_memory_format_stays():
    x = images().contiguous(memory_format=torch.channels_last)
    mixed, _ = Mix(BOTH, CPU)(x, generator())
    assert mixed.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(mixed, Mix(BOTH, CPU)(x.contiguous(), generator())[0])


def test_boxes_on_the_pixel_grid():
    inside = inside_boxes([torch.tensor([v]) for v in (1.0, 0.0, 3.0, 2.0)], torch.zeros(1, 3, 3, 4))
    assert inside.tolist() == [[[0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]]


LOGITS = torch.randn(6, 3, generator=generator(3), dtype=torch.float64)
MIXTURE = Mixture(partner=torch.arange(-1, 5) % 6, weight=torch.rand(6, generator=generator(4), dtype=torch.float64))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_classes_equal_the_cross_entropy_of_soft_targets(smoothing):
    y = torch.tensor([0, 1, 2, 2, 1, 0])
    loss = make_loss(y.numpy(), Protocol(label_smoothing=smoothing), 3, CPU)
    hot = F.one_hot(y, 3).double()
    share = MIXTURE.weight[:, None]
    soft = share * hot + (1 - share) * hot[MIXTURE.partner]
    torch.testing.assert_close(loss(LOGITS, y, MIXTURE), F.cross_entropy(LOGITS, soft, label_smoothing=smoothing))
    assert torch.equal(loss(LOGITS, y), F.cross_entropy(LOGITS, y, label_smoothing=smoothing))


def test_labels_equal_the_cross_entropy_of_soft_targets():
    y = torch.tensor(np.random.default_rng(0).integers(0, 2, (6, 3)), dtype=torch.float64)
    loss = make_loss(y.numpy(), Protocol(), 3, CPU)
    share = MIXTURE.weight[:, None]
    soft = share * y + (1 - share) * y[MIXTURE.partner]
    torch.testing.assert_close(loss(LOGITS, y, MIXTURE), F.binary_cross_entropy_with_logits(LOGITS, soft))


@pytest.mark.parametrize("imbalance", ["none", "weights"])
@pytest.mark.parametrize("kind", ["classes", "labels"])
def test_masked_targets_count_by_the_share_that_is_known(kind, imbalance):
    rng = np.random.default_rng(1)
    y = torch.tensor(rng.integers(0, 3, 6)) if kind == "classes" else torch.tensor(rng.integers(0, 2, (6, 3))).double()
    y[1] = -1 if kind == "classes" else torch.nan
    loss = make_loss(y.numpy(), Protocol(imbalance=imbalance), 3, CPU)
    total = count = torch.zeros((), dtype=torch.float64)
    for k in range(6):  # one image at a time, its own label and its partner's
        for at, share in ((k, MIXTURE.weight[k]), (int(MIXTURE.partner[k]), 1 - MIXTURE.weight[k])):
            known = 0 if at == 1 else (1 if kind == "classes" else 3)
            total = total + share * known * loss(LOGITS[k : k + 1], y[at : at + 1])
            count = count + share * known
    torch.testing.assert_close(loss(LOGITS, y, MIXTURE), total / count)


def test_nothing_known_costs_nothing():
    y = torch.full((6, 3), torch.nan, dtype=torch.float64)
    assert make_loss(y.numpy(), Protocol(), 3, CPU)(LOGITS, y, MIXTURE) == 0
