from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch

from search_spaces.exceptions import UserError
from search_spaces.study import ScaleSpec
from search_spaces.trial import ResolvedScale
from trainables import models
from trainables.factories import find_factory
from trainables.hashing import file_sha256
from trainables.models import build_model, check_scale, model_facts, scale_card
from trainables.scale_facts import known_facts
from trainables.shipped_cards import OWN_SCALES
from trainables.user_modules import code_sha256

LADDER = "trainables.ladder_nets:resnet8"

USER_MODULE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes, width=4):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3)
        self.classify = nn.Linear(width, num_classes, bias=False)

    def forward(self, x):
        return self.classify(self.conv(x).mean(dim=(2, 3)))

def net(num_classes, width=4):
    return Net(num_classes, width)

def without_outputs(width=4):
    return Net(5, width)

def ignores(num_classes):
    return Net(7)

def all_head(num_classes):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, num_classes))

def broken(num_classes):
    raise RuntimeError("no such block")

def no_module(num_classes):
    return "net"

class Two(Net):
    def forward(self, x):
        out = super().forward(x)
        return (out, out) if self.training else out

class NaN(Net):
    def forward(self, x):
        return super().forward(x) * float("nan")

class NeedsNumbers(Net):
    def __init__(self, num_classes, width=4):
        super().__init__(num_classes, width)
        self.scale = float(torch.linspace(0, 1, 3)[1].item())

    def forward(self, x):
        return super().forward(x) * self.scale

class Maps(Net):
    def forward(self, x):
        return self.conv(x)
"""


@pytest.fixture
def folder(tmp_path: Path):
    """A study folder with a user's module; what it put into the interpreter is taken out again."""
    path, modules = list(sys.path), set(sys.modules)
    (tmp_path / "usernets.py").write_text(USER_MODULE)
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name.startswith("usernets"):
            del sys.modules[name]


def _scale(factory: str, size: int = 32, **keywords: Any) -> ResolvedScale:
    return ResolvedScale(name="it", factory=factory, input_size=size, **keywords)


def _state(scale: ResolvedScale, seed: int, outputs: int = 3) -> dict[str, torch.Tensor]:
    return build_model(scale, outputs, seed).module.state_dict()


@pytest.mark.parametrize(
    ("factory", "size", "head"),
    [
        (LADDER, 32, ("linear.weight", "linear.bias")),
        ("torchvision:squeezenet1_0", 64, ("classifier.1.weight", "classifier.1.bias")),
        ("torchvision:inception_v3", 80, ("fc.weight", "fc.bias")),
        ("torchvision:regnet_x_400mf", 32, ("fc.weight", "fc.bias")),
        ("torchvision:vit_b_32", 32, ("heads.head.weight", "heads.head.bias")),
        ("timm:resnet10t", 32, ("fc.weight", "fc.bias")),
        ("deit_tiny_distilled_patch16_224", 32, ("head.weight", "head.bias", "head_dist.weight", "head_dist.bias")),
    ],
)
def test_head_is_found_for_any_factory(factory: str, size: int, head: tuple[str, ...]) -> None:
    built = build_model(_scale(factory, size), 3, seed=0)
    assert built.head == head
    named = dict(built.module.named_parameters())
    assert built.parameters == sum(p.numel() for p in named.values())
    assert built.parameters - built.backbone_parameters == sum(named[n].numel() for n in head)
    assert built.module(torch.zeros(2, 3, size, size)).shape == (2, 3)
    assert built.module.training


@pytest.mark.parametrize(
    "name", ["resnetv2_50x1_bit", "vit_tiny_patch16_224", "densenet121", "mobilenetv3_small_050", "convnext_atto"]
)
def test_head_agrees_with_timm(name: str) -> None:
    facts = model_facts(_scale(name, 224), num_outputs=4)
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=4)
    ids = {id(p) for p in model.get_classifier().parameters()}
    assert set(facts.head) == {n for n, p in model.named_parameters() if id(p) in ids}


def test_seed_decides_the_weights_whatever_happened_before() -> None:
    scale = _scale(LADDER)
    first = _state(scale, seed=1)
    torch.rand(5)
    random.random()
    assert all(torch.equal(a, b) for a, b in zip(first.values(), _state(scale, seed=1).values(), strict=True))
    assert not torch.equal(first["conv1.weight"], _state(scale, seed=2)["conv1.weight"])
    assert not torch.equal(first["linear.weight"], _state(scale, seed=2)["linear.weight"])


def test_global_random_state_is_left_alone() -> None:
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    random.seed(5)
    expected = (torch.rand(3), np.random.rand(3), random.random())  # noqa: NPY002
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    random.seed(5)
    build_model(_scale(LADDER, 24), 2, seed=9)
    check_scale("it", ScaleSpec(factory="torchvision:squeezenet1_1", input_size=40))
    assert torch.equal(torch.rand(3), expected[0])
    assert np.array_equal(np.random.rand(3), expected[1])  # noqa: NPY002
    assert random.random() == expected[2]


