"""The throughput benchmark runs without Ray and ends with one JSON object."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks import train_throughput
from tests.trainables.toy import ToyNet
from trainables.environment import borrowed_globals


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


def test_the_store_is_compared_with_one_fixed_batch(monkeypatch):
    seen = []
    original = train_throughput.fit

    def noted(module, train_set, val_set, **options):
        seen.append((len(train_set.positions), options["protocol"].precision, options["resident_bytes"] > 0))
        return original(module, train_set, val_set, **options)

    monkeypatch.setattr(train_throughput, "fit", noted)
    case = train_throughput.Case("tiny", lambda: ToyNet(outputs=train_throughput.CLASSES), 8, 2, batch_size=4)
    with borrowed_globals(torch.device("cpu")):
        row = train_throughput.store_to_fixed_batch(case, 2, torch.device("cpu"), rounds=2, images=16)
    assert seen == [(16, "bf16", False), (4, "bf16", True)] * 2
    assert row["store_to_fixed_batch"] > 0
    assert row["fixed_batch_images_per_s"] > 0


@pytest.mark.usefixtures("_tiny")
def test_without_a_gpu_the_store_is_left_out_with_the_reason(capsys):
    train_throughput.main(["--quick", "--store", "--device", "cpu"])
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("--store is left out: it needs a CUDA device, this is cpu") for line in lines)
    assert "store_to_fixed_batch" not in json.loads(lines[-1])


def test_our_loop_meets_timms_on_the_same_net_and_batch() -> None:
    case = train_throughput.Case("tiny", lambda: ToyNet(outputs=train_throughput.CLASSES), 8, 2, batch_size=4)
    row = train_throughput.against_timm(case, 3, torch.device("cpu"))
    assert row["ours_images_per_s"] > 0
    assert row["timm_images_per_s"] > 0
    assert row["ratio"] > 0


def test_timms_networks_exist_and_wait_for_a_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    import timm

    names = [*train_throughput.TIMM_CASES, train_throughput.LARGEST]
    assert all(timm.is_model(name) for name in names)
    assert train_throughput._timms(torch.device("cpu"), quick=True) == {}
    assert "it needs a CUDA device, this is cpu" in capsys.readouterr().out
