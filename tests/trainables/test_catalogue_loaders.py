"""Every entry of the catalogue reads a file of the published layout, and reproduces the network that it holds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from search_spaces.catalogue import catalogue
from search_spaces.exceptions import UserError
from search_spaces.normalisation import Normalisation
from search_spaces.source_specs import CheckpointSource, TimmSource, source_form
from search_spaces.trial import ResolvedScale, ResolvedSource
from tests.trainables.published_layouts import LAYOUTS, State
from trainables.models import BuiltModel, build_model
from trainables.sources import Receipt, initialise

NARROW = {"channels": [4, 8, 8, 16]}
"""A ResNet-50 of the same blocks and names, 64 features wide."""

ELSEWHERE = {
    "bit_s",
    "bit_m",
    "bit_l",
    "byol",
    "inception_v3_tf",
    "torchvision_inception",
    "torchvision_densenet",
    "cifar10_resnet20",
    "cifar10_resnet56",
}
"""Entries whose layouts are read below, in test_sources, test_converters and test_timm_weights."""


@pytest.fixture(scope="module")
def reference() -> nn.Module:
    torch.manual_seed(3)
    model = timm.create_model("resnet50", num_classes=0, **NARROW)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if "running_var" in name or name.endswith(("bn1.weight", "bn2.weight", "bn3.weight")):
                tensor.copy_(0.5 + torch.rand(tensor.shape))
            elif tensor.is_floating_point() and tensor.ndim == 1:
                tensor.copy_(0.1 * torch.randn(tensor.shape))
    return model.eval()


@pytest.fixture
def state(reference: nn.Module) -> State:
    return {n: t.clone() for n, t in reference.state_dict().items()}


def _build(factory: str = "resnet50", arguments: dict[str, Any] | None = None) -> BuiltModel:
    scale = ResolvedScale(
        name="narrow", factory=factory, arguments=NARROW if arguments is None else arguments, input_size=32
    )
    return build_model(scale, 3, seed=0)


def _load(built: BuiltModel, path: Path, **written: Any) -> Receipt:
    weights = source_form({"file": str(path), **written})
    assert isinstance(weights, CheckpointSource)
    source = ResolvedSource(name="published", weights=weights, content=None, normalise=weights.normalise)
    return initialise(built, source, lambda _: Path("never"), seed=0)


def _features(model: nn.Module) -> Tensor:
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        out: Tensor = model.eval().forward_features(images)  # type: ignore[operator]
    return out


def _saved(tmp_path: Path, content: Any) -> Path:
    path = tmp_path / "published.pth.tar"
    torch.save(content, path)
    return path


def test_every_entry_is_read_by_a_test() -> None:
    assert set(LAYOUTS) | ELSEWHERE == set(catalogue())


@pytest.mark.parametrize("entry", LAYOUTS)
def test_published_layout(tmp_path: Path, reference: nn.Module, state: State, entry: str) -> None:
    path = _saved(tmp_path, LAYOUTS[entry](state))
    built = _build()
    assert not torch.equal(_features(built.module), _features(reference))
    receipt = _load(built, path, catalogue=entry)
    assert torch.equal(_features(built.module), _features(reference))
    assert receipt.matched_tensors == receipt.backbone_tensors == len(state)
    assert receipt.catalogue == entry
    assert receipt.normalise == catalogue()[entry].normalise
    assert receipt.contents == catalogue()[entry].contents


@pytest.mark.parametrize("entry", LAYOUTS)
def test_file_without_its_last_stage_is_refused(tmp_path: Path, state: State, entry: str) -> None:
    cut = {n: t for n, t in state.items() if not n.startswith("layer4.2.")}
    built = _build()
    before = {n: t.clone() for n, t in built.module.state_dict().items()}
    with pytest.raises(
        UserError, match=r"matched: 250 of 265 backbone tensors\n  missing: 15 of 265 .*layer4\.2\.conv1"
    ):
        _load(built, _saved(tmp_path, LAYOUTS[entry](cut)), catalogue=entry)
    assert all(torch.equal(t, before[n]) for n, t in built.module.state_dict().items())


def test_dataparallel_at_the_top_level(tmp_path: Path, state: State) -> None:
    path = _saved(tmp_path, LAYOUTS["dataparallel"](state)["state_dict"])
    built = _build()
    assert _load(built, path, catalogue="dataparallel").matched_tensors == len(state)
    assert torch.equal(built.module.state_dict()["conv1.weight"], state["conv1.weight"])


def _flat(content: Any, key: str) -> State:
    """What lies under a dotted key."""
    for step in key.split("."):
        content = content[step]
    return {n: t.clone() for n, t in content.items()}


@pytest.mark.parametrize("entry", [name for name in LAYOUTS if catalogue()[name].state_key])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_flat_copy_of_a_published_file_is_read(tmp_path: Path, state: State, entry: str, suffix: str) -> None:
    flat, path = _flat(LAYOUTS[entry](state), str(catalogue()[entry].state_key)), tmp_path / f"flat{suffix}"
    torch.save(flat, path) if suffix == ".pth" else save_file(flat, path)
    assert _load(_build(), path, catalogue=entry).matched_tensors == len(state)


def test_a_flat_file_with_a_key_of_ones_own_is_refused(tmp_path: Path, state: State) -> None:
    save_file(state, tmp_path / "flat.safetensors")
    for written in ({}, {"catalogue": "moco_v2"}):
        with pytest.raises(UserError, match=r"is flat: leave state_key \('mine'\) out"):
            _load(_build(), tmp_path / "flat.safetensors", state_key="mine", **written)


def test_what_is_written_beside_an_entry_counts(tmp_path: Path, state: State) -> None:
    """The averaged copy that InfoMin's file holds too."""
    path = _saved(tmp_path, LAYOUTS["infomin"](state))
    built = _build()
    _load(built, path, catalogue="infomin", state_key="model_ema", keep="encoder.")
    assert torch.equal(built.module.state_dict()["conv1.weight"], state["conv1.weight"] + 1)


