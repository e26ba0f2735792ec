from __future__ import annotations

import pytest
from pydantic import ValidationError

from search_spaces.label_maps import joined_labels, label_map_of, label_maps
from search_spaces.study import EvaluationSetSpec


def test_every_pair_gives_two_maps_that_undo_each_other():
    for name, labels in label_maps().items():
        first, _, second = name.partition("_to_")
        back = label_maps()[f"{second}_to_{first}"]
        assert {back[other]: other for other in labels.values()} == dict(labels)


def test_a_set_may_name_a_shipped_map():
    spec = EvaluationSetSpec.model_validate({"manifest": "cxr14", "label_map": "chexpert_to_chestxray14"})
    assert spec.label_map == "chexpert_to_chestxray14"
    assert label_map_of("chexpert_to_chestxray14")["Pleural Effusion"] == "Effusion"
    assert EvaluationSetSpec.model_validate(spec.model_dump()) == spec


def test_an_unknown_map_is_refused():
    with pytest.raises(ValidationError, match="Did you mean 'chexpert_to_chestxray14'"):
        EvaluationSetSpec.model_validate({"label_map": "chexpert_to_chestxray"})


FIVE = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
NIH = ("Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Consolidation", "Edema", "Pneumonia")


def test_a_map_joins_the_labels_that_both_sides_have():
    same = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema")
    joined = {label: label for label in same} | {"Pleural Effusion": "Effusion"}
    assert joined_labels("chexpert_to_chestxray14", FIVE, NIH) == joined
    assert joined_labels("chestxray14_to_chexpert", NIH, FIVE) == {other: label for label, other in joined.items()}
    assert joined_labels("chexpert_to_chestxray14", FIVE, ("Mass", "Effusion")) == {"Pleural Effusion": "Effusion"}


def test_a_map_that_joins_nothing_is_refused():
    with pytest.raises(ValueError, match=r"joins none of Fracture with one of Mass, Nodule. It joins Atelectasis with"):
        joined_labels("chexpert_to_chestxray14", ("Fracture",), ("Mass", "Nodule"))


def test_a_map_the_wrong_way_round_is_refused():
    """It would join the labels of equal names, and lose the others without a word."""
    with pytest.raises(ValueError, match="joins 4 of the labels, chexpert_to_chestxray14 5: the data set that is"):
        joined_labels("chestxray14_to_chexpert", FIVE, NIH)
