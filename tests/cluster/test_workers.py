"""How large worker pods are for a gang, and which of them are refused."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.workers import Workers, parse_range, workers_for, workers_for_all
from search_spaces.exceptions import UserError
from search_spaces.study import GangSpec


def made(gang: dict[str, Any], pods: str = "1:1", **options: Any) -> Workers:
    return workers_for(GangSpec(**gang), parse_range(pods), **options)


@pytest.mark.parametrize(
    ("gang", "options", "cpus", "memory_gib"),
    [
        ({}, {}, 4, 16),  # one rank of one CPU: still no tiny pods
        ({"ranks": 2, "cpus_per_rank": 6}, {}, 12, 8),
        ({"ranks": 2, "cpus_per_rank": 6}, {"cpus": 13, "memory_gib": 50}, 13, 50),
        ({"cpus_per_rank": 8}, {"gpus": 4}, 32, 64),
        ({"cpus_per_rank": 2, "gpus_per_rank": 0.25}, {"gpus": 1}, 8, 64),
        ({"ranks": 4, "gpus_per_rank": 2}, {"gpus": 8}, 4, 64),
    ],
)
def test_pods_hold_the_ranks_that_their_gpus_hold(
    gang: dict[str, Any], options: dict[str, Any], cpus: int, memory_gib: int
) -> None:
    workers = made(gang, **options)
    assert (workers.cpus, workers.memory_gib) == (cpus, memory_gib)
    assert 1 <= workers.shared_memory_gib < workers.memory_gib


@pytest.mark.parametrize(
    ("gang", "pods", "options", "says"),
    [
        ({"gpus_per_rank": 2}, "1:1", {"gpus": 1}, "a rank of this study needs 2 GPUs of one node"),
        ({"gpus_per_rank": 1}, "1:1", {}, "give at least 1"),
        ({"gpus_per_rank": 0}, "1:1", {"gpus": 2}, "would idle"),
        ({"cpus_per_rank": 8}, "1:1", {"cpus": 4}, "raise --cpus-per-worker to at least 8"),
        ({"ranks": 4}, "2:3", {"gpus": 1}, "allow at least 4 workers"),
        ({"ranks": 8, "cpus_per_rank": 4}, "1:1", {"cpus": 16}, "allow at least 2 workers"),
        ({}, "1:1", {"accelerator": "NVIDIA-L4"}, "--accelerator NVIDIA-L4 needs --gpus-per-worker"),
    ],
)
def test_pods_that_hold_no_trial_are_refused(
    gang: dict[str, Any], pods: str, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(UserError, match=says):
        made(gang, pods, **options)


@pytest.mark.parametrize("text", ["", "3", "0:0", "4:2", "a:b", "1:2:3", "-1:2", "1:2 "])
def test_a_range_is_two_numbers_in_order(text: str) -> None:
    with pytest.raises(UserError, match="MIN:MAX"):
        parse_range(text)


def test_only_a_range_scales() -> None:
    assert not made({}, "2:2").autoscaling
    assert made({}, "2:3").autoscaling
    assert made({"ranks": 4}, "0:4", gpus=1).autoscaling, "none are there at first"


def test_one_size_of_workers_for_several_gangs() -> None:
    gangs = [GangSpec(gpus_per_rank=0, cpus_per_rank=6), GangSpec(ranks=4, cpus_per_rank=2, gpus_per_rank=1)]
    made = workers_for_all(gangs, (1, 1), gpus=4, accelerator="H100")
    assert (made.gpus, made.cpus, made.accelerator) == (4, 8, "H100")
    with pytest.raises(UserError, match=r"holds? .*8 ranks"):
        workers_for_all([*gangs, GangSpec(ranks=8, gpus_per_rank=1)], (1, 1), gpus=4)
    with pytest.raises(UserError, match="would idle"):
        workers_for_all([gangs[0]], (1, 1), gpus=4)
