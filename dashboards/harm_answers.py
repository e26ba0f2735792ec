"""Answers to question 5: is anyone harmed?"""

from __future__ import annotations

import math
from typing import Any

from dashboards.answer_words import Rows, by_place, cell_of, finite_number, hold
from dashboards.answers import Answer, Number, Tone
from dashboards.evidence import Evidence
from dashboards.style import metric_label, number, p_value, plural, signed
from dashboards.tables import Tables
from dashboards.verdict.words import on_cell

ERROR_CONTROL = (
    "Harm: Holm over all subgroups (two-way intersections included) with at least 20 positive and 20 negative patients "
    "of all comparisons at the primary amounts, on all sets of the study; those without a result count as not shown. "
    "No harm: Holm over the subgroups of one comparison on one set. Gaps: permutation of patients, Holm over the "
    "attributes of a cell on one set."
)

HARMED = ("harmed, more than delta", "harmed")
NOT_EXCLUDED = "harm cannot be excluded"
NO_HARM = "no harm beyond delta"
NOT_ASSESSABLE = "not assessable"
_LISTED = 6


def harm_answers(evidence: Evidence, tables: Tables) -> list[Answer]:
    """One per source, scale, primary amount and evaluation set; then one per set where a column is not recorded."""
    harm = tables.of("harm")
    blank = [_not_recorded(*place, columns) for place, columns in tables.unrecorded.items()]
    if harm.empty:
        return blank
    contrasts, gaps = by_place(tables.contrasts), by_place(tables.of("group_gaps"))
    cells = by_place(harm[harm["primary"].astype(bool)])
    return [*(_answer(evidence, contrasts, rows, gaps.get(place, [])) for place, rows in cells.items()), *blank]


def _not_recorded(task: str, set_name: str, columns: tuple[str, ...]) -> Answer:
    """What the study asks for and nobody wrote down."""
    are = "is" if len(columns) == 1 else "are"
    return Answer(
        question=5,
        task=task,
        set=set_name,
        word=NOT_ASSESSABLE,
        sentence=f"Harm on {task}, {set_name} cannot be assessed by {', '.join(columns)}, which {are} not recorded "
        "there.",
        tone="open",
        numbers={"not_recorded": ", ".join(columns)},
    )


def _answer(evidence: Evidence, contrasts: Rows, rows: list[dict[str, Any]], gaps: list[dict[str, Any]]) -> Answer:
    first = rows[0]
    tested = [row for row in rows if row["word"] != "insufficient data"]
    seeds = min((int(row["n_seeds"]) for row in tested), default=0)
    held = hold(contrasts, first, seeds)
    word = _word(tested)
    claims = word not in (NOT_ASSESSABLE, NOT_EXCLUDED)
    silent = held.silent and claims
    return Answer(
        question=5,
        **cell_of(first),
        set=str(first["set"]),
        word="no verdict" if silent else word,
        sentence=_silent(first, held.caps) if silent else _sentence(evidence, rows, tested, word, not held.states),
        tone="open" if silent else _tone(word),
        grade=held.grade if claims else None,
        caps=held.caps if claims else (),
        numbers=_numbers(rows, tested, gaps),
    )


def _word(tested: list[dict[str, Any]]) -> str:
    words = {row["word"] for row in tested}
    return next((word for word in (*HARMED, NOT_EXCLUDED, NO_HARM) if word in words), NOT_ASSESSABLE)


def _tone(word: str) -> Tone:
    if word in HARMED:
        return "bad"
    return "good" if word == NO_HARM else "open"


def _silent(row: dict[str, Any], caps: tuple[str, ...]) -> str:
    return f"No verdict on harm by {row['pretraining_source']} {on_cell(row)}: {'; '.join(caps)}."


