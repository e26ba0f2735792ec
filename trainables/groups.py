"""The ranks that share one trial. Every collective of a trial runs on this group and on no other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

T = TypeVar("T")
CPU = torch.device("cpu")


class Group(Protocol):
    """A trial's ranks, seen from one of them."""

    @property
    def rank(self) -> int:
        """Number of this rank, from 0."""

    @property
    def size(self) -> int:
        """Number of ranks."""

    @property
    def process_group(self) -> dist.ProcessGroup | None:
        """The trial's process group; None for one process."""

    @property
    def device(self) -> torch.device:
        """Where this rank computes."""


@dataclass(frozen=True, slots=True)
class SingleProcess:
    """A trial in one process.

    Attributes:
        device: Where it computes.
    """

    device: torch.device = CPU

    @property
    def rank(self) -> int:
        """0."""
        return 0

    @property
    def size(self) -> int:
        """1."""
        return 1

    @property
    def process_group(self) -> None:
        """None."""
        return


@dataclass(frozen=True, slots=True)
class DistributedGroup:
    """A trial over the ranks of a process group.

    Attributes:
        process_group: Made by ``torch.distributed.new_group`` or ``init_process_group``.
        device: Where this rank computes.
    """

    process_group: dist.ProcessGroup
    device: torch.device = CPU

    @property
    def rank(self) -> int:
        """Number of this rank inside the group, from 0."""
        return dist.get_rank(self.process_group)

    @property
    def size(self) -> int:
        """Number of ranks of the group."""
        return dist.get_world_size(self.process_group)


def broadcast_object(group: Group, value: T) -> T:
    """Rank 0's ``value`` on all ranks; what other ranks pass is ignored."""
    if group.size == 1:
        return value
    box: list[Any] = [value if group.rank == 0 else None]
    dist.broadcast_object_list(box, group=group.process_group, group_src=0, device=_carrier(group))
    received: T = box[0]
    return received


def broadcast_bytes(group: Group, data: bytes | None) -> bytes | None:
    """Rank 0's bytes on all ranks, without pickling."""
    if group.size == 1:
        return data
    length = broadcast_object(group, None if data is None else len(data))
    if length is None:
        return None
    carrier = torch.empty(length, dtype=torch.uint8, device=group.device)
    if group.rank == 0 and data is not None:
        carrier.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
    dist.broadcast(carrier, group=group.process_group, group_src=0)
    return data if group.rank == 0 else carrier.cpu().numpy().tobytes()


def sum_over_ranks(group: Group, tensor: torch.Tensor) -> torch.Tensor:
    """``tensor`` summed over all ranks, in place."""
    if group.size > 1:
        dist.all_reduce(tensor, group=group.process_group)
    return tensor


def gather_rows(group: Group, rows: torch.Tensor, counts: list[int]) -> NDArray[Any] | None:
    """Rows of all ranks, in rank order, on rank 0; None elsewhere.

    Args:
        group: The trial's ranks.
        rows: This rank's rows, shape (counts[rank], C).
        counts: Number of rows of every rank.
    """
    if group.size == 1:
        return np.asarray(rows.cpu().numpy())
    padded = rows.new_zeros((max(counts), *rows.shape[1:]))
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in counts] if group.rank == 0 else None
    dist.gather(padded, parts, group=group.process_group, group_dst=0)
    if parts is None:
        return None
    return np.concatenate([part[:count].cpu().numpy() for part, count in zip(parts, counts, strict=True)])


def _carrier(group: Group) -> torch.device | None:
    return group.device if group.device.type == "cuda" else None
