"""Named recipes: their values, what is written beside them, contradictions, and identity."""

from __future__ import annotations

import pytest

from search_spaces.exceptions import UserError
from search_spaces.models import identity_fields
from search_spaces.protocol import Budget, Protocol, changed
from search_spaces.recipes import recipe, recipe_names

VALUES = {
    "finetune": {
        "optimizer": "adamw", "lr": 1e-3, "schedule": "cosine", "global_batch_size": 32, "variant": None,
        "ema_decay": 0.999,
    },
    "bit_hyperrule": {
        "optimizer": "sgd", "lr": 0.003, "momentum": 0.9, "weight_decay": 0.0, "global_batch_size": 512,
        "ghost_batch_size": 32, "budget": Budget(rule="hyperrule"), "warmup_steps": "hyperrule",
        "warmup_fraction": 0.0, "warmup_start": "above_zero", "schedule": "multistep", "milestones": (0.3, 0.6, 0.9),
        "decay_factor": 0.1, "mixup_alpha": 0.1, "mixup_min_images": 20_000, "mixup_share": "step",
        "ema_decay": None, "head_init": "zero", "variant": "text", "storage_size": 448, "evaluation_crop": "whole",
    },
    "bit_light": {"lr": 0.001, "global_batch_size": 128, "momentum": 0.9, "schedule": "multistep", "variant": "text"},
    "taher_classification": {
        "optimizer": "adam", "lr": 2e-4, "weight_decay": 0.0, "global_batch_size": 32, "schedule": "plateau",
        "decay_factor": 0.5, "patience": 5, "threshold": 1e-4, "stop_patience": 10, "budget": Budget(epochs=1000),
        "evaluate_every": "epoch", "select": "best_val_loss", "head_init": "normal",
        "test_time_augmentation": "ten_crop", "storage_size": 256, "warmup_fraction": 0.0,
    },
    "transfusion_port": {
        "optimizer": "adam", "lr": 1e-4, "global_batch_size": 64, "schedule": "plateau", "decay_factor": 0.5,
        "patience": 5, "min_lr": 1e-6, "stop_patience": None, "evaluate_every": "epoch",
    },
    "linear_probe": {
        "method": "linear_probe", "inverse_penalties": (1e-5, 1e-4, 1e-3, 0.01, 0.1, 1.0, 10.0, 100.0),
        "feature_scaling": "standardised", "neighbours": None, "temperature": None, "select": "best_val",
    },
    "knn": {
        "method": "knn", "neighbours": (10, 20, 50, 100, 200), "temperature": 0.07, "inverse_penalties": None,
        "feature_scaling": None,
    },
    "taher_segmentation": {
        "optimizer": "adam", "lr": 1e-3, "weight_decay": 0.0, "global_batch_size": 32, "schedule": "cosine",
        "budget": Budget(epochs=200), "stop_patience": 20, "evaluate_every": "epoch", "select": "best_val_loss",
        "loss": "dice", "mask_threshold": "half", "storage_size": 224, "warmup_fraction": 0.0,
    },
    "taher_vessels": {
        "optimizer": "adam", "lr": 1e-3, "global_batch_size": 16, "ghost_batch_size": 16, "storage_size": 512,
        "loss": "bce", "stop_patience": 20, "select": "best_val_loss", "mask_threshold": "half",
    },
}  # fmt: skip


def test_all_recipes_are_tested():
    assert set(VALUES) == set(recipe_names()) == set(Protocol.model_fields["base"].annotation.__args__)


@pytest.mark.parametrize("base", VALUES)
def test_a_recipe_gives_its_values_and_survives_the_way_to_a_rank(base):
    protocol = Protocol(base=base)
    assert {name: getattr(protocol, name) for name in VALUES[base]} == VALUES[base]
    again = Protocol.model_validate(protocol.model_dump(mode="json"))
    assert again == protocol
    assert identity_fields(again) == identity_fields(protocol)


@pytest.mark.parametrize("base", [base for base, values in VALUES.items() if "method" not in values])
def test_every_value_of_a_recipe_can_be_written_differently(base):
    other = {"lr": 0.5, "budget": {"steps": 7}, "augmentation": {"vertical_flip": 0.25}}
    protocol = Protocol.model_validate({"base": base, **other})
    plain = Protocol(base=base)
    assert (protocol.lr, protocol.budget.steps) == (0.5, 7)
    assert protocol.augmentation == plain.augmentation.model_copy(update={"vertical_flip": 0.25})
    assert protocol.schedule == plain.schedule


def test_the_code_differs_from_the_text():
    code = Protocol(base="bit_hyperrule", variant="code")
    assert (code.milestones, code.warmup_start, code.storage_size) == ("hyperrule", "zero", 512)
    assert recipe("bit_light", "code")["milestones"] == "hyperrule"


