from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import torchvision
from timm.layers import StdConv2d
from timm.models.resnetv2 import ResNetV2

from search_spaces.catalogue import find_entry
from search_spaces.exceptions import UserError
from search_spaces.source_specs import CheckpointSource, RandomSource, TimmSource, source_form
from search_spaces.study import Normalisation
from search_spaces.trial import MeanVarSource, ResolvedScale, ResolvedSource, ResolvedWeights, UpstreamSource
from trainables.hashing import file_sha256
from trainables.ladder_nets import resnet8
from trainables.models import BuiltModel, build_model
from trainables.sources import Receipt, check_source, initialise, tensors_sha256

LADDER = "trainables.ladder_nets:resnet8"
HEAD = ("linear.weight", "linear.bias")
IMAGENET = Normalisation.model_validate("imagenet")


def _scale(factory: str = LADDER, size: int = 32, **arguments: Any) -> ResolvedScale:
    return ResolvedScale(name="small", factory=factory, arguments=arguments, input_size=size)


def _source(weights: ResolvedWeights, content: str | None = None) -> ResolvedSource:
    return ResolvedSource(name="natural", weights=weights, content=content, normalise=IMAGENET)


def _no_upstream(trial_id: str) -> Path:
    raise AssertionError(f"nothing was to be fetched, got {trial_id}")


def _load(built: BuiltModel, weights: ResolvedWeights, fetch=_no_upstream, content: str | None = None, seed: int = 0):
    return initialise(built, _source(weights, content), fetch, seed)


def _fresh(seed: int = 0) -> BuiltModel:
    return build_model(_scale(width=4), 2, seed)


@pytest.fixture
def trained() -> dict[str, torch.Tensor]:
    """State dict of a ten-class net unlike a fresh one in every tensor."""
    generator = torch.Generator().manual_seed(7)
    state = resnet8(num_classes=10, width=4).state_dict()
    return {
        n: torch.rand(t.shape, generator=generator) + 0.1 if t.is_floating_point() else t + 9 for n, t in state.items()
    }


@pytest.fixture
def file(tmp_path: Path, trained) -> Path:
    path = tmp_path / "private folder" / "net.pth.tar"
    path.parent.mkdir()
    torch.save({"epoch": 3, "state_dict": {f"module.{n}": t for n, t in trained.items()}}, path)
    return path


def _checkpoint(path: Path, **keywords: Any) -> CheckpointSource:
    return CheckpointSource(file=str(path), **keywords)


def test_random_weights_are_the_factory_own() -> None:
    built, other = _fresh(), _fresh()
    receipt = _load(built, RandomSource())
    assert (receipt.form, receipt.matched_tensors, receipt.content) == ("random", 0, None)
    assert receipt.head == HEAD
    assert tensors_sha256(built.module.state_dict()) == tensors_sha256(other.module.state_dict())


def test_checkpoint_fills_the_backbone_and_spares_the_head(file: Path, trained) -> None:
    built = _fresh()
    head = {n: built.module.state_dict()[n].clone() for n in HEAD}
    source = _checkpoint(file, strip_prefix="module.", drop=("linear",), contents=("cifar10",))
    receipt = _load(built, source, content=file_sha256(file))
    state = built.module.state_dict()
    assert all(torch.equal(state[n], trained[n]) for n in state if n not in HEAD)
    assert all(torch.equal(state[n], head[n]) for n in HEAD)
    assert receipt.matched_tensors == receipt.backbone_tensors == len(state) - 2
    assert receipt.matched_numbers == sum(t.numel() for n, t in state.items() if n not in HEAD)
    assert receipt.file == "net.pth.tar"
    assert receipt.content == file_sha256(file)
    assert receipt.dropped == tuple(sorted(HEAD))
    assert receipt.contents == ("cifar10",)
    assert receipt.backbone_sha256 == tensors_sha256({n: t for n, t in trained.items() if n not in HEAD})


def test_receipt_is_json_and_names_no_folder(file: Path) -> None:
    text = _load(_fresh(), _checkpoint(file, strip_prefix="module.")).model_dump_json()
    assert "private folder" not in text
    assert Receipt.model_validate_json(text).source == "natural"


def test_all_sources_start_from_one_head(file: Path) -> None:
    heads = []
    for weights in (RandomSource(), _checkpoint(file, strip_prefix="module.")):
        built = _fresh(seed=5)
        _load(built, weights, seed=5)
        heads.append(built.module.state_dict()["linear.weight"])
    assert torch.equal(*heads)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn])
