"""What the verdict on a study without effects may claim falsely, each kind in the family that its error is held in.

Sources of ``null_verdicts`` are alike at every scale and amount, so that some answers are true: "no harm", "no
meaningful difference", and that 0.3 of the images reach all of them within delta. Those are not counted.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from dashboards.answers import Answer
from dashboards.harm_answers import HARMED
from dashboards.label_tables import NOT_REACHED, REACHES, SAVES
from dashboards.tables import Tables

LARGEST = "large"
"""Scale whose cells are the best, all alike."""
SHORT_OF_ALL = "0.1"
"""Amount at which every source is more than delta worse than with all images."""
ALPHA = 0.05
SPEED_LEVEL = 0.0625
"""Of the interval from the least to the largest of five ratios, which misses their median so often."""

Family = tuple[str, ...]
Found = Callable[[Tables, Sequence[Answer]], Mapping[Family, bool]]
"""Of each family of a study, whether anything is claimed falsely in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of false claim.

    Attributes:
        found: Where it is made.
        per: What one family is.
        level: Most families that may make it.
    """

    found: Found
    per: str
    level: float


def _in_answers(family: Sequence[str], asked: Callable[[Answer], bool], claims: Callable[[Answer], bool]) -> Found:
    """Claims of answers.

    Args:
        family: Fields that name the family of an answer; none for the whole study.
        asked: Whether an answer could make the claim.
        claims: Whether it does.
    """
    return lambda _, answers: _any(
        (tuple(str(getattr(a, name)) for name in family), claims(a)) for a in answers if asked(a)
    )


def _in_rows(family: Sequence[str], table: Callable[[Tables], pd.DataFrame], p: str) -> Found:
    """Rows of a table whose adjusted p lies below the level."""

    def found(tables: Tables, _: Sequence[Answer]) -> Mapping[Family, bool]:
        rows = [row for row in table(tables).to_dict("records") if row[p] == row[p]]
        return _any((tuple(str(row[name]) for name in family), row[p] < ALPHA) for row in rows)

    return found


def _any(claims: Iterable[tuple[Family, bool]]) -> dict[Family, bool]:
    found: dict[Family, bool] = {}
    for family, claimed in claims:
        found[family] = found.get(family, False) or claimed
    return found


def _of(number: int) -> Callable[[Answer], bool]:
    return lambda answer: answer.question == number


def _compares(*, primary: bool) -> Callable[[Answer], bool]:
    return lambda a: a.question == 1 and bool(a.numbers["primary"]) == primary


def _decided(answer: Answer) -> bool:
    return answer.tone in ("good", "bad")


def _names_amounts(answer: Answer) -> bool:
    return any(bool(answer.numbers[name]) for name in ("helps_at", "hurts_at", "crossing_shown"))


def _excludes_a_best(sources: Collection[str]) -> Callable[[Answer], bool]:
    best = {f"{LARGEST} · {source}" for source in sources}
    return lambda a: not best <= set(str(a.numbers["set"]).split("; "))


def kinds(sources: Collection[str]) -> dict[str, Kind]:
    """Every kind of false claim.

    Args:
        sources: All sources, the baseline too.
    """
    study: tuple[str, ...] = ()
    cell = ("task", "model_scale", "pretraining_source", "data_fraction", "set")
    curve = ("task", "model_scale", "pretraining_source", "set")

    def kind(per: str, found: Found, level: float = ALPHA) -> Kind:
        return Kind(found=found, per=per, level=level)

    def is_ladder(a: Answer) -> bool:
        return "ladder" in a.numbers

    def is_scaled(a: Answer) -> bool:
        return a.question == 2 and is_ladder(a)

    return {
        "help or harm in the primary family": kind("study", _in_answers(study, _compares(primary=True), _decided)),
        "help or harm at other amounts": kind(
            "task and set", _in_answers(("task", "set"), _compares(primary=False), _decided)
        ),
        "amounts at which a source helps or hurts": kind(
            "study", _in_answers(study, lambda a: a.question == 2 and not is_ladder(a), _names_amounts)
        ),
        "a benefit that changes with scale": kind("study", _in_answers(study, is_scaled, _decided)),
        "a best cell is not among the best": kind(
            "task, amount and set", _in_answers(("task", "data_fraction", "set"), _of(3), _excludes_a_best(sources))
        ),
        "labels saved": kind("curve", _in_answers(curve, _of(4), lambda a: a.word == SAVES), ALPHA / 2),
        "a tenth of the labels does as well as all": kind(
            "curve",
            _in_answers(curve, _of(4), lambda a: a.word in (SAVES, REACHES) and a.data_fraction == SHORT_OF_ALL),
            ALPHA / 2,
        ),
        "all labels do not reach what they reach": kind(
            "curve", _in_answers(curve, _of(4), lambda a: a.word == NOT_REACHED), ALPHA / 2
        ),
        "a harmed group": kind("study", _in_answers(study, _of(5), lambda a: a.word in HARMED)),
        "a gap between groups": kind("cell and set", _in_rows(cell, lambda t: t.of("group_gaps"), "p_holm")),
        "a group behind all others": kind("study", _in_rows(study, lambda t: t.deficits, "p_holm")),
        "better or worse probabilities": kind("study", _in_answers(study, _of(6), _decided)),
        "faster or slower": kind("cell", _in_answers(cell, _of(7), _decided), SPEED_LEVEL),
    }
