"""What fits on the nodes of a cluster: the shape of a trial's ranks against the resources of a node. Needs no Ray."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from search_spaces.exceptions import UserError
from search_spaces.study import GangSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A GangSpec on a given cluster: GPUs decided.

    Attributes:
        ranks: Processes that share a trial.
        cpus: Of one rank.
        gpus: Of one rank; a fraction only with one rank.
    """

    ranks: int
    cpus: int
    gpus: float

    @classmethod
    def of(cls, spec: GangSpec, nodes: Sequence[dict[str, Any]]) -> Shape:
        """One GPU per rank where the cluster has any, unless the study says otherwise."""
        gpus = spec.gpus_per_rank
        if gpus is None:
            gpus = 1.0 if any(_resources(node).get("GPU", 0) for node in nodes) else 0.0
        return cls(ranks=spec.ranks, cpus=spec.cpus_per_rank, gpus=gpus)

    @property
    def label(self) -> str:
        """Short text: ``2 ranks x (1 CPU, 1 GPU)``."""
        gpus = f", {self.gpus:g} GPU" if self.gpus else ""
        return f"{self.ranks} rank{'s' if self.ranks > 1 else ''} x ({self.cpus} CPU{gpus})"

    def ranks_on(self, resources: dict[str, float]) -> int:
        """How many ranks of this shape a node holds.

        Args:
            resources: Of the node, as Ray names them: ``CPU`` and ``GPU``, in units.
        """
        by_cpu = int(resources.get("CPU", 0) // self.cpus)
        return min(by_cpu, self.ranks_on_gpus(resources.get("GPU", 0))) if self.gpus else by_cpu

    def ranks_on_gpus(self, gpus: float) -> int:
        """How many ranks of this shape so many GPUs of one node hold; only for ranks that have any."""
        # A rank's share lies on one GPU: two shares of 0.6 do not fit 1.2 GPUs.
        return int(gpus // self.gpus) if self.gpus >= 1 else int(gpus) * int(1 / self.gpus + 1e-9)


def trials_at_a_time(shape: Shape, nodes: Sequence[dict[str, Any]]) -> int:
    """How many trials of this shape fit the cluster at once. Ranks of one trial may lie on several nodes.

    Args:
        shape: Of the ranks.
        nodes: As ``ray.nodes()`` lists them.

    Raises:
        UserError: Not even one fits.
    """
    slots = sum(shape.ranks_on(_resources(node)) for node in nodes if node.get("Alive", True))
    if slots < shape.ranks:
        raise UserError(
            f"execution.gang needs {shape.label}; the cluster has {_total(nodes, 'CPU'):g} CPUs and "
            f"{_total(nodes, 'GPU'):g} GPUs on {len(nodes)} nodes, room for {slots} such ranks"
        )
    return slots // shape.ranks


def _resources(node: dict[str, Any]) -> dict[str, float]:
    return dict(node.get("Resources", {}))


def _total(nodes: Sequence[dict[str, Any]], name: str) -> float:
    return sum(_resources(node).get(name, 0.0) for node in nodes)
