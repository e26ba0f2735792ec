"""The net of the benchmarks that counts its steps: what was trained twice is found from its files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.paced_net import LOG, paced, repeated_steps, steps_of_attempts
from trainables.random_state import own_random_state


def build(seed: int) -> torch.nn.Module:
    with own_random_state(seed):
        return paced(2, 0.0).train()


def test_steps_in_training_are_counted_per_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LOG, str(tmp_path))
    images = torch.zeros(2, 3, 8, 8)
    for seed, steps in ((0, 3), (0, 2), (1, 4)):  # two ranks of one attempt, and another trial
        net = build(seed)
        for _ in range(steps):
            net(images)
        net.eval()(images)
    with torch.device("meta"):
        paced(2, 0.0)
    assert sorted(steps_of_attempts(tmp_path).values()) == [[3], [4]]


def test_attempts_are_told_apart_by_when_they_began(tmp_path: Path) -> None:
    second = 1_000_000_000
    for trial, began_s, steps in (
        ("a", 0.0, 25),
        ("a", 0.4, 24),  # the other rank, one step behind
        ("a", 9.0, 40),
        ("a", 9.1, 40),
        ("b", 20.0, 60),
        ("c", 30.0, 20),
        ("c", 40.0, 40),
    ):
        (tmp_path / f"{trial}.{int(began_s * second)}.1.{steps}{began_s}").write_bytes(b"." * steps)
    attempts = steps_of_attempts(tmp_path)
    assert attempts == {"a": [25, 40], "b": [60], "c": [20, 40]}
    assert repeated_steps(attempts, 60) == 5
    assert repeated_steps({"b": [60]}, 60) == 0
