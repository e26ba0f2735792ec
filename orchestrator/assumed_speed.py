"""Seconds of trials on accelerators that nobody has timed: operations over an assumed throughput. Never of a CPU."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.capacity import Node
from orchestrator.known_models import KnownModels
from orchestrator.plan import Plan, PlannedTrial, import_paths
from orchestrator.plan_costs import gflops_of_image
from search_spaces.exceptions import UserError
from search_spaces.study import GangSpec
from trainables.steps import flops_of_step

HALF_SHARE = 0.2
"""Of the peak of 16-bit tensor cores that training reaches. ResNet-50 (8.2 GFLOPs an image, forward) in mixed precision
trains 2470 images per second on an A100 80GB and 1200 on a V100 16GB (NVIDIA, DeepLearningExamples,
PyTorch/Classification/ConvNets/resnet50v1.5/README.md): 19 % and 24 %."""

SINGLE_SHARE = 0.5
"""Of the peak in float32 without tensor cores (this project trains without TF32): 367 images per second on a V100 16GB
there are 57 %."""

LAUNCH_S = 0.01
"""What a ghost batch takes at least: the CPU launches the operations of all layers one after another. The forward pass
of ResNet-50 on a V100 takes 10 ms for any batch up to 8 (same source); small scales have fewer layers."""

USUAL = "A100"
"""What is assumed where neither the study nor the nodes name a type."""

_TYPE = "accelerator_type:"


@dataclass(frozen=True, slots=True)
class Peak:
    """What the vendor's data sheet promises, without sparsity, in 1e12 operations per second.

    Attributes:
        half: Of matrix products in bfloat16, or float16 where there is no bfloat16.
        single: In float32, not on tensor cores.
    """

    half: float
    single: float


PEAKS = {
    "V100": Peak(125, 15.7),  # SXM2
    "T4": Peak(65, 8.1),
    "A10G": Peak(70, 35),
    "A30": Peak(165, 10.3),
    "A40": Peak(149.7, 37.4),
    "A100": Peak(312, 19.5),
    "L4": Peak(121, 30.3),
    "L40S": Peak(362, 91.6),
    "H100": Peak(989, 67),  # SXM
    "H200": Peak(989, 67),
    "B200": Peak(2250, 75),
}
"""Ray's name of a type -> its peak; types with their memory after a hyphen are the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumed:
    """What an accelerator is taken to sustain.

    Attributes:
        tflops: 1e12 operations per second of one accelerator in training.
        why: In words, for the user.
    """

    tflops: float
    why: str


def tflops_problem(tflops: float | None) -> str | None:
    """Why that cannot be what a GPU sustains; None if it can, or nothing is said."""
    if tflops is None or 0 < tflops < float("inf"):
        return None
    return f"--tflops is what one GPU sustains in training, in 1e12 operations per second, got {tflops:g}"


def assumed_of(gang: GangSpec, precision: str, nodes: Sequence[Node], tflops: float | None) -> Assumed | None:
    """What one accelerator of a gang is taken to sustain; None for a type that is not listed.

    Args:
        gang: May name the type.
        precision: The protocol's.
        nodes: May name it otherwise; of several types the slowest counts.
        tflops: What the user says instead.
    """
    if tflops is not None:
        return Assumed(tflops=tflops, why=f"{tflops:g} TFLOPS per GPU, as given")
    named = _named(gang, nodes)
    found = {kind: peak for kind in named or [USUAL] if (peak := PEAKS.get(kind.partition("-")[0])) is not None}
    if not found:
        return None
    half = precision != "fp32"
    kind, peak = min(found.items(), key=lambda item: item[1].half if half else item[1].single)
    share, most = (HALF_SHARE, peak.half) if half else (SINGLE_SHARE, peak.single)
    unnamed = "" if named else ", as no type is named"
    words = "16-bit" if half else "float32"
    return Assumed(
        tflops=share * most,
        why=f"{share * most:.3g} TFLOPS, {share:.0%} of the {words} peak of one {kind}{unnamed}",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class AssumedSeconds:
    """Seconds by operations.

    Attributes:
        seconds: Trial -> seconds of its gang, images and their decoding not counted.
        why: What they rest on, in words; one text per throughput.
        unlisted: Types of accelerators of which no speed is known.
    """

    seconds: dict[str, float]
    why: tuple[str, ...]
    unlisted: tuple[str, ...] = ()


def assumed_seconds(
    plan: Plan, trials: Iterable[PlannedTrial], home: Path, nodes: Sequence[Node], tflops: float | None
) -> AssumedSeconds:
    """Operations of each trial on GPUs over what these are taken to sustain.

    Three forward passes per training image, one per evaluated image (``PlannedTrial.images``). Trials without GPUs,
    of scales that cannot be counted, and on types of GPU that are not listed, are left out.

    Args:
        plan: A plan without problems.
        trials: Of it.
        home: Its cache holds what was counted before.
        nodes: The cluster, if it is known.
        tflops: See ``assumed_of``.

    Raises:
        UserError: Not a positive number of TFLOPS.
    """
    if problem := tflops_problem(tflops):
        raise UserError(problem)
    assert plan.resolver is not None
    models, paths = KnownModels(home), import_paths(plan.loaded)
    costs: dict[tuple[str, int, int], float | None] = {}
    seconds: dict[str, float] = {}
    why: dict[str, None] = {}
    unlisted: dict[str, None] = {}
    for planned in trials:
        cell, gang = planned.trial.cell, planned.gang
        if gang.gpus_per_rank == 0:
            continue
        protocol, scale = plan.resolver.protocol_of(planned.trial), plan.resolver.scale(cell)
        outputs = plan.resolver.pixel_outputs(cell)
        key = (scale.name, scale.input_size, outputs)
        if key not in costs:
            costs[key] = None
            with contextlib.suppress(UserError):
                costs[key] = gflops_of_image(scale, outputs, models, paths)
        gflops, assumed = costs[key], assumed_of(gang, protocol.precision, nodes, tflops)
        if assumed is None:
            unlisted |= dict.fromkeys(_named(gang, nodes))
        if not gflops or assumed is None:
            continue
        working = min(gang.ranks, protocol.ghost_batches) if protocol.trains else 1
        gpus = working * (1.0 if gang.gpus_per_rank is None else gang.gpus_per_rank)
        computing_s = planned.images * flops_of_step(gflops, 1) / (gpus * assumed.tflops * 1e12)
        batches = planned.images / (working * protocol.ghost_batch_size) if protocol.trains else 0.0
        seconds[planned.trial_id] = max(computing_s, batches * LAUNCH_S)
        why[assumed.why] = None
    models.save()
    return AssumedSeconds(seconds=seconds, why=tuple(why), unlisted=tuple(unlisted))


def _named(gang: GangSpec, nodes: Sequence[Node]) -> list[str]:
    if gang.accelerator:
        return [gang.accelerator]
    held = [name for node in nodes for name in node.get("Resources", {}) if name.startswith(_TYPE)]
    return list(dict.fromkeys(name.removeprefix(_TYPE) for name in held))
