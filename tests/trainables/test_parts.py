from __future__ import annotations

import pytest
import timm
import torch
import torchvision
from timm.optim import param_groups_layer_decay
from torch import nn

from search_spaces.exceptions import UserError
from trainables.cbr_nets import cbr_large_t
from trainables.ladder_nets import resnet20
from trainables.parts import below, layer_depths, parts_of

FC = ("fc.weight", "fc.bias")


def _names(module: nn.Module, head: tuple[str, ...]) -> list[str]:
    return [part.name for part in parts_of(module, head)]


def _meta(name: str) -> nn.Module:
    with torch.device("meta"):
        return timm.create_model(name)


@pytest.mark.parametrize(
    ("name", "head", "expected"),
    [
        (
            "densenet121",
            ("classifier.weight", "classifier.bias"),
            [
                "stem",
                *(f"features.transition{n}" for n in (1, 2, 3)),
                *("features.denseblock4", "features.norm5"),
            ],
        ),
        (
            "legacy_xception",
            FC,
            [
                *("conv1", "bn1", "conv2", "bn2"),
                *(f"block{n}" for n in range(1, 13)),
                *("conv3", "bn3", "conv4", "bn4"),
            ],
        ),
        ("resnet50", FC, ["conv1", "bn1", "layer1", "layer2", "layer3", "layer4"]),
        ("inception_v3", FC, ["Conv2d_1a", "Conv2d_2", "Conv2d_3b", "Conv2d_4a", "Mixed_5", "Mixed_6", "Mixed_7"]),
        ("resnetv2_50x1_bit", ("head.fc.weight", "head.fc.bias"), ["stem", *(f"stages.{n}" for n in range(4)), "norm"]),
        ("vit_tiny_patch16_224", ("head.weight", "head.bias"), ["stem", *(f"blocks.{n}" for n in range(12))]),
        (
            "swin_tiny_patch4_window7_224",
            ("head.fc.weight", "head.fc.bias"),
            ["stem", *(f"layers.{n}" for n in range(4)), "norm"],
        ),
        (
            "convnext_tiny",
            ("head.fc.weight", "head.fc.bias"),
            ["stem", *(f"stages.{n}" for n in range(4)), "head.norm"],
        ),
    ],
)
def test_cut_points_of_families(name: str, head: tuple[str, ...], expected: list[str]) -> None:
    model = _meta(name)
    assert _names(model, head) == expected
    placed = [tensor for part in parts_of(model, head) for tensor in part.tensors]
    assert sorted(placed) == sorted(n for n in model.state_dict() if n not in head)


def test_cut_points_of_nets_without_a_matcher() -> None:
    assert _names(resnet20(3), ("linear.weight", "linear.bias")) == ["conv1", "bn1", "layer1", "layer2", "layer3"]
    assert _names(cbr_large_t(5), FC) == [f"block{n}" for n in range(1, 6)]
    squeezenet = torchvision.models.squeezenet1_0(num_classes=3)
    names = _names(squeezenet, ("classifier.1.weight", "classifier.1.bias"))
    assert names == [f"features.{n}" for n in (0, 3, 4, 5, 7, 8, 9, 10, 12)]
    with torch.device("meta"):
        vit = torchvision.models.vit_b_16(num_classes=3)
    names = _names(vit, ("heads.head.weight", "heads.head.bias"))
    assert names[:4] == ["class_token", "conv_proj", "encoder", "encoder.layers.encoder_layer_0"]
    assert names[-1] == "encoder.ln"


def test_trainable_numbers_below_each_cut_of_a_resnet50() -> None:
    """Transfusion's reference code; conv1 with its batch norm, then stage by stage."""
    model = _meta("resnet50")
    numbers = {n: p.numel() for n, p in model.named_parameters()}
    per_part = {p.name: sum(numbers.get(t, 0) for t in p.tensors) for p in parts_of(model, FC)}
    assert per_part["conv1"] + per_part["bn1"] == 9_536
    stages = (215_808, 1_219_584, 7_098_368, 14_964_736)
    assert tuple(per_part[f"layer{n}"] for n in range(1, 5)) == stages
    assert sum(per_part.values()) == 23_508_032


def test_model_that_timm_groups_finely_only() -> None:
    parts = _names(_meta("rdnet_tiny"), ("head.fc.weight", "head.fc.bias"))
    assert parts[0] == "stem"
    assert len(parts) > 4


def test_below_takes_buffers_and_names_the_cuts() -> None:
    parts = parts_of(resnet20(3), ("linear.weight", "linear.bias"))
    assert below(parts, "bn1", "here") >= {"conv1.weight", "bn1.running_mean", "bn1.num_batches_tracked"}
    assert not any(n.startswith("layer1") for n in below(parts, "bn1", "here"))
    with pytest.raises(
        UserError, match=r"here: unknown cut point 'layer4'. Did you mean 'layer\d'. From bottom to top: conv1, bn1"
    ):
        below(parts, "layer4", "here")


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "convnext_atto"])
def test_layers_are_numbered_as_by_timm(name: str) -> None:
    model = _meta(name)
    depths = layer_depths(model)
    top = max(depths.values())
    theirs = {}
    for group in param_groups_layer_decay(model, layer_decay=0.5):
        theirs.update({id(p): group["lr_scale"] for p in group["params"]})
    assert {n: 0.5 ** (top - depths[n]) for n in depths} == {n: theirs[id(p)] for n, p in model.named_parameters()}


def test_torchvision_resnets_are_numbered_like_timm_ones() -> None:
    with torch.device("meta"):
        other = torchvision.models.resnet50()
    assert layer_depths(other) == layer_depths(_meta("resnet50"))


def test_depth_of_other_nets() -> None:
    depths = layer_depths(resnet20(3))
    assert (depths["conv1.weight"], depths["layer1.0.conv1.weight"], depths["layer1.1.conv1.weight"]) == (0, 1, 2)
    assert depths["linear.weight"] == max(depths.values()) == 10
