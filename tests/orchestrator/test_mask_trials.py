"""Trials of masks from the plan to the exported folder: what a plan counts and refuses, and what an export gives."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from dashboards.load import load_predictions, load_results
from orchestrator.api import places_of
from orchestrator.sources import app as sources_app
from orchestrator.sweep import app
from search_spaces.home import scalecurves_home
from search_spaces.names import Split
from search_spaces.trial import ResolvedScale, Workspace
from tests.orchestrator.small_runs import plan_of, train_all
from tests.orchestrator.small_study import raw_study
from tests.trainables.made_masks import save_masks
from trainables.exported import ExportedModel, load_exported
from trainables.library import TaskLibrary
from trainables.manifest import Manifest
from trainables.scale_cards import unet_costs

SQUARES: dict[str, Any] = {
    "axes": {"model_scale": ["tiny"], "pretraining_source": ["random"], "data_fraction": [1.0], "task": ["squares"]},
    "seeds": 1,
    "scales": {"tiny": {"factory": "trainables.ladder_nets:resnet8", "arguments": {"width": 4}, "input_size": 16}},
    "sources": {},
    "tasks": {"squares": {"manifest": "squares", "primary": "dice", "nsd_tolerance": 2}},
    "protocol": {
        "budget": {"steps": 25},
        "lr": 0.01,
        "global_batch_size": 8,
        "storage_size": 20,
        "evaluations": 2,
        "test_time_augmentation": "flip",
    },
}


def library() -> TaskLibrary:
    return TaskLibrary(scalecurves_home())


def written(folder: Path, **changes: Any) -> Path:
    """A study of masks whose images lie below the home."""
    save_masks(library())
    file = folder / "squares.yaml"
    file.write_text(yaml.safe_dump(raw_study(**(SQUARES | changes)), sort_keys=False))
    return file


def test_a_budget_in_operations_counts_the_decoder_too(tmp_path: Path) -> None:
    protocol = SQUARES["protocol"] | {"budget": {"flops": 1e10}}
    plan = plan_of(written(tmp_path, protocol=protocol), load_weights=False)
    assert not plan.problems
    scale = plan.resolver.resolved(plan.targets[0].trial, "a", Workspace(home="", storage="")).scale
    assert scale.gflops == unet_costs(scale, 1).gflops
    steps = round(1e10 / (3 * unet_costs(scale, 1).gflops * 1e9 * 8))
    assert any(f"scale 'tiny' as the encoder of a U-Net at 16 px: 1e+10 flops are {steps:,}" in n for n in plan.notes)


def test_a_plan_says_what_the_unets_cost_and_a_scale_does_too(tmp_path: Path) -> None:
    file = written(tmp_path)
    scale = ResolvedScale(name="tiny", **SQUARES["scales"]["tiny"])
    said = unet_costs(scale, 1).text
    assert f"scale 'tiny' as the encoder of a U-Net at 16 px: {said}" in plan_of(file).notes
    for name, expected in (
        ("tiny", f"as the encoder of a U-Net: {said}, with 1 output"),
        ("vit_tiny_patch16_224", "cannot be the encoder"),
    ):
        ran = CliRunner().invoke(sources_app, ["show", name, "--study", str(file)])
        assert ran.exit_code == 0, ran.output
        assert expected in " ".join(ran.output.split())


@pytest.mark.parametrize(
    ("protocol", "said"),
    [
        ({"base": "taher_classification"}, "recipe taher_classification is for labels"),
        ({"base": "linear_probe"}, "recipe linear_probe is for labels"),
        ({"mixup_alpha": 0.2}, "mixup_alpha and cutmix_alpha mix the labels of two images"),
    ],
)
def test_a_protocol_of_labels_is_one_problem_of_a_plan_of_masks(
    tmp_path: Path, protocol: dict[str, Any], said: str
) -> None:
    [problem] = plan_of(written(tmp_path, protocol=protocol), load_weights=False).problems
    assert "task 'squares' (segmentation) cannot be trained with its protocol" in problem
    assert said in problem


def test_an_encoder_without_maps_is_one_problem_and_a_side_that_halves_unevenly_is_none(tmp_path: Path) -> None:
    vit = {"vit": {"factory": "vit_tiny_patch16_224", "input_size": 32}}
    axes = SQUARES["axes"] | {"model_scale": ["vit"]}
    protocol = SQUARES["protocol"] | {"storage_size": 40}
    [problem] = plan_of(written(tmp_path, scales=vit, axes=axes, protocol=protocol), load_weights=True).problems
    assert "vit_tiny_patch16_224 cannot be the encoder of a U-Net: its maps are" in problem
    odd = {"tiny": SQUARES["scales"]["tiny"] | {"input_size": 19}}
    assert not plan_of(written(tmp_path, scales=odd), load_weights=True).problems


@pytest.mark.slow
def test_an_exported_trial_predicts_the_masks_that_it_was_scored_with(tmp_path: Path) -> None:
    file = written(tmp_path)
    plan = plan_of(file, load_weights=False)
    train_all(plan)
    target, out = plan.targets[0].trial_id, tmp_path / "exported"
    ran = CliRunner().invoke(app, ["export", str(file), target[:8], str(out)])
    assert ran.exit_code == 0, f"{ran.output}\n{ran.exception!r}"
    assert {path.name for path in out.iterdir()} == {"README.md", "config.json", "model.safetensors"}

    tracking = places_of().tracking_uri
    scored = load_predictions(load_results("small", tracking), tracking_uri=tracking)[target, "test"].logits[:, 0]
    masks = json.loads((out / "config.json").read_text())["scalecurves"]["masks"]
    assert masks["side"] == 20
    assert 0 < masks["thresholds"][0] < 1
    np.testing.assert_array_equal(_counts(load_exported(out), library().load("squares")), scored)
    assert scored[:, :2].sum() > 0, "something is predicted"
    _card_is_right(out, len(scored))


def _counts(model: ExportedModel, manifest: Manifest) -> np.ndarray:
    """Pixels of each test image, from nothing but its file, its mask's, and what the card says of sizes."""
    rows = np.flatnonzero(manifest.table["split"] == Split.TEST)
    size = (model.working_side, model.working_side)
    images, truths = [], []
    for row in rows:
        stored = manifest.image(row).resize((20, 20), Image.Resampling.BICUBIC)
        images.append(np.asarray(stored.resize(size, Image.Resampling.BILINEAR)))
        mask = Image.fromarray((manifest.mask(row) != 0).astype(np.uint8))
        truths.append(np.asarray(mask.resize((20, 20), Image.Resampling.NEAREST)).astype(bool))
    masks, true = model.masks(np.stack(images))[:, 0], np.stack(truths)
    parts = (masks & true, masks & ~true, ~masks & true, ~masks & ~true)
    return np.stack([part.sum((1, 2)) for part in parts], axis=1)


def _card_is_right(out: Path, images: int) -> None:
    text = (out / "README.md").read_text(encoding="utf-8")
    _, front, body = text.split("---\n", 2)
    front_matter = yaml.safe_load(front)
    assert front_matter["pipeline_tag"] == "image-segmentation"
    assert front_matter["library_name"] == "scalecurves"
    found = {metric["type"] for metric in front_matter["model-index"][0]["results"][0]["metrics"]}
    assert {"dice", "iou", "false_positive_images"} <= found
    assert "U-Net with trainables.ladder_nets:resnet8" in body
    assert "| surface Dice within | 2 px of the original image |" in body
    assert re.search(rf"\| test \| Dice \| 0\.\d{{3}} \| 0\.\d{{3}} to [01]\.\d{{3}} \| \d+ \| {images} \|", body), body
    [snippet] = re.findall(r"```python\n(.*?)```", body, re.S)
    side = load_exported(out).working_side
    names: dict[str, Any] = {"FOLDER": str(out), "images": np.zeros((2, side, side, 3), np.uint8)}
    exec(snippet, names)
    assert names["probabilities"].shape == names["masks"].shape == (2, 1, 20, 20)
    assert names["masks"].dtype == bool
