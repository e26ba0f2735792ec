"""Question 2: where does a source help? At which amounts, where curves cross, whether the benefit grows with scale.

Amounts are asked for only on curves on which question 1 shows help (or harm) at all: its family is the whole study, so
that a report on sources that do nothing names no amounts more often than it says "helps".
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Set
from typing import Any

import pandas as pd

from dashboards.answers import Answer, Tone
from dashboards.evidence import Evidence
from dashboards.statistics import Wording
from dashboards.style import amount_text, count, metric_label, p_value, plural, signed
from dashboards.tables import Tables
from dashboards.verdict.words import (
    HELPS,
    HURTS,
    SAME,
    TONES,
    Held,
    evaluated_on,
    held_back,
    interval_text,
    json_value,
    rows_of,
)


def where_answers(evidence: Evidence, tables: Tables) -> list[Answer]:
    """One per curve, then one per difference of differences of the primary family."""
    shown = _shown(tables.contrasts)
    reach = [_reach(evidence, tables, row, shown.get(_curve(row), frozenset())) for row in rows_of(tables.reach)]
    scales = [_scale(tables, row) for row in rows_of(tables.scale_effects) if row["primary"]]
    return [*reach, *scales]


def _curve(row: dict[str, Any]) -> tuple[str, ...]:
    return tuple(str(row[name]) for name in ("task", "set", "pretraining_source", "model_scale"))


def _shown(contrasts: pd.DataFrame) -> dict[tuple[str, ...], Set[str]]:
    """Curve -> verdicts of question 1 on its amounts: of the primary ones where the set has some, else of all."""
    rows = rows_of(contrasts)
    declared = {(row["task"], row["set"]) for row in rows if row["primary"]}
    shown: defaultdict[tuple[str, ...], set[str]] = defaultdict(set)
    for row in rows:
        if row["primary"] or (row["task"], row["set"]) not in declared:
            shown[_curve(row)].add(str(row["verdict"]))
    return dict(shown)


def _reach(evidence: Evidence, tables: Tables, row: dict[str, Any], shown: Set[str]) -> Answer:
    helped, hurt, same = (_amounts(row[name]) for name in ("helps_at", "hurts_at", "same_at"))
    helps = helped if any(TONES.get(verdict) == "good" for verdict in shown) else []
    hurts = hurt if any(TONES.get(verdict) == "bad" for verdict in shown) else []
    unconfirmed = [*(helped if not helps else []), *(hurt if not hurts else [])]
    row = row | {"helps_at": ", ".join(helps), "hurts_at": ", ".join(hurts), "unconfirmed_at": ", ".join(unconfirmed)}
    row["crossing_shown"] = row["crossing_shown"] and bool(helps and hurts)
    equal = not (helped or hurt) and len(same) == row["amounts"]
    claimed = same if equal else [*helps, *hurts]
    held = held_back(
        tables.contrasts,
        task=str(row["task"]),
        set_name=str(row["set"]),
        source=str(row["pretraining_source"]),
        scales=(str(row["model_scale"]),),
        fractions=claimed or None,
        n_seeds=int(row["n_seeds"]),
    )
    word, tone = _reach_word(row, helps, hurts, same)
    claims = bool(claimed)
    silent = claims and held.wording is Wording.NONE
    return Answer(
        question=2,
        task=str(row["task"]),
        pretraining_source=str(row["pretraining_source"]),
        model_scale=str(row["model_scale"]),
        data_fraction=helps[-1] if helps else None,
        set=str(row["set"]),
        word=held.words(word) if claims else word,
        sentence=_reach_sentence(evidence, row, helps, hurts, held, equal=equal),
        tone="open" if silent else tone,
        grade=held.grade if claims else None,
        caps=held.caps if claims else (),
        numbers={
            name: json_value(row[name])
            for name in (
                "images",
                "amounts",
                "helps_at",
                "hurts_at",
                "same_at",
                "undecided_at",
                "unconfirmed_at",
                "n_seeds",
                "crossing_shown",
                "crossing",
                "crossing_low",
                "crossing_high",
                "crossing_left_censored",
                "crossing_right_censored",
            )
        },
    )


def _amounts(text: str) -> list[str]:
    return [part for part in text.split(", ") if part]


def _reach_word(row: dict[str, Any], helps: list[str], hurts: list[str], same: list[str]) -> tuple[str, Tone]:
    if helps and helps[-1] == row["largest_amount"]:
        return "up to the largest amount", "good"
    if helps:
        return f"up to {amount_text(helps[-1])}", "good"
    if hurts:
        return "nowhere; hurts", "bad"
    if len(same) == row["amounts"]:
        return "nowhere; no meaningful difference", "even"
    return "nowhere shown", "open"


def _reach_sentence(
    evidence: Evidence, row: dict[str, Any], helps: list[str], hurts: list[str], held: Held, *, equal: bool
) -> str:
    source, where = row["pretraining_source"], f"on {row['task']} ({row['model_scale']}){evaluated_on(row['set'])}"
    if (helps or hurts or equal) and held.wording is Wording.NONE:
        return f"No verdict on where {source} helps {where}: {'; '.join(held.caps)}."
    parts = []
    if helps:
        largest = helps[-1] == row["largest_amount"]
        rest = ", the largest amount tried" if largest else "; at larger amounts it is not shown to"
        images = f" ({count(row['images'])} labelled images)" if math.isfinite(row["images"]) else ""
        verb = held.verb(HELPS.stated, HELPS.hedged)
        parts.append(f"{source} {verb} {where} up to {amount_text(helps[-1])}{images}{rest}")
    elif equal:
        verb = held.verb(SAME.stated, SAME.hedged)
        parts.append(f"{source} {verb} {where} at any of {plural(int(row['amounts']), 'amount')}")
    else:
        tried = plural(int(row["amounts"]), "amount")
        alone = " (some of them alone would be, but no comparison of question 1 is)" if row["unconfirmed_at"] else ""
        parts.append(f"{source} is not shown to help {where} at any of {tried}{alone}")
    if hurts:
        verb = held.verb(HURTS.stated, HURTS.hedged)
        parts.append(f"it {verb} at {', '.join(amount_text(f) for f in hurts)}")
    if crossing := _crossing_text(evidence, row, held):
        parts.append(crossing)
    return "; ".join(parts) + "."


def _crossing_text(evidence: Evidence, row: dict[str, Any], held: Held) -> str:
    if not row["crossing_shown"] or not math.isfinite(row["crossing"]):
        return ""
    low, high = count(row["crossing_low"]), count(row["crossing_high"])
    ends = [f"at most {low}" if row["crossing_left_censored"] else low]
    ends.append(f"at least {high}" if row["crossing_right_censored"] else high)
    level = f"{100 * (1 - evidence.alpha):g} %"
    verb = held.verb("cross", "seem to cross")
    return (
        f"the curves of {row['pretraining_source']} and {evidence.baseline} {verb} near "
        f"{count(row['crossing'])} images ({level} set {ends[0]} to {ends[1]})"
    )


def _scale(tables: Tables, row: dict[str, Any]) -> Answer:
    held = held_back(
        tables.contrasts,
        task=str(row["task"]),
        set_name=str(row["set"]),
        source=str(row["pretraining_source"]),
        scales=(str(row["smallest"]), str(row["largest"])),
        fractions=(str(row["data_fraction"]),),
        n_seeds=int(row["n_seeds"]),
    )
    word = str(row["word"])
    claims = word != "undecided"
    tones: dict[str, Tone] = {"grows with scale": "good", "shrinks with scale": "bad", "undecided": "open"}
    silent = claims and held.wording is Wording.NONE
    return Answer(
        question=2,
        task=str(row["task"]),
        pretraining_source=str(row["pretraining_source"]),
        model_scale=str(row["model_scale"]),
        data_fraction=str(row["data_fraction"]),
        set=str(row["set"]),
        word=held.words(word) if claims else word,
        sentence=_scale_sentence(row, held, silent),
        tone="open" if silent else tones.get(word, "even"),
        grade=held.grade if claims else None,
        caps=held.caps if claims else (),
        numbers={
            name: json_value(row[name])
            for name in (
                "estimate",
                "low",
                "high",
                "level",
                "p",
                "p_adjusted",
                "n_seeds",
                "n_patients",
                "ladder",
                "delta",
            )
        },
    )


_SCALE_CLAIMS = {
    "grows with scale": ("grows", "seems to grow"),
    "shrinks with scale": ("shrinks", "seems to shrink"),
    "the same at both scales": ("is the same", "seems to be the same"),
}


def _scale_sentence(row: dict[str, Any], held: Held, silent: bool) -> str:
    where = f"on {row['task']} at {amount_text(str(row['data_fraction']))}{evaluated_on(row['set'])}"
    span = f"from {row['smallest']} to {row['largest']} (ladder {row['ladder']})"
    if silent:
        return f"No verdict on whether the benefit of {row['pretraining_source']} {where} changes {span}."
    word = str(row["word"])
    if word == "undecided":
        claim = f"Undecided whether the benefit of {row['pretraining_source']} {where} changes {span}"
    else:
        claim = f"The benefit of {row['pretraining_source']} {where} {held.verb(*_SCALE_CLAIMS[word])} {span}"
    p = f"Holm {p_value(row['p_adjusted'])}" if math.isfinite(row["p_adjusted"]) else "not tested"
    change = f"{signed(row['estimate'])} {metric_label(str(row['metric']))}"
    return f"{claim}: {change} ({interval_text(row['low'], row['high'], row['level'])}; {p})."
