"""A study on made images that a whole run of takes seconds: the raw material of end-to-end tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from search_spaces.home import scalecurves_home
from trainables.importers import ImportOptions, import_csv
from trainables.library import TaskLibrary

PATIENTS = 60
SIDE = 20


def make_task(folder: Path, name: str = "spots", seed: int = 0) -> None:
    """Grey images with a bright spot or without, two per patient, two sites; imported under ``name``."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    lines = ["image,label,patient_id,sex,site"]
    for patient in range(PATIENTS):
        label = patient % 2
        for view in range(2):
            pixels = generator.normal(90, 25, (SIDE, SIDE))
            if label:
                row, column = generator.integers(4, SIDE - 8, 2)
                pixels[row : row + 5, column : column + 5] += 90
            file = f"{name}_{patient}_{view}.png"
            Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / file)
            lines.append(f"{file},{label},p{patient},{'FM'[patient % 3 == 0]},{'AB'[patient % 4 == 0]}")
    (folder / "labels.csv").write_text("\n".join(lines))
    options = ImportOptions(name=name, label_name="spot", split=(0.5, 0.2, 0.3))
    TaskLibrary(scalecurves_home()).save(import_csv(folder / "labels.csv", options), overwrite=True)


def raw_study(**changes: Any) -> dict[str, Any]:
    """The study as a mapping, with top-level keys replaced."""
    raw: dict[str, Any] = {
        "schema": 1,
        "name": "small",
        "axes": {
            "model_scale": ["narrow"],
            "pretraining_source": ["random", "spots_pre"],
            "data_fraction": [0.3, 1.0],
            "task": ["spots"],
        },
        "seeds": 2,
        "scales": {
            "narrow": {
                "factory": "trainables.ladder_nets:resnet8",
                "arguments": {"width": 4},
                "input_size": 16,
                "ladder": "cifar",
            }
        },
        "sources": {"spots_pre": {"trial": {"task": "other_spots"}}},
        "tasks": {
            "spots": {
                "manifest": "spots",
                "primary": "auc",
                "where": {"site": "A"},
                "evaluate": {"site_b": {"manifest": "spots", "where": {"site": "B"}}},
            },
            "other_spots": {"manifest": "other_spots", "primary": "auc"},
        },
        "protocol": {
            "budget": {"steps": 6},
            "global_batch_size": 16,
            "ghost_batch_size": 8,
            "storage_size": 20,
            "evaluations": 3,
        },
        "statistics": {"groups": ["sex"]},
    }
    return raw | changes


def write_study(folder: Path, **changes: Any) -> Path:
    """Images, tasks and study file in ``folder``; the path of the study file."""
    make_task(folder / "spots")
    make_task(folder / "other", "other_spots", seed=1)
    return rewrite_study(folder, **changes)


def rewrite_study(folder: Path, **changes: Any) -> Path:
    """The study file alone."""
    file = folder / "small.yaml"
    file.write_text(yaml.safe_dump(raw_study(**changes), sort_keys=False))
    return file
