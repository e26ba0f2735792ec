"""The throughput benchmark runs without Ray and ends with one JSON object."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks import train_throughput
from tests.trainables.toy import ToyNet


@pytest.fixture
def _tiny(monkeypatch):
    case = train_throughput.Case("tiny", lambda: ToyNet(outputs=train_throughput.CLASSES), 8, 2, batch_size=4)
    monkeypatch.setattr(train_throughput, "make_cases", lambda turn: [case])


@pytest.mark.usefixtures("_tiny")
def test_the_last_line_is_the_summary(capsys):
    before = torch.get_rng_state()
    train_throughput.main(["--quick", "--device", "cpu"])
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert summary["benchmark"] == "train_throughput"
    assert summary["fraction_of_bare_loop"] == pytest.approx(summary["cases"][0]["fraction"], abs=1e-4)
    assert summary["cases"][0]["ours_images_per_s"] > 0
    assert torch.equal(before, torch.get_rng_state())


def test_the_cases_are_those_promised():
    assert [(case.name, case.input_size) for case in train_throughput.make_cases(1)] == [
        ("resnet20 32 px", 32),
        ("squeezenet1_0 64 px", 64),
    ]
