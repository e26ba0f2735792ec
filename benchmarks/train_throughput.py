"""Our training loop against a bare PyTorch loop: ``python -m benchmarks.train_throughput [--quick]``.

Both train the same net on the same random images with the same batch, the same augmentation operators, the same
optimiser and the same memory format. The bare loop has nothing else: no ghost batches, no seeds per step, no schedule,
no record of losses. Runs of the two alternate, so that a change of the machine's speed meets both; the result is the
median over pairs. Needs neither Ray nor MLflow.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torchvision
from torch import nn

from search_spaces.protocol import Budget, Protocol
from search_spaces.results import Order
from search_spaces.study import Normalisation
from trainables.augmentation import Augment
from trainables.environment import borrowed_globals, device_name
from trainables.fitting import fit
from trainables.groups import SingleProcess
from trainables.ladder_nets import resnet20
from trainables.module_setup import prepare
from trainables.optimisation import make_optimizer

NORMALISE = Normalisation(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
CLASSES = 7


@dataclass(frozen=True)
class Images:
    """Random images of the working side of an input size (8/7 of it)."""

    images: np.ndarray
    positions: np.ndarray
    targets: np.ndarray

    @classmethod
    def random(cls, count: int, input_size: int) -> Images:
        """``count`` images with random labels."""
        rng = np.random.default_rng(0)
        side = -(-input_size * 8 // 7)
        images = rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
        return cls(images, np.arange(count), rng.integers(0, CLASSES, count))


@dataclass(frozen=True)
class Case:
    """One net at one input size."""

    name: str
    make: Callable[[], nn.Module]
    input_size: int
    steps: int
    batch_size: int = 32


def ours(case: Case, data: Images, device: torch.device) -> float:
    """Training images per second of ``fit``, its one validation pass not counted."""
    protocol = Protocol(
        budget=Budget(steps=case.steps), global_batch_size=case.batch_size, evaluations=1, select="last"
    )
    few = Images(data.images, data.positions[:CLASSES], np.arange(CLASSES))
    result = fit(
        case.make(),
        data,
        few,
        protocol=protocol,
        normalise=NORMALISE,
        input_size=case.input_size,
        seed=0,
        primary="accuracy",
        group=SingleProcess(device),
        tell=lambda report: Order.GO,
    )
    return result.samples_per_s


def bare(case: Case, data: Images, device: torch.device) -> float:
    """Training images per second of the shortest loop that trains the same."""
    module = case.make()
    channels_last = prepare(module, case.input_size, device).channels_last
    protocol = Protocol(global_batch_size=case.batch_size)
    optimizer = make_optimizer(module.train(), protocol)
    augment = Augment(protocol.augmentation, case.input_size, NORMALISE, device, channels_last=channels_last)
    loss_of = nn.CrossEntropyLoss()
    generator = torch.Generator().manual_seed(0)
    order = np.random.default_rng(0)
    on_device = torch.from_numpy(data.images).to(device) if device.type == "cuda" else None
    targets = torch.from_numpy(data.targets).to(device)
    index = order.permutation(len(data.positions))
    synchronise(device)
    started = time.perf_counter()
    for step in range(case.steps):
        first = step * case.batch_size % (len(index) - case.batch_size + 1)
        rows = index[first : first + case.batch_size]
        if on_device is None:
            images, y = torch.from_numpy(data.images[rows]), targets[torch.from_numpy(rows)]
        else:
            rows_on_device = torch.from_numpy(rows).to(device)
            images, y = on_device[rows_on_device], targets[rows_on_device]
        loss = loss_of(module(augment(images, generator)), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    synchronise(device)
    return case.steps * case.batch_size / (time.perf_counter() - started)


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(case: Case, pairs: int, device: torch.device) -> dict[str, float | str]:
    """Median speeds and the median over pairs of their ratio; the first pair warms up and does not count."""
    data = Images.random(1024, case.input_size)
    speeds = []
    for pair in range(pairs + 1):
        runs = [("ours", ours), ("bare", bare)]
        found = {name: run(case, data, device) for name, run in (runs if pair % 2 else reversed(runs))}
        if pair:
            speeds.append(found)
    return {
        "case": case.name,
        "ours_images_per_s": statistics.median(s["ours"] for s in speeds),
        "bare_images_per_s": statistics.median(s["bare"] for s in speeds),
        "fraction": statistics.median(s["ours"] / s["bare"] for s in speeds),
    }


def make_cases(steps: int) -> list[Case]:
    """A launch-bound net and a compute-bound one."""
    return [
        Case("resnet20 32 px", lambda: resnet20(num_classes=CLASSES), 32, steps),
        Case("squeezenet1_0 64 px", lambda: torchvision.models.squeezenet1_0(num_classes=CLASSES), 64, steps),
    ]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter runs")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    on_gpu = device.type == "cuda"
    steps = (200 if on_gpu else 12) if options.quick else (600 if on_gpu else 40)
    cases = make_cases(steps)
    print(f"{device_name(device)}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    print(f"{'case':24}{'ours img/s':>12}{'bare img/s':>12}{'fraction':>10}")
    rows = []
    with borrowed_globals(device):
        for case in cases:
            torch.manual_seed(0)
            row = measure(case, 3 if options.quick else 9, device)
            rows.append(row)
            print(
                f"{row['case']:24}{row['ours_images_per_s']:12.1f}{row['bare_images_per_s']:12.1f}"
                f"{row['fraction']:10.3f}"
            )
    summary = {
        "benchmark": "train_throughput",
        "fraction_of_bare_loop": round(min(float(row["fraction"]) for row in rows), 4),
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "quick": options.quick,
        "cases": rows,
    }
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
