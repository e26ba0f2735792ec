"""Studies with a search: what they refuse, which trials they ask for, and how these are identified."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from search_spaces.exceptions import UserError
from search_spaces.expand import expand
from search_spaces.names import Role
from search_spaces.resolve import Resolver
from search_spaces.selection import select
from search_spaces.study import Study
from search_spaces.trial import Workspace
from search_spaces.tuning import Proposal, Tuning
from tests.search_spaces.examples import cards, raw_study, study

SPACE: dict[str, Any] = {"weight_decay": {"log": [1e-6, 1e-2]}}
WORKSPACE = Workspace(home="/home", storage="/storage")


def tuned(*, space: Any = SPACE, changes: Any = None, **tuning: Any) -> Study:
    return study(**{"tuning": {"trials": 8, "space": space, **tuning}, **(changes or {})})


@pytest.mark.parametrize(
    ("tuning", "expected"),
    [
        ({"space": {"weight_decoy": {"log": [1e-6, 1e-2]}}}, "Did you mean 'weight_decay'?"),
        ({"space": {"augmentation.rotation_degree": {"uniform": [0, 9]}}}, "mean 'augmentation.rotation_degrees'?"),
        ({"space": {"momentum": {"uniform": [0.5, 1.5]}}}, "tuning.space.momentum with 1.5"),
        ({"space": {"evaluations": {"integer": [1, 9]}}}, "evaluations cannot be searched: more looks"),
        ({"space": {"optimizer": {"choice": ["sgd", "lamb"]}}, "trials": 2}, "tuning.space.optimizer with 'lamb'"),
        ({"space": {"budget.steps": {"uniform": [10, 20]}}}, "budget.steps: Input should be a valid integer"),
        ({"space": {"budget.epochs": {"uniform": [1, 2]}}}, "exactly one of steps and epochs"),
        ({"space": {"weight_decay": {"log": [0, 1]}}}, "log needs a positive low, got 0"),
        ({"space": {"weight_decay": {"uniform": [1, 1]}}}, "finite low < high, got [1, 1]"),
        ({"space": {"weight_decay": {"uniform": [0, float("inf")]}}}, "finite low < high"),
        ({"space": {"weight_decay": {"choice": []}}}, "choice needs at least one value"),
        ({"space": {"weight_decay": {"log": [1e-3, 1], "choice": [1]}}}, "exactly one of log, uniform, integer"),
        ({"space": {}}, "at least 1 item"),
        ({"space": {"budget": {"choice": [{"steps": 9}]}, "budget.steps": {"integer": [1, 9]}}}, "is a part of budget"),
        ({"trials": 0}, "greater than or equal to 1"),
        ({"search_seed": 3}, "tuning.search_seed 3 is among the study's seeds"),
        ({"search_seed": [1000, 1000]}, "a list of different ones"),
        ({"sampler": "grid"}, "a grid needs choices, but weight_decay has a range"),
        ({"sampler": "grid", "space": {"lr": {"choice": [1, 2]}}}, "the grid has 2 combinations, so trials must be 2"),
        ({"space": {"weight_decay": {"choice": [0, 1]}}}, "the space has 2 combinations, fewer than trials (8)"),
    ],
)
def test_mistakes_are_refused_with_the_reason(tuning, expected):
    with pytest.raises(UserError) as error:
        tuned(**tuning)
    assert expected in str(error.value)


def test_a_field_is_set_or_searched_but_not_both():
    with pytest.raises(UserError, match=r"lr is both searched .* and set by overrides for squeezenet"):
        expand(tuned(space={"lr": {"log": [1e-4, 0.1]}}))
    overrides = [{"when": {"model_scale": "squeezenet"}, "set": {"optimizer": "sgd"}}]
    assert expand(tuned(space={"lr": {"log": [1e-4, 0.1]}}, changes={"overrides": overrides})).cells


def test_values_must_fit_what_is_set_for_a_part_of_the_cells():
    overrides = [{"when": {"model_scale": "squeezenet"}, "set": {"ghost_batch_size": 16}}]
    one = tuned(space={"global_batch_size": {"choice": [24, 48]}}, trials=2, changes={"overrides": overrides})
    with pytest.raises(UserError, match=r"(?s)overrides for squeezenet.*must divide global_batch_size"):
        expand(one)


def test_numbers_written_as_text_are_numbers():
    """YAML reads 1e-4 as text."""
    assert Tuning.parse({"trials": 1, "space": {"lr": {"log": ["1e-4", "1e-1"]}}}, "test").space["lr"].ends == (
        1e-4,
        0.1,
    )


def test_targets_wait_for_a_search_and_upstream_trials_are_not_tuned():
    plain, searched = expand(study()), expand(tuned())
    assert len(searched.targets) == len(plain.targets)
    assert all(t.is_open and [s.seed.label for s in t.search] == ["1000"] for t in searched.targets)
    upstream = [t for t in searched.trials if t.role is Role.UPSTREAM]
    assert {t.seed.label for t in upstream} == {"0", "1", "2", "3", "4", "1000"}
    assert not any(t.is_open or t.search for t in upstream)
    resolver, before = Resolver(tuned(), cards()), Resolver(study(), cards())
    plain_ids = {before.trial_id(t) for t in plain.trials if t.role is Role.UPSTREAM}
    assert plain_ids < {resolver.trial_id(t) for t in upstream}


def test_what_is_both_upstream_and_target_is_tuned_as_a_target_alone():
    axes = raw_study()["axes"] | {"task": ["chest", "ham10000"], "pretraining_source": ["random", "chest_pre"]}
    changes = {"axes": axes, "exclude": []}
    expansion = expand(tuned(changes=changes))
    for target in expansion.targets:
        if target.upstream is not None:
            assert target.upstream.role is Role.UPSTREAM
            assert not target.upstream.search
    assert not [t for t in expand(study(**changes)).trials if t.cell.task == "chest" and t.role is not Role.TARGET]


def test_only_brings_what_the_searches_start_from():
    chosen = select(expand(tuned()).trials, "pretraining_source=chest_pre,seed=2,task=ham10000,data_fraction=1")
    assert sorted(t.seed.label for t in chosen if t.role is Role.UPSTREAM) == ["1000", "1000", "2", "2"]
    for position, trial in enumerate(chosen):
        assert trial.upstream is None or trial.upstream in chosen[:position]
        assert all(s.upstream in chosen[:position] for s in trial.search)


def first_target(one: Study) -> Any:
    return expand(one).targets[0]


def test_the_identity_of_a_tuned_trial_is_that_of_its_values():
    one = tuned()
    resolver, target = Resolver(one, cards()), first_target(one)
    known = replace(target, proposal=Proposal.of(3, {"weight_decay": 0.005}))
    written = study(protocol={**raw_study()["protocol"], "weight_decay": 0.005})
    plain = Resolver(written, cards()).trial_id(first_target(written))
    assert resolver.trial_id(known) == plain
    assert resolver.trial_id(target) not in (plain, Resolver(study(), cards()).trial_id(first_target(study())))
    resolved = resolver.resolved(known, "attempt", WORKSPACE)
    assert resolved.protocol.weight_decay == 0.005
    assert resolved.search is not None
    assert (resolved.search.number, resolved.search.values) == (3, {"weight_decay": 0.005})
    searched = replace(target.search[0], proposal=known.proposal, search=target.search)
    assert resolved.search.trial_ids == (resolver.trial_id(searched),)


def test_a_search_trial_is_scored_on_nothing_but_leaves_held_out_patients_alone():
    one = tuned()
    target = next(t for t in expand(one).targets if t.cell.task == "ham10000")
    searched = replace(target.search[0], proposal=Proposal.of(0, {"weight_decay": 0.005}), search=target.search)
    resolved = Resolver(one, cards()).resolved(searched, "attempt", WORKSPACE)
    assert resolved.role is Role.SEARCH
    assert resolved.task.evaluate == {}
    assert resolved.task.held_out == ({"localization": ["face", "neck", "scalp", "ear"]},)
    assert resolved.seed.label == "1000"


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"changes": {"seeds": 7}}, True),
        ({"changes": {"name": "other"}}, True),
        ({"trials": 9}, False),
        ({"search_seed": 1001}, False),
        ({"space": {"weight_decay": {"log": [1e-6, 1e-1]}}}, False),
        ({"changes": {"protocol": {**raw_study()["protocol"], "momentum": 0.8}}}, False),
    ],
)
def test_a_search_is_known_by_all_that_it_depends_on(changes, same):
    one, other = tuned(), tuned(**changes)
    ids = [Resolver(each, cards()).search_id(first_target(each)) for each in (one, other)]
    assert (ids[0] == ids[1]) is same
    of_cells = {Resolver(one, cards()).search_id(t) for t in expand(one).targets}
    assert len(of_cells) == len(expand(one).cells)
