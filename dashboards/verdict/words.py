"""Sentences and grades that the answers share: a claim is worded no stronger than the gates allow."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import pandas as pd

from dashboards.answers import Number, Tone
from dashboards.evidence import IN_DOMAIN
from dashboards.plots import records
from dashboards.statistics import Letter, Wording
from dashboards.statistics.gates import Gate, seeds_gate
from dashboards.style import amount_text, metric_label, p_value, sample_text, signed

TONES: dict[str, Tone] = {
    "helps, meaningfully": "good",
    "helps": "good",
    "hurts": "bad",
    "no meaningful difference": "even",
    "undecided": "open",
}


@dataclass(frozen=True, slots=True)
class Phrase:
    """A verdict as stated, and as it is worded where a gate holds it back: for a sentence, and for a count of several.

    Sentences, badges and counts all take their words from here, so that none says more than another.
    """

    stated: str
    hedged: str
    stated_many: str
    hedged_many: str

    def one(self, *, hedged: bool) -> str:
        """``helps`` or ``seems to help``."""
        return self.hedged if hedged else self.stated

    def counted(self, n: int, *, hedged: bool) -> str:
        """``1 helps``, ``2 help`` or ``2 seem to help``."""
        if n == 1:
            return f"1 {self.one(hedged=hedged)}"
        return f"{n} {self.hedged_many if hedged else self.stated_many}"


HELPS = Phrase("helps", "seems to help", "help", "seem to help")
HURTS = Phrase("hurts", "seems to hurt", "hurt", "seem to hurt")
SAME = Phrase(
    "makes no meaningful difference",
    "seems to make no meaningful difference",
    "make no meaningful difference",
    "seem to make no meaningful difference",
)
PHRASES = {
    "helps, meaningfully": replace(HELPS, stated="helps, meaningfully,"),
    "helps": HELPS,
    "hurts": HURTS,
    "no meaningful difference": SAME,
}
"""Verdict on a contrast -> its words; ``undecided`` claims nothing."""
NO_VERDICT = str(Wording.NONE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """How strong an answer that rests on several contrasts may be.

    Attributes:
        grade: The worst of their grades; None without a contrast.
        wording: The weakest wording of any.
        caps: Why it is not "states".
    """

    grade: Literal["A", "B", "C", "F"] | None
    wording: Wording
    caps: tuple[str, ...]

    @property
    def states(self) -> bool:
        """Whether nothing holds the wording back."""
        return self.wording is Wording.STATES

    @property
    def silent(self) -> bool:
        """Whether nothing may be claimed."""
        return self.wording is Wording.NONE

    def words(self, word: str) -> str:
        """The word of an answer; "no verdict" where none may be given."""
        return NO_VERDICT if self.silent else word

    def verb(self, plain: str, hedged: str) -> str:
        """``helps`` or ``seems to help``."""
        return plain if self.states else hedged

    def behind(self, gate: Gate | None) -> Held:
        """The same, with one more gate that is not passed; None adds nothing."""
        if gate is None:
            return self
        grades = [Letter(self.grade), gate.cap] if self.grade else [gate.cap]
        return Held(
            grade=as_grade(max(grades, key=list(Letter).index)) if self.grade else None,
            wording=max(self.wording, gate.wording, key=list(Wording).index),
            caps=tuple(dict.fromkeys((*self.caps, gate.reason))),
        )


def weakest(*held: Held) -> Held:
    """What is left of an answer that rests on all of these: the worst grade, the weakest wording, every cap."""
    grades = [Letter(h.grade) for h in held if h.grade]
    return Held(
        grade=as_grade(max(grades, key=list(Letter).index)) if grades else None,
        wording=max((h.wording for h in held), key=list(Wording).index),
        caps=tuple(dict.fromkeys(cap for h in held for cap in h.caps)),
    )


def held_back(
    contrasts: pd.DataFrame,
    *,
    task: str,
    set_name: str,
    source: str | None = None,
    scales: Collection[str] | None = None,
    fractions: Collection[str] | None = None,
    n_seeds: int | None = None,
) -> Held:
    """What the gates of the contrasts behind an answer leave of it.

    Args:
        contrasts: ``Tables.contrasts``.
        task: Task of the answer.
        set_name: Its evaluation set.
        source: Source; all if None.
        scales: Model scales; all if None.
        fractions: Amounts; all if None.
        n_seeds: Seeds that the answer itself rests on, which may be fewer than those of the contrasts; None if it has
            none of its own.
    """
    found = _of_contrasts(contrasts, task, set_name, source, scales, fractions)
    return found if n_seeds is None else found.behind(seeds_gate(n_seeds))


def _of_contrasts(
    contrasts: pd.DataFrame,
    task: str,
    set_name: str,
    source: str | None,
    scales: Collection[str] | None,
    fractions: Collection[str] | None,
) -> Held:
    if contrasts.empty:
        return held_of([])
    chosen = (contrasts["task"] == task) & (contrasts["set"] == set_name)
    wanted: dict[str, Collection[str] | None] = {
        "pretraining_source": None if source is None else (source,),
        "model_scale": scales,
        "data_fraction": fractions,
    }
    for column, values in wanted.items():
        if values is not None:
            chosen &= contrasts[column].isin(list(values))
    return held_of(records(contrasts.loc[chosen, ["grade", "wording", "cap"]]))


def held_of(contrasts: Sequence[Mapping[str, Any]]) -> Held:
    """What the gates of these rows of ``Tables.contrasts`` leave of an answer that rests on all of them."""
    if not contrasts:
        return Held(grade=None, wording=Wording.SUGGESTS, caps=("no contrast with the baseline",))
    worst = max((Letter(str(row["grade"])) for row in contrasts), key=list(Letter).index)
    wording = max((Wording(str(row["wording"])) for row in contrasts), key=list(Wording).index)
    caps = dict.fromkeys(cap for row in contrasts for cap in listed(str(row["cap"])))
    return Held(grade=as_grade(worst), wording=wording, caps=tuple(caps))


def as_grade(letter: object) -> Literal["A", "B", "C", "F"]:
    """The letter as the type that an answer has."""
    return cast('Literal["A", "B", "C", "F"]', str(letter))


def listed(text: str) -> list[str]:
    """Parts of a text that are joined by semicolons."""
    return [part for part in text.split("; ") if part]


def badge_word(word: str, *, hedged: bool) -> str:
    """The word of an answer for a badge: of one that a gate holds back ``seems to help``, not ``helps, meaningfully``.

    Args:
        word: Of an ``Answer``, or a short form of it.
        hedged: Whether a gate holds it back.
    """
    if not hedged:
        return word
    phrase = PHRASES.get(word)
    return phrase.hedged if phrase else f"suggests: {word}"


def contrast_sentence(row: Mapping[str, Any]) -> str:
    """``natural helps on ham10000 at 5 % (resnet20): +0.041 macro AUC (95 % CI ...; Holm p = 0.012; 3 seeds, ...).``"""
    where = on_cell(row)
    if row["wording"] == NO_VERDICT and row["verdict"] != "undecided":
        return f"No verdict on {row['pretraining_source']} {where}: {row['cap']}."
    phrase = PHRASES.get(str(row["verdict"]))
    if phrase is None:
        claim = f"Undecided whether {row['pretraining_source']} {HELPS.stated} {where}"
    else:
        claim = f"{row['pretraining_source']} {phrase.one(hedged=row['wording'] != Wording.STATES)} {where}"
    adjusted = "Holm" if row["primary"] else "exploratory, Benjamini-Hochberg"
    evidence = [
        interval_text(row["low"], row["high"], row["level"]),
        f"{adjusted} {p_value(row['p_adjusted'])}" if math.isfinite(row["p_adjusted"]) else "not tested",
        sample_text(row["n_seeds"], row["n_patients"]),
    ]
    return f"{claim}: {signed(row['estimate'])} {metric_label(str(row['metric']))} ({'; '.join(evidence)})."


def on_cell(row: Mapping[str, Any]) -> str:
    """``on skin at 5 % (resnet20), evaluated on site_b``: a row's cell without the source, and its set."""
    place = evaluated_on(str(row.get("set", IN_DOMAIN)))
    return f"on {row['task']} at {amount_text(str(row['data_fraction']))} ({row['model_scale']}){place}"


def evaluated_on(set_name: str) -> str:
    """``, evaluated on site_b`` for a shifted set; empty for the in-domain test."""
    return "" if set_name == IN_DOMAIN else f", evaluated on {set_name}"


def interval_text(low: float, high: float, level: float) -> str:
    """``95 % CI +0.010 to +0.071``."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return "no interval"
    return f"{100 * level:g} % CI {signed(low)} to {signed(high)}"


def plain(row: Mapping[str, Any]) -> dict[str, Number]:
    """Values as JSON has them; numbers that do not exist are None."""
    return {str(k): json_value(v) for k, v in row.items()}


def json_value(value: Any) -> Any:
    """A scalar as JSON has it."""
    if isinstance(value, bool | str) or value is None:
        return value
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def primary_rows(contrasts: pd.DataFrame) -> pd.DataFrame:
    """The primary family."""
    return contrasts if contrasts.empty else contrasts[contrasts["primary"]]


def rows_of(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as dictionaries; none of a table without rows."""
    return records(table) if len(table) else []