def test_what_belongs_to_the_recipe_goes_with_what_it_belongs_to():
    protocol = Protocol(base="bit_hyperrule", schedule="cosine", warmup_fraction=0.2)
    assert (protocol.milestones, protocol.decay_factor, protocol.warmup_steps) == (None, None, None)
    assert Protocol(warmup_steps=5).warmup_fraction == 0.0
    assert Protocol(base="taher_classification", evaluations=4).evaluate_every is None
    assert Protocol(base="bit_light").ghost_batch_size == 32
    assert Protocol(base="bit_light", global_batch_size=64).ghost_batch_size == 32
    assert Protocol(base="bit_light", global_batch_size=48).ghost_batch_size == 48, "the recipe's does not divide it"
    assert Protocol(base="bit_light", ghost_batch_size=64).ghost_batch_size == 64
    assert Protocol(base="transfusion_port").ghost_batch_size == 64
    unmixed = Protocol(base="bit_hyperrule", mixup_alpha=0)
    assert (unmixed.mixup_share, unmixed.mixup_min_images) == ("image", 0)
    assert Protocol(ema_decay=None).ema_decay is None
    neighbours = Protocol(method="knn", neighbours=[5], temperature=0.07)
    assert neighbours.ema_decay is None, "a recipe for training says nothing of a fixed network"


def test_another_base_brings_its_own_values():
    light = Protocol.model_validate({"base": "bit_light", "lr": 0.7, "augmentation": {"vertical_flip": 0.5}})
    other = changed(light, {"base": "taher_classification"}, "here")
    written = {"base": "taher_classification", "lr": 0.7, "augmentation": {"vertical_flip": 0.5}}
    assert other == Protocol.model_validate(written)
    assert changed(Protocol(base="bit_hyperrule"), {"budget.steps": 9}, "here").budget == Budget(steps=9)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"milestones": [5]}, "milestones belongs to schedule multistep, got schedule cosine"),
        ({"patience": 3}, "patience belongs to schedule plateau"),
        ({"min_lr": 1e-5, "schedule": "multistep", "milestones": [3]}, "min_lr belongs to schedule plateau"),
        ({"decay_factor": 0.5}, "decay_factor belongs to schedule multistep or plateau"),
        ({"schedule": "multistep"}, "schedule multistep needs milestones"),
        ({"schedule": "plateau"}, "schedule plateau needs patience"),
        ({"schedule": "multistep", "milestones": [0.5, 9]}, "rising whole steps from 1, or rising shares"),
        ({"schedule": "multistep", "milestones": [9, 5]}, "got [9, 5]"),
        ({"schedule": "multistep", "milestones": []}, "got []"),
        ({"warmup_steps": 5, "warmup_fraction": 0.1}, "one of warmup_steps (5) and warmup_fraction (0.1)"),
        ({"evaluate_every": "epoch", "evaluations": 3}, "one of evaluate_every (epoch) and evaluations (3)"),
        ({"base": "bit_hyperule"}, "Did you mean 'bit_hyperrule'?"),
        ({"variant": "code"}, "variant of finetune: got 'code', allowed is none"),
        ({"base": "bit_light", "variant": "paper"}, "allowed is one of text, code"),
        (
            {"budget": {"steps": 5, "examples": 9}},
            "exactly one of steps and epochs, or examples, flops or rule; got",
        ),
        ({"budget": "hyper"}, "hyperrule"),
    ],
)
def test_contradictions_are_refused_with_one_message(fields, message):
    with pytest.raises(UserError) as error:
        Protocol.parse(fields, "protocol")
    assert message in str(error.value)
    assert len(str(error.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ({"base": "linear_probe", "lr": 0.1}, "lr says how a network is trained, but method linear_probe trains none"),
        ({"base": "knn", "budget": {"steps": 5}}, "budget says how a network is trained"),
        ({"base": "knn", "select": "last"}, "chooses on validation"),
        ({"base": "linear_probe", "neighbours": [5]}, "neighbours belongs to method knn, got method linear_probe"),
        ({"inverse_penalties": [1.0]}, "inverse_penalties belongs to method linear_probe, got method training"),
        ({"method": "knn"}, "method knn needs neighbours; base: knn has it"),
        (
            {"base": "linear_probe", "method": "training"},
            "inverse_penalties belongs to method linear_probe, got method training",
        ),
        (
            {"base": "bit_hyperrule", "method": "knn", "neighbours": [5], "temperature": 0.07},
            "says how a network is trained, but method knn trains none",
        ),
        ({"base": "linear_probe", "inverse_penalties": [0.0]}, "greater than 0"),
        ({"base": "linear_probe", "inverse_penalties": []}, "at least 1"),
        ({"base": "knn", "temperature": 0.001}, "greater than or equal to 0.01"),
    ],
)
def test_a_fixed_network_takes_no_word_on_training(written, words):
    with pytest.raises(UserError, match=words):
        Protocol.parse(written, "protocol")


def test_a_probe_can_be_made_a_training_and_back():
    probe = Protocol.model_validate({"base": "linear_probe", "storage_size": 64})
    trained = changed(probe, {"base": "finetune", "lr": 0.5}, "overrides")
    assert (trained.method, trained.lr, trained.storage_size) == ("training", 0.5, 64)
    assert changed(trained, {"base": "knn", "lr": 1e-3}, "overrides").method == "knn"
