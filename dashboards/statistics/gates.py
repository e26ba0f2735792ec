"""Why a verdict may be believed: what must be true of the data behind it, and how that caps its words.

Pure functions of facts that others collect. A gate that cannot be checked counts as not passed: silence is no evidence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from dashboards.statistics.contrasts import MIN_SEEDS, MIN_TEST_PATIENTS, SEEDS_ONLY
from dashboards.statistics.verdicts import Verdict

MIN_SEEDS_FOR_A_WORD = 3
"""Below this many seeds a verdict is at most "suggests"."""

RISING_SHARE = 0.5
"""Share of a cell's trials with validation still rising at the stop from which a verdict against it is held back."""


class Letter(StrEnum):
    """Grade of the evidence behind a verdict."""

    A = "A"
    B = "B"
    C = "C"
    F = "F"


class Wording(StrEnum):
    """How strong a verdict may be put."""

    STATES = "states"
    SUGGESTS = "suggests"
    NONE = "no verdict"


class GateName(StrEnum):
    """What a gate asks about."""

    LEAKAGE = "leakage"
    COPIES = "near copies"
    UPSTREAM = "upstream overlap"
    SELECTION = "selection"
    PATIENTS = "patients"
    PAIRING = "pairing"
    CLASS_SET = "class set"
    LADDER = "ladder"
    WAIVED = "waived"
    LOST_TRIALS = "lost trials"
    CONVERGENCE = "convergence"
    SIZE = "size"
    SEEDS = "seeds"
    EXTERNAL = "external"
    LOOKS = "looks"


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known of one contrast. None where it is not known.

    Attributes:
        n_seeds: Paired seeds.
        min_patients: Patients of the rarest class on the evaluation set.
        patients_known: Whether images are grouped by patient.
        seeds_only: Whether the metric came without patients, so that nothing of ``min_patients`` is known.
        shared_patients: Patients of an evaluation set that are in training or validation too, over all fractions.
        near_copies: Images of an evaluation set that are copies or near copies of training or validation images.
        upstream_overlap: Whether the source was trained on images of the task: ``no``, ``possible`` (the same data set
            or one drawn from it) or ``yes`` (images or patients of an evaluation set).
        paired: Whether both sides of each seed saw the same subset order of the same task.
        class_set_frozen: Whether the classes that are averaged follow from labels alone.
        selected_on: What stopping, thresholds, temperatures and hyper-parameters were chosen on.
        lost_trials: Planned trials of both sides without a result: diverged, failed, missing or excluded.
        holds_at_chance: Whether the verdict is the same with them at chance (``verdicts_at_chance``); only asked if
            there are any.
        losing_side: Name of the side that loses, for the reason.
        still_rising: Share of its trials whose validation was still rising when training stopped.
        one_ladder: Whether all scales belong to one ladder; only asked of claims about scale.
        external: Whether the verdict is also tested on patients of another site.
        seeds_added: Whether seeds were added to the study after its test results had been read.
        waived: Gates that the study waived, with its reason.
    """

    n_seeds: int
    min_patients: int
    patients_known: bool | None = None
    seeds_only: bool = False
    shared_patients: int | None = None
    near_copies: int | None = None
    upstream_overlap: Literal["no", "possible", "yes"] | None = None
    paired: bool | None = None
    class_set_frozen: bool | None = None
    selected_on: Literal["validation", "test"] | None = None
    lost_trials: int = 0
    holds_at_chance: bool | None = None
    losing_side: str = "the losing side"
    still_rising: float | None = None
    one_ladder: bool = True
    external: bool = False
    seeds_added: bool = False
    waived: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """One gate that is not passed.

    Attributes:
        name: Of the gate.
        reason: Why, in words.
        cap: Best grade that is left.
        wording: Strongest wording that is left.
    """

    name: GateName
    reason: str
    cap: Letter
    wording: Wording


@dataclass(frozen=True, slots=True, kw_only=True)
class Grade:
    """Grade of a verdict.

    Attributes:
        letter: A: at least five paired seeds, patients of another site, all gates passed. B: without one of the first
            two. C: a gate is open. F: a leak.
        wording: Strongest wording that is left.
        reasons: Why it is not A, gravest first.
    """

    letter: Letter
    wording: Wording
    reasons: tuple[str, ...]

    def words(self, verdict: Verdict) -> str:
        """The verdict as it may be printed: as it is, after "suggests: ", or "no verdict"."""
        if self.wording is Wording.NONE:
            return str(Wording.NONE)
        suggests = self.wording is Wording.SUGGESTS and verdict != "undecided"
        return f"suggests: {verdict}" if suggests else verdict


def open_gates(facts: Facts) -> tuple[Gate, ...]:
    """Every gate that the facts do not pass, gravest first."""
    found = [*_leaks(facts), *_design(facts), *_trials(facts), *_strength(facts)]
    return tuple(sorted(found, key=lambda gate: -list(Letter).index(gate.cap)))


def seeds_gate(n_seeds: int) -> Gate | None:
    """What a number of paired seeds holds back; None if it is enough.

    Args:
        n_seeds: At least 0.
    """
    if not n_seeds:
        return _open(GateName.SEEDS, "no seed has a result on both sides")
    if n_seeds < MIN_SEEDS_FOR_A_WORD:
        return _open(GateName.SEEDS, f"fewer than {MIN_SEEDS_FOR_A_WORD} seeds")
    if n_seeds < MIN_SEEDS:
        # Simulated: over a family of 12 contrasts three seeds are wrong in 0.066 of studies, five in 0.029.
        reason = f"fewer than {MIN_SEEDS} seeds"
        return Gate(name=GateName.SEEDS, reason=reason, cap=Letter.B, wording=Wording.SUGGESTS)
    return None


def convergence_gate(side: str, still_rising: float | None) -> Gate | None:
    """What a side that was still improving when training stopped holds back; None if it had levelled off.

    Args:
        side: Its name, for the reason.
        still_rising: Share of its trials, in [0, 1]; None or NaN if it is not known, such as of others' results or with
            fewer than three validations.
    """
    if still_rising is None or math.isnan(still_rising):
        reason = f"whether {side} was still improving when training stopped is not known"
    elif still_rising >= RISING_SHARE:
        reason = f"{side} was still improving when training stopped"
    else:
        return None
    return Gate(name=GateName.CONVERGENCE, reason=reason, cap=Letter.B, wording=Wording.SUGGESTS)


def grade(facts: Facts) -> Grade:
    """The grade that the facts allow."""
    gates = open_gates(facts)
    order = list(Wording)
    return Grade(
        letter=gates[0].cap if gates else Letter.A,
        wording=max((gate.wording for gate in gates), key=order.index, default=Wording.STATES),
        reasons=tuple(gate.reason for gate in gates),
    )


def _leaks(facts: Facts) -> list[Gate]:
    found = []
    if facts.shared_patients is None:
        found.append(_open(GateName.LEAKAGE, "patients shared by training and evaluation were not looked for"))
    elif facts.shared_patients > 0:
        found.append(
            _fatal(GateName.LEAKAGE, f"{_plural(facts.shared_patients, 'patient')} in both training and evaluation")
        )
    if facts.near_copies is None:
        found.append(_limit(GateName.COPIES, "near copies of training images were not looked for"))
    elif facts.near_copies > 0:
        copies = "1 image is a near copy" if facts.near_copies == 1 else f"{facts.near_copies} images are near copies"
        found.append(_open(GateName.COPIES, f"{copies} of training or validation images"))
    if facts.upstream_overlap == "yes":
        found.append(_fatal(GateName.UPSTREAM, "the source was trained on patients of the evaluation set"))
    elif facts.upstream_overlap != "no":
        found.append(_open(GateName.UPSTREAM, "the source may have seen patients of the evaluation set"))
    if facts.selected_on == "test":
        found.append(_fatal(GateName.SELECTION, "something was chosen on the evaluation set"))
    elif facts.selected_on is None:
        found.append(_open(GateName.SELECTION, "what models were chosen on is not known"))
    return found


def _design(facts: Facts) -> list[Gate]:
    checks = (
        (GateName.PATIENTS, facts.patients_known and not facts.seeds_only, _why_no_patients(facts)),
        (GateName.PAIRING, facts.paired, _why_not_paired(facts)),
        (GateName.CLASS_SET, facts.class_set_frozen, "the classes that are averaged were not frozen before results"),
        (GateName.LADDER, facts.one_ladder, "scales of different ladders: not an effect of scale"),
    )
    found = [_open(name, reason) for name, passed, reason in checks if not passed]
    return found + [_open(GateName.WAIVED, f"waived: {what}") for what in facts.waived]


def _why_not_paired(facts: Facts) -> str:
    if facts.paired is None:
        return "whether seeds are pairs is not known: nothing says what they were trained on"
    return "seeds are not paired: subset, order or task differ between the sides"


def _why_no_patients(facts: Facts) -> str:
    return SEEDS_ONLY if facts.seeds_only else "patients unknown: images count as patients"


def _trials(facts: Facts) -> list[Gate]:
    found = []
    if facts.lost_trials and not facts.holds_at_chance:
        lost = _plural(facts.lost_trials, "planned trial")
        reason = f"{lost} without a result, not missing at random: the verdict does not hold with them at chance"
        found.append(_open(GateName.LOST_TRIALS, reason))
    if (rising := convergence_gate(facts.losing_side, facts.still_rising)) is not None:
        found.append(rising)
    return found


def _strength(facts: Facts) -> list[Gate]:
    found = []
    if facts.min_patients < MIN_TEST_PATIENTS and not facts.seeds_only:
        reason = f"{_plural(facts.min_patients, 'patient')} of the rarest class, a test needs {MIN_TEST_PATIENTS}"
        found.append(Gate(name=GateName.SIZE, reason=reason, cap=Letter.C, wording=Wording.NONE))
    if (few := seeds_gate(facts.n_seeds)) is not None:
        found.append(few)
    if not facts.external:
        found.append(_limit(GateName.EXTERNAL, "no patients of another site"))
    if facts.seeds_added:
        # Looking after every seed from 3 to 10 has a type-I error of 0.07 to 0.18 instead of 0.05.
        found.append(_open(GateName.LOOKS, "seeds were added after test results had been read"))
    return found


def _fatal(name: GateName, reason: str) -> Gate:
    return Gate(name=name, reason=reason, cap=Letter.F, wording=Wording.NONE)


def _open(name: GateName, reason: str) -> Gate:
    return Gate(name=name, reason=reason, cap=Letter.C, wording=Wording.SUGGESTS)


def _limit(name: GateName, reason: str) -> Gate:
    return Gate(name=name, reason=reason, cap=Letter.B, wording=Wording.STATES)


def _plural(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"
