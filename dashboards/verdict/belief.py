"""Question 8: why believe it? Gates with the facts behind them, trials without a result, and who looked when."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from dashboards.answers import Answer, Number, Tone
from dashboards.evidence import Evidence
from dashboards.exclusions import not_used, word_of
from dashboards.plots import split
from dashboards.primary_family import ContrastName, absent_contrasts
from dashboards.statistics import Letter
from dashboards.style import amount_text, plural
from dashboards.tables import Tables
from dashboards.verdict.words import as_grade, evaluated_on, primary_rows, rows_of

_TONES: dict[str, Tone] = {"A": "good", "B": "even", "C": "open", "F": "bad"}


def belief_answers(evidence: Evidence, tables: Tables) -> list[Answer]:
    """One per task, source and evaluation set; then lost trials and excluded results of the whole study."""
    found = [_graded(tables, key, rows) for key, rows in _groups(tables)]
    lost = _lost(evidence, tables)
    return [*found, *([lost] if lost else []), *_excluded(tables)]


def _groups(tables: Tables) -> list[tuple[tuple[Any, ...], pd.DataFrame]]:
    return split(tables.gates, "task", "pretraining_source", "set") if len(tables.gates) else []


def _graded(tables: Tables, key: tuple[Any, ...], gates: pd.DataFrame) -> Answer:
    task, source, set_name = map(str, key)
    contrasts = tables.contrasts
    mine = contrasts[
        (contrasts["task"] == task) & (contrasts["pretraining_source"] == source) & (contrasts["set"] == set_name)
    ]
    mine = mine[mine["primary"]] if mine["primary"].any() else mine
    letters = [Letter(str(g)) for g in mine["grade"]]
    worst = max(letters, key=list(Letter).index)
    open_ = [row for row in rows_of(gates) if row["passed"] < row["contrasts"]]
    passed = [row for row in rows_of(gates) if row["passed"] == row["contrasts"]]
    numbers: dict[str, Number] = {
        "gates": len(gates),
        "passed": len(passed),
        "contrasts": len(mine),
        "lost_trials": int(mine["lost_trials"].sum()),
        "n_seeds": int(mine["n_seeds"].min()),
    }
    numbers |= {f"grade_{letter}": letters.count(letter) for letter in Letter if letter in letters}
    return Answer(
        question=8,
        task=task,
        pretraining_source=source,
        set=set_name,
        word=f"grade {worst}",
        sentence=_sentence(task, source, set_name, str(worst), passed, open_),
        tone=_TONES[str(worst)],
        grade=as_grade(worst),
        caps=tuple(dict.fromkeys(str(row["reasons"]) for row in open_)),
        numbers=numbers,
    )


def _sentence(
    task: str,
    source: str,
    set_name: str,
    letter: str,
    passed: list[dict[str, Any]],
    open_: list[dict[str, Any]],
) -> str:
    held = [
        f"{row['reasons']} ({row['contrasts'] - row['passed']} of {plural(int(row['contrasts']), 'contrast')})"
        for row in open_
    ]
    because = f", because {'; '.join(held)}" if held else ""
    sound = f" Checked and passed: {'; '.join(str(row['question']) for row in passed)}." if passed else ""
    return f"{source} on {task}, {set_name}: grade {letter}{because}.{sound}"


def _lost(evidence: Evidence, tables: Tables) -> Answer | None:
    """What the verdicts of the primary family do with every lost trial scored at chance, and what is not there."""
    primary = primary_rows(tables.contrasts)
    absent = absent_contrasts(evidence, tables.contrasts)
    if primary.empty and not absent:
        return None
    if evidence.ingested is not None and evidence.failures.empty and not absent:
        sentence = "What was planned is not in the results of others: trials that failed or were left out are not seen."
        return Answer(question=8, word="lost trials not known", sentence=sentence, tone="open")
    touched = primary[primary["lost_trials"] > 0] if len(primary) else primary
    changed = touched[~touched["holds_at_chance"].astype(bool)] if len(touched) else touched
    counts = tables.completeness
    failed, missing = (int(counts[c].sum()) if len(counts) else 0 for c in ("failed", "missing"))
    numbers: dict[str, Number] = {
        "primary_contrasts": len(primary),
        "with_lost_trials": len(touched),
        "changed_at_chance": len(changed),
        "absent_contrasts": len(absent),
        "failed": failed,
        "missing": missing,
    }
    if touched.empty:
        sentence, word = "No primary comparison lacks a planned trial.", "nothing lost"
    else:
        sentence = (
            f"{plural(len(touched), 'primary comparison')} without all planned trials ({failed} failed, {missing} not "
            "there); "
            f"with all lost trials scored at chance, {len(changed)} of their verdicts change."
        )
        word = "verdicts change at chance" if len(changed) else "verdicts hold at chance"
    if absent:
        sentence = _absent_sentence(absent, failed, missing) + (f" {sentence}" if len(touched) else "")
        word = "comparisons missing"
    tone: Tone = "bad" if absent or len(changed) else "good"
    return Answer(question=8, word=word, sentence=sentence, tone=tone, numbers=numbers)


def _absent_sentence(absent: Sequence[ContrastName], failed: int, missing: int) -> str:
    """Every comparison that is not there, by name: nobody else says so."""
    named = [
        f"{source} on {task} at {amount_text(amount)} ({scale}){evaluated_on(name)}"
        for task, scale, source, amount, name in absent
    ]
    have = "has" if len(absent) == 1 else "have"
    return (
        f"{plural(len(absent), 'planned primary comparison')} {have} no result ({failed} trials failed, {missing} not "
        f"there); in Holm's family each counts as not shown: {'; '.join(named)}."
    )


def _excluded(tables: Tables) -> list[Answer]:
    return [
        Answer(
            question=8,
            task=str(row["task"]),
            set=None if row["set"] == "all" else str(row["set"]),
            word=word_of(str(row["reason"])),
            sentence=_excluded_sentence(row),
            tone="open",
            numbers={"trials": int(row["trials"]), "reason": str(row["reason"])},
        )
        for row in rows_of(tables.exclusions)
    ]


def _excluded_sentence(row: dict[str, Any]) -> str:
    count = f"{plural(int(row['trials']), 'result')} of {row['task']}"
    detail = f"; {row['detail']}" if row["detail"] else ""
    return f"{not_used(count, str(row['reason']))} ({row['trial_ids']}{detail})."
