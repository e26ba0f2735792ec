"""One fit: selection, reports, resume, divergence, precision, memory formats, and independence of global state."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
import torch
from torch import nn

from search_spaces.exceptions import DataError, DivergenceError, MemoryLimitError, UserError
from search_spaces.protocol import Augmentation, Budget
from search_spaces.results import Order
from tests.trainables.ranks import on_ranks
from tests.trainables.toy import NORMALISE, TRIAL_ID, Teller, ToyNet, ToySet, same, toy_protocol, toy_set
from trainables import validation_scores
from trainables.augmentation import EvaluationTransform
from trainables.batches import ImageFeed
from trainables.checkpoint import Checkpoints
from trainables.evaluation import predict
from trainables.fitting import Stopped, fit
from trainables.groups import SingleProcess
from trainables.mixing import draw_mix
from trainables.module_setup import largest_that_fits, prepare
from trainables.notice import NOTICE
from trainables.optimisation import MovingAverage
from trainables.recompute import blocks
from trainables.storage import Storage
from trainables.training_log import LOSS_WINDOW, LossLog, still_rising
from trainables.validation_metrics import validation_value

CPU = torch.device("cpu")
ONE = SingleProcess(CPU)
AUC = "auc_macro"


def _fit(
    protocol=None,
    net=None,
    tell=None,
    seed=5,
    checkpoints=None,
    train_set=None,
    val_set=None,
    primary="auc_macro",
    save_memory=False,
    group=ONE,
):
    net = net or ToyNet()
    result = fit(
        net,
        train_set or toy_set(),
        val_set or toy_set(n=12, seed=1),
        protocol=protocol or toy_protocol(),
        normalise=NORMALISE,
        input_size=8,
        seed=seed,
        primary=primary,
        group=group,
        tell=tell or Teller(),
        checkpoints=checkpoints,
        save_memory=save_memory,
    )
    return net, result


def test_reports_and_history_are_those_of_the_evaluations():
    tell = Teller()
    _, result = _fit(toy_protocol(budget=Budget(steps=50)), tell=tell)
    assert [report["step"] for report in tell.reports] == [10, 20, 30, 40, 50]
    keys = {"step", "steps", "loss", "val", "samples_per_s", "resumed_from"}
    assert all(set(report) == keys for report in tell.reports)
    assert {report["steps"] for report in tell.reports} == {50}
    for row, report in zip(result.history, tell.reports, strict=True):
        assert row["loss"] == report["loss"] == pytest.approx(math.fsum(row["step_losses"]) / 10)
        assert row["val"] == report["val"]
        assert len(row["step_losses"]) == 10
    seconds = [row["seconds"] for row in result.history]
    assert seconds == sorted(seconds)
    assert result.samples_per_s > 0


def test_training_learns():
    _, result = _fit(toy_protocol(budget=Budget(steps=120)), ToyNet(dropout=0.0))
    assert result.history[-1]["loss"] < 0.7 * result.history[0]["loss"]
    assert result.best_value > 0.9


@pytest.mark.parametrize("primary", ["auc_macro", "nll"])
def test_the_best_validation_value_is_selected_and_the_earliest_of_equals(primary):
    net, result = _fit(primary=primary)
    values = [row["val"] for row in result.history]
    best = min(values) if primary == "nll" else max(values)
    assert result.best_value == best
    assert result.best_step == result.history[values.index(best)]["step"]
    assert same(net.state_dict(), result.selected)
    chosen = (result.best_step == result.steps) == same(result.selected, result.final)
    assert chosen


@pytest.mark.parametrize("select", ["best_val", "last"])
def test_validation_logits_are_those_of_the_selected_step(select):
    val_set = toy_set(n=12, seed=1)
    _, result = _fit(toy_protocol(select=select), val_set=val_set)
    assert result.val_logits.shape == (12, 3)
    assert validation_value("auc_macro", result.val_logits, np.asarray(val_set.targets)) == result.best_value
    values = [row["val"] for row in result.history]
    assert result.best_value == (values[-1] if select == "last" else max(values))
    # The weights that came out say the same of these images.
    again = ToyNet()
    again.load_state_dict(result.selected)
    transform = EvaluationTransform(8, NORMALISE, CPU, torch.float32, False)
    said = predict(again, ImageFeed(val_set, CPU, torch.float32), transform, ONE, 64)
    np.testing.assert_allclose(said, result.val_logits, atol=1e-5)


def test_equal_values_select_the_earliest():
    _, result = _fit(primary="accuracy", val_set=ToySet(*_one_image()))
    values = [row["val"] for row in result.history]
    assert result.best_step == result.history[values.index(max(values))]["step"]
    assert values.count(max(values)) > 1


def _one_image():
    whole = toy_set(n=1)
    return whole.images, whole.positions, whole.targets


def test_the_last_step_is_selected_if_so_asked():
    net, result = _fit(toy_protocol(select="last"))
    assert result.best_step == result.steps == 10
    assert result.best_value == result.history[-1]["val"]
    assert same(result.selected, result.final)
    assert same(net.state_dict(), result.final)


@pytest.mark.parametrize("select", ["last", "best_val"])
def test_the_moving_average_is_what_is_evaluated_and_selected(monkeypatch, select):
    ours = {}
    update = MovingAverage.update

    def spied(average, step):
        if not ours:
            ours.update({name: tensor.clone() for name, tensor in average.state_dict().items()})
        decay = min(0.9, (1 + step) / (10 + step))
        for name, weights in average._sources.items():
            ours[name] = decay * ours[name] + (1 - decay) * weights.detach()
        update(average, step)

    monkeypatch.setattr(MovingAverage, "update", spied)
    val_set = toy_set(n=12, seed=1)
    net, averaged = _fit(toy_protocol(select=select, ema_decay=0.9), val_set=val_set)
    _, plain = _fit(toy_protocol(select=select), val_set=val_set)
    assert [r["step_losses"] for r in plain.history] == [r["step_losses"] for r in averaged.history]
    for name, expected in ours.items():
        torch.testing.assert_close(averaged.final[name], expected, rtol=1e-5, atol=1e-7)
    assert not same(plain.final, averaged.final)
    transform = EvaluationTransform(8, NORMALISE, CPU)
    said = predict(net, ImageFeed(val_set, CPU, torch.float32), transform, ONE, 64)
    assert same(net.state_dict(), averaged.selected)
    np.testing.assert_allclose(said, averaged.val_logits, rtol=1e-4, atol=1e-5)
    assert validation_value(AUC, averaged.val_logits, np.asarray(val_set.targets)) == averaged.best_value


def test_an_undefined_validation_metric_cannot_select_but_may_be_reported():
    one_class = toy_set(n=6, classes=1)
    with pytest.raises(DataError, match=r"auc_macro is not defined on the 6 validation images.*select: last"):
        _fit(val_set=one_class)
    tell = Teller()
    _, result = _fit(toy_protocol(select="last"), val_set=one_class, tell=tell)
    assert result.best_value is None
    assert tell.reports[0]["val"] is None


def test_no_image_is_a_data_error():
    empty = toy_set()
    with pytest.raises(DataError, match="no image"):
        _fit(train_set=ToySet(empty.images, empty.positions[:0], empty.targets[:0]))


@pytest.mark.parametrize("n", [1, 3, 5])
def test_subsets_smaller_than_the_batch_train(n):
    _, result = _fit(train_set=toy_set(n=n))
    assert result.steps == 10


@pytest.mark.parametrize("imbalance", ["none", "weights", "sampler"])
@pytest.mark.parametrize("kind", ["binary", "multilabel", "multiclass"])
def test_every_kind_and_imbalance_option_trains(kind, imbalance):
    data = toy_set(kind=kind, masked=0.2)
    net = ToyNet(outputs=1 if kind == "binary" else 3)
    _, result = _fit(
        toy_protocol(imbalance=imbalance), net, train_set=data, val_set=toy_set(n=20, seed=1, kind=kind), primary="nll"
    )
    assert all(math.isfinite(row["loss"]) for row in result.history)


def _explode_at(step):
    class Explodes(ToyNet):
        calls = 0

        def forward(self, x):
            z = super().forward(x)
            if self.training:
                type(self).calls += 1
            return z * (float("nan") if self.calls > 2 * step else 1.0)

    return Explodes()


@pytest.mark.parametrize("step", [0, 7, 23])
def test_divergence_names_the_step_and_the_value(step):
    with pytest.raises(DivergenceError, match=rf"training loss is nan at step {step + 1} of 40"):
        _fit(toy_protocol(budget=Budget(steps=40), evaluations=1), _explode_at(step))


def test_non_finite_validation_outputs_are_a_divergence():
    class BlowsUp(ToyNet):
        def forward(self, x):
            return super().forward(x) * (1.0 if self.training else float("inf"))

    with pytest.raises(DivergenceError, match="validation outputs are not finite after step 2 of 10"):
        _fit(net=BlowsUp())


def test_losses_are_looked_at_in_windows():
    log = LossLog(ONE, 100)
    for _ in range(3):
        log.add(torch.tensor(1.0))
    log.add(torch.tensor(float("inf")))
    with pytest.raises(DivergenceError, match="inf at step 20 of 100"):
        log.look(LOSS_WINDOW)


def _checkpoints(tmp_path, every_s=0.0, trial_id=TRIAL_ID):
    return Checkpoints(Storage(tmp_path / "store"), trial_id, every_s, ONE)


DISTORTED = Augmentation(saturation=0.3, hue=0.1, grid_distortion=0.2, elastic=0.02, erasing=0.5, crop="fixed")
VARIANTS = {
    "adamw": toy_protocol(),
    "sgd with ema, mixed": toy_protocol(optimizer="sgd", ema_decay=0.8, mixup_alpha=0.4, cutmix_alpha=1.0),
    "sampler, last, bf16": toy_protocol(imbalance="sampler", select="last", precision="bf16"),
    "plateau": toy_protocol(
        optimizer="adam",
        schedule="plateau",
        patience=0,
        decay_factor=0.5,
        threshold=0.05,
        stop_patience=9,
        select="best_val_loss",
        head_init="zero",
    ),
    "one ghost, distorted": toy_protocol(ghost_batch_size=8, augmentation=DISTORTED),
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("stop_after", [1, 3, 5])
def test_interrupted_and_resumed_equals_uninterrupted_bit_for_bit(tmp_path, variant, stop_after):
    protocol = VARIANTS[variant]
    net, whole = _fit(protocol)
    orders = [Order.GO] * (stop_after - 1) + [Order.STOP]
    with pytest.raises(Stopped) as stopped:
        _fit(protocol, tell=Teller(orders), checkpoints=_checkpoints(tmp_path, every_s=1e9))
    assert stopped.value.step == 2 * stop_after
    torch.manual_seed(99)
    other = ToyNet(seed=1)  # another start: everything must come from the checkpoint
    tell = Teller()
    _, resumed = _fit(protocol, other, tell, checkpoints=_checkpoints(tmp_path))
    assert resumed.resumed_from == 2 * stop_after
    assert [report["step"] for report in tell.reports] == [step for step in (2, 4, 6, 8, 10) if step > 2 * stop_after]
    assert same(whole.selected, resumed.selected)
    assert same(whole.final, resumed.final)
    assert same(net.state_dict(), other.state_dict())
    assert (whole.best_step, whole.best_value) == (resumed.best_step, resumed.best_value)
    assert np.array_equal(whole.val_logits, resumed.val_logits)
    for first, second in zip(whole.history, resumed.history, strict=True):
        assert {k: v for k, v in first.items() if k != "seconds"} == {k: v for k, v in second.items() if k != "seconds"}


def test_all_ghost_batches_of_a_step_share_what_is_drawn_once_for_a_step(monkeypatch):
    shares = []

    def spy(*args):
        shares.append(draw_mix(*args).weight.unique().tolist())
        return draw_mix(*args)

    monkeypatch.setattr("trainables.mixing.draw_mix", spy)
    _fit(toy_protocol(mixup_alpha=0.4, mixup_share="step"))
    first, second = shares[::2], shares[1::2]
    assert first == second
    assert [len(of_step) for of_step in first] == [1] * 10
    assert len({share for (share,) in first}) == 10
    shares.clear()
    _fit(toy_protocol(mixup_alpha=0.4))
    assert [len(of_ghost) for of_ghost in shares] == [4] * 20


LOSS_LED = {"schedule": "plateau", "patience": 0, "decay_factor": 0.5, "evaluations": 10, "evaluate_every": "epoch"}


def _scripted_losses(monkeypatch, losses):
    """Validation losses as given, one per evaluation."""
    left = list(losses)

    def value(metric, logits, targets):
        if metric != "nll" or not np.abs(logits).any():  # the check before training asks with logits of 0
            return validation_value(metric, logits, targets)
        return left.pop(0)

    monkeypatch.setattr(validation_scores, "validation_value", value)


def test_a_plateau_lowers_the_rate_selects_by_loss_and_stops(monkeypatch):
    _scripted_losses(monkeypatch, [0.9, 0.5, 0.6, 0.7, 0.8, 0.1])
    protocol = toy_protocol(**LOSS_LED, budget=Budget(epochs=20), stop_patience=2, select="best_val_loss", lr=0.01)
    _, result = _fit(protocol)
    assert [row["step"] for row in result.history] == [5, 10, 15, 20, 25]  # 40 images in batches of 8
    assert [row["val_loss"] for row in result.history] == [0.9, 0.5, 0.6, 0.7, 0.8]
    warm = result.history[0]["lr"]
    assert [row["lr"] for row in result.history[2:]] == pytest.approx([0.01, 0.005, 0.0025])
    assert warm < 0.01
    assert (result.steps, result.best_step, result.still_rising) == (25, 10, False)


def test_training_ends_below_the_least_learning_rate(monkeypatch):
    _scripted_losses(monkeypatch, [0.5] * 20)
    protocol = toy_protocol(**LOSS_LED, budget=Budget(epochs=20), min_lr=0.004, lr=0.01)
    _, result = _fit(protocol)
    assert [row["step"] for row in result.history] == [5, 10, 15]


def test_an_early_end_outlives_a_crash_after_it(tmp_path, monkeypatch):
    _scripted_losses(monkeypatch, [0.5, 0.6, 0.1])
    protocol = toy_protocol(**LOSS_LED, budget=Budget(epochs=20), stop_patience=0)
    tell = Teller([Order.GO, Order.SAVE])
    _fit(protocol, tell=tell, checkpoints=_checkpoints(tmp_path, every_s=1e9))
    again = Teller()
    _, result = _fit(protocol, tell=again, checkpoints=_checkpoints(tmp_path))
    assert (again.reports, result.steps) == ([], 10)


def test_without_labels_there_is_no_validation_loss():
    unlabelled = toy_set(n=4, seed=1)
    unlabelled = ToySet(unlabelled.images, unlabelled.positions, np.full(4, -1))
    with pytest.raises(DataError, match="no validation loss"):
        _fit(toy_protocol(schedule="plateau", patience=1, select="last"), val_set=unlabelled)


def test_a_crash_continues_from_the_last_checkpoint(tmp_path):
    _, whole = _fit()
    orders = [Order.SAVE, Order.GO]

    def dies(report):
        if not orders:
            raise ConnectionError("driver lost")
        return orders.pop(0)

    with pytest.raises(ConnectionError):
        _fit(tell=dies, checkpoints=_checkpoints(tmp_path, every_s=1e9))
    _, resumed = _fit(checkpoints=_checkpoints(tmp_path))
    assert resumed.resumed_from == 2
    assert same(whole.selected, resumed.selected)
    assert same(whole.final, resumed.final)


class Wrapped(torch.nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x)


def _in_a_block():
    net = ToyNet()
    net.features = torch.nn.Sequential(Wrapped(net.features))
    return net


@pytest.mark.parametrize("variant", VARIANTS)
def test_activations_computed_twice_give_the_same_training(variant):
    """With dropout, BatchNorm and its running statistics, of one ghost batch and of several."""
    protocol = VARIANTS[variant]
    net, kept = _fit(protocol, _in_a_block())
    other, again = _fit(protocol, _in_a_block(), save_memory=True)
    assert blocks(other)
    assert kept.history[-1]["step_losses"] == again.history[-1]["step_losses"]
    # One ghost batch is normalised by the layer's own update otherwise, which rounds differently.
    tolerance = 1e-6 if variant.startswith("one ghost") else 0.0
    torch.testing.assert_close(kept.final, again.final, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(net.state_dict(), other.state_dict(), rtol=tolerance, atol=tolerance)


@pytest.fixture
def notice(monkeypatch):
    """Orders are looked for after every step; the toy evaluates after every second one."""
    monkeypatch.setattr("trainables.fitting.LOSS_WINDOW", 1)
    NOTICE.clear()
    yield NOTICE
    NOTICE.clear()


@pytest.mark.parametrize("variant", VARIANTS)
def test_stopped_between_evaluations_and_resumed_equals_uninterrupted_bit_for_bit(tmp_path, variant, notice):
    protocol = VARIANTS[variant]
    net, whole = _fit(protocol)

    def tell(report):
        if report["step"] == 4:
            notice.give(Order.STOP)
        return Order.GO

    with pytest.raises(Stopped) as stopped:
        _fit(protocol, tell=tell, checkpoints=_checkpoints(tmp_path, every_s=1e9))
    assert stopped.value.step == 5
    notice.clear()
    other = ToyNet(seed=1)
    tell = Teller()
    _, resumed = _fit(protocol, other, tell, checkpoints=_checkpoints(tmp_path))
    assert resumed.resumed_from == 5
    assert same(whole.final, resumed.final)
    assert same(net.state_dict(), other.state_dict())
    for first, second in zip(whole.history, resumed.history, strict=True):
        assert {k: v for k, v in first.items() if k != "seconds"} == {k: v for k, v in second.items() if k != "seconds"}


def test_an_order_to_save_is_obeyed_once_and_training_goes_on(tmp_path, notice):
    _, whole = _fit()
    notice.give(Order.SAVE)
    checkpoints = _checkpoints(tmp_path, every_s=1e9)
    saved = []
    write = checkpoints.save
    checkpoints.save = lambda state: (saved.append(state()["step"]), write(state))
    _, kept_on = _fit(checkpoints=checkpoints)
    assert saved == [1]
    assert same(whole.final, kept_on.final)
    _, resumed = _fit(checkpoints=_checkpoints(tmp_path))
    assert resumed.resumed_from == 1
    assert same(whole.final, resumed.final)


def test_an_order_reaches_all_ranks_with_the_losses():
    log = LossLog(ONE, 100)
    for notice in (0, 2):
        log.add(torch.tensor(1.5))
        assert log.look(1, notice) == notice
    assert log.take() == [1.5, 1.5]


def _noise():
    torch.manual_seed(random.randrange(10**6))
    np.random.seed(random.randrange(10**6))  # noqa: NPY002
    torch.rand(random.randrange(1, 50))


def test_global_random_state_has_no_effect_and_the_seed_has():
    _, first = _fit()
    _noise()
    _, second = _fit()
    _, other = _fit(seed=6)
    assert same(first.final, second.final)
    assert not same(first.final, other.final)


def test_half_precision_without_cuda_is_refused_before_training():
    tell = Teller()
    with pytest.raises(UserError, match="fp16"):
        _fit(toy_protocol(precision="fp16"), tell=tell)
    assert tell.reports == []


class _Hungry(ToyNet):
    """Exhausts the device with more than ``limit`` images at a time, in training or else in evaluation."""

    limit = 2
    in_training = True

    def forward(self, x):
        if self.training is self.in_training and len(x) > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return super().forward(x)


def test_memory_that_runs_out_names_the_ghost_batch_that_fits():
    with pytest.raises(MemoryLimitError, match=r"ghost batch of 4 images.*ghost_batch_size: 2 would fit.*2 GiB"):
        _fit(net=_Hungry())
    net = _Hungry()
    net.limit = 1
    with pytest.raises(MemoryLimitError, match="no smaller one fits"):
        _fit(net=net)


def test_one_image_is_tried_where_no_layer_needs_more():
    net = _Hungry()
    net.limit = 1
    for place, layer in enumerate(net.features):
        if isinstance(layer, nn.BatchNorm2d):
            net.features[place] = nn.GroupNorm(2, layer.num_features)
    with pytest.raises(MemoryLimitError, match="ghost_batch_size: 1 would fit"):
        _fit(net=net)


class _HungryForActivations(ToyNet):
    """Has room for three images where activations are computed twice, and for none where they are kept."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(Wrapped(self.features))

    def forward(self, x):
        is_recomputed = "forward" in self.features[0].__dict__
        if self.training and len(x) > (3 if is_recomputed else 0):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return super().forward(x)


