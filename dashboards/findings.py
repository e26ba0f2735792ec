"""The result in sentences: the top of the page, and the first lines that a terminal shows."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from dashboards.answers import Answer
from dashboards.evidence import IN_DOMAIN, Evidence
from dashboards.page import Chip, Finding, FindingList, OverviewRow
from dashboards.statistics import Wording
from dashboards.style import amount_text, count, direction, metric_label, p_value, plural, signed
from dashboards.tables import Tables
from dashboards.verdict.best import COST_NOT_RECORDED
from dashboards.verdict.document import not_assessable
from dashboards.verdict.frame import questions
from dashboards.verdict.words import (
    HELPS,
    HURTS,
    NO_VERDICT,
    SAME,
    Held,
    badge_word,
    held_back,
    interval_text,
    primary_rows,
    rows_of,
    weakest,
)

SHOWN_IF_NOTHING_IS_DECIDED = 3
MAX_HEADLINES = 12
"""Comparisons that a terminal is shown in full."""
MAX_FURTHER_HEADLINES = 3
"""Lines of each further question there."""
MAX_OPEN = 8
"""Answers of a question that stand open on the page; the rest unfolds."""

_WORSE = tuple(badge_word("worse", hedged=hedged) for hedged in (False, True))
"""Badges of sets and subgroups that are headlines, too."""

_FOLDED = (2, 3, 4, 5, 6, 7, 8)
"""Questions whose answers stand in one list each; question 1 has one per task."""


def findings(evidence: Evidence, tables: Tables, answers: Sequence[Answer]) -> tuple[FindingList, ...]:
    """What the study found: the answers to the eight questions, then shifted sets and subgroups."""
    blocks: list[FindingList | None] = [*_help_blocks(evidence, answers)]
    for question in questions(evidence, tables):
        if question.number in _FOLDED:
            mine = [a for a in answers if a.question == question.number]
            blocks.append(_block(f"{question.number}. {question.text}", question.error_control, mine))
    blocks += [_shift_block(tables), _deficit_block(tables)]
    return tuple(block for block in blocks if block is not None)


def overview(evidence: Evidence, answers: Sequence[Answer]) -> tuple[OverviewRow, ...]:
    """One row per task, source and evaluation set: does it help, up to where, which labels it saves, how sure.

    Args:
        evidence: The study.
        answers: As ``verdict.frame.collect`` gives them.
    """
    rows: list[OverviewRow] = []
    fractions = {a.data_fraction for a in answers if a.question == 1 and a.numbers.get("primary")}
    keys = dict.fromkeys((a.task, a.pretraining_source, a.set) for a in answers if a.question == 1)
    for task, source, set_name in keys:
        mine = [a for a in answers if (a.task, a.pretraining_source, a.set) == (task, source, set_name)]
        helps = [a for a in mine if a.question == 1 and (a.data_fraction in fractions or not fractions)]
        rows.append(
            OverviewRow(
                task=str(task),
                source=str(source),
                set=str(set_name),
                primary=set_name in evidence.primary_sets,
                helps=tuple(_chip(a, f"{amount_text(str(a.data_fraction))} {a.model_scale}") for a in helps),
                where=_scale_chips(mine, 2),
                labels=_scale_chips(mine, 4),
                grade=next((str(a.grade) for a in mine if a.question == 8 and a.grade), ""),
            )
        )
    tasks = list(dict.fromkeys(row.task for row in rows))
    return tuple(sorted(rows, key=lambda r: (tasks.index(r.task), r.set != IN_DOMAIN, r.set)))


def _scale_chips(answers: Iterable[Answer], question: int) -> tuple[Chip, ...]:
    """A chip per curve: answers about one scale at no fixed amount, or at the amount they found."""
    chosen = [a for a in answers if a.question == question and "ladder" not in a.numbers]
    return tuple(_chip(a, str(a.model_scale)) for a in chosen)


def _chip(answer: Answer, label: str) -> Chip:
    held = _is_held(answer)
    word = badge_word(_SHORT.get(answer.word, answer.word), hedged=held)
    return Chip(label=label, word=word, tone=answer.tone, held=held)


_SHORT = {"not shown to reach it": "not shown", "reaches it, no saving shown": "reaches it"}


def _is_held(answer: Answer) -> bool:
    """Whether a gate holds the word of an answer back."""
    claims = answer.question != 8 and answer.word not in (NO_VERDICT, COST_NOT_RECORDED)
    return claims and bool(answer.caps)


def summary(evidence: Evidence, tables: Tables) -> str:
    """The result and its completeness in two or three sentences; what is held back is worded so."""
    primary = primary_rows(tables.contrasts)
    parts = []
    if primary.empty:
        parts.append(f"There is no primary comparison with {evidence.baseline} yet.")
    else:
        listed = _counted(primary)
        compared = plural(len(primary), "primary comparison")
        parts.append(f"Of {compared} with {evidence.baseline}, {', '.join(listed[:-1])} and {listed[-1]}.")
        for wording, words in ((Wording.SUGGESTS, "“Seems to”"), (Wording.NONE, "No verdict")):
            held = [r for r in rows_of(primary) if r["verdict"] != "undecided" and r["wording"] == str(wording)]
            if caps := Counter(cap for row in held for cap in _caps(row)):
                parts.append(f"{words} because of: {'; '.join(cap for cap, _ in caps.most_common(3))}.")
    if evidence.ingested is not None:
        parts.append(f"Results of {plural(len(evidence.results), 'trial')} that others ran.")
    elif not tables.completeness.empty:
        planned, done, failed = (int(tables.completeness[c].sum()) for c in ("planned", "done", "failed"))
        missing = planned - done - failed
        rest = [f"{failed} failed"] * bool(failed) + [f"{missing} not run yet"] * bool(missing)
        parts.append(", ".join([f"{count(done)} of {plural(planned, 'planned trial')} done", *rest]) + ".")
    return " ".join(parts)


def _counted(primary: pd.DataFrame) -> list[str]:
    """``2 help``, ``4 seem to help``, ``0 hurt``, ...: how many verdicts there are of each word and wording."""
    silent = Counter(str(w) for w, v in zip(primary["wording"], primary["verdict"], strict=True) if v != "undecided")
    none = silent[str(Wording.NONE)]
    listed = []
    for phrase, words, always in _COUNTED:
        mine = primary[primary["verdict"].isin(words)]
        states = int((mine["wording"] == str(Wording.STATES)).sum())
        suggests = int((mine["wording"] == str(Wording.SUGGESTS)).sum())
        if states or (always and not suggests):
            listed.append(phrase.counted(states, hedged=False))
        if suggests:
            listed.append(phrase.counted(suggests, hedged=True))
    undecided = int((primary["verdict"] == "undecided").sum())
    listed += [f"{none} {'has' if none == 1 else 'have'} no verdict"] * bool(none)
    return [*listed, f"{undecided} {'is' if undecided == 1 else 'are'} undecided"]


_COUNTED = (
    (HELPS, ("helps", "helps, meaningfully"), True),
    (HURTS, ("hurts",), True),
    (SAME, ("no meaningful difference",), False),
)
"""Words that are counted together, their phrase, and whether none of them is said, too."""


def _caps(row: dict[str, Any]) -> list[str]:
    return [part for part in str(row["cap"]).split("; ") if part]


def headlines(evidence: Evidence, tables: Tables, answers: Sequence[Answer]) -> list[str]:
    """The verdict for a terminal: decided answers in full as far as they are not too many, undecided ones counted."""
    lines = [summary(evidence, tables)]
    primary = [a for a in answers if a.question == 1 and a.numbers.get("primary")]
    decided = [a for a in primary if a.word != "undecided"]
    decided.sort(key=lambda a: a.tone == "even")
    lines += [a.sentence for a in decided[:MAX_HEADLINES]]
    if len(decided) > MAX_HEADLINES:
        lines.append(_more(len(decided) - MAX_HEADLINES, "more decided comparison"))
    for number in (2, 3, 4, 5, 6, 7):
        lines += _further_headlines(number, answers)
    for block in (_shift_block(tables), _deficit_block(tables)):
        lines += [f.text for f in block.findings if f.badge in _WORSE] if block else []
    lines += [a.sentence for a in answers if a.question == 8 and a.tone == "bad"]
    return lines


def _more(n: int, what: str, about: str = "") -> str:
    """``1 more answer to question 6 is in the report.``"""
    return f"{plural(n, what)}{about} {'is' if n == 1 else 'are'} in the report."


def _further_headlines(number: int, answers: Iterable[Answer]) -> list[str]:
    """The first decided answers of a further question, in domain; of question 2 those about scale or harm alone."""
    mine = [a for a in answers if a.question == number and a.set in (IN_DOMAIN, None) and a.tone in ("good", "bad")]
    if number == 2:
        mine = [a for a in mine if "ladder" in a.numbers or a.tone == "bad" or a.numbers.get("crossing_shown")]
    if number == 3:
        of_set = [a for a in answers if a.question == 3 and a.set == IN_DOMAIN and a.tone == "even"]
        mine = list({a.task: a for a in of_set}.values())  # of a task the largest amount, which comes last
    lines = [a.sentence for a in mine[:MAX_FURTHER_HEADLINES]]
    if len(mine) > MAX_FURTHER_HEADLINES:
        lines.append(_more(len(mine) - MAX_FURTHER_HEADLINES, "more answer", f" to question {number}"))
    return lines


def _help_blocks(evidence: Evidence, answers: Sequence[Answer]) -> list[FindingList]:
    blocks = []
    mine = [a for a in answers if a.question == 1]
    for task in dict.fromkeys(a.task for a in mine):
        of_task = [a for a in mine if a.task == task]
        primary = sorted((a for a in of_task if a.numbers.get("primary")), key=lambda a: a.word == "undecided")
        undecided = sum(a.word == "undecided" for a in primary)
        if primary:
            blocks.append(
                FindingList(
                    heading=f"1. {task}: does pretraining help?",
                    intro=f"Each source against {evidence.baseline}, primary comparisons.",
                    findings=tuple(map(_finding, primary)),
                    open=max(len(primary) - undecided, min(len(primary), SHOWN_IF_NOTHING_IS_DECIDED)),
                    rest=f"{undecided} undecided, and what is missing to decide them",
                )
            )
        rest = sorted(
            (a for a in of_task if not a.numbers.get("primary")),
            key=lambda a: (a.word == "undecided", a.set == IN_DOMAIN),
        )
        if rest:
            blocks.append(
                FindingList(
                    heading=f"1. {task}: on shifted sets and at other amounts",
                    intro="Exploratory, each set with a correction of its own.",
                    findings=tuple(map(_finding, rest)),
                    open=0,
                    rest=f"{plural(len(rest), 'exploratory comparison')}, "
                    f"{sum(a.word != 'undecided' for a in rest)} of them decided",
                )
            )
    return blocks


def _block(heading: str, intro: str, answers: Sequence[Answer]) -> FindingList | None:
    if not answers:
        return None
    ordered = sorted(answers, key=lambda a: (a.tone == "open", a.set not in (IN_DOMAIN, None)))
    decided = sum(a.tone != "open" and a.set in (IN_DOMAIN, None) for a in ordered)
    shown = min(max(decided, SHOWN_IF_NOTHING_IS_DECIDED), MAX_OPEN)
    return FindingList(
        heading=heading,
        intro=intro,
        findings=tuple(map(_finding, ordered)),
        open=shown,
        rest=f"{plural(max(len(ordered) - shown, 0), 'more answer')}",
    )


def _finding(answer: Answer) -> Finding:
    hedged = bool(answer.caps) and answer.question != 8
    details = [f"{'No verdict' if answer.word == 'no verdict' else 'Suggests only'}: {'; '.join(answer.caps)}."]
    details = details if hedged else []
    missing = str(answer.numbers.get("missing") or "")
    if missing:
        details.append(f"{missing[0].upper()}{missing[1:]}.")
    if answer.question == 1 and answer.numbers.get("not_worse") and answer.word == "undecided":
        details.append(f"Not worse than the baseline by {answer.numbers['delta']:g} or more (non-inferior).")
    return Finding(
        badge=badge_word(answer.word, hedged=_is_held(answer)),
        tone="open" if hedged and answer.tone != "open" else answer.tone,
        text=answer.sentence,
        detail=" ".join(details),
        grade=answer.grade or "",
    )


def _shift_block(tables: Tables) -> FindingList | None:
    if tables.shift_summary.empty:
        return None
    return FindingList(
        heading="Away from the test set",
        intro="Performance on test minus performance on the other set, averaged over scales and sources at the largest "
        "amount; p adjusted by Holm over these rows. Exploratory.",
        findings=tuple(_shift_finding(tables, r) for r in rows_of(tables.shift_summary)),
    )


def _shift_finding(tables: Tables, row: dict[str, Any]) -> Finding:
    claims = {
        "bad": ("performance is worse than on test", "performance seems to be worse than on test"),
        "good": ("performance is better than on test", "performance seems to be better than on test"),
        "open": ("no clear change to test", "no clear change to test"),
    }
    where = f"{row['task']} on {row['set']}, {amount_text(str(row['data_fraction']))} of the labels"
    sets = (str(row["set"]), IN_DOMAIN)
    return _group_finding(_held_of(tables, row, sets), row, "drop", where, claims)


def _held_of(tables: Tables, row: dict[str, Any], sets: Sequence[str]) -> Held:
    """What the gates leave of a statement about all cells of one amount, on each of these sets."""
    task, amount, seeds = str(row["task"]), str(row["data_fraction"]), int(row["n_seeds"])
    return weakest(
        *(held_back(tables.contrasts, task=task, set_name=s, fractions=(amount,), n_seeds=seeds) for s in sets)
    )


def _group_finding(
    held: Held, row: dict[str, Any], name: str, where: str, claims: Mapping[str, tuple[str, str]]
) -> Finding:
    """A change of patients in words no stronger than the gates allow.

    Args:
        held: What they allow.
        row: With the change and its p.
        name: Column of the change.
        where: What it is about.
        claims: Tone -> the claim as stated, and as suggested.
    """
    tone = _tone(row, name)
    badge = {"bad": "worse", "good": "better", "open": "undecided"}[tone]
    numbers = f"{_change_text(row, name)}, {plural(int(row['cells']), 'cell')})"
    if tone == "open":
        return Finding(badge=badge, tone=tone, text=f"{where}: {claims[tone][0]}; {numbers}.")
    caps = "; ".join(held.caps)
    grade = held.grade or ""
    if held.wording is Wording.NONE:
        return Finding(badge=str(Wording.NONE), tone="open", text=f"{where}: no verdict: {caps}.", grade=grade)
    text = f"{where}: {held.verb(*claims[tone])}; {numbers}."
    if held.states:
        return Finding(badge=badge, tone=tone, text=text, grade=grade)
    return Finding(
        badge=badge_word(badge, hedged=True), tone="open", text=text, detail=f"Suggests only: {caps}.", grade=grade
    )


def _deficit_block(tables: Tables) -> FindingList | None:
    missing = not_assessable(tables)
    if tables.deficits.empty and not missing:
        return None
    found = [_deficit_finding(tables, r) for r in rows_of(tables.deficits)]
    found.sort(key=lambda f: (("bad", "good", "open").index(f.tone), f.badge not in _WORSE, f.badge == "undecided"))
    listed = "; ".join(f"{m['task']} {m['set']} {m['column']}={m['group']} {m['note']}" for m in missing)
    rest = (
        [Finding(badge="not assessable", tone="open", text=f"Too few patients, or not recorded: {listed}.")]
        if missing
        else []
    )
    return FindingList(
        heading="Subgroups",
        intro="Each subgroup against all other patients of the set, averaged over scales and sources at the largest "
        "amount; p adjusted by Holm over these rows. Exploratory.",
        findings=(*found, *rest),
    )


def _deficit_finding(tables: Tables, row: dict[str, Any]) -> Finding:
    claims = {
        "bad": ("worse than all other patients", "seems to be worse than all other patients"),
        "good": ("better than all other patients", "seems to be better than all other patients"),
        "open": ("not shown to differ from all other patients", "not shown to differ from all other patients"),
    }
    where = f"{row['task']} on {row['set']}, {row['column']} = {row['group']}"
    return _group_finding(_held_of(tables, row, (str(row["set"]),)), row, "deficit", where, claims)


def _change_text(row: dict[str, Any], name: str) -> str:
    """``macro AUC −0.159 (95 % CI −0.222 to −0.096; Holm p < 0.001; 3 seeds``; a loss is turned into a change."""
    sign = -direction(row["metric"])
    ends = sorted([sign * row[f"{name}_low"], sign * row[f"{name}_high"]])
    interval = interval_text(ends[0], ends[1], row["level"])
    p = f"Holm {p_value(row['p_holm'])}" if math.isfinite(row["p_holm"]) else "not tested"
    change = f"{metric_label(row['metric'])} {signed(sign * row[name])}"
    return f"{change} ({interval}; {p}; {plural(int(row['n_seeds']), 'seed')}"


def _tone(row: dict[str, Any], name: str) -> str:
    if not row["p_holm"] < 1 - row["level"]:
        return "open"
    return "bad" if row[name] > 0 else "good"
