"""Checkpoints that do not fit, by ``sources check``: refused with a receipt that shows why, and no code is run."""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from orchestrator.sources import app
from trainables.ladder_nets import resnet8, resnet14

State = dict[str, torch.Tensor]

STUDY = """
schema: 1
name: small
axes: {model_scale: [tiny], pretraining_source: [natural], data_fraction: 1.0, task: shapes}
controls: none
scales: {tiny: {factory: "trainables.ladder_nets:resnet8", arguments: {width: 4}, input_size: 16}}
sources: {natural: {file: given.pth}}
tasks: {shapes: {manifest: shapes, primary: auc}}
"""


def _state(**changes: Any) -> State:
    return {n: t.detach().clone() for n, t in resnet8(num_classes=10, width=4).state_dict().items()} | changes


class _Runs:
    """Unpickled by running code."""

    def __reduce__(self) -> Any:
        return (Path.touch, (Path("has_run"),))


def _half(state: State) -> State:
    return dict(list(state.items())[: len(state) // 2])


def _one_channel(state: State) -> State:
    first = next(n for n, t in state.items() if t.ndim == 4)
    return state | {first: state[first][:, :1].clone()}


def _not_a_number(state: State) -> State:
    first = next(n for n, t in state.items() if t.ndim == 4)
    state[first].view(-1)[3] = float("nan")
    return state


def _below_zero(state: State) -> State:
    first = next(n for n in state if n.endswith("running_var"))
    return state | {first: -state[first]}


def _zeros(state: State) -> State:
    return {n: torch.zeros_like(t) if t.ndim > 1 else t for n, t in state.items()}


def _without_numbers(state: State) -> State:
    return {n: t.to("meta") for n, t in state.items()}


def _sparse(state: State) -> State:
    return state | {"conv1.weight": state["conv1.weight"].to_sparse()}


def _save(content: Any) -> Callable[[Path], None]:
    return lambda file: torch.save(content, file)


def _write(content: bytes) -> Callable[[Path], None]:
    return lambda file: file.write_bytes(content) and None


BAD: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    "another architecture": (
        _save(resnet14(num_classes=10, width=6).state_dict()),
        ("does not fit the model", "of another shape", "matched: 0 of"),
    ),
    "a deeper network": (
        _save(resnet14(num_classes=10, width=4).state_dict()),
        ("not in the model", "it looks like another, larger network"),
    ),
    "a pickle that wants to run code": (
        _save({"state_dict": _state(), "extra": _Runs()}),
        ("holds more than weights: reading it would need", "read weights-only, because a pickle can run code"),
    ),
    "a plain pickle that wants to run code": (
        _write(pickle.dumps({"state_dict": _Runs()})),
        ("holds more than weights: reading it would need", ".touch"),
    ),
    "a plain pickle with a text longer than any memory": (
        _write(b"\x80\x04\x8d" + (2**62).to_bytes(8, "little") + b"layer1"),
        ("is cut off, damaged or no torch file",),
    ),
    "code inside a command line": (
        _save({"state_dict": _state(), "args": argparse.Namespace(hook=_Runs())}),
        ("holds more than weights: reading it would need", "pathlib.Path"),
    ),
    "HTML saved as weights": (_write(b"<!DOCTYPE html><html>Not found</html>"), ("is a web page, not weights",)),
    "HTML with a byte order mark": (
        _write(b"\xef\xbb\xbf\n<head><title>Sign in</title>"),
        ("is a web page, not weights",),
    ),
    "an answer of a server": (_write(b'{"error": "not found"}'), ("is text, not weights; it starts with", "not found")),
    "one input channel": (_save(_one_channel(_state())), ("was made for images of 1 channel(s); this model reads 3",)),
    "half the tensors": (_save(_half(_state())), ("missing:", "backbone tensors")),
    "numbers that are none": (_save(_not_a_number(_state())), ("1 tensors hold numbers that are not finite",)),
    "variances below zero": (_save(_below_zero(_state())), ("1 running variances are below 0: bn1.running_var",)),
    "nothing but zeros": (
        _save(_zeros(_state())),
        (
            "no weights but zeros",
            "matched: 35 of 35 backbone tensors",
            "every one of the 7 weight tensors",
            "conv1.weight",
        ),
    ),
    "names without numbers": (
        _save(_without_numbers(_state())),
        ("matched: 0 of", "float32 without numbers", "saved without numbers (torch's meta device)"),
    ),
    "a sparse tensor": (_save(_sparse(_state())), ("matched: 34 of 35", "conv1.weight is (4, 3, 3, 3) float32 sparse")),
    "no weights at all": (_save({"epoch": 3}), ("holds no state dict", "epoch")),
    "a head under another name": (
        _save(_state(**{"classifier.weight": torch.zeros(7, 16)})),
        ("not in the model: 1 of", "drop: [classifier]"),
    ),
}


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], tuple[int, str]]:
    (tmp_path / "study.yaml").write_text(STUDY)
    monkeypatch.chdir(tmp_path)

    def run(source: str = "natural") -> tuple[int, str]:
        ran = CliRunner().invoke(app, ["check", source, "--study", "study.yaml"])
        assert ran.exception is None or isinstance(ran.exception, SystemExit), ran.exception
        return ran.exit_code, " ".join(ran.output.split())

    return run


@pytest.mark.parametrize("what", BAD)
def test_what_does_not_fit_is_refused_and_says_why(what: str, tmp_path: Path, check) -> None:
    write, expected = BAD[what]
    write(tmp_path / "given.pth")
    code, output = check()
    assert code == 1
    assert "natural for tiny: does not fit" in output
    assert "Traceback" not in output
    assert "Warning" not in output
    for words in expected:
        assert words in output
    assert not (tmp_path / "has_run").exists()


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": _state(), "args": argparse.Namespace(lr=0.1, arch="resnet8")},
        _state(),
    ],
    ids=["a command line beside the weights", "a head of other classes"],
)
def test_what_is_harmless_fits_and_the_head_stays_fresh(content: Any, tmp_path: Path, check) -> None:
    torch.save(content, tmp_path / "given.pth")
    code, output = check()
    assert code == 0, output
    assert "natural for tiny: fits" in output
    assert "dropped: linear" in output


def test_zeros_beside_one_weight_that_is_none_fit(tmp_path: Path, check) -> None:
    state = _zeros(_state())
    state["conv1.weight"][0, 0, 0, 0] = 1e-30
    torch.save(state, tmp_path / "given.pth")
    code, output = check()
    assert code == 0, output


def test_unknown_names_list_what_is_near(check, tmp_path: Path) -> None:
    code, output = check("natrual")
    assert code == 1
    assert "Did you mean 'natural'?" in output
    (tmp_path / "study.yaml").write_text(STUDY.replace('"trainables.ladder_nets:resnet8"', "resnet5O"))
    code, output = check()
    assert code == 1
    assert "Did you mean 'resnet50'" in output