def test_other_number_formats_become_float32(tmp_path: Path, trained, dtype: torch.dtype) -> None:
    path = tmp_path / "net.safetensors"
    cast = {n: t.to(dtype) if t.is_floating_point() else t for n, t in trained.items()}
    safetensors.torch.save_file(cast, path)
    built = _fresh()
    _load(built, _checkpoint(path))
    assert all(t.dtype in (torch.float32, torch.int64) for t in built.module.state_dict().values())
    assert torch.equal(built.module.state_dict()["conv1.weight"], cast["conv1.weight"].float())


def test_changed_file_is_refused(file: Path) -> None:
    planned = file_sha256(file)
    file.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(UserError, match="has changed since the study was planned"):
        _load(_fresh(), _checkpoint(file, strip_prefix="module."), content=planned)


def test_refusal_leaves_the_model_untouched(tmp_path: Path, trained) -> None:
    path = tmp_path / "net.pth"
    del trained["layer3.0.conv2.weight"]
    torch.save(trained, path)
    built = _fresh()
    before = tensors_sha256(built.module.state_dict())
    with pytest.raises(UserError, match=r"source 'natural' for scale 'small', file .*net\.pth: .*does not fit"):
        _load(built, _checkpoint(path))
    assert tensors_sha256(built.module.state_dict()) == before


def _keep_weights(path: Path, state: dict[str, torch.Tensor], metadata: dict[str, str] | None = None) -> Path:
    safetensors.torch.save_file(state, path, metadata=metadata)
    return path


def test_weights_of_another_trial(tmp_path: Path, trained) -> None:
    path = _keep_weights(tmp_path / "weights.safetensors", trained, {"head": json.dumps(HEAD)})
    asked: list[str] = []
    built = _fresh()
    receipt = _load(built, UpstreamSource(upstream_trial_id="ab12"), lambda i: asked.append(i) or path, "ab12")
    assert asked == ["ab12"]
    assert torch.equal(built.module.state_dict()["conv1.weight"], trained["conv1.weight"])
    assert not torch.equal(built.module.state_dict()["linear.bias"], trained["linear.bias"][:2])
    assert (receipt.form, receipt.content, receipt.dropped) == ("trial", "ab12", tuple(sorted(HEAD)))


def test_head_of_another_trial_under_another_name_is_left_out(tmp_path: Path, trained) -> None:
    renamed = {n.replace("linear.", "old_head."): t for n, t in trained.items()}
    head = ["old_head.weight", "old_head.bias"]
    path = _keep_weights(tmp_path / "weights.safetensors", renamed, {"head": json.dumps(head)})
    receipt = _load(_fresh(), UpstreamSource(upstream_trial_id="ab12"), lambda _: path)
    assert receipt.dropped == tuple(sorted(head))


def test_trial_of_another_scale_is_refused(tmp_path: Path) -> None:
    state = resnet8(num_classes=2, width=6).state_dict()
    path = _keep_weights(tmp_path / "weights.safetensors", state, {"head": json.dumps(HEAD)})
    with pytest.raises(UserError, match="weights of trial ab12: the checkpoint does not fit"):
        _load(_fresh(), UpstreamSource(upstream_trial_id="ab12"), lambda _: path)


def test_kept_weights_must_name_their_head(tmp_path: Path, trained) -> None:
    path = _keep_weights(tmp_path / "weights.safetensors", trained)
    with pytest.raises(UserError, match="do not say which tensors are the head"):
        _load(_fresh(), UpstreamSource(upstream_trial_id="ab12"), lambda _: path)


def test_mean_var_of_a_file(file: Path, trained) -> None:
    built, again, other = _fresh(), _fresh(), _fresh()
    of = _checkpoint(file, strip_prefix="module.", contents=("cifar10",))
    weights = MeanVarSource(transform="mean_var", norm="reset", of=of)
    receipt = _load(built, weights, content=file_sha256(file), seed=3)
    assert (receipt.transform, receipt.norm, receipt.seed) == ("mean_var", "reset", 3)
    assert (receipt.form, receipt.file, receipt.contents) == ("file", "net.pth.tar", ("cifar10",))
    assert receipt.transform_drawn + receipt.transform_reset + receipt.transform_kept == receipt.backbone_tensors
    drawn, given = built.module.state_dict()["layer3.0.conv2.weight"], trained["layer3.0.conv2.weight"]
    assert not torch.equal(drawn, given)
    assert float(drawn.mean()) == pytest.approx(float(given.mean()), abs=0.05)
    assert _load(again, weights, seed=3).backbone_sha256 == receipt.backbone_sha256
    assert _load(other, weights, seed=4).backbone_sha256 != receipt.backbone_sha256


