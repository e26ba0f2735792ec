"""A module on its device: memory format, what a trial run of it shows, copies of its weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainables.ghost_batches import used_parameters

Weights = dict[str, Tensor]
"""A state dict on the CPU."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleFacts:
    """What a trial run of the module showed.

    Attributes:
        outputs: Number of logits.
        dtype: Of the parameters.
        channels_last: Whether it is kept in that memory format.
        has_unused_parameters: Whether a trainable parameter does not reach the output.
    """

    outputs: int
    dtype: torch.dtype
    channels_last: bool
    has_unused_parameters: bool


def prepare(module: nn.Module, input_size: int, device: torch.device) -> ModuleFacts:
    """Move the module to the device, in channels-last format if it holds convolutions and runs so.

    Channels-last convolutions are faster on CPUs and GPUs alike. A module that reshapes feature maps with ``view``
    cannot run so; it keeps the contiguous format.

    Args:
        module: Images (B, 3, s, s) to logits (B, C).
        input_size: Side s.
        device: Where to.
    """
    module.to(device)
    dtype = next(module.parameters()).dtype
    example = torch.zeros(2, 3, input_size, input_size, device=device, dtype=dtype)
    channels_last = any(isinstance(layer, nn.Conv2d) for layer in module.modules())
    if channels_last:
        module.to(memory_format=torch.channels_last)
        try:
            output = _output(module, example.contiguous(memory_format=torch.channels_last))
        except RuntimeError:
            channels_last = False
            module.to(memory_format=torch.contiguous_format)
    if not channels_last:
        output = _output(module, example)
    used = used_parameters(output)
    unused = any(p.requires_grad and id(p) not in used for p in module.parameters())
    return ModuleFacts(outputs=output.shape[1], dtype=dtype, channels_last=channels_last, has_unused_parameters=unused)


def is_channels_last(module: nn.Module) -> bool:
    """Whether ``prepare`` put the module into channels-last format."""
    return any(
        p.ndim == 4 and p.is_contiguous(memory_format=torch.channels_last) and not p.is_contiguous()
        for p in module.parameters()
    )


def _output(module: nn.Module, example: Tensor) -> Tensor:
    was_training = module.training
    module.eval()  # leaves running statistics alone
    try:
        with torch.enable_grad():
            output: Tensor = module(example)
    finally:
        module.train(was_training)
    return output


def snapshot(module: nn.Module) -> Weights:
    """A copy of the state dict on the CPU; tied tensors become separate, memory formats contiguous."""
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in module.state_dict().items()}


def largest_that_fits(module: nn.Module, sizes: Iterable[int], run: Callable[[int], object]) -> int | None:
    """The first of ``sizes`` for which ``run`` does not exhaust the device's memory; None if all do.

    Args:
        module: Whose gradients are dropped between tries.
        sizes: Batch sizes, largest first.
        run: Forward and backward of a batch of that size.
    """
    for size in sizes:
        module.zero_grad()
        try:
            run(size)
        except torch.OutOfMemoryError:
            continue
        return size
    return None
