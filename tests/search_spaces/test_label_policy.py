from __future__ import annotations

import pytest

from search_spaces.exceptions import UserError
from search_spaces.identity import task_identity
from search_spaces.label_policy import policy_of, settled_policy
from search_spaces.names import Kind
from search_spaces.trial import ResolvedTask

LABELS = ("opacity", "nodule")


def settled(policy, blank="mask", kind=Kind.MULTILABEL):
    return settled_policy(policy, blank, LABELS, kind, "tasks.chest")


def test_labels_without_a_policy_are_ignored_and_equal_ones_are_one():
    assert settled({"nodule": "lsr_ones"}) == {"opacity": "ignore", "nodule": "lsr_ones"}
    assert settled({"nodule": "ones", "opacity": "ones"}) == settled("ones") == "ones"
    assert settled({}) == "ignore"
    assert [policy_of({"nodule": "ones"}, label) for label in LABELS] == ["ignore", "ones"]


def test_a_label_that_the_task_lacks_is_refused():
    with pytest.raises(UserError, match=r"unknown label of the task 'nodul'.*nodule"):
        settled({"nodul": "ones"})


@pytest.mark.parametrize(("policy", "blank"), [({"a": "ones"}, "mask"), ("lsr_ones", "mask"), ("ignore", "zero")])
@pytest.mark.parametrize("kind", [Kind.MULTICLASS, Kind.ORDINAL])
def test_classes_have_no_label_policy(policy, blank, kind):
    with pytest.raises(UserError, match="label policies are for labels of their own"):
        settled(policy, blank, kind)


def test_new_fields_stand_in_the_identity_only_where_they_are_used():
    task = ResolvedTask(
        name="t", manifest="m", manifest_hash="h", kind=Kind.MULTILABEL, labels=LABELS, primary="auc_macro"
    )
    plain = task_identity(task)
    assert plain.keys() == {"manifest_hash", "where", "held_out", "labels", "label_policy", "primary"}
    for change in (
        {"blank": "zero"},
        {"validation": "scaled"},
        {"label_policy": {"opacity": "ones", "nodule": "ignore"}},
    ):
        assert task_identity(task.model_copy(update=change)) != plain
    for change in ({"groups": ("sex",)}, {"name": "other"}):
        assert task_identity(task.model_copy(update=change)) == plain
