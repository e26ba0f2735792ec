"""The science does not depend on ranks: weights and running statistics agree for nets with BatchNorm and Dropout."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch import nn

from search_spaces.exceptions import UserError
from search_spaces.protocol import Protocol
from tests.trainables.ranks import on_ranks
from tests.trainables.toy import NORMALISE, Teller, ToyNet, same, toy_protocol, toy_set
from trainables.batches import ImageFeed, SampleOrder
from trainables.fitting import fit
from trainables.ghost_batches import GhostBatches, RunningStatistics, ghosts_of_rank, used_parameters
from trainables.groups import DistributedGroup, SingleProcess

CPU = torch.device("cpu")
ONE = SingleProcess(CPU)
PROTOCOLS = {
    "2 ghosts": toy_protocol(),
    "3 ghosts": toy_protocol(global_batch_size=12, ghost_batch_size=4),
    "plateau": toy_protocol(schedule="plateau", patience=0, threshold=0.5, select="best_val_loss", optimizer="adam"),
    "1 ghost": toy_protocol(global_batch_size=4, ghost_batch_size=4),
    "mixed": toy_protocol(global_batch_size=12, ghost_batch_size=4, mixup_alpha=0.4, mixup_share="step"),
    "masked labels, clipped sgd, ema": toy_protocol(
        global_batch_size=12, ghost_batch_size=4, optimizer="sgd", clip_norm=0.1, ema_decay=0.9, imbalance="weights"
    ),
}


def _fit(group, protocol: Protocol):
    kind = "multilabel" if protocol.ema_decay else "multiclass"
    net = ToyNet().double()
    result = fit(
        net,
        toy_set(kind=kind, masked=0.3 if kind == "multilabel" else 0.0),
        toy_set(n=11, seed=1),
        protocol=protocol,
        normalise=NORMALISE,
        input_size=8,
        seed=5,
        primary="auc_macro",
        group=group,
        tell=Teller(),
    )
    return result.final, result.selected, [row["loss"] for row in result.history], result.best_value


def _fit_all(group):
    return {name: _fit(group, protocol) for name, protocol in PROTOCOLS.items()}, _step_with_unused(group)


def _on_two_then_three(group):
    """One set of three processes for both sizes, as starting a process takes seconds."""
    pair = dist.new_group([0, 1])
    two = _fit_all(DistributedGroup(pair)) if group.rank < 2 else None
    return two, _fit_all(group)


@pytest.fixture(scope="module")
def by_ranks(tmp_path_factory):
    """Size -> results of every rank."""
    folder = tmp_path_factory.mktemp("ranks")
    answers = on_ranks(_on_two_then_three, 3, folder)
    return {1: [_fit_all(ONE)], 2: [two for two, _ in answers if two], 3: [three for _, three in answers]}


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("name", PROTOCOLS)
def test_ranks_do_not_change_weights_statistics_losses_or_selection(by_ranks, name, size):
    state, selected, losses, best = by_ranks[1][0][0][name]
    assert any("running_var" in key for key in state)
    for rank in range(size):
        other_state, other_selected, other_losses, other_best = by_ranks[size][rank][0][name]
        assert other_losses == pytest.approx(losses, abs=1e-10)
        assert other_best == pytest.approx(best, abs=1e-10)
        for key, value in state.items():
            torch.testing.assert_close(other_state[key], value, rtol=0, atol=1e-10, msg=key)
        for key, value in selected.items():
            torch.testing.assert_close(other_selected[key], value, rtol=0, atol=1e-10, msg=key)


@pytest.mark.parametrize("size", [2, 3])
def test_all_ranks_end_with_the_same_weights_bit_for_bit(by_ranks, size):
    for name in PROTOCOLS:
        for rank in range(1, size):
            assert same(by_ranks[size][0][0][name][1], by_ranks[size][rank][0][name][1])


def test_training_moves_weights_and_statistics(by_ranks):
    before, after = ToyNet().double().state_dict(), by_ranks[1][0][0]["2 ghosts"][0]
    assert not any(torch.equal(before[key], after[key]) for key in before)
    assert after["features.1.num_batches_tracked"] == 10


DATA = torch.randn(3, 8, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
"""Three steps of two ghost batches of 4."""


def _trained(steps, momentum=0.1):
    """A net without dropout after ``steps`` of DATA, with the last step's gradients and its share of the loss."""
    net = ToyNet(dropout=0.0).double()
    net.features[1].momentum = momentum
    with GhostBatches(net, ghosts=2, group=ONE, seed=0) as batches:
        for step in range(steps):
            net.zero_grad()
            share = batches.backward(step, lambda n, s, g: n(DATA[s, 4 * g : 4 * g + 4]).square().mean())
    return net, share


def _ghost_moments(net, step):
    """Mean over the step's ghost batches of the first layer's mean and unbiased variance."""
    halves = net.features[0](DATA[step]).detach().split(4)
    means = torch.stack([half.mean((0, 2, 3)) for half in halves]).mean(0)
    return means, torch.stack([half.var((0, 2, 3), unbiased=True) for half in halves]).mean(0)


