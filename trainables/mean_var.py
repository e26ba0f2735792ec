"""Weights with the scale of trained ones but none of their features: the "mean-var" initialisation.

Raghu, Zhang, Kleinberg, Bengio, "Transfusion: Understanding Transfer Learning for Medical Imaging" (2019), section 5:
each tensor is drawn i.i.d. from a normal distribution with the mean and standard deviation of the trained tensor. It
tells whether pretraining helps by its features or by the scale of its weights. Two stricter variants keep each tensor's
whole distribution: its own numbers in another order, or drawn from them with replacement.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from search_spaces.exceptions import UserError

NormRule = Literal["reset", "resample", "keep"]
Draw = Literal["gaussian", "permutation", "resampling"]

_NORM_CLASSES = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
_ONE = ("weight", "gamma", "scale", "running_var")
_ZERO = ("bias", "beta", "offset", "running_mean", "num_batches_tracked")
_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanVarReport:
    """What was done.

    Attributes:
        drawn: Number of tensors that were drawn anew.
        reset: Number of tensors of normalisation layers that were set to 1 or 0.
        kept: Number of tensors of normalisation layers that were kept.
    """

    drawn: int = 0
    reset: int = 0
    kept: int = 0


def apply_mean_var(
    module: nn.Module, head: Iterable[str], norm: NormRule, seed: int, draw: Draw = "gaussian"
) -> MeanVarReport:
    """Draw the backbone's weights anew, in place.

    Every parameter of the backbone outside of normalisation layers (weights and biases of convolutions and linear
    layers, embeddings, layer scales) becomes Normal(mean, std) of its own numbers, std with divisor n, or is drawn from
    them. Each tensor has its own generator, seeded by ``seed`` and its name: the global random state is neither used
    nor changed.

    Args:
        module: Model that holds the trained weights.
        head: Names of the head's tensors, which stay as they are.
        norm: ``reset``: normalisation layers become weight 1, bias 0, mean 0, variance 1; ``resample``: their weight
            and bias are drawn like the rest, statistics reset; ``keep``: they stay as they are.
        seed: The trial's init seed.
        draw: ``gaussian`` as above; ``permutation``: its own numbers in another order; ``resampling``: drawn from its
            own numbers with replacement.

    Raises:
        UserError: A normalisation layer has a tensor that ``reset`` does not know.
    """
    head = set(head)
    of_norms = norm_tensors(module)
    named = {**dict(module.named_parameters()), **_persistent(module, of_norms)}
    drawn = reset = kept = 0
    with torch.no_grad():
        for name, tensor in named.items():
            if name in head:
                continue
            rule = _rule(name, norm, name in of_norms)
            if rule == "draw":
                tensor.copy_(_drawn_like(tensor, name, seed, draw))
                drawn += 1
            elif rule == "reset":
                tensor.fill_(_identity_value(name))
                reset += 1
            else:
                kept += 1
    return MeanVarReport(drawn=drawn, reset=reset, kept=kept)


def norm_tensors(module: nn.Module) -> set[str]:
    """Names of the parameters and buffers of normalisation layers."""
    names: set[str] = set()
    for prefix, layer in module.named_modules():
        if _is_norm(layer):
            own = [*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)]
            names.update(f"{prefix}.{name}" if prefix else name for name, _ in own)
    return names


def _is_norm(layer: nn.Module) -> bool:
    """torch's layers and their kind, and layers that others wrote: named so, and with vectors only."""
    if isinstance(layer, _NORM_CLASSES):
        return True
    kind = type(layer).__name__.lower()
    own: list[Tensor] = list(layer.parameters(recurse=False))
    own = own or list(layer.buffers(recurse=False))
    # ConvNeXt V2's global response "norm" adds to its input: weight 1 would not make it the identity.
    return "norm" in kind and "globalresponse" not in kind and bool(own) and all(_is_vector(t) for t in own)


def _is_vector(tensor: Tensor) -> bool:
    """Whether at most one axis is longer than 1; (1, C, 1, 1) is a vector too."""
    return sum(size > 1 for size in tensor.shape) <= 1


def _persistent(module: nn.Module, names: set[str]) -> dict[str, Tensor]:
    """Buffers of normalisation layers. Other buffers are constants of the architecture."""
    saved = module.state_dict(keep_vars=True)
    return {n: b for n, b in module.named_buffers() if n in names and n in saved}


def _rule(name: str, norm: NormRule, in_norm: bool) -> Literal["draw", "reset", "keep"]:
    if not in_norm:
        return "draw"
    if norm == "keep":
        return "keep"
    statistics = name.rpartition(".")[2] in _STATISTICS
    return "draw" if norm == "resample" and not statistics else "reset"


def _identity_value(name: str) -> float:
    leaf = name.rpartition(".")[2]
    if leaf in _ONE:
        return 1.0
    if leaf in _ZERO:
        return 0.0
    raise UserError(
        f"mean_var: the normalisation layer's tensor {name!r} has no known identity value (known: "
        f"{', '.join((*_ONE, *_ZERO))}); use norm: resample or norm: keep"
    )


def _drawn_like(tensor: Tensor, name: str, seed: int, draw: Draw) -> Tensor:
    digest = hashlib.sha256(f"mean_var:{seed}:{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big", signed=True))
    numbers = tensor.detach().to("cpu", torch.float64)
    if draw != "gaussian":
        count = numbers.numel()
        order = (
            torch.randperm(count, generator=generator)
            if draw == "permutation"
            else torch.randint(count, (count,), generator=generator)
        )
        return numbers.flatten()[order].reshape(tensor.shape).to(tensor)
    standard = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
    return (numbers.mean() + numbers.std(correction=0) * standard).to(tensor)
