"""Parts of a network from bottom to top: where it can be cut, frozen, and given smaller learning rates.

Names of cut points are those of the network's own modules: ``conv1``, ``bn1``, ``layer1`` ... of ResNets (the cuts -1,
0, 1 to 4 of Transfusion's reference code), ``Conv2d_1a`` ... ``Mixed_7`` of Inception-v3, ``block1`` ... of CBR nets,
the coarse groups of timm's ``group_matcher`` for its other models (``stem``, ``stages.0``, ``blocks.0``), and modules
in their order for anything else.
"""

from __future__ import annotations

import difflib
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from search_spaces.exceptions import UserError

_FAMILIES: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    (
        r"(?s)(?=.*\bconv1\b)(?=.*\bbn1\b)(?=.*\blayer1\b)",
        (("conv1", r"conv1\."), ("bn1", r"bn1\."), *((f"layer{n}", rf"layer{n}\.") for n in range(1, 9))),
    ),
    (
        r"(?s)(?=.*\bConv2d_1a_3x3\b)(?=.*\bMixed_7c\b)",
        (
            ("Conv2d_1a", r"Conv2d_1a_"),
            ("Conv2d_2", r"Conv2d_2[ab]_"),
            ("Conv2d_3b", r"Conv2d_3b_"),
            ("Conv2d_4a", r"Conv2d_4a_"),
            *((f"Mixed_{n}", rf"Mixed_{n}[a-e]\.") for n in (5, 6, 7)),
        ),
    ),
    (r"(?s)(?=.*\bblock1\b)(?=.*\bblock2\b)", tuple((f"block{n}", rf"block{n}\.") for n in range(1, 17))),
)
"""What the names of a family's top-level modules hold, and its parts: name, start of its tensors' names."""

STEM = "stem"
_CONTAINERS = (nn.Sequential, nn.ModuleList)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part.

    Attributes:
        name: Cut point: everything up to and with this part.
        tensors: Names (of the state dict) of its tensors, buffers included.
    """

    name: str
    tensors: tuple[str, ...]


def parts_of(module: nn.Module, head: Iterable[str]) -> tuple[Part, ...]:
    """All tensors of the backbone, bottom first.

    Args:
        module: The net; its weights are not looked at.
        head: Names of the head's tensors, which belong to no part.
    """
    if isinstance(getattr(module, "encoder_path", None), str):  # a U-Net: all above its encoder is the head
        return module.parts  # type: ignore[return-value]
    head = set(head)
    names = [name for name in module.state_dict() if name not in head]
    grouped = _by_family(module, names) or _by_timm(module, names) or _by_order(module, names)
    return tuple(Part(name=name, tensors=tuple(tensors)) for name, tensors in grouped.items() if tensors)


def below(parts: Sequence[Part], up_to: str, where: str) -> frozenset[str]:
    """Names of the tensors up to and with a part.

    Args:
        parts: Of the network.
        up_to: Name of the last part.
        where: What asked for the cut; starts the message.

    Raises:
        UserError: No such part; the known ones are listed.
    """
    known = [part.name for part in parts]
    if up_to not in known:
        near = difflib.get_close_matches(up_to, known, n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise UserError(f"{where}: unknown cut point {up_to!r}.{hint} From bottom to top: {', '.join(known)}.")
    return frozenset(name for part in parts[: known.index(up_to) + 1] for name in part.tensors)


def layer_depths(module: nn.Module) -> dict[str, int]:
    """Parameter -> its layer, from 0 at the bottom; the head is in the last one.

    timm's models are numbered as by ``timm.optim.param_groups_layer_decay`` (residual and transformer blocks), other
    ResNets the same way, anything else by its parts.
    """
    matcher = _timm_matcher(module, coarse=False)
    if matcher is not None:
        from timm.models import group_parameters

        depths: dict[str, int] = group_parameters(module, matcher, reverse=True)
        return depths
    layers: dict[str, int] = {}
    placed: dict[str, int] = {}
    for part in parts_of(module, ()):
        for name in part.tensors:
            block = re.match(r"layer\d+\.\d+\.", name)
            layer = block[0] if block else STEM if part.name in ("conv1", "bn1") else part.name
            placed[name] = layers.setdefault(layer, len(layers))
    return {name: placed[name] for name, _ in module.named_parameters()}


def _by_family(module: nn.Module, names: Sequence[str]) -> dict[str, list[str]]:
    """Parts of a family known by name; what no rule knows has the name of its top-level module."""
    children = "\n".join(name for name, _ in module.named_children())
    for signature, rules in _FAMILIES:
        if re.match(signature, children):
            grouped: dict[str, list[str]] = {}  # in the network's order: what no rule knows may be its stem
            for name in names:
                part = next((part for part, start in rules if re.match(start, name)), name.partition(".")[0])
                grouped.setdefault(part, []).append(name)
            return grouped
    return {}


def _by_timm(module: nn.Module, names: Sequence[str]) -> dict[str, list[str]]:
    matcher = _timm_matcher(module, coarse=True)
    if matcher is None:
        return {}
    from timm.models._manipulate import group_with_matcher

    numbered: Mapping[str, int] = group_with_matcher(((n, None) for n in names), matcher, reverse=True)
    groups: dict[int, list[str]] = {}
    for name in names:
        groups.setdefault(numbered[name], []).append(name)
    shared = Counter(_module_of(several) for several in groups.values())
    grouped: dict[str, list[str]] = {}
    for number in sorted(groups):
        name = _module_of(groups[number])
        if shared[name] > 1:
            name = _last_module_below(name, groups[number][-1])
        grouped.setdefault(STEM if number == 0 else name, []).extend(groups[number])
    return grouped


def _timm_matcher(module: nn.Module, coarse: bool) -> Any:
    """What timm groups a model's tensors by; None if it says nothing. Some models have the fine grouping only."""
    matcher = getattr(module, "group_matcher", None)
    if not callable(matcher):
        return None
    try:
        return matcher(coarse=coarse)
    except (AssertionError, NotImplementedError):
        return matcher(coarse=not coarse)


