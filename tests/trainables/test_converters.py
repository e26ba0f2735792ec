"""BYOL's pickle of JAX objects, made here by stand-ins of the classes that its own code would pickle."""

from __future__ import annotations

import pickle
import re
import sys
import types
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import nn
from typer.testing import CliRunner

from orchestrator.sources import app
from search_spaces.exceptions import UserError
from search_spaces.source_specs import source_form
from search_spaces.trial import ResolvedScale, ResolvedSource
from trainables.converters import convert_file
from trainables.inert_pickle import Inert, read_inert
from trainables.models import build_model
from trainables.sources import initialise

NARROW = {"channels": [4, 8, 8, 16]}
Table = dict[str, dict[str, np.ndarray]]


@pytest.fixture
def reference() -> nn.Module:
    torch.manual_seed(5)
    model = timm.create_model("resnet50", num_classes=0, **NARROW)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point() and tensor.ndim == 1:
                tensor.copy_(0.5 + 0.2 * torch.rand(tensor.shape) if "var" in name else 0.3 * torch.randn(tensor.shape))
    return model.eval()


def _haiku_module(name: str) -> str:
    """A torch module's name in BYOL's ResNet."""
    if name in ("conv1", "bn1"):
        return f"res_net50/~/initial_{'conv' if name == 'conv1' else 'batchnorm'}"
    stage, block, layer = re.fullmatch(r"layer(\d)\.(\d+)\.(.+)", name).groups()  # type: ignore[union-attr]
    inner = {"downsample.0": "shortcut_conv", "downsample.1": "shortcut_batchnorm"}.get(layer)
    inner = inner or f"{'conv' if layer.startswith('conv') else 'batchnorm'}_{int(layer[-1]) - 1}"
    return f"res_net50/~/block_group_{int(stage) - 1}/~/block_{block}/~/{inner}"


def _haiku(model: nn.Module, shift: float = 0.0) -> tuple[Table, Table]:
    """(parameters, state) as Haiku keeps them, sorted by name, so that the initial convolution comes last."""
    parameters: Table = {"predictor/linear": {"w": np.zeros((3, 2), np.float32)}}
    state: Table = {}
    for name, tensor in model.state_dict().items():
        module, _, leaf = name.rpartition(".")
        array, haiku = tensor.numpy() + shift, _haiku_module(module)
        if array.ndim == 4:
            parameters.setdefault(haiku, {})["w"] = array.transpose(2, 3, 1, 0).copy()
        elif leaf in ("weight", "bias"):
            parameters.setdefault(haiku, {})["scale" if leaf == "weight" else "offset"] = array.reshape(1, 1, 1, -1)
        elif leaf.startswith("running"):
            moving = f"{haiku}/~/{'mean' if 'mean' in leaf else 'var'}_ema"
            state[moving] = {
                "counter": np.int32(7),
                "hidden": array.reshape(1, 1, 1, -1) * 0,
                "average": array.reshape(1, 1, 1, -1),
            }
    return {k: parameters[k] for k in sorted(parameters)}, {k: state[k] for k in sorted(state)}


