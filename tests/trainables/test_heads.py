"""The fresh head."""

from __future__ import annotations

import pytest
import torch

from tests.trainables.toy import ToyNet, same
from trainables.heads import fill_head

HEAD = ("fc.weight", "fc.bias")


@pytest.mark.parametrize("how", ["model", "zero", "normal"])
def test_only_the_head_is_written(how):
    net, before = ToyNet(), ToyNet().state_dict()
    fill_head(net, HEAD, how, seed=3)
    after = net.state_dict()
    assert same({n: t for n, t in after.items() if n not in HEAD}, {n: t for n, t in before.items() if n not in HEAD})
    assert torch.equal(after["fc.weight"], before["fc.weight"]) is (how == "model")
    if how != "model":
        assert not after["fc.bias"].any()
    assert bool(after["fc.weight"].any()) is (how != "zero")


def test_a_normal_head_has_its_spread_and_follows_from_the_seed():
    net = ToyNet(outputs=4000)
    fill_head(net, HEAD, "normal", seed=3)
    first = net.fc.weight.detach().clone()
    assert float(first.std()) == pytest.approx(0.01, rel=0.02)
    assert abs(float(first.mean())) < 3e-4
    torch.rand(7)
    fill_head(net, HEAD, "normal", seed=3)
    assert torch.equal(first, net.fc.weight)
    fill_head(net, HEAD, "normal", seed=4)
    assert not torch.equal(first, net.fc.weight)
