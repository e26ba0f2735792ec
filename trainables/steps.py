"""How many steps a trial takes, and after which of them it is validated. Imports no torch: plans count with it."""

from __future__ import annotations

import math

from search_spaces.protocol import Budget


def total_steps(budget: Budget, images: int, global_batch_size: int) -> int:
    """Optimiser steps of a budget; at least 1.

    Args:
        budget: Steps, or passes over the subset.
        images: Size of the subset.
        global_batch_size: Images per step.
    """
    if budget.steps is not None:
        return budget.steps
    assert budget.epochs is not None
    return max(1, round(budget.epochs * images / global_batch_size))


def evaluation_steps(steps: int, evaluations: int) -> list[int]:
    """Numbers of finished steps after which validation runs: evenly spaced, the last is ``steps``; none repeated."""
    return sorted({math.ceil(steps * k / evaluations) for k in range(1, evaluations + 1)})
