"""Weights that were published for other software, turned once into files of torch's names and axis order."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from search_spaces.exceptions import UserError
from trainables.inert_pickle import array_tables, read_inert
from trainables.tensor_files import system_errors

Arrays = dict[str, np.ndarray[Any, Any]]
Table = Mapping[str, Mapping[str, np.ndarray[Any, Any]]]

_BLOCK = re.compile(r"block_group_(\d)/block_(\d+)/(conv|batchnorm)_(\d)$")
_SHORTCUT = re.compile(r"block_group_(\d)/block_(\d+)/shortcut_(conv|batchnorm)$")
_LEAVES = {"w": "weight", "scale": "weight", "offset": "bias"}
_STATISTICS = {"mean_ema": "running_mean", "var_ema": "running_var"}


def byol(path: Path) -> Arrays:
    """DeepMind's BYOL ResNet-50 (``pretrain_res50x1.pkl``): the online encoder.

    The pickle holds ``experiment_state`` with online and target parameters and states, in this order, as Haiku's
    two-level tables: ``.../block_group_0/~/block_0/~/conv_0`` -> ``w``. Convolutions are (height, width, in, out),
    those of batch norm have the shape (1, 1, 1, C).

    Raises:
        UserError: No ResNet's parameters are found.
    """
    tables = list(array_tables(read_inert(path)))
    parameters = next((t for t in map(_encoder_parameters, tables) if t), {})
    statistics = next((t for t in map(_encoder_statistics, tables) if t), {})
    if not parameters or not statistics:
        missing = "parameters" if not parameters else "running statistics"
        raise UserError(
            f"{path} holds no {missing} of a ResNet by Haiku's names (block_group_0/~/block_0/~/conv_0, ...); it has "
            f"{len(tables)} tables of arrays"
        )
    return {**parameters, **statistics}


CONVERTERS: dict[str, Callable[[Path], Arrays]] = {"byol": byol}
"""Kind of file -> its reader."""


def convert_file(kind: str, path: Path, out: Path) -> int:
    """Convert a published file to ``.safetensors``.

    Args:
        kind: One of CONVERTERS.
        path: The published file.
        out: The file to write; must not exist.

    Returns:
        Number of tensors written.

    Raises:
        UserError: The file cannot be read or converted, or ``out`` exists, has another suffix or cannot be written.
    """
    from safetensors.numpy import save_file

    if out.suffix != ".safetensors":
        raise UserError(f"{out}: the converted file is a .safetensors file; name it so")
    if out.exists():
        raise UserError(f"{out} exists; remove it first or choose another name")
    arrays = CONVERTERS[kind](path)
    partial = out.with_name(f"{out.name}.partial")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with system_errors(partial):
            save_file({n: np.ascontiguousarray(a) for n, a in arrays.items()}, partial, {"converted_from": kind})
        partial.replace(out)
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror or error}") from error
    return len(arrays)


def _encoder_parameters(table: Table) -> Arrays:
    found: Arrays = {}
    for module, arrays in table.items():
        name = _torch_module(_path(module))
        if name is None:
            continue
        for leaf, array in arrays.items():
            if leaf in _LEAVES:
                found[f"{name}.{_LEAVES[leaf]}"] = array.transpose(3, 2, 0, 1) if leaf == "w" else array.reshape(-1)
    return found


def _encoder_statistics(table: Table) -> Arrays:
    found: Arrays = {}
    for module, arrays in table.items():
        path, _, kind = _path(module).rpartition("/")
        name = _torch_module(path)
        if name is not None and kind in _STATISTICS and "average" in arrays:
            found[f"{name}.{_STATISTICS[kind]}"] = arrays["average"].reshape(-1)
    return found


def _path(module: str) -> str:
    """Haiku's module name without the marks of methods."""
    return "/".join(step for step in module.split("/") if step != "~")


def _torch_module(path: str) -> str | None:
    if re.search(r"(^|/)initial_(conv|batchnorm)$", path):
        return "conv1" if path.endswith("conv") else "bn1"
    if match := _BLOCK.search(path):
        kind = "conv" if match[3] == "conv" else "bn"
        return f"layer{int(match[1]) + 1}.{match[2]}.{kind}{int(match[4]) + 1}"
    if match := _SHORTCUT.search(path):
        return f"layer{int(match[1]) + 1}.{match[2]}.downsample.{0 if match[3] == 'conv' else 1}"
    return None
