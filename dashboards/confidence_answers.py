"""Answers to question 6: can its probabilities be trusted?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from dashboards.answer_words import Rows, by_place, cell_of, finite_number, hold, place_of
from dashboards.answers import Answer, Number, Tone
from dashboards.confidence_tables import COOLED, CORRECTED, RAW
from dashboards.evidence import IN_DOMAIN, Evidence
from dashboards.plots import records
from dashboards.statistics.selective_influence import risk_name
from dashboards.style import number, p_value, plural, signed
from dashboards.tables import Tables
from dashboards.verdict.words import on_cell

ERROR_CONTROL = (
    "Differences in NLL as trained, in domain, at the primary amounts: Holm over all of them in the study. Every other "
    "score, stage and set: Benjamini-Hochberg per task, set, score and stage, exploratory. Calibration errors, slopes "
    "and risks are described, not tested."
)

BETTER, WORSE, UNDECIDED = "better probabilities", "worse probabilities", "undecided"
_TONES: dict[str, Tone] = {BETTER: "good", WORSE: "bad", UNDECIDED: "open"}
_RISK = risk_name(0.9)


def confidence_answers(evidence: Evidence, tables: Tables) -> list[Answer]:
    """One per source, scale, primary amount and evaluation set."""
    contrasts, cells = tables.of("probability_contrasts"), tables.of("probabilities")
    if contrasts.empty or cells.empty:
        return []
    chosen = contrasts[(contrasts["metric"] == "nll") & (contrasts["stage"] == RAW)]
    primary = cells[cells["primary"].astype(bool)]
    amounts = set(zip(primary["task"], primary["data_fraction"], strict=True))
    context = _Context(
        evidence=evidence,
        contrasts=by_place(tables.contrasts),
        stages={stage: by_place(cells[cells["stage"] == stage]) for stage in (RAW, COOLED, CORRECTED)},
        selective=by_place(tables.of("selective")),
    )
    return [_answer(context, row) for row in records(chosen) if (row["task"], row["data_fraction"]) in amounts]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Context:
    """What answers look up: rows by place, those of probabilities for each stage."""

    evidence: Evidence
    contrasts: Rows
    stages: dict[str, Rows]
    selective: Rows


def _answer(context: _Context, row: dict[str, Any]) -> Answer:
    evidence, place = context.evidence, place_of(row)
    word = _word(row, evidence.alpha)
    held = hold(context.contrasts, row, int(row["n_seeds"]))
    claims = word != UNDECIDED
    silent = held.silent and claims
    stages = {stage: cells.get(place, [{}])[0] for stage, cells in context.stages.items()}
    risk = context.selective.get(place, [{}])[0]
    return Answer(
        question=6,
        **cell_of(row),
        set=str(row["set"]),
        word="no verdict" if silent else word,
        sentence=(
            f"No verdict on the probabilities of {row['pretraining_source']} {on_cell(row)}: {'; '.join(held.caps)}."
            if silent
            else _sentence(evidence, row, word, stages, risk, not held.states)
        ),
        tone="open" if silent else _TONES[word],
        grade=held.grade if claims else None,
        caps=held.caps if claims else (),
        numbers=_numbers(row, stages, risk),
    )


def _word(row: dict[str, Any], alpha: float) -> str:
    if not row["p_adjusted"] < alpha or not (row["high"] < 0 or row["low"] > 0):
        return UNDECIDED
    return BETTER if row["high"] < 0 else WORSE


def _sentence(
    evidence: Evidence,
    row: dict[str, Any],
    word: str,
    stages: dict[str, dict[str, Any]],
    risk: dict[str, Any],
    hedged: bool,
) -> str:
    source = row["pretraining_source"]
    verbs = {BETTER: ("gives", "seems to give"), WORSE: ("gives", "seems to give")}
    if word == UNDECIDED:
        claim = (
            f"Undecided whether {source} gives better or worse probabilities than {evidence.baseline} {on_cell(row)}"
        )
    else:
        claim = f"{source} {verbs[word][hedged]} {word} {on_cell(row)}"
    adjusted = "Holm" if row["primary"] else "exploratory"
    test = f"{adjusted} {p_value(row['p_adjusted'])}" if math.isfinite(row["p_adjusted"]) else "not tested"
    ends = f"{100 * row['level']:g} % CI {signed(row['low'])} to {signed(row['high'])}"
    sizes = f"{plural(int(row['n_seeds']), 'seed')}, {plural(int(row['n_patients']), 'patient')}"
    parts = [f"{claim}: NLL {signed(row['estimate'])} nats ({ends}; {test}; {sizes})", _calibration(stages[RAW])]
    parts.append(_cooled(stages[COOLED]))
    if row["set"] != IN_DOMAIN and stages[CORRECTED]:
        parts.append(_corrected(stages[CORRECTED]))
    parts.append(_risk(risk))
    return "; ".join(part for part in parts if part) + "."


def _calibration(cell: dict[str, Any]) -> str:
    if not cell or not math.isfinite(cell["ece"]):
        return "calibration not estimable"
    slope = f"slope {number(cell['slope'], 2)} (1 is ideal)"
    return f"{slope}, ECE {number(cell['ece'])} (chance gives {number(cell['null_median'])})"


def _cooled(cell: dict[str, Any]) -> str:
    if not cell:
        return ""
    if not math.isfinite(cell["nll"]):
        return f"temperature {cell['note'] or 'not estimable'}"
    return (
        f"with temperature {number(cell['temperature'], 2)} from validation NLL {number(cell['nll'])}, "
        f"ECE {number(cell['ece'])}"
    )


def _corrected(cell: dict[str, Any]) -> str:
    if not math.isfinite(cell["nll"]):
        return f"prior correction {cell['note'] or 'not estimable'}"
    return f"corrected for the set's prevalence NLL {number(cell['nll'])}, ECE {number(cell['ece'])}"


def _risk(cell: dict[str, Any]) -> str:
    if not cell or not math.isfinite(cell[_RISK]):
        return ""
    ends = f"{100 * cell['level']:g} % CI {number(cell[f'{_RISK}_low'])} to {number(cell[f'{_RISK}_high'])}"
    return f"at 90 % coverage the error is {number(cell[_RISK])} ({ends}) instead of {number(cell['error'])}"


def _numbers(row: dict[str, Any], stages: dict[str, dict[str, Any]], risk: dict[str, Any]) -> dict[str, Number]:
    found: dict[str, Number] = {
        f"nll_{name}": finite_number(row[name]) for name in ("estimate", "low", "high", "p", "p_adjusted")
    }
    found |= {"level": float(row["level"]), "n_seeds": int(row["n_seeds"]), "n_patients": int(row["n_patients"])}
    for stage, prefix in ((RAW, ""), (COOLED, "cooled_"), (CORRECTED, "corrected_")):
        for name in ("nll", "brier", "brier_skill", "ece", "null_median", "debiased_l2", "slope", "intercept"):
            if stages[stage]:
                found[prefix + name] = finite_number(stages[stage][name])
    if stages[COOLED]:
        found["temperature"] = finite_number(stages[COOLED]["temperature"])
        found["temperature_note"] = str(stages[COOLED]["note"]) or None
    for name in ("error", "aurc", "augrc", "risk_at_80", "risk_at_90", "risk_at_95"):
        for end in ("", "_low", "_high"):
            if risk:
                found[name + end] = finite_number(risk[name + end])
    return found
