"""The Ray cluster that a command works on, and what fits on it."""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from search_spaces.exceptions import UserError
from search_spaces.study import GangSpec

OBJECT_STORE_BYTES = 256 * 1024**2
"""Of a local cluster. Nothing large travels through it, and Ray's default is 30 % of the memory."""

ROOT = Path(__file__).resolve().parent.parent

ENVIRONMENT = {
    # How soon Train notices a lost rank; the default of 2 s also delays every start.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    # Relative paths of a study mean the same in every process.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # Tune's snapshots are of no use here: what is done stands in the record.
    "TUNE_GLOBAL_CHECKPOINT_S": "1e9",
    # How many trials wait is decided where they are handed out.
    "TUNE_MAX_PENDING_TRIALS_PG": "100000",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "1e9",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
}


_JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Set by Ray for the entry point of a submitted job."""


@contextmanager
def connect(address: str = "local", *, import_paths: Sequence[str] = (), num_cpus: int | None = None) -> Iterator[None]:
    """A Ray cluster for the length of a ``with`` block.

    Inside a process that is connected already, that connection is used and left alone.

    Args:
        address: ``local`` starts a cluster of this machine that ends with the block; ``auto`` joins the one that runs
            here or that submitted this job; anything else is an address that Ray knows.
        import_paths: Folders from which workers import a user's modules.
        num_cpus: CPUs of a local cluster; all of this machine if not given.

    Raises:
        UserError: No cluster answers at the address.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if ray.is_initialized():
        yield
        return
    local: dict[str, Any] = {
        "include_dashboard": False,
        "object_store_memory": OBJECT_STORE_BYTES,
        "num_cpus": num_cpus,
    }
    on_termination = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env=_runtime_env(import_paths),
            **(local if address == "local" else {}),
        )
    except ConnectionError as error:
        raise UserError(f"no Ray cluster at address {address!r}: {error}. Use --address local or start one") from None
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_termination)  # ray.init has replaced it by one that exits at once
    try:
        yield
    finally:
        ray.shutdown()


def submitted_job() -> str:
    """Submission id of the Ray job that this process is the driver of (``ray job logs ID``); empty outside of one."""
    try:
        return str(json.loads(os.environ.get(_JOB_CONFIG, "{}")).get("metadata", {}).get("job_submission_id", ""))
    except (ValueError, AttributeError):
        return ""


def _runtime_env(import_paths: Sequence[str]) -> dict[str, Any]:
    variables = {"RAY_CHDIR_TO_TRIAL_DIR": "0"}
    if _JOB_CONFIG not in os.environ:
        # Inside a submitted job the working directory of the job is on the path of all workers already.
        paths = [str(ROOT), *import_paths, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        variables["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
    return {"env_vars": variables}


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


def gpus_per_trial(spec: GangSpec) -> float:
    """GPUs that a trial of this shape holds on the connected cluster, fractions included."""
    shape = Shape.of(spec, ray.nodes())
    return shape.ranks * shape.gpus


def trials_at_a_time(shape: Shape, nodes: Sequence[dict[str, Any]]) -> int:
    """How many trials of this shape fit the cluster at once. Ranks of one trial may lie on several nodes.

    Args:
        shape: Of the ranks.
        nodes: As ``ray.nodes()`` lists them.

    Raises:
        UserError: Not even one fits.
    """
    slots = sum(_slots(shape, _resources(node)) for node in nodes if node.get("Alive", True))
    if slots < shape.ranks:
        raise UserError(
            f"execution.gang needs {shape.label}; the cluster has {_total(nodes, 'CPU'):g} CPUs and "
            f"{_total(nodes, 'GPU'):g} GPUs on {len(nodes)} nodes, room for {slots} such ranks"
        )
    return slots // shape.ranks


def _slots(shape: Shape, resources: dict[str, float]) -> int:
    by_cpu = int(resources.get("CPU", 0) // shape.cpus)
    if not shape.gpus:
        return by_cpu
    gpus = resources.get("GPU", 0)
    # A rank's share lies on one GPU: two shares of 0.6 do not fit 1.2 GPUs.
    by_gpu = int(gpus // shape.gpus) if shape.gpus >= 1 else int(gpus) * int(1 / shape.gpus + 1e-9)
    return min(by_cpu, by_gpu)


def _resources(node: dict[str, Any]) -> dict[str, float]:
    return dict(node.get("Resources", {}))


def _total(nodes: Sequence[dict[str, Any]], name: str) -> float:
    return sum(_resources(node).get(name, 0.0) for node in nodes)
