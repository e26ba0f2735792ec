"""The bottom of a network held fixed: a protocol's ``freeze``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from trainables.parts import below, parts_of

_FROZEN = "scalecurves_frozen"


def freeze(module: nn.Module, head: Iterable[str], up_to: str | None, where: str = "protocol.freeze") -> int:
    """Hold a network fixed up to and with a part, in place; None holds nothing.

    Its parameters get no gradient, and its modules stay in evaluation mode whatever the mode of the network: batch norm
    uses and keeps the running statistics that came with the weights, and dropout is off, so the bottom is one fixed
    function.

    Args:
        module: The net, with its initial weights.
        head: Names of the head's tensors.
        up_to: Name of the last part (``trainables.parts``).
        where: What asked for it; starts the message.

    Returns:
        Number of trainable numbers that are held fixed.

    Raises:
        UserError: No such part.
    """
    if up_to is None:
        return 0
    fixed = below(parts_of(module, head), up_to, where)
    numbers = 0
    for name, parameter in module.named_parameters():
        if name in fixed and parameter.requires_grad:
            numbers += parameter.numel()
            parameter.requires_grad_(False)
    held = _held(module, fixed)
    for layer in held:
        for inner in layer.modules():
            setattr(inner, _FROZEN, True)
        layer.eval()

    def stay(_module: nn.Module, _inputs: Any) -> None:
        # Whoever restores training mode restores it for all; this is where it matters.
        for layer in held:
            layer.eval()

    module.register_forward_pre_hook(stay)
    return numbers


def is_frozen(layer: nn.Module) -> bool:
    """Whether ``freeze`` holds this module in evaluation mode."""
    return bool(getattr(layer, _FROZEN, False))


def _held(module: nn.Module, fixed: frozenset[str]) -> list[nn.Module]:
    """The outermost modules all of whose tensors are fixed."""
    held: list[nn.Module] = []
    inside: set[int] = set()
    for name, layer in module.named_modules():
        tensors = [f"{name}.{tensor}" if name else tensor for tensor in layer.state_dict()]
        if id(layer) not in inside and tensors and all(tensor in fixed for tensor in tensors):
            held.append(layer)
            inside.update(id(inner) for inner in layer.modules())
    return held
