"""Less memory for more time: activations inside blocks are computed again in the backward pass (Chen et al. 2016)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint


@contextmanager
def recomputed(module: nn.Module, wanted: bool = True) -> Iterator[None]:
    """For the length of a ``with`` block, blocks keep their inputs instead of their activations.

    Gradients are the same: dropout draws the same numbers in both passes. Running statistics of normalisation layers
    are updated twice, which ``ghost_batches.RunningStatistics`` undoes.

    Args:
        module: The net; its names, parameters and state dict stay as they are.
        wanted: Whether to do so at all.
    """
    chosen = blocks(module) if wanted else []
    for block in chosen:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    try:
        yield
    finally:
        for block in chosen:
            del block.__dict__["forward"]


def blocks(module: nn.Module) -> list[nn.Module]:
    """The smallest repeated parts with parts of their own: residual blocks, transformer blocks."""
    found = [
        child
        for several in module.modules()
        if isinstance(several, nn.Sequential | nn.ModuleList)
        for child in several.children()
        if any(True for _ in child.children()) and not isinstance(child, nn.Sequential | nn.ModuleList)
    ]
    inside = {id(part) for block in found for part in block.modules() if part is not block}
    outermost = [block for block in found if id(block) not in inside]
    return [part for block in outermost for part in _smallest(block, found)]


def _smallest(block: nn.Module, found: list[nn.Module]) -> list[nn.Module]:
    """The blocks inside a stage, or the block itself if it holds no others."""
    known = {id(other) for other in found}
    inner = [part for part in block.modules() if part is not block and id(part) in known]
    if not inner:
        return [block]
    nested = {id(part) for other in inner for part in other.modules() if part is not other}
    return [part for other in inner if id(other) not in nested for part in _smallest(other, found)]
