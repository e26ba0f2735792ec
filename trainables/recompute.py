"""Less memory for more time: activations inside blocks are computed again in the backward pass (Chen et al. 2016)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TypeGuard

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

_FEWEST_LAYERS = 4
"""Of a stretch: a convolution with its normalisation, activation and pool are computed again together."""


@contextmanager
def recomputed(module: nn.Module, wanted: bool = True) -> Iterator[None]:
    """For the length of a ``with`` block, blocks keep their inputs instead of their activations.

    Where nothing repeats, the network's parts do so, and a sequence of layers in stretches. Layers that are called one
    by one, as in the encoder of a U-Net that was traced, keep theirs.

    Gradients are the same: dropout draws the same numbers in both passes. Running statistics of normalisation layers
    are updated twice, which ``ghost_batches.RunningStatistics`` undoes.

    Args:
        module: The net; its names, parameters and state dict stay as they are.
        wanted: Whether to do so at all.
    """
    chosen = (blocks(module) or _parts(module)) if wanted else []
    for part in chosen:
        part.forward = _in_less_memory(part)
    try:
        yield
    finally:
        for part in chosen:
            del part.__dict__["forward"]


def _in_less_memory(part: nn.Module) -> Callable[..., Tensor]:
    """What takes the place of a forward pass."""
    if _is_plain(part):
        return partial(_through, _stretches(list(part)))
    return partial(checkpoint, part.forward, use_reentrant=False)


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


def _parts(module: nn.Module) -> list[nn.Module]:
    """Of a net without blocks: its parts with parts of their own, sequences of such parts as what is in them."""
    parts = [child for child in module.children() if _is_composite(child)]
    if not parts:
        return [module] if _is_plain(module) else []
    if len(parts) == 1 and not _is_plain(parts[0]):
        return _parts(parts[0])  # computed again as a whole, it would need as much memory as before
    return [inner for part in parts for inner in (_parts(part) if _is_of_its_layers(part) else [part])]


def _is_of_its_layers(module: nn.Module) -> bool:
    return _is_plain(module) or isinstance(module, nn.ModuleList | nn.ModuleDict)


def _is_composite(module: nn.Module) -> bool:
    return any(True for _ in module.children()) and any(True for _ in module.parameters())


def _is_plain(module: nn.Module) -> TypeGuard[nn.Sequential]:
    """Whether its forward pass is that of its layers, one after the other."""
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


def _stretches(layers: Sequence[nn.Module]) -> list[nn.Module]:
    """Layers cut to about as many stretches as each has layers, which keeps the least in memory.

    Each begins with a layer that has weights: others may change their input in place, which would be another one when
    it is used again. What comes before the first such layer stands alone, and is not computed again.
    """
    length = max(_FEWEST_LAYERS, math.isqrt(len(layers)))
    stretches: list[list[nn.Module]] = [[]]
    for layer in layers:
        has_weights = any(True for _ in layer.parameters())
        is_begun = any(True for other in stretches[-1] for _ in other.parameters())
        if has_weights and (not is_begun or len(stretches[-1]) >= length):
            stretches.append([])
        stretches[-1].append(layer)
    return [nn.Sequential(*stretch) for stretch in stretches]


def _through(stretches: Sequence[nn.Module], x: Tensor) -> Tensor:
    """What the layers give, keeping the inputs of all stretches but the first."""
    first, *others = stretches
    x = first(x)
    for stretch in others:
        x = checkpoint(stretch, x, use_reentrant=False)
    return x
