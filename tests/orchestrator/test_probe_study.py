"""A study of linear probes and kNN from the command line: planned, trained, recorded, reported."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from cluster.connection import connect
from dashboards import load_results
from dashboards.load import load_histories
from orchestrator.sweep import app
from search_spaces.home import scalecurves_home
from tests.conftest import ROOT
from tests.orchestrator.small_study import raw_study, write_study
from trainables.store_cache import cached_stores

TRAINED = {"base": "finetune", "neighbours": None, "budget": {"steps": 4}, "global_batch_size": 16, "evaluations": 2}


def call(*arguments: object, code: int = 0) -> str:
    ran = CliRunner().invoke(app, [str(a) for a in arguments])
    assert ran.exit_code == code, f"{ran.output}\n{ran.exception!r}"
    return " ".join(ran.output.split())


def probes(**changes):
    narrow = raw_study()["scales"]["narrow"]
    return {
        "axes": raw_study()["axes"] | {"model_scale": ["narrow", "wide"]},
        "scales": {"narrow": narrow, "wide": narrow | {"arguments": {"width": 6}}},
        "protocol": {"base": "linear_probe", "storage_size": 20},
        "overrides": [
            {"when": {"model_scale": "wide"}, "set": {"base": "knn", "neighbours": [3, 9]}},
            {"when": {"task": "other_spots"}, "set": TRAINED},
        ],
        **changes,
    }


@pytest.mark.ray
def test_a_study_of_probes_from_plan_to_report(tmp_path):
    file = write_study(tmp_path, **probes())
    call("plan", file)
    with connect("local", num_cpus=2, import_paths=[str(ROOT)]):
        ran = call("run", file, "--out", tmp_path / "report")
        assert "20 trials trained, 0 were done before, 0 failed" in ran
        assert "0 trials trained, 20 were done before" in call("run", file, "--out", tmp_path / "report")
    results = load_results("small")
    probed = results[results["role"] == "target"]
    assert len(probed) == 16
    assert probed["steps"].eq(0).all()
    assert probed[["best_value", "test/auc", "site_b/n_images", "val_hash"]].notna().all(axis=None)
    assert probed["still_rising"].eq(False).all()
    for recipe, scale in (("linear_probe", "narrow"), ("knn", "wide")):
        trial_id = probed[probed["model_scale"] == scale]["trial_id"].iloc[0]
        folder = tmp_path / f"exported {recipe}"
        assert f"is a {recipe}: what it learnt lies on" in call("export", file, trial_id, folder, code=1)
        assert not folder.exists()
    histories = load_histories(results)
    assert set(histories) == set(results[results["role"] == "upstream"]["trial_id"])
    # Weights differ by seed here: 2 scales x 2 sources x 2 seeds, what is learned from and what is scored.
    stores = [store for store in cached_stores(scalecurves_home()) if "-features-" in store.path.name]
    assert len(stores) == 16
    report = (tmp_path / "report" / "index.html").read_text()
    assert "not in the tables on speed" not in report


def test_an_upstream_trial_that_trains_nothing_is_refused(tmp_path):
    file = write_study(tmp_path, **probes(overrides=[]))
    text = call("plan", file, code=1)
    assert "other trials start from the weights of" in text
    assert "its protocol is linear_probe, which trains none" in text
