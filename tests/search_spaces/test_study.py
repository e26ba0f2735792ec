from __future__ import annotations

import pytest

from search_spaces.amounts import Amount, expand_seeds
from search_spaces.exceptions import UserError
from search_spaces.protocol import Protocol
from search_spaces.study import Study
from tests.search_spaces.examples import raw_study, study


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"seedz": 3}, "unknown key 'seedz'. Did you mean 'seeds'?"),
        ({"protocol": {"learning_rate": 0.1}}, "unknown key 'learning_rate'"),
        ({"protocol": {"budget": {"steps": 3, "epochs": 1}}}, "exactly one of steps and epochs"),
        ({"protocol": {"global_batch_size": 32, "ghost_batch_size": 12}}, "must divide"),
        ({"seeds": [0, 0]}, "different whole numbers"),
        ({"seeds": 0}, "at least 1"),
        ({"seeds": {"subset": 3}}, "exactly the keys subset and init"),
        ({"overrides": [{"when": {"scale": "x"}, "set": {}}]}, "unknown axis 'scale'"),
        ({"overrides": [{"when": {}, "set": {"learnrate": 1}}]}, "unknown protocol field 'learnrate'"),
        ({"statistics": {"baseline": "randon"}}, "Did you mean 'random'?"),
        ({"name": "bad name"}, "pattern"),
        ({"execution": {"gang": {"ranks": 2, "gpus_per_rank": 0.5}}}, "whole GPUs"),
        ({"sources": {"natural": {"by_scale": {"resnet20": {"state_key": "x"}}}}}, "need the key file"),
        ({"sources": {"natural": {"path": "x"}}}, "exactly one of the keys"),
        ({"sources": {"a": {"transform": "mean_var", "of": "random"}}}, "give a trained source"),
        (
            {"sources": {"a": {"transform": "mean_var", "of": "b"}, "b": {"transform": "mean_var", "of": "a"}}},
            "of a transform; give a trained source",
        ),
        ({"sources": {"a": {"file": "x", "normalise": "imagnet"}}}, "Did you mean 'imagenet'?"),
        ({"tasks": {"t": {"manifest": "m", "primary": "auc", "evaluate": {"val": {}}}}}, "are taken"),
    ],
)
def test_mistakes_are_refused_with_the_reason(changes, expected):
    with pytest.raises(UserError) as error:
        Study.parse(raw_study(**changes), "example")
    assert expected in str(error.value)


def test_all_problems_are_reported_at_once():
    with pytest.raises(UserError) as error:
        Study.parse(raw_study(protocol={"lr": -1, "precision": "fp8"}), "example")
    assert "protocol.lr" in str(error.value)
    assert "protocol.precision" in str(error.value)


def test_example_and_its_dump_are_the_same_study():
    one = study()
    again = Study.model_validate(one.model_dump(mode="json", by_alias=True))
    assert again == one


@pytest.mark.parametrize("raw", [0, -0.1, 1.2, {"images": 0}, {"images": 2.5}, {"percent": 5}, "all", True, {}])
def test_impossible_amounts_are_refused(raw):
    with pytest.raises(ValueError, match=r"data_fraction|whole number"):
        Amount.model_validate(raw)


@pytest.mark.parametrize(
    ("raw", "label"), [(1, "1"), (0.05, "0.05"), ({"images": 5000}, "images=5000"), ({"patients": 9}, "patients=9")]
)
def test_amounts_read_back_as_written(raw, label):
    amount = Amount.model_validate(raw)
    assert amount.label == label
    assert Amount.model_validate(amount.model_dump()) == amount


def test_seeds_as_count_list_and_crossed():
    assert [s.label for s in expand_seeds(3)] == ["0", "1", "2"]
    assert [s.label for s in expand_seeds([0, 7])] == ["0", "7"]
    assert [s.label for s in expand_seeds({"subset": 2, "init": [4]})] == ["s0i4", "s1i4"]


def test_one_ghost_batch_unless_said():
    assert Protocol(global_batch_size=64).ghost_batches == 1
    assert Protocol(global_batch_size=64, ghost_batch_size=16).ghost_batches == 4
