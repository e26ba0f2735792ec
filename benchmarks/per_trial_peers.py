"""The same trials the usual ways: one ``TorchTrainer.fit()`` per Tune trial, and a shell loop of ``torchrun``.

Both run ``trainables.loop.train`` on the same resolved trials; nothing is recorded in MLflow.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import ray
import torch.distributed as dist
from ray import tune
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from cluster.connection import connect
from search_spaces.names import Artifact
from search_spaces.results import Order, TrialResult
from search_spaces.trial import ResolvedTrial
from trainables.groups import DistributedGroup
from trainables.loop import train
from trainables.storage import Storage


def rank(raw: dict[str, Any]) -> None:
    """One rank of one trial; the default process group exists."""
    group = dist.group.WORLD
    assert group is not None
    train(ResolvedTrial.model_validate(raw), DistributedGroup(group), lambda report: Order.GO)


def overhead(wall_s: float, trials: list[ResolvedTrial]) -> float:
    """Seconds per trial beyond optimiser steps, as ``orchestration`` counts its own."""
    trained = 0.0
    for trial in trials:
        file = Storage(trial.workspace.storage).fetch(trial.trial_id, Artifact.TRIAL)
        timing = TrialResult.model_validate_json(file.read_bytes()).timing
        assert timing is not None
        trained += timing.train_s
    return (wall_s - trained) / len(trials)


def train_in_tune(trials: list[ResolvedTrial], ranks: int) -> float:
    """Seconds per trial beyond training with one ``TorchTrainer.fit()`` per Tune function trial, one at a time."""
    payloads = [trial.model_dump(mode="json") for trial in trials]

    def fit(config: dict[str, Any]) -> None:
        folder = tempfile.mkdtemp(prefix="train-")
        trainer = TorchTrainer(
            rank,
            train_loop_config=config["trial"],
            scaling_config=ScalingConfig(num_workers=ranks),
            run_config=RunConfig(storage_path=folder, name="trial"),
        )
        trainer.fit()

    with connect("local", num_cpus=ranks + 1), tempfile.TemporaryDirectory() as folder:
        ray.get(ray.remote(lambda: None).remote())  # the cluster is up
        started = time.perf_counter()
        tune.Tuner(
            tune.with_resources(fit, {"cpu": 1}),
            param_space={"trial": tune.grid_search(payloads)},
            tune_config=tune.TuneConfig(max_concurrent_trials=1),
            run_config=tune.RunConfig(storage_path=folder, verbose=0),
        ).fit()
        return overhead(time.perf_counter() - started, trials)


def torchrun(trials: list[ResolvedTrial], ranks: int) -> float:
    """Seconds per trial beyond training with one ``torchrun`` per trial."""
    started = time.perf_counter()
    for trial in trials:
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            file.write(trial.model_dump_json())
            file.flush()
            command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
            command += ["-m", "benchmarks.per_trial_peers", file.name]
            subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True)
    return overhead(time.perf_counter() - started, trials)


def main() -> None:
    """What ``torchrun`` runs: one rank."""
    # A shell loop that records its results imports what records them.
    import mlflow  # noqa: F401
    import timm  # noqa: F401

    dist.init_process_group("gloo")
    rank(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
