"""Results that are not used, used in part or doubtful, each for a named reason: nothing is left out in silence."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

import pandas as pd

from search_spaces.names import AXES

SHOWN_TRIALS = 10
"""Trial ids that one row of the table lists; the count is of all."""


class Why(StrEnum):
    """Why a result is not used, used in part (``IN_PART``), or doubtful (``COUNTED``)."""

    NO_PREDICTIONS = "no predictions on this set"
    UNREADABLE = "predictions missing or unreadable (interrupted upload)"
    OTHER_SET = "predictions of another test set"
    SAME_SEED = "a second result of one seed"
    SAME_PREDICTIONS = "the same predictions as another seed"
    NOT_FINITE = "logits that are not finite"
    NO_VALUE = "reported without a value, or without the primary metric"
    OTHER_METRIC = "predictions of a kind that has no such metric"
    ONE_CLASS = "the metric is undefined on this set"
    NO_BATCH = "predictions that cannot be put beside each other (not in the tables on harm and probabilities)"
    NO_HISTORY = "validation curve missing or unreadable (not in the tables on speed)"
    OTHER_LABELS = "predictions for other labels than those of the task's set"
    CONSTANT = "the same prediction for every image"
    SAME_AS_SOURCE = "the same predictions as another source's, image by image"
    NOT_FINITE_ELSEWHERE = "logits of other labels that are not finite (not in the tables on harm and probabilities)"
    OTHER_GROUPS = "other subgroups of patients than the result that was read first, whose subgroups count for all"
    OTHER_SUBSET = "trained on another subset or order than its pair"


COUNTED = (Why.CONSTANT, Why.SAME_AS_SOURCE, Why.OTHER_GROUPS)
"""Results that are doubtful, but count."""

IN_PART = (Why.NO_BATCH, Why.NO_HISTORY, Why.NOT_FINITE_ELSEWHERE)
"""Results that some tables lack, and what is said of them; all others have them, contrasts among them."""


def not_used(count: str, reason: str) -> str:
    """``3 results of skin not used: logits that are not finite``, or that they are used in part, or doubtful but count.

    Args:
        count: Such as ``3 results of skin``.
        reason: A value of ``Why``.
    """
    how = "doubtful, but counted" if reason in COUNTED else "not used"
    return f"{count} {'used in part' if reason in IN_PART else how}: {reason}"


def word_of(reason: str) -> str:
    """Word of an answer about such results; arguments as in ``not_used``."""
    if reason in IN_PART:
        return "results used in part"
    return "results doubtful" if reason in COUNTED else "results not used"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exclusion:
    """One result that is not used, used in part, or doubtful.

    Attributes:
        why: The reason.
        task: Its task.
        set: The evaluation set; empty for all of them.
        trial_id: Whose result it is.
        detail: What exactly was found; may be empty.
    """

    why: Why
    task: str
    set: str
    trial_id: str
    detail: str = ""


def exclusion_table(exclusions: Iterable[Exclusion]) -> pd.DataFrame:
    """One row per reason, task and set: how many results, of which trials, and what was found in the first."""
    groups: dict[tuple[str, str, str], dict[str, str]] = {}
    for found in exclusions:
        groups.setdefault((found.why, found.task, found.set), {}).setdefault(found.trial_id, found.detail)
    rows = []
    for (why, task, set_name), trials in groups.items():
        listed = ", ".join(list(trials)[:SHOWN_TRIALS])
        more = f" and {len(trials) - SHOWN_TRIALS} more" if len(trials) > SHOWN_TRIALS else ""
        detail = next((text for text in trials.values() if text), "")
        rows.append(
            {"reason": str(why), "task": task, "set": set_name or "all", "trials": len(trials)}
            | {"trial_ids": listed + more, "detail": detail}
        )
    return pd.DataFrame(rows, columns=["reason", "task", "set", "trials", "trial_ids", "detail"])


def single_seeds(task: str, rows: pd.DataFrame) -> tuple[pd.DataFrame, list[Exclusion]]:
    """Rows with one result per cell and seed, and the others: of several the one that started last is kept.

    Counted twice, a seed would be precision that does not exist.

    Args:
        task: Name of the task.
        rows: Its rows of ``Evidence.results``.
    """
    key = [axis for axis in AXES if axis != "task"] + ["seed_subset", "seed_init"]
    started = rows["started_at"] if "started_at" in rows else pd.Series(0.0, index=rows.index)
    order = started.astype("Float64").astype(float).fillna(0.0).sort_values(kind="stable").index
    kept = rows.loc[order].drop_duplicates(key, keep="last").index
    repeated = rows.loc[~rows.index.isin(kept)]
    found = [
        Exclusion(
            why=Why.SAME_SEED,
            task=task,
            set="",
            trial_id=str(row["trial_id"]),
            detail=f"{row['model_scale']}, {row['pretraining_source']}, {row['data_fraction']}, seed {row['seed']}; "
            "the one that started last is used",
        )
        for row in repeated.to_dict("records")
    ]
    return rows.loc[rows.index.isin(kept)], found
