from __future__ import annotations

import json
from importlib import resources

import pytest
import torchvision

from search_spaces.ladders import ladders
from search_spaces.trial import ResolvedScale
from trainables import shipped_cards as module
from trainables.count_cards import Counted, all_names, count, differences, kept, to_json, written
from trainables.models import model_facts, scale_card
from trainables.scale_cards import model_card, timm_families
from trainables.shipped_cards import FILE, OUTPUTS, OWN_SCALES, ModelCard, ShippedCards, folded, shipped_cards, unfolded

CARDS = shipped_cards()
NAMES = CARDS.names if CARDS else ()
CHEAP = [n for n in NAMES if CARDS and (card := CARDS.card(n)) and card.gflops < 2 and n not in OWN_SCALES]
"""Networks that are counted again in about a second."""

needs_versions = pytest.mark.skipif(CARDS is None, reason="other versions are installed than cards were counted with")


@needs_versions
@pytest.mark.parametrize("name", [*CHEAP[::40], *OWN_SCALES])
def test_a_sample_counted_again(name: str) -> None:
    assert CARDS is not None
    again = count(name)
    assert again.card == CARDS.card(name)
    assert again.is_sound == (CARDS.parameters(name, 2, again.card.input_size) is not None)


@needs_versions
def test_every_rung_of_a_ladder_has_a_card() -> None:
    rungs = {rung for several in ladders().values() for rung in several}
    assert rungs | set(OWN_SCALES) <= set(NAMES) <= set(all_names())


@needs_versions
def test_counting_goes_on_from_the_file() -> None:
    assert CARDS is not None
    held = [kept(CARDS, name) for name in NAMES]
    again = ShippedCards(to_json((one for one in held if one is not None), CARDS.timm_families))
    assert [again.card(name) for name in NAMES] == [CARDS.card(name) for name in NAMES]
    assert [again.facts(name) for name in NAMES] == [CARDS.facts(name) for name in NAMES]
    assert kept(CARDS, "resnet5") is None
    assert CARDS.timm_families == timm_families()


@needs_versions
def test_facts_of_every_card_are_those_that_timm_gives() -> None:
    """The identity of trials depends on them, so none is left out: nothing is built for it."""
    assert CARDS is not None
    assert {name: CARDS.facts(name) for name in NAMES} == {name: scale_card(name) for name in NAMES}


@needs_versions
@pytest.mark.parametrize(
    "name", ["resnet50.tv_in1k", "timm:resnet50", "timm:vit_base_patch16_224.dino", "resnetv2_50x1_bit.goog_in21k"]
)
def test_facts_of_names_with_tags(name: str) -> None:
    assert CARDS is not None
    assert CARDS.facts(name) == scale_card(name)
    assert CARDS.card(name) == model_card(name)


@needs_versions
def test_what_it_does_not_know() -> None:
    assert CARDS is not None
    assert CARDS.card("resnet5") is CARDS.facts("resnet5") is CARDS.card("resnet50.no_such_tag") is None
    assert CARDS.card("torchvision:vgg16") is not None
    assert CARDS.card("timm:torchvision:vgg16") is None, "timm has no network of this name"
    assert CARDS.parameters("resnet50", 2, 64) is None, "only the native size was tried"


@needs_versions
@pytest.mark.parametrize("name", ["resnet18", "mnasnet_100", "vit_tiny_patch16_224"])
def test_numbers_with_other_outputs(name: str) -> None:
    assert CARDS is not None
    scale = ResolvedScale(name=name, factory=name, input_size=224)
    assert CARDS.parameters(name, 7, 224) == model_facts(scale, 7).parameters