def test_running_statistics_take_one_update_per_step_from_the_mean_over_ghost_batches():
    net, _ = _trained(2)
    expected_mean, expected_var = torch.zeros(6, dtype=torch.float64), torch.ones(6, dtype=torch.float64)
    for step in range(2):
        mean, var = _ghost_moments(net, step)
        expected_mean, expected_var = 0.9 * expected_mean + 0.1 * mean, 0.9 * expected_var + 0.1 * var
    torch.testing.assert_close(net.features[1].running_mean, expected_mean)
    torch.testing.assert_close(net.features[1].running_var, expected_var)
    assert net.features[1].num_batches_tracked == 2
    assert (net.features[1].momentum, net.features[5].momentum) == (0.1, 0.3)


def test_a_layer_without_momentum_keeps_the_plain_mean_over_steps():
    net, _ = _trained(3, momentum=None)
    expected = torch.stack([_ghost_moments(net, step)[0] for step in range(3)]).mean(0)
    torch.testing.assert_close(net.features[1].running_mean, expected)


def test_the_gradient_is_the_mean_over_ghost_batches_and_the_share_the_mean_loss():
    net, share = _trained(1)
    fresh = ToyNet(dropout=0.0).double()
    losses = [fresh(half).square().mean() for half in DATA[0].split(4)]
    (sum(losses) / 2).backward()
    torch.testing.assert_close(share, (sum(losses) / 2).detach())
    for (name, p), q in zip(net.named_parameters(), fresh.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, msg=name)


@pytest.mark.parametrize(("ghosts", "size"), [(1, 1), (5, 2), (2, 3), (1, 4), (8, 8), (7, 3)])
def test_every_ghost_batch_is_computed_once_with_weight(ghosts, size):
    shares = [ghosts_of_rank(ghosts, rank, size) for rank in range(size)]
    assert sorted(g for mine, weight in shares if weight for g in mine) == list(range(ghosts))
    assert all(len(mine) == 1 and mine[0] in range(ghosts) for mine, weight in shares if not weight)


def test_dropout_follows_from_seed_step_and_ghost_batch_alone():
    def masks(seed, noise):
        net, drawn = nn.Dropout(0.5), {}
        torch.manual_seed(noise)
        with GhostBatches(net, ghosts=2, group=ONE, seed=seed) as batches:

            def loss(n, step, ghost):
                drawn[step, ghost] = n(torch.ones(64, requires_grad=True))
                return drawn[step, ghost].sum()

            for step in range(2):
                batches.backward(step, loss)
        return drawn

    first, second, other = masks(1, 0), masks(1, 99), masks(2, 0)
    assert all(torch.equal(first[at], second[at]) for at in first)
    assert not any(torch.equal(first[at], other[at]) for at in first)
    assert len({tuple(mask.tolist()) for mask in first.values()}) == 4


def test_synchronised_batch_norm_is_refused():
    with pytest.raises(UserError, match="ghost_batch_size"):
        RunningStatistics(nn.Sequential(nn.SyncBatchNorm(3)), 1, ONE)


def test_a_frozen_or_statless_norm_is_left_alone():
    net = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), nn.GroupNorm(1, 3))
    statistics = RunningStatistics(net, 2, ONE)
    statistics.borrow()
    assert net[0].momentum == 0.1


class _WithUnused(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.unused = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x):
        return self.used(x)


def test_used_parameters_are_found_through_the_graph():
    net = _WithUnused()
    used = used_parameters(net(torch.zeros(1, 2)))
    assert {name for name, p in net.named_parameters() if id(p) in used} == {"used.weight", "used.bias"}


def _step_with_unused(group):
    torch.manual_seed(0)
    net = _WithUnused()
    with GhostBatches(net, ghosts=2, group=group, seed=0, has_unused_parameters=True) as batches:
        for step in range(2):
            batches.backward(step, lambda n, s, g: n(torch.full((1, 2), 1.0 + g)).sum())
    return net.used.weight.grad, net.unused.weight.grad


@pytest.mark.parametrize("size", [2, 3])
def test_unused_parameters_do_not_stop_several_ranks(by_ranks, size):
    alone, _ = by_ranks[1][0][1]
    for _, (used, unused) in by_ranks[size]:
        torch.testing.assert_close(used, alone)
        assert unused is None or not unused.any()


def test_batches_of_a_step_need_no_earlier_ones():
    order, again = (SampleOrder(10, 4, 3) for _ in range(2))
    drawn = [order.batch(step) for step in range(12)]
    assert all((again.batch(step) == drawn[step]).all() for step in (11, 2, 7, 0))
    feed = ImageFeed(toy_set(n=10), CPU)
    images, targets = feed.batch(drawn[0])
    assert images.dtype == torch.uint8
    assert len(images) == len(targets) == 4
