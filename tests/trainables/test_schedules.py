"""Learning rates step by step, plateaus against torch, and early stopping."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces.protocol import Budget, Protocol
from trainables.schedules import LossWatch, learning_rate
from trainables.steps import evaluation_stops, settled, warmup_problem


def _code_rate(step, images, base=0.003):
    """``get_lr`` of the paper's code, as its rule is told: 0 based steps, decays where support < step."""
    small, medium = [100, 200, 300, 400, 500], [500, 3000, 6000, 9000, 10_000]
    supports = small if images < 20_000 else medium if images < 500_000 else [500, 6000, 12_000, 18_000, 20_000]
    if step < supports[0]:
        return base * step / supports[0]
    return base * 0.1 ** sum(support < step for support in supports[1:])


@pytest.mark.parametrize("images", [19_999, 20_000, 499_999, 500_000])
def test_the_code_variant_has_the_rates_of_the_code_at_every_step(images):
    protocol = settled(Protocol(base="bit_hyperrule", variant="code"), images)
    steps = protocol.budget.steps
    assert steps == {19_999: 500, 20_000: 10_000, 499_999: 10_000, 500_000: 20_000}[images]
    for step in range(steps):
        assert learning_rate(protocol, step, steps) == pytest.approx(_code_rate(step, images), rel=1e-12)


@pytest.mark.parametrize(
    ("images", "steps", "warmup"), [(19_999, 500, 100), (20_000, 10_000, 500), (500_000, 20_000, 500)]
)
def test_the_text_variant_decays_at_its_shares(images, steps, warmup):
    protocol = settled(Protocol(base="bit_hyperrule"), images)
    assert (protocol.budget.steps, protocol.warmup_steps) == (steps, warmup)
    rates = [learning_rate(protocol, step, steps) for step in range(steps)]
    assert rates[:warmup] == pytest.approx([0.003 * (k + 1) / (warmup + 1) for k in range(warmup)])
    expected = [0.003] * (3 * steps // 10 - warmup)
    expected += [3e-4] * (3 * steps // 10) + [3e-5] * (3 * steps // 10) + [3e-6] * (steps // 10)
    assert rates[warmup:] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("images", [100, 19_999, 20_000, 500_000])
@pytest.mark.parametrize("variant", ["text", "code"])
@pytest.mark.parametrize("steps", [50, 400, 500, 5000])
def test_steps_of_ones_own_have_the_shape_of_the_small_regime_whatever_the_size(images, variant, steps):
    protocol = settled(Protocol(base="bit_hyperrule", variant=variant, budget={"steps": steps}), images)
    assert protocol.budget.steps == steps
    assert protocol.warmup_steps == steps // 5
    rates = [learning_rate(protocol, step, steps) for step in range(steps)]
    assert max(rates) == pytest.approx(0.003)
    assert rates[-1] == pytest.approx(3e-6)
    ends = (201, 301, 401) if variant == "code" else (150, 300, 450)
    assert protocol.milestones == tuple(round(end * steps / 500) for end in ends)


def test_a_warm_up_as_long_as_the_budget_is_a_problem():
    protocol = Protocol(warmup_steps=10, budget={"epochs": 2}, global_batch_size=10)
    assert "warmup_steps (10) must be below the steps of the budget, 10 at 50 images" in warmup_problem(protocol, 50)
    assert warmup_problem(protocol, 55) is None
    with pytest.raises(ValueError, match=r"warmup_steps \(10\) must be below budget.steps \(10\)"):
        Protocol(warmup_steps=10, budget={"steps": 10})
    assert Protocol(warmup_steps=9, budget={"steps": 10}).warmup_steps == 9


def test_mixup_is_off_for_small_subsets_only():
    protocol = Protocol(base="bit_light")
    assert [settled(protocol, n).mixup_alpha for n in (19_999, 20_000, 500_000)] == [0.0, 0.1, 0.1]


def test_milestones_equal_those_of_torch():
    protocol = settled(Protocol(schedule="multistep", milestones=[3, 7], decay_factor=0.2, warmup_steps=0, lr=1.0), 5)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 7], gamma=0.2)
    for step in range(10):
        assert learning_rate(protocol, step, 10) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        reference.step()


PLATEAU = {"schedule": "plateau", "warmup_fraction": 0.0, "lr": 0.01}


@settings(max_examples=60, deadline=None)
@given(
    losses=st.lists(st.sampled_from([1.0, 0.99995, 0.9999, 0.99, 0.5, 0.2, 2.0, 0.0]), max_size=60),
    patience=st.integers(0, 6),
    factor=st.sampled_from([0.5, 0.1]),
    threshold=st.sampled_from([1e-4, 0.0, 0.3]),
)
def test_a_plateau_is_that_of_torch_also_when_resumed_after_every_loss(losses, patience, factor, threshold):
    protocol = Protocol(**PLATEAU, patience=patience, decay_factor=factor, threshold=threshold)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.01)
    reference = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, "min", factor, patience, threshold)
    watch = LossWatch(protocol)
    for loss in losses:
        watch.take(loss)
        reference.step(loss)
        assert watch.scale == pytest.approx(optimizer.param_groups[0]["lr"] / 0.01, rel=1e-12)
        again = LossWatch(protocol)
        again.load_state_dict(watch.state_dict())
        watch = again
    assert not watch.has_ended


def test_training_stops_after_more_than_the_patience_without_a_lower_loss():
    watch = LossWatch(Protocol(base="taher_classification"))
    for loss in [0.5, *[0.5] * 10]:
        watch.take(loss)
    assert not watch.has_ended
    watch.take(0.49999)  # lower, if by less than the threshold of the learning rate
    for _ in range(10):
        watch.take(0.6)
    assert not watch.has_ended
    watch.take(0.6)
    assert watch.has_ended


def test_the_port_stops_below_its_least_rate():
    watch = LossWatch(Protocol(base="transfusion_port"))
    watch.take(0.5)
    taken = 0
    while not watch.has_ended:
        watch.take(0.5)
        taken += 1
    assert taken == 7 * 6  # 1e-4 / 2^7 is the first below 1e-6; each halving takes patience + 1 evaluations
    assert watch.scale == pytest.approx(2**-7)


@pytest.mark.parametrize(
    ("images", "batch", "budget", "expected"),
    [
        (10, 5, Budget(epochs=3), [2, 4, 6]),
        (10, 4, Budget(epochs=3), [3, 5, 8]),  # passes end within steps 3, 5 and 8
        (3, 8, Budget(steps=4), [1, 2, 3, 4]),  # several passes a step
        (100, 10, Budget(steps=7), [7]),
    ],
)
def test_validation_after_every_pass(images, batch, budget, expected):
    protocol = Protocol(evaluate_every="epoch", global_batch_size=batch, budget=budget)
    steps = settled(protocol, images).budget.steps
    assert evaluation_stops(protocol, images, steps) == expected
