"""Nodes that the autoscaler of a cluster may add.

No autoscaler of open-source Ray tells the cluster how far it may grow: Ray has a place for it in its store
(``report_cluster_config``), where its own libraries look, but up to 2.60 only hosted ones write there. So the limits
are read where the autoscaler itself reads them, or as the user declares them.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import ray
import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from search_spaces.exceptions import UserError

VARIABLE = "SCALECURVES_NODE_GROUPS"
"""Declares the groups where nothing else tells them."""
LAUNCHER_FILE = "~/ray_bootstrap_config.yaml"
"""Where ``ray up`` leaves a cluster's configuration on its head."""
MANY_NODES = 64
"""At most so many of a group are counted as possible: KubeRay's own default of ``maxReplicas`` is 2**31 - 1."""

_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")

logger = logging.getLogger(__name__)

_last_read: list[Growth] = []
"""What the RayCluster said last; a process is in one cluster all its life."""


@dataclass(frozen=True, slots=True)
class NodeGroup:
    """Nodes of one kind.

    Attributes:
        resources: Of one node, as Ray names them.
        most: Nodes of this kind; None if nothing limits them.
    """

    resources: Mapping[str, float]
    most: int | None


@dataclass(frozen=True, slots=True)
class Growth:
    """How far a cluster may grow.

    Attributes:
        groups: Kinds of nodes beside the head.
        most: Nodes of all groups together; None if nothing limits them.
        origin: Who says so, in words; empty if nobody does.
    """

    groups: tuple[NodeGroup, ...] = field(default=())
    most: int | None = None
    origin: str = ""

    def not_there_yet(self, present: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Nodes that may still come, as ``ray.nodes()`` lists them.

        Args:
            present: Nodes that live, the head among them; each counts for the first group of its CPUs and GPUs.
        """
        there = Counter(_kind(node["Resources"]) for node in present)
        members, missing = 0, []
        for group in self.groups:
            most = MANY_NODES if group.most is None else min(group.most, MANY_NODES)
            of_group = min(there[_kind(group.resources)], most)
            there[_kind(group.resources)] -= of_group
            members += of_group
            missing += [{"Alive": True, "Resources": dict(group.resources)}] * (most - of_group)
        return missing if self.most is None else missing[: max(0, self.most - members)]


def growth() -> Growth:
    """How far the connected cluster may grow; not at all if it is one of this process or nobody knows.

    Raises:
        UserError: What ``SCALECURVES_NODE_GROUPS`` declares cannot be read.
    """
    node = ray._private.worker._global_node
    if node is not None and node.head:
        return Growth()
    if declared := os.environ.get(VARIABLE, ""):
        return _declared(declared)
    return _reported() or _of_kuberay() or _of_launcher() or Growth()


class _Declared(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str = ""
    resources: dict[str, Annotated[float, Field(ge=0)]] = Field(min_length=1)
    min_count: int = Field(default=0, ge=0)
    max_count: int = Field(ge=-1)


def _declared(text: str) -> Growth:
    try:
        groups = TypeAdapter(list[_Declared]).validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(
            f"{VARIABLE} cannot be read{f', at {where}' if where else ''}: {first['msg']}; it takes a list such as "
            '[{"resources": {"CPU": 8, "GPU": 1}, "max_count": 4}], one entry per kind of node that the autoscaler may '
            "add, and max_count -1 for no limit. See docs/cluster.md"
        ) from None
    return Growth(tuple(_group(g.resources, g.max_count) for g in groups), origin=f"${VARIABLE}")


def _reported() -> Growth | None:
    """What an autoscaler wrote into Ray's store; there is no public call."""
    config = ray._private.state.state.get_cluster_config()
    if config is None or not config.node_group_configs:
        return None
    groups = tuple(_group(dict(g.resources), g.max_count) for g in config.node_group_configs)
    return Growth(groups, origin="the cluster's autoscaler")


def _of_kuberay() -> Growth | None:
    """The RayCluster of this head pod, which KubeRay's autoscaler reads with the same account."""
    name = os.environ.get("RAY_CLUSTER_NAME", "")
    namespace = os.environ.get("RAY_CLUSTER_NAMESPACE", "")
    if not namespace and _NAMESPACE_FILE.is_file():
        namespace = _NAMESPACE_FILE.read_text(encoding="utf-8").strip()
    if not name or not namespace:
        return None
    try:
        from ray.autoscaler._private.kuberay import autoscaling_config, node_provider

        cluster = node_provider.KubernetesHttpApiClient(namespace).get(f"rayclusters/{name}")
        if not cluster["spec"].get("enableInTreeAutoscaling"):
            return None
        config = autoscaling_config._derive_autoscaling_config_from_ray_cr(cluster)
        found = _of_config(config, f"RayCluster {namespace}/{name}")
    except Exception as error:  # a workers' pod has no account, an older operator gives the head no right to read
        if _last_read:
            return _last_read[-1]  # an API server that is busy for a moment must not send waiting gangs home
        _warn_once(
            f"RayCluster {namespace}/{name} cannot be read ({type(error).__name__}: {error}), so that only nodes "
            f"that are there already count; declare what its autoscaler may add in {VARIABLE} (docs/cluster.md)"
        )
        return None
    _last_read[:] = [found]
    return found


def _of_launcher() -> Growth | None:
    """The cluster that ``ray up`` made, on its head."""
    file = Path(LAUNCHER_FILE).expanduser()
    if not file.is_file():
        return None
    try:
        return _of_config(yaml.safe_load(file.read_text(encoding="utf-8")), LAUNCHER_FILE)
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        _warn_once(f"{LAUNCHER_FILE} cannot be read ({type(error).__name__}: {error}); only nodes that are there count")
        return None


def _of_config(config: Mapping[str, Any], origin: str) -> Growth:
    """An autoscaler's configuration, as its own code has it."""
    total = int(config["max_workers"])
    groups = [
        NodeGroup(dict(kind["resources"]), int(kind.get("max_workers", total)))
        for name, kind in config["available_node_types"].items()
        if name != config["head_node_type"] and kind.get("resources")
    ]
    return Growth(tuple(groups), most=total, origin=origin)


def _group(resources: Mapping[str, float], most: int) -> NodeGroup:
    return NodeGroup(dict(resources), None if most < 0 else most)


def _kind(resources: Mapping[str, float]) -> tuple[float, float]:
    return float(resources.get("CPU", 0)), float(resources.get("GPU", 0))


@cache
def _warn_once(message: str) -> None:
    logger.warning(message)