def test_first_and_later_builds_agree() -> None:
    """The first build of a kind in a process also measures it; that must leave no trace."""
    scale = _scale(LADDER, arguments={"width": 6})
    first, second = (build_model(scale, 2, seed=3).module for _ in range(2))
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


def test_user_factory_from_a_folder(folder: Path) -> None:
    scale = _scale("usernets:net", 16, arguments={"width": 6}, factory_sha256=file_sha256(folder / "usernets.py"))
    built = build_model(scale, 2, seed=0, import_paths=(str(folder),))
    assert built.head == ("classify.weight",)
    assert built.module.conv.weight.shape[0] == 6
    card = scale_card("usernets:net", (str(folder),))
    assert card.factory_sha256 == file_sha256(folder / "usernets.py")
    assert card.input_size is None
    assert card.revision is None


def test_user_model_that_needs_numbers_to_be_built(folder: Path) -> None:
    built = build_model(_scale("usernets:NeedsNumbers", 16), 2, seed=0, import_paths=(str(folder),))
    assert built.head == ("classify.weight",)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("nett", r"unknown function 'nett'.*Did you mean 'net'"),
        ("without_outputs", r"must take num_classes .* it takes \(width\)"),
        ("ignores", r"makes the same model for 2 and 3 outputs"),
        ("all_head", r"there is no backbone"),
        ("broken", r"RuntimeError: no such block"),
        ("no_module", r"must return a torch.nn.Module, got str"),
        ("Two", r"in training mode it gives a tuple"),
        ("Maps", r"of shape \(2, 2\); in training mode it gives shape \(2, 4, 14, 14\)"),
        ("NaN", r"not finite"),
    ],
)
def test_bad_user_factories_have_one_clear_error(folder: Path, function: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_model(_scale(f"usernets:{function}", 16), 2, seed=0, import_paths=(str(folder),))


def test_changed_factory_is_refused_and_then_read_anew(folder: Path) -> None:
    file, paths = folder / "usernets.py", (str(folder),)
    old = scale_card("usernets:net", paths).factory_sha256
    file.write_text(USER_MODULE.replace("width=4", "width=11"))
    with pytest.raises(UserError, match="has changed since the study was planned"):
        build_model(_scale("usernets:net", 16, factory_sha256=old), 2, seed=0, import_paths=paths)
    new = scale_card("usernets:net", paths).factory_sha256
    built = build_model(_scale("usernets:net", 16, factory_sha256=new), 2, seed=0, import_paths=paths)
    assert built.module.conv.weight.shape[0] == 11


@pytest.mark.parametrize(
    ("importing", "width"),
    [
        ("import helpers.parts", "helpers.parts.WIDTH"),
        ("from helpers import parts", "parts.WIDTH"),
        ("from helpers.parts import WIDTH", "WIDTH"),
        ("from helpers import WIDTH", "WIDTH"),
    ],
)
def test_hash_and_reading_follow_a_factory_to_its_helpers(folder: Path, importing: str, width: str) -> None:
    helpers, paths = folder / "helpers", (str(folder),)
    helpers.mkdir()
    (helpers / "__init__.py").write_text("from .parts import WIDTH\n")
    (helpers / "parts.py").write_text("import torch\nWIDTH = 4\n")
    (folder / "usernets.py").write_text(f"{importing}\n{USER_MODULE.replace('width=4', f'width={width}')}")
    before = scale_card("usernets:net", paths).factory_sha256
    (helpers / "parts.py").write_text("import torch\nWIDTH = 9\n")
    after = scale_card("usernets:net", paths).factory_sha256
    assert after != before
    built = build_model(_scale("usernets:net", 16, factory_sha256=after), 2, seed=0, import_paths=paths)
    assert built.module.conv.weight.shape[0] == 9


def test_a_module_that_cannot_be_read_has_one_clear_error(folder: Path) -> None:
    (folder / "usernets.py").write_text("def net(:\n")
    with pytest.raises(UserError, match="importing usernets failed: SyntaxError"):
        build_model(_scale("usernets:net", 16), 2, seed=0, import_paths=(str(folder),))


def test_the_hash_of_an_installed_factory_is_that_of_its_file() -> None:
    import timm.models.resnet as module

    assert code_sha256(module, module.resnet18) == file_sha256(Path(str(module.__file__)))


def test_modules_of_one_name_in_two_folders(folder: Path) -> None:
    other = folder / "other"
    other.mkdir()
    (other / "usernets.py").write_text(USER_MODULE.replace("width=4", "width=12"))
    widths = [
        build_model(_scale("usernets:net", 16), 2, seed=0, import_paths=(str(f),)).module.conv.weight.shape[0]
        for f in (folder, other, folder)
    ]
    assert widths == [4, 12, 4]


@pytest.mark.parametrize("second", ["usernets", "usernets_other"])
@pytest.mark.parametrize(
    "importing", ["def net(num_classes):\n    from {0} import WIDTH", "from {0} import WIDTH\ndef net(num_classes):"]
)
def test_modules_of_two_folders_have_each_their_own_helper(folder: Path, second: str, importing: str) -> None:
    """Both are asked for again: trials of two studies take turns."""
    helper = "usernets_helper"
    text = f"import torch\n{importing.format(helper)}\n    return torch.nn.Linear(WIDTH, num_classes)\n"
    studies = {"usernets": folder / "first", second + ":": folder / "second"}
    for width, (name, study) in enumerate(studies.items(), start=3):
        study.mkdir()
        (study / f"{name.rstrip(':')}.py").write_text(text)
        (study / f"{helper}.py").write_text(f"WIDTH = {width}\n")

    def width_in(name: str) -> int:
        study = studies[name]
        return find_factory(f"{name.rstrip(':')}:net", (str(study),)).make(2, {}, 16).in_features

    assert [width_in(name) for name in [*studies, *studies]] == [3, 4, 3, 4]
    (folder / "second" / f"{helper}.py").write_text("WIDTH = 50\n")
    assert [width_in(name) for name in studies] == [3, 50]


def test_name_of_a_helper_that_is_taken(folder: Path) -> None:
    (folder / "json.py").write_text("WIDTH = 4\n")
    (folder / "usernets.py").write_text("from json import WIDTH\n")
    with pytest.raises(UserError, match=r"'json' is taken by .*__init__.py; rename .*json\.py"):
        scale_card("usernets:net", (str(folder),))


def test_hash_follows_a_factory_into_its_package(folder: Path) -> None:
    package = folder / "usernets_package"
    package.mkdir()
    (package / "__init__.py").write_text("from usernets_package.nets import net\n")
    (package / "nets.py").write_text(USER_MODULE)
    before = scale_card("usernets_package:net", (str(folder),)).factory_sha256
    (package / "nets.py").write_text(USER_MODULE + "\n# another line\n")
    assert scale_card("usernets_package:net", (str(folder),)).factory_sha256 != before


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("resnet500d", r"unknown timm model 'resnet500d'\. Did you mean '"),
        ("squeezenet1_0", r"torchvision has it: write torchvision:squeezenet1_0"),
        ("timm:nothing_like_it", r"A model is a timm name, torchvision:NAME or pkg.mod:function"),
        ("resnet50.a1_in1kk", r"unknown pretrained tag .*Did you mean 'a1_in1k'"),
        ("torchvision:squeezenet1_9", r"unknown torchvision classification model .*Did you mean 'squeezenet1_"),
        ("torchvision:fasterrcnn_resnet50_fpn", r"unknown torchvision classification model"),
        ("no_such_module:net", r"there is no module 'no_such_module'"),
        ("math:floor", r"must take num_classes"),
    ],
)
def test_unknown_models_are_named(factory: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        scale_card(factory)


PLAIN = "def net(num_classes, width=4):\n    return None\n"


@pytest.mark.parametrize(
    ("text", "is_plain"),
    [
        (PLAIN, True),
        (f"import helper\n{PLAIN}", True),
        ("def net(width=4, **arguments):\n    return None\n", True),
        ("import functools\n@functools.cache\n" + PLAIN, False),
        (f"{PLAIN}net = None\n", False),
        (f"from helper import *\n{PLAIN}", False),
        ("from helper import net\n", False),
        ("net = lambda num_classes: None\n", False),
        ("def net(classes):\n    return None\n", False),
        ("def other(num_classes):\n    return None\n", False),
        ("def net(:\n", False),
    ],
)
def test_the_text_of_a_module_says_what_importing_it_would(tmp_path: Path, text: str, is_plain: bool) -> None:
    (tmp_path / "plainly.py").write_text(text)
    (tmp_path / "helper.py").write_text("def net(num_classes):\n    return None\n")
    known = known_facts("plainly:net", (str(tmp_path),))
    assert (known is not None) == is_plain
    if is_plain:
        assert known == scale_card("plainly:net", (str(tmp_path),))


def test_a_linked_module_imports_what_lies_beside_its_link(tmp_path: Path) -> None:
    study, common = tmp_path / "study", tmp_path / "common"
    study.mkdir()
    common.mkdir()
    (common / "linked.py").write_text(f"import linked_helper\n{PLAIN}")
    (study / "linked.py").symlink_to(common / "linked.py")
    (study / "linked_helper.py").write_text("WIDTH = 4\n")
    known = [known_facts("linked:net", (str(study),))]
    assert known[0] == scale_card("linked:net", (str(study),))
    (study / "linked_helper.py").write_text("WIDTH = 8\n")
    known.append(known_facts("linked:net", (str(study),)))
    assert known[1] == scale_card("linked:net", (str(study),))
    assert known[0] != known[1]


@pytest.mark.parametrize("factory", [*OWN_SCALES, "trainables.phantom_nets:phantom_net"])
def test_facts_of_our_own_nets_need_no_torch(factory: str) -> None:
    assert known_facts(factory) == scale_card(factory)


def test_module_that_needs_a_missing_package(folder: Path) -> None:
    (folder / "usernets_needy.py").write_text("import surely_not_installed\n")
    with pytest.raises(UserError, match="needs 'surely_not_installed', which is not installed"):
        scale_card("usernets_needy:net", (str(folder),))


def test_module_name_that_is_taken(folder: Path) -> None:
    (folder / "json.py").write_text("def net(num_classes):\n    return None\n")
    with pytest.raises(UserError, match="module name 'json' is taken"):
        scale_card("json:net", (str(folder),))


@pytest.mark.parametrize(
    ("factory", "size", "arguments", "message"),
    [
        ("torchvision:squeezenet1_0", 8, {}, r"fails on images of 8 x 8 pixels: .*\(its native size is 224\)"),
        (LADDER, 32, {"wdith": 3}, r"unexpected keyword argument 'wdith'"),
        (LADDER, 32, {"num_classes": 3}, r"'num_classes' is given by the task"),
        ("resnet10t", 32, {"pretrained": True}, r"'pretrained' is given by the study's sources"),
        ("torchvision:resnet18", 32, {"weights": "DEFAULT"}, r"'weights' is given by the study's sources"),
    ],
)
def test_impossible_scales_are_refused_while_planning(
    factory: str, size: int, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        check_scale("it", ScaleSpec(factory=factory, input_size=size, arguments=arguments))


def test_native_sizes() -> None:
    sizes = {f: scale_card(f).input_size for f in ("torchvision:squeezenet1_0", "resnet10t")}
    assert sizes == {"torchvision:squeezenet1_0": 224, "resnet10t": 176}
    assert scale_card("torchvision:inception_v3").input_size == 299


def test_card_of_a_timm_model_states_scaling_and_revision_per_tag() -> None:
    card = scale_card("resnetv2_50x1_bit")
    assert card.normalise is not None
    assert card.revision is not None
    assert card.normalise["goog_in21k"] == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert card.revision["goog_in21k"] == "resnetv2_50x1_bit.goog_in21k@timm/resnetv2_50x1_bit.goog_in21k"
    assert card.revision["default"] in {r for t, r in card.revision.items() if t != "default"}
    assert set(card.normalise) == set(card.revision)


def test_default_tag_is_the_one_in_the_name() -> None:
    card = scale_card("resnet50.tv_in1k")
    assert card.revision is not None
    assert card.revision["default"] == card.revision["tv_in1k"]
    assert card.factory_sha256 is None


def test_transformer_of_fixed_size_takes_the_scale_size() -> None:
    built = build_model(_scale("vit_tiny_patch16_224", 48), 2, seed=0)
    assert built.module.pos_embed.shape[1] == 1 + (48 // 16) ** 2


def test_squeezenet_can_say_no():
    """torchvision's SqueezeNets end in a ReLU, under which a sigmoid loss kills every output."""
    built = build_model(ResolvedScale(name="s", factory="torchvision:squeezenet1_1", input_size=32), 3, seed=0)
    with torch.no_grad():
        built.module.get_parameter("classifier.1.bias").fill_(-1.0)
        logits = built.module.eval()(torch.zeros(2, 3, 32, 32))
    assert (logits < 0).all()


def test_facts_of_small_models_leave_torchs_compiler_alone() -> None:
    """It takes 160 MB and seconds, in every command that plans."""
    code = (
        "import sys; from search_spaces.study import ScaleSpec; from trainables.models import check_scale;"
        "[check_scale(n, ScaleSpec(factory=f'trainables.{n}', input_size=32))"
        " for n in ('ladder_nets:resnet20', 'phantom_nets:phantom_net')];"
        "sys.exit(' '.join({'torch._dynamo', 'sympy', 'triton'} & sys.modules.keys()) or 0)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_facts_are_the_same_with_numbers_and_without(monkeypatch: pytest.MonkeyPatch) -> None:
    factory = find_factory("torchvision:squeezenet1_1")
    scale = ResolvedScale(name="s", factory=factory.text, arguments={}, input_size=64)
    few = models._measure(factory, scale, 3, torch.device("meta"))
    monkeypatch.setattr(models, "FEW_PARAMETERS", 0)
    assert models._measure(factory, scale, 3, torch.device("meta")) == few
    assert models._measure(factory, scale, 3, torch.device("cpu")) == few
