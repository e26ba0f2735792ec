from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from search_spaces.exceptions import UserError
from search_spaces.trial import ResolvedScale
from trainables.cbr_nets import CBR, cbr_large_t, cbr_large_w, cbr_small, cbr_tiny
from trainables.scale_cards import model_card, timm_families, unet_costs
from trainables.slim_nets import slim_cbr_small, slim_resnet50

BIT = {
    "resnetv2_50x1_bit": (23_500_352, 25_549_352, 2_048),
    "resnetv2_101x1_bit": (42_492_480, 44_541_480, 2_048),
    "resnetv2_50x3_bit": (211_174_080, 217_319_080, 6_144),
    "resnetv2_101x3_bit": (381_789_888, 387_934_888, 6_144),
    "resnetv2_152x2_bit": (232_238_208, 236_335_208, 4_096),
    "resnetv2_152x4_bit": (928_340_224, 936_533_224, 8_192),
}


@pytest.mark.parametrize("name", BIT)
def test_numbers_of_the_bit_ladder(name: str) -> None:
    card = model_card(name, input_size=64)
    assert (card.backbone_parameters, card.parameters, card.width) == BIT[name]
    assert (card.family, card.ladder, card.mean) == ("resnetv2", "bit", (0.5, 0.5, 0.5))
    assert "goog_in21k" in card.tags


@pytest.mark.parametrize(("name", "backbone"), [("resnet50", 23_508_032), ("inception_v3", 21_785_568)])
def test_numbers_of_the_other_standard_nets(name: str, backbone: int) -> None:
    assert model_card(name, input_size=96).backbone_parameters == backbone


@pytest.mark.parametrize(
    ("make", "arguments", "convolutions", "all_of_it"),
    [
        (cbr_large_t, {}, 8_534_624, 8_540_165),
        (cbr_large_w, {}, 8_438_976, 8_444_421),
        (cbr_small, {}, 2_112_096, 2_114_821),
        (cbr_tiny, {}, 4_305_600, 4_311_045),
        (cbr_tiny, {"width": 32}, 1_077_600, 1_080_325),
    ],
)
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_numbers_of_the_cbr_nets(make, arguments, convolutions: int, all_of_it: int, padding: str) -> None:
    with torch.device("meta"):
        net = make(5, padding=padding, dropout=0.1, **arguments)
        assert net(torch.empty(2, 3, 224, 224)).shape == (2, 5)
    assert sum(p.numel() for p in net.parameters()) == all_of_it
    assert sum(p.numel() for n, p in net.named_parameters() if n.endswith("conv.weight")) == convolutions


def test_what_the_paper_leaves_open_is_an_argument() -> None:
    images = torch.empty(2, 3, 64, 64, device="meta")
    with torch.device("meta"):
        assert cbr_large_t(5).forward_features(images).shape == (2, 512, 4, 4)
        assert cbr_large_t(5, last_pool=True).forward_features(images).shape == (2, 512, 2, 2)
        assert cbr_small(5, padding="valid").forward_features(torch.empty(2, 3, 224, 224)).shape == (2, 256, 7, 7)
        assert CBR(5, (4, 8), 7, dropout=0.25).dropout.p == 0.25
    for arguments, message in (
        ({"padding": "full"}, "same or valid"),
        ({"dropout": 1.0}, r"in \[0, 1\)"),
        ({"channels": ()}, "at least one unit"),
    ):
        with pytest.raises(ValueError, match=message):
            CBR(5, **{"channels": (4,), "kernel_size": 3, **arguments})


def test_slim_nets_are_lighter_above_the_cut() -> None:
    with torch.device("meta"):
        net = slim_resnet50(5, shrink=2)
        assert [net.get_submodule(f"layer{n}.0.conv1").weight.shape[0] for n in (1, 2, 3, 4)] == [64, 128, 128, 256]
        assert [slim_cbr_small(5, shrink=4).get_submodule(f"block{n}.conv").out_channels for n in (2, 3, 4)] == [
            64,
            32,
            64,
        ]
        assert sum(p.numel() for p in slim_resnet50(5, up_to=3).parameters()) > sum(p.numel() for p in net.parameters())
    for arguments in ({"shrink": 0.5}, {"up_to": 4}):
        with pytest.raises(ValueError, match="must be"):
            slim_resnet50(5, **arguments)


