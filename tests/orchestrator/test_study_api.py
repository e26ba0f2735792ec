"""Every command on a study from Python: same arguments, same refusals, results as data."""

from __future__ import annotations

import inspect
import json
import time

import pytest
from typer.main import get_command

import orchestrator
from orchestrator import (
    api,
    cancel_study,
    evaluate_study,
    export_study,
    further_representations,
    further_sets,
    ingest_study,
    plan_study,
    prune_study,
    report_study,
    retry_study,
    run_study,
    study_status,
    why_study,
)
from orchestrator.drivers import DriverNote, drivers_now
from orchestrator.sweep import app
from search_spaces.exceptions import UserError
from search_spaces.home import scalecurves_home
from search_spaces.names import FailureClass, State
from search_spaces.selection import Key, key_of
from tests.orchestrator.fake_executor import Planted
from tests.orchestrator.small_runs import call, plan_of, train_all
from tests.orchestrator.small_study import raw_study, rewrite_study, write_study

AXES = raw_study()["axes"] | {"pretraining_source": ["random"], "data_fraction": [1.0]}
FUNCTIONS = {
    "run": run_study,
    "plan": plan_study,
    "status": study_status,
    "why": why_study,
    "retry": retry_study,
    "cancel": cancel_study,
    "evaluate": evaluate_study,
    "report": report_study,
    "prune": prune_study,
    "export": export_study,
    "ingest": ingest_study,
}
RENAMED = {"set_": "sets", "map_": "renames"}
PRINTING = {"json_", "watch_", "resolved"}
"""Options that say how something is printed; the function returns it."""
WITHOUT_USE = {
    "run": {"yes"},
    "plan": {"address", "yes"},
    "status": {"address", "yes"},
    "why": {"address", "yes", "only"},
    "retry": {"yes"},
    "cancel": {"address", "yes"},
    "evaluate": {"address", "yes"},
    "report": {"address", "yes", "only"},
    "prune": {"address"},
    "export": {"address", "yes", "only"},
    "ingest": {"address", "yes", "only", "sets"},
}
"""Shared options that the command itself ignores, and questions that no function asks."""


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_takes_what_its_command_takes(name):
    command = get_command(app).commands[name]
    options = {RENAMED.get(p.name, p.name) for p in command.params} - PRINTING - WITHOUT_USE[name]
    parameters = set(inspect.signature(FUNCTIONS[name]).parameters) - {"home", "progress"}
    assert parameters == options


def test_no_command_lacks_a_function():
    assert FUNCTIONS.keys() == get_command(app).commands.keys()


def test_all_of_them_are_offered_by_the_package():
    assert all(getattr(orchestrator, function.__name__) is function for function in FUNCTIONS.values())


@pytest.fixture
def failing(tmp_path, monkeypatch):
    """A study of two trials, of which one runs out of memory as long as ``failing.breaks`` says so."""
    monkeypatch.setattr(api, "write_report", lambda *_: (None, ()))
    monkeypatch.setattr(further_sets, "score_missing", lambda *_: 0)
    monkeypatch.setattr(further_representations, "keep_missing", lambda *_: None)
    planted = Planted(breaks=lambda trial: FailureClass.USER if trial.seed.init == 1 else None).install(monkeypatch)
    file = write_study(tmp_path, axes=AXES)
    assert [f.failure_class for f in run_study(file, progress=False).summary.failed] == [FailureClass.USER]
    return file, planted


def test_failed_trials_are_explained_and_tried_again(failing):
    file, planted = failing
    lost = study_status(file)["failures"][0]["trial_id"]
    found = why_study(file, lost[:10])
    assert (found.trial_id, found.state, found.nearest is not None) == (lost, State.FAILED, True)
    assert [(a.failure_class, a.message) for a in found.attempts] == [("user", "planted user")]
    assert any(key.startswith("seed") for key in found.differs)
    with pytest.raises(UserError, match="no trial of the study has the id 'zz'"):
        why_study(file, "zz")

    with pytest.raises(UserError, match=r"failed trials of small: 1 user\. Choose with"):
        retry_study(file)
    with pytest.raises(UserError, match=r"unknown failure class 'memry' in classes\. Did you mean 'memory'"):
        retry_study(file, classes=["memry"])
    with pytest.raises(UserError, match="at least 1, got 0"):
        retry_study(file, failed=True, max_concurrent=0)
    assert retry_study(file, classes=["memory"], progress=False) is None
    planted.breaks = lambda trial: None
    ran = retry_study(file, classes=["user"], progress=False)
    assert (ran.summary.trained, ran.summary.skipped) == (1, 0), "nothing else was asked for"
    assert study_status(file)["done"] == 2


