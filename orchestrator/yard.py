"""Where trials can be trained right now: gangs and single processes of every shape that a run needs."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass

import ray
from ray.tune.execution.placement_groups import resource_dict_to_pg_factory
from ray.tune.registry import register_trainable

from cluster.capacity import Capacity, Shape
from cluster.connection import present_and_possible
from orchestrator.feed import Place
from orchestrator.fleet import Demand, Fleet
from orchestrator.gangs import Gangs
from orchestrator.leases import GangTrainable, SoloTrainable
from search_spaces.study import GangSpec
from trainables.rank_config import RankConfig

logger = logging.getLogger(__name__)

GANG, SOLO = "scalecurves_gang", "scalecurves_solo"
LOOK_S = 10.0
"""Seconds between two looks at the nodes of the cluster: an autoscaler may have added some."""
IDLE_S = 60.0
"""After so many seconds in which nothing fits a warning is given, again and again."""
GROW_S = 600.0
"""After so many seconds in which trials wait for nodes and none comes a warning is given, again and again."""
LEASE = {"CPU": 0, "node:__internal_head__": 0.0001}
"""What a lease asks for. It may not be nothing, and no CPU, as ranks may hold them all: it is the least that Ray counts
of what every cluster has one unit of, on the node of its head. All drivers of a cluster share that unit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SoloConfig:
    """What a process that trains alone is told.

    Attributes:
        train: The training function, ``module:function``.
        memory_growth_bytes: Private memory that it may gain before it is replaced.
        report_deadline_s: Longest silence of its trial; then it ends itself and the trial is tried again.
    """

    train: str
    memory_growth_bytes: int
    report_deadline_s: float


