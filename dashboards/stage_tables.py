"""How good the trials are from whose weights others start: a stage that failed to learn explains a later one."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from dashboards.evidence import IN_DOMAIN, Evidence
from dashboards.planned import CELL_COLUMNS
from search_spaces.source_specs import TransformSource, TrialSource
from search_spaces.study import Study

INTRO = (
    "Trials from whose weights others start. Validation is the primary metric that selected their weights, test the "
    "same metric on their own test images; both are means over seeds, beside the smallest and the largest. Nothing is "
    "compared here: a stage that has learnt little is a reason why what starts from it gains little."
)


def stage_table(evidence: Evidence) -> pd.DataFrame:
    """One row per upstream cell.

    Returns:
        The axes; ``metric``; ``trials``; ``validation``, ``test`` (means over trials; NaN where there is none), each
        with ``_low`` and ``_high`` (the smallest and the largest); ``still_rising`` (share of trials whose validation
        still improved at the end; NaN if not known); ``leads_to`` (sources of the study whose weights they make). No
        column without upstream trials.
    """
    rows = evidence.upstream
    if rows.empty:
        return pd.DataFrame()
    return pd.DataFrame(
        [_row(evidence.study, part) for _, part in rows.groupby(list(CELL_COLUMNS), sort=False, observed=True)]
    )


def _row(study: Study | None, trials: pd.DataFrame) -> dict[str, Any]:
    first = trials.iloc[0]
    metric = str(first["primary"])
    rising = trials["still_rising"].dropna() if "still_rising" in trials else pd.Series(dtype=float)
    return {
        **{column: str(first[column]) for column in CELL_COLUMNS},
        "metric": metric,
        "trials": len(trials),
        **_spread("validation", trials, "best_value"),
        **_spread("test", trials, f"{IN_DOMAIN}/{metric}"),
        "still_rising": float(rising.astype(float).mean()) if len(rising) else math.nan,
        "leads_to": ", ".join(_leads_to(study, str(first["task"]), str(first["pretraining_source"]))),
    }


def _spread(name: str, trials: pd.DataFrame, column: str) -> dict[str, float]:
    values = trials[column].dropna().astype(float) if column in trials else pd.Series(dtype=float)
    numbers = (values.mean(), values.min(), values.max()) if len(values) else (math.nan,) * 3
    return dict(zip((name, f"{name}_low", f"{name}_high"), map(float, numbers), strict=True))


def _leads_to(study: Study | None, task: str, source: str) -> list[str]:
    """Sources that start from trials of this task and source, transforms of them included."""
    if study is None:
        return []
    made = [
        name
        for name, spec in study.sources.items()
        if isinstance(spec, TrialSource) and (spec.trial.task, spec.trial.pretraining_source) == (task, source)
    ]
    return made + [n for n, spec in study.sources.items() if isinstance(spec, TransformSource) and spec.of in made]
