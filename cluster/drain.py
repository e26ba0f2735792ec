"""Before a pod ends: lets running trials write checkpoints. ``python -m cluster.drain head|worker --seconds 100``.

Kubernetes calls it as the preStop hook of a Ray pod. On a head it stops the jobs, which makes their trials write
checkpoints and end. On a worker it tells the cluster that the node will go away: trials there write checkpoints at
once, and none is started there any more. Then it waits until none runs.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import Annotated

import psutil
import typer

POLL_S = 1.0
QUIET_LOOKS = 3
"""Looks in a row that must find nothing: between two steps a Tune worker does not have the title of one that trains."""

_TRIAL_PROCESSES = ("ray::RayTrainWorker", "ray::SoloTrainable.train")
"""Titles that Ray gives to processes that train: a rank of Ray Train, a Tune worker in the middle of a step."""


_NODE_ID = re.compile(r"--node_id=([0-9a-f]+)")
_CLUSTER = re.compile(r"--gcs-address=(\S+)")
"""Options of a raylet, the process that stands for a node."""


class Role(StrEnum):
    """Which pod of a Ray cluster ends."""

    HEAD = "head"
    WORKER = "worker"


def any_trains(processes: Iterable[psutil.Process]) -> bool:
    """Whether one of these processes trains, by the title that Ray has given it."""
    return any(_title(process).startswith(_TRIAL_PROCESSES) for process in processes)


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def node_of(commands: Iterable[str], node: str = "") -> tuple[str, str] | None:
    """Id of a node and address of its cluster, from the command of its raylet; None if none of these is one.

    Args:
        commands: Of processes.
        node: The node's id; the first raylet's if not given.
    """
    for command in commands:
        found, cluster = _NODE_ID.search(command), _CLUSTER.search(command)
        if found and cluster and node in ("", found[1]):
            return found[1], cluster[1]
    return None


def announce(node: str, cluster: str, seconds: float) -> str:
    """Tell a cluster that a node will go away.

    Args:
        node: Its id.
        cluster: Address of the cluster.
        seconds: Until it does.

    Returns:
        Why the cluster did not take it; empty if it did.
    """
    command = [sys.executable, "-m", "ray.scripts.scripts", "drain-node", "--address", cluster, "--node-id", node]
    command += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "its pod ends"]
    command += ["--deadline-remaining-seconds", str(round(seconds))]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    return "" if ran.returncode == 0 else (ran.stderr or ran.stdout).strip()[-500:]


def _announce_own(node: str, seconds: float) -> str:
    found = node_of(map(_title, psutil.process_iter()), node)
    return announce(*found, seconds) if found else "no raylet runs in this pod"


def stop_jobs(address: str) -> Callable[[], bool]:
    """Ask every running job to stop.

    Args:
        address: Of Ray's dashboard.

    Returns:
        Whether one of them still runs.
    """
    from ray.job_submission import JobSubmissionClient

    client = JobSubmissionClient(address)
    running = [job.submission_id for job in client.list_jobs() if job.submission_id and not job.status.is_terminal()]
    for submission in running:
        client.stop_job(submission)
    return lambda: any(not client.get_job_status(submission).is_terminal() for submission in running)


def wait_while(busy: Callable[[], bool], ticks: Iterable[object]) -> bool:
    """Look once per tick, until ``QUIET_LOOKS`` in a row find nothing.

    Args:
        busy: Whether there is something to wait for.
        ticks: Yields when it is time to look again, and ends when there is no time left.

    Returns:
        Whether it ended in time.
    """
    quiet = 0
    for _ in ticks:
        quiet = 0 if busy() else quiet + 1
        if quiet == QUIET_LOOKS:
            return True
    return False


def _every_second(seconds: float) -> Iterable[float]:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        yield left
        time.sleep(min(POLL_S, left))


def main(
    role: Annotated[Role, typer.Argument(help="Which pod of the Ray cluster this is.")],
    seconds: Annotated[
        float, typer.Option("--seconds", min=0, help="Longest wait; less than the pod's terminationGracePeriodSeconds.")
    ] = 100.0,
    address: Annotated[
        str, typer.Option("--address", help="Of Ray's dashboard; for a head.")
    ] = "http://127.0.0.1:8265",
    node: Annotated[str, typer.Option("--node", help="Id of a worker's node; the one in this pod if not given.")] = "",
) -> None:
    """Let trials write checkpoints before this pod ends; exit code 1 if some still ran after that time."""
    if role is Role.WORKER and (complaint := _announce_own(node, seconds)):
        typer.echo(f"trials here are not told to write checkpoints: {complaint}", err=True)
    busy = stop_jobs(address) if role is Role.HEAD else lambda: any_trains(psutil.process_iter())
    if not wait_while(busy, _every_second(seconds)):
        typer.echo(f"trials still ran after {seconds:g} s; they go on from earlier checkpoints", err=True)
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
