"""How far a cluster may grow, from each place that says so."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

pytest.importorskip("ray")

import ray
from ray.autoscaler._private.kuberay import node_provider
from ray.core.generated.autoscaler_pb2 import ClusterConfig

from cluster import growth as module
from cluster.growth import MANY_NODES, VARIABLE, Growth, NodeGroup, growth
from search_spaces.exceptions import UserError
from tests.conftest import ROOT

CPU, GPU = {"CPU": 8.0}, {"CPU": 32.0, "GPU": 8.0}


def node(resources: dict[str, float]) -> dict[str, Any]:
    return {"Alive": True, "NodeID": "a", "Resources": resources}


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Connected to a cluster that this process did not start, of which nothing is known."""
    monkeypatch.setattr(ray._private.worker, "_global_node", SimpleNamespace(head=False))
    monkeypatch.setattr(ray._private.state.state, "get_cluster_config", lambda: None)
    monkeypatch.setattr(module, "LAUNCHER_FILE", str(tmp_path / "ray_bootstrap_config.yaml"))
    monkeypatch.setattr(module, "_NAMESPACE_FILE", tmp_path / "namespace")
    for name in (VARIABLE, "RAY_CLUSTER_NAME", "RAY_CLUSTER_NAMESPACE"):
        monkeypatch.delenv(name, raising=False)
    module._warn_once.cache_clear()
    module._last_read.clear()


def test_groups_add_what_they_have_left() -> None:
    may = Growth((NodeGroup(CPU, 3), NodeGroup(GPU, 2)))
    more = may.not_there_yet([node({"CPU": 0.0}), node(CPU), node(GPU)])
    assert [n["Resources"] for n in more] == [CPU, CPU, GPU]
    assert len(Growth((NodeGroup(CPU, None),)).not_there_yet([])) == MANY_NODES, "a group without a limit"
    assert len(Growth((NodeGroup(CPU, 2**31 - 1),)).not_there_yet([])) == MANY_NODES, "KubeRay's default"


def test_a_limit_of_all_nodes_counts_those_that_are_there() -> None:
    may = Growth((NodeGroup(CPU, 3), NodeGroup(GPU, 2)), most=3)
    assert [n["Resources"] for n in may.not_there_yet([node({"CPU": 2.0}), node(GPU), node(CPU)])] == [CPU]
    assert may.not_there_yet([node(CPU)] * 3) == []


def test_nobody_says_so() -> None:
    assert growth() == Growth()
    assert growth().not_there_yet([node(CPU)]) == []


def test_a_cluster_of_this_process_does_not_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, json.dumps([{"resources": CPU, "max_count": 1}]))
    assert growth().origin == f"${VARIABLE}"
    monkeypatch.setattr(ray._private.worker, "_global_node", SimpleNamespace(head=True))
    assert growth() == Growth()


def test_what_is_declared_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = [{"resources": CPU, "max_count": -1}, {"name": "large", "resources": GPU, "min_count": 1, "max_count": 2}]
    monkeypatch.setenv(VARIABLE, json.dumps(groups))
    monkeypatch.setattr(ray._private.state.state, "get_cluster_config", lambda: pytest.fail("not asked"))
    assert growth().groups == (NodeGroup(CPU, None), NodeGroup(GPU, 2))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("8 GPUs", "Invalid JSON"),
        ('{"CPU": 1}', "valid array"),
        ('[{"resources": {"CPU": 1}}]', r"at 0.max_count: Field required"),
        ('[{"resources": {"CPU": "many"}, "max_count": 1}]', r"at 0.resources.CPU"),
        ('[{"resources": {"CPU": -1}, "max_count": 1}]', r"at 0.resources.CPU"),
        ('[{"resources": {}, "max_count": 1}]', r"at 0.resources"),
        ('[{"resources": {"CPU": 1}, "max_count": -2}]', r"at 0.max_count"),
        ('[{"resources": {"CPU": 1}, "max_count": 1, "most": 1}]', r"at 0.most"),
    ],
)
def test_a_declaration_that_cannot_be_read_is_refused(monkeypatch: pytest.MonkeyPatch, text: str, says: str) -> None:
    monkeypatch.setenv(VARIABLE, text)
    with pytest.raises(UserError, match=f"{VARIABLE} cannot be read.*{says}.*docs/cluster.md"):
        growth()