def test_check_source_builds_and_loads(file: Path) -> None:
    good = _source(_checkpoint(file, strip_prefix="module."), file_sha256(file))
    assert check_source(_scale(width=4), good, 2) == _fresh().parameters
    with pytest.raises(UserError, match="strip_prefix"):
        check_source(_scale(width=4), _source(_checkpoint(file), file_sha256(file)), 2)
    assert check_source(_scale(width=4), _source(UpstreamSource(upstream_trial_id="ab12")), 2) > 0


def test_timm_weights_need_a_timm_model() -> None:
    with pytest.raises(UserError, match="timm has weights for its own models only"):
        _load(_fresh(), TimmSource(timm="default"))


def _bit_file(path: Path, model: torch.nn.Module) -> None:
    """Write a timm BiT model as the original files are: TensorFlow's names, units from 1, kernels HWIO."""
    arrays: dict[str, np.ndarray] = {}

    def put(name: str, tensor: torch.Tensor) -> None:
        array = tensor.detach().numpy()
        arrays[f"resnet/{name}"] = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array

    put("root_block/standardized_conv2d/kernel", model.stem.conv.weight)
    put("group_norm/gamma", model.norm.weight)
    put("group_norm/beta", model.norm.bias)
    put("head/conv2d/kernel", model.head.fc.weight)
    put("head/conv2d/bias", model.head.fc.bias)
    for i, stage in enumerate(model.stages):
        for j, block in enumerate(stage.blocks):
            unit = f"block{i + 1}/unit{j + 1:02d}"
            for k, letter in enumerate("abc", start=1):
                put(f"{unit}/{letter}/standardized_conv2d/kernel", getattr(block, f"conv{k}").weight)
                put(f"{unit}/{letter}/group_norm/gamma", getattr(block, f"norm{k}").weight)
                put(f"{unit}/{letter}/group_norm/beta", getattr(block, f"norm{k}").bias)
            if block.downsample is not None:
                put(f"{unit}/a/proj/standardized_conv2d/kernel", block.downsample.conv.weight)
    np.savez(path, **arrays)


def tiny_bit(num_classes: int, layers: tuple[int, ...] = (1, 2, 1, 1)) -> ResNetV2:
    """The smallest BiT: the same blocks and names as a 50x1, fewer and narrower."""
    convolution = partial(StdConv2d, eps=1e-8)
    return ResNetV2(layers, (128, 128, 256, 256), num_classes=num_classes, stem_type="fixed", conv_layer=convolution)


BIT = "tests.trainables.test_sources:tiny_bit"


