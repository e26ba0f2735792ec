"""Question 1: does a source help?"""

from __future__ import annotations

from typing import Any

from dashboards.answers import Answer, Number
from dashboards.evidence import Evidence
from dashboards.tables import Tables
from dashboards.verdict.words import (
    NO_VERDICT,
    TONES,
    as_grade,
    contrast_sentence,
    json_value,
    listed,
    rows_of,
)

_NUMBERS = (
    "estimate",
    "low",
    "high",
    "level",
    "p",
    "p_adjusted",
    "primary",
    "correction",
    "delta",
    "inner_low",
    "inner_high",
    "p_equivalent",
    "p_not_worse",
    "n_seeds",
    "n_patients",
    "needed_seeds",
    "needed_patients",
    "lost_trials",
    "holds_at_chance",
)


def help_answers(evidence: Evidence, tables: Tables) -> list[Answer]:
    """One per contrast: primary ones first, then those on shifted sets and at other amounts."""
    rows = sorted(rows_of(tables.contrasts), key=lambda row: not row["primary"])
    return [_answer(evidence, row) for row in rows]


def _answer(evidence: Evidence, row: dict[str, Any]) -> Answer:
    word = str(row["verdict"])
    silent = row["wording"] == NO_VERDICT
    return Answer(
        question=1,
        task=str(row["task"]),
        pretraining_source=str(row["pretraining_source"]),
        model_scale=str(row["model_scale"]),
        data_fraction=str(row["data_fraction"]),
        set=str(row["set"]),
        word=NO_VERDICT if silent and word != "undecided" else word,
        sentence=contrast_sentence(row),
        tone="open" if silent else TONES[word],
        grade=None if word == "undecided" else as_grade(row["grade"]),
        caps=() if word == "undecided" else tuple(listed(str(row["cap"]))),
        numbers=_numbers(evidence, row),
    )


def _numbers(evidence: Evidence, row: dict[str, Any]) -> dict[str, Number]:
    found: dict[str, Number] = {name: json_value(row[name]) for name in _NUMBERS if name in row}
    found["not_worse"] = bool(row["p_not_worse"] < evidence.alpha / 2)
    return found | {"metric": str(row["metric"]), "missing": str(row["missing"])}
