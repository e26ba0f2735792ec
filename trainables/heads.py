"""The fresh head of a model, as a protocol wants it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import nn

from trainables.batches import Stream, stream_seed

HEAD_STD = 0.01
"""Of ``head_init: normal`` (Hosseinzadeh Taher et al. 2021, code)."""


@torch.no_grad()
def fill_head(module: nn.Module, head: Iterable[str], how: Literal["model", "zero", "normal"], seed: int) -> None:
    """Write the head's tensors, in place.

    Args:
        module: The net.
        head: Names of the head's tensors.
        how: ``model`` leaves them as the model made them; ``zero`` (Kolesnikov et al. 2020); ``normal``: what has two
            and more dimensions from N(0, 0.01), the rest 0.
        seed: The trial's init seed.
    """
    if how == "model":
        return
    tensors = module.state_dict()
    generator = torch.Generator().manual_seed(stream_seed(seed, Stream.HEAD))
    for name in sorted(head):
        tensor = tensors[name]
        tensor.zero_()
        if how == "normal" and tensor.ndim >= 2:
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * HEAD_STD)