@needs_versions
@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("resnet50", "resnet50"),
        ("densenet121", "densenet121"),
        ("vgg11", "vgg11"),
        ("convnext_large", "convnext_large"),
        ("vit_large_patch16_224", "vit_l_16"),
        ("swin_base_patch4_window7_224", "swin_b"),
        ("efficientnet_b0", "efficientnet_b0"),
        ("mobilenetv2_100", "mobilenet_v2"),
    ],
)
def test_numbers_and_operations_are_those_that_torchvision_publishes(name: str, published: str) -> None:
    """Of the same networks, in the facts about its weights: multiply-adds, in thousand millions."""
    assert CARDS is not None
    card = CARDS.card(name)
    facts = next(iter(torchvision.models.get_model_weights(published))).meta
    assert card is not None
    assert card.parameters == facts["num_params"]
    assert card.gflops / 2 == pytest.approx(facts["_ops"], abs=0.0006)


def test_cards_of_other_versions_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    read = shipped_cards.__wrapped__
    monkeypatch.setattr(module, "installed", lambda: {"timm": "0.0.1", "torchvision": "0.0.1", "torch": "0.0.1"})
    assert read() is None


def test_the_file_is_small() -> None:
    assert len((resources.files("trainables") / FILE).read_bytes()) < 300_000


def made(name: str, **changes: object) -> ModelCard:
    values: dict[str, object] = {
        "factory": name,
        "family": "made",
        "ladder": None,
        "depth": 3,
        "width": 8,
        "parameters": 100 + 5 * OUTPUTS,
        "backbone_parameters": 100,
        "num_classes": OUTPUTS,
        "input_size": 64,
        "gflops": 0.25,
        "activation_mib": 1.5,
        "native_size": 64,
        "cut_points": ("stem", "blocks.0", "blocks.1", "norm"),
    }
    return ModelCard(**{**values, **changes})  # type: ignore[arg-type]


def test_what_was_counted_is_read_again() -> None:
    half, plain = ((0.5,) * 3, (0.5,) * 3), ((0.0,) * 3, (1.0,) * 3)
    tagged = {"a": half, "b": plain, "default": plain}
    at = {"a": "net.a@timm/net.a", "b": "net.b@https://files/b.pth", "default": "net.b@https://files/b.pth"}
    counted = [
        Counted(
            name="net",
            card=made("net", mean=plain[0], std=plain[1], tags=("a", "b")),
            is_sound=True,
            weights=(tagged, at),
        ),
        Counted(
            name="bare",
            card=made("bare", mean=half[0], std=half[1]),
            weights=({"default": half}, {"default": "bare.default@timm/bare"}),
        ),
        Counted(name="fresh", card=made("fresh"), weights=({}, {})),
        Counted(name="failed", trouble="cannot be built"),
    ]
    raw = to_json(counted, {"made": ["net", "bare"], "other": ["fresh"]})
    cards = ShippedCards(raw)
    assert list(differences(cards, counted[:3])) == []
    assert cards.card("failed") is None
    assert cards.timm_families == {"made": ("net", "bare"), "other": ("fresh",)}
    assert cards.parameters("net", 3, 64) == 115
    assert cards.parameters("bare", 3, 64) is None, "it was not tried"
    facts = cards.facts("net")
    assert facts is not None
    assert (facts.normalise, facts.revision) == (tagged, at)
    assert cards.facts("net.a").revision["default"] == at["a"]  # type: ignore[union-attr, index]
    assert cards.facts("bare").revision == {"default": "bare.default@timm/bare"}  # type: ignore[union-attr]
    assert json.loads(written(raw)) == json.loads(json.dumps(raw))


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (("stem", "blocks.0", "blocks.1", "blocks.2", "norm"), "stem blocks.0:2 norm"),
        (("conv1", "layer1", "layer2", "layer4"), "conv1 layer1:2 layer4"),
        (("a.9", "a.10", "a.11", "b.11"), "a.9:11 b.11"),
        (("a.01", "a.02", "a.10"), "a.01:2 a.10"),
        ((), ""),
    ],
)
def test_names_that_count_up_are_folded(names: tuple[str, ...], text: str) -> None:
    assert folded(names) == text
    assert unfolded(text) == names
