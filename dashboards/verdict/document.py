"""``verdict.json``: the answers as data, in a versioned form (docs/verdict.md describes every field)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

import pandas as pd
from pydantic import Field

from dashboards.answers import Answer, Tone
from dashboards.evidence import Evidence
from dashboards.statistics import Letter, Wording
from dashboards.tables import Tables
from dashboards.verdict.frame import questions
from dashboards.verdict.ledger import Ledger
from dashboards.verdict.words import contrast_sentence, json_value, listed, plain, rows_of
from search_spaces.models import StrictModel
from search_spaces.names import SCIENCE_VERSION

VERDICT_SCHEMA = 2

Value = bool | int | float | str | None


class AnswerModel(StrictModel):
    """One answer; the fields of ``dashboards.answers.Answer``."""

    question: int = Field(ge=1, le=8)
    task: str | None
    pretraining_source: str | None
    model_scale: str | None
    data_fraction: str | None
    set: str | None
    word: str = Field(min_length=1)
    sentence: str = Field(min_length=1)
    tone: Tone
    grade: Literal["A", "B", "C", "F"] | None
    caps: list[str]
    numbers: dict[str, Value]


class QuestionModel(StrictModel):
    """One of the eight questions with its answers."""

    number: int = Field(ge=1, le=8)
    question: str
    error_control: str = Field(min_length=1)
    answers: list[AnswerModel]


class StatisticsModel(StrictModel):
    """What was decided before results were seen."""

    baseline: str
    delta: float
    alpha: float
    family: str
    primary_contrasts: int
    primary_fractions: list[str]
    primary_sets: list[str]
    groups: list[str]
    price_per_label: float | None


class ReadModel(StrictModel):
    """One entry of the ledger; the fields of ``dashboards.verdict.ledger.Read``."""

    report_id: str
    read_at: str
    reader: str
    study: str
    sets: list[str]
    trials: int
    seeds: list[str]
    results_hash: str


class LedgerModel(StrictModel):
    """Who read which test results when."""

    this: ReadModel
    earlier: list[ReadModel]
    place: str
    damaged: int
    added_seeds: list[str]
    added_trials: int
    sentence: str


class GateModel(StrictModel):
    """One gate of one task, source and set."""

    task: str
    pretraining_source: str
    set: str
    gate: str
    question: str
    contrasts: int
    passed: int
    reasons: str
    cap: Literal["", "A", "B", "C", "F"]


class ExclusionModel(StrictModel):
    """Results that are not used, used in part or doubtful, of one reason."""

    reason: str
    task: str
    set: str
    trials: int = Field(ge=1)
    trial_ids: str
    detail: str


class ContrastModel(StrictModel):
    """One contrast. Numbers beyond these lie in ``tables/contrasts.csv``."""

    task: str
    model_scale: str
    pretraining_source: str
    data_fraction: str
    baseline: str
    set: str
    metric: str
    primary: bool
    estimate: float | None
    low: float | None
    high: float | None
    level: float
    se: float | None
    df: float | None
    v_case: float | None
    v_seed: float | None
    p: float | None
    p_adjusted: float | None
    correction: str
    delta: float
    inner_low: float | None
    inner_high: float | None
    p_equivalent: float | None
    p_not_worse: float | None
    n_seeds: int
    n_patients: int
    images: float | None
    verdict: Literal["helps, meaningfully", "helps", "no meaningful difference", "hurts", "undecided"]
    words: str
    grade: Letter
    wording: Wording
    suggests_only_because: list[str]
    reasons: list[str]
    caveats: list[str]
    lost_trials: int
    holds_at_chance: bool
    missing: str
    needed_seeds: float | None
    needed_patients: float | None
    seed_design: str
    share_patients: float | None
    share_seeds: float | None
    share_subset: float | None
    share_initialisation: float | None
    share_interaction: float | None
    sentence: str


class _MeanDifferenceModel(StrictModel):
    """A metric on some patients minus that on others, mean over the cells of the largest amount; null where undefined.

    Attributes:
        level: Nominal coverage of the interval.
        p: Two-sided, alone; ``p_holm`` over all rows of the list.
        notes: What was left out of the mean, joined by semicolons.
    """

    task: str
    set: str
    metric: str
    data_fraction: str
    cells: int = Field(ge=1)
    level: float | None
    p: float | None
    p_holm: float | None
    n_seeds: int = Field(ge=0)
    n_patients: int = Field(ge=0)
    notes: str


class ShiftedSetModel(_MeanDifferenceModel):
    """The loss from the in-domain test to one shifted set; above 0 it is worse there.

    Attributes:
        drop, drop_low, drop_high: The loss with its interval.
        classes: Classes that a macro average is over on both sides, joined by commas; empty of other metrics.
    """

    drop: float | None
    drop_low: float | None
    drop_high: float | None
    classes: str


class SubgroupModel(_MeanDifferenceModel):
    """How far one subgroup stays behind all other patients of a set; above 0 it is worse inside.

    Attributes:
        column, group: The subgroup.
        deficit, deficit_low, deficit_high: How far, with the interval.
    """

    column: str
    group: str
    deficit: float | None
    deficit_low: float | None
    deficit_high: float | None


class NotAssessableModel(StrictModel):
    """A subgroup that nothing can be said of, or a column that a set lacks (``group`` "any")."""

    task: str
    set: str
    column: str
    group: str
    note: str = Field(min_length=1)


class VerdictFile(StrictModel):
    """``verdict.json``, schema 2."""

    schema_: Literal[2] = Field(alias="schema")
    study: str
    science_version: int
    made_by: str
    statistics: StatisticsModel
    trials: dict[Literal["planned", "done", "failed", "missing"], int]
    summary: str
    questions: list[QuestionModel] = Field(min_length=8, max_length=8)
    contrasts: list[ContrastModel]
    gates: list[GateModel]
    exclusions: list[ExclusionModel]
    ledger: LedgerModel
    shifted_sets: list[ShiftedSetModel]
    subgroups: list[SubgroupModel]
    not_assessable: list[NotAssessableModel]


def verdict_document(
    evidence: Evidence, tables: Tables, answers: Sequence[Answer], ledger: Ledger, summary: str
) -> dict[str, Any]:
    """The verdict as JSON data, checked against its schema; numbers that do not exist are null.

    Args:
        evidence: The study.
        tables: Its tables.
        answers: As ``frame.collect`` gives them.
        ledger: Who read its test results when.
        summary: The result in two or three sentences.
    """
    document = {
        "schema": VERDICT_SCHEMA,
        "study": evidence.name,
        "science_version": SCIENCE_VERSION,
        "made_by": _made_by(),
        "statistics": _statistics(evidence, tables),
        "trials": _counts(tables.completeness),
        "summary": summary,
        "questions": _questions(evidence, tables, answers),
        "contrasts": [_contrast(row) for row in rows_of(tables.contrasts)],
        "gates": [plain(row) for row in rows_of(tables.gates)],
        "exclusions": [plain(row) for row in rows_of(tables.exclusions)],
        "ledger": _ledger(ledger),
        "shifted_sets": [plain(row) for row in rows_of(tables.shift_summary)],
        "subgroups": [plain(row) for row in rows_of(tables.deficits)],
        "not_assessable": not_assessable(tables),
    }
    return VerdictFile.model_validate(document).model_dump(mode="json", by_alias=True)


def schema_text() -> str:
    """The JSON Schema (2020-12) of ``verdict.json``, for readers that are not written in Python."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema"} | VerdictFile.model_json_schema()
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def not_assessable(tables: Tables) -> list[dict[str, Any]]:
    """Subgroups with too few patients for any statement, and columns that are blank for all patients of a set."""
    subgroups = tables.subgroups
    unrecorded = [
        {"task": task, "set": name, "column": column, "group": "any", "note": "not recorded"}
        for (task, name), columns in tables.unrecorded.items()
        for column in columns
    ]
    if subgroups.empty:
        return unrecorded
    rows = subgroups[~subgroups["sufficient"].astype(bool)]
    return [*rows_of(rows[["task", "set", "column", "group", "note"]].drop_duplicates()), *unrecorded]


