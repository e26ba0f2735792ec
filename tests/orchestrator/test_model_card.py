"""The files of an export and its card, without a record: weights, configuration, words, and code that runs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

from orchestrator.model_card import CardFacts, model_card_text
from search_spaces.exceptions import UserError
from search_spaces.protocol import Protocol
from search_spaces.trial import ResolvedScale, ResolvedTrial
from tests.trainables.toy import toy_trial
from trainables.exported import export_files, is_timm, load_exported
from trainables.models import build_model

AXES = {"model_scale": "tiny", "pretraining_source": "random", "data_fraction": "1", "task": "t"}
METRIC = {"set": "test", "metric": "auc", "value": 0.812, "low": 0.75, "high": 0.86, "level": 0.95}
ROW = METRIC | {"n_patients": 40, "images": 80, "notes": "few patients"}


def exported(folder: Path, protocol: Protocol | None = None, **scale: Any) -> ResolvedTrial:
    """A trial of a small net whose weights, drawn from a seed, are exported to the folder."""
    fields = {"name": "tiny", "input_size": 32, **scale}
    trial = toy_trial(scale=ResolvedScale.model_validate(fields), axes=AXES, protocol=protocol or Protocol())
    weights = folder / "weights.safetensors"
    state = {n: t.contiguous() for n, t in build_model(trial.scale, 1, seed=3).module.state_dict().items()}
    save_file(state, weights, {"trial_id": trial.trial_id, "selected": "true"})
    export_files(trial, weights, folder)
    weights.unlink()
    return trial


def facts(trial: ResolvedTrial, **changes: Any) -> CardFacts:
    run = {"parameters": 1234, "n_images": 50.0, "n_patients": 25.0, "steps": 30, "best_step": 20, "commit": "abc123"}
    known = {"run": run, "metrics": [ROW], "grades": [], "source_licence": "none", "data_licence": "CC BY 4.0"}
    return CardFacts(**{**known, "is_timm": is_timm(trial)} | changes)


@pytest.mark.parametrize(
    "scale",
    [{"factory": "test_resnet"}, {"factory": "trainables.ladder_nets:resnet8", "arguments": {"width": 4}}],
    ids=["timm", "own"],
)
def test_the_code_of_a_card_runs_and_gives_the_outputs_of_the_trial(tmp_path: Path, scale: dict[str, Any]) -> None:
    trial = exported(tmp_path, **scale)
    snippets = re.findall(r"```python\n(.*?)```", model_card_text(trial, facts(trial)), re.S)
    assert len(snippets) == 1 + is_timm(trial)
    side = load_exported(tmp_path).working_side
    images = np.random.default_rng(0).integers(0, 256, (3, side, side, 3), dtype=np.uint8)
    names: dict[str, Any] = {"FOLDER": str(tmp_path), "images": images}
    for snippet in snippets:
        exec(snippet, names)
    own = build_model(trial.scale, 1, seed=3).module.eval()
    with torch.no_grad():
        inputs = names["model"].transform(torch.from_numpy(images))
        torch.testing.assert_close(names["probabilities"], torch.sigmoid(own(inputs)))
        if is_timm(trial):
            torch.testing.assert_close(names["network"](inputs), own(inputs))


SIDES = [(256, 512, "centre"), (224, 256, "centre"), (299, 342, "centre"), (288, 288, "centre"), (256, 512, "whole")]
"""Sides of the input and of the resized image, and what evaluation cuts out of it."""


@pytest.mark.parametrize(("size", "side", "crop"), SIDES)
def test_timm_sees_as_much_of_an_image_as_the_trial(tmp_path: Path, size: int, side: int, crop: str) -> None:
    written = {"storage_size": side, "image_size": [side, size], "evaluation_crop": crop}
    exported(tmp_path, Protocol.model_validate(written), factory="test_resnet", input_size=size)
    own = load_exported(tmp_path)
    assert own.working_side == side
    configuration = json.loads((tmp_path / "config.json").read_text())["pretrained_cfg"]
    transform = timm.data.create_transform(**timm.data.resolve_data_config(pretrained_cfg=configuration))
    ramp = np.linspace(0, 255, side).astype(np.uint8)
    image = np.stack([np.tile(ramp, (side, 1)), np.tile(ramp[:, None], side), np.zeros((side, side), np.uint8)], 2)
    seen, expected = transform(Image.fromarray(image)), own.transform(torch.from_numpy(image[None]))[0]
    one_pixel = 1 / side / min(configuration["std"])
    assert seen.shape == expected.shape
    assert float((seen - expected).abs().max()) < 3 * one_pixel
    resized = transform.transforms[0].size
    cut = own.transform._side(torch.empty(1, side, side, 3))
    assert abs(resized[0] - size * side / cut) <= 0.5


def test_the_card_says_what_it_is_and_no_more(tmp_path: Path) -> None:
    trial = exported(tmp_path, factory="test_resnet")
    text = model_card_text(trial, facts(trial))
    _, front, body = text.split("---\n", 2)
    front_matter = yaml.safe_load(front)
    assert (front_matter["library_name"], front_matter["license"]) == ("timm", "other")
    [result] = front_matter["model-index"][0]["results"]
    assert result["metrics"] == [{"type": "auc", "value": 0.812, "name": "AUC"}]
    for said in (
        "| test | AUC | 0.812 | 0.750 to 0.860 | 40 | 80 |",
        "95 % interval",
        "| architecture | test_resnet |",
        "| seeds | subset 0, init 0 |",
        "| input size | 32 px |",
        "| code | abc123 |",
        "mean [0.5, 0.4, 0.3]",
        "Training images: CC BY 4.0",
        "grades no comparison of this cell",
        "Of the intervals: few patients",
    ):
        assert said in body
    graded = [{"set": "test", "words": "random seems to help", "grade": "C"}]
    body = model_card_text(trial, facts(trial, grades=graded, metrics=[]))
    assert "test: random seems to help (grade C, all seeds of the study)" in body
    assert "No predictions of it are in the record." in body
    assert "model-index" not in body
    unknown = ROW | {"low": float("nan"), "high": float("nan"), "value": float("nan")}
    body = model_card_text(trial, facts(trial, metrics=[unknown], run={"still_rising": True, "patients_known": False}))
    assert "| test | AUC | not defined | none |" in body
    assert "Validation was still improving" in body
    assert "Patients are not known" in body
    assert "| parameters | not recorded |" in body


def test_what_is_no_export_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config\.json is no config\.json of an exported trial: FileNotFoundError"):
        load_exported(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="KeyError"):
        load_exported(tmp_path)


def test_weights_of_another_trial_or_another_step_are_not_exported(tmp_path: Path) -> None:
    trial = toy_trial(scale=ResolvedScale(name="tiny", input_size=32, factory="test_resnet"))
    file = tmp_path / "weights.safetensors"
    for metadata, message in (
        ({"trial_id": "f" * 16, "selected": "true"}, "holds weights of trial ffff"),
        ({"trial_id": trial.trial_id, "selected": "false"}, "are those of its last step"),
    ):
        save_file({"a": torch.zeros(1)}, file, metadata)
        with pytest.raises(UserError, match=message):
            export_files(trial, file, tmp_path)
    assert not (tmp_path / "model.safetensors").exists()
