"""Jobs submitted to clusters of their own, with tokens and without; a study stopped and submitted again."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("ray")

from cluster.drain import any_trains
from dashboards import load_results
from tests.cluster.heads import Head, started
from tests.conftest import free_port
from tests.orchestrator.small_study import raw_study, write_study

pytestmark = pytest.mark.ray


@pytest.fixture
def head(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Head]:
    """A head with token authentication, or with the environment variables that a parameter gives instead."""
    authentication = getattr(request, "param", None)
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
    with started(tmp_path, authentication or token, free_port(), "--num-cpus=2") as made:
        yield made


def test_a_stopped_job_leaves_a_checkpoint_and_the_next_one_goes_on(head: Head, tmp_path: Path) -> None:
    axes = raw_study()["axes"] | {"pretraining_source": ["random"], "data_fraction": [1.0]}
    protocol = raw_study()["protocol"] | {"budget": {"steps": 3000}, "evaluations": 300}
    write_study(head.project, axes=axes, seeds=1, protocol=protocol, execution={"checkpoint_every_s": 0})
    command = ["python", "-m", "orchestrator.sweep", "run", "small.yaml", "--address", "auto", "--yes"]
    command += ["--out", str(tmp_path / "report")]
    head.submit("first", *command, wait=False)
    checkpoints = tmp_path / "home" / "storage" / "small" / "checkpoints"
    deadline = time.monotonic() + 900
    while not list(checkpoints.glob("*.pt")) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert list(checkpoints.glob("*.pt")), head.ray("job", "logs", "first", "--address", head.dashboard)
    assert any(any_trains(head.processes()) for _ in range(100)), "looked often: between two steps its title is another"
    head.drain()
    assert not any_trains(head.processes())
    said = head.ray("job", "logs", "first", "--address", head.dashboard)
    assert said.index("stopping: running trials write checkpoints") < said.index("the same command continues")
    assert len(list(checkpoints.glob("*.pt"))) == 1

    said = head.submit("second", *command)
    assert "1 trials trained, 0 were done before, 0 failed" in said
    assert (tmp_path / "report" / "index.html").is_file()
    assert list(checkpoints.glob("*.pt")) == []
    [row] = load_results("small").to_dict("records")
    trial = json.loads((Path(row["artifact_uri"]) / "trial.json").read_text())
    assert 0 < trial["resumed_from"] < trial["steps"] == 3000


@pytest.mark.parametrize("head", [{"RAY_AUTH_MODE": "disabled"}], indirect=True, ids=["open"])
def test_a_cluster_without_tokens_takes_jobs_alike(head: Head) -> None:
    said = head.submit("look", "python", "-m", "cluster.doctor", "--address", "auto", "--json")
    assert "one set of packages, one home (no task is imported yet), one storage everywhere" in said
    assert "succeeded" in head.ray("job", "status", "look", "--address", head.dashboard)
