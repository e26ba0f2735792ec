"""Scales as encoders of U-Nets: names, sources, receipts, and what cannot be one."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from search_spaces.exceptions import UserError
from search_spaces.source_specs import CheckpointSource, RandomSource
from search_spaces.trial import MeanVarSource, PartialSource, ResolvedScale, ResolvedSource, UpstreamNet, UpstreamSource
from tests.conftest import data_root
from tests.trainables.toy import NORMALISE
from trainables.freezing import freeze
from trainables.hashing import file_sha256
from trainables.loading import names_of
from trainables.models import build_model
from trainables.parts import parts_of
from trainables.sources import check_source, initialise

RESNET8 = ResolvedScale(name="tiny", factory="trainables.ladder_nets:resnet8", arguments={"width": 4}, input_size=16)
TIMM = ResolvedScale(name="atto", factory="convnext_atto", input_size=32)


def unet(scale=RESNET8, seed=0, labels=2):
    return build_model(scale, labels, seed, dense=True)


def source(path, **fields):
    weights = CheckpointSource(file=str(path), normalise=NORMALISE, **fields)
    return ResolvedSource(name="ours", weights=weights, content=file_sha256(path), normalise=NORMALISE)


def refuse(trial_id):
    raise AssertionError(trial_id)


@pytest.fixture
def classifier_file(tmp_path):
    path = tmp_path / "classifier.safetensors"
    built = build_model(RESNET8, 5, 3)
    save_file({n: t.contiguous() for n, t in built.module.state_dict().items()}, path)
    return path, built


def test_every_pixel_has_outputs_whatever_the_side():
    for side in (16, 17, 22):
        built = unet(RESNET8.model_copy(update={"input_size": side}))
        assert built.module(torch.zeros(1, 3, side, side)).shape == (1, 2, side, side)
    whole = set(build_model(RESNET8, 2, 0).module.state_dict())
    assert set(built.encoder.names.values()) | set(built.encoder.head) == whole
    assert built.parameters > built.backbone_parameters > 0


def test_the_same_seed_gives_the_same_net():
    one, again, other = (unet(seed=s).module.state_dict() for s in (1, 1, 2))
    assert all(torch.equal(one[n], again[n]) for n in one)
    assert any(not torch.equal(one[n], other[n]) for n in one)


def test_a_classifiers_checkpoint_fills_the_whole_encoder(classifier_file):
    path, classifier = classifier_file
    built = unet()
    fresh = {n: t.clone() for n, t in built.module.state_dict().items()}
    receipt = initialise(built, source(path), refuse, 0)
    assert receipt.matched_tensors == receipt.backbone_tensors == len(built.encoder.names)
    assert set(receipt.dropped) == set(classifier.head)
    filled, own = built.module.state_dict(), classifier.module.state_dict()
    assert all(torch.equal(filled[place], own[name]) for place, name in built.encoder.names.items())
    assert all(torch.equal(filled[name], fresh[name]) for name in built.head)


def test_a_checkpoint_that_lacks_a_tensor_is_refused(classifier_file, tmp_path):
    _, classifier = classifier_file
    tensors = {n: t.contiguous() for n, t in classifier.module.state_dict().items() if n != "layer2.0.conv1.weight"}
    save_file(tensors, tmp_path / "cut.safetensors")
    with pytest.raises(UserError, match=r"missing: 1 of \d+ backbone tensors: layer2.0.conv1.weight"):
        initialise(unet(), source(tmp_path / "cut.safetensors"), refuse, 0)


UPSTREAM = ResolvedSource(name="up", weights=UpstreamSource(upstream_trial_id="a" * 16), normalise=NORMALISE)


def kept(trained, folder):
    """The file of a trial's weights."""
    file = folder / "weights.safetensors"
    tensors = {n: t.contiguous() for n, t in trained.module.state_dict().items()}
    save_file(tensors, file, names_of(trained.head, trained.encoder))
    return file


def test_trials_of_masks_and_of_labels_start_from_each_other(tmp_path):
    trained = unet(seed=7)
    file = kept(trained, tmp_path)
    labels = build_model(RESNET8, 5, 0)
    receipt = initialise(labels, UPSTREAM, lambda _: file, 0)
    assert receipt.matched_tensors == receipt.backbone_tensors
    assert receipt.fresh == ()
    masks = unet()
    initialise(masks, UPSTREAM, lambda _: file, 0)
    for place, name in trained.encoder.names.items():
        assert torch.equal(labels.module.state_dict()[name], trained.module.state_dict()[place])
        assert torch.equal(masks.module.state_dict()[place], trained.module.state_dict()[place])
    assert any(not torch.equal(masks.module.state_dict()[n], trained.module.state_dict()[n]) for n in trained.head)


