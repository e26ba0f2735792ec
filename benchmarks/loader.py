"""Image loading beside the usual ways: ``python -m benchmarks.loader [--quick] [--only PART]``. Two cores, no GPU.

- Batches per second without a model, from the image store and from timm's and torch's loaders over the same JPEG files,
  at equal augmentation: 200 x 150 px to 64 px (``ratio_small``), 1024 px and larger to 224 px (``ratio_large``). The
  loaders run with two workers and with none, all with one and two threads of the main process; the fastest way of each
  counts.
- The same with a small residual network that trains (``ratio_with_model``, the lesser of the two sizes).
- Images per second that a store is built at, over those that as many processes decode and do nothing else with
  (``build_fraction``), and over those that they decode and resize to the stored side (``build_fraction_resized``); the
  small images once as a small set and once as a larger one. The start of the processes is ``build_start_s``.
- Proportional memory of four processes that have read one store (its pages, and all memory that is no file's), over the
  store and 10 % and four processes without data (``pss_ratio``, at most 1).

The sides take turns in one process, so that a change of the machine's speed meets all; results are medians over turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F

from benchmarks import loader_memory
from benchmarks.loader_build import cpu_seconds, measure_build, start_s
from benchmarks.loader_images import files_of, make_frames, make_task, more_of
from benchmarks.loader_peers import Batch, repeated, store_batches, timm_loader, torch_loader
from trainables.environment import device_name
from trainables.library import TaskLibrary
from trainables.manifest import Manifest
from trainables.store import open_store
from trainables.task_data import working_side

CORES = 2
BATCH_SIZE = 32
THREADS = ", threads: "
MODEL = "test_resnet"
"""timm's smallest residual network, 0.5 million parameters."""

PARTS = ("build", "small", "large", "memory")
BUILD_FRACTIONS = {
    "build_fraction": "of_decoding",
    "build_fraction_resized": "of_resizing",
    "build_cpu_fraction_resized": "cpu_of_resizing",
}
"""Name in the last line -> name in ``loader_build.measure_build``; the least of all builds is told."""

HELD_BATCHES = 5
"""What two workers of torch's loader hold ready, and timm's prefetcher after them."""


@dataclass(frozen=True)
class Case:
    """One size of images.

    Attributes:
        sizes: (width, height) of the files, taken in turn.
        images: Number of files.
        storage_size: Side of the store.
        input_size: Side of the batches.
        build_images: Numbers of images that stores are built of.
        turn_s: Seconds of one turn without a model.
        model_turn_s: Seconds of one turn with a model.
    """

    name: str
    sizes: tuple[tuple[int, int], ...]
    images: int
    storage_size: int
    input_size: int
    build_images: tuple[int, ...]
    turn_s: float
    model_turn_s: float


SMALL = Case("small", ((200, 150),), 2048, 74, 64, (2048, 10240), 2.0, 4.0)
LARGE = Case("large", ((1024, 1024), (1280, 1024), (1536, 2048), (2048, 2048)), 160, 256, 224, (160,), 3.0, 5.0)


@dataclass(frozen=True)
class Rate:
    """Images per second, and per second of processor time, which other work on the machine changes less."""

    per_s: float
    per_cpu_s: float


class Turns:
    """Several endless streams of batches that take turns; each keeps its state, workers included."""

    def __init__(
        self, streams: dict[str, Iterator[Batch]], use: Callable[[Batch], object] = lambda batch: None
    ) -> None:
        self._streams, self._use = streams, use

    def rates(self, names: list[str], turns: int, seconds: float) -> dict[str, list[Rate]]:
        """Speed of every turn of these ways, each with its number of threads, see ``ways_of``."""
        found: dict[str, list[Rate]] = {name: [] for name in names}
        for _ in range(turns):
            for name in names:
                found[name].append(self._turn(name, seconds))
        return found

    def _turn(self, name: str, seconds: float) -> Rate:
        way, _, threads = name.partition(THREADS)
        torch.set_num_threads(int(threads))
        stream = self._streams[way]
        for _ in range(1 + held_ready(way)):  # what was made ready while others had their turn does not count
            next(stream)
        images, started, cpu_s = 0, time.perf_counter(), cpu_seconds()
        while (passed := time.perf_counter() - started) < seconds:
            batch = next(stream)
            self._use(batch)
            images += len(batch[0])
        return Rate(images / passed, images / (cpu_seconds() - cpu_s))


def streams_of(case: Case, library: TaskLibrary, manifest: Manifest) -> dict[str, Iterator[Batch]]:
    """The store, and each loader with two workers and with none."""
    side = working_side(case.input_size, case.storage_size)
    streams = {
        "store": store_batches(open_store(library, manifest, case.storage_size, side), case.input_size, BATCH_SIZE)
    }
    for name, loader in (("timm", timm_loader), ("torch", torch_loader)):
        for workers in (CORES, 0):
            made = loader(files_of(manifest), case.input_size, BATCH_SIZE, workers)
            streams[f"{name}, {workers} workers"] = repeated(made)
    return streams


def held_ready(way: str) -> int:
    """Batches that a stream has made ready while it waits; those without workers make none."""
    return HELD_BATCHES if way.endswith(f"{CORES} workers") else 0


