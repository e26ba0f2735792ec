"""Planned trials without images: what the pure parts of a run are tested on."""

from __future__ import annotations

from pathlib import Path

from orchestrator.plan import Plan, PlannedTrial
from search_spaces.amounts import Amount, Seed
from search_spaces.expand import Cell, Trial
from search_spaces.files import LoadedStudy
from search_spaces.names import Role
from search_spaces.study import GangSpec
from tests.orchestrator.record_fixtures import make_study


def planned(
    trial_id: str,
    upstream: PlannedTrial | None = None,
    *,
    role: Role = Role.TARGET,
    cost: float = 1.0,
    scale: str = "resnet20",
    seed: int = 0,
) -> PlannedTrial:
    """A planned trial; ``cost`` is also its images."""
    cell = Cell(
        model_scale=scale,
        pretraining_source="natural" if upstream else "random",
        data_fraction=Amount(kind="fraction", value=1.0),
        task="ham10000",
    )
    trial = Trial(
        cell=cell,
        seed=Seed(subset=seed, init=seed),
        role=role,
        upstream=upstream.trial if upstream else None,
    )
    upstream_id = upstream.trial_id if upstream else None
    return PlannedTrial(
        trial=trial,
        trial_id=trial_id,
        upstream_id=upstream_id,
        images=cost,
        cost=cost,
        parameters=10,
        gang=GangSpec(),
    )


def plan_of(*trials: PlannedTrial) -> Plan:
    """A plan of these trials, upstream ones first."""
    study = make_study()
    return Plan(
        loaded=LoadedStudy(study=study, text="", folder=Path(), origin="test"),
        expansion=None,
        trials=trials,
        exclusions=(),
        problems=(),
        notes=(),
        resolver=None,
        images={},
    )
