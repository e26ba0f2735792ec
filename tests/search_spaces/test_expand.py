from __future__ import annotations

import pytest

from search_spaces.exceptions import UserError
from search_spaces.expand import expand, protocol_of
from search_spaces.names import Role
from search_spaces.selection import select
from tests.search_spaces.examples import study

BLOCK = {
    "model_scale": ["resnet20", "squeezenet"],
    "pretraining_source": ["random", "natural"],
    "task": "ham10000",
    "data_fraction": [0.05, 1.0],
}


def test_product_minus_exclusions():
    expansion = expand(study())
    assert len(expansion.cells) == 2 * 4 * 3 * 2 - 8
    assert len(expansion.targets) == 40 * 5
    assert {e.reason for e in expansion.exclusions} == {"under 3 patients"}


def test_union_counts_a_cell_once_and_zip_moves_together():
    zipped = {
        "model_scale": "resnet20",
        "pretraining_source": "random",
        "zip": {"task": ["ham10000", "lgg_tumour"], "data_fraction": [0.05, {"patients": 3}]},
    }
    cells = expand(study(axes=[BLOCK, zipped], exclude=[], statistics={})).cells
    assert len(cells) == 8 + 1
    assert cells[-1].label == "resnet20 · random · patients=3 · lgg_tumour"


def test_upstream_trials_are_shared_and_come_with_their_seed():
    expansion = expand(study())
    upstream = [t for t in expansion.trials if t.role is Role.UPSTREAM]
    assert len(upstream) == 2 * 5
    target = next(t for t in expansion.targets if t.cell.pretraining_source == "chest_pre" and t.seed.subset == 3)
    assert target.upstream in upstream
    assert target.upstream.seed == target.seed
    assert (target.stage, target.upstream.stage) == (1, 0)


def test_an_upstream_trial_that_is_asked_for_stays_a_target():
    axes = {**BLOCK, "task": ["ham10000", "chest"], "pretraining_source": ["random", "chest_pre"]}
    expansion = expand(study(axes=axes, exclude=[], statistics={}))
    assert all(t.role is Role.TARGET for t in expansion.trials)


def test_missing_weights_of_a_scale_are_an_exclusion_with_the_reason():
    sources = {"natural": {"by_scale": {"resnet20": {"file": "cifar.th"}}}}
    expansion = expand(study(axes=BLOCK, exclude=[], sources=sources, statistics={}))
    assert {e.cell.model_scale for e in expansion.exclusions} == {"squeezenet"}
    assert all("no weights for scale 'squeezenet'" in e.reason for e in expansion.exclusions)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"axes": {**BLOCK, "task": "ham1000"}}, "Did you mean 'ham10000'?"),
        ({"axes": {**BLOCK, "pretraining_source": "naturl"}}, "Did you mean 'natural'?"),
        ({"axes": {**BLOCK, "data_fractions": 1}}, "Did you mean 'data_fraction'?"),
        ({"axes": {k: v for k, v in BLOCK.items() if k != "task"}}, "no values for task"),
        ({"axes": {**BLOCK, "data_fraction": [2.0]}}, "must lie in (0, 1]"),
        ({"axes": {**BLOCK, "data_fraction": []}}, "empty list"),
        ({"axes": {**BLOCK, "zip": {"task": ["ham10000"]}}}, "both in the product and under zip"),
        ({"axes": BLOCK, "exclude": [{"task": "lgg_tumour"}]}, "unknown task 'lgg_tumour'"),
        ({"axes": BLOCK, "exclude": [{"reason": "none"}]}, "names no axis"),
        ({"axes": BLOCK, "exclude": [{"task": "ham10000"}]}, "no cell is left"),
        ({"axes": BLOCK, "overrides": [{"when": {"task": "chests"}, "set": {}}]}, "unknown task 'chests'"),
        (
            {
                "axes": {**BLOCK, "model_scale": "squeezenet"},
                "sources": {"natural": {"by_scale": {"x": {"file": "f"}}}},
            },
            "nor for any other scale",
        ),
        (
            {
                "axes": BLOCK,
                "sources": {"natural": {"by_scale": {"resnet20": {"file": "f"}, "squeznet": {"file": "f"}}}},
            },
            "Did you mean 'squeezenet'?",
        ),
        (
            {
                "axes": {**BLOCK, "pretraining_source": ["a", "random"]},
                "sources": {
                    "a": {"trial": {"task": "chest", "pretraining_source": "b"}},
                    "b": {"trial": {"task": "chest", "pretraining_source": "a"}},
                },
            },
            "circle",
        ),
    ],
)
def test_mistakes_are_refused_with_the_reason(changes, expected):
    changes = {"exclude": [], "overrides": [], "statistics": {}} | changes
    with pytest.raises(UserError) as error:
        expand(study(**changes))
    assert expected in str(error.value)