def _sentence(
    evidence: Evidence, rows: list[dict[str, Any]], tested: list[dict[str, Any]], word: str, hedged: bool
) -> str:
    first, source = rows[0], rows[0]["pretraining_source"]
    small = _not_assessable(rows)
    rest = f" Not assessable: {small}." if small else ""
    groups = plural(len(tested), "group")
    if word == NOT_ASSESSABLE:
        return f"Harm by {source} {on_cell(first)} cannot be assessed in any subgroup.{rest}"
    if word == NO_HARM:
        claim = f"{source} {'seems to do' if hedged else 'does'} no harm beyond {evidence.delta:g} {on_cell(first)}"
        return f"{claim} in any of {groups}; {_numbers_text(_worst(tested))}.{rest}"
    hit = [row for row in tested if row["word"] == word] if word == NOT_EXCLUDED else _harmed(tested)
    worst = _worst(hit)
    if word == NOT_EXCLUDED:
        claim = f"Harm by {source} {on_cell(first)} cannot be excluded in {len(hit)} of {groups}"
        return f"{claim}; {_numbers_text(worst)}.{rest}"
    others = [_name(row) for row in hit if row is not worst]
    more = f" Also harmed: {_list(others)}." if others else ""
    open_ = [row for row in tested if row["word"] == NOT_EXCLUDED]
    unsure = f" In {len(open_)} of {groups} harm cannot be excluded." if open_ else ""
    verb = "seems to harm" if hedged else "harms"
    return f"{source} {verb} {_name(worst)} {on_cell(first)}: {_change(worst)}.{more}{unsure}{rest}"


def _harmed(tested: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in tested if row["word"] in HARMED]


def _worst(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The group with the strongest evidence of harm."""
    return min(rows, key=lambda row: (row["p_harmed"], row["low"]))


def _name(row: dict[str, Any]) -> str:
    pairs = zip(str(row["column"]).split(" & "), str(row["group"]).split(" & "), strict=False)
    return " & ".join(f"{column} = {group}" for column, group in pairs)


def _numbers_text(row: dict[str, Any]) -> str:
    return f"most in question is {_name(row)}, {_change(row)}"


def _change(row: dict[str, Any]) -> str:
    ends = f"{100 * row['level']:g} % CI {signed(row['low'])} to {signed(row['high'])}"
    sizes = f"{plural(int(row['n_seeds']), 'seed')}, {plural(int(row['group_patients']), 'patient')}"
    test = f"Holm {p_value(row['p_harmed'])} for harm"
    metric = metric_label(str(row["metric"]))
    levels = f"{number(row['baseline_value'])} to {number(row['source_value'])}"
    return f"{signed(row['estimate'])} {metric} ({levels}; {ends}; {test}; {sizes})"


def _not_assessable(rows: list[dict[str, Any]]) -> str:
    small = [f"{_name(row)} {row['note']}" for row in rows if row["word"] == "insufficient data"]
    return _list(small)


def _list(names: list[str]) -> str:
    shown = "; ".join(names[:_LISTED])
    return f"{shown} and {len(names) - _LISTED} more" if len(names) > _LISTED else shown


def _numbers(rows: list[dict[str, Any]], tested: list[dict[str, Any]], gaps: list[dict[str, Any]]) -> dict[str, Number]:
    counts = {f"groups_{k.replace(' ', '_').replace(',', '')}": sum(r["word"] == k for r in rows) for k in _WORDS}
    found: dict[str, Number] = {"groups": len(rows), **counts, "not_assessable": _not_assessable(rows) or None}
    if tested:
        worst = _worst(tested)
        found |= {"group": _name(worst), "level": float(worst["level"]), "delta": float(worst["delta"])}
        for name in ("estimate", "low", "high", "p_harmed", "p_beyond", "p_excluded", "source_value", "baseline_value"):
            found[name] = finite_number(worst[name])
    return found | _gap_numbers(gaps)


_WORDS = (*HARMED, NOT_EXCLUDED, NO_HARM, "insufficient data")


def _gap_numbers(gaps: list[dict[str, Any]]) -> dict[str, Number]:
    """The attribute whose gap chance explains least."""
    known = [row for row in gaps if math.isfinite(row["p_holm"])]
    if not known:
        return {}
    row = min(known, key=lambda r: (r["p_holm"], -r["gap"]))
    found: dict[str, Number] = {"gap_attribute": str(row["column"]), "worst_group": str(row["worst_group"])}
    names = ("gap", "null_quantile", "p_holm", "worst_value", "overall", "equity_scaled_auc")
    return found | {("gap_p_holm" if n == "p_holm" else n): finite_number(row[n]) for n in names}