@pytest.mark.parametrize(("save_memory", "advice"), [(True, "size: 2 would fit"), (False, "no smaller one")])
def test_advice_is_for_the_way_in_which_memory_ran_out(save_memory, advice):
    with pytest.raises(MemoryLimitError, match=advice):
        _fit(net=_HungryForActivations(), save_memory=save_memory)


def test_validation_that_exhausts_the_device_goes_on_with_fewer_images():
    net = _Hungry()
    net.in_training = False
    _, expected = _fit()
    _, found = _fit(net=net)
    torch.testing.assert_close(found.final, expected.final)
    np.testing.assert_allclose(found.val_logits, expected.val_logits, atol=1e-5)
    assert found.best_step == expected.best_step


class _Backwards(torch.autograd.Function):
    """Exhausts the device where gradients come back, with more images than the net's limit."""

    @staticmethod
    def forward(context, x, limit):
        context.limit = limit
        return x.clone()

    @staticmethod
    def backward(context, gradient):
        if len(gradient) > context.limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB")
        return gradient, None


class _HungryBackwards(ToyNet):
    """DDP has begun to expect gradients when this one runs out of memory."""

    def forward(self, x):
        return _Backwards.apply(super().forward(x), 2)


def _advice_of_rank(group, backwards):
    try:
        _fit(net=_HungryBackwards() if backwards else _Hungry(), group=group)
    except MemoryLimitError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("backwards", [False, True])
