"""The eight questions in their fixed order, the functions that answer them, and what each answer controls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dashboards import confidence_answers, harm_answers, speed_answers
from dashboards.answers import Answer
from dashboards.evidence import Evidence
from dashboards.primary_family import absent_contrasts
from dashboards.style import plural
from dashboards.tables import Tables
from dashboards.verdict.belief import belief_answers
from dashboards.verdict.best import best_answers
from dashboards.verdict.helps import help_answers
from dashboards.verdict.labels import label_answers
from dashboards.verdict.ledger import Ledger
from dashboards.verdict.where import where_answers
from dashboards.verdict.words import primary_rows

Answering = Callable[[Evidence, Tables], list[Answer]]

ANSWERING: tuple[Answering, ...] = (
    help_answers,
    where_answers,
    best_answers,
    label_answers,
    harm_answers.harm_answers,
    confidence_answers.confidence_answers,
    speed_answers.speed_answers,
    belief_answers,
)
"""Functions that answer; several may answer one question. Answers are put in the order of the questions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One of the eight questions.

    Attributes:
        number: 1 to 8.
        text: The question.
        error_control: What its answers are corrected for together.
    """

    number: int
    text: str
    error_control: str


def questions(evidence: Evidence, tables: Tables) -> tuple[Question, ...]:
    """The eight questions with the error control of this study's answers."""
    family = plural(len(primary_rows(tables.contrasts)), "primary contrast")
    if absent := len(absent_contrasts(evidence, tables.contrasts)):
        family += f" and {absent} planned without a result"
    texts = (
        (
            "Does the source help?",
            f"Holm over the {family} of the whole study at {evidence.alpha:g}; all others exploratory, "
            "Benjamini-Hochberg per task and evaluation set.",
        ),
        (
            "Where does it help?",
            "Amounts: named only on curves on which question 1 shows help or harm, whose family is the whole study; "
            f"then Holm over the amounts of one curve at {evidence.alpha:g}. Crossing: a {_level(evidence)} set by "
            "inverting the test of no difference, per curve. Scale: Holm over the differences of differences of the "
            "whole study at the primary amounts and sets, within ladders only.",
        ),
        (
            "Which is the cheapest within noise of the best?",
            f"Hsu's comparison with the best: all cells of one task, amount and set together at {_level(evidence)}, "
            "paired by seed and patient. Not corrected over tasks, amounts and sets.",
        ),
        (
            "How many labels does it save?",
            f"Per curve, one-sided at {evidence.alpha / 2:g} each: reaching the full baseline from the largest amount "
            "down (fixed sequence); better than the baseline with the same amount, Holm over amounts; a saving needs "
            "both. Not corrected over curves: exploratory.",
        ),
        ("Is anyone harmed?", harm_answers.ERROR_CONTROL),
        ("Can its probabilities be trusted?", confidence_answers.ERROR_CONTROL),
        ("Does it train faster?", speed_answers.ERROR_CONTROL),
        ("Why believe it?", "No test: facts of the record, and the primary family anew with lost trials at chance."),
    )
    return tuple(
        Question(number=number, text=text, error_control=control)
        for number, (text, control) in enumerate(texts, start=1)
    )


def collect(evidence: Evidence, tables: Tables, ledger: Ledger | None = None) -> tuple[Answer, ...]:
    """The answers to all questions, in their order.

    Args:
        evidence: The study.
        tables: Its tables.
        ledger: Who read its test results when; answers question 8, too.
    """
    found = [answer for answering in ANSWERING for answer in answering(evidence, tables)]
    if ledger is not None:
        found.append(ledger.answer())
    return tuple(sorted(found, key=lambda answer: answer.question))


def _level(evidence: Evidence) -> str:
    return f"{100 * (1 - evidence.alpha):g} %"
