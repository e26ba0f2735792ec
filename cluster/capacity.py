"""What fits on a cluster: gangs of several shapes packed onto nodes. Pure arithmetic; needs no Ray."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from search_spaces.exceptions import UserError
from search_spaces.study import GangSpec

Node = Mapping[str, Any]
"""As ``ray.nodes()`` lists them: ``Alive`` and ``Resources``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A GangSpec on a given cluster: GPUs decided.

    Attributes:
        ranks: Processes that share a trial.
        cpus: Of one rank.
        gpus: Of one rank; a fraction only with one rank.
        accelerator: Ray's name of the type that each GPU must be; any if empty.
        backend: ``nccl`` or ``gloo``, for collectives of the ranks.
    """

    ranks: int
    cpus: int
    gpus: float
    accelerator: str = ""
    backend: str = "gloo"

    @classmethod
    def of(cls, spec: GangSpec, nodes: Sequence[Node]) -> Shape:
        """One GPU per rank where the cluster has any, unless the study says otherwise."""
        gpus = spec.gpus_per_rank
        if gpus is None:
            gpus = 1.0 if any(_resources(node).get("GPU", 0) for node in nodes) else 0.0
        backend = spec.backend
        if backend == "auto":
            backend = "nccl" if gpus else "gloo"
        accelerator = spec.accelerator or ""
        return cls(ranks=spec.ranks, cpus=spec.cpus_per_rank, gpus=gpus, accelerator=accelerator, backend=backend)

    @property
    def label(self) -> str:
        """Short text: ``2 ranks x (1 CPU, 1 GPU A100)``."""
        gpus = f", {self.gpus:g} GPU" if self.gpus else ""
        kind = f" {self.accelerator}" if self.accelerator else ""
        return f"{self.ranks} rank{'s' if self.ranks > 1 else ''} x ({self.cpus} CPU{gpus}{kind})"

    @property
    def queue(self) -> str:
        """Name of the queue that gangs of this shape take trials from."""
        return f"{self.label}, {self.backend}"

    @property
    def resources(self) -> dict[str, float]:
        """Of one rank, as Ray names them."""
        wanted = {"CPU": float(self.cpus)}
        if self.gpus:
            wanted["GPU"] = self.gpus
        if self.accelerator:
            # Ray gives every node of this type one unit, to be asked for in slivers.
            wanted[f"accelerator_type:{self.accelerator}"] = 0.001
        return wanted

    def ranks_on(self, node: Node) -> int:
        """How many ranks of this shape a node holds."""
        free, ranks = _free(node), 0
        while free.take(self) is not None:
            ranks += 1
        return ranks

    @property
    def size(self) -> tuple[float, float]:
        """GPUs and CPUs of all ranks, to compare shapes."""
        return self.ranks * self.gpus, float(self.ranks * self.cpus)


@dataclass(slots=True)
class _Free:
    """What is left of a node."""

    cpus: float
    gpus: list[float]
    kinds: frozenset[str] = frozenset()

    def take(self, shape: Shape) -> tuple[int, ...] | None:
        """Give one rank its share: the GPUs it lies on; None if there is no room for it."""
        if self.cpus < shape.cpus or (shape.accelerator and shape.accelerator not in self.kinds):
            return None
        devices = self._devices(shape.gpus)
        if devices is not None:
            self._change(shape, devices, -1)
        return devices

    def give_back(self, shape: Shape, devices: tuple[int, ...]) -> None:
        """Undo ``take``."""
        self._change(shape, devices, 1)

    def _change(self, shape: Shape, devices: tuple[int, ...], sign: int) -> None:
        self.cpus += sign * shape.cpus
        for device in devices:
            self.gpus[device] += sign * min(1.0, shape.gpus)

    def _devices(self, gpus: float) -> tuple[int, ...] | None:
        """GPUs that can give a rank its share, which lies on one GPU unless it is of several whole ones."""
        if not gpus:
            return ()
        share, count = (1.0, int(gpus)) if gpus >= 1 else (gpus, 1)
        fit = sorted((free, n) for n, free in enumerate(self.gpus) if free >= share - 1e-9)
        return tuple(n for _, n in fit[:count]) if len(fit) >= count else None


class Packing:
    """Gangs on nodes, one after the other, each where there is room first; ranks of one may lie on several nodes."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        self._nodes = [_free(node) for node in nodes]

    def add(self, shape: Shape) -> bool:
        """Place one more gang; False, and nothing placed, if there is no room for all its ranks."""
        placed: list[tuple[_Free, tuple[int, ...]]] = []
        for node in self._nodes:
            while len(placed) < shape.ranks and (devices := node.take(shape)) is not None:
                placed.append((node, devices))
        if len(placed) == shape.ranks:
            return True
        for node, devices in placed:
            node.give_back(shape, devices)
        return False


@dataclass(frozen=True, slots=True)
class Capacity:
    """The room of a cluster.

    Args:
        nodes: Those that are there, and those that an autoscaler may add.
    """

    nodes: tuple[Node, ...] = field(default=())

    @classmethod
    def of(cls, nodes: Iterable[Node]) -> Capacity:
        """The room of the nodes that live."""
        return cls(tuple(node for node in nodes if node.get("Alive", True)))

    def packing(self) -> Packing:
        """The empty cluster, to place gangs on."""
        return Packing(self.nodes)

    def most(self, shape: Shape) -> int:
        """How many gangs of this shape fit if there are no others."""
        return self._ranks(shape) // shape.ranks

    def require(self, shape: Shape) -> int:
        """As ``most``.

        Raises:
            UserError: Not even one fits.
        """
        most = self.most(shape)
        if most < 1:
            cpus, gpus = (sum(_resources(node).get(name, 0.0) for node in self.nodes) for name in ("CPU", "GPU"))
            raise UserError(
                f"execution.gang needs {shape.label}; the cluster has {cpus:g} CPUs and {gpus:g} GPUs on "
                f"{len(self.nodes)} nodes, room for {self._ranks(shape)} such ranks; nodes that its autoscaler may "
                "add are counted where it is known (docs/cluster.md, Clusters that grow). Give a smaller gang, or a "
                "cluster with such nodes"
            )
        return most

    def _ranks(self, shape: Shape) -> int:
        return sum(map(shape.ranks_on, self.nodes))


def trials_at_a_time(shape: Shape, nodes: Sequence[Node]) -> int:
    """How many trials of this shape fit the nodes at once.

    Raises:
        UserError: Not even one fits.
    """
    return Capacity.of(nodes).require(shape)


def _free(node: Node) -> _Free:
    resources = _resources(node)
    kinds = frozenset(name.partition(":")[2] for name in resources if name.startswith("accelerator_type:"))
    return _Free(resources.get("CPU", 0.0), [1.0] * int(resources.get("GPU", 0)), kinds)


def _resources(node: Node) -> dict[str, float]:
    return dict(node.get("Resources", {}))
