"""Gates and grades: each fact alone, what is not known, and what may be said."""

from __future__ import annotations

import dataclasses

import pytest

from dashboards.statistics import Facts, GateName, Letter, Wording, grade, open_gates

SOUND = Facts(
    n_seeds=5,
    min_patients=80,
    patients_known=True,
    shared_patients=0,
    near_copies=0,
    upstream_overlap="no",
    paired=True,
    class_set_frozen=True,
    selected_on="validation",
    still_rising=0.0,
    external=True,
)


def test_a_sound_contrast_is_an_a_without_a_but():
    found = grade(SOUND)
    assert (found.letter, found.wording, found.reasons) == (Letter.A, Wording.STATES, ())
    assert found.words("helps") == "helps"


@pytest.mark.parametrize(
    ("change", "name", "letter", "wording"),
    [
        ({"shared_patients": 3}, GateName.LEAKAGE, "F", "no verdict"),
        ({"upstream_overlap": "yes"}, GateName.UPSTREAM, "F", "no verdict"),
        ({"selected_on": "test"}, GateName.SELECTION, "F", "no verdict"),
        ({"shared_patients": None}, GateName.LEAKAGE, "C", "suggests"),
        ({"near_copies": 2}, GateName.COPIES, "C", "suggests"),
        ({"near_copies": None}, GateName.COPIES, "B", "states"),
        ({"upstream_overlap": "possible"}, GateName.UPSTREAM, "C", "suggests"),
        ({"upstream_overlap": None}, GateName.UPSTREAM, "C", "suggests"),
        ({"selected_on": None}, GateName.SELECTION, "C", "suggests"),
        ({"patients_known": False}, GateName.PATIENTS, "C", "suggests"),
        ({"patients_known": None}, GateName.PATIENTS, "C", "suggests"),
        ({"paired": False}, GateName.PAIRING, "C", "suggests"),
        ({"class_set_frozen": None}, GateName.CLASS_SET, "C", "suggests"),
        ({"one_ladder": False}, GateName.LADDER, "C", "suggests"),
        ({"waived": ("leakage: no ids",)}, GateName.WAIVED, "C", "suggests"),
        ({"lost_trials": 1}, GateName.LOST_TRIALS, "C", "suggests"),
        ({"lost_trials": 1, "holds_at_chance": False}, GateName.LOST_TRIALS, "C", "suggests"),
        ({"n_seeds": 2}, GateName.SEEDS, "C", "suggests"),
        ({"n_seeds": 1}, GateName.SEEDS, "C", "suggests"),
        ({"min_patients": 19}, GateName.SIZE, "C", "no verdict"),
        ({"still_rising": 0.5}, GateName.CONVERGENCE, "B", "suggests"),
        ({"still_rising": None}, GateName.CONVERGENCE, "B", "suggests"),
        ({"still_rising": float("nan")}, GateName.CONVERGENCE, "B", "suggests"),
        ({"n_seeds": 4}, GateName.SEEDS, "B", "suggests"),
        ({"external": False}, GateName.EXTERNAL, "B", "states"),
    ],
)
def test_each_gate_alone(change, name, letter, wording):
    facts = dataclasses.replace(SOUND, **change)
    (gate,) = open_gates(facts)
    found = grade(facts)
    assert (gate.name, found.letter, found.wording) == (name, letter, wording)
    assert found.reasons == (gate.reason,)


@pytest.mark.parametrize(
    "change",
    [{"lost_trials": 2, "holds_at_chance": True}, {"still_rising": 0.4}, {"n_seeds": 9}],
)
def test_what_opens_no_gate(change):
    assert grade(dataclasses.replace(SOUND, **change)).letter is Letter.A


def test_the_gravest_decides_and_is_named_first():
    facts = dataclasses.replace(
        SOUND, external=False, n_seeds=2, shared_patients=1, still_rising=1.0, losing_side="random"
    )
    found = grade(facts)
    assert (found.letter, found.wording) == (Letter.F, Wording.NONE)
    assert found.reasons == (
        "1 patient in both training and evaluation",
        "fewer than 3 seeds",
        "random was still improving when training stopped",
        "no patients of another site",
    )


def test_nothing_known_is_no_evidence():
    found = grade(Facts(n_seeds=10, min_patients=500))
    assert (found.letter, found.wording) == (Letter.C, Wording.SUGGESTS)


def test_reasons_tell_what_is_not_known_from_what_is_wrong():
    def reason(**change):
        (found,) = grade(dataclasses.replace(SOUND, **change)).reasons
        return found

    assert reason(paired=None) == "whether seeds are pairs is not known: nothing says what they were trained on"
    assert reason(paired=False).startswith("seeds are not paired")
    assert reason(still_rising=None, losing_side="random") == (
        "whether random was still improving when training stopped is not known"
    )
    assert reason(n_seeds=0) == "no seed has a result on both sides"
    assert reason(min_patients=1) == "1 patient of the rarest class, a test needs 20"


def test_words():
    capped = grade(dataclasses.replace(SOUND, paired=False))
    assert capped.words("hurts") == "suggests: hurts"
    assert capped.words("undecided") == "undecided"
    assert grade(dataclasses.replace(SOUND, shared_patients=1)).words("helps") == "no verdict"