def test_cost_of_a_net_that_can_be_counted_by_hand() -> None:
    """CBR-Small at 32 pixels: convolutions at 32, 16, 8, 4 pixels and the head, two operations per multiply-add."""
    card = model_card("trainables.cbr_nets:cbr_small", input_size=32, num_classes=5)
    sides, channels = (32, 16, 8, 4), (3, 32, 64, 128, 256)
    expected = sum(2 * 49 * channels[k] * channels[k + 1] * sides[k] ** 2 for k in range(4)) + 2 * 256 * 5
    assert card.gflops == pytest.approx(expected / 1e9, abs=1e-6)
    assert (card.depth, card.width, card.cut_points) == (5, 256, ("block1", "block2", "block3", "block4"))
    kept_by_convolutions = 4 * sum(c * s * s for c, s in zip(channels, sides, strict=False)) / 2**20
    assert card.activation_mib > kept_by_convolutions


def test_operations_of_a_resnet50_are_those_everybody_quotes() -> None:
    card = model_card("resnet50")
    assert card.gflops / 2 == pytest.approx(4.09, abs=0.005)
    assert card.depth == 16 + 2
    assert (card.input_size, card.native_size) == (224, 224)


def two_layers(num_classes: int, hidden: int = 64) -> nn.Module:
    """What autograd keeps of it can be written down: the image, and the hidden features once."""
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, hidden), nn.ReLU(), nn.Linear(hidden, num_classes))


def test_activation_memory_is_what_an_image_adds() -> None:
    card = model_card("tests.trainables.test_scale_cards:two_layers", input_size=8, num_classes=10)
    assert card.activation_mib == pytest.approx(4 * (3 * 8 * 8 + 64) / 2**20, abs=1e-3)
    assert card.gflops == pytest.approx(2 * (3 * 8 * 8 * 64 + 64 * 10) / 1e9, abs=1e-6)


@pytest.mark.parametrize("factory", ["resnet18", "torchvision:resnet18"])
def test_operations_of_a_unet_are_those_of_the_library_it_is_of(factory: str) -> None:
    """Encoder, decoder and head; both ways of making the encoder, against the library's own network with numbers."""
    import segmentation_models_pytorch as smp

    whole = smp.Unet("resnet18", encoder_weights=None, classes=3).eval()
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        whole(torch.zeros(1, 3, 64, 64))
    scale = ResolvedScale(name="encoder", factory=factory, input_size=64)
    costs, card = unet_costs(scale, 3), model_card(factory, input_size=64)
    assert costs.gflops == pytest.approx(counter.get_total_flops() / 1e9, abs=1e-6)
    assert costs.gflops > 2 * card.gflops
    assert costs.parameters == sum(p.numel() for p in whole.parameters())
    assert costs.activation_mib > card.activation_mib


def test_all_of_timm_is_in_a_family() -> None:
    import timm

    assert sorted(n for names in timm_families().values() for n in names) == sorted(timm.list_models())


def test_what_cannot_be_counted() -> None:
    with pytest.raises(UserError, match="states no native input size"):
        model_card("trainables.phantom_nets:phantom_net")
    with pytest.raises(UserError, match="unknown timm model 'resnet5'"):
        model_card("resnet5")
    with pytest.raises(UserError, match="inception_v3 cannot be counted at 32 pixels"):
        model_card("inception_v3", input_size=32)


def test_a_net_whose_building_reads_numbers_is_counted() -> None:
    card = model_card("torchvision:regnet_x_400mf", input_size=64)
    assert card.parameters == 5_495_976, "as torchvision states"


FAMILIES = {  # name -> (GFLOPs, parameters): one of each of several families, counted once and kept
    "convnext_atto": (1.094665, 3_695_520),
    "botnet26t_256": (6.594789, 12_488_672),
    "cpubone_b0_bfrobust": (1.03942, 10_365_560),
    "convmixer_768_32": (41.353703, 21_110_248),
    "crossvit_9_240": (3.681592, 8_553_296),
    "csatv2": (2.761611, 11_103_444),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_nets_of_unlike_families_are_counted(name: str) -> None:
    card = model_card(name)
    gflops, parameters = FAMILIES[name]
    assert card.gflops == pytest.approx(gflops, rel=1e-3)
    assert card.parameters == parameters
    assert card.backbone_parameters < card.parameters
    assert card.width > 0
    assert card.cut_points
