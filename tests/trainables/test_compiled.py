"""Training through torch.compile: the same science to rounding, one cache, and failures that name the option."""

from __future__ import annotations

import math
import os

import pytest
import torch

from search_spaces.exceptions import UserError
from search_spaces.protocol import Budget
from search_spaces.toolchain import missing_toolchain
from tests.trainables.toy import NORMALISE, Teller, ToyNet, toy_protocol, toy_set
from trainables.compiled import CACHE_VARIABLE
from trainables.fitting import fit
from trainables.groups import SingleProcess

needs_compiler = pytest.mark.skipif(missing_toolchain() is not None, reason="no C++ compiler")


def _fit(net, cache, **changes):
    return fit(
        net,
        toy_set(),
        toy_set(n=12, seed=1),
        protocol=toy_protocol(budget=Budget(steps=6), evaluations=2, **changes),
        normalise=NORMALISE,
        input_size=8,
        seed=5,
        primary="auc_macro",
        group=SingleProcess(torch.device("cpu")),
        tell=Teller(),
        compile_cache=cache,
    )


@needs_compiler
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_compiled_training_agrees_to_rounding_and_leaves_its_code_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.delenv(CACHE_VARIABLE, raising=False)
    # Compiled code draws other dropout masks than eager code from the same seed: a net without dropout is compared.
    eager = _fit(ToyNet(dropout=0.0), None)
    compiled = _fit(ToyNet(dropout=0.0), tmp_path / "compiled", compile=True)
    assert list(compiled.final) == list(eager.final), "names of the weights are the module's own"
    torch.testing.assert_close(compiled.final, eager.final, rtol=1e-3, atol=1e-4)
    assert [row["step"] for row in compiled.history] == [3, 6]
    assert all(math.isfinite(loss) for row in compiled.history for loss in row["step_losses"])
    kept = {file.name for file in (tmp_path / "compiled").rglob("*.so")}
    assert kept, "kernels are built in the folder that was given"
    again = _fit(ToyNet(dropout=0.0), tmp_path / "compiled", compile=True)
    torch.testing.assert_close(again.final, compiled.final, rtol=0, atol=0)
    assert {file.name for file in (tmp_path / "compiled").rglob("*.so")} == kept, "nothing is built twice"
    assert CACHE_VARIABLE not in os.environ


def test_without_a_compiler_the_option_is_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "/nowhere/g++")
    with pytest.raises(UserError, match=r"protocol\.compile needs a C\+\+ compiler, and '/nowhere/g\+\+' is not found"):
        _fit(ToyNet(), tmp_path, compile=True)


@needs_compiler
def test_a_model_that_cannot_be_compiled_names_the_option(tmp_path, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("no kernel for this")

    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda module: real(module, backend=broken))
    with pytest.raises(UserError, match=r"protocol\.compile: torch\.compile cannot compile this model") as refused:
        _fit(ToyNet(), tmp_path, compile=True)
    assert "no kernel for this" in str(refused.value)


def test_training_is_not_compiled_unless_written(monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError("compiled")

    monkeypatch.setattr(torch, "compile", never)
    assert isinstance(_fit(ToyNet(), None).final, dict)