def test_what_an_autoscaler_reports_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    config = ClusterConfig()
    for resources, most in ((CPU, 3), (GPU, -1)):
        group = config.node_group_configs.add(max_count=most)
        for name, amount in resources.items():
            group.resources[name] = int(amount)
    monkeypatch.setattr(ray._private.state.state, "get_cluster_config", lambda: config)
    assert growth().groups == (NodeGroup(CPU, 3), NodeGroup(GPU, None))


@pytest.fixture
def pod(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A head pod of the cluster that our own manifest asks for; what the API server answers may be changed."""
    [job] = [
        one
        for one in yaml.safe_load_all((ROOT / "cluster/manifests/base/study.yaml").read_text())
        if one["kind"] == "RayJob"
    ]
    cluster = {"metadata": {"name": "study-demo-x", "namespace": "lab"}, "spec": job["spec"]["rayClusterSpec"]}

    def get(client: Any, path: str) -> dict[str, Any]:
        assert (client._namespace, path) == ("lab", "rayclusters/study-demo-x")
        return cluster

    monkeypatch.setattr(node_provider.KubernetesHttpApiClient, "get", get)
    monkeypatch.setenv("RAY_CLUSTER_NAME", "study-demo-x")
    module._NAMESPACE_FILE.write_text("lab")
    return cluster


def test_a_head_pod_of_kuberay_reads_its_cluster(pod: dict[str, Any]) -> None:
    may = growth()
    assert may.origin == "RayCluster lab/study-demo-x"
    present = [node({"CPU": 0.0}), node({"CPU": 4.0})]
    assert [n["Resources"]["CPU"] for n in may.not_there_yet(present)] == [4, 4, 4]
    [group] = pod["spec"]["workerGroupSpecs"]
    group |= {"minReplicas": 0, "maxReplicas": 1}
    assert len(growth().not_there_yet([node({"CPU": 0.0})])) == 1, "changed while the study runs"


def test_without_autoscaling_replicas_are_no_limit_to_reach(pod: dict[str, Any]) -> None:
    pod["spec"]["enableInTreeAutoscaling"] = False
    assert growth() == Growth()


def test_a_namespace_in_the_environment_goes_before_the_file(
    pod: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    module._NAMESPACE_FILE.write_text("other")
    monkeypatch.setenv("RAY_CLUSTER_NAMESPACE", "lab")
    assert growth().origin == "RayCluster lab/study-demo-x"


def test_a_pod_without_an_account_says_so_once(
    pod: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def get(client: Any, path: str) -> dict[str, Any]:
        raise FileNotFoundError("no token")

    monkeypatch.setattr(node_provider.KubernetesHttpApiClient, "get", get)
    assert [growth() for _ in range(3)] == [Growth()] * 3
    [said] = caplog.messages
    assert "RayCluster lab/study-demo-x cannot be read (FileNotFoundError: no token)" in said
    assert VARIABLE in said


def test_an_api_server_that_is_busy_for_a_moment_changes_nothing(
    pod: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = growth()
    spec = pod.pop("spec")
    assert growth() == before
    pod["spec"] = spec | {"enableInTreeAutoscaling": False}
    assert growth() == Growth()


def test_a_head_that_ray_up_made(caplog: pytest.LogCaptureFixture) -> None:
    kinds = {
        "head": {"resources": {"CPU": 4}, "max_workers": 0},
        "small": {"resources": {"CPU": 8}, "min_workers": 1, "max_workers": 2},
        "large": {"resources": {"CPU": 32, "GPU": 8}},
        "unknown": {"node_config": {}},
    }
    config = {"max_workers": 5, "head_node_type": "head", "available_node_types": kinds}
    Path(module.LAUNCHER_FILE).write_text(yaml.safe_dump(config, sort_keys=False))
    may = growth()
    assert (may.groups, may.most) == ((NodeGroup(CPU, 2), NodeGroup(GPU, 5)), 5)
    assert len(may.not_there_yet([node({"CPU": 4})])) == 5
    Path(module.LAUNCHER_FILE).write_text("max_workers: {}")
    assert growth() == Growth()
    assert "cannot be read" in caplog.text
