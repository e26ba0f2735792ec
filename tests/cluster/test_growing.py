"""Studies on a cluster whose autoscaler, Ray's own, adds the nodes: its provider starts them on this machine."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

pytest.importorskip("ray")

from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID

from cluster.growth import VARIABLE
from orchestrator.drivers import drivers_now
from tests.cluster.heads import Head, started
from tests.conftest import ROOT, free_port
from tests.orchestrator.small_study import raw_study, write_study
from trainables.storage import Storage

pytestmark = pytest.mark.ray

PAIR = {"CPU": 2}
MOST = 2
WAIT_S = 600
AS_A_NODE = {
    "RAY_FAKE_CLUSTER": "1",
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    "RAY_enable_autoscaler_v2": "1",
    "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
    "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
}


def configuration(port: int) -> dict[str, Any]:
    """Of an autoscaler that may add two nodes of two CPUs; the head has none, as in our manifests."""
    unused = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    return {
        "cluster_name": "growing",
        "max_workers": MOST,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 5,
        "provider": {
            "type": "external",  # the provider's own name wants a file that Ray's wheel lacks
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "gcs_address": f"127.0.0.1:{port}",
            "launch_multiple": True,
            "head_node_id": FAKE_HEAD_NODE_ID,
        },
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": {"resources": {}, "node_config": {}, "max_workers": 0},
            "pair": {"resources": PAIR, "node_config": {}, "min_workers": 0, "max_workers": MOST},
        },
        "auth": {},
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        **{f"{name}_commands": [] for name in unused},
    }


@pytest.fixture
def head(tmp_path: Path) -> Iterator[Head]:
    port = free_port()
    file = tmp_path / "autoscaling.json"
    file.write_text(json.dumps(configuration(port)))
    environment = {"RAY_AUTH_MODE": "disabled", **AS_A_NODE}
    with started(tmp_path, environment, port, "--num-cpus=0", f"--autoscaling-config={file}") as made:
        yield made


@contextmanager
def run(head: Head, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """The command as a user starts it; none of the variables by which the head plays a cloud's node."""
    command = [sys.executable, "-m", "orchestrator.sweep", "run", "small.yaml", "--address", head.address, "--yes"]
    environment = {k: v for k, v in head.environment.items() if k not in AS_A_NODE}
    environment |= {"PYTHONPATH": str(ROOT), **variables}
    process = subprocess.Popen(
        [*command, "--out", "report"],
        env=environment,
        cwd=head.project,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def until(look: Callable[[], Any], process: subprocess.Popen[str]) -> Any:
    """What ``look`` gives once it gives something."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        if found := look():
            return found
        assert process.poll() is None, process.communicate()[0][-4000:]
        time.sleep(0.2)
    process.kill()
    raise AssertionError(f"nothing in {WAIT_S} s; the run said: {process.communicate()[0][-4000:]}")


@contextmanager
def as_its_pod_ends(head: Head, node: str) -> Iterator[None]:
    """What Kubernetes calls then; it ends with the pod."""
    command = [sys.executable, "-m", "cluster.drain", "worker", "--node", node, "--seconds", "300"]
    environment = {k: v for k, v in head.environment.items() if k not in AS_A_NODE} | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environment, cwd=head.project)
    try:
        yield
        assert process.poll() is None, "it waits for the trials of the node"
    finally:
        process.kill()
        process.wait()


def raylet_of_a_rank(head: Head) -> psutil.Process:
    """What stands for the node on which ranks train."""
    ranks = [p for p in head.processes() if (p.cmdline() or [""])[0].startswith("ray::RayTrainWorker")]
    parent = ranks[0].parent()
    assert parent is not None
    return parent


def test_a_gang_waits_for_nodes_that_may_come_and_outlives_one_that_is_taken_away(head: Head, tmp_path: Path) -> None:
    axes = raw_study()["axes"] | {"pretraining_source": ["random"], "data_fraction": [1.0]}
    protocol = raw_study()["protocol"] | {"budget": {"steps": 6000}, "evaluations": 600}
    execution = {"gang": {"ranks": 2, "gpus_per_rank": 0}, "checkpoint_every_s": 3600}
    write_study(head.project, axes=axes, seeds=1, protocol=protocol, execution=execution)
    with run(head) as refused:
        said, _ = refused.communicate(timeout=WAIT_S)
    assert refused.returncode == 1, said
    assert "needs 2 ranks" in said
    assert "Clusters that grow" in said

    storage = Storage(tmp_path / "home" / "storage" / "small")
    with run(head, **{VARIABLE: json.dumps([{"resources": PAIR, "max_count": MOST}])}) as process:
        until(lambda: any(d.running for d in drivers_now(storage, "small")), process)
        assert not storage.checkpoints()
        raylet = raylet_of_a_rank(head)
        node = raylet.environ()["RAY_OVERRIDE_NODE_ID_FOR_TESTING"]
        with as_its_pod_ends(head, node):
            until(storage.checkpoints, process)
            raylet.kill()
        said, _ = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0, said[-4000:]
    assert "1 trials trained, 0 were done before, 0 failed" in " ".join(said.split())
    [file] = (tmp_path / "home").rglob("trial.json")
    trial = json.loads(file.read_text())
    assert 0 < trial["resumed_from"] < trial["steps"] == 6000