def trained(network: torch.nn.Module) -> Callable[[Batch], object]:
    """One optimiser step on a batch."""
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)

    def step(batch: Batch) -> None:
        F.cross_entropy(network(batch[0]), batch[1]).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def compared(turns: Turns, names: list[str], count: int, seconds: float) -> dict[str, Any]:
    """Median ratios of the store to the fastest of the others, and median rates."""
    rates = turns.rates(names, count, seconds)
    store, *others = names
    found: dict[str, Any] = {}
    for ratio, kind in (("ratio", "per_s"), ("cpu_ratio", "per_cpu_s")):
        values = {name: [getattr(rate, kind) for rate in rates[name]] for name in names}
        ratios = [values[store][k] / max(values[name][k] for name in others) for k in range(count)]
        found[ratio] = round(statistics.median(ratios), 2)
        found[f"images_{kind}"] = {name: round(statistics.median(values[name]), 1) for name in names}
    return found


def ways_of(streams: dict[str, Iterator[Batch]]) -> list[str]:
    """Each stream with one thread and with as many as there are cores."""
    return [f"{name}{THREADS}{threads}" for name in streams for threads in (1, CORES)]


def raced(turns: Turns, ways: list[str], count: int, seconds: float) -> dict[str, Any]:
    """The store's fastest way beside the fastest of each loader, by one turn of all."""
    first = {name: rates[0].per_s for name, rates in turns.rates(ways, 1, seconds / 2).items()}
    best = [max((w for w in ways if w.startswith(side)), key=first.__getitem__) for side in ("store", "timm", "torch")]
    return compared(turns, best, count, seconds)


def measure_memory(library: TaskLibrary, images: int) -> dict[str, float]:
    """Memory of four processes with and without a store, in MiB, and its ratio to what is allowed."""
    side = loader_memory.SIDE
    open_store(library, make_frames(library, "one_batch", loader_memory.BATCH_SIZE, side), side)
    store_bytes = open_store(library, make_frames(library, "frames", images, side), side).images.nbytes
    without = loader_memory.together(library.home, "one_batch", images)
    found = loader_memory.together(library.home, "frames", images)
    allowed = 1.1 * store_bytes + sum(process.both for process in without)
    mib = {
        "store_mib": store_bytes,
        "store_pages_mib": sum(process.store for process in found),
        "allocated_mib": sum(process.allocated for process in found),
        "without_mib": sum(process.both for process in without),
    }
    ratio = round(sum(process.both for process in found) / allowed, 3)
    return {"pss_ratio": ratio} | {name: round(value / 2**20, 1) for name, value in mib.items()}


def measure_case(case: Case, library: TaskLibrary, manifest: Manifest, quick: bool) -> dict[str, Any]:
    """Loading without a model, and learning with one, for one size of images."""
    streams = streams_of(case, library, manifest)
    loading = raced(Turns(streams), ways_of(streams), 2 if quick else 3, case.turn_s)
    learner = trained(timm.create_model(MODEL, num_classes=2))
    learning = raced(Turns(streams, learner), ways_of(streams), 2, case.model_turn_s)
    return {"loading": loading, "learning": learning}


def measure_builds(case: Case, library: TaskLibrary, manifest: Manifest, share: int) -> list[dict[str, Any]]:
    """The build of stores of one size of images, see ``benchmarks.loader_build``."""
    tasks = [more_of(library, manifest, images // share) for images in case.build_images]
    return [measure_build(library, task, case.storage_size, 3) for task in tasks]


def summarised(cases: dict[str, dict[str, Any]], builds: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures with targets."""
    summary: dict[str, Any] = {}
    for name, found in cases.items():
        summary |= {f"ratio_{name}": found["loading"]["ratio"], f"cpu_ratio_{name}": found["loading"]["cpu_ratio"]}
    if cases:
        summary["ratio_with_model"] = min(found["learning"]["ratio"] for found in cases.values())
    if builds:
        summary |= {name: min(build[of] for build in builds) for name, of in BUILD_FRACTIONS.items()}
    return summary


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="fewer images and turns")
    parser.add_argument("--only", choices=PARTS, help="one part of the benchmark")
    options = parser.parse_args(arguments)
    torch.set_num_threads(CORES)
    print(f"{device_name(torch.device('cpu'))}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    parts, share = {options.only} if options.only else set(PARTS), 8 if options.quick else 1
    summary: dict[str, Any] = {"benchmark": "loader", "quick": options.quick}
    if "build" in parts:
        summary["build_start_s"] = round(start_s(), 2)
    cases: dict[str, dict[str, Any]] = {}
    builds: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="scalecurves-") as folder:
        library = TaskLibrary(Path(folder))
        for case in (case for case in (SMALL, LARGE) if parts & {case.name, "build"}):
            manifest = make_task(library, case.name, list(case.sizes), case.images // share)
            if "build" in parts:
                builds += measure_builds(case, library, manifest, share)
                print(f"builds: {json.dumps(builds)}", flush=True)
            if case.name in parts:
                cases[case.name] = measure_case(case, library, manifest, options.quick)
                print(f"{case.name}: {json.dumps(cases[case.name])}", flush=True)
        summary |= summarised(cases, builds)
        if "memory" in parts:
            summary |= measure_memory(library, 2000 // (10 if options.quick else 1))
    print(json.dumps(summary | cases | ({"builds": builds} if builds else {})))


if __name__ == "__main__":
    main()
