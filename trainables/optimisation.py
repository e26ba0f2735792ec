"""Optimiser, learning rate, moving average, mixed precision, losses and class imbalance, as the protocol says."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from typing import Protocol as TypingProtocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from search_spaces.exceptions import UserError
from search_spaces.protocol import Protocol
from trainables.mixing import Mixture
from trainables.parts import layer_depths
from trainables.schedules import learning_rate as learning_rate


class Loss(TypingProtocol):
    """Mean over the observed labels of a batch; 0 if none is observed."""

    def __call__(self, logits: Tensor, targets: Tensor, mixture: Mixture | None = None) -> Tensor:
        """The loss of logits (B, C) for targets (B, L) or (B,) of the images, or of what they are mixed from."""


def make_optimizer(module: nn.Module, protocol: Protocol) -> torch.optim.Optimizer:
    """The protocol's optimiser; weight decay acts on tensors of two and more dimensions only.

    A group's ``lr_scale`` is what its learning rate is multiplied by. No optimiser of torch knows it: ``Update``
    applies it at every step.
    """
    groups = [
        {"params": params, "weight_decay": protocol.weight_decay if matrices else 0.0, "lr_scale": scale}
        for scale, layer in _layers(module, protocol.layer_lr_decay)
        for matrices in (True, False)
        if (params := [p for p in layer if (p.ndim >= 2) is matrices])
    ]
    if protocol.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=protocol.lr, fused=True)
    if protocol.optimizer == "adam":
        return torch.optim.Adam(groups, lr=protocol.lr, fused=True)
    return torch.optim.SGD(groups, lr=protocol.lr, momentum=protocol.momentum, fused=True)


def _layers(module: nn.Module, decay: float) -> list[tuple[float, list[nn.Parameter]]]:
    """(learning rate scale, trained parameters) of each layer; all in one without decay."""
    trained = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
    if decay == 1:
        return [(1.0, [p for _, p in trained])]
    depths = layer_depths(module)
    top = max(depths.values())
    return [(decay ** (top - d), [p for n, p in trained if depths[n] == d]) for d in range(top + 1)]


class MovingAverage:
    """Exponential moving average of parameters and floating-point buffers.

    The decay of update n (from 0) is min(decay, (1 + n) / (10 + n)), so that short trainings do not average the
    initial weights (TensorFlow's ``ExponentialMovingAverage`` with ``num_updates``).

    Args:
        module: The net that is trained.
        decay: Largest decay.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self._decay = decay
        self._sources = _floating_tensors(module)
        self._averages = {name: tensor.detach().clone() for name, tensor in self._sources.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after optimiser step ``step`` (from 0)."""
        decay = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self._averages.values()), list(self._sources.values()), 1 - decay)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """The module holds the averages inside the block and its own values, untouched, after it."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def state_dict(self) -> dict[str, Tensor]:
        """Name -> average."""
        return dict(self._averages)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take averages from ``state_dict()``.

        Raises:
            KeyError: An average is missing.
        """
        for name, average in self._averages.items():
            average.copy_(state[name])

    def _swap(self) -> None:
        for name, source in self._sources.items():
            source.data, self._averages[name].data = self._averages[name].data, source.data


def _floating_tensors(module: nn.Module) -> dict[str, Tensor]:
    named = [*module.named_parameters(), *module.named_buffers()]
    return {name: tensor for name, tensor in named if tensor.is_floating_point()}


class Precision:
    """Arithmetic of forward and backward.

    Args:
        precision: fp32, bf16 or fp16.
        device: Where the trial runs.

    Raises:
        UserError: fp16 without CUDA, or bf16 on a GPU that cannot.
    """

    def __init__(self, precision: str, device: torch.device) -> None:
        if precision == "fp16" and device.type != "cuda":
            raise UserError(f"precision fp16 needs a CUDA device, this is {device}; use bf16 or fp32")
        if precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
            raise UserError(f"this GPU ({torch.cuda.get_device_name(device)}) has no bf16; use fp16 or fp32")
        self._device_type = device.type
        self._dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
        self.scaler = torch.amp.GradScaler("cuda") if precision == "fp16" else None

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The context of one forward pass."""
        if self._dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self._device_type, dtype=self._dtype)


class Update:
    """One optimiser step: learning rate, unscaling, clipping, step, gradients dropped.

    Args:
        module: The net.
        protocol: The recipe.
        steps: Optimiser steps of the whole trial.
        scaler: Of fp16.
    """

    def __init__(
        self, module: nn.Module, protocol: Protocol, steps: int, scaler: torch.amp.GradScaler | None = None
    ) -> None:
        self._protocol, self._steps, self._scaler = protocol, steps, scaler
        self._parameters = [p for p in module.parameters() if p.requires_grad]
        self.optimizer = make_optimizer(module, protocol)

    def __call__(self, step: int, scale: float = 1.0) -> None:
        """Apply the gradients of step ``step`` (from 0), with the schedule's learning rate times ``scale``."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self._protocol, step, self._steps) * scale * group["lr_scale"]
        if self._protocol.clip_norm is not None:
            if self._scaler is not None:
                self._scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self._parameters, self._protocol.clip_norm)
        if self._scaler is None:
            self.optimizer.step()
        else:
            self._scaler.step(self.optimizer)
            self._scaler.update()
        self.optimizer.zero_grad()


def make_loss(targets: NDArray[Any], protocol: Protocol, outputs: int, device: torch.device) -> Loss:
    """The loss of a training set.

    Binary and multilabel targets (floating point) use the binary cross-entropy of each observed label; classes
    (integers; ordinal ones too) the cross-entropy with label smoothing. With ``imbalance: weights`` each term is
    multiplied by the inverse frequency of its class in the training set, scaled to mean 1.

    Args:
        targets: Of the training set: (N, L) floats with NaN, or (N,) classes with -1.
        protocol: Label smoothing and imbalance.
        outputs: Number of logits.
        device: Of the logits.
    """
    weights = class_weights(targets, outputs) if protocol.imbalance == "weights" else None
    table = None if weights is None else torch.from_numpy(weights).float().to(device)
    if np.issubdtype(np.asarray(targets).dtype, np.floating):
        masked = bool(np.isnan(targets).any())
        return lambda logits, targets, mixture=None: _binary_loss(logits, targets, table, masked, mixture)
    masked = bool((np.asarray(targets) < 0).any())
    smoothing = protocol.label_smoothing
    return lambda logits, targets, mixture=None: _class_loss(logits, targets, table, masked, smoothing, mixture)


def _binary_loss(
    logits: Tensor, targets: Tensor, table: Tensor | None, masked: bool, mixture: Mixture | None
) -> Tensor:
    if table is None and not masked and mixture is None:
        return F.binary_cross_entropy_with_logits(logits, targets)

    def terms(of: Tensor) -> tuple[Tensor, Tensor]:
        observed = ~of.isnan()
        known = of.nan_to_num(0.0)
        if table is None:
            values = F.binary_cross_entropy_with_logits(logits, known, reduction="none")
        else:
            negative, positive = table.unbind(1)
            values = positive * known * F.softplus(-logits) + negative * (1 - known) * F.softplus(logits)
        return values * observed, observed

    return _mean(terms, targets, mixture)


def _class_loss(
    logits: Tensor,
    targets: Tensor,
    table: Tensor | None,
    masked: bool,
    smoothing: float,
    mixture: Mixture | None,
) -> Tensor:
    if table is None and not masked and mixture is None:
        return F.cross_entropy(logits, targets, label_smoothing=smoothing)

    def terms(of: Tensor) -> tuple[Tensor, Tensor]:
        values = F.cross_entropy(logits, of, ignore_index=-1, label_smoothing=smoothing, reduction="none")
        observed = of >= 0
        if table is not None:
            values = values * table[of.clamp(min=0)]
        return values * observed, observed

    return _mean(terms, targets, mixture)


def _mean(terms: Callable[[Tensor], tuple[Tensor, Tensor]], targets: Tensor, mixture: Mixture | None) -> Tensor:
    """Mean of the terms over what is observed; of mixed images each target counts with its share.

    Cross-entropies are linear in their target, so this is the loss of soft targets.
    """
    values, observed = terms(targets)
    if mixture is None:
        return values.sum() / observed.sum().clamp(min=1)
    of_partner, partner_observed = terms(targets[mixture.partner])
    share = mixture.weight.to(values.dtype).view(-1, *[1] * (values.ndim - 1))
    total = (values * share + of_partner * (1 - share)).sum()
    count = (observed * share + partner_observed * (1 - share)).sum()
    return total / torch.where(count > 0, count, 1.0)


def class_weights(targets: NDArray[Any], outputs: int) -> NDArray[np.float64]:
    """Inverse class frequencies, n / (K n_c), of mean 1 over the training set; 0 for a class that it lacks.

    A label between 0 and 1, as label policies draw them, counts for both of its classes in proportion: its loss has
    both terms in the same proportion.

    Args:
        targets: (N, L) floats in [0, 1] with NaN, or (N,) classes with -1.
        outputs: Number of logits.

    Returns:
        (L, 2) for negative and positive of each label, or (K,) for classes. Of a label with one class only, that
        class weighs 1 (K counts the classes that occur).
    """
    if np.issubdtype(targets.dtype, np.floating):
        positive, known = np.nansum(targets, axis=0, dtype=np.float64), (~np.isnan(targets)).sum(0)
        counts = np.stack([known - positive, positive], axis=1)
    else:
        counts = np.bincount(targets[targets >= 0], minlength=outputs)[None, :]
    weights = inverse_frequencies(counts)
    return weights if np.issubdtype(targets.dtype, np.floating) else weights[0]


def inverse_frequencies(counts: NDArray[Any]) -> NDArray[np.float64]:
    """Weights n / (K n_c) of K classes, in rows (R, K); 0 for a class of count 0, which K does not count then."""
    total, occurring = counts.sum(1, keepdims=True), (counts > 0).sum(1, keepdims=True)
    weights: NDArray[np.float64] = np.divide(total, occurring * counts, out=np.zeros(counts.shape), where=counts > 0)
    return weights


def sampling_weights(targets: NDArray[Any]) -> NDArray[np.float64]:
    """(N,) weights of ``imbalance: sampler``: one over the size of the image's class.

    An image of several labels counts for the rarest of its positive ones; those without any form one more class. A
    label between 0 and 1, as label policies draw them, is positive from 0.5. An image without any observed label is
    never drawn.

    Args:
        targets: (N, L) floats in [0, 1] with NaN, or (N,) classes with -1.
    """
    if not np.issubdtype(targets.dtype, np.floating):
        observed = targets >= 0
        counts = np.bincount(targets[observed])
        return np.where(observed, 1.0 / np.maximum(counts[np.maximum(targets, 0)], 1), 0.0)
    positive, observed = targets >= 0.5, ~np.isnan(targets).all(axis=1)
    rarest = np.where(positive, 1.0 / np.maximum(positive.sum(0), 1), 0.0).max(axis=1)
    none = observed & ~positive.any(axis=1)
    return np.where(none, 1.0 / max(int(none.sum()), 1), rarest)