def _module_of(names: Sequence[str]) -> str:
    """The module of a group: what its tensors' names share, else where the first one lies, up to the first number."""
    split = [name.split(".")[:-1] for name in names]
    shared = itertools.takewhile(lambda steps: len(set(steps)) == 1, zip(*split, strict=False))
    path = [steps[0] for steps in shared] or split[0]
    numbers = [place for place, step in enumerate(path) if step.isdigit()]
    return ".".join(path[: numbers[0] + 1] if numbers else path) or names[0]


def _last_module_below(name: str, last: str) -> str:
    """The module of a group's last tensor in a module that several groups share, such as ``features.transition1``; a
    numbered module is one part, whatever groups are in it."""
    steps = name.split(".")
    return name if any(s.isdigit() for s in steps) else ".".join(last.split(".")[:-1][: len(steps) + 1])


def _by_order(module: nn.Module, names: Sequence[str]) -> dict[str, list[str]]:
    """Top-level modules in order; containers, and a module with most of the numbers, as what is in them."""
    units = _units(module)
    grouped: dict[str, list[str]] = {}
    for name in names:
        holders = [unit for unit in units if name.startswith(f"{unit}.")]
        grouped.setdefault(max(holders, key=len) if holders else name, []).append(name)
    return grouped


def _units(module: nn.Module) -> list[str]:
    most = sum(p.numel() for p in module.parameters()) / 2
    units: list[str] = []
    for name, child in module.named_children():
        units.append(name)
        is_container = isinstance(child, _CONTAINERS)
        if not is_container and sum(p.numel() for p in child.parameters()) <= most:
            continue
        for inner_name, inner in child.named_children():
            units.append(f"{name}.{inner_name}")
            if not is_container and isinstance(inner, _CONTAINERS):
                units += [f"{name}.{inner_name}.{innermost}" for innermost, _ in inner.named_children()]
    return units