def test_trials_are_taken_out_of_a_run_that_hears_it(failing):
    file, _ = failing
    with pytest.raises(UserError, match="cancel needs --only"):
        cancel_study(file)
    with pytest.raises(UserError, match="no run of small goes on"):
        cancel_study(file, only="seed=1")
    storage = api.places_of().storage_of("small")
    heard: list[Key] = []
    note = DriverNote(storage, "small", lambda: None, every_s=0.05)
    note.listen(lambda keys: heard.extend(keys) or len(keys))
    try:
        while not drivers_now(storage, "small"):
            time.sleep(0.05)
        asked = cancel_study(file, only="seed=1")
    finally:
        note.close()
    chosen = {key_of(t.trial) for t in plan_study(file, only="seed=1").targets}
    assert set(heard) == chosen
    assert asked.selected == len(chosen) > 0
    assert [d.name for d in asked.drivers] == [note.name]
    assert asked.running == 0


def test_a_run_that_has_none_of_the_trials_says_so(failing):
    file, _ = failing
    note = DriverNote(api.places_of().storage_of("small"), "small", lambda: None, every_s=0.05)
    note.listen(lambda keys: 0)
    try:
        while not drivers_now(api.places_of().storage_of("small"), "small"):
            time.sleep(0.05)
        with pytest.raises(UserError, match="the run that goes on has no trial that --only 'seed=1' selects"):
            cancel_study(file, only="seed=1")
    finally:
        note.close()


def test_scoring_reporting_and_pruning_give_what_the_commands_print(tmp_path):
    file = write_study(tmp_path, axes=AXES, seeds=1)
    train_all(plan_of(file))
    tasks = raw_study()["tasks"]
    tasks["spots"]["evaluate"]["women"] = {"where": {"sex": "F"}}
    rewrite_study(tmp_path, axes=AXES, seeds=1, tasks=tasks)
    made = evaluate_study(file, "women", out=tmp_path / "scored", progress=False)
    assert (made.scored.scored, made.scored.unfinished, made.page.is_file()) == (1, 0, True)
    with pytest.raises(UserError, match="Did you mean 'women'"):
        evaluate_study(file, "woman", progress=False)
    again = report_study(file, out=tmp_path / "again", progress=False)
    assert again.page == (tmp_path / "again" / "index.html").resolve()
    assert again.scored is None
    assert again.headlines == made.headlines

    trial = plan_study(file).targets[0].trial_id
    exported = export_study(file, trial[:8], tmp_path / "exported")
    assert [p.name for p in exported] == ["README.md", "config.json", "model.safetensors"]
    assert str(tmp_path / "second" / "config.json") in call("export", file, trial, tmp_path / "second").split()
    with pytest.raises(UserError, match="is there already"):
        export_study(file, trial, tmp_path / "exported")

    printed = json.loads(call("prune", file, "--weights", "not-upstream", "--json"))
    assert prune_study(file, weights="not-upstream") == printed
    assert printed["bytes"] > 0
    with pytest.raises(UserError, match=r"unknown rule 'al' in weights\. Did you mean 'all'"):
        prune_study(file, weights="al")
    assert prune_study(file, weights="not-upstream", yes=True) == printed | {"deleted": True}
    assert not list((scalecurves_home() / "storage").rglob("weights.safetensors"))


def test_a_plan_has_its_estimate_and_takes_changes_of_the_study(tmp_path):
    file = write_study(tmp_path, axes=AXES)
    printed = json.loads(call("plan", file, "--set", "seeds=3", "--json"))
    plan = plan_study(file, sets=["seeds=3"])
    assert len(plan.targets) == printed["trials"] == 3
    assert plan.estimate.to_json() == printed["estimate"]
    assert study_status(file, sets=["seeds=3"])["missing"] == 3
    refused = plan_study(file, nodes="two", price=-1.0)
    assert len(refused.problems) == 2
    assert refused.estimate is None
