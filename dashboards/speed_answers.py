"""Answers to question 7: does it train faster?"""

from __future__ import annotations

import math
from typing import Any

from dashboards.answer_words import Rows, by_place, cell_of, finite_number, hold, place_of
from dashboards.answers import Answer, Number, Tone
from dashboards.evidence import Evidence
from dashboards.plots import records
from dashboards.speed_tables import HEADLINE_SHARE, HOURS, LEAST_COVERAGE, STEPS
from dashboards.style import count, number, plural
from dashboards.tables import Tables
from dashboards.verdict.words import on_cell

ERROR_CONTROL = (
    "Exact intervals of order statistics for each comparison, decided only where their coverage is at least 0.9 (from "
    "five seeds on); not adjusted over comparisons: exploratory."
)

FASTER, SLOWER, UNDECIDED = "faster", "slower", "undecided"
NOT_REACHED, NOT_ESTIMABLE = "not reached", "not estimable"
_TONES: dict[str, Tone] = {FASTER: "good", SLOWER: "bad", UNDECIDED: "open", NOT_REACHED: "open", NOT_ESTIMABLE: "open"}


def speed_answers(evidence: Evidence, tables: Tables) -> list[Answer]:
    """One per source, scale and primary amount, on the time to 95 % of what the baseline reaches on validation."""
    speed = tables.of("speed")
    if speed.empty:
        return []
    chosen = speed[speed["primary"].astype(bool) & (speed["share"] == HEADLINE_SHARE)]
    others = chosen[chosen["pretraining_source"] != evidence.baseline]
    contrasts, hours = by_place(tables.contrasts), by_place(others[others["unit"] == HOURS])
    steps = records(others[others["unit"] == STEPS])
    return [_answer(evidence, contrasts, row, hours.get(place_of(row), [])) for row in steps]


def _answer(evidence: Evidence, contrasts: Rows, row: dict[str, Any], hours: list[dict[str, Any]]) -> Answer:
    word = _word(row)
    held = hold(contrasts, row, int(row["ratio_seeds"]))
    claims = word in (FASTER, SLOWER)
    silent = held.silent and claims
    return Answer(
        question=7,
        **cell_of(row),
        set="val",
        word="no verdict" if silent else word,
        sentence=(
            f"No verdict on the speed of {row['pretraining_source']} {on_cell(row)}: {'; '.join(held.caps)}."
            if silent
            else _sentence(evidence, row, word, not held.states)
        ),
        tone="open" if silent else _TONES[word],
        grade=held.grade if claims else None,
        caps=held.caps if claims else (),
        numbers=_numbers(row, hours),
    )


def _word(row: dict[str, Any]) -> str:
    if row["note"] or not row["ratio_seeds"]:
        return NOT_ESTIMABLE
    sure = row["ratio_coverage"] >= LEAST_COVERAGE
    if sure and row["ratio_high"] < 1:
        return FASTER
    if sure and row["ratio_low"] > 1:
        return SLOWER
    return NOT_REACHED if math.isinf(row["time_median_high"]) else UNDECIDED


def _sentence(evidence: Evidence, row: dict[str, Any], word: str, hedged: bool) -> str:
    source, base = row["pretraining_source"], evidence.baseline
    goal = f"95 % of what {base} reaches on validation"
    if word == NOT_ESTIMABLE:
        return f"Speed of {source} {on_cell(row)}: {row['note'] or 'not estimable'}."
    times = f"{_steps(row)} steps to {goal} ({number(row['threshold'])})"
    censored = int(row["time_censored"])
    late = f", {plural(censored, 'seed')} not within the budget" if censored else ""
    ratio = (
        f"{_range(row['ratio_median_low'], row['ratio_median_high'])} times the steps of {base}, "
        f"{100 * row['ratio_coverage']:.3g} % interval {_range(row['ratio_low'], row['ratio_high'])}, "
        f"{plural(int(row['ratio_seeds']), 'seed')}"
    )
    claims = {
        FASTER: f"{source} {'seems to be' if hedged else 'is'} faster {on_cell(row)}",
        SLOWER: f"{source} {'seems to be' if hedged else 'is'} slower {on_cell(row)}",
        UNDECIDED: f"Undecided whether {source} is faster {on_cell(row)}",
        NOT_REACHED: f"{source} does not reach the mark within its budget in most seeds {on_cell(row)}",
    }
    return f"{claims[word]}: {times}{late}; {ratio}."


def _steps(row: dict[str, Any]) -> str:
    """The median lies between two evaluations, or beyond the budget."""
    low, high = row["time_median_low"], row["time_median_high"]
    if math.isinf(high):
        return f"more than {count(low)}"
    return count(high) if low == high else f"{count(low)} to {count(high)}"


def _range(low: float, high: float) -> str:
    if math.isinf(high):
        return f"at least {number(low, 2)}"
    return f"{number(low, 2)} to {number(high, 2)}"


def _numbers(row: dict[str, Any], hours: list[dict[str, Any]]) -> dict[str, Number]:
    names = [
        f"{of}_{end}" for of in ("time", "ratio") for end in ("low", "median_low", "median_high", "high", "coverage")
    ]
    found: dict[str, Number] = {name: finite_number(row[name]) for name in names}
    for name in ("time_seeds", "time_censored", "ratio_seeds", "ratio_censored"):
        found[name] = int(row[name])
    found |= {"share": float(row["share"]), "threshold": finite_number(row["threshold"])}
    for other in hours[:1]:
        found |= {f"device_hours_{name}": finite_number(other[name]) for name in names}
    return found
