"""A tuned study from the command line with real training: what search trials leave behind, and what they never see."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from cluster.connection import connect
from dashboards import load_results
from orchestrator.sweep import app
from search_spaces.home import scalecurves_home
from search_spaces.names import Role
from tests.conftest import ROOT
from tests.orchestrator.small_study import raw_study, write_study

pytestmark = pytest.mark.ray

TUNING = {"trials": 3, "generation_size": 2, "space": {"lr": {"log": [1e-4, 1e-1]}, "momentum": {"choice": [0.0, 0.9]}}}


def call(*arguments: object) -> str:
    ran = CliRunner().invoke(app, [str(a) for a in arguments])
    assert ran.exit_code == 0, f"{ran.output}\n{ran.exception!r}"
    return " ".join(ran.output.split())


def test_search_trials_see_validation_alone_and_final_trials_have_their_values(tmp_path):
    protocol = raw_study()["protocol"] | {"optimizer": "sgd"}
    axes = raw_study()["axes"] | {"data_fraction": [1.0]}
    file = write_study(tmp_path, tuning=TUNING, protocol=protocol, axes=axes)
    planned = call("plan", file)
    assert "3 proposals in each of 2 cells, 2 at a time, so 6 search trials" in planned
    assert "13 trials to train" in planned
    with connect("local", num_cpus=2, import_paths=[str(ROOT)]):
        assert "13 trials trained, 0 were done before, 0 failed" in call("run", file, "--out", tmp_path / "report")
        assert "0 trials trained, 7 were done before" in call("run", file, "--out", tmp_path / "report")

    results = load_results("small")
    searched = results[results["role"] == Role.SEARCH].set_index("trial_id")
    finals = results[results["role"] == Role.TARGET].set_index("trial_id")
    assert (len(searched), len(finals)) == (6, 4)
    assert searched["best_value"].notna().all()
    scores = [name for name in results.columns if name.startswith(("test/", "site_b/"))]
    assert searched[scores].isna().all(axis=None)
    assert finals[["test/auc", "site_b/n_images"]].notna().all(axis=None)
    kept = {folder.name for folder in (scalecurves_home() / "storage" / "small" / "trials").iterdir()}
    assert kept.isdisjoint(searched.index)
    assert kept >= set(finals.index)
    for _, mine in finals.groupby("pretraining_source"):
        [search_id] = set(mine["search_id"])
        tried = searched[searched["search_id"] == search_id]
        best = tried.sort_values(["best_value", "search_number"], ascending=[False, True]).iloc[0]
        assert set(mine["tuned"]) == {best["tuned"]}
    assert "search before them: 6 of 6 search trials done" in call("status", file)
    stands = json.loads(call("status", file, "--json"))
    assert (stands["done"], stands["search"]["done"]) == (4, 6)
    assert (tmp_path / "report" / "tables" / "tuning.csv").is_file()
