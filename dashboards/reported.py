"""What a report says of results that came as numbers only: which questions they cannot answer, and why."""

from __future__ import annotations

import pandas as pd

from dashboards.evidence import Evidence
from dashboards.style import plural

_NEEDS_PREDICTIONS = (
    "whether any subgroup is harmed (it needs each patient's prediction and group)",
    "whether the probabilities can be trusted (it needs predictions with their labels)",
    "how sure the results are for other patients (it needs predictions with patients)",
)
PAIRED_AS_REPORTED = "trials with the same seed are taken as pairs, as the table says"
PROTOCOL_AS_REPORTED = "what the training was, and whether it was alike for all sources, is for its authors to say"

_NEEDS_TRAINING = "whether it trains faster (it needs validation curves)"
_NEEDS_COST = "which is the cheapest within noise of the best (it needs parameters or gpu_seconds)"
_NEEDS_AMOUNTS = "how many labels are saved (it needs at least two amounts)"


def only_numbers(results: pd.DataFrame) -> pd.DataFrame:
    """The rows of trials with at least one evaluation set of which only numbers are known."""
    if "reported" not in results:
        return results.iloc[:0]
    return results[[isinstance(sets, list) and bool(sets) for sets in results["reported"]]]


def all_numbers(results: pd.DataFrame) -> bool:
    """Whether there are trials, and no evaluation set of any of them has predictions."""
    if results.empty or "reported" not in results:
        return False
    pairs = zip(results["sets"], results["reported"], strict=True)
    return all(isinstance(numbers, list) and set(sets) <= set(numbers) for sets, numbers in pairs)


def reported_caveats(evidence: Evidence) -> list[str]:
    """For readers who want to quote: what numbers alone cannot say."""
    if evidence.ingested is None:
        return []
    lines = ["Results of others, taken from a table: how they were trained, selected and paired was not checked here."]
    rows = only_numbers(evidence.results)
    if rows.empty:
        return lines
    tasks = ", ".join(sorted({str(task) for task in rows["task"]}))
    lines.append(
        f"No predictions came with {plural(len(rows), 'trial')} ({tasks}): intervals there hold the spread over seeds "
        "on one fixed test set, not that over patients, and cover other patients too seldom (nominal 95 % intervals "
        "covered 37 to 94 % in simulations). Verdicts say “seems to”, and no grade is above C."
    )
    lines.append(f"Not answered there: {'; '.join(_unanswered(rows))}.")
    return lines


def _unanswered(rows: pd.DataFrame) -> list[str]:
    found = [*_NEEDS_PREDICTIONS, _NEEDS_TRAINING]
    costs = [column for column in ("parameters", "gpu_seconds") if column in rows and rows[column].notna().all()]
    if not costs:
        found.append(_NEEDS_COST)
    if rows.groupby("task")["data_fraction"].nunique().max() < 2:
        found.append(_NEEDS_AMOUNTS)
    return found


def reported_methods(evidence: Evidence) -> tuple[str, ...]:
    """How intervals without patients were made; nothing if there are none."""
    if only_numbers(evidence.results).empty:
        return ()
    return (
        "Where only numbers were reported, intervals and p-values are Student's t over seeds, paired where both "
        "sources have the seed; the exact sign-flip p beside them assumes less and cannot fall below 2 / 2^S with S "
        "seeds. Neither says anything of other patients.",
    )
