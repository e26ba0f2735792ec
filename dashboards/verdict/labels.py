"""Question 4: how many labels does a source save?"""

from __future__ import annotations

import math
from typing import Any

from dashboards.answers import Answer, Tone
from dashboards.evidence import Evidence
from dashboards.label_tables import NO_FULL_BASELINE, NOT_ASSESSABLE, NOT_REACHED, NOT_SHOWN, REACHES, SAVES
from dashboards.statistics import Wording
from dashboards.statistics.gates import convergence_gate
from dashboards.style import amount_text, count, metric_label, signed
from dashboards.tables import Tables
from dashboards.verdict.words import Held, evaluated_on, held_back, json_value, rows_of

_TONES: dict[str, Tone] = {
    SAVES: "good",
    REACHES: "even",
    NOT_SHOWN: "open",
    NOT_REACHED: "bad",
    NOT_ASSESSABLE: "open",
}
_NOT_NUMBERS = (
    "task",
    "set",
    "model_scale",
    "pretraining_source",
    "metric",
    "word",
    "data_fraction",
    "notes",
    "full_amount",
)


def label_answers(evidence: Evidence, tables: Tables) -> list[Answer]:
    """One per curve."""
    return [_answer(evidence, tables, row) for row in rows_of(tables.label_savings)]


def _answer(evidence: Evidence, tables: Tables, row: dict[str, Any]) -> Answer:
    word, fraction = str(row["word"]), str(row["data_fraction"])
    held = held_back(
        tables.contrasts,
        task=str(row["task"]),
        set_name=str(row["set"]),
        source=str(row["pretraining_source"]),
        scales=(str(row["model_scale"]),),
        fractions=(fraction, str(row["full_amount"])) if fraction else None,
        n_seeds=int(row["n_seeds"]),
    )
    if word in (SAVES, REACHES):  # a goal that was not trained to its end is reached too easily
        held = held.behind(convergence_gate(f"{evidence.baseline} with all labels", float(row["full_still_rising"])))
    claims = word not in (NOT_SHOWN, NOT_ASSESSABLE)
    silent = claims and held.wording is Wording.NONE
    return Answer(
        question=4,
        task=str(row["task"]),
        pretraining_source=str(row["pretraining_source"]),
        model_scale=str(row["model_scale"]),
        data_fraction=fraction or None,
        set=str(row["set"]),
        word=held.words(word) if claims else word,
        sentence=_sentence(evidence, row, held, silent),
        tone="open" if silent else _TONES[word],
        grade=held.grade if claims else None,
        caps=held.caps if claims else (),
        numbers={name: json_value(value) for name, value in row.items() if name not in _NOT_NUMBERS},
    )


def _sentence(evidence: Evidence, row: dict[str, Any], held: Held, silent: bool) -> str:
    source, word = row["pretraining_source"], row["word"]
    where = f"on {row['task']} ({row['model_scale']}){evaluated_on(row['set'])}"
    if word == NOT_ASSESSABLE:
        return f"Labels saved by {source} {where} cannot be assessed: {NO_FULL_BASELINE}{_area(row)}."
    goal = f"{evidence.baseline} with all {count(row['full_images'])} labelled images"
    if silent:
        return f"No verdict on labels saved by {source} {where}: {'; '.join(held.caps)}."
    if word == NOT_REACHED:
        verb = held.verb("does not reach", "seems not to reach")
        return f"{source} {verb} {goal} {where} at any amount tried{_area(row)}."
    if word == NOT_SHOWN:
        margin = f"within {row['delta']:g}"
        return (
            f"{source} is not shown to reach {goal} {where}, {margin}, at any amount tried{_crossing(row)}{_area(row)}."
        )
    amount = (
        f"{amount_text(str(row['data_fraction']))} ({count(row['images'])} images, {count(row['patients'])} patients)"
    )
    if word == REACHES:
        verb = held.verb("reaches", "seems to reach")
        return (
            f"{source} {verb} {goal} {where} with {amount}, within {row['delta']:g}; that it needs fewer labels than "
            f"{evidence.baseline} does is not shown{_area(row)}."
        )
    verb = held.verb("saves", "seems to save")
    return (
        f"{source} {verb} labels {where}: with {amount} it reaches {goal}, within {row['delta']:g}; "
        f"{_shares(row)}{_price(row)}{_crossing(row)}{_area(row)}."
    )


def _shares(row: dict[str, Any]) -> str:
    saved = f"{_percent(row['share_saved'])} fewer training images"
    if row["val_images"]:
        with_val = f"{_percent(row['share_saved_with_val'])} with the {count(row['val_images'])} images of validation"
        saved += f", {with_val} counted"
    return saved


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _price(row: dict[str, Any]) -> str:
    return f"; worth {count(row['price_saved'])} at the study's price" if math.isfinite(row["price_saved"]) else ""


def _crossing(row: dict[str, Any]) -> str:
    """Where the two may meet, with the side on which it is not bounded."""
    if not math.isfinite(row["set_low"]):
        return ""
    low = f"{count(row['set_low'])} images or fewer" if row["left_censored"] else f"{count(row['set_low'])} images"
    if row["set_high"] == row["set_low"] or (row["left_censored"] and not row["set_high"] > row["set_low"]):
        return f"; the crossing lies at {low}"
    if row["right_censored"] or not math.isfinite(row["set_high"]):
        return f"; the crossing lies at {low} or beyond, with no upper end"
    return f"; the crossing lies between {low} and {count(row['set_high'])}"


def _area(row: dict[str, Any]) -> str:
    if not math.isfinite(row["area"]):
        return ""
    ends = f"{signed(row['area_low'])} to {signed(row['area_high'])}"
    return f"; mean benefit over the label range {signed(row['area'])} {metric_label(str(row['metric']))} ({ends})"
