"""Names of Big Transfer's original ``.npz`` files (Kolesnikov et al. 2020), turned into those of timm's BiT models."""

from __future__ import annotations

import re
from collections.abc import Iterable

_ROOT = "resnet/root_block/standardized_conv2d/kernel"
_FIXED = {
    _ROOT: "stem.conv.weight",
    "resnet/group_norm/gamma": "norm.weight",
    "resnet/group_norm/beta": "norm.bias",
    "resnet/head/conv2d/kernel": "head.fc.weight",
    "resnet/head/conv2d/bias": "head.fc.bias",
}
_UNIT = re.compile(r"resnet/block(\d+)/unit(\d+)/([abc])/(standardized_conv2d/kernel|group_norm/gamma|group_norm/beta)")
_PROJECTION = re.compile(r"resnet/block(\d+)/unit(\d+)/a/proj/standardized_conv2d/kernel")
_LEAF = {
    "standardized_conv2d/kernel": "conv{}.weight",
    "group_norm/gamma": "norm{}.weight",
    "group_norm/beta": "norm{}.bias",
}


def is_bit(names: Iterable[str]) -> bool:
    """Whether these are the names of an original BiT file."""
    return _ROOT in set(names)


def timm_name(name: str) -> str:
    """The name of one tensor in timm's ``resnetv2_*_bit``; names of another form are returned as they are.

    Units count from 1 in the file and from 0 in timm: ``resnet/block2/unit03/b/group_norm/gamma`` is
    ``stages.1.blocks.2.norm2.weight``.
    """
    if name in _FIXED:
        return _FIXED[name]
    if match := _PROJECTION.fullmatch(name):
        return f"stages.{int(match[1]) - 1}.blocks.{int(match[2]) - 1}.downsample.conv.weight"
    if match := _UNIT.fullmatch(name):
        leaf = _LEAF[match[4]].format("abc".index(match[3]) + 1)
        return f"stages.{int(match[1]) - 1}.blocks.{int(match[2]) - 1}.{leaf}"
    return name
