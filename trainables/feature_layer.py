"""The features of a network: what its head is given, one vector per image."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from search_spaces.exceptions import UserError


class FeatureLayer(nn.Module):
    """A network that gives the input of its head instead of its logits.

    The head is whatever holds a tensor whose shape depends on the number of outputs (``trainables.models``), so this
    works for linear heads, for 1 x 1 convolutions, and for networks of any origin. Maps are averaged over their
    positions. A network with several heads that all take part in its output gives their inputs side by side.

    Args:
        module: Images (B, 3, s, s) to logits; put into evaluation mode.
        head: Names of the head's tensors.

    Raises:
        UserError: A tensor of the head belongs to no layer of its own, so that its input cannot be seen.
    """

    def __init__(self, module: nn.Module, head: Iterable[str]) -> None:
        super().__init__()
        self.network = module.eval()
        self._seen: dict[str, Tensor] = {}
        layers = sorted({name.rpartition(".")[0] for name in head})
        if "" in layers:
            raise UserError(
                f"{type(module).__name__} holds the tensors of its head itself; a linear probe and kNN need a layer of "
                "its own for the head, such as torch.nn.Linear, whose input are the features"
            )
        for name in layers:
            module.get_submodule(name).register_forward_pre_hook(self._keeper(name))

    def forward(self, images: Tensor) -> Tensor:
        """(B, D) features.

        Raises:
            UserError: The head was not run, or its input has no form that is known.
        """
        self._seen.clear()
        self.network(images)
        if not self._seen:
            raise UserError(f"{type(self.network).__name__} does not use its head in evaluation mode")
        return torch.cat([self._seen[name] for name in sorted(self._seen)], dim=1)

    def _keeper(self, name: str) -> Any:
        def keep(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
            self._seen[name] = _pooled(layer, inputs[0], len(inputs[0]))

        return keep


def _pooled(layer: nn.Module, features: Tensor, images: int) -> Tensor:
    if features.ndim == 2:
        return features
    if features.ndim == 4 and isinstance(layer, nn.Conv2d):
        return features.mean((2, 3))
    if features.ndim > 2 and isinstance(layer, nn.Linear):
        return features.reshape(images, -1, features.shape[-1]).mean(1)
    raise UserError(
        f"the head ({type(layer).__name__}) is given a tensor of shape {tuple(features.shape)}; features are (B, D), "
        "maps before a convolution, or tokens before a linear layer"
    )