@pytest.fixture
def published(tmp_path: Path, reference: nn.Module, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The pickle; the classes that made it are gone when it is read."""
    byol, haiku = (
        types.ModuleType("byol_experiment_that_is_not_installed"),
        types.ModuleType("haiku_that_is_not_installed"),
    )
    kept = namedtuple("ExperimentState", "online_params target_params online_state target_state opt_state")  # type: ignore[name-match]

    class FlatMapping:
        def __init__(self, mapping: Any) -> None:
            self._mapping = mapping

        def __reduce__(self) -> Any:
            return type(self), (self._mapping,)

    for made, module in ((kept, byol), (FlatMapping, haiku)):
        made.__module__, made.__qualname__ = module.__name__, made.__name__
        setattr(module, made.__name__, made)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    online, target = _haiku(reference), _haiku(reference, shift=1.0)
    parts = [FlatMapping(table) for table in (online[0], target[0], online[1], target[1])]
    content = {
        "experiment_state": kept(*parts, opt_state={"count": np.int32(3)}),
        "step": 300_000,
        "rng": np.zeros(2, np.uint32),
    }
    path = tmp_path / "pretrain_res50x1.pkl"
    path.write_bytes(pickle.dumps(content))
    for module in (byol, haiku):
        monkeypatch.delitem(sys.modules, module.__name__)
    return path


def test_online_encoder_is_converted_and_reproduced(tmp_path: Path, published: Path, reference: nn.Module) -> None:
    out = tmp_path / "made" / "byol.safetensors"
    result = CliRunner().invoke(app, ["convert", "byol", str(published), str(out)])
    assert (result.exit_code, "265 tensors" in result.output) == (0, True), result.output
    scale = ResolvedScale(name="narrow", factory="resnet50", arguments=NARROW, input_size=32)
    built = build_model(scale, 2, seed=0)
    weights = source_form({"catalogue": "byol", "file": str(out)})
    source = ResolvedSource(name="byol", weights=weights, content=None, normalise=weights.normalise)
    receipt = initialise(built, source, lambda _: Path("never"), seed=0)
    assert receipt.matched_tensors == 265
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(built.module.eval().forward_features(images), reference.forward_features(images))


def test_arrays_of_later_jax(tmp_path: Path) -> None:
    """They pickle as a function of JAX around numpy's own way of making an array."""
    made = types.ModuleType("jax_that_is_not_installed")

    def _reconstruct_array(*_: Any) -> None: ...

    _reconstruct_array.__module__, _reconstruct_array.__qualname__ = made.__name__, "_reconstruct_array"
    made._reconstruct_array = _reconstruct_array  # type: ignore[attr-defined]
    sys.modules[made.__name__] = made

    class Array:
        def __reduce__(self) -> Any:
            make, arguments, state = np.arange(3.0).__reduce__()
            return _reconstruct_array, (make, arguments, state, None)

    from trainables.inert_pickle import array_tables

    path = tmp_path / "later.pkl"
    try:
        path.write_bytes(pickle.dumps({"net/initial_conv": {"w": Array()}}))
    finally:
        del sys.modules[made.__name__]
    (table,) = array_tables(read_inert(path))
    assert np.array_equal(table["net/initial_conv"]["w"], np.arange(3.0))


class _Attack:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        import os

        return os.system, (self.command,)


def test_no_code_of_a_pickle_is_run(tmp_path: Path) -> None:
    path, witness = tmp_path / "attack.pkl", tmp_path / "it_ran"
    path.write_bytes(pickle.dumps({"experiment_state": _Attack(f"touch {witness}")}))
    content = read_inert(path)
    assert isinstance(content["experiment_state"], Inert)
    assert content["experiment_state"].what.endswith(".system")
    with pytest.raises(UserError, match="holds no parameters of a ResNet by Haiku's names"):
        convert_file("byol", path, tmp_path / "out.safetensors")
    assert not witness.exists()


@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_cut_off_pickle(tmp_path: Path, published: Path, kept: float) -> None:
    content = published.read_bytes()
    published.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(UserError, match="damaged, cut off, or no pickle"):
        convert_file("byol", published, tmp_path / "out.safetensors")
    assert not list(tmp_path.glob("out*"))


def test_outputs_are_never_overwritten(tmp_path: Path, published: Path) -> None:
    (tmp_path / "there.safetensors").write_text("mine")
    with pytest.raises(UserError, match="exists; remove it first"):
        convert_file("byol", published, tmp_path / "there.safetensors")
    with pytest.raises(UserError, match=r"is a \.safetensors file"):
        convert_file("byol", published, tmp_path / "there.pth")
    result = CliRunner().invoke(app, ["convert", "bio", str(published), str(tmp_path / "x.safetensors")])
    assert result.exit_code == 1
    assert "Did you mean 'byol'?" in result.output


def test_an_output_that_cannot_be_written_is_named(tmp_path: Path, published: Path) -> None:
    out = tmp_path / "byol.safetensors"
    (tmp_path / "byol.safetensors.partial").mkdir()
    with pytest.raises(UserError, match=r"byol\.safetensors cannot be written: Is a directory"):
        convert_file("byol", published, out)
