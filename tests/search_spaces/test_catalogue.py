from __future__ import annotations

import pytest

from search_spaces.catalogue import OWN_FILE, CatalogueEntry, catalogue, find_entry
from search_spaces.exceptions import UserError
from search_spaces.expand import expand
from search_spaces.home import scalecurves_home
from search_spaces.identity import source_identity
from search_spaces.ladders import ladder, ladder_of, ladders
from search_spaces.resolve import Resolver
from search_spaces.source_specs import source_form
from search_spaces.study import Study
from search_spaces.trial import ResolvedSource
from tests.search_spaces.examples import cards, raw_study, study

BENCHMARK = [
    "insdis",
    "moco_v1",
    "pcl_v1",
    "pirl",
    "pcl_v2",
    "simclr_v1",
    "moco_v2",
    "simclr_v2",
    "sela_v2",
    "infomin",
    "byol",
    "deepcluster_v2",
    "swav",
    "barlow_twins",
    "imagenet_supervised",
    "inat2021_supervised",
    "inat2021_mini_supervised",
    "chestxray14",
    "chexpert",
    "imagenet_chestxray14",
    "imagenet_chexpert",
]


def test_the_benchmark_of_2021_can_be_named_in_full() -> None:
    assert len(BENCHMARK) == 21
    for name in BENCHMARK:
        entry = find_entry(name)
        assert entry.architectures == ("resnet50",)
        assert all((entry.data, entry.method, entry.where, entry.contents)), name


def test_upstream_accuracies_are_the_published_ones() -> None:
    published = {n: e.upstream_top1 for n, e in catalogue().items() if e.upstream_kind == "linear" and "full" not in n}
    assert published == {
        "moco_v1": 60.6, "moco_v2": 71.1, "swav": 75.3, "deepcluster_v2": 75.2, "sela_v2": 71.8, "barlow_twins": 73.5,
        "pcl_v1": 61.5, "pcl_v2": 67.6, "simclr_v1": 69.1, "simclr_v2": 71.7, "dino_resnet50": 75.3,
    }  # fmt: skip


def test_input_scaling_of_the_families() -> None:
    mean = {name: entry.normalise.mean[0] for name, entry in catalogue().items()}
    assert {n for n, m in mean.items() if m == 0.0} == {"simclr_v1", "simclr_v2"}
    half = {"bit_s", "bit_m", "bit_l", "inception_v3_tf", "torchvision_inception"}
    assert {n for n, m in mean.items() if m == 0.5} == half


def test_entries_that_are_named_instead_of_others_exist() -> None:
    named = {n: e.instead for n, e in catalogue().items() if e.instead}
    assert named["torchvision"]["inception_v3"] == named["torchvision"]["googlenet"] == "torchvision_inception"
    for others in named.values():
        for architecture, other in others.items():
            assert architecture in find_entry(other).architectures


def test_jft_is_declared_unavailable_and_takes_a_file_of_ones_own() -> None:
    entry = find_entry("bit_l")
    assert not entry.available
    assert "never released" in str(entry.reason)
    source = source_form({"catalogue": "bit_l", "file": "mine.npz"})
    assert (source.catalogue, source.drop, source.contents) == ("bit_l", ("head.fc",), ("jft300m",))


def _identity(**written: object) -> dict[str, object]:
    source = source_form({"file": "net.pth", **written})
    return source_identity(ResolvedSource(name="a", weights=source, content="f00d", normalise=source.normalise))


def test_entry_and_the_same_written_out_are_one_science() -> None:
    written = {"state_key": "state_dict", "keep": "module.encoder_q.", "drop": ["fc"]}
    assert _identity(catalogue="moco_v2") == _identity(**written) == _identity(catalogue="pcl_v1")
    assert _identity(catalogue="moco_v2") != _identity(**{**written, "keep": "module.encoder_k."})
    assert _identity(catalogue="simclr_v1") != _identity(catalogue="simclr_v1", normalise="as_paper")
    assert "rename" in _identity(catalogue="simclr_v2")


