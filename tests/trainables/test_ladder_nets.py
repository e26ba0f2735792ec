from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from trainables import ladder_nets
from trainables.checkpoint_files import read_state_dict

DEPTHS = (8, 14, 20, 32, 44, 56, 110)


def _module(depth: int, **keywords: int) -> ladder_nets.CifarResNet:
    torch.manual_seed(0)
    return getattr(ladder_nets, f"resnet{depth}")(num_classes=3, **keywords)


@pytest.mark.parametrize("depth", DEPTHS)
def test_depth_counts_layers_with_weights(depth: int) -> None:
    weights = [n for n, p in _module(depth, width=2).named_parameters() if p.ndim > 1]
    assert len(weights) == depth


def test_parameters_are_those_of_the_paper() -> None:
    """Table 6 of He et al. 2015: 0.27 M for 20 layers, 0.85 M for 56, 1.7 M for 110, with 10 classes."""
    millions = {d: sum(p.numel() for p in _module(d).parameters()) / 1e6 for d in (20, 56, 110)}
    assert millions[20] == pytest.approx(0.27, abs=0.005)
    assert millions[56] == pytest.approx(0.85, abs=0.005)
    assert millions[110] == pytest.approx(1.7, abs=0.05)


@pytest.mark.parametrize("size", [8, 31, 32, 50])
def test_any_input_size(size: int) -> None:
    net = _module(8, width=4).eval()
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    assert net(images).shape == (2, 3)
    side = math.ceil(size / 4)
    assert net.forward_features(images).shape == (2, 16, side, side)


def test_shortcut_takes_every_second_pixel_and_pads_channels_on_both_sides() -> None:
    block = ladder_nets.BasicBlock(4, 8, stride=2).eval()
    torch.nn.init.zeros_(block.conv2.weight)
    x = torch.rand(1, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    expected = torch.zeros(1, 8, 3, 3)
    expected[:, 2:6] = x[:, :, ::2, ::2]
    assert torch.equal(block(x), expected)


def test_odd_width_works() -> None:
    assert _module(8, width=3)(torch.zeros(2, 3, 16, 16)).shape == (2, 3)


@pytest.mark.parametrize(("depth", "width"), [(2, 16), (21, 16), (20, 0)])
def test_impossible_shapes_are_refused(depth: int, width: int) -> None:
    with pytest.raises(ValueError, match="must be"):
        ladder_nets.CifarResNet(2, depth=depth, width=width)


def _published(shared_data: Path, depth: int, file: str) -> ladder_nets.CifarResNet:
    tensors = {k.removeprefix("module."): v for k, v in read_state_dict(shared_data / "weights" / file).items()}
    net = getattr(ladder_nets, f"resnet{depth}")(num_classes=10)
    report = net.load_state_dict(tensors, strict=False)
    assert not report.unexpected_keys
    assert all(k.endswith("num_batches_tracked") for k in report.missing_keys)
    return net.eval()


def _agreement(net: ladder_nets.CifarResNet) -> float:
    """How well the means that batch norm meets on smooth noise correlate with those stored in training."""
    generator = torch.Generator().manual_seed(0)
    octaves = [torch.randn(32, 3, s, s, generator=generator) for s in (2, 4, 8, 16)]
    images = sum(F.interpolate(o, size=32, mode="bicubic") for o in octaves) / 2
    found: list[float] = []

    def compare(layer: torch.nn.BatchNorm2d, inputs: tuple[torch.Tensor], _: torch.Tensor) -> None:
        pair = torch.stack([inputs[0].mean(dim=(0, 2, 3)), layer.running_mean])
        found.append(torch.corrcoef(pair)[0, 1].item())

    for layer in net.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.register_forward_hook(compare)
    with torch.no_grad():
        net(images)
    return sum(found) / len(found)


def _zeros_behind(block: ladder_nets.BasicBlock, x: torch.Tensor) -> torch.Tensor:
    """Another shortcut without weights, with which the published weights were not trained."""
    x = x[:, :, :: block._stride, :: block._stride]
    return F.pad(x, (0, 0, 0, 0, 0, block._new_channels))


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("depth", "file"), [(20, "cifar10_resnet20-12fca82f.th"), (56, "cifar10_resnet56-4bfd9763.th")]
)
def test_published_weights_load_and_were_trained_with_this_wiring(shared_data, monkeypatch, depth, file) -> None:
    agreement = _agreement(_published(shared_data, depth, file))
    monkeypatch.setattr(ladder_nets.BasicBlock, "_shortcut", _zeros_behind)
    assert agreement > 0.8
    assert agreement > _agreement(_published(shared_data, depth, file)) + 0.03
