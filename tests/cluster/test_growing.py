"""Studies on a cluster whose autoscaler, Ray's own, adds the nodes: its provider starts them on this machine."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray")

from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID

from cluster.growth import VARIABLE
from tests.cluster.heads import Head, started
from tests.conftest import ROOT, free_port
from tests.orchestrator.small_study import raw_study, write_study

pytestmark = pytest.mark.ray

PAIR = {"CPU": 2}
MOST = 2
WAIT_S = 600


def configuration(port: int) -> dict[str, Any]:
    """Of an autoscaler that may add two nodes of two CPUs; the head has none, as in our manifests."""
    unused = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    return {
        "cluster_name": "growing",
        "max_workers": MOST,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": 5,
        "provider": {
            "type": "fake_multinode",
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "gcs_address": f"127.0.0.1:{port}",
            "launch_multiple": True,
            "head_node_id": FAKE_HEAD_NODE_ID,
        },
        "head_node_type": "head",
        "available_node_types": {
            "head": {"resources": {}, "node_config": {}, "max_workers": 0},
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
    environment = {
        "RAY_FAKE_CLUSTER": "1",
        "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_enable_autoscaler_v2": "1",
        "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
        "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
    }
    with started(tmp_path, environment, port, "--num-cpus=0", f"--autoscaling-config={file}") as made:
        yield made


def begin(head: Head, grows: bool = True) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "orchestrator.sweep", "run", "small.yaml", "--address", head.address, "--yes"]
    groups = json.dumps([{"resources": PAIR, "max_count": MOST}])
    ours = {k: v for k, v in head.environment.items() if k not in ("RAY_OVERRIDE_NODE_ID_FOR_TESTING",)}
    environment = ours | {"PYTHONPATH": str(ROOT)} | ({VARIABLE: groups} if grows else {})
    return subprocess.Popen(
        [*command, "--out", "report"],
        env=environment,
        cwd=head.project,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def write(head: Head, **protocol: Any) -> None:
    axes = raw_study()["axes"] | {"pretraining_source": ["random"], "data_fraction": [1.0]}
    gang = {"ranks": 2, "gpus_per_rank": 0}
    made = raw_study()["protocol"] | protocol
    execution = {"gang": gang, "checkpoint_every_s": 3600}
    write_study(head.project, axes=axes, seeds=2, protocol=made, execution=execution)


def test_a_gang_waits_for_nodes_that_may_come_and_outlives_one_that_is_drained(head: Head, tmp_path: Path) -> None:
    write(head, budget={"steps": 1500}, evaluations=30)
    refused = begin(head, grows=False)
    said, _ = refused.communicate(timeout=WAIT_S)
    assert refused.returncode == 1, said
    assert "needs 2 ranks" in said

    run = begin(head)
    storage = tmp_path / "home" / "storage" / "small"
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline and run.poll() is None:
        time.sleep(5)
        print(head.ray("status", "--address", head.address, check=False)[-1500:])
        print(list(storage.rglob("*"))[:5])
    said, _ = run.communicate(timeout=WAIT_S)
    print(said)
    assert run.returncode == 0