def test_study_with_entries_survives_its_dump() -> None:
    sources = {
        "natural": {
            "by_scale": {
                "resnet20": {"catalogue": "cifar10_resnet20", "file": "cifar.th"},
                "squeezenet": {"file": "squeeze.safetensors", "normalise": "as_paper"},
            }
        },
        "natural_meanvar": {"transform": "mean_var", "of": "natural", "draw": "resampling"},
        "chest_pre": {"transform": "partial", "of": "natural", "up_to": {"resnet20": "layer1"}},
        "gabor": {"transform": "gabor", "wavelength": [0.4, 0.9]},
    }
    one = study(sources=sources)
    for dump in (
        one.model_dump(mode="json", by_alias=True),
        one.model_dump(mode="json", by_alias=True, exclude_unset=True),
    ):
        assert Study.model_validate(dump) == one
    assert one.sources["natural"].by_scale["resnet20"].strip_prefix == ("module.",)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"transform": "partal", "of": "natural"}, "unknown transform 'partal'. Did you mean 'partial'?"),
        ({"transform": "partial", "of": "natural"}, "up_to"),
        ({"transform": "mean_var", "of": "natural", "draw": "uniform"}, "draw"),
        ({"transform": "partial", "of": "random", "up_to": "conv1"}, "partial of random weights"),
        ({"transform": "gabor", "aspect": [1.0, 0.5]}, "aspect must be 0 < low <= high"),
        ({"catalogue": "moco_v2"}, "needs a file"),
        ({"file": "a.pth", "rename": [{"pattern": "(", "to": ""}]}, "is no regular expression"),
        ({"file": "a.pth", "rename": [{"pattern": "^net\\.", "to": "\\1x."}]}, "invalid group reference 1"),
        ({"file": "a.pth", "rename": [{"pattern": "a", "to": "\\g<stage>"}]}, "unknown group name 'stage'"),
        ({"file": "a.pth", "rename": [{"pattern": "a", "to": "\\q"}]}, "cannot replace what 'a' matches: bad escape"),
        ({"file": "a.pth", "normalise": "imagnet"}, "Did you mean 'imagenet'?"),
    ],
)
def test_mistakes_in_sources_are_named(source: dict[str, object], message: str) -> None:
    raw = raw_study()
    with pytest.raises(UserError) as caught:
        Study.parse({**raw, "sources": {**raw["sources"], "chest_pre": source}}, "study")
    assert message in str(caught.value)


def test_scale_without_a_cut_is_an_exclusion_with_a_reason() -> None:
    raw = raw_study()["sources"]
    partial = {"transform": "partial", "of": "natural", "up_to": {"resnet20": "layer1"}}
    expansion = expand(study(sources={**raw, "chest_pre": partial}))
    reasons = {e.reason for e in expansion.exclusions if e.cell.pretraining_source == "chest_pre"}
    assert "source 'chest_pre' has no cut point for scale 'squeezenet' (sources.chest_pre.up_to)" in reasons
    wrong = {**partial, "up_to": {"resnet2": "layer1", "resnet20": "layer1"}}
    with pytest.raises(UserError, match=r"unknown scale 'resnet2' in sources.chest_pre.up_to. Did you mean 'resnet20'"):
        expand(study(sources={**raw, "chest_pre": wrong}))


OWN = """
ours_v1:
  title: Ours
  architectures: [resnet50]
  strip_prefix: ["net."]
  normalise: half
  contents: [our_hospital]
"""


