"""Models of one data set's labels, scored on those of another or on fewer of their own, from study to record."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from dashboards.load import load_predictions, load_results
from search_spaces.home import scalecurves_home
from search_spaces.names import Kind
from tests.orchestrator.small_runs import plan_of, train_all
from tests.orchestrator.small_study import raw_study
from tests.trainables.made_tasks import save_manifest
from trainables.importers import shipped_map
from trainables.library import TaskLibrary

FIVE = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
AT_NIH = {label: label for label in FIVE} | {"Pleural Effusion": "Effusion"}
FOURTEEN = tuple(shipped_map("chexpert").labels.flags)
NIH = tuple(shipped_map("chestxray14").labels.items)
PATIENTS = 60


def save_findings(name: str, labels: tuple[str, ...], seed: int) -> None:
    """An image of each patient; every label is present in half of them at random."""
    present = np.random.default_rng(seed).permuted(np.tile([0.0, 1.0], (len(labels), PATIENTS // 2)), axis=1)
    who = np.arange(PATIENTS)
    table = pd.DataFrame(
        {
            "image_id": [f"{name[-1]}{k:02d}" for k in who],
            "patient_id": [f"{name} {k}" for k in who],
            "split": np.where(who < 15, "train", np.where(who < 20, "val", "test")),
            **{f"y_{label}": present[k].astype(np.float32) for k, label in enumerate(labels)},
        }
    )
    save_manifest(TaskLibrary(scalecurves_home()), name, Kind.MULTILABEL, labels, table)


def write_study(folder: Path) -> Path:
    """``shift``: five labels of one data set, scored on another one; ``part``: fourteen labels, scored on five."""
    for seed, (name, labels) in enumerate({"chexpert_five": FIVE, "chestxray14": NIH, "chexpert": FOURTEEN}.items()):
        save_findings(name, labels, seed)
    tasks: dict[str, Any] = {
        "shift": {
            "manifest": "chexpert_five",
            "evaluate": {"nih": {"manifest": "chestxray14", "label_map": "chexpert_to_chestxray14"}},
        },
        "part": {"manifest": "chexpert", "evaluate": {"test": {"label_map": {label: label for label in FIVE}}}},
    }
    axes = {"pretraining_source": ["random"], "data_fraction": [1.0], "task": list(tasks)}
    study = raw_study(
        axes=raw_study()["axes"] | axes,
        seeds=1,
        sources={},
        tasks={name: {"primary": "auc_macro", **task} for name, task in tasks.items()},
        statistics={},
    )
    file = folder / "labels.yaml"
    file.write_text(yaml.safe_dump(study, sort_keys=False))
    return file


def mean_auc(row: pd.Series, set_name: str, labels: tuple[str, ...]) -> float:
    return float(np.mean([row[f"{set_name}/auc.{label}"] for label in labels]))


def test_labels_that_both_sides_have_are_scored_and_no_others(tmp_path: Path) -> None:
    plan = plan_of(write_study(tmp_path))
    assert not plan.problems
    others = [label for label in FOURTEEN if label not in FIVE]
    assert f"task 'part': test is scored on 5 of 14 labels, not on {', '.join(others)}" in plan.notes
    assert not any("nih is scored" in note for note in plan.notes)
    train_all(plan)
    rows = load_results(plan.study.name).set_index("task")
    for task, name in {"shift": "nih", "part": "test"}.items():
        assert rows.loc[task, f"{name}/auc_macro"] == pytest.approx(mean_auc(rows.loc[task], name, FIVE))
        predictions = load_predictions(plan.study.name, sets=[name])[rows.loc[task, "trial_id"], name]
        assert predictions.labels == (FIVE if task == "shift" else FOURTEEN)
        manifest = TaskLibrary(scalecurves_home()).load("chestxray14" if task == "shift" else "chexpert")
        truth = manifest.table.set_index(manifest.table["image_id"].map(manifest.hashed))
        for k, label in enumerate(predictions.labels):
            called = (AT_NIH if task == "shift" else {of_five: of_five for of_five in FIVE}).get(label)
            expected = truth[f"y_{called}"].loc[predictions.image] if called else np.nan
            np.testing.assert_array_equal(predictions.y[:, k], np.broadcast_to(expected, len(predictions.image)))
    assert {f"test/auc.{label}" for label in others} <= set(rows.loc["part", "undefined"])
    assert len(rows.loc["shift", "sets"]) == 2
