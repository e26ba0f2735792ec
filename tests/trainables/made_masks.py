"""Tasks with masks: noise with a bright square to be found, or none; helpers of the tests of segmentation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from search_spaces.names import Kind
from trainables.library import TaskLibrary
from trainables.manifest import Manifest

HEIGHT, WIDTH = 20, 24
PATIENTS = 24
EMPTY_EVERY = 6
"""Every sixth image shows nothing."""


def square(image: int, rng: np.random.Generator) -> np.ndarray:
    """The true mask of an image, (HEIGHT, WIDTH) booleans."""
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    if image % EMPTY_EVERY:
        row, column, side = rng.integers(0, 10), rng.integers(0, 12), rng.integers(6, 10)
        mask[row : row + side, column : column + side] = True
    return mask


def write_images(folder: Path, masks: np.ndarray, rng: np.random.Generator, top: int = 255) -> None:
    """``i<k>.png`` and ``m<k>.png`` of each mask, whose 1 is written as ``top``; label k is bright in channel k - 1."""
    folder.mkdir(parents=True, exist_ok=True)
    for k, mask in enumerate(masks):
        pixels = rng.integers(40, 90, (*mask.shape, 3))
        for label in range(1, int(mask.max()) + 1):
            pixels[mask == label, label - 1] += 130
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"i{k}.png")
        Image.fromarray((mask * top).astype(np.uint8)).save(folder / f"m{k}.png")


def mask_table(images: int) -> pd.DataFrame:
    """Two images per patient, half of the patients train, a sixth validate; sizes known."""
    patient = np.arange(images) // 2
    share = patient / (images // 2)
    return pd.DataFrame(
        {
            "image_id": [f"i{k:03d}" for k in range(images)],
            "path": [f"i{k}.png" for k in range(images)],
            "mask": [f"m{k}.png" for k in range(images)],
            "width": pd.array([WIDTH] * images, dtype="Int32"),
            "height": pd.array([HEIGHT] * images, dtype="Int32"),
            "patient_id": [f"p{p:02d}" for p in patient],
            "split": np.where(share < 0.5, "train", np.where(share < 0.67, "val", "test")),
            "sex": np.where(patient % 2, "F", "M"),
        }
    )


def save_masks(
    library: TaskLibrary, name: str = "squares", labels: tuple[str, ...] = ("square",), seed: int = 0, **columns: Any
) -> Manifest:
    """Write images, masks and manifest. With two labels every third square is of the second."""
    rng = np.random.default_rng(seed)
    images = 2 * PATIENTS
    masks = np.stack([square(k, rng) for k in range(images)]).astype(np.uint8)
    if len(labels) > 1:
        masks[::3] *= 2
    folder = library.home.parent / "images" / name
    write_images(folder, masks, rng, 255 if len(labels) == 1 else 1)
    manifest = Manifest(
        name=name,
        kind=Kind.SEGMENTATION,
        labels=labels,
        table=mask_table(images).assign(**columns),
        root=folder,
        importer="test",
        patients_known=True,
    )
    return library.save(manifest, overwrite=True)
