"""The notes (Markdown) that people read in the MLflow UI."""

from __future__ import annotations

from collections.abc import Mapping

from search_spaces.amounts import expand_seeds
from search_spaces.expand import Expansion, expand
from search_spaces.ingested import IngestedStudy
from search_spaces.names import AXES, State, Tag
from search_spaces.study import Study

_SHOWN = 12
"""Values of an axis that a note lists."""


def experiment_note(study: Study | IngestedStudy) -> str:
    """What the experiment is and how to read its runs."""
    if isinstance(study, IngestedStudy):
        return _ingested_experiment_note(study)
    primary = ", ".join(f"`test/{task.primary}` ({name})" for name, task in study.tasks.items())
    return f"""Study **{study.name}**: does a pretraining source beat `{study.statistics.baseline}`,
at which model scale, with how few labels?

- The run *study {study.name}* holds the study file, the plan and, under Artifacts, `report/`.
- Every other run is one attempt at a trial, named scale · source · data fraction · task · seed.
- What counts: `tags."{Tag.STATE}" = '{State.COMPLETE}' and attributes.status = 'FINISHED'`; failed attempts stay, with
  `{Tag.FAILURE_CLASS}` and `{Tag.FAILURE_MESSAGE}`.
- Metrics are `<evaluation set>/<metric>`. Primary: {primary}. A metric that is not there is undefined (`sc.undefined`).
"""


def _ingested_experiment_note(study: IngestedStudy) -> str:
    primary = ", ".join(f"`test/{metric}` ({task})" for task, metric in study.primary.items())
    return f"""Results of others, read from a table as study **{study.name}**: does a pretraining source beat
`{study.statistics.baseline}`, at which model scale, with how few labels?

- The run *study {study.name}* says which table, and holds `report/` under Artifacts.
- Every other run is one trial of the table, named scale · source · data fraction · task · seed.
- What counts: `tags."{Tag.STATE}" = '{State.COMPLETE}' and attributes.status = 'FINISHED'`. Runs that a later table
  replaced are `{State.SUPERSEDED}`.
- Metrics are `<evaluation set>/<metric>`. Primary: {primary}. Sets of which only numbers are known: `sc.reported`.
"""


def study_note(study: Study | IngestedStudy, counts: Mapping[str, int]) -> str:
    """The study in a few lines.

    Args:
        study: The study.
        counts: State -> number of target trials; empty if not known yet.
    """
    if isinstance(study, IngestedStudy):
        origin = study.ingested
        return (
            f"**Results of others**, last read from `{origin.file}` ({origin.rows} rows, sha256 "
            f"`{origin.sha256[:16]}`). Baseline: `{study.statistics.baseline}`.\n\n"
            "Artifacts: `study/study.yaml`, `report/`."
        )
    expansion = expand(study)
    seeds = len(expand_seeds(study.seeds))
    lines = [
        f"**{len(expansion.cells)} cells x {seeds} seeds = {len(expansion.targets)} trials**"
        + (f", and {upstream} upstream" if (upstream := len(expansion.trials) - len(expansion.targets)) else "")
        + (f"; {len(expansion.exclusions)} cells excluded" if expansion.exclusions else "")
        + (f"; {study.tuning.trials_per_cell} search trials before them in each cell" if study.tuning else "")
        + f". Baseline: `{study.statistics.baseline}`.",
        "",
        *_axes_table(expansion),
    ]
    if counts:
        lines += ["", "| " + " | ".join(counts) + " |", "|" + "---:|" * len(counts)]
        lines += ["| " + " | ".join(str(n) for n in counts.values()) + " |"]
    lines += ["", "Artifacts: `study/study.yaml`, `plan.json`, `report/`."]
    return "\n".join(lines)


def _axes_table(expansion: Expansion) -> list[str]:
    rows = ["| axis | values |", "|---|---|"]
    for axis in AXES:
        values = list(dict.fromkeys(cell.coordinates[axis] for cell in expansion.cells))
        more = f", ... ({len(values)} in all)" if len(values) > _SHOWN else ""
        rows.append(f"| {axis} | {', '.join(values[:_SHOWN])}{more} |")
    return rows
