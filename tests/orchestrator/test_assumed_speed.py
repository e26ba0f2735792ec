"""What accelerators are taken to sustain before anybody has timed one."""

from __future__ import annotations

import pytest

from orchestrator.assumed_speed import PEAKS, assumed_of
from orchestrator.estimate import parse_nodes
from search_spaces.study import GangSpec


@pytest.mark.parametrize(
    ("accelerator", "precision", "nodes", "tflops", "why"),
    [
        (None, "bf16", "", 0.2 * 312, "of the 16-bit peak of one A100, as no type is named"),
        (None, "fp32", "", 0.5 * 19.5, "of the float32 peak of one A100, as no type is named"),
        ("H100", "fp16", "1x(8,8,A100)", 0.2 * 989, "of one H100"),
        ("A100-80G", "bf16", "", 0.2 * 312, "of one A100-80G"),
        (None, "bf16", "1x(8,8,H100)+2x(8,8,L4)+1x(8)", 0.2 * 121, "of one L4"),
    ],
)
def test_by_type_and_precision(accelerator: str | None, precision: str, nodes: str, tflops: float, why: str) -> None:
    gang = GangSpec(accelerator=accelerator)
    found = assumed_of(gang, precision, parse_nodes(nodes) if nodes else (), None)
    assert found is not None
    assert found.tflops == pytest.approx(tflops)
    assert why in found.why


def test_what_is_not_listed_is_not_guessed_but_taken_from_the_user() -> None:
    gang = GangSpec(accelerator="MI300X")
    assert assumed_of(gang, "bf16", (), None) is None
    given = assumed_of(gang, "bf16", (), 80.0)
    assert given is not None
    assert (given.tflops, given.why) == (80.0, "80 TFLOPS per GPU, as given")


def test_tensor_cores_are_faster() -> None:
    assert all(peak.half > peak.single for peak in PEAKS.values())
