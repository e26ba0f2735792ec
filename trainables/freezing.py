"""The bottom of a network held fixed: a protocol's ``freeze``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn

from search_spaces.exceptions import UserError
from trainables.parts import below, parts_of

_FROZEN = "scalecurves_frozen"
_DROPS = ("drop", "stochasticdepth")
"""In the names of layers without tensors that leave out something at random: torch's, timm's and torchvision's."""
_RATES = ("p", "drop_prob", "prob")
"""What they call their rate."""
_ORDERLY = ("timm", "torchvision", "trainables")
"""Packages whose networks define layers in the order in which they run."""


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
        UserError: No such part; or dropout between layers that are held belongs to no module that is, and would go on.
    """
    if up_to is None:
        return 0
    fixed = below(parts_of(module, head), up_to, where)
    held = _held(module, fixed)
    _refuse_dropout_between(module, held, up_to, where)
    numbers = 0
    for name, parameter in module.named_parameters():
        if name in fixed and parameter.requires_grad:
            numbers += parameter.numel()
            parameter.requires_grad_(False)
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


def _refuse_dropout_between(module: nn.Module, held: Iterable[nn.Module], up_to: str, where: str) -> None:
    """Without tensors, a layer is told to be below a held one by its place, where layers follow one another in the
    order in which they are defined; what a user's own network does is not known."""
    fixed = {id(inner) for layer in held for inner in layer.modules()}
    for name, layer in _before_fixed(module, fixed):
        if id(layer) not in fixed and (rate := _dropout_rate(layer)):
            raise UserError(
                f"{where}: {name} ({type(layer).__name__}, rate {rate:g}) comes before layers of {up_to!r} and would "
                "stay active, so that what is held would not be one fixed function. Freeze a part below it, or build "
                "the scale without (its arguments, such as dropout: 0 of torchvision's AlexNet and VGG, pos_drop_rate: "
                "0 of timm's transformers)"
            )


def _before_fixed(module: nn.Module, fixed: set[int]) -> Iterator[tuple[str, nn.Module]]:
    for name, parent in module.named_modules():
        if _follow_one_another(parent):
            layers = list(_in_order(parent, name))
            holding = [place for place, (_, layer) in enumerate(layers) if any(id(m) in fixed for m in layer.modules())]
            yield from layers[: max(holding, default=0)]


def _in_order(parent: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    """What is in a module, by name, and in that as far as layers follow one another."""
    for name, layer in parent.named_children():
        full = f"{prefix}.{name}" if prefix else name
        yield full, layer
        if _follow_one_another(layer):
            yield from _in_order(layer, full)


def _follow_one_another(module: nn.Module) -> bool:
    kind = type(module)
    return kind.forward is nn.Sequential.forward or kind.__module__.partition(".")[0] in _ORDERLY


def _dropout_rate(layer: nn.Module) -> float:
    """Of a layer that does nothing but drop; 0 of any other."""
    kind = type(layer).__name__.lower()
    if not any(word in kind for word in _DROPS) or any(True for _ in layer.children()):
        return 0.0
    return next((float(rate) for name in _RATES if isinstance(rate := getattr(layer, name, None), int | float)), 0.0)
