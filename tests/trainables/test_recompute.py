"""Activations computed twice give the same training."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from tests.trainables.toy import ToyNet
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


def test_less_is_kept_for_the_backward_pass() -> None:
    net = nn.Sequential(*(Residual(nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))) for _ in range(4)))

    def kept(wanted: bool) -> int:
        sizes = []

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            sizes.append(tensor.numel())
            return tensor

        with recomputed(net, wanted), torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            net(torch.randn(8, 64, requires_grad=True))
        return sum(sizes)

    assert kept(True) < kept(False) / 2


class Residual(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.inner(x)


def test_the_toy_of_other_tests_has_no_blocks_and_trains_all_the_same() -> None:
    assert blocks(ToyNet()) == []
