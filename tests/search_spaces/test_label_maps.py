from __future__ import annotations

import pytest
from pydantic import ValidationError

from search_spaces.label_maps import label_map_of, label_maps
from search_spaces.study import EvaluationSetSpec


def test_every_pair_gives_two_maps_that_undo_each_other():
    for name, labels in label_maps().items():
        first, _, second = name.partition("_to_")
        back = label_maps()[f"{second}_to_{first}"]
        assert {back[other]: other for other in labels.values()} == dict(labels)


def test_a_set_may_name_a_shipped_map():
    spec = EvaluationSetSpec.model_validate({"manifest": "cxr14", "label_map": "chexpert_to_chestxray14"})
    assert spec.label_map is not None
    assert spec.label_map["Pleural Effusion"] == "Effusion"
    assert spec.label_map == label_map_of("chexpert_to_chestxray14")
    assert EvaluationSetSpec.model_validate(spec.model_dump()) == spec


def test_an_unknown_map_is_refused():
    with pytest.raises(ValidationError, match="Did you mean 'chexpert_to_chestxray14'"):
        EvaluationSetSpec.model_validate({"label_map": "chexpert_to_chestxray"})
