"""The loss of one ghost batch: its images, augmented and mixed, through the net."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from search_spaces.protocol import Protocol
from trainables.augmentation import Augment
from trainables.batches import ImageFeed, ImageSet, SampleOrder, Stream, masks_of, stream_seed
from trainables.freezing import is_frozen
from trainables.ghost_batches import ghosts_of_rank
from trainables.groups import Group
from trainables.inputs import Inputs
from trainables.mask_losses import MaskLoss, make_mask_loss
from trainables.mixing import Mix
from trainables.module_setup import largest_that_fits
from trainables.optimisation import Loss, Precision, make_loss, sampling_weights
from trainables.soft_labels import drawn_labels, has_soft_labels
from trainables.telemetry import Phase, StepClock


@dataclass(slots=True)
class BatchLoss:
    """Mean losses of ghost batches, a function of (init seed, step, ghost batch) and the weights alone.

    Attributes:
        images: The training subset.
        protocol: The recipe, settled for the subset.
        inputs: What turns its images into inputs.
        seed: The trial's init seed.
        steps: Optimiser steps of the trial.
        group: The trial's ranks.
        precision: Of the forward pass.
        clock: Told what the time goes into.
    """

    images: ImageSet
    protocol: Protocol
    inputs: Inputs
    seed: int
    steps: int
    group: Group
    precision: Precision
    clock: StepClock
    _feed: ImageFeed = field(init=False)
    _order: SampleOrder = field(init=False)
    _augment: Augment = field(init=False)
    _mix: Mix = field(init=False)
    _loss: Loss = field(init=False)
    _has_soft_labels: bool = field(init=False)
    _generator: torch.Generator = field(init=False)
    _index: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        protocol, targets = self.protocol, np.asarray(self.images.targets)
        weights = sampling_weights(targets) if protocol.imbalance == "sampler" else None
        self._order = SampleOrder(len(self.images.positions), protocol.global_batch_size, self.seed, weights)
        self._feed = self.inputs.feed(self.images)
        self._has_soft_labels = has_soft_labels(targets)
        self._augment = Augment(protocol.augmentation, self.inputs.size, *self.inputs.form)
        self._mix = Mix(protocol, self.inputs.device)
        if masks_of(self.images) is None:
            self._loss = make_loss(targets, protocol, self.inputs.facts.outputs, self.inputs.device)
        else:
            self._loss = make_mask_loss(self.images, protocol.loss, protocol.imbalance == "weights", self.inputs.device)
        self._generator = torch.Generator()
        self._index = np.empty(0, np.int64)

    @property
    def of_masks(self) -> MaskLoss | None:
        """The loss if it is one of masks."""
        return self._loss if isinstance(self._loss, MaskLoss) else None

    def begin_step(self, step: int) -> None:
        """Draw the global batch of a step, from 0."""
        self._index = self._order.batch(step)

    def __call__(self, net: nn.Module, step: int, ghost: int) -> Tensor:
        """Mean loss of one ghost batch of the step that was begun, with its graph."""
        self.clock.enter(Phase.LOAD)
        images, targets = self._feed.batch(self._rows(self._index, ghost), self._upcoming(step, ghost))
        if self._has_soft_labels:
            targets = drawn_labels(targets, self.seed, step, ghost)
        self._generator.manual_seed(stream_seed(self.seed, Stream.AUGMENT, step, ghost))
        inputs, targets = self._augmented(images, targets)
        mixture = None
        if self._mix.is_on:
            of_step = self._mixup_of_step(step)
            self._generator.manual_seed(stream_seed(self.seed, Stream.MIX, step, ghost))
            inputs, mixture = self._mix(inputs, self._generator, of_step)
        self.clock.enter(Phase.FORWARD)
        with self.precision.autocast():
            logits = net(inputs)
        loss = self._loss(_full_precision(logits), targets, mixture)
        self.clock.enter(Phase.BACKWARD)
        return loss

    def memory_advice(self, module: nn.Module, reason: str) -> str:
        """What to change after the device's memory ran out. Each rank tries for itself: it holds whole ghost batches.

        Args:
            module: The net, in the state in which memory ran out (``trainables.recompute``).
            reason: What the device said.
        """
        ghost, batch = self.protocol.ghost_batch_size, self.protocol.global_batch_size
        least = 2 if _trains_batch_norm(module) else 1
        smaller = [size for size in range(ghost - 1, least - 1, -1) if batch % size == 0]
        fits = largest_that_fits(module, smaller, lambda size: self._try(module, size))
        advice = "no smaller one fits" if fits is None else f"protocol.ghost_batch_size: {fits} would fit"
        return (
            f"a ghost batch of {ghost} images of this model does not fit {self.group.device}; {advice} "
            f"(that is another trial, as normalisation sees other batches). {reason}"
        )

    def _augmented(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs of the net with their targets: masks go the way of their images."""
        if self._feed.masks is None:
            return self._augment(images, self._generator), targets
        return self._augment.with_masks(images, targets, self._generator)

    def _mixup_of_step(self, step: int) -> float | None:
        """What all ghost batches of the step, on all ranks, draw their one share from; None if each image has one."""
        if self.protocol.mixup_share == "image":
            return None
        self._generator.manual_seed(stream_seed(self.seed, Stream.MIX, step))
        return float(torch.rand((), generator=self._generator, dtype=torch.float64))

    def _try(self, module: nn.Module, size: int) -> None:
        inputs, targets = self._augmented(*self._feed.batch(np.arange(size) % len(self._feed)))
        # Leaves of their own, of the same memory: DDP may have left hooks on the parameters that wait for other ranks.
        leaves = {n: p.detach().requires_grad_(p.requires_grad) for n, p in module.named_parameters()}
        with self.precision.autocast():
            logits = functional_call(module, leaves, (inputs,))
        self._loss(_full_precision(logits), targets).backward()  # type: ignore[no-untyped-call]

    def _rows(self, index: NDArray[np.int64], ghost: int) -> NDArray[np.int64]:
        size = self.protocol.ghost_batch_size
        return index[ghost * size : (ghost + 1) * size]

    def _upcoming(self, step: int, ghost: int) -> NDArray[np.int64] | None:
        """Rows of this rank's next ghost batch, if its feed looks ahead; None at the end of training."""
        if not self._feed.looks_ahead:
            return None
        mine, _ = ghosts_of_rank(self.protocol.ghost_batches, self.group.rank, self.group.size)
        if ghost != mine[-1]:
            return self._rows(self._index, ghost + mine.step)
        return self._rows(self._order.batch(step + 1), mine[0]) if step + 1 < self.steps else None


def _trains_batch_norm(module: nn.Module) -> bool:
    """Whether a layer takes its statistics from the ghost batch, which then needs more than one image."""
    return any(isinstance(layer, _BatchNorm) and not is_frozen(layer) for layer in module.modules())


def _full_precision(logits: Tensor) -> Tensor:
    """Losses are computed in float32 at least."""
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
