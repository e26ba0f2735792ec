"""How large a worker pod must be for the ranks of a study."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cluster.capacity import Node, Shape
from search_spaces.exceptions import UserError
from search_spaces.study import GangSpec

LEAST_CPUS = 4
"""Of a worker without GPUs, unless a trial needs more: smaller pods spend their memory on Ray itself."""
MEMORY_GIB_PER_RANK = {"cpu": 4, "gpu": 16}
"""A rank that imports torch holds 0.7 GiB before it trains; the rest is for models, batches, images and CUDA."""
SHARED_MEMORY_SHARE = 0.25
"""Of a pod's memory that /dev/shm may take: NCCL's buffers and the object store."""
_RANGE = re.compile(r"(\d{1,5}):(\d{1,5})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """The worker pods of a study.

    Attributes:
        least: Pods that are there from the start; may be 0 where the number may change.
        most: Pods that autoscaling may make of them.
        cpus: Of one pod.
        gpus: Of one pod.
        memory_gib: Of one pod, /dev/shm included.
        accelerator: Value of the node label that names the type of GPU; any if not given.
    """

    least: int
    most: int
    cpus: int
    gpus: int
    memory_gib: int
    accelerator: str | None = None

    @property
    def shared_memory_gib(self) -> int:
        """Most that /dev/shm may take of the pod's memory."""
        return max(1, int(self.memory_gib * SHARED_MEMORY_SHARE))

    @property
    def autoscaling(self) -> bool:
        """Whether the number of pods may change."""
        return self.most > self.least


def parse_range(text: str) -> tuple[int, int]:
    """``2:8`` as (2, 8).

    Raises:
        UserError: Not two numbers, or not 0 <= MIN <= MAX, or MAX is 0.
    """
    match = _RANGE.fullmatch(text)
    if not match or not int(match[1]) <= int(match[2]) or not int(match[2]):
        raise UserError(f"--workers takes MIN:MAX with 0 <= MIN <= MAX and MAX at least 1, such as 0:8, got {text!r}")
    return int(match[1]), int(match[2])


def workers_for(
    gang: GangSpec,
    pods: tuple[int, int],
    *,
    gpus: int = 0,
    cpus: int | None = None,
    memory_gib: int | None = None,
    accelerator: str | None = None,
) -> Workers:
    """Worker pods that hold the ranks of a study.

    Args:
        gang: ``execution.gang`` of the study.
        pods: Least and most.
        gpus: Of one pod.
        cpus: Of one pod; what its ranks need if not given.
        memory_gib: Of one pod; by its number of ranks if not given.
        accelerator: Type of GPU.

    Raises:
        UserError: A pod holds no rank, the most pods hold no whole trial, or GPUs would idle.
    """
    shape = dataclasses.replace(Shape.of(gang, [_pod(0, gpus)]), accelerator="")
    _check_gpus(shape, gpus, accelerator)
    if cpus is None:
        fit = dataclasses.replace(shape, cpus=0).ranks_on(_pod(0, gpus)) if shape.gpus else shape.ranks
        cpus = fit * shape.cpus if shape.gpus else max(LEAST_CPUS, fit * shape.cpus)
    ranks = shape.ranks_on(_pod(cpus, gpus))
    if ranks < 1:
        raise UserError(
            f"a worker of {cpus} CPUs and {gpus} GPUs holds no rank: execution.gang of the study needs {shape.label}; "
            f"raise --cpus-per-worker to at least {shape.cpus}, or lower execution.gang.cpus_per_rank"
        )
    if ranks * pods[1] < shape.ranks:
        needed = math.ceil(shape.ranks / ranks)
        raise UserError(
            f"--workers {pods[0]}:{pods[1]}: {pods[1]} workers hold {ranks * pods[1]} ranks and a trial of this study "
            f"needs {shape.label}; allow at least {needed} workers, or make them larger"
        )
    memory = MEMORY_GIB_PER_RANK["gpu" if shape.gpus else "cpu"]
    return Workers(
        least=pods[0],
        most=pods[1],
        cpus=cpus,
        gpus=gpus,
        memory_gib=memory_gib or max(memory, memory * ranks),
        accelerator=accelerator,
    )


def workers_for_all(gangs: Sequence[GangSpec], pods: tuple[int, int], *, gpus: int = 0, **options: Any) -> Workers:
    """Worker pods of one size that hold each gang of a study; options as for ``workers_for``.

    Raises:
        UserError: As ``workers_for``.
    """
    needs_gpus = any(gang.gpus_per_rank != 0 for gang in gangs)
    each = [
        # Beside gangs on GPUs, those that want none leave them to the others.
        workers_for(gang, pods, **options | ({"accelerator": None} if idle else {}), gpus=0 if idle else gpus)
        for gang in gangs
        for idle in [needs_gpus and gang.gpus_per_rank == 0]
    ]
    largest = max(each, key=lambda workers: (workers.gpus, workers.cpus))
    return dataclasses.replace(largest, cpus=max(w.cpus for w in each), memory_gib=max(w.memory_gib for w in each))


def _pod(cpus: int, gpus: int) -> Node:
    return {"Resources": {"CPU": float(cpus), "GPU": float(gpus)}}


def _check_gpus(shape: Shape, gpus: int, accelerator: str | None) -> None:
    if gpus < shape.gpus:
        raise UserError(
            f"--gpus-per-worker {gpus}: a rank of this study needs {shape.gpus:g} GPUs of one node "
            f"(execution.gang.gpus_per_rank); give at least {math.ceil(shape.gpus)}"
        )
    if gpus and not shape.gpus:
        raise UserError(
            f"--gpus-per-worker {gpus}: execution.gang.gpus_per_rank of this study is 0, so they would idle; "
            "leave the option away, or the field"
        )
    if accelerator and not gpus:
        raise UserError(f"--accelerator {accelerator} needs --gpus-per-worker of at least 1")