class Yard:
    """Gangs of several shapes, as many of each as the fleet's policy says.

    Args:
        broker: Name of the broker.
        ranks: What ranks of gangs are told; the gang and the threads are filled in.
        solo: What processes that train alone are told.
        folder: Local folder for Train's own files.
        most: Most trials at a time; None for as many as fit.
    """

    def __init__(self, broker: str, ranks: RankConfig, solo: SoloConfig, folder: str, most: int | None) -> None:
        self._broker = broker
        self._ranks = ranks
        self._solo = solo
        self._folder = folder
        self._most = most
        self._shapes: dict[GangSpec, Shape] = {}
        self._gangs: dict[Shape, Gangs] = {}
        self._fleet: Fleet[Shape] | None = None
        self._targets: dict[Shape, int] = {}
        self._lives: dict[Shape, int] = {}
        self._asked: dict[Shape, Demand] = {}
        self._capacity = Capacity()
        self._looked_at = -math.inf
        self._decided_at = -math.inf
        self._idle_since = math.inf
        self._there, self._came_at = 0, -math.inf
        register_trainable(GANG, GangTrainable)
        register_trainable(SOLO, SoloTrainable)

    def require(self, specs: list[GangSpec]) -> None:
        """Check that each of these gangs fits the cluster.

        Raises:
            UserError: One does not fit, not even with all nodes that an autoscaler may add.
        """
        self._look()
        for spec in specs:
            self._capacity.require(self._shape(spec))

    def places(self, demands: Mapping[GangSpec, Demand]) -> dict[GangSpec, Place]:
        """Where trials can be trained now; gangs are started and sent home on the way.

        Args:
            demands: What there is to do.
        """
        merged = self._by_shape(demands)
        now = time.monotonic()
        if now - self._looked_at > LOOK_S:
            self._look()
        # With one shape the answer only changes when trials begin or end.
        if merged != self._asked or now - self._decided_at > LOOK_S:
            self._decide(merged, now)
        return {spec: self._place(self._shape(spec)) for spec in demands}

    def rest(self) -> None:
        """Send all gangs home while there is nothing to train; they are started again when ``places`` is asked."""
        for gangs in self._gangs.values():
            gangs.resize(0)
        self._fleet = None
        self._targets, self._lives, self._asked = {}, {}, {}
        self._decided_at, self._idle_since = -math.inf, math.inf

    def close(self) -> None:
        """Send all ranks home."""
        for gangs in self._gangs.values():
            gangs.close()

    def _look(self) -> None:
        self._nodes = present_and_possible()
        self._capacity = Capacity.of(self._nodes)
        self._looked_at = time.monotonic()
        self._warn_if_no_node_comes(self._looked_at)

    def _warn_if_no_node_comes(self, now: float) -> None:
        """Nodes that an autoscaler may add count as room, but it may be out of quota, or not run."""
        there = [node for node in self._nodes if "NodeID" in node]
        packing = Capacity.of(there).packing()
        fit = all(packing.add(shape) for shape, number in self._targets.items() for _ in range(number))
        if fit or len(there) != self._there:
            self._there, self._came_at = len(there), now
        elif now - self._came_at > GROW_S:
            self._came_at = now
            logger.warning(
                "%d nodes are there, and for %.0f minutes none has come, although trials wait for more that the "
                "autoscaler may add: see `ray status` and its log",
                len(there),
                GROW_S / 60,
            )

    def _shape(self, spec: GangSpec) -> Shape:
        if spec not in self._shapes:
            self._shapes[spec] = Shape.of(spec, self._nodes)
        return self._shapes[spec]

    def _by_shape(self, demands: Mapping[GangSpec, Demand]) -> dict[Shape, Demand]:
        """Two specs may come to one shape on this cluster."""
        merged: dict[Shape, Demand] = {}
        for spec, demand in demands.items():
            shape = self._shape(spec)
            merged[shape] = merged[shape] + demand if shape in merged else demand
        return merged

    def _decide(self, demands: Mapping[Shape, Demand], now: float) -> None:
        if self._fleet is None or any(shape not in self._targets for shape in demands):
            sizes = {shape: shape.size for shape in {*self._shapes.values()}}
            self._fleet = Fleet(sizes, most=self._most)
        self._lives = self._live(demands)
        busy = {shape: demands[shape].running if shape.ranks == 1 else number for shape, number in self._lives.items()}
        self._targets = self._fleet.targets(demands, self._capacity, now, self._lives, busy)
        self._warn_if_nothing_fits(demands, now)
        self._asked, self._decided_at = dict(demands), now
        several = {shape for shape in self._targets if shape.ranks > 1} | self._gangs.keys()
        # Those that are to shrink first: the others need their room.
        for shape in sorted(several, key=lambda shape: self._targets.get(shape, 0)):
            self._gangs_of(shape).resize(self._targets.get(shape, 0))

    @property
    def crowded(self) -> bool:
        """Whether a shape needs room that others hold, so that no process may be kept for later."""
        waits = any(demand.ready and not self._targets.get(shape) for shape, demand in self._asked.items())
        comes = any(s.ranks > 1 and number > self._lives.get(s, 0) for s, number in self._targets.items())
        return len(self._targets) > 1 and (waits or comes)

    def _live(self, demands: Mapping[Shape, Demand]) -> dict[Shape, int]:
        """Gangs that hold their room; of single processes, those whose trials have reported: others may wait for it."""
        if len(demands) < 2:
            return {}
        gangs = ray.get(ray.get_actor(self._broker).live.remote())
        return {s: gangs.get(s.queue, 0) if s.ranks > 1 else demand.training for s, demand in demands.items()}

    def _warn_if_nothing_fits(self, demands: Mapping[Shape, Demand], now: float) -> None:
        waiting = sum(demand.ready for demand in demands.values())
        if not waiting or any(self._targets.values()) or any(demand.running for demand in demands.values()):
            self._idle_since = now
        elif now - self._idle_since > IDLE_S:
            self._idle_since = now
            logger.warning("%d trials wait for nodes: no gang fits what is left of the cluster", waiting)

    def _gangs_of(self, shape: Shape) -> Gangs:
        if shape not in self._gangs:
            config = dataclasses.replace(self._ranks, threads=shape.cpus)
            self._gangs[shape] = Gangs(shape, config, self._folder)
        return self._gangs[shape]

    def _place(self, shape: Shape) -> Place:
        gangs = self._targets.get(shape, 0)
        if shape.ranks == 1:
            config = {"threads": shape.cpus, "gpus": shape.gpus, **dataclasses.asdict(self._solo)}
            return Place(
                trainable=SOLO,
                config={"broker": self._broker, **config},
                resources=resource_dict_to_pg_factory(shape.resources),
                first=gangs,
                named=gangs + self._solo_in_line(gangs),
            )
        return Place(
            trainable=GANG,
            config={"broker": self._broker, "queue": shape.queue},
            resources=resource_dict_to_pg_factory(LEASE),
            # One more than there are gangs: one that ends a trial finds the next one waiting instead of Tune's loop.
            first=gangs and gangs + 1,
            named=gangs and gangs + 1,
        )

    def _solo_in_line(self, gangs: int) -> int:
        """Trials that wait in Tune for a process: it keeps the process of one that ended for one that waits.

        Only where resources alone hold trials back; else those that wait would take the place of others.
        """
        alone = len(self._targets) == 1
        return gangs + 2 if alone and gangs and self._most is None else 0
