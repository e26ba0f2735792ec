"""What fits on a cluster."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.capacity import Capacity, Shape, trials_at_a_time
from search_spaces.exceptions import UserError
from search_spaces.study import GangSpec


def node(cpus: float, gpus: float = 0.0, kind: str = "") -> dict[str, Any]:
    resources = {"CPU": cpus, "GPU": gpus} | ({f"accelerator_type:{kind}": 1.0} if kind else {})
    return {"Alive": True, "Resources": resources}


def shape(**spec: Any) -> Shape:
    return Shape.of(GangSpec(**spec), [node(8, 8)])


@pytest.mark.parametrize(
    ("spec", "nodes", "expected"),
    [
        (GangSpec(ranks=2), [node(2)], 1),
        (GangSpec(ranks=2), [node(3), node(3)], 3),
        (GangSpec(ranks=1, cpus_per_rank=4), [node(10), node(3)], 2),
        (GangSpec(ranks=4), [node(0), node(32, 8)], 2),
        (GangSpec(ranks=8), [node(32, 4), node(32, 4)], 1),
        (GangSpec(ranks=1), [node(0), node(4, 8)], 4),
        (GangSpec(ranks=1, gpus_per_rank=0.25), [node(32, 2)], 8),
        (GangSpec(ranks=1, gpus_per_rank=0.6), [node(32, 2)], 2),
        (GangSpec(ranks=1, gpus_per_rank=4), [node(32, 8), node(32, 3)], 2),
        (GangSpec(ranks=2, gpus_per_rank=0), [node(4, 1)], 2),
        (GangSpec(ranks=1, accelerator="A100"), [node(32, 8, "T4"), node(32, 3, "A100")], 3),
    ],
)
def test_trials_at_a_time(spec: GangSpec, nodes: list[dict[str, Any]], expected: int) -> None:
    assert trials_at_a_time(Shape.of(spec, nodes), nodes) == expected


def test_a_shape_that_does_not_fit_says_what_it_needs_and_what_there_is() -> None:
    nodes = [node(2)]
    with pytest.raises(UserError, match=r"4 ranks x \(1 CPU\).*2 CPUs.*room for 2"):
        trials_at_a_time(Shape.of(GangSpec(ranks=4), nodes), nodes)
    nodes = [node(64, 8, "T4")]
    with pytest.raises(UserError, match=r"1 rank x \(1 CPU, 1 GPU A100\).*room for 0"):
        trials_at_a_time(Shape.of(GangSpec(accelerator="A100"), nodes), nodes)


def test_dead_nodes_give_no_room() -> None:
    nodes = [node(8), {"Alive": False, "Resources": {"CPU": 8.0}}]
    assert trials_at_a_time(Shape.of(GangSpec(), nodes), nodes) == 8


def test_shapes_share_nodes_and_a_gang_that_does_not_fit_takes_nothing() -> None:
    packing = Capacity.of([node(8, 2)]).packing()
    assert packing.add(shape(ranks=1, gpus_per_rank=0.5))
    assert packing.add(shape(ranks=1, gpus_per_rank=1))
    assert not packing.add(shape(ranks=2, gpus_per_rank=1)), "half a GPU is left"
    assert packing.add(shape(ranks=1, gpus_per_rank=0.5)), "the half that the gang would have left alone"
    assert not packing.add(shape(ranks=1, gpus_per_rank=0.25))
    assert packing.add(shape(ranks=1, gpus_per_rank=0, cpus_per_rank=5))
    assert not packing.add(shape(ranks=1, gpus_per_rank=0)), "eight CPUs are taken"


def test_what_a_rank_asks_of_ray() -> None:
    assert shape(ranks=2, cpus_per_rank=3, gpus_per_rank=0).resources == {"CPU": 3.0}
    wanted = {"CPU": 1.0, "GPU": 1.0, "accelerator_type:H100": 0.001}
    assert shape(accelerator="H100").resources == wanted


def test_the_backend_follows_the_device_unless_it_is_given() -> None:
    assert shape(ranks=2).backend == "nccl"
    assert shape(ranks=2, gpus_per_rank=0).backend == "gloo"
    assert shape(ranks=2, backend="gloo").backend == "gloo"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"gpus_per_rank": 1.5}, "whole GPUs, got 1.5"),
        ({"gpus_per_rank": 0, "accelerator": "A100"}, "accelerator: A100 without GPUs"),
        ({"gpus_per_rank": 0, "backend": "nccl"}, "nccl needs GPUs"),
        ({"ranks": 2, "gpus_per_rank": 0.5}, "whole GPUs"),
    ],
)
def test_gangs_that_cannot_be_are_refused(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GangSpec(**spec)
