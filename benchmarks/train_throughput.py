"""Our training loop against a bare one: ``python -m benchmarks.train_throughput [--quick] [--store] [--timm]``.

Both train the same net on the same random images with the same batch, the same augmentation operators, the same
optimiser and the same memory format. The bare loop has nothing else: no ghost batches, no seeds per step, no schedule,
no record of losses, and its images are one array, where ours lie in shards as in a store. The two take turns every few
steps in one process, so that a change of the machine's speed meets both; the result is the median over turns of the
ratio of speeds. Needs neither Ray nor MLflow.

With ``--store``, on a GPU, also our loop against itself: ResNet-50 at 224 px in bf16 on images that are streamed from
shards, and on one batch that stays on the GPU. What is lost is what feeding the images costs.

With ``--timm``, on a GPU, our loop on one batch that stays there against the loop of timm's ``benchmark.py``: the
network as timm makes it, channels last, bf16 autocast, one batch of random numbers that is never augmented,
cross-entropy, SGD with momentum. ResNet-50, BiT R50x1 and ViT-S/16 at 224 px; and the memory that BiT R152x4 takes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from search_spaces.protocol import Budget, Protocol
from search_spaces.results import Order
from search_spaces.study import Normalisation
from trainables.augmentation import Augment
from trainables.batches import RESIDENT_BYTES
from trainables.environment import borrowed_globals, device_name
from trainables.fitting import fit
from trainables.groups import SingleProcess
from trainables.ladder_nets import resnet20
from trainables.module_setup import prepare
from trainables.optimisation import make_optimizer
from trainables.shards import LEAST_ROWS, ImageStack

NORMALISE = Normalisation(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
CLASSES = 7
WARM_UP = 2
"""Turns that do not count."""

Precision = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class Images:
    """Random images of the working side of an input size (8/7 of it)."""

    images: np.ndarray | ImageStack
    positions: np.ndarray
    targets: np.ndarray

    @classmethod
    def random(cls, count: int, input_size: int) -> Images:
        """``count`` images with random labels."""
        rng = np.random.default_rng(0)
        side = -(-input_size * 8 // 7)
        images = rng.integers(0, 256, (count, side, side, 3), dtype=np.uint8)
        return cls(images, np.arange(count), rng.integers(0, CLASSES, count))

    def in_shards(self) -> Images:
        """The same images as a store holds them."""
        whole = np.asarray(self.images)
        return replace(self, images=ImageStack([whole[k : k + LEAST_ROWS] for k in range(0, len(whole), LEAST_ROWS)]))


@dataclass(frozen=True)
class Case:
    """One net at one input size.

    Attributes:
        turn: Steps before the other loop has its turn.
    """

    name: str
    make: Callable[[], nn.Module]
    input_size: int
    turn: int
    batch_size: int = 32


class BareLoop:
    """The shortest loop that trains the same."""

    def __init__(self, case: Case, data: Images, device: torch.device) -> None:
        self._case, self._data, self._device = case, data, device
        self._module = case.make()
        channels_last = prepare(self._module, case.input_size, device).channels_last
        protocol = Protocol(global_batch_size=case.batch_size)
        self._optimizer = make_optimizer(self._module.train(), protocol)
        self._augment = Augment(protocol.augmentation, case.input_size, NORMALISE, device, channels_last=channels_last)
        self._generator = torch.Generator().manual_seed(0)
        self._resident = torch.from_numpy(np.asarray(data.images)).to(device) if device.type == "cuda" else None
        self._targets = torch.from_numpy(data.targets).to(device)
        self._index = np.random.default_rng(0).permutation(len(data.positions))
        self._step = 0

    def turn(self) -> float:
        """Train ``case.turn`` steps; images per second."""
        case = self._case
        synchronise(self._device)
        started = time.perf_counter()
        for _ in range(case.turn):
            first = self._step * case.batch_size % (len(self._index) - case.batch_size + 1)
            images, targets = self._batch(self._index[first : first + case.batch_size])
            loss = F.cross_entropy(self._module(self._augment(images, self._generator)), targets)
            loss.backward()
            self._optimizer.step()
            self._optimizer.zero_grad()
            self._step += 1
        synchronise(self._device)
        return case.turn * case.batch_size / (time.perf_counter() - started)

    def _batch(self, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        if self._resident is None:
            return torch.from_numpy(self._data.images[rows]), self._targets[torch.from_numpy(rows)]
        index = torch.from_numpy(rows).to(self._device)
        return self._resident[index], self._targets[index]


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(case: Case, turns: int, device: torch.device) -> dict[str, float | str]:
    """Median speeds, and the median over turns of their ratio."""
    data = Images.random(1024, case.input_size)
    bare = BareLoop(case, data, device)
    counted = _in_turns(bare.turn, lambda tell: train(case, data, turns + WARM_UP, device, tell))
    return {
        "case": case.name,
        "ours_images_per_s": statistics.median(ours for ours, _ in counted),
        "bare_images_per_s": statistics.median(bare for _, bare in counted),
        "fraction": statistics.median(ours / bare for ours, bare in counted),
    }


def _in_turns(
    other: Callable[[], float], ours: Callable[[Callable[[dict[str, Any]], Order]], None]
) -> list[tuple[float, float]]:
    """Images per second of our loop and of another one, turn after turn; without those that warm up.

    Args:
        other: One turn of the other loop.
        ours: Trains, and tells of every turn.
    """
    speeds: list[tuple[float, float]] = []

    def tell(report: dict[str, Any]) -> Order:
        speeds.append((float(report["samples_per_s"]), other()))
        return Order.GO

    ours(tell)
    return speeds[WARM_UP:]


def train(
    case: Case,
    data: Images,
    turns: int,
    device: torch.device,
    tell: Callable[[dict[str, Any]], Order],
    precision: Precision = "fp32",
    resident_bytes: int = RESIDENT_BYTES,
    optimizer: Literal["adamw", "sgd"] = "adamw",
) -> None:
    """Train by our loop on the images in shards; ``tell`` hears of every turn. Images that select are few."""
    few = Images(data.images, np.arange(CLASSES) % len(data.positions), np.arange(CLASSES)).in_shards()
    protocol = Protocol(
        budget=Budget(steps=turns * case.turn),
        global_batch_size=case.batch_size,
        evaluations=turns,
        select="last",
        precision=precision,
        optimizer=optimizer,
        ema_decay=None,  # the loops it is compared with average no weights
    )
    fit(
        case.make(),
        data.in_shards(),
        few,
        protocol=protocol,
        normalise=NORMALISE,
        input_size=case.input_size,
        seed=0,
        primary="accuracy",
        group=SingleProcess(device),
        tell=tell,
        resident_bytes=resident_bytes,
    )


def store_to_fixed_batch(
    case: Case, turns: int, device: torch.device, rounds: int = 3, images: int = 4096
) -> dict[str, float | str]:
    """Our loop on images streamed from shards, and on one batch that stays on the device; in bf16, round by round.

    Args:
        case: The net.
        turns: Turns that count of each run.
        device: Where to train.
        rounds: Pairs of runs; the result is the median of their ratios.
        images: In the shards.
    """
    streamed, fixed = Images.random(images, case.input_size), Images.random(case.batch_size, case.input_size)
    pairs = []
    for _ in range(rounds):
        from_store = _speed(case, streamed, turns, device, resident_bytes=0)
        pairs.append((from_store, _speed(case, fixed, turns, device, resident_bytes=RESIDENT_BYTES)))
    return {
        "case": case.name,
        "store_images_per_s": statistics.median(store for store, _ in pairs),
        "fixed_batch_images_per_s": statistics.median(batch for _, batch in pairs),
        "store_to_fixed_batch": statistics.median(store / batch for store, batch in pairs),
    }


def _speed(case: Case, data: Images, turns: int, device: torch.device, resident_bytes: int) -> float:
    """Median images per second over turns in bf16."""
    speeds: list[float] = []

    def tell(report: dict[str, Any]) -> Order:
        speeds.append(float(report["samples_per_s"]))
        return Order.GO

    train(case, data, turns + WARM_UP, device, tell, "bf16", resident_bytes)
    return statistics.median(speeds[WARM_UP:])


class TimmLoop:
    """What timm's ``benchmark.py --bench train --amp --channels-last`` does in a step.

    Args:
        case: The net; its batch is drawn once.
        device: Where to train.
    """

    def __init__(self, case: Case, device: torch.device) -> None:
        self._case, self._device = case, device
        self._module = case.make().to(device).to(memory_format=torch.channels_last).train()
        size = (case.batch_size, 3, case.input_size, case.input_size)
        self._images = torch.randn(size, device=device).contiguous(memory_format=torch.channels_last)
        self._targets = torch.randint(0, CLASSES, (case.batch_size,), device=device)
        self._optimizer = torch.optim.SGD(self._module.parameters(), lr=1e-4, momentum=0.9)

    def turn(self) -> float:
        """Train ``case.turn`` steps; images per second."""
        synchronise(self._device)
        started = time.perf_counter()
        for _ in range(self._case.turn):
            self._optimizer.zero_grad()
            with torch.autocast(self._device.type, dtype=torch.bfloat16):
                loss = F.cross_entropy(self._module(self._images), self._targets)
            loss.backward()
            self._optimizer.step()
        synchronise(self._device)
        return self._case.turn * self._case.batch_size / (time.perf_counter() - started)


def against_timm(case: Case, turns: int, device: torch.device) -> dict[str, float | str]:
    """Median speeds on one batch in bf16, and the median over turns of their ratio."""
    theirs, batch = TimmLoop(case, device), Images.random(case.batch_size, case.input_size)
    counted = _in_turns(
        theirs.turn, lambda tell: train(case, batch, turns + WARM_UP, device, tell, "bf16", optimizer="sgd")
    )
    return {
        "case": case.name,
        "ours_images_per_s": statistics.median(ours for ours, _ in counted),
        "timm_images_per_s": statistics.median(timm for _, timm in counted),
        "ratio": statistics.median(ours / timm for ours, timm in counted),
    }


def timm_case(name: str, turn: int, batch_size: int) -> Case:
    """A network of timm at 224 px."""

    def make() -> nn.Module:
        import timm

        module: nn.Module = timm.create_model(name, num_classes=CLASSES)
        return module

    return Case(name, make, 224, turn, batch_size=batch_size)


TIMM_CASES = {"resnet50": 256, "resnetv2_50x1_bit": 128, "vit_small_patch16_224": 256}
"""Network -> batch."""
LARGEST, LARGEST_BATCH, LARGEST_GIB = "resnetv2_152x4_bit", 32, 80


def peak_gib(case: Case, steps: int, device: torch.device) -> float:
    """Memory that a CUDA device needs to train a network in bf16, GiB."""
    torch.cuda.reset_peak_memory_stats(device)
    train(replace(case, turn=steps), Images.random(case.batch_size, 224), 1, device, lambda _: Order.GO, "bf16")
    return torch.cuda.max_memory_allocated(device) / 2**30


def resnet50(turn: int) -> Case:
    """The net whose feeding is measured."""
    return Case(
        "resnet50 224 px bf16", lambda: torchvision.models.resnet50(num_classes=CLASSES), 224, turn, batch_size=128
    )


def make_cases(turn: int) -> list[Case]:
    """A launch-bound net and a compute-bound one."""
    return [
        Case("resnet20 32 px", lambda: resnet20(num_classes=CLASSES), 32, turn),
        Case("squeezenet1_0 64 px", lambda: torchvision.models.squeezenet1_0(num_classes=CLASSES), 64, turn),
    ]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="fewer turns")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--store", action="store_true", help="also ResNet-50 from shards against one fixed batch (GPU)")
    parser.add_argument("--timm", action="store_true", help="also networks of timm against timm's own loop (GPU)")
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    on_gpu = device.type == "cuda"
    cases = make_cases(turn=100 if on_gpu else 4)
    print(f"{device_name(device)}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    print(f"{'case':24}{'ours img/s':>12}{'bare img/s':>12}{'fraction':>10}")
    rows = []
    with borrowed_globals(device):
        for case in cases:
            torch.manual_seed(0)
            row = measure(case, 9 if options.quick else 40, device)
            rows.append(row)
            print(
                f"{row['case']:24}{row['ours_images_per_s']:12.1f}{row['bare_images_per_s']:12.1f}"
                f"{row['fraction']:10.3f}"
            )
        fed = _fed(device, options.quick) if options.store else None
        timms = _timms(device, options.quick) if options.timm else {}
    summary = {
        "benchmark": "train_throughput",
        "fraction_of_bare_loop": round(min(float(row["fraction"]) for row in rows), 4),
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "quick": options.quick,
        "cases": rows,
    }
    if fed is not None:
        summary |= {"store_to_fixed_batch": round(float(fed["store_to_fixed_batch"]), 4), "store_case": fed}
    print(json.dumps(summary | timms))


def _timms(device: torch.device, quick: bool) -> dict[str, float]:
    """What ``--timm`` measures; nothing, with the reason printed, where there is no GPU."""
    if device.type != "cuda":
        print(f"--timm is left out: it needs a CUDA device, this is {device}")
        return {}
    found: dict[str, float] = {}
    for name, batch_size in TIMM_CASES.items():
        row = against_timm(timm_case(name, 20, batch_size), 3 if quick else 9, device)
        found[f"ratio_to_timm_{name}"] = round(float(row["ratio"]), 4)
        print(f"{name}: {row['ours_images_per_s']:.1f} img/s, {row['timm_images_per_s']:.1f} by timm's loop")
        torch.cuda.empty_cache()
    gib = peak_gib(timm_case(LARGEST, 3, LARGEST_BATCH), 3, device)
    print(f"{LARGEST} at 224 px, batches of {LARGEST_BATCH}: {gib:.1f} GiB (limit {LARGEST_GIB})")
    return found | {"largest_gib": round(gib, 1)}


def _fed(device: torch.device, quick: bool) -> dict[str, float | str] | None:
    """What ``--store`` measures; None, with the reason printed, where there is no GPU."""
    if device.type != "cuda":
        print(
            f"--store is left out: it needs a CUDA device, this is {device}; the CPU would be the limit, not the store"
        )
        return None
    row = store_to_fixed_batch(resnet50(turn=20), 3 if quick else 9, device, rounds=1 if quick else 3)
    print(
        f"{row['case']}: {row['store_images_per_s']:.1f} img/s from the store, "
        f"{row['fixed_batch_images_per_s']:.1f} on one fixed batch"
    )
    return row


if __name__ == "__main__":
    main()
