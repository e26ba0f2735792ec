"""Transfusion's initialisations: the bottom of a source, a lighter top, Gabor filters, tensors drawn in other ways."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from search_spaces.exceptions import UserError
from search_spaces.source_specs import CheckpointSource, GaborSpec, RandomSource
from search_spaces.study import Normalisation
from search_spaces.trial import (
    MeanVarSource,
    PartialSource,
    ResolvedScale,
    ResolvedSource,
    ResolvedWeights,
    UpstreamSource,
)
from trainables.gabor import apply_gabor
from trainables.ladder_nets import resnet8
from trainables.mean_var import apply_mean_var
from trainables.models import BuiltModel, build_model
from trainables.parts import parts_of
from trainables.sources import Receipt, check_source, initialise

RESNET8 = ResolvedScale(name="small", factory="trainables.ladder_nets:resnet8", arguments={"width": 4}, input_size=16)
SLIM = ResolvedScale(name="slim", factory="trainables.slim_nets:slim_cbr_small", arguments={"shrink": 4}, input_size=32)
HEAD = ("linear.weight", "linear.bias")


def _start(scale: ResolvedScale, weights: ResolvedWeights, seed: int = 0) -> tuple[BuiltModel, Receipt]:
    built = build_model(scale, 2, seed)
    source = ResolvedSource(
        name="it", weights=weights, content=None, normalise=Normalisation.model_validate("imagenet")
    )
    return built, initialise(built, source, lambda _: Path("never"), seed)


@pytest.fixture
def trained(tmp_path: Path) -> tuple[CheckpointSource, dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(7)
    state = {
        n: torch.rand(t.shape, generator=generator) + 0.1 if t.is_floating_point() else t + 9
        for n, t in resnet8(num_classes=10, width=4).state_dict().items()
    }
    torch.save(state, tmp_path / "net.pth")
    return CheckpointSource(file=str(tmp_path / "net.pth")), state


@pytest.mark.parametrize("up_to", ["conv1", "bn1", "layer1", "layer2", "layer3"])
def test_partial_is_the_source_below_the_cut_and_random_above(trained, up_to: str) -> None:
    file, state = trained
    built, receipt = _start(RESNET8, PartialSource(transform="partial", up_to=up_to, of=file), seed=3)
    fresh = _start(RESNET8, RandomSource(), seed=3)[0].module.state_dict()
    cuts = [part.name for part in parts_of(built.module, HEAD)]
    below = tuple(f"{name}." for name in cuts[: cuts.index(up_to) + 1])
    for name, tensor in built.module.state_dict().items():
        assert torch.equal(tensor, state[name] if name.startswith(below) else fresh[name]), name
    assert (receipt.transform, receipt.up_to) == ("partial", up_to)
    assert receipt.transform_kept + receipt.transform_drawn == receipt.backbone_tensors == receipt.matched_tensors
    assert receipt.transform_kept == sum(n.startswith(below) for n in state)


def test_partial_still_asks_for_the_whole_backbone(tmp_path: Path, trained) -> None:
    """A file that lacks its top is not the network that the study names."""
    _, state = trained
    torch.save({n: t for n, t in state.items() if not n.startswith("layer3")}, tmp_path / "cut.pth")
    cut = CheckpointSource(file=str(tmp_path / "cut.pth"))
    with pytest.raises(UserError, match="missing: 10 of"):
        _start(RESNET8, PartialSource(transform="partial", up_to="layer1", of=cut))


def test_cut_that_is_not_there_is_found_before_training(trained) -> None:
    file, _ = trained
    for of in (file, UpstreamSource(upstream_trial_id="0" * 16)):
        source = ResolvedSource(
            name="it",
            weights=PartialSource(transform="partial", up_to="layer5", of=of),
            content=None,
            normalise=Normalisation.model_validate("imagenet"),
        )
        with pytest.raises(
            UserError, match=r"partial: unknown cut point 'layer5'.*From bottom to top: conv1, bn1, layer1"
        ):
            check_source(RESNET8, source, 2)


def test_frozen_part_that_is_not_there_is_found_before_training(trained) -> None:
    file, _ = trained
    source = ResolvedSource(name="it", weights=file, normalise=file.normalise)
    assert check_source(RESNET8, source, 2, frozen="layer2") > 0
    with pytest.raises(UserError, match=r"protocol.freeze for scale 'small': unknown cut point 'stages.1'"):
        check_source(RESNET8, source, 2, frozen="stages.1")


def test_slim_takes_the_bottom_of_the_full_net(tmp_path: Path) -> None:
    full = build_model(SLIM.model_copy(update={"factory": "trainables.cbr_nets:cbr_small", "arguments": {}}), 9, seed=5)
    torch.save(full.module.state_dict(), tmp_path / "full.pth")
    file = CheckpointSource(file=str(tmp_path / "full.pth"))
    built, receipt = _start(SLIM, PartialSource(transform="slim", up_to="block2", of=file), seed=1)
    fresh = _start(SLIM, RandomSource(), seed=1)[0].module.state_dict()
    state, theirs = built.module.state_dict(), full.module.state_dict()
    for name, tensor in state.items():
        assert torch.equal(tensor, theirs[name] if name.startswith(("block1.", "block2.")) else fresh[name]), name
    assert state["block3.conv.weight"].shape[0] == 128 // 4
    assert receipt.matched_tensors == receipt.transform_kept == 14
    assert (receipt.transform_drawn, receipt.backbone_tensors) == (14, 28)
    with pytest.raises(UserError, match="of another shape: 6"):
        _start(SLIM, PartialSource(transform="slim", up_to="block3", of=file))


def test_slim_bottom_of_a_deeper_net_is_refused(tmp_path: Path) -> None:
    deeper = {n.replace("layer1.0", "layer1.1"): t for n, t in resnet8(3, width=4).state_dict().items()}
    torch.save({**deeper, **resnet8(3, width=4).state_dict()}, tmp_path / "deeper.pth")
    file = CheckpointSource(file=str(tmp_path / "deeper.pth"))
    with pytest.raises(UserError, match="larger network"):
        _start(RESNET8, PartialSource(transform="slim", up_to="layer1", of=file))


def test_slim_of_a_timm_resnet() -> None:
    """The published network's bottom has the names and shapes of a ResNet with fewer channels above."""
    full, slim = timm.create_model("resnet50"), timm.create_model("resnet50", channels=(64, 128, 128, 256))
    shapes = {n: t.shape for n, t in full.state_dict().items()}
    same = {n for n, t in slim.state_dict().items() if shapes[n] == t.shape}
    assert {n for n in shapes if n.startswith(("conv1", "bn1", "layer1", "layer2"))} <= same


