"""timm's real loading code, over a Hugging Face cache on disk that holds weights made here, without network."""

from __future__ import annotations

import http.server
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import ClassVar

import pytest
import safetensors.torch
import timm
import torch
from huggingface_hub import constants

from search_spaces.exceptions import UserError
from search_spaces.study import Normalisation, TimmSource
from search_spaces.trial import ResolvedScale, ResolvedSource
from trainables.factories import find_factory
from trainables.hashing import file_sha256
from trainables.models import build_model, scale_card
from trainables.sources import Receipt, initialise
from trainables.timm_files import LOCAL_VARIABLE, with_local_files
from trainables.timm_weights import fetch_pretrained, published_weights


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache that is never filled from the network."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def _put(cache: Path, name: str, state: dict[str, torch.Tensor]) -> None:
    folder = cache / f"models--timm--{name}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("c0ffee")
    snapshot = folder / "snapshots" / "c0ffee"
    snapshot.mkdir(parents=True)
    safetensors.torch.save_file(state, snapshot / "model.safetensors")


def _state(name: str, **keywords) -> dict[str, torch.Tensor]:
    torch.manual_seed(11)
    state = timm.create_model(name, **keywords).state_dict()
    return {n: torch.rand(t.shape) + 0.1 if t.is_floating_point() else t for n, t in state.items()}


def _load(factory: str, tag: str, size: int = 64, content: str | None = None) -> tuple[torch.nn.Module, Receipt]:
    scale = ResolvedScale(name="it", factory=factory, input_size=size)
    built = build_model(scale, 3, seed=0)
    source = ResolvedSource(
        name="timm", weights=TimmSource(timm=tag), content=content, normalise=Normalisation.model_validate("imagenet")
    )
    return built.module, initialise(built, source, lambda _: Path("never"), seed=0)


@pytest.mark.parametrize(("factory", "tag"), [("resnet10t", "c3_in1k"), ("timm:resnet10t", "default")])
def test_weights_from_the_cache(cache: Path, factory: str, tag: str) -> None:
    state = _state("resnet10t")
    _put(cache, "resnet10t.c3_in1k", state)
    module, receipt = _load(factory, tag, content="resnet10t.c3_in1k@timm/resnet10t.c3_in1k")
    loaded = module.state_dict()
    assert all(torch.equal(loaded[n], state[n]) for n in loaded if not n.startswith("fc."))
    assert receipt.form == "timm"
    assert receipt.matched_tensors == receipt.backbone_tensors == len(loaded) - 2
    assert receipt.dropped == ("fc.bias", "fc.weight")


def test_missing_stage_is_refused(cache: Path) -> None:
    """With another number of classes timm itself loads such a file without an error."""
    state = {n: t for n, t in _state("resnet10t").items() if not n.startswith("layer4.")}
    _put(cache, "resnet10t.c3_in1k", state)
    timm.create_model("resnet10t.c3_in1k", pretrained=True, num_classes=3)
    with pytest.raises(UserError, match=r"do not fit its model: (?s:.)*layer4"):
        _load("resnet10t", "c3_in1k")


def test_model_that_timm_loads_leniently_is_checked_all_the_same(cache: Path) -> None:
    """timm asks for no strictness for ConvNeXt V2's FCMAE weights, whatever the number of classes."""
    name = "convnextv2_atto.fcmae"
    state = {n: t for n, t in _state("convnextv2_atto", num_classes=0).items() if not n.startswith("stages.3.")}
    _put(cache, name, state)
    timm.create_model(name, pretrained=True)
    with pytest.raises(UserError, match=r"leave \d+ tensors unset: stages\.3\."):
        _load("convnextv2_atto", "fcmae", size=64)


def test_position_embeddings_are_resampled_by_timm(cache: Path) -> None:
    state = _state("vit_tiny_patch16_224", num_classes=21843)
    _put(cache, "vit_tiny_patch16_224.augreg_in21k", state)
    module, receipt = _load("vit_tiny_patch16_224", "augreg_in21k", size=48)
    assert module.pos_embed.shape[1] == 10
    assert receipt.matched_tensors == receipt.backbone_tensors
    assert torch.equal(module.state_dict()["blocks.0.attn.qkv.weight"], state["blocks.0.attn.qkv.weight"])


def test_empty_cache_without_network_says_what_to_do(cache: Path) -> None:
    with pytest.raises(UserError, match=r"could not be fetched from timm/resnet10t\.c3_in1k .*HF_HOME.*\{file: "):
        _load("resnet10t", "c3_in1k")


def test_unknown_tag(cache: Path) -> None:
    with pytest.raises(
        UserError, match=r"unknown pretrained tag of timm's resnet10t 'c3_in1kk'.*Did you mean 'c3_in1k'"
    ):
        _load("resnet10t", "c3_in1kk")


def test_timm_is_left_as_it_was(cache: Path) -> None:
    from timm.models import _builder

    original = _builder.load_pretrained
    with pytest.raises(UserError):
        fetch_pretrained(find_factory("resnet10t"), "c3_in1k", {}, 64)
    assert _builder.load_pretrained is original


