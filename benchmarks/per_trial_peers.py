"""The same trials the usual ways: one ``TorchTrainer.fit()`` per Tune trial, and a shell loop of ``torchrun``.

Both run ``trainables.loop.train`` on the same resolved trials.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

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

HEALTH_CHECK = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1"}
"""How often Train looks at its workers: more often than its default of 2 s, which short trials wait for."""


def rank(raw: dict[str, Any]) -> TrialResult | None:
    """One rank of one trial; the default process group exists."""
    group = dist.group.WORLD
    assert group is not None
    return train(ResolvedTrial.model_validate(raw), DistributedGroup(group), lambda report: Order.GO)


def _rank_of_train(raw: dict[str, Any]) -> None:
    rank(raw)  # what the function returns would be an error to Train


def overhead(wall_s: float, trials: list[ResolvedTrial]) -> float:
    """Seconds per trial beyond optimiser steps, as ``orchestration`` counts its own."""
    trained = 0.0
    for trial in trials:
        file = Storage(trial.workspace.storage).fetch(trial.trial_id, Artifact.TRIAL)
        timing = TrialResult.model_validate_json(file.read_bytes()).timing
        assert timing is not None
        trained += timing.train_s
    return (wall_s - trained) / len(trials)


def fit_each(trials: list[ResolvedTrial], ranks: int, callbacks: Sequence[tune.Callback] = ()) -> None:
    """One ``TorchTrainer.fit()`` per Tune function trial, one at a time. Needs a connection.

    Args:
        trials: The trials.
        ranks: Of each.
        callbacks: Of Tune.
    """
    payloads = [trial.model_dump(mode="json") for trial in trials]

    def fit(config: dict[str, Any]) -> None:
        folder = tempfile.mkdtemp(prefix="train-")
        trainer = TorchTrainer(
            _rank_of_train,
            train_loop_config=config["trial"],
            scaling_config=ScalingConfig(num_workers=ranks),
            run_config=RunConfig(storage_path=folder, name="trial"),
        )
        trainer.fit()

    with tempfile.TemporaryDirectory() as folder:
        grid = tune.Tuner(
            tune.with_resources(fit, {"cpu": 1}),
            param_space={"trial": tune.grid_search(payloads)},
            tune_config=tune.TuneConfig(max_concurrent_trials=1),
            run_config=tune.RunConfig(storage_path=folder, verbose=0, callbacks=list(callbacks)),
        ).fit()
        if grid.errors:
            raise RuntimeError(f"a benchmark trial failed: {grid.errors[0]}")


def train_in_tune(trials: list[ResolvedTrial], ranks: int) -> float:
    """Seconds per trial beyond training with one ``TorchTrainer.fit()`` per Tune function trial, one at a time."""
    with patch.dict(os.environ, HEALTH_CHECK), connect("local", num_cpus=ranks + 1):
        ray.get(ray.remote(lambda: None).remote())  # the cluster is up
        started = time.perf_counter()
        fit_each(trials, ranks)
        return overhead(time.perf_counter() - started, trials)


def run_each(trials: list[ResolvedTrial], ranks: int, *arguments: str) -> None:
    """One ``torchrun`` per trial, one after the other.

    Args:
        trials: The trials.
        ranks: Of each.
        arguments: Of ``main``, behind the trial's file.
    """
    for trial in trials:
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            file.write(trial.model_dump_json())
            file.flush()
            command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
            command += ["-m", "benchmarks.per_trial_peers", file.name, *arguments]
            subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True)


def torchrun(trials: list[ResolvedTrial], ranks: int) -> float:
    """Seconds per trial beyond training with one ``torchrun`` per trial."""
    started = time.perf_counter()
    run_each(trials, ranks)
    return overhead(time.perf_counter() - started, trials)


def log_run(trial: ResolvedTrial, result: TrialResult, tracking_uri: str) -> None:
    """Log a trial as a training script does: params, a few metrics, and its files."""
    import mlflow

    mlflow.set_tracking_uri(tracking_uri)
    mlflow.set_experiment(trial.study)
    with mlflow.start_run(run_name=trial.trial_id):
        mlflow.log_params({**trial.axes, "seed": trial.seed.label, **trial.protocol.model_dump(mode="json")})
        for name, value in (("val", result.best_value), ("loss", result.loss), ("steps", result.steps)):
            mlflow.log_metric(name, float(value or 0.0))
        mlflow.log_artifacts(str(Path(trial.workspace.storage) / "trials" / trial.trial_id))


def main() -> None:
    """What ``torchrun`` runs: one rank. Arguments: a trial's file, and a tracking URI if it is to be recorded."""
    # A shell loop that records its results imports what records them.
    import mlflow  # noqa: F401
    import timm  # noqa: F401

    dist.init_process_group("gloo")
    raw = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    result = rank(raw)
    if result is not None and len(sys.argv) > 2:
        log_run(result.trial, result, sys.argv[2])
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
