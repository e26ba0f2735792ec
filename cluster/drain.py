"""Before a pod ends: lets running trials write checkpoints. ``python -m cluster.drain head|worker --seconds 100``.

Kubernetes calls it as the preStop hook of a Ray pod. On a head it stops the jobs, which makes their trials write
checkpoints and end; on a worker it waits until no trial runs there any more.
"""

from __future__ import annotations

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
    address: Annotated[str, typer.Option("--address", help="Of Ray's dashboard.")] = "http://127.0.0.1:8265",
) -> None:
    """Let trials write checkpoints before this pod ends; exit code 1 if they did not in time."""
    busy = stop_jobs(address) if role is Role.HEAD else lambda: any_trains(psutil.process_iter())
    if not wait_while(busy, _every_second(seconds)):
        typer.echo(f"trials still ran after {seconds:g} s; they go on from earlier checkpoints", err=True)
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
