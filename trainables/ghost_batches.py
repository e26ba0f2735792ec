"""Gradients of a global batch that do not depend on how many ranks compute them.

A global batch is a list of ghost batches (Hoffer et al. 2017, "Train longer, generalize better"). A rank computes whole
ghost batches, one after the other; what is random inside one is seeded by (init seed, step, ghost batch); gradients and
losses are means over ghost batches. Normalisation layers use the statistics of the ghost batch, and their running
statistics take one update per step, from the mean over its ghost batches. So 1 rank, 2 ranks and any number of ghost
batches per rank agree to rounding.

A rank without a ghost batch of its own repeats another's with weight 0, because every rank must take part in the
gradient reduction. Buffers other than running statistics that a module changes in its forward pass (the power iteration
of spectral normalisation) are not covered: they advance once per ghost batch of the rank.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parallel import DistributedDataParallel

from search_spaces.exceptions import UserError
from trainables.batches import Stream, stream_seed
from trainables.freezing import is_frozen
from trainables.groups import Group, sum_over_ranks

_OWN_BUFFERS: dict[str, Any] = {
    # Renamed between torch 2.11 and 2.15; the old name then warns.
    "forward_sync_buffers"
    if "forward_sync_buffers" in inspect.signature(DistributedDataParallel.__init__).parameters
    else "broadcast_buffers": False
}
"""Buffers are not copied from rank 0 before every forward pass: RunningStatistics keeps them equal."""

GhostLoss = Callable[[nn.Module, int, int], Tensor]
"""(net, step, ghost batch) -> mean loss of that ghost batch, with its graph."""


def ghosts_of_rank(ghosts: int, rank: int, size: int) -> tuple[range, float]:
    """The ghost batches of one rank and their weight: 1, or 0 for a rank that only takes part.

    Args:
        ghosts: Ghost batches of a step, at least 1.
        rank: From 0.
        size: Number of ranks.
    """
    mine = range(rank, ghosts, size)
    return (mine, 1.0) if len(mine) else (range(rank % ghosts, rank % ghosts + 1), 0.0)


def used_parameters(output: Tensor) -> set[int]:
    """``id`` of every leaf tensor that ``output`` depends on."""
    leaves, seen = set(), set()
    nodes = [output.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None:
            leaves.add(id(leaf))
        nodes.extend(previous for previous, _ in node.next_functions)
    return leaves


class GhostBatches:
    """Computes the gradients of whole steps. Use as a context manager: it borrows the normalisation layers' momentum.

    Args:
        module: The net, on the group's device; its gradients are what ``backward`` fills.
        net: What forward passes call: the module itself if not given, or a compiled twin with the same parameters.
        ghosts: Ghost batches per step.
        group: The trial's ranks.
        seed: The trial's init seed.
        has_unused_parameters: Whether some parameters never reach the loss (DDP must then look for them).
        recomputed: Whether forward passes are made twice (``trainables.recompute``).

    Raises:
        UserError: The net holds SyncBatchNorm, which mixes ghost batches of several ranks.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        net: nn.Module | None = None,
        ghosts: int,
        group: Group,
        seed: int,
        has_unused_parameters: bool = False,
        recomputed: bool = False,
    ) -> None:
        self._group, self._ghosts, self._seed = group, ghosts, seed
        self._mine, self._weight = ghosts_of_rank(ghosts, group.rank, group.size)
        self._statistics = RunningStatistics(module, ghosts, group, recomputed)
        net = module if net is None else net
        self.net = net if group.size == 1 else _distributed(net, group, has_unused_parameters)

    def __enter__(self) -> Self:
        self._statistics.borrow()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._statistics.give_back()

    def backward(
        self,
        step: int,
        ghost_loss: GhostLoss,
        scale: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Add the gradient of the mean loss over the step's ghost batches to the parameters' ``grad``, on all ranks.

        Args:
            step: From 0.
            ghost_loss: Computes one ghost batch.
            scale: Applied to the loss before its backward pass (loss scaling of fp16).

        Returns:
            This rank's share of the step's mean loss, a scalar without graph; the sum over ranks is the mean loss.
        """
        # DDP averages over ranks; this factor turns its mean into the mean over ghost batches.
        factor = self._weight * self._group.size / self._ghosts
        share: Tensor | None = None
        self._statistics.begin_step()
        for ghost in self._mine:
            with self._synchronised(ghost == self._mine[-1]):
                _seed_forward(stream_seed(self._seed, Stream.FORWARD, step, ghost), self._group.device)
                loss = ghost_loss(self.net, step, ghost)
                weighted = loss if factor == 1 else loss * factor
                (weighted if scale is None else scale(weighted)).backward()  # type: ignore[no-untyped-call]
            self._statistics.add_ghost(self._weight)
            share = loss.detach() if share is None else share + loss.detach()
        self._statistics.end_step()
        assert share is not None
        return share * self._weight / self._ghosts if self._ghosts > 1 or self._weight != 1 else share

    @contextlib.contextmanager
    def _synchronised(self, last: bool) -> Iterator[None]:
        if last or not isinstance(self.net, DistributedDataParallel):
            yield
        else:
            with self.net.no_sync():
                yield


class RunningStatistics:
    """One update of the running statistics per step, from the mean over its ghost batches.

    With momentum 1 a forward pass leaves the statistics of its batch in the running buffers. They are collected after
    each ghost batch, averaged over all ranks, and mixed into the values from before the step with the layer's own
    momentum. One ghost batch on one rank needs none of this: the layer's own update is the same, unless forward passes
    are made twice.

    Args:
        module: The net.
        ghosts: Ghost batches per step.
        group: The trial's ranks.
        recomputed: Whether forward passes are made twice.

    Raises:
        UserError: The net holds SyncBatchNorm.
    """

    def __init__(self, module: nn.Module, ghosts: int, group: Group, recomputed: bool = False) -> None:
        layers = [m for m in module.modules() if isinstance(m, _NormBase) and not is_frozen(m)]
        if any(isinstance(layer, nn.SyncBatchNorm) for layer in layers):
            raise UserError(
                "the model holds SyncBatchNorm, which normalises over ranks; results would depend on their number. "
                "Use BatchNorm2d and the protocol's ghost_batch_size"
            )
        collected = ghosts > 1 or group.size > 1 or recomputed
        self._layers = [layer for layer in layers if layer.running_mean is not None and collected]
        self._momenta = [layer.momentum for layer in self._layers]
        self._ghosts, self._group = ghosts, group
        self._before: list[Tensor] = []
        self._sums: list[Tensor] = []
        self._counts_before: list[Tensor] = []

    def borrow(self) -> None:
        """Take over the layers' momentum."""
        for layer in self._layers:
            layer.momentum = 1.0

    def give_back(self) -> None:
        """Restore the layers' momentum."""
        for layer, momentum in zip(self._layers, self._momenta, strict=True):
            layer.momentum = momentum

    def begin_step(self) -> None:
        """Remember the running statistics."""
        if self._layers:
            self._before = [buffer.clone() for buffer in self._buffers()]
            self._counts_before = [count.clone() for count in self._counts()]
            self._sums = [torch.zeros_like(buffer) for buffer in self._before]

    def add_ghost(self, weight: float) -> None:
        """Collect the statistics that the last forward pass left in the buffers."""
        if self._layers and weight:
            torch._foreach_add_(self._sums, self._buffers())

    def end_step(self) -> None:
        """Mix the mean over all ghost batches into the remembered statistics."""
        if not self._layers:
            return
        if self._group.size > 1:
            flat = sum_over_ranks(self._group, torch.cat(self._sums))
            self._sums = list(torch.split(flat, [len(s) for s in self._sums]))
        counts = self._counts()
        if counts:
            torch._foreach_copy_(counts, self._counts_before)
            torch._foreach_add_(counts, 1)
        torch._foreach_div_(self._sums, float(self._ghosts))
        for buffer, before, mean, momentum in zip(
            self._buffers(), self._before, self._sums, self._step_momenta(), strict=True
        ):
            torch.lerp(before, mean, momentum, out=buffer)

    def _buffers(self) -> list[Tensor]:
        return [b for layer in self._layers for b in (layer.running_mean, layer.running_var) if b is not None]

    def _counts(self) -> list[Tensor]:
        return [layer.num_batches_tracked for layer in self._layers if layer.num_batches_tracked is not None]

    def _step_momenta(self) -> list[float]:
        """One per buffer; a layer without momentum keeps the plain mean over steps."""
        momenta = []
        for layer, momentum in zip(self._layers, self._momenta, strict=True):
            if momentum is None:
                assert layer.num_batches_tracked is not None
                momentum = 1.0 / float(layer.num_batches_tracked)
            momenta += [momentum, momentum]
        return momenta


def _distributed(module: nn.Module, group: Group, has_unused_parameters: bool) -> DistributedDataParallel:
    return DistributedDataParallel(
        module,
        device_ids=[group.device] if group.device.type == "cuda" else None,
        process_group=group.process_group,
        gradient_as_bucket_view=True,
        find_unused_parameters=has_unused_parameters,
        **_OWN_BUFFERS,
    )


def _seed_forward(seed: int, device: torch.device) -> None:
    """Seed what dropout and drop-path draw from. Unlike torch.manual_seed, touches no device but this one."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        index = device.index if device.index is not None else torch.cuda.current_device()
        torch.cuda.default_generators[index].manual_seed(seed)
