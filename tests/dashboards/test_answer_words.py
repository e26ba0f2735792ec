"""What the gates of a contrast leave of an answer that rests on it."""

import pytest

from dashboards.answer_words import hold, place_of

ROW = {"task": "skin", "model_scale": "s", "pretraining_source": "x", "data_fraction": "1", "set": "test"}


def held(n_seeds, **gates):
    return hold({place_of(ROW): [ROW | gates]}, ROW, n_seeds)


@pytest.mark.parametrize(
    ("n_seeds", "grade", "states", "caps"),
    [(5, "A", True, ()), (4, "B", False, ("fewer than 5 seeds",)), (2, "C", False, ("fewer than 3 seeds",))],
)
def test_an_answer_on_fewer_seeds_than_its_contrast_has_a_lower_grade(n_seeds, grade, states, caps):
    found = held(n_seeds, grade="A", wording="states", cap="")
    assert (found.grade, found.states, found.caps) == (grade, states, caps)


def test_another_cap_about_seeds_hides_no_lack_of_seeds():
    found = held(4, grade="C", wording="suggests", cap="seeds were added after test results had been read")
    assert found.caps == ("seeds were added after test results had been read", "fewer than 5 seeds")
    assert held(4, grade="B", wording="suggests", cap="fewer than 5 seeds").caps == ("fewer than 5 seeds",)


def test_without_a_contrast_an_answer_suggests_and_has_no_grade():
    found = hold({}, ROW, 5)
    assert (found.grade, found.states, found.silent) == (None, False, False)
    assert held(5, grade="F", wording="no verdict", cap="a leak").silent
