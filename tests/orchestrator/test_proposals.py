"""What a search proposes follows from its results alone."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from orchestrator.proposals import Tried, best, next_generation
from search_spaces.tuning import Proposal, Tuning

SPACE = {
    "lr": {"log": [1e-4, 1.0]},
    "optimizer": {"choice": ["adamw", "sgd"]},
    "augmentation.crop_scale": {"choice": [[0.2, 1.0], [0.5, 1.0], [1.0, 1.0]]},
    "augmentation.rotation_degrees": {"uniform": [0.0, 30.0]},
    "global_batch_size": {"integer": [8, 64]},
}


def tuning(**changes: Any) -> Tuning:
    return Tuning.parse({"trials": 24, "space": SPACE, **changes}, "test")


def value(proposal: Proposal) -> float | None:
    """Best at lr 0.01; a large one diverges."""
    lr = proposal.values["lr"]
    return None if lr > 0.5 else 1 - 0.1 * (math.log10(lr) + 2) ** 2


def search(one: Tuning, metric: str = "auc", shuffle: int | None = None) -> list[Tried]:
    """The whole search; results may come back in any order."""
    tried: list[Tried] = []
    while generation := next_generation(one, metric, tried):
        tried += [Tried(p, value(p)) for p in generation]
        if shuffle is not None:
            random.Random(shuffle).shuffle(tried)
    return sorted(tried, key=lambda t: t.proposal.number)


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_the_order_in_which_results_come_back_changes_nothing(sampler):
    one = tuning(sampler=sampler)
    assert search(one, shuffle=1) == search(one, shuffle=2) == search(one)
    assert len(search(one)) == 24


def test_a_search_that_is_taken_up_again_goes_on_as_if_nothing_had_happened():
    whole = search(tuning())
    for generation in range(6):
        known = whole[: 4 * generation]
        following = [t.proposal for t in whole[4 * generation : 4 * generation + 4]]
        assert next_generation(tuning(), "auc", known) == following
    assert next_generation(tuning(), "auc", whole) == []


def test_a_larger_budget_keeps_what_was_proposed():
    assert search(tuning())[:10] == search(tuning(trials=10))


def test_the_order_of_the_fields_in_the_study_changes_nothing():
    turned = tuning(space=dict(reversed(SPACE.items())))
    assert search(turned) == search(tuning())


def test_other_seeds_and_other_results_give_other_proposals():
    one = [t.proposal for t in search(tuning())]
    assert [t.proposal for t in search(tuning(seed=1))] != one
    known = [Tried(p, -(v or 0)) for p, v in ((t.proposal, t.value) for t in search(tuning())[:12])]
    assert next_generation(tuning(), "auc", known) != one[12:16]


def test_proposals_lie_in_the_space_and_differ():
    for proposal in (t.proposal for t in search(tuning())):
        values = proposal.values
        assert set(values) == set(SPACE)
        assert 1e-4 <= values["lr"] <= 1
        assert values["optimizer"] in ("adamw", "sgd")
        assert values["augmentation.crop_scale"] in ([0.2, 1.0], [0.5, 1.0], [1.0, 1.0])
        assert 8 <= values["global_batch_size"] <= 64
        assert isinstance(values["global_batch_size"], int)
    assert len({t.proposal.text for t in search(tuning())}) == 24


def test_the_estimator_comes_closer_to_the_optimum_than_chance():
    """Mean distance from the optimum over many searches, after the random start."""

    def distance(sampler: str) -> float:
        space = {"lr": SPACE["lr"], "weight_decay": {"log": [1e-6, 1e-2]}}
        found = []
        for seed in range(40):
            tried = search(tuning(sampler=sampler, seed=seed, space=space))
            found += [abs(math.log10(t.proposal.values["lr"]) + 2) for t in tried[12:]]
        return sum(found) / len(found)

    assert distance("tpe") < 0.9 * distance("random")


@pytest.mark.parametrize(("metric", "number"), [("auc", 2), ("nll", 1)])
def test_the_best_is_the_first_with_the_best_value_and_failures_are_worst(metric, number):
    values = [None, 0.3, 0.8, 0.5, 0.8, 0.3]
    tried = [Tried(Proposal.of(k, {"lr": 0.1}), v) for k, v in enumerate(values)]
    for order in (tried, tried[::-1]):
        found = best(metric, order)
        assert found is not None
        assert found.proposal.number == number
    assert best(metric, tried[:1]) is None


def test_failures_keep_the_estimator_away():
    one = tuning(space={"lr": SPACE["lr"]}, trials=60)
    late = [t.proposal.values["lr"] for t in search(one)[30:]]
    assert sum(lr > 0.5 for lr in late) / len(late) < 0.075, "their share of the range"


def test_a_grid_is_every_combination_once():
    one = tuning(
        sampler="grid",
        trials=6,
        space={"optimizer": {"choice": ["adamw", "sgd"]}, "lr": {"choice": [0.1, 0.01, 0.001]}},
    )
    tried = search(one)
    assert [(t.proposal.values["optimizer"], t.proposal.values["lr"]) for t in tried] == [
        (optimizer, lr) for optimizer in ("adamw", "sgd") for lr in (0.1, 0.01, 0.001)
    ]