def _made_by() -> str:
    try:
        return f"scalecurves {version('scalecurves')}"
    except PackageNotFoundError:
        return "scalecurves"


def _statistics(evidence: Evidence, tables: Tables) -> dict[str, Any]:
    contrasts = tables.contrasts
    primary = contrasts[contrasts["primary"]] if len(contrasts) else contrasts
    plan = evidence.statistics
    return {
        "baseline": evidence.baseline,
        "delta": evidence.delta,
        "alpha": evidence.alpha,
        "family": "Holm over the primary contrasts of the whole study",
        "primary_contrasts": len(primary),
        "primary_fractions": list(dict.fromkeys(primary["data_fraction"])) if len(primary) else [],
        "primary_sets": list(evidence.primary_sets),
        "groups": list(plan.groups),
        "price_per_label": plan.price_per_label,
    }


def _counts(completeness: pd.DataFrame) -> dict[str, int]:
    if completeness.empty:
        return {}
    return {name: int(completeness[name].sum()) for name in ("planned", "done", "failed", "missing")}


def _questions(evidence: Evidence, tables: Tables, answers: Sequence[Answer]) -> list[dict[str, Any]]:
    return [
        {
            "number": question.number,
            "question": question.text,
            "error_control": question.error_control,
            "answers": [_answer(a) for a in answers if a.question == question.number],
        }
        for question in questions(evidence, tables)
    ]


def _answer(answer: Answer) -> dict[str, Any]:
    written = asdict(answer)
    return written | {"caps": list(answer.caps), "numbers": plain(answer.numbers)}


def _contrast(row: Mapping[str, Any]) -> dict[str, Any]:
    made = {
        "sentence": contrast_sentence(row),
        "suggests_only_because": listed(str(row["cap"])),
        "reasons": listed(str(row["reasons"])),
        "caveats": listed(str(row["caveats"])),
    }
    kept = {name: json_value(row[name]) for name in ContrastModel.model_fields if name not in made}
    return kept | made


def _ledger(ledger: Ledger) -> dict[str, Any]:
    return {
        "this": _read(asdict(ledger.this)),
        "earlier": [_read(asdict(read)) for read in ledger.earlier],
        "place": ledger.place,
        "damaged": ledger.damaged,
        "added_seeds": list(ledger.added_seeds),
        "added_trials": ledger.added_trials,
        "sentence": ledger.sentence,
    }


def _read(fields: dict[str, Any]) -> dict[str, Any]:
    return fields | {"sets": list(fields["sets"]), "seeds": list(fields["seeds"])}
