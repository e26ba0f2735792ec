from __future__ import annotations

import argparse
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from search_spaces.exceptions import UserError
from trainables.checkpoint_files import TORCH_SUFFIXES, read_safetensors, read_state_dict
from trainables.hashing import file_sha256


class Payload:
    """What a hostile pickle would do: leave a file behind when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.path, "ran")


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    return {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.tensor([1.0, -2.0]), "n": torch.tensor(7)}


def _same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


@pytest.mark.parametrize("suffix", TORCH_SUFFIXES)
@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files(tmp_path: Path, tensors, suffix: str, zipped: bool) -> None:
    path = tmp_path / f"weights{suffix}"
    torch.save(tensors, path, _use_new_zipfile_serialization=zipped)
    assert _same(read_state_dict(path), tensors)


def test_safetensors_with_metadata(tmp_path: Path, tensors) -> None:
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(tensors, path, metadata={"head": "[]"})
    assert _same(read_state_dict(path), tensors)
    assert read_safetensors(path)[1] == {"head": "[]"}


def test_npz_of_plain_arrays(tmp_path: Path, tensors) -> None:
    path = tmp_path / "weights.npz"
    np.savez(path, **{k: v.numpy() for k, v in tensors.items()})
    assert _same(read_state_dict(path), tensors)


@pytest.mark.parametrize(
    ("wrap", "state_key"),
    [
        (lambda t: {"state_dict": t, "epoch": 3}, None),
        (lambda t: {"state_dict": t, "epoch": 3}, "state_dict"),
        (lambda t: {"args": argparse.Namespace(lr=0.1), "model": t}, None),
        (lambda t: {"model": t, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": []}}, None),
        (lambda t: {"classy": {"base": {"model": {"trunk": t, "heads": {}}}}}, None),
        (lambda t: {"classy": {"base": {"model": {"trunk": t, "heads": {}}}}}, "classy.base.model.trunk"),
        (lambda t: {"student": {"x.weight": torch.ones(1)}, "teacher": t}, "teacher"),
        (lambda t: {"net.ema": t, "net": {"x.weight": torch.ones(1)}}, "net.ema"),
        (lambda t: {**t, "epoch": 3, "nested": {"x.weight": torch.ones(1)}}, None),
    ],
)
def test_state_dict_is_found(tmp_path: Path, tensors, wrap, state_key: str | None) -> None:
    path = tmp_path / "weights.pth"
    torch.save(wrap(tensors), path)
    assert _same(read_state_dict(path, state_key), tensors)


@pytest.mark.parametrize(
    ("content", "state_key", "message"),
    [
        ({"student": {"a.weight": torch.ones(1)}, "teacher": {"a.weight": torch.ones(1)}}, None,
         r"several state dicts; choose one by state_key: student \(1 tensors\), teacher \(1 tensors\)"),
        ({"model": {"a.weight": torch.ones(1)}}, "state_dict",
         r"no tensors under state_key 'state_dict'; state dicts found: model \(1 tensors\)"),
        ({"a.weight": torch.ones(1)}, "model", r"leave state_key out for the top level"),
        ({"epoch": 3, "loss": 0.1}, None, r"holds no state dict .*got: epoch, loss"),
        ([1, 2], None, r"holds no state dict .*got: list"),
    ],
)  # fmt: skip
def test_state_dict_that_is_not_found(tmp_path: Path, content, state_key, message: str) -> None:
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    with pytest.raises(UserError, match=message):
        read_state_dict(path, state_key)


def test_no_state_key_in_flat_formats(tmp_path: Path, tensors) -> None:
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(tensors, path)
    with pytest.raises(UserError, match="is flat: leave state_key"):
        read_state_dict(path, "model")


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_is_not_run(tmp_path: Path, tensors, zipped: bool) -> None:
    path, trace = tmp_path / "weights.pth", tmp_path / "trace"
    torch.save({"state_dict": tensors, "extra": Payload(trace)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=r"holds more than weights: reading it would need .*convert it once"):
        read_state_dict(path)
    assert not trace.exists()


def test_whole_model_names_what_it_needs(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save(torch.nn.Linear(2, 2), path)
    with pytest.raises(UserError, match=r"torch\.nn\.modules\.linear\.Linear"):
        read_state_dict(path)


@pytest.mark.parametrize("kind", ["pth", "legacy.pth", "safetensors", "npz"])
@pytest.mark.parametrize("kept", [0.02, 0.5, 0.98])
def test_cut_off_files(tmp_path: Path, kind: str, kept: float) -> None:
    path = tmp_path / f"weights.{kind}"
    tensors = {f"layer{i}.weight": torch.randn(40, 40) for i in range(5)}
    if kind == "safetensors":
        safetensors.torch.save_file(tensors, path)
    elif kind == "npz":
        np.savez(path, **{k: v.numpy() for k, v in tensors.items()})
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization="legacy" not in kind)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(UserError, match=f"{re.escape(str(path))} .*damaged"):
        read_state_dict(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>", "is a web page"),
        (b"\n  <html><body>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "is a git-lfs pointer"),
        (b"\xef\xbb\xbf<head><title>Sign in", "is a web page"),
        (b"not a checkpoint at all" * 30, "is text, not weights; it starts with 'not a checkpoint"),
        (b"\x00\x9c no checkpoint either" * 30, "damaged"),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".npz"])
def test_downloads_that_went_wrong(tmp_path: Path, suffix: str, content: bytes, message: str) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_state_dict(path)


def _array(path: Path) -> None:
    with path.open("wb") as stream:
        np.save(stream, np.zeros(3))


def _other_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.pkl", b"1234")


def _bad_stream(path: Path) -> None:
    with path.open("wb") as stream:
        np.savez_compressed(stream, weight=np.arange(4000.0))
    whole = bytearray(path.read_bytes())
    whole[200:260] = bytes(60)
    path.write_bytes(whole)


@pytest.mark.parametrize(
    ("suffix", "write"),
    [
        (".npz", _array),
        (".npz", _other_zip),
        (".npz", _bad_stream),
        (".pth", lambda path: path.write_bytes(b"Rar!\x1a\x07\x00" + bytes(range(200)))),
        (".pth", lambda path: path.write_bytes(b"RIFF\x24\x00\x00\x00WEBPVP8 " + bytes(200))),
        (".pth", lambda path: path.write_bytes(b".\x00\x01" + bytes(100))),
        (".pth", _array),
    ],
)
def test_files_of_another_kind_are_refused(tmp_path: Path, suffix: str, write: Callable[[Path], object]) -> None:
    path = tmp_path / f"weights{suffix}"
    write(path)
    with pytest.raises(UserError, match=re.escape(str(path))):
        read_state_dict(path)


def test_missing_file_folder_and_unknown_type(tmp_path: Path) -> None:
    (tmp_path / "folder.pth").mkdir()
    with pytest.raises(UserError, match="does not exist"):
        read_state_dict(tmp_path / "none.pth")
    with pytest.raises(UserError, match="cannot be read"):
        read_state_dict(tmp_path / "folder.pth")
    with pytest.raises(UserError, match=r"unknown file type '\.h5'"):
        read_state_dict(tmp_path / "weights.h5")


def test_pickled_arrays_are_not_read(tmp_path: Path) -> None:
    path, trace = tmp_path / "weights.npz", tmp_path / "trace"
    np.savez(path, a=np.array([Payload(trace)], dtype=object))
    with pytest.raises(UserError, match="plain arrays"):
        read_state_dict(path)
    assert not trace.exists()


def test_hash_is_of_the_content_and_follows_changes(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(b"one")
    assert file_sha256(path) == "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"
    path.write_bytes(b"three")
    assert file_sha256(path) == "8b5b9db0c13db24256c829aa364aa90c6d2eba318b9232a4ab9313b954d3555f"
    with pytest.raises(UserError, match=r"sources\.natural: file .*none\.pth does not exist; .*holds weights\.pth"):
        file_sha256(tmp_path / "none.pth", "sources.natural")
