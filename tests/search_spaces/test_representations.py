"""What a study may keep of its networks, and that it is no part of any identity."""

from __future__ import annotations

import pytest

from search_spaces.amounts import Seed
from search_spaces.exceptions import UserError
from search_spaces.expand import expand
from search_spaces.representations import RepresentationsSpec
from search_spaces.resolve import Resolver
from search_spaces.study import Study
from tests.search_spaces.examples import cards, raw_study


def study(representations, **changes):
    return Study.parse({**raw_study(), **changes, "representations": representations}, "study")


def test_keeping_representations_changes_no_trial_id():
    plain = Study.parse(raw_study(), "study")
    keeping = study({"probe": {"sets": ["val"], "images": 50, "seed": 3}, "layers": ["conv1"], "components": 5})
    ids = [
        [Resolver(s, cards()).trial_id(trial) for trial in expand(s).trials if not trial.is_open]
        for s in (plain, keeping)
    ]
    assert ids[0] == ids[1]
    assert ids[0]


def test_what_is_not_known_is_refused_with_the_nearest_name():
    with pytest.raises(UserError, match=r"unknown set 'tset'.*Did you mean 'test'"):
        study({"probe": {"sets": ["tset"]}})
    with pytest.raises(UserError, match="unknown seed '7'"):
        study({"seeds": [7]})
    with pytest.raises(UserError, match=r"unknown key 'layer'.*'layers'"):
        study({"layer": "auto"})
    with pytest.raises(UserError, match="different names"):
        study({"layers": ["a", "a"]})
    with pytest.raises(UserError, match="images"):
        study({"probe": {"images": 5}})
    with pytest.raises(UserError, match="sets must differ"):
        study({"probe": {"sets": ["test", "test"]}})


def test_seeds_scales_and_pooling_decide_what_a_trial_keeps():
    spec = RepresentationsSpec.model_validate(
        {"seeds": [0, "s1i2"], "layers": {"wide": ["conv1", "fc"]}, "pooling": {"positions": 4}, "filters": False}
    )
    assert spec.kept("wide", Seed(subset=1, init=1)) is None
    kept = spec.kept("wide", Seed(subset=1, init=2))
    assert kept is not None
    assert (kept.layers, kept.positions, kept.filters, kept.weight_distance) == (("conv1", "fc"), 4, False, True)
    other = spec.kept("narrow", Seed(subset=0, init=0))
    assert other is not None
    assert other.layers == "auto"
    assert RepresentationsSpec().kept("any", Seed(subset=9, init=9)).positions is None
