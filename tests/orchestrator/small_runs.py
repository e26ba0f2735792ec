"""What tests do with a small study: plan it, call commands on it, train its trials without Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from typer.testing import CliRunner

from orchestrator.api import places_of
from orchestrator.plan import Plan, import_paths, make_plan
from orchestrator.record import Record
from orchestrator.sweep import app
from search_spaces.files import load_study
from search_spaces.home import scalecurves_home
from search_spaces.results import Order
from search_spaces.trial import Workspace
from trainables.groups import SingleProcess
from trainables.library import TaskLibrary
from trainables.loop import train


def plan_of(file: Path, **options: Any) -> Plan:
    """The plan of a study file; ``options`` are those of ``make_plan``."""
    return make_plan(load_study(str(file)), TaskLibrary(scalecurves_home()), **options)


def call(*arguments: Any, code: int = 0) -> str:
    """What a command of ``orchestrator.sweep`` prints; it must end with this exit code."""
    ran = CliRunner().invoke(app, [str(a) for a in arguments])
    assert ran.exit_code == code, f"{ran.output}\n{ran.exception!r}"
    return ran.output


def train_all(plan: Plan) -> None:
    """Train a plan's trials one after the other, without Ray, and deliver them."""
    places = places_of()
    storage = places.storage_of(plan.study.name)
    record = Record(plan.study, storage, places.tracking_uri)
    record.open()
    home = str(places.home)
    workspace = Workspace(home=home, storage=storage.place, import_paths=import_paths(plan.loaded))
    for planned in sorted(plan.trials, key=lambda t: t.trial.stage):
        trial = plan.resolver.resolved(planned.trial, f"{planned.trial_id}-00000001", workspace)
        assert train(trial, SingleProcess(torch.device("cpu")), lambda report: Order.GO) is not None
        record.deliver_all()
    record.close(finished=True)
