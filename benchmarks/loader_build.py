"""The build of an image store for ``benchmarks.loader``, beside what it cannot do without.

A store is built from files whose hashes are known, as a sweep builds it. The other sides do nothing but decode the same
files to arrays, or decode and resize them as a store does, in the same warm processes; what these take to start is a
figure of its own.
"""

from __future__ import annotations

import functools
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import psutil
from PIL import Image

from benchmarks.loader_images import files_of
from trainables.library import TaskLibrary
from trainables.manifest import Manifest
from trainables.store import open_store
from trainables.store_build import process_pool

CHUNK = 64
"""Files of one task of the other sides: images of the least shard."""


def decoded(file: Path) -> int:
    """Decode one file to an array, nothing else."""
    with Image.open(file) as image:
        return len(np.asarray(image.convert("RGB")))


def decoded_and_resized(file: Path, side: int) -> int:
    """Decode one file and resize it as a store does."""
    with Image.open(file) as image:
        return len(np.asarray(image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)))


def cpu_seconds() -> float:
    """Processor time of this process and of the workers it has started, also those that have ended, in seconds."""
    own = psutil.Process()
    times = [process.cpu_times() for process in (own, *own.children(recursive=True))]
    return float(sum(t.user + t.system + t.children_user + t.children_system for t in times))


def start_s() -> float:
    """Seconds that processes take until they have imported what a build needs, if none are there yet."""
    started = time.perf_counter()
    list(process_pool(joblib.cpu_count())(joblib.delayed(_each)(decoded, []) for _ in range(joblib.cpu_count())))
    return time.perf_counter() - started


def measure_build(library: TaskLibrary, manifest: Manifest, side: int, turns: int) -> dict[str, Any]:
    """Median images per second of each way, and the build's share of the others, which take turns.

    Args:
        library: Has the manifest.
        manifest: The images.
        side: Of the store, in pixels.
        turns: That count; one before them fills the page cache.

    Returns:
        ``images``, ``images_per_s`` by way, ``of_decoding`` and ``of_resizing`` (built over decoded, and over decoded
        and resized), and the same of processor time, which other work on the machine changes less.
    """
    files = files_of(manifest)
    chunks = [files[k : k + CHUNK] for k in range(0, len(files), CHUNK)]

    def pooled(work: Callable[[Path], int]) -> None:
        # The pool of the build: joblib keeps one, and another kind would end it, so that each turn paid for a start.
        list(process_pool(joblib.cpu_count())(joblib.delayed(_each)(work, chunk) for chunk in chunks))

    def build() -> None:
        shutil.rmtree(open_store(library, manifest, side).path)

    ways: dict[str, Callable[[], None]] = {
        "decoded": lambda: pooled(decoded),
        "built": build,
        "resized": lambda: pooled(functools.partial(decoded_and_resized, side=side)),
    }
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for turn in range(turns + 1):
        for name, way in ways.items():
            started, before = time.perf_counter(), cpu_seconds()
            way()
            if turn:
                took[name].append((time.perf_counter() - started, cpu_seconds() - before))
    wall_s, cpu_s = ({name: statistics.median(t[k] for t in times) for name, times in took.items()} for k in (0, 1))
    return {
        "images": len(files),
        "images_per_s": {name: round(len(files) / seconds, 1) for name, seconds in wall_s.items()},
        "of_decoding": round(wall_s["decoded"] / wall_s["built"], 3),
        "of_resizing": round(wall_s["resized"] / wall_s["built"], 3),
        "cpu_of_decoding": round(cpu_s["decoded"] / cpu_s["built"], 3),
        "cpu_of_resizing": round(cpu_s["resized"] / cpu_s["built"], 3),
    }


def _each(work: Callable[[Path], int], files: list[Path]) -> int:
    return sum(work(file) for file in files)