@pytest.fixture(scope="module")
def bit(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.nn.Module]:
    torch.manual_seed(0)
    model = tiny_bit(num_classes=7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    path = tmp_path_factory.mktemp("bit") / "BiT-S-tiny.npz"
    _bit_file(path, model)
    return path, model.eval()


def test_original_bit_file(bit) -> None:
    path, model = bit
    built = build_model(_scale(BIT), 2, seed=0)
    receipt = _load(built, _checkpoint(path, normalise="half"))
    assert receipt.matched_tensors == receipt.backbone_tensors
    assert receipt.dropped == ("head.fc.bias", "head.fc.weight")
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(built.module.eval().forward_features(images), model.forward_features(images))


@pytest.mark.slow
def test_original_file_of_the_smallest_published_bit(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = timm.create_model("resnetv2_50x1_bit", num_classes=3).eval()
    _bit_file(tmp_path / "BiT-S-R50x1.npz", model)
    built = build_model(_scale("resnetv2_50x1_bit", 64), 2, seed=0)
    receipt = _load(built, source_form({"catalogue": "bit_s", "file": str(tmp_path / "BiT-S-R50x1.npz")}))
    assert (receipt.matched_tensors, receipt.matched_numbers) == (receipt.backbone_tensors, 23_500_352)
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(built.module.eval().forward_features(images), model.forward_features(images))


@pytest.mark.parametrize("entry", ["bit_s", "bit_m", "bit_l"])
def test_bit_entries_of_the_catalogue_read_the_original_file(bit, entry: str) -> None:
    """``bit_l`` is the way in for a JFT file of one's own."""
    path, model = bit
    built = build_model(_scale(BIT), 2, seed=0)
    weights = source_form({"catalogue": entry, "file": str(path)})
    receipt = initialise(
        built, ResolvedSource(name="bit", weights=weights, normalise=weights.normalise), _no_upstream, 0
    )
    assert receipt.matched_tensors == receipt.backbone_tensors
    assert receipt.normalise == Normalisation.model_validate("half")
    assert torch.equal(built.module.state_dict()["norm.weight"], model.state_dict()["norm.weight"])


def test_bit_conversion_agrees_with_timm(bit) -> None:
    path, _ = bit
    theirs = tiny_bit(num_classes=2)
    theirs.load_pretrained(str(path))
    built = build_model(_scale(BIT), 2, seed=0)
    _load(built, _checkpoint(path))
    for name, tensor in built.module.state_dict().items():
        assert name in built.head or torch.equal(tensor, theirs.state_dict()[name]), name


def test_bit_file_of_a_deeper_network_is_refused(bit) -> None:
    """timm's own loader would take the first units of each block and say nothing."""
    path, _ = bit
    built = build_model(_scale(BIT, layers=[1, 1, 1, 1]), 2, seed=0)
    with pytest.raises(UserError, match="larger network"):
        _load(built, _checkpoint(path))


CIFAR = {20: "cifar10_resnet20-12fca82f.th", 56: "cifar10_resnet56-4bfd9763.th"}


def _cifar(shared_data: Path, depth: int, **keywords: Any) -> CheckpointSource:
    return CheckpointSource(file=str(shared_data / "weights" / CIFAR[depth]), **keywords)


@pytest.mark.shared_data
@pytest.mark.parametrize("depth", [20, 56])
def test_real_cifar_weights_through_the_catalogue(shared_data: Path, depth: int) -> None:
    file = shared_data / "weights" / CIFAR[depth]
    entry = find_entry(f"cifar10_resnet{depth}")
    assert file_sha256(file) == entry.sha256
    built = build_model(_scale(f"trainables.ladder_nets:resnet{depth}"), 7, seed=0)
    weights = source_form({"catalogue": f"cifar10_resnet{depth}", "file": str(file)})
    receipt = initialise(built, ResolvedSource(name="a", weights=weights, normalise=weights.normalise), _no_upstream, 0)
    assert receipt.matched_tensors + len(receipt.missing) == receipt.backbone_tensors


@pytest.mark.shared_data
@pytest.mark.parametrize("depth", [20, 56])
def test_real_cifar_weights(shared_data: Path, depth: int) -> None:
    built = build_model(_scale(f"trainables.ladder_nets:resnet{depth}"), 7, seed=0)
    receipt = _load(built, _cifar(shared_data, depth, strip_prefix="module.", drop=("linear",)))
    assert receipt.matched_tensors + len(receipt.missing) == receipt.backbone_tensors
    assert receipt.content is None or len(receipt.content) == 64
    assert all(n.endswith("num_batches_tracked") for n in receipt.missing)
    assert file_sha256(shared_data / "weights" / CIFAR[depth]).startswith(CIFAR[depth][-11:-3])


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("depth", "keywords", "message"),
    [
        (20, {}, r"without a prefix the names would fit: 'module\.'"),
        (56, {"strip_prefix": "module."}, r"larger network"),
    ],
)
def test_real_weights_that_do_not_fit(shared_data: Path, depth: int, keywords: dict[str, Any], message: str) -> None:
    built = build_model(_scale("trainables.ladder_nets:resnet20"), 7, seed=0)
    with pytest.raises(UserError, match=message):
        _load(built, _cifar(shared_data, depth, **keywords))


@pytest.mark.shared_data
def test_smaller_and_foreign_real_weights_are_refused(shared_data: Path) -> None:
    deep = build_model(_scale("trainables.ladder_nets:resnet56"), 7, seed=0)
    with pytest.raises(UserError, match=r"missing: 180 of 275 backbone tensors"):
        _load(deep, _cifar(shared_data, 20, strip_prefix="module."))
    squeeze = build_model(_scale("torchvision:squeezenet1_0", 64), 7, seed=0)
    with pytest.raises(UserError, match=r"looks like another network: 0 of 50"):
        _load(squeeze, _cifar(shared_data, 20, strip_prefix="module."))


@pytest.mark.shared_data
@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_real_squeezenet(shared_data: Path, suffix: str) -> None:
    path = shared_data / "weights" / f"squeezenet1_0_imagenet.{suffix}"
    built = build_model(_scale("torchvision:squeezenet1_0", 64), 7, seed=0)
    receipt = _load(built, _checkpoint(path, drop=("classifier.1",), contents=("imagenet1k",)))
    assert (receipt.matched_tensors, receipt.missing) == (50, ())
    reference = torchvision.models.squeezenet1_0(weights=None)
    tensors = safetensors.torch.load_file(shared_data / "weights" / "squeezenet1_0_imagenet.safetensors")
    reference.load_state_dict(tensors)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(built.module.features(images), reference.features(images))