@pytest.mark.parametrize("draw", ["permutation", "resampling"])
def test_own_numbers_in_another_order(draw: str) -> None:
    net = resnet8(num_classes=3, width=16)
    before = {n: t.clone() for n, t in net.state_dict().items()}
    apply_mean_var(net, HEAD, "reset", seed=1, draw=draw)  # type: ignore[arg-type]
    old, new = before["layer2.0.conv1.weight"].flatten(), net.state_dict()["layer2.0.conv1.weight"].flatten()
    assert set(new.tolist()) <= set(old.tolist())
    assert (new == old).float().mean() < 0.01
    assert torch.equal(new.sort().values, old.sort().values) == (draw == "permutation")
    assert len(set(new.tolist())) / len(new) == pytest.approx(1 if draw == "permutation" else 1 - 1 / math.e, abs=0.02)
    again = resnet8(num_classes=3, width=16)
    again.load_state_dict(before)
    apply_mean_var(again, HEAD, "reset", seed=1, draw=draw)  # type: ignore[arg-type]
    assert torch.equal(again.state_dict()["layer2.0.conv1.weight"].flatten(), new)


def test_draw_is_in_the_receipt(trained) -> None:
    file, _ = trained
    weights = MeanVarSource(transform="mean_var", norm="reset", draw="permutation", of=file)
    assert _start(RESNET8, weights)[1].draw == "permutation"


def _conv1(side: int, filters: int = 256) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(3, filters, side)


@pytest.mark.parametrize("side", [3, 5, 7, 11])
def test_gabor_filters_have_mean_0_and_the_size_of_random_ones(side: int) -> None:
    layer = _conv1(side)
    size = layer.weight.detach().square().mean().sqrt()
    bias = layer.bias.detach().clone()  # type: ignore[union-attr]
    name = apply_gabor(nn.Sequential(layer), GaborSpec(transform="gabor"), seed=1)
    weight = layer.weight.detach()
    assert name == "0.weight"
    assert torch.equal(weight[:, 0], weight[:, 1])
    assert torch.equal(weight[:, 0], weight[:, 2])
    assert weight.mean(dim=(1, 2, 3)).abs().max() < 1e-6
    assert torch.allclose(weight.square().mean(dim=(1, 2, 3)).sqrt(), size.expand(256), rtol=1e-5)
    assert torch.equal(layer.bias.detach(), bias)  # type: ignore[union-attr]


def test_gabor_filter_is_the_formula() -> None:
    """Waves of 4 pixels under a round Gaussian: the Fourier transform peaks at a quarter cycle per pixel."""
    layer = _conv1(33, filters=16)
    spec = GaborSpec(transform="gabor", wavelength=(4 / 33, 4 / 33), envelope=(4 / 33, 4 / 33), aspect=(1, 1))
    apply_gabor(layer, spec, seed=2)
    spectra = torch.fft.fft2(layer.weight.detach()[:, 0].double(), s=(128, 128)).abs()
    rows = torch.fft.fftfreq(128)
    for spectrum in spectra:
        y, x = divmod(int(spectrum.argmax()), 128)
        assert math.hypot(float(rows[y]), float(rows[x])) == pytest.approx(0.25, abs=0.01)


def test_orientations_cover_the_half_circle_and_seeds_differ() -> None:
    first, second = _conv1(7), _conv1(7)
    apply_gabor(first, GaborSpec(transform="gabor"), seed=1)
    apply_gabor(second, GaborSpec(transform="gabor"), seed=1)
    assert torch.equal(first.weight, second.weight)
    apply_gabor(second, GaborSpec(transform="gabor"), seed=2)
    assert not torch.equal(first.weight, second.weight)
    gy, gx = torch.gradient(first.weight.detach()[:, 0].double(), dim=(1, 2))
    angle = 0.5 * torch.atan2((2 * gx * gy).sum((1, 2)), (gx * gx - gy * gy).sum((1, 2)))
    counts = torch.histc(angle, 4, -math.pi / 2, math.pi / 2)
    assert counts.min() > 256 / 4 / 2


def test_gabor_leaves_the_rest_random_and_needs_a_first_convolution() -> None:
    built, receipt = _start(RESNET8, GaborSpec(transform="gabor"), seed=4)
    fresh = _start(RESNET8, RandomSource(), seed=4)[0].module.state_dict()
    changed = [n for n, t in built.module.state_dict().items() if not torch.equal(t, fresh[n])]
    assert changed == ["conv1.weight"]
    assert (receipt.form, receipt.transform, receipt.transform_drawn) == ("random", "gabor", 1)
    with pytest.raises(UserError, match="needs a convolution of 3x3"):
        apply_gabor(nn.Sequential(nn.Conv2d(3, 8, 1)), GaborSpec(transform="gabor"), seed=0)
