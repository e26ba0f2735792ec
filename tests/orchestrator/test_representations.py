"""A whole study that keeps representations: planned, run, asked for later, reported."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from cluster.connection import connect
from dashboards import load_representations, load_results
from orchestrator.api import loaded, places_of, plan_study
from orchestrator.further_representations import without_kept
from orchestrator.known_models import KnownModels
from search_spaces.home import scalecurves_home
from search_spaces.trial import ResolvedScale
from tests.conftest import ROOT
from tests.orchestrator.small_runs import call
from tests.orchestrator.small_study import rewrite_study, write_study

KEPT = {"probe": {"sets": ["val", "test"], "images": 40}}


def test_a_plan_names_unknown_layers_and_sets_and_what_is_too_large(tmp_path, monkeypatch):
    write_study(tmp_path, axes={**_axes(), "pretraining_source": ["random"]}, sources={})
    file = tmp_path / "small.yaml"
    changed = {"axes": {**_axes(), "pretraining_source": ["random"]}, "sources": {}}
    rewrite_study(tmp_path, **changed, representations={"layers": ["layer11"]})
    plan = plan_study(file)
    assert any("unknown layer 'layer11'" in p and "Did you mean 'layer1'" in p for p in plan.problems)
    rewrite_study(tmp_path, **changed, representations={"probe": {"sets": ["test", "site_b"], "images": 25}})
    plan = plan_study(file)
    assert not plan.problems
    assert any("spots: 25" in note for note in plan.notes)
    assert any("not be estimable" in note and "layer3" in note for note in plan.notes)
    assert plan.kept_bytes == {("narrow", "spots"): (4 + 4 + 4 + 8 + 16) * 25 * 2 * 2}
    monkeypatch.setattr("orchestrator.plan_representations.MOST_BYTES", 1000)
    assert any("name fewer layers" in p for p in plan_study(file).problems)


def test_trials_whose_network_stays_fixed_keep_none(tmp_path):
    axes = {**_axes(), "pretraining_source": ["random"]}
    probe = {"base": "linear_probe", "storage_size": 20}
    plan = plan_study(write_study(tmp_path, axes=axes, sources={}, protocol=probe, representations=KEPT))
    assert not plan.problems
    assert plan.kept_bytes == {}
    assert any("no representations of 1 cell(s)" in note for note in plan.notes)
    assert without_kept(plan, [t.trial_id for t in plan.targets], places_of().storage_of("small")) == []


def test_layers_of_a_task_with_masks_are_those_of_the_u_net(tmp_path):
    pytest.importorskip("segmentation_models_pytorch")
    scale = ResolvedScale(name="n", factory="trainables.ladder_nets:resnet8", arguments={"width": 4}, input_size=16)
    models = KnownModels(tmp_path)
    assert set(models.layer_sizes(scale, 2, "auto", None, (), True)) == {"encoder[1]", "encoder[2]"}
    assert "layer3" in models.layer_sizes(scale, 2, "auto", None, ())


def _axes():
    return {"model_scale": ["narrow"], "data_fraction": [1.0], "task": ["spots"]}


@pytest.mark.ray
def test_a_study_keeps_representations_later_ones_too_and_shows_them(tmp_path):
    axes = {**_axes(), "pretraining_source": ["random", "spots_pre"]}
    file = write_study(tmp_path, axes=axes, seeds=2)
    with connect("local", num_cpus=2, import_paths=[str(ROOT)]):
        call("run", file, "--out", tmp_path / "before")
        assert 'id="representations"' not in (tmp_path / "before" / "index.html").read_text()
        storage = places_of().storage_of("small")
        assert not any(storage.has_representations(i) for i in load_results("small")["trial_id"])

        rewrite_study(tmp_path, axes=axes, seeds=3, representations=KEPT)
        shown = " ".join(call("plan", file).split())
        assert "kept from now on; 4 finished trials have none: the next run makes those of 4" in shown
        facts = json.loads(call("plan", file, "--json"))["estimate"]
        assert (facts["without_representations"], facts["representations_later"]) == (4, 4)
        assert facts["representations_bytes"] == 2 * 36 * 40 * 2 * 2
        before = set(load_results("small")["trial_id"])
        call("run", file, "--out", tmp_path / "after")
        results = load_results("small")
        assert before < set(results["trial_id"])
        targets = results[results["role"] == "target"]
        assert len(targets) == 6
        assert all(storage.has_representations(i) for i in targets["trial_id"])
        assert not any(storage.has_representations(i) for i in results[results["role"] == "upstream"]["trial_id"])
        assert storage.initials() == {}
        assert "finished trials have none" not in call("plan", file)

    kept = load_representations("small")
    frame = kept.frame
    assert len(kept) == 6
    assert frame["probe_hash"].nunique() == 1
    assert set(frame["images"]) == {40}
    # Of one init seed the random start is the same whenever it was made.
    starts = {kept[i].initial.weights for i in targets.loc[targets["pretraining_source"] == "random", "trial_id"]}
    assert len(starts) == 3
    page = (tmp_path / "after" / "index.html").read_text()
    assert 'id="representations"' in page
    tables = tmp_path / "after" / "tables"
    drift = pd.read_csv(tables / "representation_drift.csv")
    assert set(drift["pretraining_source"]) == {"random", "spots_pre"}
    assert set(drift.loc[drift["measure"] == "debiased CKA", "n_seeds"]) == {3}
    for name in ("representation_pairs", "filter_correlation", "weight_distance"):
        assert len(pd.read_parquet(tables / f"{name}.parquet"))
    assert (tmp_path / "after" / "figures" / "representation_drift_spots_narrow.svg").is_file()
    assert (scalecurves_home() / "storage" / "small" / "trials").is_dir()
    assert loaded(file).study.representations is not None
