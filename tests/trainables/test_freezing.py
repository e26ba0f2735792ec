from __future__ import annotations

import pytest
import timm
import torch
from torch import nn
from torchvision.models import alexnet

from search_spaces.exceptions import UserError
from search_spaces.protocol import Protocol
from trainables.freezing import freeze, is_frozen
from trainables.ghost_batches import GhostBatches
from trainables.groups import SingleProcess
from trainables.ladder_nets import resnet8
from trainables.optimisation import Update

HEAD = ("linear.weight", "linear.bias")


def _state(net: nn.Module) -> dict[str, torch.Tensor]:
    return {n: t.clone() for n, t in net.state_dict().items()}


def _train(net: nn.Module, ghosts: int = 1, **fields: object) -> None:
    protocol = Protocol.model_validate(
        {"lr": 0.1, "optimizer": "sgd", "warmup_fraction": 0, "clip_norm": 1.0, **fields}
    )
    update = Update(net, protocol, steps=3)
    images = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0)) + 3
    group = SingleProcess(torch.device("cpu"))

    def loss(model: nn.Module, step: int, ghost: int) -> torch.Tensor:
        return model(images[ghost * 4 : (ghost + 1) * 4]).square().mean()

    net.train()
    with GhostBatches(net, ghosts=ghosts, group=group, seed=0) as batches:
        for step in range(3):
            batches.backward(step, loss)
            update(step)


@pytest.mark.parametrize("ghosts", [1, 2])
def test_bottom_stays_bit_for_bit_statistics_included(ghosts: int) -> None:
    torch.manual_seed(0)
    net = resnet8(num_classes=2, width=4)
    before = _state(net)
    held = freeze(net, HEAD, "layer1")
    assert held == sum(p.numel() for n, p in net.named_parameters() if n.startswith(("conv1", "bn1", "layer1")))
    _train(net, ghosts)
    moved = {n for n, t in net.state_dict().items() if not torch.equal(t, before[n])}
    assert not any(n.startswith(("conv1", "bn1", "layer1")) for n in moved)
    assert {"layer2.0.conv1.weight", "layer2.0.bn1.running_mean", "layer3.0.bn2.num_batches_tracked"} <= moved
    assert set(HEAD) <= moved


def test_frozen_batch_norm_uses_its_running_statistics_while_training() -> None:
    torch.manual_seed(0)
    net = resnet8(num_classes=2, width=4)
    freeze(net, HEAD, "bn1")
    seen = {}
    net.layer1.register_forward_pre_hook(lambda _, inputs: seen.setdefault("x", inputs[0]))
    images = torch.randn(4, 3, 16, 16) * 5
    net.train()
    net(images)
    net.eval()
    assert torch.equal(seen["x"], torch.relu(net.bn1(net.conv1(images))))
    assert not net.train().bn1.weight.requires_grad
    net(images)
    assert (net.bn1.training, net.layer1.training) == (False, True)


def test_everything_below_the_head_and_nothing() -> None:
    net = resnet8(num_classes=2, width=4)
    assert freeze(net, HEAD, None) == 0
    assert not any(is_frozen(layer) for layer in net.modules())
    freeze(net, HEAD, "layer3")
    assert [n for n, p in net.named_parameters() if p.requires_grad] == list(HEAD)
    assert not is_frozen(net)
    assert is_frozen(net.layer2[0].bn1)


def test_parameters_outside_of_modules_and_dropout_in_them() -> None:
    net = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=2, proj_drop_rate=0.5)
    freeze(net, ("head.weight", "head.bias"), "blocks.0")
    assert not net.cls_token.requires_grad
    net.train()(torch.randn(1, 3, 32, 32))
    assert (net.blocks[0].mlp.drop1.training, net.blocks[1].mlp.drop1.training) == (False, True)


def test_dropout_between_frozen_layers_is_refused_with_what_to_do() -> None:
    head = ("classifier.6.weight", "classifier.6.bias")
    with torch.device("meta"):
        net, without = alexnet(num_classes=2), alexnet(num_classes=2, dropout=0)
        vit = timm.create_model("vit_tiny_patch16_224", depth=2, num_classes=2, pos_drop_rate=0.1)
    said = r"freeze: classifier.0 \(Dropout, rate 0.5\) comes before layers of 'classifier.1' .* Freeze a part below it"
    with pytest.raises(UserError, match=said):
        freeze(net, head, "classifier.1")
    assert all(p.requires_grad for p in net.parameters())
    assert not any(is_frozen(layer) for layer in net.modules())
    with pytest.raises(UserError, match=r"pos_drop \(Dropout, rate 0.1\)"):
        freeze(vit, ("head.weight", "head.bias"), "blocks.0")
    for other, up_to in ((net, "features.10"), (without, "classifier.4")):
        assert freeze(other, head, up_to) > 0


class DropsAtTheEnd(nn.Module):
    """Defines its dropout first."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)
        self.low, self.high, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.drop(self.high(self.low(x))))


def test_order_of_definition_says_nothing_in_a_users_own_network() -> None:
    assert freeze(DropsAtTheEnd(), ("head.weight", "head.bias"), "low") == 20
    with pytest.raises(UserError, match=r"freeze: 1 \(Dropout, rate 0.5\)"):
        freeze(nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), DropsAtTheEnd()), (), "2.low")


def test_unknown_part_is_named_with_its_place() -> None:
    with pytest.raises(UserError, match=r"protocol.freeze: unknown cut point 'layr2'. Did you mean 'layer2'"):
        freeze(resnet8(2), HEAD, "layr2")


def test_learning_rates_fall_towards_the_bottom_at_every_step() -> None:
    net = resnet8(num_classes=2, width=4)
    protocol = Protocol(lr=1.0, layer_lr_decay=0.5, warmup_fraction=0.5, weight_decay=0.1, optimizer="sgd")
    update = Update(net, protocol, steps=4)
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    rates = {}
    for step in range(4):
        update(step)
        for group in update.optimizer.param_groups:
            for parameter in group["params"]:
                rates[step, id(parameter)] = group["lr"]
    names = {n: id(p) for n, p in net.named_parameters()}
    for step, peak in enumerate((1 / 3, 2 / 3, 1.0, 0.5)):
        assert rates[step, names["linear.weight"]] == pytest.approx(peak)
        assert rates[step, names["layer3.0.conv1.weight"]] == pytest.approx(peak / 2)
        assert rates[step, names["layer1.0.bn1.bias"]] == pytest.approx(peak / 8)
        assert rates[step, names["conv1.weight"]] == pytest.approx(peak / 16)
    decayed = {id(p): g["weight_decay"] for g in update.optimizer.param_groups for p in g["params"]}
    assert (decayed[names["conv1.weight"]], decayed[names["bn1.weight"]]) == (0.1, 0.0)


def test_no_decay_is_the_optimiser_as_it_was() -> None:
    net = resnet8(num_classes=2, width=4)
    groups = Update(net, Protocol(), steps=2).optimizer.param_groups
    assert [g["weight_decay"] for g in groups] == [0.01, 0.0]
    assert [p.shape for p in groups[0]["params"]] == [p.shape for p in net.parameters() if p.ndim >= 2]
