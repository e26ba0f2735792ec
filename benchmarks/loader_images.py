"""Images for ``benchmarks.loader``: made here, compressed as JPEG, with the manifest of a task."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from search_spaces.names import Kind
from trainables.library import TaskLibrary
from trainables.manifest import Manifest

QUALITY = 90


def picture(width: int, height: int, rng: np.random.Generator) -> Image.Image:
    """Smooth colour with fine grain, as compressible as a photograph (2 to 3 bits per pixel at quality 90)."""
    coarse = rng.integers(0, 256, (max(2, height // 24), max(2, width // 24), 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
    grain = rng.normal(0, 6, (height, width, 1)).astype(np.int16)
    return Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8))


def make_task(library: TaskLibrary, name: str, sizes: list[tuple[int, int]], images: int) -> Manifest:
    """A binary task of JPEG files.

    Args:
        library: Where the task is saved; images lie beside its home.
        name: Of the task.
        sizes: (width, height) in pixels, taken in turn.
        images: Number of images.
    """
    folder = library.home / "images" / name
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for k in range(images):
        picture(*sizes[k % len(sizes)], rng).save(folder / f"{k:05d}.jpg", quality=QUALITY)
    return _saved_files(library, folder, images)


def more_of(library: TaskLibrary, manifest: Manifest, images: int) -> Manifest:
    """A task of ``make_task`` with more images: further names of the same files. Itself if it has as many."""
    if images == len(manifest):
        return manifest
    files = files_of(manifest)
    folder = files[0].parent.with_name(f"{manifest.name}_{images}")
    folder.mkdir()
    for k in range(images):
        (folder / f"{k:05d}.jpg").hardlink_to(files[k % len(files)])
    return _saved_files(library, folder, images)


def make_frames(library: TaskLibrary, name: str, images: int, side: int) -> Manifest:
    """A task of noise in one npz file, which costs nothing to decode."""
    file = library.home / "images" / f"{name}.npz"
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez(file, frames=np.random.default_rng(0).integers(0, 256, (images, side, side, 3), dtype=np.uint8))
    return _saved(library, name, file.parent, {"path": [f"{file.name}#frames"] * images, "frame": range(images)})


def files_of(manifest: Manifest) -> list[Path]:
    """The image files of a task, in its order."""
    return [Path(str(manifest.file(row))) for row in range(len(manifest))]


def _saved_files(library: TaskLibrary, folder: Path, images: int) -> Manifest:
    """The binary task of the files of a folder, with the folder's name."""
    return _saved(library, folder.name, folder, {"path": [f"{k:05d}.jpg" for k in range(images)]})


def _saved(library: TaskLibrary, name: str, root: Path, columns: dict[str, Sequence[Any]]) -> Manifest:
    images = len(columns["path"])
    table = pd.DataFrame(
        {
            "image_id": [f"{k:05d}" for k in range(images)],
            **columns,
            "patient_id": [f"p{k}" for k in range(images)],
            "split": "train",
            "y_sick": (np.arange(images) % 2).astype(np.float32),
        }
    )
    return library.save(
        Manifest(
            name=name,
            kind=Kind.BINARY,
            labels=("sick",),
            table=table,
            root=root,
            importer="benchmark",
            patients_known=True,
        )
    )
