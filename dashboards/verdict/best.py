"""Question 3: which cell is the cheapest within noise of the best?"""

from __future__ import annotations

import math
from typing import Any

from dashboards.answer_words import finite_number
from dashboards.answers import Answer, Number
from dashboards.evidence import Evidence
from dashboards.plots import split
from dashboards.statistics import Wording
from dashboards.style import amount_text, number, seconds_text, signed, size_text
from dashboards.tables import Tables
from dashboards.verdict.words import Held, evaluated_on, held_back, rows_of

_SHOWN_MEMBERS = 8

COST_NOT_RECORDED = "cost not recorded"
"""Word of an answer that knows the set but not what is cheapest in it."""


def best_answers(evidence: Evidence, tables: Tables) -> list[Answer]:
    """One per task, primary amount and evaluation set."""
    if tables.best_sets.empty:
        return []
    groups = split(tables.best_sets, "task", "data_fraction", "set")
    return [_answer(evidence, tables, rows_of(rows)) for _, rows in groups]


def _answer(evidence: Evidence, tables: Tables, rows: list[dict[str, Any]]) -> Answer:
    first = rows[0]
    members = sorted((r for r in rows if r["member"]), key=lambda r: -r["difference"])
    held = held_back(
        tables.contrasts,
        task=str(first["task"]),
        set_name=str(first["set"]),
        fractions=(str(first["data_fraction"]),),
        n_seeds=min((int(row["n_seeds"]) for row in members), default=None),
    )
    common: dict[str, Any] = {
        "question": 3,
        "task": str(first["task"]),
        "data_fraction": str(first["data_fraction"]),
        "set": str(first["set"]),
    }
    where = f"On {first['task']} at {amount_text(str(first['data_fraction']))}{evaluated_on(str(first['set']))}"
    if not members:
        reasons = "; ".join(dict.fromkeys(r["left_out"] for r in rows if r["left_out"])) or "no common seeds"
        return Answer(
            **common, word="not assessable", tone="open", sentence=f"{where} no cell can be compared: {reasons}."
        )
    by_parameters = next((r for r in members if r["cheapest_by_parameters"]), None)
    by_seconds = next((r for r in members if r["cheapest_by_device_seconds"]), None)
    if by_parameters and by_seconds and by_parameters["device_seconds"] <= by_seconds["device_seconds"]:
        by_seconds = by_parameters  # equally fast
    cheapest = by_parameters or by_seconds
    if held.wording is Wording.NONE:
        return Answer(
            **common,
            word="no verdict",
            tone="open",
            grade=held.grade,
            caps=held.caps,
            sentence=f"{where} no verdict on the cheapest cell: {'; '.join(held.caps)}.",
            numbers=_numbers(rows, members, by_parameters, by_seconds),
        )
    return Answer(
        **common,
        model_scale=str(cheapest["model_scale"]) if cheapest else None,
        pretraining_source=str(cheapest["pretraining_source"]) if cheapest else None,
        word=_cell(cheapest) if cheapest else COST_NOT_RECORDED,
        tone="even" if len(members) < len(rows) else "open",
        grade=held.grade,
        caps=held.caps,
        sentence=_sentence(where, rows, members, by_parameters, by_seconds, held)
        + _yet(evidence, tables, by_parameters, held),
        numbers=_numbers(rows, members, by_parameters, by_seconds),
    )


def _cell(row: dict[str, Any]) -> str:
    return f"{row['model_scale']} · {row['pretraining_source']}"


def _sentence(
    where: str,
    rows: list[dict[str, Any]],
    members: list[dict[str, Any]],
    by_parameters: dict[str, Any] | None,
    by_seconds: dict[str, Any] | None,
    held: Held,
) -> str:
    parts = []
    if by_parameters:
        verb = held.verb("is", "seems to be")
        size = size_text(by_parameters["parameters"])
        parts.append(
            f"{where} the cheapest within noise of the best {verb} {_cell(by_parameters)} ({size} parameters"
            f"{_behind(by_parameters)})"
        )
    else:
        parts.append(f"{where} the best is within this set, whose costs are not recorded")
    if by_seconds and by_seconds is not by_parameters:
        parts.append(f"by training time {_cell(by_seconds)} ({seconds_text(by_seconds['device_seconds'])})")
    shown = ", ".join(f"{_cell(r)} {number(r['value'])}" for r in members[:_SHOWN_MEMBERS])
    more = f" and {len(members) - _SHOWN_MEMBERS} more" if len(members) > _SHOWN_MEMBERS else ""
    left_out = sum(bool(r["left_out"]) for r in rows)
    dropped = f" ({left_out} not comparable)" if left_out else ""
    parts.append(
        f"{len(members)} of {len(rows)} cells{dropped} may be the best or are within {rows[0]['delta']:g} of it: "
        f"{shown}{more}"
    )
    return "; ".join(parts) + "."


def _yet(evidence: Evidence, tables: Tables, row: dict[str, Any] | None, held: Held) -> str:
    """That question 1, whose tests are of two cells alone, shows another source to be better at the same scale.

    Comparing all cells at once shows less with few seeds; both statements hold, but readers must see them together.
    """
    if row is None or row["within_delta"]:
        return ""
    keys = ("task", "data_fraction", "set", "model_scale")
    here = [c for c in rows_of(tables.contrasts) if all(c[key] == row[key] for key in keys) and c["primary"]]
    if row["pretraining_source"] == evidence.baseline:
        better = [str(c["pretraining_source"]) for c in here if str(c["verdict"]).startswith("helps")]
    else:
        hurts = any(c["verdict"] == "hurts" and c["pretraining_source"] == row["pretraining_source"] for c in here)
        better = [evidence.baseline] if hurts else []
    verb = held.verb("is", "seems to be")
    return f" But {' and '.join(better)} {verb} better at {row['model_scale']} by question 1." if better else ""


def _behind(row: dict[str, Any]) -> str:
    """How far behind the best it may be; nothing of a cell that is shown to be within delta."""
    if row["within_delta"] or not math.isfinite(row["low"]):
        return ""
    behind = f"{signed(row['difference'])} to the best of the others, at worst {signed(row['low'])}"
    return f"; {behind}: not shown to be worse, nor to be within {row['delta']:g}"


def _numbers(
    rows: list[dict[str, Any]],
    members: list[dict[str, Any]],
    by_parameters: dict[str, Any] | None,
    by_seconds: dict[str, Any] | None,
) -> dict[str, Number]:
    return {
        "cells": len(rows),
        "members": len(members),
        "set": "; ".join(_cell(r) for r in members),
        "largest_mean": _cell(members[0]),
        "cheapest_by_parameters": _cell(by_parameters) if by_parameters else None,
        "parameters": float(by_parameters["parameters"]) if by_parameters else None,
        "cheapest_by_device_seconds": _cell(by_seconds) if by_seconds else None,
        "device_seconds": float(by_seconds["device_seconds"]) if by_seconds else None,
        "difference": finite_number(by_parameters["difference"]) if by_parameters else None,
        "low": finite_number(by_parameters["low"]) if by_parameters else None,
        "within_delta": bool(by_parameters["within_delta"]) if by_parameters else None,
        "level": float(rows[0]["level"]),
        "delta": float(rows[0]["delta"]),
    }
