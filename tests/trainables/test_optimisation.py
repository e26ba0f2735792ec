"""Learning rate, decay groups, moving average, precision, losses, imbalance, and the order of samples."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from search_spaces.exceptions import UserError
from search_spaces.protocol import Budget, Protocol
from tests.trainables.toy import ToyNet
from trainables.batches import SampleOrder, Stream, stream_seed
from trainables.optimisation import (
    MovingAverage,
    Precision,
    Update,
    class_weights,
    learning_rate,
    make_loss,
    make_optimizer,
    sampling_weights,
)
from trainables.steps import evaluation_steps, total_steps

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("budget", "images", "expected"),
    [
        (Budget(steps=7), 1000, 7),
        (Budget(epochs=2), 100, 20),
        (Budget(epochs=0.5), 4, 1),
        (Budget(epochs=3), 15, 4),
        (Budget(examples=64), 1, 6),
        (Budget(rule="hyperrule"), 19_999, 500),
        (Budget(rule="hyperrule"), 20_000, 10_000),
    ],
)
def test_steps_of_a_budget(budget, images, expected):
    assert total_steps(budget, images, 10) == expected


@pytest.mark.parametrize(
    ("flops", "expected"),
    [(6e10, 1), (8.9e10, 1), (9.1e10, 2), (6e12, 100), (1e9, 1)],  # a step of 10 images at 2 GFLOPs: 3 x 2e9 x 10
)
def test_steps_of_a_budget_in_operations_do_not_depend_on_the_subset(flops, expected):
    for images in (1, 100_000):
        assert total_steps(Budget(flops=flops), images, 10, gflops=2.0) == expected
    with pytest.raises(UserError, match=r"budget\.flops needs a scale whose operations can be counted"):
        total_steps(Budget(flops=flops), 1, 10)


@pytest.mark.parametrize(
    ("steps", "evaluations", "expected"),
    [(10, 5, [2, 4, 6, 8, 10]), (10, 3, [4, 7, 10]), (2, 5, [1, 2]), (9, 1, [9])],
)
def test_evaluations_are_even_and_end_at_the_last_step(steps, evaluations, expected):
    assert evaluation_steps(steps, evaluations) == expected


def test_learning_rate_rises_linearly_then_falls_as_half_a_cosine():
    protocol = Protocol(lr=2.0, warmup_fraction=0.2, budget=Budget(steps=20))
    rates = [learning_rate(protocol, step, 20) for step in range(20)]
    assert rates[:5] == pytest.approx([0.4, 0.8, 1.2, 1.6, 2.0])
    assert rates[12] == pytest.approx(1.0)
    assert all(a > b > 0 for a, b in itertools.pairwise(rates[4:]))
    constant = protocol.model_copy(update={"schedule": "constant", "warmup_fraction": 0.0})
    assert {learning_rate(constant, step, 20) for step in range(20)} == {2.0}


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_one_update_equals_torch_and_decays_weights_only(optimizer):
    protocol = Protocol(optimizer=optimizer, lr=0.1, weight_decay=0.5, warmup_fraction=0, momentum=0.8)
    ours, theirs = nn.Linear(3, 2).double(), nn.Linear(3, 2).double()
    theirs.load_state_dict(ours.state_dict())
    update = Update(ours, protocol, steps=2)
    common = {"lr": 0.1} if optimizer == "adamw" else {"lr": 0.1, "momentum": 0.8}
    make = torch.optim.AdamW if optimizer == "adamw" else torch.optim.SGD
    groups = [{"params": [theirs.weight], "weight_decay": 0.5}, {"params": [theirs.bias], "weight_decay": 0.0}]
    reference = make(groups, **common)
    x = torch.randn(5, 3, dtype=torch.float64)
    for step in range(2):
        for group in reference.param_groups:
            group["lr"] = learning_rate(protocol, step, 2)
        for net in (ours, theirs):
            net(x).square().mean().backward()
        reference.step()
        reference.zero_grad()
        update(step)
    torch.testing.assert_close(ours.weight, theirs.weight)
    torch.testing.assert_close(ours.bias, theirs.bias)
    assert ours.weight.grad is None


def test_frozen_parameters_and_a_net_without_biases_are_fine():
    net = nn.Linear(3, 2, bias=False)
    assert len(make_optimizer(net, Protocol()).param_groups) == 1
    net = nn.Linear(3, 2)
    net.weight.requires_grad_(False)
    (group,) = make_optimizer(net, Protocol()).param_groups
    assert group["params"][0] is net.bias


def test_clipping_bounds_the_gradient_norm():
    net = nn.Linear(3, 1, bias=False)
    before = net.weight.detach().clone()
    update = Update(net, Protocol(optimizer="sgd", lr=1.0, warmup_fraction=0, weight_decay=0, clip_norm=0.01), 1)
    net.weight.grad = torch.full_like(net.weight, 100.0)
    update(0)
    assert (net.weight - before).norm().item() == pytest.approx(0.01, rel=1e-4)


def test_moving_average_follows_its_formula_and_swaps_without_a_trace():
    net = ToyNet()
    average = MovingAverage(net, 0.9)
    expected = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    for step in range(3):
        with torch.no_grad():
            for tensor in [*net.parameters(), net.features[1].running_mean]:
                tensor.add_(step + 1.0)
        average.update(step)
        decay = min(0.9, (1 + step) / (10 + step))
        for name, tensor in net.state_dict().items():
            if tensor.is_floating_point():
                expected[name] = decay * expected[name] + (1 - decay) * tensor
    raw = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with average.applied():
        for name, tensor in net.state_dict().items():
            torch.testing.assert_close(tensor, expected[name], msg=name)
    assert all(torch.equal(raw[name], tensor) for name, tensor in net.state_dict().items())


def test_half_precision_needs_cuda_and_bf16_runs_on_the_cpu():
    with pytest.raises(UserError, match="bf16 or fp32"):
        Precision("fp16", CPU)
    with Precision("bf16", CPU).autocast():
        assert nn.Linear(2, 2)(torch.ones(1, 2)).dtype == torch.bfloat16
    with Precision("fp32", CPU).autocast():
        assert nn.Linear(2, 2)(torch.ones(1, 2)).dtype == torch.float32


def test_binary_loss_is_the_mean_over_observed_labels():
    logits = torch.tensor([[0.3, -1.0], [2.0, 0.1]])
    targets = torch.tensor([[1.0, float("nan")], [0.0, 1.0]])
    loss = make_loss(targets.numpy(), Protocol(), 2, CPU)(logits, targets)
    terms = [F.softplus(torch.tensor(-0.3)), F.softplus(torch.tensor(2.0)), F.softplus(torch.tensor(-0.1))]
    torch.testing.assert_close(loss, sum(terms) / 3)


def test_a_batch_without_any_observed_label_has_loss_and_gradient_zero():
    for targets in (torch.full((2, 3), float("nan")), torch.full((2,), -1)):
        logits = torch.randn(2, 3, requires_grad=True)
        loss = make_loss(targets.numpy(), Protocol(label_smoothing=0.1), 3, CPU)(logits, targets)
        loss.backward()
        assert loss == 0
        assert not logits.grad.any()


def test_class_loss_with_and_without_masked_images():
    logits, targets = torch.randn(6, 3), torch.tensor([0, 2, -1, 1, 1, 0])
    masked = make_loss(targets.numpy(), Protocol(label_smoothing=0.2), 3, CPU)(logits, targets)
    seen = targets >= 0
    plain = make_loss(targets[seen].numpy(), Protocol(label_smoothing=0.2), 3, CPU)(logits[seen], targets[seen])
    torch.testing.assert_close(masked, plain)
    torch.testing.assert_close(plain, F.cross_entropy(logits[seen], targets[seen], label_smoothing=0.2))


def test_weighted_losses_give_every_class_the_same_total_weight():
    targets = np.array([0] * 6 + [1] * 3 + [2])
    weights = class_weights(targets, 4)
    assert weights * np.bincount(targets, minlength=4) == pytest.approx([10 / 3, 10 / 3, 10 / 3, 0])
    assert weights[targets].mean() == pytest.approx(1)
    logits = torch.randn(10, 4)
    y = torch.from_numpy(targets)
    ours = make_loss(targets, Protocol(imbalance="weights"), 4, CPU)(logits, y)
    torch.testing.assert_close(ours, F.cross_entropy(logits, y, weight=torch.from_numpy(weights).float()))


def test_weighted_binary_loss_balances_each_label():
    targets = np.array([[1, 0], [0, 0], [0, np.nan], [0, 0]], np.float32)
    weights = class_weights(targets, 2)
    assert weights[0] == pytest.approx([4 / (2 * 3), 4 / 2])
    assert weights[1] == pytest.approx([1, 0])  # no positive: nothing to balance
    loss = make_loss(targets, Protocol(imbalance="weights"), 2, CPU)(torch.zeros(4, 2), torch.from_numpy(targets))
    assert loss.item() == pytest.approx(math.log(2))


def test_a_drawn_label_weighs_on_both_classes_in_proportion():
    targets = np.array([[1.0], [0.7], [0.0], [0.0], [0.0], [np.nan]], np.float32)
    weights = class_weights(targets, 1)[0]
    assert weights == pytest.approx([5 / (2 * 3.3), 5 / (2 * 1.7)])
    logits, y = torch.tensor([[0.5], [-1.0], [2.0], [0.1], [0.0], [9.0]]), torch.from_numpy(targets)
    loss = make_loss(targets, Protocol(imbalance="weights"), 1, CPU)(logits, y)
    # The uncertain image as 7 positive and 3 negative ones out of 10, all others ten times.
    spread = torch.cat([y[:1].repeat(10, 1), torch.ones(7, 1), torch.zeros(33, 1)])
    of = torch.cat([logits[:1].repeat(10, 1), logits[1:2].repeat(10, 1), logits[2:5].repeat_interleave(10, 0)])
    hard = make_loss(spread.numpy(), Protocol(imbalance="weights"), 1, CPU)(of, spread)
    torch.testing.assert_close(loss, hard)


def test_sampling_weights():
    assert sampling_weights(np.array([0, 0, 0, 1, -1])) == pytest.approx([1 / 3] * 3 + [1, 0])
    nan = np.nan
    multilabel = np.array([[1, 1], [1, 0], [0, 0], [0, nan], [nan, nan]], np.float32)
    assert sampling_weights(multilabel) == pytest.approx([1, 1 / 2, 1 / 2, 1 / 2, 0])
    drawn = np.array([[1], [0.7], [0.15], [0], [0]], np.float32)
    assert sampling_weights(drawn) == pytest.approx([1 / 2, 1 / 2, 1 / 3, 1 / 3, 1 / 3])


@pytest.mark.parametrize(("images", "batch"), [(10, 4), (3, 8), (5, 5), (1, 3)])
def test_the_stream_is_one_permutation_after_another(images, batch):
    order = SampleOrder(images, batch, seed=1)
    stream = np.concatenate([order.batch(step) for step in range(40)])
    assert len(stream) == 40 * batch
    epochs = stream[: len(stream) // images * images].reshape(-1, images)
    assert (np.sort(epochs, axis=1) == np.arange(images)).all()
    if images >= 5:
        assert len({tuple(epoch) for epoch in epochs}) > 1
        assert not np.array_equal(order.batch(0), SampleOrder(images, batch, seed=2).batch(0))


def test_the_sampler_draws_in_proportion_and_without_memory():
    order = SampleOrder(4, 1000, seed=0, weights=np.array([0.0, 1.0, 2.0, 1.0]))
    counts = np.bincount(np.concatenate([order.batch(step) for step in range(10)]), minlength=4)
    assert counts[0] == 0
    assert counts / 10_000 == pytest.approx([0, 0.25, 0.5, 0.25], abs=0.02)
    again = SampleOrder(4, 1000, seed=0, weights=np.array([0.0, 1.0, 2.0, 1.0]))
    assert (again.batch(7) == order.batch(7)).all()


def test_streams_differ_by_purpose_and_position():
    seeds = [
        stream_seed(seed, stream, a, b) for seed in range(3) for stream in Stream for a in range(9) for b in range(3)
    ]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert stream_seed(2**70, Stream.ORDER, 0) != stream_seed(2**71, Stream.ORDER, 0)
