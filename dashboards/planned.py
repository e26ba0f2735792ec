"""What a study plans, and which finished trials belong to the plan as it stands.

A study may have been changed between two runs: its record then holds trials of both versions, with the same axes and
seed but another ``trial_id``. A report shows the plan's trials only and counts the others.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from dashboards import tracking
from dashboards.tracking import RecordArtifact
from search_spaces.amounts import Seed
from search_spaces.exceptions import DataError, ScalecurvesError
from search_spaces.expand import expand
from search_spaces.names import AXES
from search_spaces.study import Study

CellName = tuple[str, ...]
"""Values of CELL_COLUMNS."""

CELL_COLUMNS = ("task", "model_scale", "pretraining_source", "data_fraction")
_LABEL_SEPARATOR = " · "


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Cells and seeds that a study asks for.

    Attributes:
        trials: Cell -> seed label -> trial id, None where it is not known.
        reasons: Excluded cell -> why.
        searches: Cell -> id of the search that gives its trials their values, where one does.
    """

    trials: dict[CellName, dict[str, str | None]] = field(default_factory=dict)
    reasons: dict[CellName, str] = field(default_factory=dict)
    searches: dict[CellName, str] = field(default_factory=dict)

    def axis_values(self, axis: str) -> list[str]:
        """Values of one axis in the order of the study."""
        return list(dict.fromkeys(cell[CELL_COLUMNS.index(axis)] for cell in self.trials))


def make_plan(study: Study | None, planned: Mapping[str, Any] | None) -> Plan:
    """The plan of a study.

    Args:
        study: The whole study, if it can be read.
        planned: The last plan as recorded (``plan.json``), with trial ids; it may cover a part of the study.
    """
    plan = Plan()
    if study is not None:
        expansion = expand(study)
        for trial in expansion.targets:
            plan.trials.setdefault(_name(trial.cell.coordinates), {})[trial.seed.label] = None
        plan.reasons.update({_name(e.cell.coordinates): e.reason for e in expansion.exclusions})
    for target in (planned or {}).get("targets", ()):
        trial_id = target["trial_id"]
        plan.trials.setdefault(_name(target), {})[str(target["seed"])] = None if trial_id is None else str(trial_id)
        if target.get("search_id"):
            plan.searches[_name(target)] = str(target["search_id"])
    for exclusion in (planned or {}).get("exclusions", ()):
        parts = str(exclusion["cell"]).split(_LABEL_SEPARATOR)
        if len(parts) == len(AXES):
            plan.reasons.setdefault(_name(dict(zip(AXES, parts, strict=True))), str(exclusion["reason"]))
    return plan


def load_planned(study: str, tracking_uri: str | None = None) -> dict[str, Any] | None:
    """``plan.json`` of a study's parent run; None if there is none.

    Raises:
        UserError: There is no record of the study.
        TrackingError: MLflow is away.
        DataError: The file is damaged.
    """
    uri = tracking.resolve_tracking_uri(tracking_uri)
    client = tracking.connect(uri)
    experiment = tracking.find_experiment(client, study, uri)
    with tracking.tracking(uri), tempfile.TemporaryDirectory(prefix="scalecurves-plan-") as folder:
        for parent in tracking.find_parents(client, experiment.experiment_id)[:1]:
            names = [item.path for item in client.list_artifacts(parent.info.run_id)]
            if RecordArtifact.PLAN in names:
                path = client.download_artifacts(parent.info.run_id, RecordArtifact.PLAN, folder)
                try:
                    loaded = json.loads(Path(path).read_text("utf-8"))
                except ValueError as error:  # an interrupted upload: the study file says what was planned, too
                    raise DataError(f"{RecordArtifact.PLAN} of the record cannot be read: {error}") from error
                return loaded if isinstance(loaded, dict) else None
    return None


def current_trials(results: pd.DataFrame, plan: Plan) -> tuple[pd.DataFrame, int]:
    """The finished trials that belong to the plan, one per cell and seed, and how many do not.

    Where the plan does not know a trial's id, the trial that started last is taken; of a tuned cell one that has its
    values from the search that the plan names.
    """
    if results.empty or not plan.trials:
        return results, 0
    keep: dict[tuple[CellName, str], tuple[bool, float, Any]] = {}
    for index, row in zip(results.index, results.to_dict("records"), strict=True):
        cell, seed = tuple(str(row[column]) for column in CELL_COLUMNS), str(row["seed"])
        if seed not in plan.trials.get(cell, {}):
            continue
        wanted = plan.trials[cell][seed]
        if wanted is not None and wanted != row["trial_id"]:
            continue
        if cell in plan.searches and row.get("search_id") != plan.searches[cell]:
            continue
        candidate = (wanted is not None, _number(row.get("started_at")), index)
        keep[cell, seed] = max(keep.get((cell, seed), candidate), candidate, key=lambda c: c[:2])
    chosen = results.loc[[index for _, _, index in keep.values()]].sort_index().reset_index(drop=True)
    return chosen, len(results) - len(chosen)


def seed_of(label: str) -> Seed:
    """The seed of a label (``Seed.label``): ``3`` or ``s3i0``.

    Raises:
        ValueError: Another text.
    """
    found = re.fullmatch(r"s(\d+)i(\d+)", label)
    return Seed(subset=int(found[1]), init=int(found[2])) if found else Seed.model_validate(int(label))


def planned_seeds(plan: Plan, failures: pd.DataFrame) -> dict[CellName, tuple[Seed, ...]]:
    """Cell -> seeds that it should have: those of the plan, without one those that failed.

    Args:
        plan: The plan; may be empty.
        failures: ``Evidence.failures``.
    """
    labels: dict[CellName, set[str]] = {cell: set(seeds) for cell, seeds in plan.trials.items()}
    if not labels and {*CELL_COLUMNS, "seed"} <= set(failures.columns):
        for row in failures.to_dict("records"):
            labels.setdefault(tuple(str(row[c]) for c in CELL_COLUMNS), set()).add(str(row["seed"]))
    return {cell: tuple(seed_of(label) for label in sorted(seeds)) for cell, seeds in labels.items()}


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and value == value else 0.0


def _name(coordinates: Mapping[str, Any]) -> CellName:
    return tuple(str(coordinates[column]) for column in CELL_COLUMNS)


def readable_plan(study: Study | None, planned: Mapping[str, Any] | None) -> tuple[Plan, str]:
    """``make_plan``, or as much of it as can be had and the reason why not all."""
    try:
        return make_plan(study, planned), ""
    except ScalecurvesError as error:
        return make_plan(None, planned), f"the study file does not expand: {error}"