def test_published_weights() -> None:
    assert published_weights(find_factory("coatnet_0_224")) == ({}, {})
    scaling, revision = published_weights(find_factory("resnet10t"))
    assert scaling.keys() == revision.keys() >= {"default", "c3_in1k"}


def test_weights_from_a_folder(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = _state("resnet10t")
    folder = tmp_path / "mirror"
    (folder / "resnet10t.c3_in1k").mkdir(parents=True)
    safetensors.torch.save_file(state, folder / "resnet10t.c3_in1k" / "model.safetensors")
    monkeypatch.setenv(LOCAL_VARIABLE, str(folder))
    for factory, tag in (("resnet10t", "c3_in1k"), ("resnet10t", "default")):
        module, receipt = _load(factory, tag)
        assert torch.equal(module.state_dict()["conv1.0.weight"], state["conv1.0.weight"])
        assert receipt.matched_tensors == receipt.backbone_tensors
    cut = {n: t for n, t in state.items() if not n.startswith("layer4.")}
    (folder / "resnet10t.c3_in1k" / "model.safetensors").unlink()
    torch.save(cut, folder / "resnet10t.c3_in1k.pth")
    with pytest.raises(UserError, match=r"do not fit its model: (?s:.)*layer4"):
        _load("resnet10t", "c3_in1k")
    monkeypatch.setenv(LOCAL_VARIABLE, str(tmp_path / "elsewhere"))
    with pytest.raises(UserError, match="elsewhere, which is no folder"):
        _load("resnet10t", "c3_in1k")


def test_local_files_are_told_from_the_hub_s_weights_and_from_each_other(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, of_the_hub = _state("resnet10t"), scale_card("resnet10t")
    _put(cache, "resnet10t.c3_in1k", state)
    monkeypatch.delenv(LOCAL_VARIABLE, raising=False)
    assert with_local_files(of_the_hub) == of_the_hub
    file = tmp_path / "mirror" / "resnet10t.c3_in1k.pth"
    file.parent.mkdir()
    torch.save(state, file)
    monkeypatch.setenv(LOCAL_VARIABLE, str(file.parent))
    card = with_local_files(of_the_hub)
    assert (card.normalise, card.input_size) == (of_the_hub.normalise, of_the_hub.input_size)
    assert card.revision is not None
    content = card.revision["c3_in1k"]
    assert content == card.revision["default"] == f"resnet10t.c3_in1k@sha256:{file_sha256(file)}"
    _, receipt = _load("resnet10t", "c3_in1k", content=content)
    assert (receipt.content, receipt.file) == (content, file.name)
    assert of_the_hub.revision is not None
    refusal = "when the study was planned, here they are"
    with pytest.raises(UserError, match=refusal):
        _load("resnet10t", "c3_in1k", content=of_the_hub.revision["c3_in1k"])
    torch.save({n: t + 1 for n, t in state.items()}, file)
    with pytest.raises(UserError, match=refusal):
        _load("resnet10t", "c3_in1k", content=content)
    monkeypatch.delenv(LOCAL_VARIABLE)
    with pytest.raises(UserError, match=refusal):
        _load("resnet10t", "c3_in1k", content=content)
    _, receipt = _load("resnet10t", "c3_in1k", content=of_the_hub.revision["c3_in1k"])
    assert receipt.file is None


class _Hub(http.server.BaseHTTPRequestHandler):
    """As much of a Hugging Face server as one file needs."""

    content = b""
    asked: ClassVar[list[str]] = []

    def do_HEAD(self) -> None:
        self._answer(b"")

    def do_GET(self) -> None:
        self._answer(self.content)

    def _answer(self, body: bytes) -> None:
        self.asked.append(self.path)
        found = self.path.startswith("/timm/resnet10t.c3_in1k/resolve/main/model.safetensors")
        self.send_response(200 if found else 404)
        self.send_header("Content-Length", str(len(self.content)) if found else "0")
        self.send_header("ETag", '"c0ffee"')
        self.send_header("X-Repo-Commit", "c0ffee")
        self.end_headers()
        self.wfile.write(body if found else b"")

    def log_message(self, *_: object) -> None: ...


def test_weights_from_a_mirror(tmp_path: Path) -> None:
    """HF_ENDPOINT is read when its library is imported, so a fresh process asks for the weights."""
    safetensors.torch.save_file(_state("resnet10t"), tmp_path / "net.safetensors")
    _Hub.content = (tmp_path / "net.safetensors").read_bytes()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    code = (
        "from trainables.factories import find_factory; from trainables.timm_weights import fetch_pretrained;"
        "print(len(fetch_pretrained(find_factory('resnet10t'), 'c3_in1k', {}, 64)))"
    )
    address = f"http://127.0.0.1:{server.server_address[1]}"
    environment = {**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
    environment |= {"HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    try:
        ran = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    finally:
        server.shutdown()
        server.server_close()
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert ran.stdout.split()[-1] == str(len(_state("resnet10t")))
    assert _Hub.asked