def test_overrides_change_only_the_cells_that_match():
    one = study()
    by_scale = {c.model_scale: protocol_of(one, c) for c in expand(one).cells}
    assert (by_scale["resnet20"].lr, by_scale["squeezenet"].lr) == (0.001, 0.01)
    assert by_scale["squeezenet"].budget.steps == 300


def test_overrides_reach_what_is_only_pretrained_on():
    override = {"when": {"task": "chest"}, "set": {"lr": 0.5}}
    axes = {**BLOCK, "pretraining_source": ["random", "chest_pre"]}
    one = study(axes=axes, exclude=[], overrides=[override], statistics={})
    lr = {t.role: protocol_of(one, t.cell).lr for t in expand(one).trials}
    assert lr == {Role.TARGET: 0.001, Role.UPSTREAM: 0.5}


@pytest.mark.parametrize(
    ("only", "targets"),
    [
        ("task=ham10000", 24 * 5),
        ("task=ham10000,data_fraction<=0.2", 16 * 5),
        ("task=ham10000, data_fraction=1.0, seed=0|4", 8 * 2),
        ("pretraining_source!=random,seed<1", 30),
    ],
)
def test_only_selects_targets(only, targets):
    chosen = select(expand(study()).trials, only)
    assert sum(t.role is Role.TARGET for t in chosen) == targets


def test_only_brings_the_upstream_trials_that_are_needed_first():
    chosen = select(expand(study()).trials, "pretraining_source=chest_pre,seed=2,task=ham10000,data_fraction=1")
    assert [t.role for t in chosen].count(Role.UPSTREAM) == 2
    for position, trial in enumerate(chosen):
        assert trial.upstream is None or trial.upstream in chosen[:position]


@pytest.mark.parametrize("only", ["data_fraction<=x", "seed=0,seed<x"])
def test_what_is_no_number_is_named_with_its_condition_and_what_is_allowed(only):
    with pytest.raises(UserError) as error:
        select(expand(study()).trials, only)
    condition = only.rpartition(",")[2]
    assert f"'x' in {condition!r} is not a number; write data_fraction<=0.1" in str(error.value)


@pytest.mark.parametrize("only", ["task", "tusk=a", "task=ham1000", "task<3", "data_fraction<x", "seed=99"])
def test_only_refuses_what_it_cannot_mean(only):
    with pytest.raises(UserError):
        select(expand(study()).trials, only)


def test_no_control_for_a_place_whose_other_cells_are_all_excluded():
    axes = {**BLOCK, "pretraining_source": ["natural", "chest_pre"]}
    sole = {**axes, "pretraining_source": "natural"}
    rule = {"pretraining_source": "natural", "data_fraction": 0.05}
    for block, amounts in ((axes, {"0.05", "1"}), (sole, {"1"})):
        expansion = expand(study(axes=block, exclude=[rule], statistics={}))
        assert {c.pretraining_source for c in expansion.controls} == {"random"}
        assert {c.data_fraction.label for c in expansion.controls} == amounts
        assert {e.cell.pretraining_source for e in expansion.exclusions} == {"natural"}
    both = {**axes, "pretraining_source": ["natural", "random"]}
    kept = expand(study(axes=both, exclude=[{"pretraining_source": "random", "data_fraction": 0.05}], statistics={}))
    assert kept.controls == (), "a study that names random weights has decided for itself"
    declined = expand(study(axes=sole, exclude=[rule, {"pretraining_source": "random"}], statistics={}))
    assert declined.controls == ()
    assert [e.reason for e in declined.exclusions if e.cell.pretraining_source == "random"] == [
        "excluded by the study"
    ] * 2