@pytest.mark.parametrize(
    ("written", "mean"),
    [({}, 0.0), ({"normalise": "native"}, 0.0), ({"normalise": "as_paper"}, 0.485), ({"normalise": "half"}, 0.5)],
)
def test_scaling_travels_with_the_entry(written: dict[str, Any], mean: float) -> None:
    source = source_form({"catalogue": "simclr_v1", "file": "net.pth", **written})
    assert source.normalise.mean[0] == mean


def test_entry_that_timm_has_needs_no_file() -> None:
    source = source_form({"catalogue": "bit_m", "normalise": "native"})
    assert isinstance(source, TimmSource)
    assert (source.timm, source.normalise, source.contents) == ("goog_in21k", None, ("imagenet21k",))
    assert isinstance(source_form({"catalogue": "bit_m", "file": "BiT-M-R50x1.npz"}), CheckpointSource)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({"catalogue": "moco_v3", "file": "a.pth"}, "unknown catalogue entry 'moco_v3'.*Did you mean 'moco_v"),
        ({"catalogue": "moco_v2"}, r"needs a file.*moco_v2_800ep_pretrain.pth.tar once from https://dl.fbaipub"),
        ({"catalogue": "byol"}, "convert byol IN OUT"),
        ({"catalogue": "bit_l"}, "never released.*If you have such a file, give it"),
        ({"catalogue": "swav", "timm": "a1_in1k"}, "stands alone or with file, not with timm"),
    ],
)
def test_entries_that_cannot_be_used_as_written(written: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        source_form(written)


def _conv1_of_one_channel(state: State) -> State:
    return {**state, "conv1.weight": state["conv1.weight"][:, :1]}


def _not_a_number(state: State) -> State:
    broken = state["layer3.0.bn1.running_var"].clone()
    broken[1] = float("nan")
    return {**state, "layer3.0.bn1.running_var": broken}


def _of_another_network(state: State) -> State:
    return {
        n: t.detach() for n, t in timm.create_model("vit_tiny_patch16_224", depth=1, num_classes=5).state_dict().items()
    }


BAD = {
    "wrong channel count": (
        _conv1_of_one_channel,
        "matched: 264 of 265(?s:.)*conv1.weight is .64, 1, 7, 7.(?s:.)*images of 1 ch",
    ),
    "half the tensors": (
        lambda s: dict(list(s.items())[: len(s) // 2]),
        "matched: 133 of 265(?s:.)*missing: 132 of 265",
    ),
    "not a number": (_not_a_number, "1 tensors hold numbers that are not finite: layer3.0.bn1.running_var"),
    "another network": (
        _of_another_network,
        "matched: 0 of 265(?s:.)*not in the model(?s:.)*looks like another network",
    ),
    "head of other classes": (
        lambda s: {**s, "classif.weight": torch.ones(9, 64)},
        r"matched: 265 of 265(?s:.)*drop: \[classif",
    ),
    "deeper network": (
        lambda s: {**s, **{n.replace("layer4.2", "layer4.3"): t for n, t in s.items() if "layer4.2" in n}},
        r"matched: 265 of 265(?s:.)*larger network",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_files_are_refused_with_what_was_matched(tmp_path: Path, state: State, what: str) -> None:
    spoil, message = BAD[what]
    with pytest.raises(UserError, match=message):
        _load(_build(), _saved(tmp_path, spoil(state)), catalogue="torchvision")


def test_head_of_other_classes_under_the_known_name_is_left_out(tmp_path: Path, state: State) -> None:
    receipt = _load(_build(), _saved(tmp_path, LAYOUTS["torchvision"](state)), catalogue="torchvision")
    assert receipt.dropped == ("fc.bias", "fc.weight")


def test_entry_for_another_network_says_so(tmp_path: Path, state: State) -> None:
    path = _saved(tmp_path, LAYOUTS["moco_v2"](state))
    with pytest.raises(UserError, match="hint: catalogue entry moco_v2 is for resnet50"):
        _load(_build("resnet18", {}), path, catalogue="moco_v2")


def test_prefix_to_keep_that_starts_nothing(tmp_path: Path, state: State) -> None:
    with pytest.raises(
        UserError, match=r"no name of the checkpoint starts with keep: 'module.encoder_q.' \(they look like"
    ):
        _load(_build(), _saved(tmp_path, {"state_dict": state}), catalogue="moco_v2")


def test_published_file_that_must_be_converted_says_how(tmp_path: Path) -> None:
    path = tmp_path / "pretrain_res50x1.pkl"
    path.write_bytes(b"\x80\x04N.")
    with pytest.raises(UserError, match=r"file type '\.pkl'(?s:.)*convert it first: .* convert byol IN OUT"):
        _load(_build(), path, catalogue="byol")


PORTED = {"inception_v3": 96, "googlenet": 64}
"""torchvision's networks with weights of TensorFlow -> side in pixels that they can take."""


def _ported(tmp_path: Path, name: str) -> tuple[nn.Module, Path]:
    """torchvision's own network as it is with its published weights, around random ones, and their file."""
    torch.manual_seed(4)
    keywords: dict[str, Any] = {"aux_logits": True, "transform_input": True, "init_weights": False}
    network = torchvision.models.get_model(name, weights=None, **keywords)
    path = _saved(tmp_path, network.state_dict())
    network.fc = nn.Identity()  # type: ignore[assignment]
    return network.eval(), path


def _scaled(images: Tensor, normalise: Normalisation) -> Tensor:
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (normalise.mean, normalise.std))
    return (images - mean) / std


@pytest.mark.parametrize("name", PORTED)
def test_torchvision_s_inceptions_see_what_torchvision_shows_them(tmp_path: Path, name: str) -> None:
    reference, path = _ported(tmp_path, name)
    scale = ResolvedScale(name="ported", factory=f"torchvision:{name}", arguments={}, input_size=PORTED[name])
    built = build_model(scale, 3, seed=0)
    normalise = _load(built, path, catalogue="torchvision_inception").normalise
    built.module.fc = nn.Identity()  # type: ignore[assignment]
    images = torch.rand(2, 3, PORTED[name], PORTED[name])
    imagenet = Normalisation.model_validate("imagenet")
    with torch.no_grad():
        expected = reference(_scaled(images, imagenet))
        found, wrong = (built.module.eval()(_scaled(images, n)) for n in (normalise, imagenet))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    assert not torch.allclose(wrong, expected, rtol=1e-1, atol=0)


@pytest.mark.parametrize("factory", ["torchvision:googlenet", "torchvision:inception_v3", "inception_v3"])
def test_inceptions_are_refused_with_the_scaling_of_other_networks(tmp_path: Path, factory: str) -> None:
    scale = ResolvedScale(name="ported", factory=factory, arguments={}, input_size=PORTED[factory.split(":")[-1]])
    built = build_model(scale, 3, seed=0)
    path = _saved(tmp_path, dict(built.module.state_dict()))
    with pytest.raises(UserError, match=r"scaled otherwise than by catalogue entry torchvision: write .*_inception\."):
        _load(built, path, catalogue="torchvision")
    assert _load(built, path, catalogue="torchvision", normalise="half").matched_tensors
    assert _load(built, path, drop=["fc"]).matched_tensors


@pytest.mark.parametrize("factory", ["torchvision:densenet121", "densenet121"])
def test_densenets_as_torchvision_published_them(tmp_path: Path, factory: str) -> None:
    """With the names of the time before torch refused dots in names of modules."""
    torch.manual_seed(6)
    network = torchvision.models.densenet121(weights=None)
    own = {n: t.clone() for n, t in network.state_dict().items()}
    path = _saved(tmp_path, {re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", n): t for n, t in own.items()})
    built = build_model(ResolvedScale(name="dense", factory=factory, arguments={}, input_size=32), 3, seed=0)
    with pytest.raises(UserError, match=r"hint: published weights of densenet121 are read by .* torchvision_densenet"):
        _load(built, path, catalogue="torchvision")
    receipt = _load(built, path, catalogue="torchvision_densenet")
    assert receipt.matched_tensors == receipt.backbone_tensors
    assert receipt.dropped == ("classifier.bias", "classifier.weight")
    loaded = built.module.state_dict()
    assert all(torch.equal(loaded[n], t) for n, t in own.items() if not n.startswith("classifier"))
    assert _load(built, _saved(tmp_path, own), catalogue="torchvision", drop=["classifier"]).matched_tensors
