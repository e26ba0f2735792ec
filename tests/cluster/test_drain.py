"""Waiting for checkpoints before a pod ends. That a head's jobs are stopped is tested on a real head in test_job."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from cluster.drain import any_trains, node_of, wait_while


@contextmanager
def titled(title: str) -> Iterator[psutil.Process]:
    """A process that shows this title."""
    command = [title, "-c", "echo up; read -r _"]
    with subprocess.Popen(command, executable="sh", stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()  # a process that has only just started shows no title yet
        yield psutil.Process(process.pid)


@pytest.mark.parametrize(
    ("title", "trains"),
    [
        ("ray::RayTrainWorker", True),
        ("ray::SoloTrainable.train", True),
        ("ray::ResourceTrainable", False),
        ("ray::IDLE", False),
        ("raylet", False),
    ],
)
def test_what_trains_is_known_by_its_title(title: str, trains: bool) -> None:
    with titled(title) as process:
        assert any_trains([process]) is trains
    assert any_trains([process]) is False


RAYLETS = [
    "python agent.py --node-id=00aa --gcs-address=10.0.0.9:6379",
    "raylet --raylet_socket_name=s --node_id=11bb --gcs-address=10.0.0.1:6379 --x=y --gcs-address=10.0.0.1:6379 --z",
    "raylet --node_id=22cc --python_worker_command=python worker.py --gcs-address=10.0.0.2:6379",
]


def test_a_node_is_known_by_the_command_of_its_raylet() -> None:
    assert node_of(RAYLETS) == ("11bb", "10.0.0.1:6379")
    assert node_of(RAYLETS, "22cc") == ("22cc", "10.0.0.2:6379")
    assert node_of(RAYLETS, "00aa") is None
    assert node_of([]) is None


@pytest.mark.parametrize("answers", [[False] * 3, [True, True] + [False] * 3, [True, False, False, True] + [False] * 3])
def test_it_waits_until_several_looks_in_a_row_find_nothing(answers: list[bool]) -> None:
    given = iter(answers)
    assert wait_while(lambda: next(given), range(len(answers))) is True
    assert list(given) == []


def test_it_does_not_wait_for_ever() -> None:
    assert wait_while(lambda: True, range(5)) is False
