"""How fast a scale trains on this machine: a few steps of the real loop on random images."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from search_spaces.protocol import Budget
from search_spaces.results import Order
from search_spaces.trial import ResolvedTrial
from trainables.environment import borrowed_globals
from trainables.fitting import fit
from trainables.groups import SingleProcess
from trainables.mask_sets import MaskSet
from trainables.models import build_model
from trainables.task_data import worked_side

TIMED_STEPS = 3
"""After one that warms up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _RandomImages:
    images: NDArray[np.uint8]
    positions: NDArray[np.int64]
    targets: NDArray[Any]
    masks: MaskSet | None = None

    def take(self, images: int) -> _RandomImages:
        """The first so many."""
        few = np.arange(images)
        masks = None if self.masks is None else self.masks.take(few)
        return replace(self, positions=self.positions[:images], targets=self.targets[:images], masks=masks)


def _random_images(images: int, side: int, labels: int, dense: bool) -> _RandomImages:
    """Noise of any of the labels; with masks of noise where each pixel has one."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (images, side, side, 3), dtype=np.uint8)
    positions = np.arange(images)
    if not dense:
        return _RandomImages(images=pixels, positions=positions, targets=positions % labels)
    planes = rng.integers(0, labels + 1, (images, side, side), dtype=np.uint8)
    masks = MaskSet(planes=planes, values=tuple(range(1, labels + 1)), pixel_sizes=np.ones((images, 2)))
    shown = np.ones((images, labels), dtype=np.float32)
    return _RandomImages(images=pixels, positions=positions, targets=shown, masks=masks)


def training_speed(trial: ResolvedTrial, threads: int) -> float:
    """Training images per second of one rank, on the CPU, in batches of one ghost batch.

    Args:
        trial: Its scale, protocol and number of labels are used; no image, no weight.
        threads: Torch threads.

    Raises:
        UserError: The scale cannot be built.
    """
    protocol = trial.protocol
    batch, side = protocol.ghost_batch_size, worked_side(protocol, trial.scale.input_size)
    dense = trial.task.is_dense
    outputs = len(trial.task.labels) if dense else max(2, len(trial.task.labels))
    data = _random_images(batch, side, outputs, dense)
    few = data.take(outputs)
    speeds: list[float] = []

    def tell(report: dict[str, Any]) -> Order:
        speeds.append(float(report["samples_per_s"]))
        return Order.GO

    device, before = torch.device("cpu"), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with borrowed_globals(device):
            fit(
                build_model(trial.scale, outputs, 0, trial.workspace.import_paths, dense=dense).module,
                data,
                few,
                protocol=protocol.model_copy(
                    update={
                        "budget": Budget(steps=1 + TIMED_STEPS),
                        "global_batch_size": batch,
                        "lr": 1e-8,
                        "precision": "fp32" if protocol.precision == "fp16" else protocol.precision,
                        "evaluations": 1 + TIMED_STEPS,
                        "select": "last",
                        "imbalance": "none",
                        "compile": False,
                    }
                ),
                normalise=trial.source.normalise,
                input_size=trial.scale.input_size,
                seed=0,
                primary="dice" if dense else "accuracy",
                group=SingleProcess(device),
                tell=tell,
            )
    finally:
        torch.set_num_threads(before)
    return statistics.median(speeds[1:])