NETS_WITH_A_LAST_NORM = """
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes, more):
        super().__init__()
        self.low, self.high = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 8, 3, 2, 1)
        self.more = nn.Conv2d(8, 8, 3, 1, 1) if more else nn.Identity()
        self.norm, self.fc = nn.LayerNorm(8), nn.Linear(8, num_classes)
    def forward(self, x):
        return self.fc(self.norm(self.more(self.high(self.low(x).relu()).relu()).mean((2, 3))))

def net(num_classes):
    return Net(num_classes, False)

def deeper(num_classes):
    return Net(num_classes, True)
"""


@pytest.fixture
def normed(tmp_path):
    """Builds nets whose last norm no encoder has a use for."""
    (tmp_path / "normed_nets.py").write_text(NETS_WITH_A_LAST_NORM)

    def build(name="net", dense=False, seed=0):
        scale = ResolvedScale(name=name, factory=f"normed_nets:{name}", input_size=16)
        return build_model(scale, 2, seed, (str(tmp_path),), dense=dense)

    return build


def test_last_layers_that_no_encoder_has_a_use_for_stay_fresh_after_a_trial_of_masks(normed, tmp_path):
    trained, labels, untouched = normed(dense=True, seed=7), normed(), normed()
    for net in (labels, untouched):
        torch.nn.init.constant_(net.module.norm.weight, 3.0)
    file = kept(trained, tmp_path)
    receipt = initialise(labels, UPSTREAM, lambda _: file, 0)
    assert receipt.fresh == ("norm.weight", "norm.bias")
    assert receipt.matched_tensors == receipt.backbone_tensors - 2
    assert not set(receipt.dropped) & set(receipt.fresh)
    own, fresh = labels.module.state_dict(), untouched.module.state_dict()
    assert all(torch.equal(own[name], fresh[name]) for name in (*receipt.fresh, *labels.head))
    for place, name in trained.encoder.names.items():
        assert torch.equal(own[name], trained.module.state_dict()[place])
    again = normed(dense=True)
    assert initialise(again, UPSTREAM, lambda _: kept(labels, tmp_path), 0).fresh == ()


def test_other_layers_that_a_trial_of_masks_lacks_are_still_missing(normed, tmp_path):
    file = kept(normed(dense=True), tmp_path)
    with pytest.raises(UserError, match=r"missing: 2 of 6 backbone tensors: more\.weight, more\.bias"):
        initialise(normed("deeper"), UPSTREAM, lambda _: file, 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("factory", "arguments"),
    [("convnext_atto", {}), ("efficientnet_b0", {}), ("swin_tiny_patch4_window7_224", {"depths": [1, 1, 1, 1]})],
)
def test_labels_start_from_masks_of_timms_ladders(factory, arguments):
    scale = ResolvedScale(name="net", factory=factory, arguments=arguments, input_size=224 if arguments else 64)
    check_source(scale, UPSTREAM, 3, upstream=UpstreamNet(scale=scale, num_outputs=1, dense=True))


@pytest.mark.parametrize("dense", [True, False])
def test_what_a_trial_will_learn_is_tried_by_name_and_shape_before_it_is_trained(dense):
    other = RESNET8.model_copy(update={"arguments": {"width": 6}})
    fitting, misfit = (UpstreamNet(scale=scale, num_outputs=5, dense=not dense) for scale in (RESNET8, other))
    check_source(RESNET8, UPSTREAM, 2, dense=dense, upstream=fitting)
    said = r"(?s)weights of trial a{16}: .*of another shape.*that trial learns \w+ with scale 'tiny' .* at 16 px"
    with pytest.raises(UserError, match=said):
        check_source(RESNET8, UPSTREAM, 2, dense=dense, upstream=misfit)


