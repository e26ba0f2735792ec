"""A chain of three trainings, from the plan to the report, and the export of what comes out of it. Starts no Ray."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from typer.testing import CliRunner

from dashboards.report import gather
from dashboards.stage_tables import stage_table
from orchestrator.api import places_of
from orchestrator.plan_stages import stage_graph, stage_lines
from orchestrator.sweep import app
from search_spaces.names import Artifact, Role
from tests.orchestrator.small_runs import plan_of, train_all
from tests.orchestrator.small_study import raw_study, write_study
from trainables.exported import load_exported

CHAIN: dict[str, Any] = {
    "axes": {"model_scale": ["tiny"], "pretraining_source": ["last"], "data_fraction": [1.0], "task": ["spots"]},
    "controls": "none",
    "seeds": 1,
    "scales": {"tiny": {"factory": "test_resnet", "input_size": 32}},
    "sources": {
        "first": {"trial": {"task": "other_spots"}},
        "last": {"trial": {"task": "women", "pretraining_source": "first"}},
    },
    "tasks": {
        "spots": {"manifest": "spots", "primary": "auc"},
        "other_spots": {"manifest": "other_spots", "primary": "auc"},
        "women": {"manifest": "other_spots", "primary": "auc", "where": {"sex": "F"}},
    },
    "protocol": {"budget": {"steps": 3}, "global_batch_size": 16, "storage_size": 40, "evaluations": 3},
}


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    return write_study(tmp_path, **CHAIN)


def changed(file: Path, **changes: Any) -> Path:
    file.write_text(yaml.safe_dump(raw_study(**(CHAIN | changes)), sort_keys=False))
    return file


def test_a_chain_is_three_stages_of_which_each_knows_the_one_before(chain: Path) -> None:
    plan = plan_of(chain)
    assert not plan.problems
    assert [len(stage) for stage in plan.stages()] == [1, 1, 1]
    first, second, last = (stage[0] for stage in plan.stages())
    assert (second.upstream_id, last.upstream_id) == (first.trial_id, second.trial_id)
    assert [t.trial.role for t in (first, second, last)] == [Role.UPSTREAM, Role.UPSTREAM, Role.TARGET]
    assert stage_lines(plan) == [
        "stage 0: 0 targets, 1 upstream: other_spots from random",
        "stage 1: 0 targets, 1 upstream: women from first (trained on other_spots at 1, from random)",
        "stage 2: 1 targets, 0 upstream: spots from last (trained on women at 1, from first)",
    ]
    assert [(step["stage"], step["starts_from"]) for step in stage_graph(plan)] == [
        (0, None),
        (1, {"task": "other_spots", "pretraining_source": "random", "data_fraction": "1"}),
        (2, {"task": "women", "pretraining_source": "first", "data_fraction": "1"}),
    ]
    tasks = CHAIN["tasks"] | {"other_spots": {**CHAIN["tasks"]["other_spots"], "where": {"site": "A"}}}
    other = {t.trial.stage: t.trial_id for t in plan_of(changed(chain, tasks=tasks)).trials}
    assert not {first.trial_id, second.trial_id, last.trial_id} & set(other.values()), "the first stage is in all ids"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_trained_chain_is_reported_by_stage_and_exported(chain: Path, tmp_path: Path) -> None:
    plan = plan_of(chain)
    train_all(plan)
    target = plan.targets[0].trial_id

    evidence, _ = gather(plan.study.name)
    table = stage_table(evidence)
    assert table[["task", "pretraining_source", "leads_to"]].values.tolist() == [
        ["other_spots", "random", "first"],
        ["women", "first", "last"],
    ]
    assert table["test"].between(0, 1).all()
    assert (table["validation_low"] <= table["validation_high"]).all()
    assert stage_table(dataclasses.replace(evidence, upstream=evidence.upstream.iloc[:0])).empty

    out = tmp_path / "exported"
    ran = CliRunner().invoke(app, ["export", str(chain), target[:8], str(out)])
    assert ran.exit_code == 0, f"{ran.output}\n{ran.exception!r}"
    assert {file.name for file in out.iterdir()} == {"README.md", "config.json", "model.safetensors"}
    _card_is_right(out, target)
    _snippets_of_the_card_run(out, places_of().storage_of("small").fetch(target, Artifact.WEIGHTS))

    again = CliRunner().invoke(app, ["export", str(chain), target, str(out)])
    assert again.exit_code == 1
    assert "is there already" in " ".join(again.output.split())
    places_of().storage_of("small").delete_weights(target)
    pruned = CliRunner().invoke(app, ["export", str(chain), target, str(tmp_path / "pruned")])
    assert pruned.exit_code == 1
    assert "they were pruned, or not kept (execution.keep_weights: none)" in " ".join(pruned.output.split())
    assert not (tmp_path / "pruned").exists()


def _card_is_right(out: Path, trial_id: str) -> None:
    text = (out / "README.md").read_text(encoding="utf-8")
    _, front, body = text.split("---\n", 2)
    front_matter = yaml.safe_load(front)
    assert front_matter["library_name"] == "timm"
    assert front_matter["pipeline_tag"] == "image-classification"
    [result] = front_matter["model-index"][0]["results"]
    found = {metric["type"]: metric["value"] for metric in result["metrics"]}
    assert 0 <= found["auc"] <= 1
    assert re.search(r"\| test \| AUC \| [01]\.\d{3} \| (0\.\d{3} to [01]\.\d{3}|none) \|", body), body
    facts = (trial_id, "test_resnet", "32 px", "subset 0, init 0")
    for said in (*facts, "whose weights it starts from", "Intervals are over"):
        assert said in body
    assert "grades no comparison of this cell" in body
    assert json.loads((out / "config.json").read_text())["architecture"] == "test_resnet"


def _snippets_of_the_card_run(out: Path, weights: Path) -> None:
    """The code of the card, as a reader would paste it, gives the trial's own outputs."""
    snippets = re.findall(r"```python\n(.*?)```", (out / "README.md").read_text(encoding="utf-8"), re.S)
    assert len(snippets) == 2
    side = load_exported(out).working_side
    images = np.random.default_rng(0).integers(0, 256, (3, side, side, 3), dtype=np.uint8)
    names: dict[str, Any] = {"FOLDER": str(out), "images": images}
    for snippet in snippets:
        exec(snippet, names)
    assert names["probabilities"].shape == (3, 1)
    logits = names["network"](names["model"].transform(torch.from_numpy(images)))
    torch.testing.assert_close(torch.sigmoid(logits), names["probabilities"])
    kept, exported = load_file(weights), load_file(out / "model.safetensors")
    assert set(kept) == set(exported)
    assert all(torch.equal(kept[name], exported[name]) for name in kept)
