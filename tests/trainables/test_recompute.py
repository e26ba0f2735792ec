"""Activations computed twice give the same training."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import timm
import torch
from torch import nn

from tests.trainables.toy import ToyNet
from trainables.cbr_nets import cbr_tiny
from trainables.phantom_nets import phantom_net
from trainables.recompute import blocks, recomputed


@pytest.mark.parametrize(
    ("name", "kind", "number"),
    [
        ("resnet18", "BasicBlock", 8),
        ("vit_tiny_patch16_224", "Block", 12),
        ("convnext_atto", "ConvNeXtBlock", 12),
        ("resnetv2_50x1_bit", "PreActBottleneck", 16),
    ],
)
def test_blocks_are_what_repeats(name: str, kind: str, number: int) -> None:
    found = blocks(timm.create_model(name))
    assert {type(block).__name__ for block in found} == {kind}
    assert len(found) == number


def test_names_and_state_stay_as_they_are_and_the_net_is_given_back() -> None:
    net = timm.create_model("resnet10t")
    names = list(net.state_dict())
    with recomputed(net):
        assert list(net.state_dict()) == names
        assert all("forward" in block.__dict__ for block in blocks(net))
    assert not any("forward" in block.__dict__ for block in net.modules())


def kept(net: nn.Module, images: torch.Tensor, wanted: bool) -> int:
    """Numbers that wait for the backward pass."""
    sizes: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        sizes[tensor.data_ptr()] = tensor.numel()
        return tensor

    with recomputed(net, wanted), torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        net(images)
    return sum(sizes.values())


def test_less_is_kept_for_the_backward_pass() -> None:
    net = nn.Sequential(*(Residual(nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))) for _ in range(4)))
    images = torch.randn(8, 64, requires_grad=True)
    assert kept(net, images, True) < kept(net, images, False) / 2


def vgg() -> nn.Module:
    """Layers in one sequence, most of them in place, and dropout before the first that has weights."""
    widths = [(3, 8), (8, 8), (8, 16), (16, 16), (16, 16), (16, 16)]
    features = [layer for a, b in widths for layer in (nn.Conv2d(a, b, 3, padding=1), nn.ReLU(inplace=True))]
    head = [nn.Dropout(0.5, inplace=True), nn.Linear(16, 8), nn.Hardswish(inplace=True), nn.Linear(8, 2)]
    return nn.Sequential(
        OrderedDict(
            features=nn.Sequential(*features),
            pool=nn.AdaptiveAvgPool2d(1),
            flat=nn.Flatten(),
            classifier=nn.Sequential(*head),
        )
    )


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = cbr_tiny(4, width=4)
        self.fc = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.backbone(x))


WITHOUT_BLOCKS = {
    "units by name": lambda: cbr_tiny(2, width=4),
    "units in a sequence": lambda: phantom_net(2),
    "one sequence of layers": vgg,
    "inside of another net": Outer,
    "nothing but layers": lambda: vgg().features,
}


@pytest.mark.parametrize("name", WITHOUT_BLOCKS)
def test_a_net_without_blocks_keeps_less_and_has_the_same_gradients(name: str) -> None:
    torch.manual_seed(0)
    net, images = WITHOUT_BLOCKS[name](), torch.randn(4, 3, 32, 32)
    assert blocks(net) == []
    assert kept(net, images, True) < 0.7 * kept(net, images, False)
    gradients = []
    for wanted in (False, True):
        net.zero_grad()
        torch.manual_seed(1)
        with recomputed(net, wanted):
            net(images).square().mean().backward()
        gradients.append([p.grad.clone() for p in net.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    assert not any("forward" in part.__dict__ for part in net.modules())


class Residual(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.inner(x)


def test_the_toy_of_other_tests_has_no_blocks_and_trains_all_the_same() -> None:
    assert blocks(ToyNet()) == []
