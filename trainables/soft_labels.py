"""Uncertain labels that are drawn anew whenever they are used (``lsr_ones``, ``lsr_zeros``).

A training target strictly between 0 and 1 stands for such a label: it is the middle of its draws.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from search_spaces.label_policy import SMOOTHED
from trainables.batches import Stream, stream_seed

(_WIDTH,) = {round(high - low, 12) for low, high in SMOOTHED.values()}
"""All draws have the same width, so that the middle tells them apart."""


def has_soft_labels(targets: NDArray[Any]) -> bool:
    """Whether a training set has labels to be drawn.

    Args:
        targets: (N, L) floats with NaN, or (N,) classes.
    """
    return bool(np.issubdtype(targets.dtype, np.floating) and ((targets > 0) & (targets < 1)).any())


def drawn_labels(targets: Tensor, seed: int, step: int, ghost: int) -> Tensor:
    """Targets of one ghost batch with its soft labels drawn.

    The draws depend on the arguments alone, so neither on the number of ranks nor on interruptions.

    Args:
        targets: (B, L) in [0, 1], NaN where masked.
        seed: The trial's init seed.
        step: Optimiser step.
        ghost: Ghost batch.
    """
    generator = torch.Generator().manual_seed(stream_seed(seed, Stream.LABELS, step, ghost))
    draws = (torch.rand(targets.shape, generator=generator) - 0.5) * _WIDTH
    soft = (targets > 0) & (targets < 1)
    return torch.where(soft, targets + draws.to(targets), targets)