def test_entries_of_ones_own() -> None:
    own = scalecurves_home() / OWN_FILE
    own.parent.mkdir(parents=True)
    own.write_text(OWN)
    source = source_form({"catalogue": "ours_v1", "file": "net.pth"})
    assert (source.strip_prefix, source.contents) == (("net.",), ("our_hospital",))
    own.write_text(OWN.replace("ours_v1", "moco_v2") + "# longer than before")
    with pytest.raises(UserError, match="moco_v2 are shipped with this package"):
        catalogue()
    own.write_text(OWN.replace("title:", "titel:") + "# longer than that, too")
    with pytest.raises(UserError, match=r"entry ours_v1 is not valid(?s:.)*Did you mean 'title'"):
        catalogue()


def test_hash_and_accuracy_are_given_whole_or_not_at_all() -> None:
    entry = {"title": "T", "architectures": ["resnet50"], "normalise": "unit"}
    for wrong in ({"sha256": "12fca82f"}, {"upstream_top1": 70}, {"available": False}, {"architectures": []}):
        with pytest.raises(UserError):
            CatalogueEntry.parse({**entry, **wrong}, "entry")


@pytest.mark.parametrize(
    ("factory", "arguments", "expected"),
    [
        ("resnet50", {}, "resnet"),
        ("timm:resnet50", {}, "resnet"),
        ("resnet50.a1_in1k", {}, "resnet"),
        ("resnetv2_152x4_bit.goog_in21k", {}, "bit"),
        ("torchvision:resnet50", {}, None),
        ("resnet50", {"channels": [64, 128, 128, 256]}, None),
        ("trainables.ladder_nets:resnet20", {}, "cifar_resnet"),
        ("vit_base_patch16_224", {}, "vit"),
        ("resnet50d", {}, None),
    ],
)
def test_ladder_of_a_factory(factory: str, arguments: dict[str, object], expected: str | None) -> None:
    assert ladder_of(factory, arguments) == expected


def test_ladders_never_join_families() -> None:
    rungs = [rung for several in ladders().values() for rung in several]
    assert len(rungs) == len(set(rungs))
    assert {"bit", "vit", "convnext", "swin", "resnet"} <= set(ladders())


def test_ladder_is_filled_in_unless_the_study_says_otherwise() -> None:
    assert ladder(None, "resnet50", {}) == "resnet"
    assert ladder("mine", "resnet50", {}) == "mine"
    assert ladder("none", "resnet50", {}) is None
    scales = {"resnet20": {"factory": "trainables.ladder_nets:resnet20", "input_size": 32}}
    one = study(scales={**raw_study()["scales"], **scales})
    assert Resolver(one, cards()).scale_under("resnet20", one.protocol).ladder == "cifar_resnet"


def _cells(**changes: object) -> set[str]:
    axes = {
        "model_scale": ["resnet20", "squeezenet"],
        "data_fraction": [0.2],
        "task": ["ham10000"],
        "pretraining_source": ["natural"],
    }
    one = study(axes=axes, exclude=changes.pop("exclude", []), statistics={}, **changes)
    return {f"{c.model_scale}/{c.pretraining_source}" for c in expand(one).controls}


def test_random_controls_are_added_where_there_are_none() -> None:
    assert _cells() == {"resnet20/random", "squeezenet/random"}
    assert _cells(controls="none") == set()
    assert expand(study()).controls == ()


def test_what_a_study_decides_about_random_weights_stands() -> None:
    dropped = [{"pretraining_source": "random", "model_scale": "squeezenet", "reason": "known"}]
    assert _cells(exclude=dropped) == {"resnet20/random"}
    scratch = {**raw_study()["sources"], "scratch": {"init": "random"}}
    axes = {
        "model_scale": ["resnet20"],
        "data_fraction": [0.2],
        "task": ["ham10000"],
        "pretraining_source": ["natural", "scratch"],
    }
    assert expand(study(axes=axes, exclude=[], overrides=[], sources=scratch, statistics={})).controls == ()


def test_scale_without_any_weights_gets_no_control() -> None:
    sources = raw_study()["sources"]
    sources["natural"]["by_scale"].pop("squeezenet")
    assert _cells(sources=sources) == {"resnet20/random"}
