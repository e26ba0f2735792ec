"""How many steps a trial takes, and after which of them it is validated. Imports no torch: plans count with it."""

from __future__ import annotations

import math
from typing import Any

from search_spaces.exceptions import UserError
from search_spaces.hyperrule import SMALL, regime_of
from search_spaces.protocol import Budget, Protocol

FORWARD_PASSES = 3
"""What a training step of an image costs in forward passes: one, and two for the gradients of inputs and of weights
(Kaplan et al. 2020, section 2.1)."""


def flops_of_step(gflops: float, global_batch_size: int) -> float:
    """Operations of one optimiser step: 3 forward passes of every image of the batch.

    The factor stays 3 where layers are frozen or activations are computed twice; augmentation, validation and the
    optimiser's own arithmetic are not counted.

    Args:
        gflops: 1e9 operations of one image's forward pass (``trainables.scale_cards``).
        global_batch_size: Images per step.
    """
    return FORWARD_PASSES * gflops * 1e9 * global_batch_size


def total_steps(budget: Budget, images: int, global_batch_size: int, gflops: float | None = None) -> int:
    """Optimiser steps of a budget: the nearest whole number, at least 1.

    Args:
        budget: Steps, passes over the subset, training images, operations, or a rule by the subset's size.
        images: Size of the subset.
        global_batch_size: Images per step.
        gflops: 1e9 operations of one image's forward pass; needed by budgets in operations alone.

    Raises:
        UserError: The budget is in operations, and those of an image are not known.
    """
    if budget.steps is not None:
        return budget.steps
    if budget.flops is not None:
        if not gflops:
            raise UserError("budget.flops needs a scale whose operations can be counted; give budget.steps instead")
        return max(1, round(budget.flops / flops_of_step(gflops, global_batch_size)))
    if budget.rule is not None:
        return regime_of(images).steps
    if budget.examples is not None:
        return max(1, round(budget.examples / global_batch_size))
    assert budget.epochs is not None
    return max(1, round(budget.epochs * images / global_batch_size))


def settled(protocol: Protocol, images: int, gflops: float | None = None) -> Protocol:
    """The protocol of one subset: what a rule makes of the subset's size is written as numbers.

    Args:
        protocol: As planned.
        images: Size of the subset.
        gflops: See ``total_steps``.

    Returns:
        With a budget in steps, warm-up and milestones in steps, and mixup off where the subset is too small for it.
        Under another budget than the rule's, the rule's warm-up and milestones are those of its small regime, stretched
        or shrunk to the steps.
    """
    steps = total_steps(protocol.budget, images, protocol.global_batch_size, gflops)
    changes: dict[str, Any] = {"budget": Budget(steps=steps)}
    # With steps of one's own the shape is the same for all amounts, or a curve would jump where the rule does.
    regime = SMALL if protocol.budget.rule is None else regime_of(images)
    share = steps / regime.steps
    if protocol.warmup_steps == "hyperrule":
        changes["warmup_steps"] = round(regime.warmup_steps * share)
    if protocol.milestones == "hyperrule":
        changes["milestones"] = tuple(max(1, round(milestone * share)) for milestone in regime.milestones)
    elif protocol.milestones is not None:
        changes["milestones"] = tuple(m if isinstance(m, int) else round(m * steps) for m in protocol.milestones)
    if images < protocol.mixup_min_images:
        changes["mixup_alpha"] = 0.0
    return protocol.model_copy(update=changes)


def warmup_problem(protocol: Protocol, images: int, gflops: float | None = None) -> str | None:
    """Why a subset of so many images is trained in warm-up alone; None if it is not. Arguments as of ``settled``."""
    protocol = settled(protocol, images, gflops)
    warmup, steps = protocol.warmup_steps, protocol.budget.steps
    if not isinstance(warmup, int) or steps is None or warmup < steps:
        return None
    return f"warmup_steps ({warmup}) must be below the steps of the budget, {steps} at {images:,} images"


def evaluation_steps(steps: int, evaluations: int) -> list[int]:
    """Numbers of finished steps after which validation runs: evenly spaced, the last is ``steps``; none repeated."""
    return sorted({math.ceil(steps * k / evaluations) for k in range(1, evaluations + 1)})


def evaluation_stops(protocol: Protocol, images: int, steps: int) -> list[int]:
    """As ``evaluation_steps``, or after the step that ends a pass over the subset, as the protocol says.

    Args:
        protocol: The recipe.
        images: Size of the subset, at least 1.
        steps: Optimiser steps of the whole trial.
    """
    if protocol.evaluate_every is None:
        return evaluation_steps(steps, protocol.evaluations)
    passes = math.ceil(steps * protocol.global_batch_size / images)
    ends = {math.ceil(images * k / protocol.global_batch_size) for k in range(1, passes + 1)}
    return sorted({min(end, steps) for end in ends} | {steps})
