"""One answer of the verdict: what is claimed about what, how surely, and with which numbers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Number = float | int | str | bool | None

Tone = Literal["good", "bad", "even", "open"]
"""How a reader should take it: good or bad for the source, no difference, or not decided."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer to one of the eight questions of the verdict.

    Attributes:
        question: 1 does it help, 2 where, 3 cheapest within noise of the best, 4 labels saved, 5 harm, 6 trust in the
            probabilities, 7 faster, 8 why believe it.
        task: Name of the task; None where the answer is about the whole study.
        pretraining_source: The source in question; None where it is about several.
        model_scale: Likewise.
        data_fraction: Label of the amount; likewise.
        set: Evaluation set that it was found on: ``test`` or a shifted set.
        word: The class of the answer, such as ``helps``, ``undecided``, ``harmed``, ``not reached``.
        sentence: The answer as one sentence, worded no stronger than ``grade`` allows.
        tone: See ``Tone``.
        grade: A, B, C or F (``statistics.gates``); None where the answer claims nothing.
        caps: Why the wording is not stronger.
        numbers: Name -> value behind the sentence; None for numbers that do not exist.
    """

    question: int
    task: str | None = None
    pretraining_source: str | None = None
    model_scale: str | None = None
    data_fraction: str | None = None
    set: str | None = None
    word: str
    sentence: str
    tone: Tone
    grade: Literal["A", "B", "C", "F"] | None = None
    caps: tuple[str, ...] = ()
    numbers: dict[str, Number] = field(default_factory=dict)
