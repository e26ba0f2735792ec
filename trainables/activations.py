"""What the layers of a network put out for a set of images: forward hooks in evaluation mode, pooled at once.

A hook pools while the forward pass stands still behind its module: what runs next may work in place.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from search_spaces.exceptions import UserError, unknown
from search_spaces.representations import AUTO, MOST_LAYERS
from trainables.models import BuiltModel
from trainables.parts import parts_of
from trainables.pieces import Pieces
from trainables.unet import UNet

_LEVEL = re.compile(r"(.+)\[(\d+)\]")
"""One of several outputs of a module."""

Activations = dict[str, NDArray[np.float32]]
"""Layer -> (N, d), or (N, p, d) of p places of the feature map."""


def layer_names(module: nn.Module, head: Iterable[str], asked: str | Sequence[str], where: str) -> tuple[str, ...]:
    """The modules whose output is kept, bottom first.

    Args:
        module: The net.
        head: Names of the head's tensors.
        asked: ``auto`` for the output of every part (``trainables.parts``), of a U-Net for the encoder's map at each
            level below the image's; or names of modules, ``name[n]`` for output n of one that puts out several.
        where: What asked; starts the message.

    Raises:
        UserError: No module of that name, or more parts than layers can be kept.
    """
    modules = dict(module.named_modules())
    if asked != AUTO:
        for name in asked:
            if not name or _module_and_output(name)[0] not in modules:
                raise UserError(unknown("layer", name, (n for n in modules if n), where))
        return tuple(asked)
    if isinstance(module, UNet):
        return tuple(f"encoder[{n}]" for n, channels in enumerate(module.channels) if n and channels)
    found = [_module_of(part.name, part.tensors, modules) for part in parts_of(module, head)]
    names = tuple(dict.fromkeys(name for name in found if name))
    if len(names) > MOST_LAYERS:
        raise UserError(f"{where}: auto finds {len(names)} layers, at most {MOST_LAYERS} are kept; name some of them")
    return names


def _module_and_output(layer: str) -> tuple[str, int]:
    """The module that a layer is an output of, and which one; the first if the layer does not say."""
    found = _LEVEL.fullmatch(layer)
    return (found[1], int(found[2])) if found else (layer, 0)


def _module_of(part: str, tensors: Sequence[str], modules: dict[str, nn.Module]) -> str:
    """The module that ends a part: that of its name, else the last top-level one that holds its tensors."""
    if part in modules:
        return part
    tops = [name.partition(".")[0] for name in tensors if "." in name]
    return tops[-1] if tops and tops[-1] in modules else ""


@torch.no_grad()
def activations(
    module: nn.Module,
    layers: Sequence[str],
    batches: Iterable[Tensor],
    *,
    positions: int | None = None,
    seed: int = 0,
    where: str = "representations",
) -> Activations:
    """The layers' outputs for every image, in order; of modules that a forward pass calls more than once the last.

    Runs in evaluation mode and in the weights' own precision; leaves mode, weights and random states as they were.

    Args:
        module: The net, on its device.
        layers: Names of modules.
        batches: Inputs (B, 3, s, s); cut smaller where the device's memory runs out.
        positions: Places of a feature map to keep; the mean over all if None.
        seed: Draws the places, once per layer.
        where: Starts the message of an error.

    Returns:
        float32: (N, channels) means over the map or the tokens (class token included), or (N, p, channels). Layers
        that the forward pass does not call are left out.

    Raises:
        UserError: A layer puts out something else than (B, C), (B, tokens, C) or (B, C, H, W).
        torch.OutOfMemoryError: A single image does not fit the device.
    """
    parts: dict[str, list[Tensor]] = {}
    pieces = Pieces()
    was_training = module.training
    module.eval()
    try:
        with _hooked(module, layers, positions, seed, where) as caught:
            for batch in batches:
                for outputs in pieces.run(len(batch), partial(_caught, module, batch, caught)):
                    for name, output in outputs.items():
                        parts.setdefault(name, []).append(output)
    finally:
        module.train(was_training)
    return {name: torch.cat(parts[name]).numpy() for name in layers if name in parts}


def _caught(module: nn.Module, batch: Tensor, caught: dict[str, Tensor], piece: slice) -> dict[str, Tensor]:
    """What the hooks catch in the forward pass of a piece of a batch, on the CPU."""
    caught.clear()
    module(batch[piece])
    return {name: output.float().cpu() for name, output in caught.items()}


@contextlib.contextmanager
def _hooked(
    module: nn.Module, layers: Sequence[str], positions: int | None, seed: int, where: str
) -> Iterator[dict[str, Tensor]]:
    """Layer -> its pooled output of the last forward pass."""
    caught: dict[str, Tensor] = {}
    is_channels_last = _puts_channels_last(module)

    def hook_of(name: str, number: int) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            places = _places(_tensor(output, number, name, where), is_channels_last, name, where)
            caught[name] = places.mean(1) if positions is None else _chosen(places, positions, seed, name)

        return hook

    with contextlib.ExitStack() as handles:
        for name in layers:
            path, number = _module_and_output(name)
            handles.callback(module.get_submodule(path).register_forward_hook(hook_of(name, number)).remove)
        yield caught


def _tensor(output: Any, number: int, name: str, where: str) -> Tensor:
    """Output ``number`` of a module, of what is nested in it the first."""
    while isinstance(output, list | tuple) and number < len(output):
        output, number = output[number], 0
    if not isinstance(output, Tensor):
        raise UserError(f"{where}: layer {name!r} puts out {type(output).__name__}, no tensor; name another module")
    return output


def _places(output: Tensor, is_channels_last: bool, name: str, where: str) -> Tensor:
    """(B, places, channels)."""
    if output.ndim == 2:
        return output[:, None]
    if output.ndim == 3:
        return output
    if output.ndim == 4:
        return output.flatten(1, 2) if is_channels_last else output.flatten(2).transpose(1, 2)
    raise UserError(
        f"{where}: layer {name!r} puts out a tensor of shape {tuple(output.shape)}; kept are (B, C), (B, tokens, C) "
        "and (B, C, H, W)"
    )


def _chosen(places: Tensor, positions: int, seed: int, name: str) -> Tensor:
    count = places.shape[1]
    if count <= positions:
        return places.clone()
    digest = hashlib.sha256(f"positions:{seed}:{name}:{count}".encode()).digest()
    drawn = np.random.default_rng(int.from_bytes(digest[:8], "big")).choice(count, positions, replace=False)
    return places[:, torch.from_numpy(np.sort(drawn)).to(places.device)]


def _puts_channels_last(module: nn.Module) -> bool:
    """Whether feature maps are (B, H, W, C), as timm says of its Swin kind; torchvision's says nothing."""
    stated = str(getattr(module, "output_fmt", ""))
    return stated.upper().endswith("NHWC") or type(module).__module__ == "torchvision.models.swin_transformer"


def layer_sizes(built: BuiltModel, asked: str | Sequence[str], positions: int | None, where: str) -> dict[str, int]:
    """Layer -> numbers kept per image, by one forward pass of an empty image on the CPU.

    Args:
        built: The model, as it was built.
        asked: See ``layer_names``.
        positions: See ``activations``.
        where: Starts the message of an error.

    Raises:
        UserError: As ``layer_names`` and ``activations``; also a named layer that the forward pass does not call.
    """
    names = layer_names(built.module, built.head, asked, where)
    size = built.scale.input_size
    found = activations(built.module, names, [torch.zeros(1, 3, size, size)], positions=positions, where=where)
    if asked != AUTO and (idle := [name for name in names if name not in found]):
        raise UserError(f"{where}: the forward pass does not call {', '.join(idle)}; name modules that it calls")
    return {name: int(values[0].size) for name, values in found.items()}
