"""Rules of a study that say different things of one cell."""

from __future__ import annotations

import pytest

from search_spaces.exceptions import UserError
from search_spaces.expand import expand, gang_of, priority_of, protocol_of
from tests.search_spaces.examples import study

HAM, SMALL = {"task": "ham10000"}, {"model_scale": "resnet20"}
BOTH = {"task": ["ham10000", "lgg_tumour"]}
KINDS = [
    lambda *whens: {"overrides": [{"when": w, "set": {"lr": 0.1 * n}} for n, w in enumerate(whens, 1)]},
    lambda *whens: {"execution": {"gangs": [{"when": w, "gang": {"ranks": n}} for n, w in enumerate(whens, 2)]}},
    lambda *whens: {"execution": {"priorities": [{"when": w, "priority": n} for n, w in enumerate(whens, 1)]}},
]
ALL_KINDS = pytest.mark.parametrize("rules", KINDS, ids=["overrides", "gangs", "priorities"])


@ALL_KINDS
def test_rules_for_the_same_cells_that_differ_are_refused_by_name(rules):
    with pytest.raises(UserError, match=r"contradictory rules: .*\[0\] and .*\[2\].*same cells; drop one") as error:
        expand(study(**rules(HAM, SMALL, HAM)))
    assert " or " in str(error.value), "both values"


@ALL_KINDS
def test_a_later_rule_for_more_cells_may_not_undo_an_earlier_one(rules):
    with pytest.raises(UserError, match=r"\[0\] and .*\[1\].*all cells of it and more; put the rule for fewer cells"):
        expand(study(**rules({**HAM, **SMALL}, BOTH)))


@ALL_KINDS
def test_an_exception_to_an_earlier_rule_is_no_contradiction(rules):
    assert expand(study(**rules(BOTH, HAM, {**HAM, **SMALL}))).notes == ()


@ALL_KINDS
def test_rules_that_overlap_are_noted_with_the_one_that_counts(rules):
    expansion = expand(study(**rules(HAM, SMALL)))
    [note] = expansion.notes
    both = [c for c in expansion.cells if (c.task, c.model_scale) == ("ham10000", "resnet20")]
    assert f"of {len(both)} cells" in note
    assert "[1], counts there" in note


def test_the_rule_that_is_said_to_count_does():
    execution = {**KINDS[1](HAM, SMALL)["execution"], **KINDS[2](HAM, SMALL)["execution"]}
    one = study(**KINDS[0](HAM, SMALL), execution=execution)
    cell = next(c for c in expand(one).cells if (c.task, c.model_scale) == ("ham10000", "resnet20"))
    assert (protocol_of(one, cell).lr, gang_of(one, cell).ranks, priority_of(one, cell)) == (0.2, 3, 2)


@ALL_KINDS
def test_a_third_rule_that_settles_an_overlap_silences_it(rules):
    assert expand(study(**rules(HAM, SMALL, {**HAM, **SMALL}))).notes == ()


def test_overrides_of_different_fields_do_not_contradict():
    overrides = [{"when": HAM, "set": {"lr": 0.1}}, {"when": HAM, "set": {"weight_decay": 0.1}}]
    assert expand(study(overrides=overrides)).notes == ()
    again = [{"when": HAM, "set": {"lr": 0.1}}, {"when": HAM, "set": {"lr": 0.1}}]
    assert expand(study(overrides=again)).notes == (), "the same said twice"


def test_every_contradiction_is_named_at_once():
    overrides = [{"when": HAM, "set": {"lr": 0.1}}, {"when": HAM, "set": {"lr": 0.2}}, {"when": {}, "set": {"lr": 0.3}}]
    with pytest.raises(UserError) as error:
        expand(study(overrides=overrides))
    assert str(error.value).count("overrides[") == 6