def test_cuts_freezing_and_mean_var_see_the_encoder_by_the_classifiers_parts(classifier_file):
    path, classifier = classifier_file
    built = unet()
    named = [part.name for part in parts_of(built.module, built.head)]
    assert named == [part.name for part in parts_of(classifier.module, classifier.head)]
    file = source(path)
    cut = PartialSource(transform="partial", up_to="layer1", of=file.weights)
    initialise(built, file.model_copy(update={"weights": cut}), refuse, 0)
    filled, fresh, own = built.module.state_dict(), unet().module.state_dict(), classifier.module.state_dict()
    lower = next(n for n in built.encoder.names if n.endswith("layer1.0.conv1.weight"))
    upper = next(n for n in built.encoder.names if n.endswith("layer3.0.conv1.weight"))
    assert torch.equal(filled[lower], own["layer1.0.conv1.weight"])
    assert torch.equal(filled[upper], fresh[upper])
    freeze(built.module, built.head, "layer1")
    assert not dict(built.module.named_parameters())[lower].requires_grad
    assert dict(built.module.named_parameters())[upper].requires_grad
    drawn = unet()
    mean_var = MeanVarSource(transform="mean_var", norm="reset", of=file.weights)
    receipt = initialise(drawn, file.model_copy(update={"weights": mean_var}), refuse, 0)
    assert receipt.transform_drawn > 0
    assert not torch.equal(drawn.module.state_dict()[lower], own["layer1.0.conv1.weight"])
    assert all(torch.equal(drawn.module.state_dict()[n], fresh[n]) for n in drawn.head)


@pytest.mark.slow
def test_a_timm_scale_has_its_own_names_although_the_library_flattens_them(tmp_path):
    built = build_model(TIMM, 1, 0, dense=True)
    classifier = build_model(TIMM, 4, 5)
    assert any(".stages_1." in name for name in built.encoder.names)
    assert built.encoder.unused == {"head.norm.weight", "head.norm.bias"}
    save_file({n: t.contiguous() for n, t in classifier.module.state_dict().items()}, tmp_path / "w.safetensors")
    receipt = initialise(built, source(tmp_path / "w.safetensors"), refuse, 0)
    assert receipt.matched_tensors == receipt.backbone_tensors == len(built.encoder.names)
    theirs = [part.name for part in parts_of(classifier.module, classifier.head)]
    assert [part.name for part in parts_of(built.module, built.head)] == [n for n in theirs if n != "head.norm"]
    freeze(built.module, built.head, "stages.1")
    fixed = {built.encoder.names[n] for n, p in built.module.named_parameters() if not p.requires_grad}
    assert fixed == {
        n for n, _ in classifier.module.named_parameters() if n.startswith(("stem.", "stages.0.", "stages.1."))
    }
    with pytest.raises(UserError, match=r"cannot be the encoder of a U-Net: its maps are .* not halved.* What works"):
        build_model(ResolvedScale(name="vit", factory="vit_tiny_patch16_224", input_size=224), 1, 0, dense=True)


def test_a_factory_without_maps_is_refused_with_what_works(tmp_path):
    (tmp_path / "flatnets.py").write_text(
        "from torch import nn\n"
        "def flat(num_classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 8), nn.ReLU(), nn.Linear(8, num_classes))\n"
        "class Odd(nn.Module):\n"
        "    def __init__(self, num_classes):\n"
        "        super().__init__()\n"
        "        self.conv, self.fc = nn.Conv2d(3, 4, 3, 2, 1), nn.Linear(4, num_classes)\n"
        "    def forward(self, x):\n"
        "        y = self.conv(x)\n"
        "        return self.fc((y if y.sum() > 0 else -y).mean((2, 3)))\n"
        "def odd(num_classes):\n"
        "    return Odd(num_classes)\n"
    )
    random = ResolvedSource(name="random", weights=RandomSource(), normalise=NORMALISE)
    for function, why in (("flat", "not halved"), ("odd", "torch.fx cannot trace it")):
        scale = ResolvedScale(name="mine", factory=f"flatnets:{function}", input_size=16)
        with pytest.raises(UserError, match=rf"mine.*{function} cannot be the encoder.*{why}.*What works"):
            check_source(scale, random, 1, (str(tmp_path),), dense=True)


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("scale", "weights"),
    [
        (
            ResolvedScale(name="squeeze", factory="torchvision:squeezenet1_0", input_size=64),
            {"file": "squeezenet1_0_imagenet.safetensors", "drop": ["classifier.1"]},
        ),
        (
            ResolvedScale(name="cifar", factory="trainables.ladder_nets:resnet20", input_size=32),
            {
                "file": "cifar10_resnet20-12fca82f.th",
                "state_key": "state_dict",
                "strip_prefix": "module.",
                "drop": ["linear"],
            },
        ),
    ],
)
def test_given_weights_fill_the_encoders_of_small_nets(scale, weights):
    file = data_root() / "weights" / weights.pop("file")
    if not file.is_file():
        pytest.skip(f"{file} is not there")
    built = unet(scale, labels=1)
    receipt = initialise(built, source(file, **weights), refuse, 0)
    assert receipt.matched_tensors + len(receipt.missing) == receipt.backbone_tensors == len(built.encoder.names)
