"""Manifests of a few coloured images, saved in a library; helpers of the tests of rows, stores and task data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from search_spaces.names import Kind
from search_spaces.study import EvaluationSetSpec
from search_spaces.trial import ResolvedTask
from trainables.library import TaskLibrary
from trainables.manifest import Manifest


def colour(name: str) -> tuple[int, int, int]:
    """One colour per image id, so that a test can tell which image it was given."""
    red, green, blue = name.encode().ljust(3)[-3:]
    return red, green, blue


def save_manifest(
    library: TaskLibrary, name: str, kind: Kind, labels: tuple[str, ...], table: pd.DataFrame, **facts: Any
) -> Manifest:
    """Write one PNG per row (12 x 10 pixels unless columns width, height say more) and the manifest."""
    folder = library.home.parent / "images" / name
    folder.mkdir(parents=True, exist_ok=True)
    table = table.reset_index(drop=True).assign(path=[f"{i}.png" for i in table["image_id"]])
    for image_id in table["image_id"]:
        Image.new("RGB", (12, 10), colour(image_id)).save(folder / f"{image_id}.png")
    manifest = Manifest(
        name=name, kind=kind, labels=labels, table=table, root=folder, importer="test", patients_known=True, **facts
    )
    return library.save(manifest, overwrite=True)


def multilabel_table() -> pd.DataFrame:
    """24 patients with two images each; site A 16 patients over the splits, site B 8 in external."""
    patient = np.repeat(np.arange(24), 2)
    split = np.where(patient >= 16, "external", np.where(patient < 8, "train", np.where(patient < 11, "val", "test")))
    opacity = ((patient + np.tile([0, 1], 24)) % 3 == 0).astype(np.float32)
    nodule = (patient % 2).astype(np.float32)
    opacity[[0, 17, 24]] = -1, -1, np.nan
    return pd.DataFrame(
        {
            "image_id": [f"i{k:02d}" for k in range(48)],
            "patient_id": [f"p{p:02d}" for p in patient],
            "site": np.where(patient < 16, "A", "B"),
            "split": split,
            "sex": np.where(patient % 4 < 2, "F", "M"),
            "g_device": np.where(patient % 5 == 0, "portable", "fixed"),
            "y_opacity": opacity,
            "y_nodule": nodule,
        }
    )


def multiclass_table() -> pd.DataFrame:
    """30 patients with one image each; classes nv, mel, bcc in turn, two unknown."""
    rows = np.arange(30)
    y = (rows % 3).astype(np.int16)
    y[[5, 29]] = -1
    return pd.DataFrame(
        {
            "image_id": [f"k{k:02d}" for k in rows],
            "patient_id": [f"q{k:02d}" for k in rows],
            "split": np.where(rows < 15, "train", np.where(rows < 21, "val", "test")),
            "g_body": np.where(rows % 7 == 0, "face", "back"),
            "y": y,
        }
    )


def save_findings(library: TaskLibrary) -> Manifest:
    return save_manifest(library, "findings", Kind.MULTILABEL, ("opacity", "nodule"), multilabel_table())


def save_lesions(library: TaskLibrary) -> Manifest:
    return save_manifest(library, "lesions", Kind.MULTICLASS, ("nv", "mel", "bcc"), multiclass_table())


FINDINGS_SETS = {"test": {}, "site_b": {"manifest": "findings", "where": {"site": ["B"]}}}
"""Evaluation sets of ``findings``, as a study writes them."""


def make_task(
    library: TaskLibrary, manifest: str, evaluate: dict[str, Any] | None = None, **fields: Any
) -> ResolvedTask:
    """A resolved task over a saved manifest; ``evaluate`` as a study writes it."""
    card = library.card(manifest)
    sets = (
        {"test": EvaluationSetSpec()}
        if evaluate is None
        else {name: EvaluationSetSpec.model_validate(spec) for name, spec in evaluate.items()}
    )
    resolved: dict[str, Any] = {
        "name": f"task_{manifest}",
        "manifest": manifest,
        "manifest_hash": card.manifest_hash,
        "kind": card.kind,
        "labels": card.labels,
        "held_out": tuple(s.where for s in sets.values() if s.held_out),
        "primary": "auc_macro",
        "evaluate": sets,
        **fields,
    }
    return ResolvedTask(**resolved)


def make_library(tmp_path: Path) -> TaskLibrary:
    return TaskLibrary(tmp_path / "home")


def filled_library(tmp_path: Path) -> TaskLibrary:
    """With the tasks ``findings`` and ``lesions``."""
    library = make_library(tmp_path)
    save_findings(library)
    save_lesions(library)
    return library