def test_every_rank_of_a_gang_names_the_ghost_batch_that_fits(tmp_path, backwards):
    for advice in on_ranks(_advice_of_rank, 2, tmp_path, backwards):
        assert "protocol.ghost_batch_size: 2 would fit" in advice


def test_the_largest_size_that_fits_is_the_first_that_runs():
    tried = []

    def run(size):
        tried.append(size)
        if size > 3:
            raise torch.OutOfMemoryError

    assert largest_that_fits(ToyNet(), [8, 4, 3, 1], run) == 3
    assert tried == [8, 4, 3]


class _Views(nn.Module):
    """Reshapes feature maps with ``view``, which channels-last tensors refuse."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4 * 64, 3)

    def forward(self, x):
        x = self.conv(x)
        return self.fc(x.view(x.size(0), -1))


def test_channels_last_is_used_where_the_net_allows_it():
    assert prepare(ToyNet(), 8, CPU).channels_last
    assert not prepare(_Views(), 8, CPU).channels_last
    assert not prepare(nn.Sequential(nn.Flatten(), nn.Linear(192, 2)), 8, CPU).channels_last
    _, result = _fit(net=_Views())
    assert result.steps == 10


def test_prepare_leaves_weights_statistics_and_mode_alone():
    net = ToyNet().train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    facts = prepare(net, 8, CPU)
    assert same(before, net.state_dict())
    assert net.training
    assert (facts.outputs, facts.dtype, facts.has_unused_parameters) == (3, torch.float32, False)
    net.extra = nn.Linear(2, 2)
    assert prepare(net, 8, CPU).has_unused_parameters


def test_a_net_that_fails_says_so_itself():
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        prepare(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(7, 2)), 8, CPU)


@pytest.mark.parametrize(
    ("values", "metric", "expected"),
    [
        ([0.5, 0.6], "auc", None),
        ([0.5, 0.6, 0.7], "auc", True),
        ([0.5, 0.7, 0.701], "auc", False),
        ([0.9, 0.5, 0.6, 0.7, 0.8, 0.85], "auc", False),
        ([0.9, 0.8, 0.5], "nll", True),
        ([0.5, 0.8, 0.9], "nll", False),
        ([0.5, None, 0.6, 0.7], "auc", True),
        ([None] * 5, "auc", None),
    ],
)
def test_still_rising(values, metric, expected):
    assert still_rising(values, metric) is expected
