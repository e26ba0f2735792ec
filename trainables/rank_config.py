"""What the ranks of a gang are told. Imports no torch, which the driver does without."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class RankConfig:
    """What every rank of a gang is told.

    Attributes:
        broker: Name of the broker actor.
        gang: Name of this gang.
        train: The training function, ``module:function``.
        threads: Torch threads per rank.
        timeout_s: Of collectives inside a trial; longer than the broker's deadline, which comes first.
        memory_growth_bytes: Private memory that a rank may gain before its gang goes on in fresh processes.
        backend: ``nccl`` or ``gloo``, for tensors on a GPU.
    """

    broker: str
    gang: str
    train: str
    threads: int
    timeout_s: float
    memory_growth_bytes: int
    backend: str = "gloo"
